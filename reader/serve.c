// SPDX-License-Identifier: Apache-2.0
#include "reader/serve.h"

#include "core/confine.h"
#include "core/digest.h"
#include "core/file.h"
#include "core/version.h"
#include "dicom_map/dcmtk/object.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FILES = 64, MAX_FOLDER_DEPTH = 32 };
static const uint64_t MAX_WRITTEN_BYTES = ((uint64_t)4 << 30) + ((uint64_t)64 << 20); // one enhanced object
static const size_t MAX_REQUEST_BYTES = (size_t)256 << 20;

struct serve {
    struct source *source;
    const struct serve_hook *hook;
    struct wire_request request;
    char *payload;
    int fds[WIRE_MAX_FDS]; // that came with it; -1: none
};

// ---- the socket

static int read_all(void *data, size_t size)
{
    for (size_t at = 0; at < size;) {
        ssize_t n = read(WIRE_FD, (char *)data + at, size - at);
        if (n <= 0 && !(n < 0 && errno == EINTR))
            return 0;
        at += n > 0 ? (size_t)n : 0;
    }
    return 1;
}

static int send_all(const void *data, size_t size)
{
    for (size_t at = 0; at < size;) {
        ssize_t n = send(WIRE_FD, (const char *)data + at, size - at, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            return 0;
        at += n > 0 ? (size_t)n : 0;
    }
    return 1;
}

static void take_fds(struct serve *serve, struct msghdr *message)
{
    struct cmsghdr *control = CMSG_FIRSTHDR(message);
    for (int i = 0; i < WIRE_MAX_FDS; i++)
        serve->fds[i] = -1;
    if (control == NULL || control->cmsg_type != SCM_RIGHTS)
        return;
    size_t n = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(serve->fds, CMSG_DATA(control), (n < WIRE_MAX_FDS ? n : WIRE_MAX_FDS) * sizeof(int));
}

// The next request and its payload; 0 when the other end hung up.
static int next_request(struct serve *serve)
{
    union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(WIRE_MAX_FDS * sizeof(int))];
    } control;
    struct iovec part = {.iov_base = &serve->request, .iov_len = sizeof serve->request};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    ssize_t n = recvmsg(WIRE_FD, &message, MSG_CMSG_CLOEXEC);
    if (n <= 0)
        return 0;
    take_fds(serve, &message);
    if (!read_all((char *)&serve->request + n, sizeof serve->request - (size_t)n) ||
        serve->request.size > MAX_REQUEST_BYTES)
        return 0;
    free(serve->payload);
    serve->payload = malloc(serve->request.size + 1); // a zero byte after it ends every text
    if (serve->payload == NULL || !read_all(serve->payload, serve->request.size))
        return 0;
    serve->payload[serve->request.size] = '\0';
    return 1;
}

static void close_fds(struct serve *serve)
{
    for (int i = 0; i < WIRE_MAX_FDS; i++) {
        if (serve->fds[i] >= 0)
            close(serve->fds[i]);
        serve->fds[i] = -1;
    }
}

static int answer(int fault, uint64_t size, const struct fault_note *why)
{
    struct wire_answer head = {.fault = fault, .size = fault == 0 ? size : 0};
    if (fault != 0)
        snprintf(head.text, sizeof head.text, "%s", why->text);
    return send_all(&head, sizeof head);
}

// ---- giving up everything else

// Links to files are followed when a folder is read, links to folders are not: what they point at must be
// readable too.
static int add_links(int rules, const char *folder, int depth, struct fault_note *why)
{
    DIR *dir = depth < MAX_FOLDER_DEPTH ? opendir(folder) : NULL;
    struct dirent *entry;
    struct stat st;
    int rc = 0;
    while (dir != NULL && rc == 0 && (entry = readdir(dir)) != NULL) {
        char path[WIRE_PATH_SIZE];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            file_join(path, sizeof path, folder, entry->d_name, NULL) != 0)
            continue;
        int type = entry->d_type;
        if (type == DT_UNKNOWN && lstat(path, &st) == 0)
            type = S_ISDIR(st.st_mode) ? DT_DIR : S_ISLNK(st.st_mode) ? DT_LNK : DT_REG;
        if (type == DT_DIR)
            rc = add_links(rules, path, depth + 1, why);
        else if (type == DT_LNK && stat(path, &st) == 0 && S_ISREG(st.st_mode))
            rc = confine_files_add(rules, path, CONFINE_READ, why);
    }
    if (dir != NULL)
        closedir(dir);
    return rc;
}

