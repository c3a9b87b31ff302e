#pragma once

#include "tests/backend/cuda/emulator/cuda_runtime_api.h"
