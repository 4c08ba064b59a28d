// SPDX-License-Identifier: Apache-2.0
#include "train/video.h"

#include "core/file.h"

#include <cairo.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_SIDE = 8192, MAX_PROBE_BYTES = 4096, PATH_SIZE = 4096 };

extern char **environ;

int video_is_file(const char *name)
{
    static const char *const suffixes[] = {".mp4", ".m4v", ".mkv", ".mov", ".avi", ".webm"};
    size_t length = strlen(name);
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        size_t n = strlen(suffixes[i]);
        if (length > n && strcasecmp(name + length - n, suffixes[i]) == 0)
            return 1;
    }
    return 0;
}

void video_done(struct video *video)
{
    free(video->frames);
    video->frames = NULL;
}

// --------------------------------------------------------------------------------------------- commands

static int start(char *const argv[], int *out, pid_t *child, struct fault_note *why)
{
    int ends[2];
    posix_spawn_file_actions_t actions;
    if (pipe2(ends, O_CLOEXEC) != 0)
        return fault_set_errno(why, errno, "cannot make a pipe");
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    int error = posix_spawnp(child, argv[0], &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    if (error != 0) {
        close(ends[0]);
        return fault_set_errno(why, error, "cannot start '%s'", argv[0]);
    }
    *out = ends[0];
    return 0;
}

// Reads until the end, or until `limit` bytes are there.
static int drain(int fd, unsigned char **data, size_t *size, size_t limit, struct fault_note *why)
{
    size_t room = 0;
    *data = NULL;
    *size = 0;
    while (*size < limit) {
        if (*size == room) {
            room = room == 0 ? 1 << 16 : room * 2;
            room = room > limit ? limit : room;
            unsigned char *larger = realloc(*data, room);
            if (larger == NULL)
                return fault_set(why, FAULT_NO_MEMORY, "no memory for %zu bytes of frames", room);
            *data = larger;
        }
        ssize_t n = read(fd, *data + *size, room - *size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fault_set_errno(why, errno, "cannot read from a command");
        if (n == 0)
            break;
        *size += (size_t)n;
    }
    return 0;
}

static int run(char *const argv[], const char *path, size_t limit, unsigned char **data, size_t *size,
               struct fault_note *why)
{
    int fd = -1, status = 0;
    pid_t child = 0;
    int rc = start(argv, &fd, &child, why);
    if (rc != 0)
        return rc;
    rc = drain(fd, data, size, limit, why);
    close(fd);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    int is_done = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (rc == 0 && !is_done && *size < limit)
        rc = fault_set(why, FAULT_DECODE, "'%s' cannot read '%s'", argv[0], path);
    if (rc != 0) {
        free(*data);
        *data = NULL;
    }
    return rc;
}

static int probe(const char *path, const char *url, int *width, int *height, struct fault_note *why)
{
    unsigned char *text = NULL;
    size_t size;
    char line[64];
    char *argv[] = {"ffprobe",
                    "-v",
                    "error",
                    "-select_streams",
                    "v:0",
                    "-show_entries",
                    "stream=width,height",
                    "-of",
                    "csv=p=0",
                    (char *)url,
                    NULL};
    int rc = run(argv, path, MAX_PROBE_BYTES, &text, &size, why);
    if (rc != 0)
        return rc;
    snprintf(line, sizeof line, "%.*s", (int)size, (const char *)text);
    free(text);
    char *end;
    long w = strtol(line, &end, 10), h = *end == ',' ? strtol(end + 1, NULL, 10) : 0;
    if (w < 16 || w > MAX_SIDE || h < 16 || h > MAX_SIDE)
        return fault_set(why, FAULT_DECODE, "'%s' has no video stream of a usable size", path);
    *width = (int)w;
    *height = (int)h;
    return 0;
}

static void reduced_size(int width, int height, int *to_width, int *to_height)
{
    int shorter = width < height ? width : height;
    double scale = shorter > VIDEO_SHORT_SIDE ? (double)VIDEO_SHORT_SIDE / shorter : 1;
    *to_width = (int)lrint(width * scale);
    *to_height = (int)lrint(height * scale);
}

int video_read_file(const char *path, struct video *video, struct fault_note *why)
{
    char url[PATH_SIZE + 8], filter[96], count[16];
    int width = 0, height = 0;
    size_t size;
    memset(video, 0, sizeof *video);
    snprintf(url, sizeof url, "file:%s", path); // never another protocol, nor an option
    int rc = probe(path, url, &width, &height, why);
    if (rc != 0)
        return rc;
    reduced_size(width, height, &video->width, &video->height);
    if (video->width == width && video->height == height)
        snprintf(filter, sizeof filter, "null");
    else
        snprintf(filter, sizeof filter, "scale=%d:%d:flags=area", video->width, video->height);
    snprintf(count, sizeof count, "%d", VIDEO_MAX_FRAMES);
    char *argv[] = {"ffmpeg",    "-v",  "error", "-noautorotate", "-i",       url,    "-an", "-vf", filter,
                    "-frames:v", count, "-f",    "rawvideo",      "-pix_fmt", "gray", "-",   NULL};
    size_t frame = (size_t)video->width * (size_t)video->height;
    rc = run(argv, path, frame * VIDEO_MAX_FRAMES, &video->frames, &size, why);
    if (rc == 0 && frame > 0) {
        video->n_frames = (int)(size / frame);
        if (video->n_frames == 0) {
            video_done(video);
            rc = fault_set(why, FAULT_DECODE, "'%s' has no frames", path);
        }
    }
    return rc;
}

// --------------------------------------------------------------------------------------------- pictures

void video_shrink(const float *from, int from_width, int from_height, int width, int height, uint8_t *to)
{
    double step_x = (double)from_width / width, step_y = (double)from_height / height;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            double left = x * step_x, right = left + step_x, top = y * step_y, bottom = top + step_y, sum = 0;
            for (int v = (int)top; v < from_height && v < bottom; v++) {
                double part = fmin(bottom, v + 1) - fmax(top, v);
                for (int u = (int)left; u < from_width && u < right; u++)
                    sum += part * (fmin(right, u + 1) - fmax(left, u)) *
                           (double)from[(size_t)v * (size_t)from_width + (size_t)u];
            }
            double value = sum / (step_x * step_y);
            to[(size_t)y * (size_t)width + (size_t)x] = (uint8_t)(value < 0     ? 0
                                                                  : value > 255 ? 255
                                                                                : rint(value));
        }
}

// Luma of a picture, ITU-R BT.601; the caller frees.
static int read_png(const char *path, float **gray, int *width, int *height, struct fault_note *why)
{
    cairo_surface_t *surface = cairo_image_surface_create_from_png(path);
    cairo_status_t status = cairo_surface_status(surface);
    int rc = 0;
    *gray = NULL;
    if (status != CAIRO_STATUS_SUCCESS) {
        rc = fault_set(why, status == CAIRO_STATUS_NO_MEMORY ? FAULT_NO_MEMORY : FAULT_DECODE,
                       "cannot read picture '%s': %s", path, cairo_status_to_string(status));
        goto out;
    }
    *width = cairo_image_surface_get_width(surface);
    *height = cairo_image_surface_get_height(surface);
    cairo_format_t format = cairo_image_surface_get_format(surface);
    if (*width < 16 || *height < 16 || *width > MAX_SIDE || *height > MAX_SIDE ||
        (format != CAIRO_FORMAT_RGB24 && format != CAIRO_FORMAT_ARGB32)) {
        rc = fault_set(why, FAULT_DECODE, "picture '%s' has %d x %d pixels of a kind that is not read", path,
                       *width, *height);
        goto out;
    }
    *gray = malloc((size_t)*width * (size_t)*height * sizeof **gray);
    if (*gray == NULL) {
        rc = fault_set(why, FAULT_NO_MEMORY, "no memory for picture '%s'", path);
        goto out;
    }
    const unsigned char *data = cairo_image_surface_get_data(surface);
    ptrdiff_t stride = cairo_image_surface_get_stride(surface);
    for (int y = 0; y < *height; y++)
        for (int x = 0; x < *width; x++) {
            uint32_t pixel;
            memcpy(&pixel, data + y * stride + 4 * (ptrdiff_t)x, sizeof pixel);
            (*gray)[(size_t)y * (size_t)*width + (size_t)x] = 0.299F * (float)(pixel >> 16 & 255) +
                                                              0.587F * (float)(pixel >> 8 & 255) +
                                                              0.114F * (float)(pixel & 255);
        }
out:
    cairo_surface_destroy(surface);
    return rc;
}

static int is_png(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);
    return n > 4 && strcasecmp(entry->d_name + n - 4, ".png") == 0;
}