// A path that is not there is source_open's to name.
static int add_path(int rules, const char *path, struct fault_note *why)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return 0;
    int rc = confine_files_add(rules, path, CONFINE_READ, why);
    return rc == 0 && S_ISDIR(st.st_mode) ? add_links(rules, path, 0, why) : rc;
}

static int keep_to_paths(const struct wire_open *open_request, const char *const *paths,
                         struct fault_note *why)
{
    int rules;
    int rc = confine_files_begin(&rules, why);
    for (uint32_t i = 0; rc == 0 && rules >= 0 && i < open_request->n_paths; i++)
        rc = add_path(rules, paths[i], why);
    if (rc == 0 && open_request->output[0] != '\0')
        rc = confine_files_add(rules, open_request->output, CONFINE_WRITE, why);
    if (rc == 0 && CONFINE_IS_SANITIZED) // its reports name functions
        rc = confine_files_add(rules, "/proc", CONFINE_READ, why);
    return rc == 0 ? confine_files_enforce(rules, why) : rc;
}

// Reads what the libraries would read later: dictionary, OpenSSL's settings, the time zone.
static int load_libraries(struct fault_note *why)
{
    char hex[DIGEST_HEX_SIZE];
    tzset();
    int rc = dcm_setup(why);
    return rc == 0 ? digest_of("", 0, hex, why) : rc;
}

static int confine(const struct wire_open *open_request, const char *const *paths, struct fault_note *why)
{
    const struct confine_limits limits = {.memory_bytes = open_request->memory_bytes,
                                          .file_bytes = MAX_WRITTEN_BYTES,
                                          .n_files = MAX_FILES,
                                          .cpu_s = open_request->cpu_s,
                                          .is_raisable = 1};
    int rc = load_libraries(why);
    if (rc == 0)
        rc = confine_privileges(why);
    if (rc == 0)
        rc = keep_to_paths(open_request, paths, why);
    if (rc == 0)
        rc = confine_resources(&limits, why);
    if (!CONFINE_IS_SANITIZED) // nobody's log is to hold what a stranger's file makes this say
        dup2(STDOUT_FILENO, STDERR_FILENO);
    return rc == 0 ? confine_calls(CONFINE_READER, why) : rc;
}

// ---- requests

static int send_items(const struct source *source)
{
    size_t n = source_n_items(source), size = n * sizeof(struct source_item);
    for (size_t i = 0; i < n; i++)
        if (source_item(source, i)->verdict == FAULT_OK)
            size += (size_t)source_item(source, i)->depth * sizeof(double);
    int ok = answer(0, size, NULL);
    for (size_t i = 0; ok && i < n; i++) {
        struct source_item item = *source_item(source, i);
        item.z_mm = NULL;
        ok = send_all(&item, sizeof item);
    }
    for (size_t i = 0; ok && i < n; i++) {
        const struct source_item *item = source_item(source, i);
        if (item->verdict == FAULT_OK)
            ok = send_all(item->z_mm, (size_t)item->depth * sizeof(double));
    }
    return ok;
}

static void called(const struct serve *serve)
{
    const struct source_item *item =
        serve->source != NULL ? source_item(serve->source, serve->request.item) : NULL;
    if (serve->hook != NULL)
        serve->hook->called(serve->hook->user, (enum wire_kind)serve->request.kind, item);
}

