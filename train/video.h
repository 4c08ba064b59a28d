// SPDX-License-Identifier: Apache-2.0
//
// Gray frames from a video file, through the commands ffprobe and ffmpeg, or from a folder of PNG pictures.
// Commands are started directly, never through a shell. Not here: which clips are used, and how.

#ifndef ISOSLICE_TRAIN_VIDEO_H
#define ISOSLICE_TRAIN_VIDEO_H

#include "core/fault.h"

#include <stdint.h>

enum { VIDEO_SHORT_SIDE = 90, VIDEO_MAX_FRAMES = 1800 };

// A clip; caller's storage.
struct video {
    int width, height, n_frames; // the shorter side has VIDEO_SHORT_SIDE pixels: 160x90 for 16:9
    uint8_t *frames;             // [n_frames,height,width], full range; owner: video_done
};

// 1 when the name ends like a video file's.
int video_is_file(const char *name);

// The first VIDEO_MAX_FRAMES frames, reduced by averaging areas. Errors: IO (also when ffmpeg or ffprobe is
// missing or fails), NO_MEMORY, TOO_LARGE, DECODE.
int video_read_file(const char *path, struct video *video, struct fault_note *why);

// The same from the PNG pictures of `directory` in the order of their names. Errors: also NOT_FOUND when it
// has none.
int video_read_folder(const char *directory, struct video *video, struct fault_note *why);

void video_done(struct video *video);

// The mean of the source pixels that each target pixel covers, edges by their share: from
// [from_height,from_width] to [height,width], none larger than the source's.
void video_shrink(const float *from, int from_width, int from_height, int width, int height, uint8_t *to);

#endif
