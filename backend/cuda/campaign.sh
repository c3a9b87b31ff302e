#!/usr/bin/env bash
# Tests, sanitizer, and the strategy matrix predicted against measured, on the GPUs of this machine; one archive of results.
#   backend/cuda/campaign.sh [OUT]     default: build/campaign
set -uo pipefail
cd "$(dirname "$0")/../.."
out=$(realpath -m "${1:-build/campaign}")
build=build/cuda
moesim=$build/cli/moesim
mkdir -p "$out"
failed=0

# step NAME COMMAND...: runs it, keeps what it says, and goes on.
step() {
  local name=$1 begun=$SECONDS status=0
  shift
  "$@" >"$out/$name.txt" 2>&1 || status=$?
  printf '%-40s %s (%d s)\n' "$name" "$([ $status -eq 0 ] && echo ok || echo "exit $status")" $((SECONDS - begun)) | tee -a "$out/summary.txt"
  [ $status -eq 0 ] || failed=1
  return $status
}

: >"$out/summary.txt"
{ date -u; git rev-parse HEAD; git status --short; uname -a; nvidia-smi; nvcc --version; } >"$out/versions.txt" 2>&1

step build sh -c "cmake --preset cuda && cmake --build --preset cuda -- --quiet" || exit 1
# Skipped is not passed: without a GPU there is nothing to measure.
step gpu_tests "$build/tests/backend/cuda/test_gpu" || { echo "no GPU, or a kernel is wrong: see $out/gpu_tests.txt" >&2; exit 1; }
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    step "sanitizer_$tool" timeout 180 compute-sanitizer --tool $tool --error-exitcode 1 "$build/tests/backend/cuda/test_gpu"
  done
else
  echo "compute-sanitizer is not installed: not run" | tee -a "$out/summary.txt"
fi

for scenario in scenarios/cuda_*.toml; do
  name=$(basename "$scenario" .toml)
  step "$name.simulate" "$moesim" simulate "$scenario" --out "$out/$name.predicted"
  step "$name.run" "$moesim" run "$scenario" --backend cuda --warmup 3 --repeat 20 --out "$out/$name.measured" || continue
  step "$name.compare" "$moesim" compare "$out/$name.predicted" "$out/$name.measured" --by strategy
done

tar -C "$(dirname "$out")" -czf "$out.tar.gz" "$(basename "$out")"
echo "results: $out.tar.gz"
exit $failed