static int do_open(struct serve *serve)
{
    struct fault_note why = {0};
    static struct wire_open open_request;
    if (serve->request.kind != WIRE_OPEN || serve->request.size < sizeof open_request)
        return 0;
    memcpy(&open_request, serve->payload, sizeof open_request);
    if (strncmp(open_request.version, ISOSLICE_VERSION, sizeof open_request.version) != 0) {
        fault_set(&why, FAULT_READER, "the reading process is of version %s, not %.31s", ISOSLICE_VERSION,
                  open_request.version);
        return answer(FAULT_READER, 0, &why);
    }
    const char **paths = calloc(open_request.n_paths + 1u, sizeof *paths);
    const char *text = serve->payload + sizeof open_request, *end = serve->payload + serve->request.size;
    int rc = 0;
    if (paths == NULL)
        return 0;
    for (uint32_t i = 0; rc == 0 && i < open_request.n_paths; i++) {
        paths[i] = text;
        text += strlen(text) + 1;
        if (text > end)
            rc = fault_set(&why, FAULT_INTERNAL, "the request names fewer paths than it says");
    }
    if (rc == 0)
        rc = confine(&open_request, paths, &why);
    if (rc == 0) {
        called(serve);
        rc = (open_request.to_learn ? source_open_to_learn : source_open)(paths, open_request.n_paths,
                                                                          &serve->source, &why);
    }
    free(paths);
    return rc == 0 ? send_items(serve->source) : answer(rc, 0, &why);
}

static int do_plan(struct serve *serve)
{
    struct fault_note why = {0};
    struct wire_plan plan;
    struct wire_planned planned = {0};
    struct derive_plane *planes = NULL;
    size_t n_planes = 0;
    if (serve->request.size != sizeof plan)
        return 0;
    memcpy(&plan, serve->payload, sizeof plan);
    int rc = derive_plan(serve->source, serve->request.item, (enum derive_spacing)plan.mode, plan.mm, &planes,
                         &n_planes, &planned.step_mm, &why);
    if (rc != 0)
        return answer(rc, 0, &why);
    planned.n_planes = n_planes;
    int ok = answer(0, sizeof planned + n_planes * sizeof *planes, NULL) &&
             send_all(&planned, sizeof planned) && send_all(planes, n_planes * sizeof *planes);
    free(planes);
    return ok;
}

// The memory behind a descriptor, at least of `size` bytes.
static void *map(int fd, size_t size, int can_write, struct fault_note *why)
{
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0 || (uint64_t)st.st_size < size) {
        fault_set(why, FAULT_INTERNAL, "the memory to share is missing or too small");
        return NULL;
    }
    void *data = mmap(NULL, size, can_write ? PROT_READ | PROT_WRITE : PROT_READ,
                      can_write ? MAP_SHARED : MAP_PRIVATE, fd, 0); // sealed memory maps privately only
    if (data != MAP_FAILED)
        return data;
    fault_set_errno(why, errno, "cannot map %zu bytes", size);
    return NULL;
}

static int do_voxels(struct serve *serve)
{
    struct fault_note why = {0};
    const struct source_item *item = source_item(serve->source, serve->request.item);
    size_t size = (size_t)item->depth * (size_t)item->height * (size_t)item->width * sizeof(float);
    float *voxels = map(serve->fds[0], size, 1, &why);
    int rc = voxels != NULL ? source_load_voxels(serve->source, serve->request.item, voxels, &why)
                            : (int)why.fault;
    if (voxels != NULL)
        munmap(voxels, size);
    close_fds(serve); // and with that the other end can seal it
    return answer(rc, 0, &why);
}

