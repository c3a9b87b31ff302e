// Launchers of our own kernels; see backend/cuda/command.hpp for what each computes. They only enqueue.
#pragma once

#include "backend/cuda/command.hpp"

struct CUstream_st;  // cudaStream_t without CUDA's headers

namespace moesim::backend::gpu {

using Stream = CUstream_st*;

void launch(const MoveRows& c, Stream stream);
void launch(const Embed& c, Stream stream);
void launch(const LastCall& c, Stream stream);
void launch(const Normalize& c, Stream stream);
void launch(const Sum& c, Stream stream);
void launch(const ActivateCall& c, Stream stream);
void launch(const CastCall& c, Stream stream);
void launch(const Quantize& c, Stream stream);
void launch(const Gate& c, Stream stream);
void launch(const Attend& c, Stream stream);
void launch(const Rotate& c, Stream stream);
void launch(const StoreKeys& c, Stream stream);
void launch(const RotateLatent& c, Stream stream);
void launch(const Fill& c, Stream stream);
void launch(const Nothing& c, Stream stream);
void launch(const NormGradient& c, Stream stream);
void launch(const ActivationGradientCall& c, Stream stream);
void launch(const CrossEntropy& c, Stream stream);
void launch(const GateWeights& c, Stream stream);
void launch(const GateGradient& c, Stream stream);
void launch(const CombineGradient& c, Stream stream);
void launch(const AttendGradient& c, Stream stream);
void launch(const AdamStep& c, Stream stream);
void launch(const StartState& c, Stream stream);

}  // namespace moesim::backend::gpu
