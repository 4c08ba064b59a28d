// SPDX-License-Identifier: Apache-2.0
//
// What a compute backend does: one table of coarse operations over opaque device buffers, in the order of one
// queue. Model code is written against this table alone and holds no backend #ifdef. Fillers: ops_ref.c
// (naive loops, the definition of truth), ops_cpu.c (Winograd convolutions), cuda/. Not here: what is
// computed when (model.h), files.
//
// Rules for every filler. Work is queued in the order of the calls; only download() and synchronize() wait.
// Nothing reads device memory on the host inside a training step, so a step may be captured as a graph and
// replayed: what changes from step to step comes in by value (cuts, the optimiser's scalars). Results are
// repeatable bit for bit for the same device and thread count. A failed call leaves outputs unspecified;
// errors that a device reports late come out of the next call that waits. Errors of every call that returns
// int: NO_MEMORY, DEVICE, INTERNAL unless said otherwise.

#ifndef ISOSLICE_SR_ENGINE_OPS_H
#define ISOSLICE_SR_ENGINE_OPS_H

#include "core/fault.h"
#include "sr_engine/net.h"

#include <stddef.h>

struct sr_device; // a backend's queue, caches and scratch memory
struct sr_buffer; // memory on the device

// Extent of a batch of stacks: n stacks of d slices of h rows and w columns. Plain arrays are {1, 1, 1,
// count}.
struct sr_extent {
    int n, d, h, w;
};

// One decoded plane as floats in a buffer of extent {1, 1, n_planes, SR_PLANE_FLOATS}: which stack of the
// batch, which slice i, and the share t of the way from slice i to slice i + 1 (clamped to the last). Planes
// of one stack and slice that stand together share work.
enum { SR_PLANE_STACK, SR_PLANE_SLICE, SR_PLANE_T, SR_PLANE_FLOATS };

// The part of a plane to decode.
struct sr_window {
    int row, column; // first
    int rows, columns;
};

enum { SR_CUT_MAX_SLICES = 32 };

// One training sample, cut from a resident volume: a box in which `axis` plays the network's slice axis,
// blurred along it and decimated. Of the other two axes the one that is later in [D,H,W] gives the columns,
// the other the rows.
struct sr_cut {
    int axis;        // 0 slices, 1 rows or 2 columns of the volume
    int first;       // index along `axis` of the first retained slice
    int factor;      // distance of retained slices, voxels
    float fwhm;      // of the Gaussian profile along `axis`, voxels; 0: none
    int row, column; // first voxel of the box on the sample's row and column axis
    int flip_slices, flip_rows, flip_columns;
    unsigned char position[SR_CUT_MAX_SLICES][8]; // [gap][target]: voxels past the retained slice, 0..factor
};

// Adam's scalars of one step. Source: Kingma and Ba, arXiv 1412.6980, algorithm 1, as torch.optim.Adam.
struct sr_adam {
    float rate, beta1, beta2, epsilon;
    int step;     // from 1
    size_t first; // parameters before this one stay as they are
};

enum {
    SR_CONV_RELU = 1,   // forward: y = relu(...)
    SR_CONV_ADD = 2,    // forward: y += ...; backward: dx += ...
    SR_CONV_MASK_X = 4, // backward: x came out of a ReLU, so dx is zero where x is
};

struct sr_ops {
    const char *name; // "ref", "cpu", "cuda", "cuda16"

    // 1 when the backend can work on this machine; otherwise 0 and why (BACKEND) with a sentence.
    int (*usable)(struct fault_note *why);

    // Opens a device for one network. threads: 0 means all processors allowed to this process.
    // Owner: *device is the caller's (close). `net` is copied.
    int (*open)(const struct net *net, int threads, struct sr_device **device, struct fault_note *why);
    // NULL is fine. All buffers must have been freed.
    void (*close)(struct sr_device *device);
    // What computes, for logs: "cpu (oneDNN 2.6.3, 2 threads)".
    const char *(*describe)(const struct sr_device *device);

    // A zeroed buffer of `channels` values a voxel. With channels > 1 the layout is the backend's own; with 1
    // it is [N,D,H,W]. Owner: *buffer is the caller's.
    int (*buffer_new)(struct sr_device *device, struct sr_extent extent, int channels,
                      struct sr_buffer **buffer, struct fault_note *why);
    void (*buffer_free)(struct sr_device *device, struct sr_buffer *buffer);
    // Most bytes of scratch memory that the device will hold, beyond buffers, to encode `encode` and decode
    // `n_queries` points at a time; `keep` as in decode.
    size_t (*scratch_bytes)(const struct sr_device *device, struct sr_extent encode, size_t n_queries,
                            int keep);

    // Whole buffers; host side is [N,C,D,H,W] floats, whatever the device's layout.
    int (*upload)(struct sr_device *device, struct sr_buffer *to, const float *from, struct fault_note *why);
    int (*download)(struct sr_device *device, const struct sr_buffer *from, float *to,
                    struct fault_note *why);
    int (*synchronize)(struct sr_device *device, struct fault_note *why);
    int (*zero)(struct sr_device *device, struct sr_buffer *to, struct fault_note *why);
    // Same extents and channels.
    int (*copy)(struct sr_device *device, struct sr_buffer *to, const struct sr_buffer *from,
                struct fault_note *why);
    // to += from
    int (*add)(struct sr_device *device, struct sr_buffer *to, const struct sr_buffer *from,
               struct fault_note *why);

    // The parameters (an arena, see net.h) have changed: repack what the other calls use. To be called once
    // after every change and before the next conv or decode.
    int (*prepare)(struct sr_device *device, const struct sr_buffer *parameters, struct fault_note *why);

