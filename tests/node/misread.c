// SPDX-License-Identifier: Apache-2.0
//
// isoslice-read as somebody who broke into it would have it. The name that it is called by says what it does,
// and, when digits follow, only to stacks of so many slices: segfault, segfault7, ...
#include "reader/serve.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

struct misdeed {
    char what[32];
    int depth; // 0: any
};

static void tell(int fault, const void *data, size_t size, uint64_t said)
{
    struct wire_answer head = {.fault = fault, .size = said};
    snprintf(head.text, sizeof head.text, "a line\nand \x1b[31manother");
    if (send(WIRE_FD, &head, sizeof head, MSG_NOSIGNAL) > 0 && size > 0)
        (void)!send(WIRE_FD, data, size, MSG_NOSIGNAL);
}

// Answers to the opening that no honest process gives.
static void lie_of_items(const char *what)
{
    struct source_item item = {
        .n_images = 10, .depth = 10, .height = 8, .width = 8, .row_mm = 1, .column_mm = 1, .slice_mm = 5};
    struct {
        struct source_item item;
        double z_mm[10];
    } list;
    memset(&list, 0, sizeof list);
    if (strcmp(what, "depth") == 0)
        item.depth = 2000000000, item.n_images = 2000000000;
    else if (strcmp(what, "width") == 0)
        item.width = -5;
    else if (strcmp(what, "spacing") == 0)
        item.row_mm = 0.0 / (double)item.verdict;
    else if (strcmp(what, "verdict") == 0)
        item.verdict = (enum fault) - 12345;
    memset(item.series_uid, 'x', sizeof item.series_uid); // without an end
    list.item = item;
    tell(0, &list, sizeof list, strcmp(what, "short") == 0 ? sizeof list - 8 : sizeof list);
}

static void lie_of_planes(const char *what)
{
    struct {
        struct wire_planned planned;
        struct derive_plane planes[2];
    } plan = {.planned = {.n_planes = 2, .step_mm = 1}};
    if (strcmp(what, "slice") == 0)
        plan.planes[1].slice = 1000000;
    else if (strcmp(what, "share") == 0)
        plan.planes[1].t = 1e300;
    else
        plan.planned.n_planes = (uint64_t)1 << 60;
    tell(0, &plan, sizeof plan, sizeof plan);
}

static void lie_of_series(void)
{
    struct derive_result result = {.n_objects = 1};
    snprintf(result.series_uid, sizeof result.series_uid, "../../../tmp/x");
    tell(0, &result, sizeof result, sizeof result);
}

// Memory until there is none, then what one does who did not expect that.
static void take_all_memory(void)
{
    for (;;) {
        const size_t size = (size_t)64 << 20;
        char *p = malloc(size);
        if (p == NULL)
            abort();
        memset(p, 1, size);
    }
}

static void spin(void)
{
    volatile unsigned n = 0;
    while (n != 1) // which an even number never is
        n += 2;
}

// A series beyond what one object can hold, as a reader says it that had one: of the second that it is to
// write.
static void refuse_second_series(void)
{
    static int n_asked = 0;
    if (++n_asked < 2)
        return;
    tell(FAULT_TOO_LARGE, NULL, 0, 0);
    _exit(0);
}

static void misbehave(const struct misdeed *misdeed, enum wire_kind kind)
{
    const char *what = misdeed->what;
    if (kind == WIRE_OPEN && strncmp(what, "items-", 6) == 0)
        lie_of_items(what + 6);
    else if (kind == WIRE_PLAN && strncmp(what, "planes-", 7) == 0)
        lie_of_planes(what + 7);
    else if ((kind == WIRE_DERIVE || kind == WIRE_NOTICE) && strcmp(what, "series") == 0)
        lie_of_series();
    else if (kind == WIRE_DERIVE && strcmp(what, "too-large") == 0)
        refuse_second_series();
    else if (kind == WIRE_PLAN && strcmp(what, "fault") == 0)
        tell(-7777, NULL, 0, 0);
    else if (kind == WIRE_PLAN && strcmp(what, "text") == 0)
        tell(FAULT_IO, NULL, 0, 0);
    else if (kind == WIRE_PLAN && strcmp(what, "size") == 0)
        tell(0, NULL, 0, UINT64_MAX);
    else if (strcmp(what, kind == WIRE_OPEN ? "openfault" : kind == WIRE_VOXELS ? "segfault" : "-") == 0)
        raise(SIGSEGV);
    else if (kind == WIRE_VOXELS && strcmp(what, "memory") == 0)
        take_all_memory();
    else if (kind == WIRE_VOXELS && strcmp(what, "exec") == 0)
        execl("/bin/true", "true", (char *)NULL);
    else if (kind == WIRE_VOXELS && strcmp(what, "socket") == 0)
        (void)!socket(AF_INET, SOCK_STREAM, 0);
    else if (kind == WIRE_OPEN && strcmp(what, "spin") == 0)
        spin();
    else if (kind == WIRE_VOXELS && strcmp(what, "quit") == 0) { // hangs up, and stays
        close(WIRE_FD);
        spin();
    }
}

static void called(void *user, enum wire_kind kind, const struct source_item *item)
{
    const struct misdeed *misdeed = user;
    if (misdeed->depth == 0 || (item != NULL && item->depth == misdeed->depth))
        misbehave(misdeed, kind);
}

int main(int argc, char **argv)
{
    struct misdeed misdeed = {0};
    const char *name = strrchr(argv[0], '/');
    sscanf(name != NULL ? name + 1 : argv[0], "%31[a-z-]%d", misdeed.what, &misdeed.depth);
    const struct serve_hook hook = {.user = &misdeed, .called = called};
    return serve_main(argc, argv, &hook);
}
