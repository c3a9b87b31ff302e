#!/usr/bin/env bash
# Everything that needs a GPU, in under ten minutes: tests, sanitizer, kernel benchmarks, calibration, and the strategy
# matrix predicted and measured. Leaves one archive. docs/cuda.md, "On a machine with GPUs".
#   campaign.sh [--build DIR] [--only STEPS] [OUT]     on the machine with the GPU; OUT: build/campaign
#     STEPS: of tests,kernels,calibrate,matrix,sanitizer, with commas; a first call with `--only tests` takes a minute
#     MOESIM_CAMPAIGN_SECONDS: what all of it may take (520); MOESIM_CAMPAIGN_RUN_SECONDS: what one scenario's run may (75)
#   campaign.sh --pack KIT.tar.gz       on a machine with the toolkit: what a bare machine with a GPU needs
# A kit holds this script beside bin/, lib/ and share/: unpack it there and run ./campaign.sh. CUDA's libraries are not in
# it: they come from the toolkit, or from the Python wheels nvidia-cublas and nvidia-nccl-cu13.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)

if [ "${1:-}" = --pack ]; then
  kit=$(realpath -m "${2:?--pack needs the name of the archive to write}")
  cd "$here/../.." || exit 2
  set -e
  cmake --preset cuda
  cmake --build --preset cuda --target moesim moesim_cuda test_gpu -- --quiet
  stage=$(mktemp -d)
  trap 'rm -rf "$stage"' EXIT
  root=$stage/moesim_cuda_campaign
  DESTDIR='' cmake --install build/cuda --prefix "$root" >/dev/null
  cp build/cuda/tests/backend/cuda/test_gpu "$root/bin/"
  cp backend/cuda/campaign.sh "$root/"
  mkdir -p "$root/lib"
  # Libraries of the system that a bare machine may lack; not the C library, which has to be the machine's own.
  ldd "$root/bin/moesim" "$root/bin/test_gpu" | awk '$3 ~ /^\// {print $3}' | sort -u |
    grep -Ev '/(libc|libm|libdl|librt|libpthread|ld-linux[^/]*)\.so' | xargs -I{} cp -L {} "$root/lib/"
  { git rev-parse HEAD; git status --short; cmake --version | head -1; nvcc --version 2>/dev/null | tail -2; ldd --version | head -1; } \
    >"$root/built.txt"
  mkdir -p "$(dirname "$kit")"
  tar -C "$stage" -czf "$kit.part" moesim_cuda_campaign
  mv "$kit.part" "$kit"
  echo "kit: $kit ($(du -h "$kit" | cut -f1))"
  exit 0
fi

build=
only=tests,kernels,calibrate,matrix,sanitizer
while [[ "${1:-}" == --* ]]; do
  case $1 in
  --build) build=$(realpath "${2:?--build needs the folder of a build}") || exit 2 ;;
  --only) only=${2:?--only needs names of steps} ;;
  *)
    echo "campaign: there is no option $1 (there are --pack, --build and --only)" >&2
    exit 2
    ;;
  esac
  shift 2
done
for name in ${only//,/ }; do
  case $name in
  tests | kernels | calibrate | matrix | sanitizer) ;;
  *)
    echo "campaign: there is no step '$name' (there are tests, kernels, calibrate, matrix and sanitizer)" >&2
    exit 2
    ;;
  esac
done
wanted() { [[ ",$only," == *,"$1",* ]]; }

if [ -x "$here/bin/moesim" ]; then
  kit=yes
  top=$here
  moesim=$here/bin/moesim
  test_gpu=$here/bin/test_gpu
  scenarios=$here/share/moesim/scenarios
  export MOESIM_MODULES=$here/lib/moesim
  libraries=$here/lib
else
  kit=no
  top=$(cd "$here/../.." && pwd)
  build=${build:-$top/build/cuda}
  moesim=$build/cli/moesim
  test_gpu=$build/tests/backend/cuda/test_gpu
  scenarios=$top/scenarios
  export MOESIM_MODULES=$build/cli
  libraries=
fi
out=$(realpath -m "${1:-$top/build/campaign}")
budget=${MOESIM_CAMPAIGN_SECONDS:-520}
mkdir -p "$out" || exit 2

# CUDA's libraries from Python wheels, after those of the system.
wheels=$(python3 -c 'import glob, nvidia; print(":".join(d for p in nvidia.__path__ for d in sorted(glob.glob(p + "/*/lib"))))' 2>/dev/null)
# For our programs only: a kit's libraries are older than those that the system's tools want.
with_libraries=(env "LD_LIBRARY_PATH=${libraries:+$libraries:}${LD_LIBRARY_PATH:-}${wheels:+:$wheels}")