static int read_frame(const char *path, struct video *video, struct fault_note *why)
{
    float *gray;
    int width = 0, height = 0, to_width, to_height;
    int rc = read_png(path, &gray, &width, &height, why);
    if (rc != 0)
        return rc;
    reduced_size(width, height, &to_width, &to_height);
    size_t frame = (size_t)to_width * (size_t)to_height;
    if (video->n_frames == 0) {
        video->width = to_width;
        video->height = to_height;
    }
    uint8_t *frames = NULL;
    if (to_width != video->width || to_height != video->height)
        rc = fault_set(why, FAULT_DECODE, "picture '%s' has another size than the first of its folder", path);
    else if ((frames = realloc(video->frames, frame * (size_t)(video->n_frames + 1))) == NULL)
        rc = fault_set(why, FAULT_NO_MEMORY, "no memory for frame %d", video->n_frames);
    if (frames != NULL) {
        video->frames = frames;
        video_shrink(gray, width, height, to_width, to_height, frames + frame * (size_t)video->n_frames++);
    }
    free(gray);
    return rc;
}

int video_read_folder(const char *directory, struct video *video, struct fault_note *why)
{
    struct dirent **entries = NULL;
    int rc = 0;
    memset(video, 0, sizeof *video);
    int n = scandir(directory, &entries, is_png, alphasort);
    if (n < 0)
        return fault_set_errno(why, errno, "cannot list '%s'", directory);
    if (n == 0)
        rc = fault_set(why, FAULT_NOT_FOUND, "no PNG pictures in '%s'", directory);
    for (int i = 0; i < n; i++) {
        char path[PATH_SIZE];
        if (rc == 0 && i < VIDEO_MAX_FRAMES) {
            rc = file_join(path, sizeof path, directory, entries[i]->d_name, why);
            if (rc == 0)
                rc = read_frame(path, video, why);
        }
        free(entries[i]);
    }
    free(entries);
    if (rc != 0)
        video_done(video);
    return rc;
}
