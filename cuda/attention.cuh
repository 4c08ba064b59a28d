// SPDX-License-Identifier: Apache-2.0
//
// The window attention's two heavy sums in bf16, by tiles: a block takes TILE x TILE queries of one plane and
// has what their windows cover of one slice and some channels in shared memory. Functions of host and device,
// called by queue_run_tiles(); a block's index is a tile's, with the slice or the channels in the lower
// places. Not here: the gradient of the features, which gathers (host_math.cuh).

#ifndef ISOSLICE_CUDA_ATTENTION_CUH
#define ISOSLICE_CUDA_ATTENTION_CUH

#include "cuda/host_math.cuh"

namespace host_math
{

enum {
    TILE = 16,
    SLICE_WINDOW = NET_WINDOW * NET_WINDOW,
    MOST_DILATION = 3,
    MOST_SIDE = TILE + (NET_WINDOW - 1) * MOST_DILATION,
};

// The tiles that hold a chunk of queries.
struct tiling {
    queries all;
    int side;         // of a tile with what the windows add
    int down, across; // tiles of one plane
    int first_plane, n_planes;

    HOST_DEVICE int count() const
    {
        return n_planes * down * across;
    }
};

inline tiling tiling_of(const queries &all)
{
    int area = all.window.rows * all.window.columns, first = all.first / area;
    return tiling{all,
                  TILE + (NET_WINDOW - 1) * all.dilation,
                  (all.window.rows + TILE - 1) / TILE,
                  (all.window.columns + TILE - 1) / TILE,
                  first,
                  (all.first + all.count - 1) / area - first + 1};
}

struct tile {
    int plane, row, column; // of the first query, within the window
};

HOST_DEVICE inline tile tile_of(const tiling &over, int index)
{
    int in_plane = index % (over.down * over.across);
    return tile{over.first_plane + index / (over.down * over.across), in_plane / over.across * TILE,
                in_plane % over.across * TILE};
}

HOST_DEVICE inline int query_at(const tiling &over, int plane, int row, int column)
{
    return (plane * over.all.window.rows + row) * over.all.window.columns + column - over.all.first;
}

// None of the tile's queries is in the chunk.
HOST_DEVICE inline bool is_outside(const tiling &over, const tile &at)
{
    int row = least(at.row + TILE, over.all.window.rows) - 1;
    int column = least(at.column + TILE, over.all.window.columns) - 1;
    return query_at(over, at.plane, row, column) < 0 ||
           query_at(over, at.plane, at.row, at.column) >= over.all.count;
}

// The query of a thread, or -1.
HOST_DEVICE inline int query_of(const tiling &over, const tile &at, int thread)
{
    int row = at.row + thread / TILE, column = at.column + thread % TILE;
    if (row >= over.all.window.rows || column >= over.all.window.columns)
        return -1;
    int query = query_at(over, at.plane, row, column);
    return query < over.all.count ? most(query, -1) : -1;
}

// The voxel at place `i` of side x side around a tile; each index clamped to the volume, as neighbour_of()
// does.
HOST_DEVICE inline size_t covered_voxel(const tiling &over, const tile &at, int slot, int i)
{
    const queries &all = over.all;
    const float *plane = all.planes + (size_t)at.plane * SR_PLANE_FLOATS;
    int reach = NET_WINDOW / 2 * all.dilation;
    return voxel_of(all.e, (int)plane[SR_PLANE_STACK], clamp((int)plane[SR_PLANE_SLICE] + slot, all.e.d),
                    clamp(all.window.row + at.row - reach + i / over.side, all.e.h),
                    clamp(all.window.column + at.column - reach + i % over.side, all.e.w));
}

// Where the neighbour m of a thread's query lies among the tile's places.
HOST_DEVICE inline int covered_place(const tiling &over, int thread, int m)
{
    return (thread / TILE + m / NET_WINDOW * over.all.dilation) * over.side + thread % TILE +
           m % NET_WINDOW * over.all.dilation;
}

// Shared memory is [n][side,side] of eight channels: neighbouring threads read neighbouring places.
template <int n>
HOST_DEVICE inline void fill_place(const tiling &over, const tile &at, int slot, int first_eight, int i,
                                   const bf16 *features, eight *shared)
{
    const eight *from = reinterpret_cast<const eight *>(features);
    size_t eights = (size_t)over.all.channels / 8, voxel = covered_voxel(over, at, slot, i / n);
    shared[i % n * over.side * over.side + i / n] = from[voxel * eights + (size_t)(first_eight + i % n)];
}

// score [98,count]: x [count,C] times each neighbour's feature. n times eight channels at a time; a block for
// every tile and slice.
template <int n> struct score_tile_body {
    enum { threads = TILE * TILE, most_entries = n * MOST_SIDE * MOST_SIDE };
    struct state {
        float sum[SLICE_WINDOW];
    };
    tiling over;
    const bf16 *features, *x;
    float *score;

    HOST_DEVICE bool is_idle(unsigned block) const
    {
        return is_outside(over, tile_of(over, (int)(block / 2)));
    }
    HOST_DEVICE int n_phases() const
    {
        return over.all.channels / (8 * n);
    }
    HOST_DEVICE int n_entries() const
    {
        return n * over.side * over.side;
    }
    HOST_DEVICE void begin(state &s) const
    {
        UNROLL
        for (float &sum : s.sum)
            sum = 0;
    }
    HOST_DEVICE void fill(unsigned block, int phase, int i, eight *shared) const
    {
        fill_place<n>(over, tile_of(over, (int)(block / 2)), (int)(block % 2), phase * n, i, features,
                      shared);
    }
    HOST_DEVICE void work(unsigned block, int phase, int thread, const eight *shared, state &s) const
    {
        int query = query_of(over, tile_of(over, (int)(block / 2)), thread), eights = over.all.channels / 8;
        if (query < 0)
            return;
        for (int part = 0; part < n; part++) {
            eight row = reinterpret_cast<const eight *>(
                x)[(size_t)query * (size_t)eights + (size_t)(phase * n + part)];
            const eight *from = shared + part * over.side * over.side;
            UNROLL
            for (int m = 0; m < SLICE_WINDOW; m++) {
                eight f = from[covered_place(over, thread, m)];
                UNROLL
                for (int k = 0; k < 8; k++)
                    s.sum[m] += row.at[k] * f.at[k];
            }
        }
    }
    HOST_DEVICE void end(unsigned block, int thread, const state &s) const
    {
        int query = query_of(over, tile_of(over, (int)(block / 2)), thread);
        if (query < 0)
            return;
        UNROLL
        for (int m = 0; m < SLICE_WINDOW; m++)
            score[((size_t)(block % 2) * SLICE_WINDOW + (size_t)m) * (size_t)over.all.count + (size_t)query] =
                s.sum[m];
    }
};

// out [count,C]: the neighbours' features, weighted. A block for every tile and n times eight channels, its
// phases the two slices.
template <int n> struct weigh_tile_body {
    enum { threads = TILE * TILE, most_entries = n * MOST_SIDE * MOST_SIDE };
    struct state {
        float sum[n][8];
    };
    tiling over;
    const bf16 *features;
    const float *weight;
    bf16 *out;

    HOST_DEVICE unsigned n_shares() const
    {
        return (unsigned)over.all.channels / (8 * n);
    }
    HOST_DEVICE tile tile_in(unsigned block) const
    {
        return tile_of(over, (int)(block / n_shares()));
    }
    HOST_DEVICE bool is_idle(unsigned block) const
    {
        return is_outside(over, tile_in(block));
    }
    HOST_DEVICE int n_phases() const
    {
        return 2;
    }
    HOST_DEVICE int n_entries() const
    {
        return n * over.side * over.side;
    }
    HOST_DEVICE void begin(state &s) const
    {
        UNROLL
        for (int i = 0; i < 8 * n; i++)
            s.sum[i / 8][i % 8] = 0;
    }
    HOST_DEVICE void fill(unsigned block, int phase, int i, eight *shared) const
    {
        fill_place<n>(over, tile_in(block), phase, (int)(block % n_shares()) * n, i, features, shared);
    }
    HOST_DEVICE void work(unsigned block, int phase, int thread, const eight *shared, state &s) const
    {
        int query = query_of(over, tile_in(block), thread);
        if (query < 0)
            return;
        const float *from = weight + (size_t)phase * SLICE_WINDOW * (size_t)over.all.count + (size_t)query;
        for (int m = 0; m < SLICE_WINDOW; m++) {
            float share = from[(size_t)m * (size_t)over.all.count];
            UNROLL
            for (int part = 0; part < n; part++) {
                eight f = shared[part * over.side * over.side + covered_place(over, thread, m)];
                UNROLL
                for (int k = 0; k < 8; k++)
                    s.sum[part][k] += share * f.at[k];
            }
        }
    }
    HOST_DEVICE void end(unsigned block, int thread, const state &s) const
    {
        int query = query_of(over, tile_in(block), thread);
        if (query < 0)
            return;
        eight *to = reinterpret_cast<eight *>(out) + (size_t)query * (size_t)over.all.channels / 8 +
                    block % n_shares() * n;
        UNROLL
        for (int part = 0; part < n; part++) {
            eight row;
            UNROLL
            for (int k = 0; k < 8; k++)
                row.at[k] = s.sum[part][k];
            to[part] = row;
        }
    }
};

} // namespace host_math

#endif