    // Marks a training step; everything between the two calls is the same sequence over the same buffers each
    // time.
    int (*step_begin)(struct sr_device *device, struct fault_note *why);
    int (*step_end)(struct sr_device *device, struct fault_note *why);

    // Convolution `index` of the net over x [N,c_in,D,H,W] into y [N,c_out,D,H,W]: y = conv(x) + bias, then
    // with ADD += the old y, then with RELU the maximum with 0. x and y are different buffers.
    int (*conv_forward)(struct sr_device *device, int index, const struct sr_buffer *x, unsigned flags,
                        struct sr_buffer *y, struct fault_note *why);
    // Given dy: weight and bias gradients are *written* into their places in the arena `gradients`; dx (NULL:
    // not wanted, as for the head) is written, or with ADD added to; with MASK_X it is multiplied by x > 0.
    // dx and dy are different buffers.
    int (*conv_backward)(struct sr_device *device, int index, const struct sr_buffer *x,
                         const struct sr_buffer *dy, unsigned flags, struct sr_buffer *dx,
                         struct sr_buffer *gradients, struct fault_note *why);

    // The network's residual on the planes: slice interpolation of `features` [N,C,D,H,W], window attention,
    // MLP. y [n_planes,rows,columns] = residual, plus, when `stack` [N,1,D,H,W] is given, its linear
    // interpolation. With `keep` what the backward pass needs is kept until the next decode.
    int (*decode_forward)(struct sr_device *device, const struct sr_buffer *features,
                          const struct sr_buffer *stack, const struct sr_buffer *planes,
                          struct sr_window window, int keep, struct sr_buffer *y, struct fault_note *why);
    // After decode_forward with keep and the same arguments: writes dfeatures and the gradients of attention
    // and MLP. The key's bias has no effect on the result; its gradient is zero to rounding.
    int (*decode_backward)(struct sr_device *device, const struct sr_buffer *features,
                           const struct sr_buffer *planes, struct sr_window window,
                           const struct sr_buffer *dy, struct sr_buffer *dfeatures,
                           struct sr_buffer *gradients, struct fault_note *why);

    // dy = sign(y - target) / count; losses[index] = mean |y - target|, left on the device.
    int (*loss_l1)(struct sr_device *device, const struct sr_buffer *y, const struct sr_buffer *target,
                   struct sr_buffer *dy, struct sr_buffer *losses, int index, struct fault_note *why);
    // May be NULL: decode_forward, loss_l1 and decode_backward in one pass, for a backend whose backward pass
    // would compute the forward one again. dfeatures and gradients are the same bits, y is not written.
    int (*decode_learn)(struct sr_device *device, const struct sr_buffer *features,
                        const struct sr_buffer *stack, const struct sr_buffer *planes,
                        struct sr_window window, const struct sr_buffer *target, struct sr_buffer *losses,
                        int index, struct sr_buffer *dfeatures, struct sr_buffer *gradients,
                        struct fault_note *why);
    // One step over the arena from adam.first on.
    int (*adam)(struct sr_device *device, struct sr_adam adam, const struct sr_buffer *gradients,
                struct sr_buffer *moment1, struct sr_buffer *moment2, struct sr_buffer *parameters,
                struct fault_note *why);
    // to = keep * to + (1 - keep) * from: a moving average. Same extents and channels.
    int (*average)(struct sr_device *device, struct sr_buffer *to, const struct sr_buffer *from, float keep,
                   struct fault_note *why);

    // Cuts n samples from volume [1,1,D,H,W]: stack [n,1,d,h,w] with d retained slices, planes
    // [n*(d-1)*n_targets,SR_PLANE_FLOATS] in the order sample, gap, target, and target
    // [1,1,n*(d-1)*n_targets,h,w], the volume's own values there. Profile: Gaussian of cuts[].fwhm, taps
    // within 3 sigma + 0.5, weights renormalised inside the volume. The caller has made sure that retained
    // slices and planes lie inside the volume.
    int (*cut)(struct sr_device *device, const struct sr_buffer *volume, const struct sr_cut *cuts, int n,
               int n_targets, struct sr_buffer *stack, struct sr_buffer *planes, struct sr_buffer *target,
               struct fault_note *why);
};

// The backend called `name`: "ref", "cpu", "cuda" (fp32), "cuda16" (feature maps in bf16), or "auto": cpu
// where usable, else ref; those of CUDA only by name until a GPU has verified them (cuda/UNVERIFIED.md).
// Owner: *ops is static. Errors: BACKEND with a sentence.
int ops_find(const char *name, const struct sr_ops **ops, struct fault_note *why);

// Has the cuda backend see GPU `number` alone, counted as nvidia-smi counts; a negative one: as the
// environment has it. To be called before a backend is first looked for. Errors: INTERNAL. Source: CUDA C
// Programming Guide, environment variables.
int ops_use_gpu(int number, struct fault_note *why);

// The fillers. ops_cuda and ops_cuda16 exist where CUDA and cuDNN were found (see ops_registry.c).
const struct sr_ops *ops_ref(void);
const struct sr_ops *ops_ref64(void); // the same loops in double precision, for finite differences
const struct sr_ops *ops_cpu(void);
const struct sr_ops *ops_cuda(void);
const struct sr_ops *ops_cuda16(void);

// The buffer's own memory of the reference in double precision: [N,C,D,H,W]. Owner: borrowed.
double *ops_ref64_data(struct sr_buffer *buffer);

#endif
