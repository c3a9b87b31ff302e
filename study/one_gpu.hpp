// The prediction of a run with virtual ranks: all ranks of a plan on one GPU, ops one at a time, collectives as copies
// (docs/cuda.md, "Ranks"). What `run --backend cuda` measures where there are fewer GPUs than ranks.
#pragma once

#include "models/cost/kernel_model.hpp"
#include "moesim/timeline.hpp"
#include "study/resolve.hpp"

namespace moesim::study {

// A host thread issues every launch (Gpu::launch each) and the GPU carries them out one after the other; an op's
// duration is what two time stamps around it see. Durations are composed as measured ones are. Kernels cost what they
// cost the simulator; a copy or sum of a collective streams its bytes.
Timeline predict_on_one_gpu(const Plan& plan, const Setup& setup, const cost::KernelModel& kernels);

}  // namespace moesim::study
