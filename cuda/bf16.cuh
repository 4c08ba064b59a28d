// SPDX-License-Identifier: Apache-2.0
//
// bfloat16 as functions of host and device: the upper half of a float, 8 bits of mantissa with the hidden
// one, fp32's range. A value is rounded to the nearest when stored, ties to even, and computed with as a
// float; the host's arithmetic gives the same bits as the device's conversion.

#ifndef ISOSLICE_CUDA_BF16_CUH
#define ISOSLICE_CUDA_BF16_CUH

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#    include <cuda_bf16.h>
#    define HOST_DEVICE __host__ __device__
#else
#    define HOST_DEVICE
#endif

struct bf16 {
    uint16_t bits;

    bf16() = default;
    HOST_DEVICE bf16(float x)
    {
#ifdef __CUDA_ARCH__
        bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
#else
        uint32_t whole;
        memcpy(&whole, &x, sizeof whole);
        if ((whole & 0x7fffffffU) > 0x7f800000U)
            bits = 0x7fff; // not a number, as the device writes it
        else
            bits = (uint16_t)((whole + 0x7fffU + (whole >> 16 & 1)) >> 16);
#endif
    }
    HOST_DEVICE operator float() const
    {
#ifdef __CUDA_ARCH__
        return __uint_as_float((unsigned)bits << 16);
#else
        uint32_t whole = (uint32_t)bits << 16;
        float x;
        memcpy(&x, &whole, sizeof x);
        return x;
#endif
    }
};
static_assert(sizeof(bf16) == 2, "the libraries read it");

// Values side by side that are read and written at once.
template <class T, int n> struct alignas(sizeof(T) * n) lanes {
    T at[n];
};
typedef lanes<bf16, 8> eight;

#endif