failed=0
# step NAME LIMIT COMMAND...: runs it for LIMIT seconds at most, and no longer than the budget lasts; keeps what it says,
# and goes on.
step() {
  local name=$1 limit=$2 begun=$SECONDS status=0 left=$((budget - SECONDS))
  shift 2
  if [ $left -lt 5 ]; then
    status=124
    echo "not run: the campaign's $budget seconds are over" >"$out/$name.txt"
  else
    # An interrupt ends a measurement with what there is by then.
    timeout --signal=INT --kill-after=20 $((limit < left ? limit : left)) "$@" >"$out/$name.txt" 2>&1 || status=$?
  fi
  local word=ok
  [ $status -eq 0 ] || word="exit $status"
  [ $status -ne 124 ] || word="out of time"
  printf '%-44s %-12s %4d s\n' "$name" "$word" $((SECONDS - begun)) | tee -a "$out/summary.txt"
  [ $status -eq 0 ] || failed=1
  return $status
}
finish() {
  tar -C "$(dirname "$out")" -czf "$out.tar.gz" "$(basename "$out")" && echo "results: $out.tar.gz"
  exit "$1"
}

: >"$out/summary.txt"
{
  date -u
  cat "$top/built.txt" 2>/dev/null || { git -C "$top" rev-parse HEAD; git -C "$top" status --short; }
  uname -a
  nvidia-smi
  nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,ecc.mode.current --format=csv
  nvidia-smi topo -m
  nvcc --version
  command -v nvidia-smi >/dev/null && python3 -m pip list 2>/dev/null | grep -i -E 'nvidia|torch'
} >"$out/versions.txt" 2>&1

if [ $kit = no ] && [ ! -x "$test_gpu" ]; then
  (cd "$top" && step build 600 sh -c "cmake --preset cuda && cmake --build --preset cuda --target moesim moesim_cuda test_gpu -- --quiet") || {
    echo "campaign: it does not build here (see $out/build.txt); make a kit elsewhere with $0 --pack" >&2
    finish 2
  }
fi

# Skipped is not passed: without a GPU there is nothing to measure. Where results are wrong the rest is measured all the
# same, since a machine may be lent only once; the summary says so.
if wanted tests; then
  status=0
  step gpu_tests 150 "${with_libraries[@]}" "$test_gpu" --duration=true || status=$?
  if [ $status -eq 77 ]; then
    echo "campaign: nothing is measured here, $(sed -n 's/^skipped: //p' "$out/gpu_tests.txt")" >&2
    exit 3
  fi
  [ $status -eq 0 ] ||
    echo "campaign: the GPU's results are wrong or it fails: times of wrong results say nothing; see $out/gpu_tests.txt" |
    tee -a "$out/summary.txt" >&2
fi

run=("${with_libraries[@]}" "$moesim")
if wanted kernels; then step kernels 60 "${run[@]}" bench kernels; fi
if wanted calibrate; then step calibrate 150 "${run[@]}" calibrate --backend cuda --samples "$out/samples" -o "$out/this.fit.toml"; fi
fits=()
[ -s "$out/this.fit.toml" ] && fits=(--machine "$out/this.fit.toml")

# The scenarios are written for H200s; this GPU may have another machine file.
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1)
machine=
[ $SECONDS -ge "$budget" ] || machine=$(timeout 10 "${run[@]}" list machines 2>/dev/null | awk -v gpu="$gpu" 'gpu != "" && index($0, gpu) {print $1; exit}')
# Small scenarios first. What a scenario has measured by its limit is compared.
matrix() {
  local shipped name scenario repeat status virtual
  mkdir -p "$out/scenarios"
  for shipped in "$scenarios"/cuda_mixtral_*.toml "$scenarios"/cuda_training.toml "$scenarios"/cuda_deepseek_*.toml; do
    name=$(basename "$shipped" .toml)
    scenario=$out/scenarios/$name.toml
    sed "s/^machine = .*/machine = \"${machine:-h200_sxm}\"/" "$shipped" >"$scenario"
    repeat=10
    [[ $name != *deepseek* ]] || repeat=5
    status=0
    step "$name.run" "${MOESIM_CAMPAIGN_RUN_SECONDS:-75}" "${run[@]}" run "$scenario" --backend cuda --warmup 2 --repeat $repeat --out "$out/$name.measured" || status=$?
    [ $status -eq 0 ] || { [ $status -eq 124 ] && [ -e "$out/$name.measured/report.json" ]; } || continue
    # Ranks that shared a GPU are predicted as such: docs/cuda.md, "Ranks".
    virtual=()
    ! grep -q '"kind":"measured_virtual_ranks"' "$out/$name.measured"/*.timeline.json 2>/dev/null || virtual=(--virtual-ranks)
    step "$name.predict" 30 "${run[@]}" simulate "$scenario" "${fits[@]}" "${virtual[@]}" --out "$out/$name.predicted" || continue
    # Attention is not comparable yet.
    step "$name.compare" 20 "${run[@]}" compare "$out/$name.predicted" "$out/$name.measured" --judge moe-layer --common
    grep '^MoE layers' "$out/$name.compare.txt" | tee -a "$out/summary.txt"
  done
}
if wanted matrix; then matrix; fi

# Last, because it takes what is left; kernels and products, not the strategies, which take a sanitizer minutes.
if ! wanted sanitizer; then
  :
elif command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck synccheck; do
    step "sanitizer_$tool" 120 compute-sanitizer --tool $tool --target-processes all --error-exitcode 9 \
      "${with_libraries[@]}" "$test_gpu" -tce="virtual ranks*"
  done
else
  echo "compute-sanitizer is not installed: not run" | tee -a "$out/summary.txt"
fi
finish $failed
