// SPDX-License-Identifier: Apache-2.0
//
// A peer: one association served by dcm_scp_serve over a pair of sockets, with callbacks that keep nothing.
// Input: a byte of choices, then what the peer says before it closes its end. With the lowest bit of the
// choices that is a list of PDUs {type, length (2 bytes), body} whose lengths are put right, data as one PDV
// each, so that more than the first PDU is read. The libraries behind the shim are not instrumented: what is
// found in them is what AddressSanitizer's malloc and memcpy notice, and crashes.
#include "dicom_map/dcmtk/scp.h"
#include "tests/fuzz/fuzz.h"

#include <sys/socket.h>
#include <unistd.h>

enum { SAID_MAX = 65536, SOCKET_BYTES = 4 << 20 };

struct peer_state {
    int began, n_requests, n_told;
    size_t bytes;
    unsigned choices;
};

static enum dcm_answer associate(void *user, const struct dcm_peer *peer, struct fault_note *why)
{
    (void)why;
    const struct peer_state *state = user;
    FUZZ_CHECK(strlen(peer->calling_ae) <= 16 && strlen(peer->called_ae) <= 16);
    return state->choices & 2 ? DCM_ANSWER_CALLING_UNKNOWN : DCM_ANSWER_ACCEPT;
}

static void peer_is_due(void *user, int is_due)
{
    (void)user;
    (void)is_due;
}

static int store_begin(void *user, const struct dcm_store_request *request, struct fault_note *why)
{
    struct peer_state *state = user;
    FUZZ_CHECK(!state->began);
    if (!uid_is_valid(request->sop_instance_uid))
        return fault_set(why, FAULT_BAD_UID, "bad Affected SOP Instance UID");
    if (state->choices & 4)
        return fault_set(why, FAULT_NO_SPACE, "disk below its reserve");
    state->began = 1;
    return 0;
}

static int store_data(void *user, const void *data, size_t size, struct fault_note *why)
{
    struct peer_state *state = user;
    const uint8_t *bytes = data;
    FUZZ_CHECK(state->began);
    for (size_t i = 0; i < size; i++) // so that each is read
        state->bytes += bytes[i] & 1;
    if (state->choices & 8 && state->bytes > 100)
        return fault_set(why, FAULT_TOO_LARGE, "object above the limit");
    return 0;
}

static int store_end(void *user, const struct dcm_store_request *request, struct fault_note *why)
{
    struct peer_state *state = user;
    (void)request;
    FUZZ_CHECK(state->began);
    if (state->choices & 16)
        return fault_set(why, FAULT_BAD_HEADER,
                         "%%s is what no object says, and more than a comment can hold");
    state->began = 0;
    return 0;
}

static void store_cancel(void *user)
{
    struct peer_state *state = user;
    FUZZ_CHECK(state->began);
    state->began = 0;
}

static void store_settle(void *user)
{
    const struct peer_state *state = user;
    FUZZ_CHECK(!state->began);
}

static int commit_request(void *user, const struct commitment *request, int *number, struct fault_note *why)
{
    struct peer_state *state = user;
    (void)why;
    FUZZ_CHECK(uid_is_valid(request->transaction_uid));
    for (size_t i = 0; i < request->n; i++)
        FUZZ_CHECK(uid_is_valid(request->items[i].sop_instance_uid));
    *number = ++state->n_requests;
    return 0;
}

static int commit_outcome(void *user, int *number, struct commitment *outcome)
{
    struct peer_state *state = user;
    if (state->n_told >= state->n_requests)
        return 0;
    *number = ++state->n_told;
    *outcome = (struct commitment){.transaction_uid = "1.2.3"};
    return 1;
}

static void commit_reported(void *user, int number)
{
    const struct peer_state *state = user;
    FUZZ_CHECK(number >= 1 && number <= state->n_told);
}

static int commit_told(void *user, const struct commitment *outcome, struct fault_note *why)
{
    const struct peer_state *state = user;
    FUZZ_CHECK(uid_is_valid(outcome->transaction_uid) && outcome->n > 0);
    for (size_t i = 0; i < outcome->n; i++)
        FUZZ_CHECK(uid_is_valid(outcome->items[i].sop_instance_uid) && outcome->items[i].reason <= 0xffff);
    return state->choices & 16 ? fault_set(why, FAULT_NO_SPACE, "the disk is full") : 0;
}

static void put32(uint8_t *at, size_t v)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(v >> (24 - 8 * i));
}

// The list of PDUs as bytes.
static size_t say(struct choices *c, uint8_t *out)
{
    size_t n = 0;
    while (c->left > 0 && n < SAID_MAX - 12) {
        unsigned type = choose_byte(c);
        size_t length = choose_16(c), extra = type == 4 && length >= 2 ? 4 : 0;
        length = length < c->left ? length : c->left;
        length = length < SAID_MAX - 12 - n ? length : SAID_MAX - 12 - n;
        out[n] = (uint8_t)type;
        out[n + 1] = 0;
        put32(out + n + 2, length + extra);
        if (extra)
            put32(out + n + 6, length);
        memcpy(out + n + 6 + extra, c->data, length);
        c->data += length;
        c->left -= length;
        n += 6 + extra + length;
    }
    return n;
}

static const struct dcm_scp_options options = {
    .commitment = 1, .reports = 1, .acse_timeout_s = 1, .dimse_timeout_s = 1};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int is_ready;
    static uint8_t said[SAID_MAX];
    struct fault_note why = {0};
    if (!is_ready) {
        FUZZ_CHECK(dcm_network_init(&why) == 0);
        setenv("TCP_NODELAY", "0", 1); // which a pair of local sockets does not know
        is_ready = 1;
    }
    struct choices c = {data, size};
    struct peer_state state = {.choices = choose_byte(&c)};
    size_t n = c.left < SAID_MAX ? c.left : SAID_MAX;
    if (state.choices & 1)
        n = say(&c, said);
    else if (n > 0)
        memcpy(said, c.data, n);
    const struct dcm_scp_callbacks callbacks = {.user = &state,
                                                .associate = associate,
                                                .peer_is_due = peer_is_due,
                                                .store_begin = store_begin,
                                                .store_data = store_data,
                                                .store_end = store_end,
                                                .store_cancel = store_cancel,
                                                .store_settle = store_settle,
                                                .commit_request = commit_request,
                                                .commit_outcome = commit_outcome,
                                                .commit_reported = commit_reported,
                                                .commit_told = commit_told};
    int ends[2], bytes = SOCKET_BYTES;
    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    for (int i = 0; i < 2; i++)
        setsockopt(ends[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    FUZZ_CHECK(write(ends[1], said, n) == (ssize_t)n);
    shutdown(ends[1], SHUT_WR);
    int rc = dcm_scp_serve(ends[0], &options, &callbacks, &why);
    FUZZ_CHECK(rc == 0 || (rc == (int)why.fault && why.text[0] != '\0'));
    FUZZ_CHECK(!state.began);
    close(ends[1]);
    return 0;
}
