// SPDX-License-Identifier: Apache-2.0
#include "sr_engine/cpu_kernels.h"

extern const struct cpu_kernels cpu_kernels_base;
#if ISOSLICE_CPU_VARIANTS
extern const struct cpu_kernels cpu_kernels_v3, cpu_kernels_v4;
#endif

const struct cpu_kernels *cpu_kernels_best(void)
{
#if ISOSLICE_CPU_VARIANTS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return &cpu_kernels_v4;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
        return &cpu_kernels_v3;
#endif
    return &cpu_kernels_base;
}
