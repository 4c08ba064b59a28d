// SPDX-License-Identifier: Apache-2.0
//
// The stack builder. Input: how many slices, and what is odd about each: positions, orientations, numbers
// (any bit pattern), texts, flags, UIDs. Whatever comes in, every slice is in exactly one stack or an exact
// copy of one that is; accepted stacks have finite, ascending positions; another order of the input gives the
// same.
#include "dicom_map/stack.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>

enum { MAX_SLICES = 40 };

static double odd_number(struct choices *c)
{
    static const double numbers[] = {0,     1,      -1,   2,        90,        1e-3,        1e300,
                                     -1e99, 1e-300, 0.05, HUGE_VAL, -HUGE_VAL, (double)NAN, 4095.5};
    unsigned kind = choose_byte(c);
    if (kind < 200)
        return numbers[kind % (sizeof numbers / sizeof numbers[0])];
    uint64_t bits = 0;
    for (int i = 0; i < 8; i++)
        bits = bits << 8 | choose_byte(c);
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void turn(struct slice *s, unsigned kind)
{
    static const double planes[][6] = {
        {1, 0, 0, 0, 1, 0},        {0, 1, 0, 0, 0, -1}, {1, 0, 0, 0, 0, -1},         {-1, 0, 0, 0, 1, 0},
        {1, 1e-5, 0, -1e-5, 1, 0}, {1, 0, 0, 1, 0, 0},  {0.6, 0.8, 0, -0.8, 0.6, 0}, {0, 0, 0, 0, 0, 0}};
    memcpy(s->row, planes[kind % 8], sizeof s->row);
    memcpy(s->column, planes[kind % 8] + 3, sizeof s->column);
}

static void put_digit(char *text, unsigned v)
{
    text[0] = (char)('0' + v % 10);
    text[1] = '\0';
}

static void change_text(struct slice *s, unsigned which, unsigned v)
{
    static const char *const types[] = {"ORIGINAL\\PRIMARY\\M",      "DERIVED\\SECONDARY",
                                        "ORIGINAL\\PRIMARY\\MOSAIC", "LOCALIZER",
                                        "ORIGINAL\\PRIMARY\\P\\ND",  ""};
    static const char *const syntaxes[] = {"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.50", "x", ""};
    switch (which % 11) {
    case 0:
        snprintf(s->texts[SLICE_IMAGE_TYPE], SLICE_TEXT_SIZE, "%s", types[v % 6]);
        break;
    case 1:
        put_digit(s->texts[SLICE_SEQUENCE_NAME], v);
        break;
    case 2:
        memset(s->texts[SLICE_PROTOCOL_NAME], 'A' + (int)(v % 26), SLICE_TEXT_SIZE - 1);
        break;
    case 3:
        snprintf(s->transfer_syntax, UID_SIZE, "%s", syntaxes[v % 4]);
        break;
    case 4:
        put_digit(s->frame_of_reference_uid, v);
        break;
    case 5:
        s->frame_of_reference_uid[0] = '\0';
        break;
    case 6:
        put_digit(s->study_uid, v);
        break;
    case 7:
        put_digit(s->patient_digest, v);
        break;
    case 8:
        snprintf(s->acquisition_type, sizeof s->acquisition_type, "%s", v & 1 ? "3D" : "");
        break;
    case 9:
        put_digit(s->acquisition_time, v);
        break;
    default:
        put_digit(s->modality, v);
    }
}

static void change_integer(struct slice *s, unsigned which, int v)
{
    int *const fields[] = {
        &s->frame,          &s->n_frames, &s->enhanced,  &s->own_output,        &s->burned_in,
        &s->diffusion,      &s->n_rows,   &s->n_columns, &s->samples,           &s->bits_allocated,
        &s->bits_stored,    &s->high_bit, &s->is_signed, &s->temporal_position, &s->acquisition_number,
        &s->instance_number};
    *fields[which % 16] = v;
}

static void change_double(struct slice *s, unsigned which, double v)
{
    double *const fields[] = {&s->position[0], &s->position[1], &s->position[2],  &s->row[0],
                              &s->column[1],   &s->row_mm,      &s->column_mm,    &s->thickness_mm,
                              &s->slope,       &s->intercept,   &s->direction[0], &s->spacing_between_mm};
    *fields[which % 12] = v;
}

static void make_slice(struct choices *c, struct slice *s, size_t i, double z_mm, unsigned plane)
{
    memset(s, 0, sizeof *s);
    for (int k = 0; k < SLICE_N_NUMBERS; k++)
        s->numbers[k] = (double)NAN;
    s->slope = 1;
    s->n_frames = s->samples = 1;
    s->has = SLICE_HAS_PIXELS | SLICE_HAS_POSITION | SLICE_HAS_ORIENTATION | SLICE_HAS_SPACING |
             SLICE_HAS_THICKNESS | SLICE_HAS_INSTANCE | SLICE_HAS_ACQUISITION;
    turn(s, plane);
    for (int axis = 0; axis < 3; axis++)
        s->position[axis] = z_mm * (plane % 8 == 0 || plane % 8 > 2 ? axis == 2
                                    : plane % 8 == 1                ? axis == 0
                                                                    : axis == 1);
    s->n_rows = s->n_columns = 64;
    s->bits_allocated = 16;
    s->bits_stored = 12;
    s->high_bit = 11;
    s->row_mm = s->column_mm = 1;
    s->thickness_mm = 4;
    s->instance_number = (int)i + 1;
    s->acquisition_number = 1;
    strcpy(s->sop_class_uid, "1.2.840.10008.5.1.4.1.1.4");
    snprintf(s->sop_uid, UID_SIZE, "1.2.%zu", i);
    strcpy(s->study_uid, "1.3");
    strcpy(s->series_uid, "1.4");
    strcpy(s->frame_of_reference_uid, "1.5");
    snprintf(s->digest, sizeof s->digest, "d%zu", i);
    strcpy(s->modality, "MR");
    strcpy(s->photometric, "MONOCHROME2");
    strcpy(s->acquisition_type, "2D");
    strcpy(s->texts[SLICE_IMAGE_TYPE], "ORIGINAL\\PRIMARY\\M");
    s->numbers[SLICE_ECHO_TIME] = 90;
    unsigned odd = choose_byte(c);
    if (odd & 1)
        s->position[choose_byte(c) % 3] += ((int)choose_16(c) - 32768) * 1e-3;
    if (odd & 2)
        s->numbers[choose_byte(c) % SLICE_N_NUMBERS] = odd_number(c);
    if (odd & 4)
        turn(s, choose_byte(c));
    if (odd & 8)
        change_double(s, choose_byte(c), odd_number(c));
    if (odd & 16)
        change_text(s, choose_byte(c), choose_byte(c));
    if (odd & 32)
        change_integer(s, choose_byte(c), (int16_t)choose_16(c));
    if (odd & 64)
        s->has ^= 1U << choose_byte(c) % 13;
}

// Fills slices and returns how many.
static size_t make_slices(struct choices *c, struct slice *slices)
{
    size_t n = 1 + choose_byte(c) % MAX_SLICES;
    double step_mm = (1 + choose_byte(c)) * 0.05, z_mm = 0;
    unsigned plane = choose_byte(c);
    for (size_t i = 0; i < n; i++) {
        unsigned how = choose_byte(c);
        if (how >= 0xF0 && i > 0) { // a copy, whole or with other contents, or frame two of the same object
            slices[i] = slices[choose_byte(c) % i];
            if (how >= 0xF8)
                snprintf(slices[i].digest, sizeof slices[i].digest, "c%zu", i);
            if (how >= 0xFE)
                slices[i].frame++;
        } else {
            make_slice(c, &slices[i], i, z_mm, plane);
        }
        slices[i].file = i;
        z_mm += step_mm * (how < 0x80 ? 1 : how < 0xC0 ? how & 7 : 1 + (how & 7) * 0.01);
    }
    return n;
}

static int is_copy(const struct slice *a, const struct slice *b)
{
    return strcmp(a->sop_uid, b->sop_uid) == 0 && a->frame == b->frame && strcmp(a->digest, b->digest) == 0;
}

// The first slice with the same contents: stands for all of them.
static size_t first_copy(const struct slice *slices, size_t i)
{
    size_t k = 0;
    while (!is_copy(&slices[k], &slices[i]))
        k++;
    return k;
}

static void check_stack(const struct stack *stack, enum stack_use use)
{
    FUZZ_CHECK(stack->n > 0);
    FUZZ_CHECK(memchr(stack->reason, '\0', sizeof stack->reason) != NULL);
    FUZZ_CHECK(memchr(stack->warnings, '\0', sizeof stack->warnings) != NULL);
    FUZZ_CHECK((stack->verdict == FAULT_OK) == (stack->reason[0] == '\0'));
    if (stack->verdict != FAULT_OK) {
        FUZZ_CHECK(use == STACK_TO_LEARN || fault_class_of(stack->verdict) == FAULT_CLASS_REFUSAL ||
                   stack->verdict == FAULT_PIXEL_SIZE || stack->verdict == FAULT_TRANSFER_SYNTAX);
        return;
    }
    FUZZ_CHECK(stack->n >= STACK_MIN_SLICES && stack->z_mm != NULL);
    FUZZ_CHECK(isfinite(stack->slice_mm) && stack->slice_mm > 0);
    double length = 0;
    for (int i = 0; i < 3; i++)
        length += stack->normal[i] * stack->normal[i];
    FUZZ_CHECK(fabs(length - 1) < 1e-6);
    for (size_t i = 0; i < stack->n; i++)
        FUZZ_CHECK(isfinite(stack->z_mm[i]) && (i == 0 || stack->z_mm[i] > stack->z_mm[i - 1]));
}

static void check_members(const struct slice *slices, size_t n, const struct stack *stacks, size_t n_stacks)
{
    unsigned times[MAX_SLICES] = {0};
    for (size_t k = 0; k < n_stacks; k++)
        for (size_t i = 0; i < stacks[k].n; i++) {
            FUZZ_CHECK(stacks[k].members[i] < n);
            times[stacks[k].members[i]]++;
        }
    for (size_t i = 0; i < n; i++) {
        unsigned of_copies = 0;
        for (size_t k = 0; k < n; k++)
            of_copies += is_copy(&slices[i], &slices[k]) ? times[k] : 0;
        FUZZ_CHECK(times[i] <= 1 && of_copies == 1);
    }
}

static int is_same(double a, double b)
{
    return a == b || (isnan(a) && isnan(b));
}

static void check_same(const struct slice *slices, const struct stack *a, const struct stack *b,
                       const size_t *b_index)
{
    FUZZ_CHECK(a->verdict == b->verdict && a->n == b->n);
    FUZZ_CHECK(strcmp(a->reason, b->reason) == 0 && strcmp(a->warnings, b->warnings) == 0);
    FUZZ_CHECK(is_same(a->slice_mm, b->slice_mm));
    FUZZ_CHECK((a->z_mm == NULL) == (b->z_mm == NULL));
    for (size_t i = 0; i < a->n; i++) {
        FUZZ_CHECK(first_copy(slices, a->members[i]) == first_copy(slices, b_index[b->members[i]]));
        FUZZ_CHECK(a->z_mm == NULL || is_same(a->z_mm[i], b->z_mm[i]));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct slice slices[MAX_SLICES], shuffled[MAX_SLICES];
    size_t index[MAX_SLICES];
    struct choices c = {data, size};
    struct fault_note why;
    struct stack *stacks = NULL, *others = NULL;
    size_t n_stacks = 0, n_others = 0;
    enum stack_use use = choose_byte(&c) & 1 ? STACK_TO_LEARN : STACK_TO_DERIVE;
    uint32_t random = choose_16(&c);
    size_t n = make_slices(&c, slices);
    for (size_t i = 0; i < n; i++)
        index[i] = i;
    for (size_t i = n; i > 1; i--) {
        random = random * 1664525 + 1013904223;
        size_t k = (random >> 8) % i, kept = index[i - 1];
        index[i - 1] = index[k];
        index[k] = kept;
    }
    for (size_t i = 0; i < n; i++) {
        shuffled[i] = slices[index[i]];
        shuffled[i].file = i;
    }
    FUZZ_CHECK(stack_sort(slices, n, use, &stacks, &n_stacks, &why) == 0);
    FUZZ_CHECK(stack_sort(shuffled, n, use, &others, &n_others, &why) == 0);
    FUZZ_CHECK(n_stacks == n_others);
    check_members(slices, n, stacks, n_stacks);
    for (size_t i = 0; i < n_stacks; i++) {
        check_stack(&stacks[i], use);
        check_same(slices, &stacks[i], &others[i], index);
    }
    stack_free(stacks, n_stacks);
    stack_free(others, n_others);
    return 0;
}