static int do_derive(struct serve *serve)
{
    struct fault_note why = {0};
    struct derive_result result = {0};
    const struct wire_derive *wire = (const struct wire_derive *)serve->payload;
    const struct source_item *item = source_item(serve->source, serve->request.item);
    size_t n_pixels = (size_t)item->height * (size_t)item->width;
    if (serve->request.size < sizeof *wire ||
        (serve->request.size - sizeof *wire) / sizeof(struct derive_plane) != wire->n_planes)
        return 0;
    size_t voxels_size = (size_t)item->depth * n_pixels * sizeof(float),
           residual_size = wire->n_planes * n_pixels * sizeof(float);
    float *voxels = map(serve->fds[0], voxels_size, 0, &why);
    float *residual = voxels != NULL ? map(serve->fds[1], residual_size, 0, &why) : NULL;
    int rc = residual != NULL ? 0 : (int)why.fault;
    if (rc == 0) {
        struct derive_request request = {
            .source = serve->source,
            .item = serve->request.item,
            .planes = (const struct derive_plane *)(wire + 1),
            .n_planes = wire->n_planes,
            .step_mm = wire->step_mm,
            .voxels = voxels,
            .residual = residual,
            .site_id = wire->site_id,
            .job_time_us = wire->job_time_us,
            .model_name = wire->model_name,
            .model_version = wire->model_version,
            .weights_sha256 = wire->weights_sha256,
            .parameters = wire->parameters,
            .method = wire->method,
            .quality = wire->quality,
            .generation = wire->generation,
            .n_late = wire->n_late,
            .view = (enum view_plane)wire->view,
            .format = (enum format)wire->format,
            .number_offset = wire->number_offset,
            .description = wire->has_description ? wire->description : NULL,
            .station_name = wire->has_station_name ? wire->station_name : NULL,
            .directory = wire->directory,
        };
        rc = derive_write(&request, &result, &why);
    }
    if (residual != NULL)
        munmap(residual, residual_size);
    if (voxels != NULL)
        munmap(voxels, voxels_size);
    return answer(rc, sizeof result, &why) && (rc != 0 || send_all(&result, sizeof result));
}

static int do_notice(struct serve *serve)
{
    struct fault_note why = {0};
    struct derive_result result = {0};
    const struct wire_notice *wire = (const struct wire_notice *)serve->payload;
    const size_t size = (size_t)NOTICE_ROWS * NOTICE_COLUMNS * sizeof(float);
    if (serve->request.size != sizeof *wire)
        return 0;
    float *pixels = map(serve->fds[0], size, 0, &why);
    int rc = pixels != NULL ? 0 : (int)why.fault;
    if (rc == 0) {
        const struct notice_request request = {
            .source = serve->source,
            .item = serve->request.item,
            .site_id = wire->site_id,
            .station_name = wire->has_station_name ? wire->station_name : NULL,
            .job_time_us = wire->job_time_us,
            .code = wire->code,
            .sentence = wire->sentence,
            .pixels = pixels,
            .number_offset = wire->number_offset,
            .directory = wire->directory,
        };
        rc = notice_write(&request, &result, &why);
    }
    if (pixels != NULL)
        munmap(pixels, size);
    return answer(rc, sizeof result, &why) && (rc != 0 || send_all(&result, sizeof result));
}

static int do_request(struct serve *serve)
{
    if (serve->source == NULL || serve->request.item >= source_n_items(serve->source))
        return 0;
    called(serve);
    switch ((enum wire_kind)serve->request.kind) {
    case WIRE_PLAN:
        return do_plan(serve);
    case WIRE_VOXELS:
        return do_voxels(serve);
    case WIRE_DERIVE:
        return do_derive(serve);
    case WIRE_NOTICE:
        return do_notice(serve);
    default:
        return 0;
    }
}

int serve_main(int argc, char **argv, const struct serve_hook *hook)
{
    struct serve serve = {.hook = hook, .fds = {-1, -1}};
    struct stat st;
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        printf("isoslice-read %s\n", ISOSLICE_VERSION);
        return 0;
    }
    if (argc != 2 || fstat(WIRE_FD, &st) != 0 || !S_ISSOCK(st.st_mode)) {
        int is_asked = argc == 2 && strcmp(argv[1], "--help") == 0;
        fputs("usage: isoslice-read is started by the other programs, not by hand\n\n"
              "Reads and writes DICOM files for them, one process for each set of files: without network, "
              "without "
              "other\nfiles, with limited memory and time.\n",
              is_asked ? stdout : stderr);
        return is_asked ? 0 : 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != (pid_t)strtol(argv[1], NULL, 10))
        return 1; // it died before that
    umask(077);
    signal(SIGXFSZ, SIG_IGN); // EFBIG instead
    int ok = next_request(&serve) && do_open(&serve);
    while (ok && next_request(&serve)) {
        ok = do_request(&serve);
        close_fds(&serve);
    }
    source_free(serve.source);
    free(serve.payload);
    return ok ? 0 : 1;
}
