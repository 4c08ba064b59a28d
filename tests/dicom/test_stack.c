// SPDX-License-Identifier: Apache-2.0
//
// Stacks from slices made by hand: no files, no DICOM library.
#include "dicom_map/stack.h"
#include "tests/support/check.h"

static struct fault_note why;

enum { MOST = 200 };
static struct slice made[MOST];
static size_t n_made;
static struct stack *stacks;
static size_t n_stacks;
static enum stack_use wanted = STACK_TO_DERIVE;

static uint32_t random_state = 1;

static uint32_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

static double noise(double size)
{
    return size * ((double)next_random() / 4294967296.0 - 0.5) * 2;
}

// A plain oblique 2D slice at z along its normal.
static struct slice *add(double z)
{
    static const double row[3] = {0.96, 0.28, 0}, column[3] = {-0.168, 0.576, -0.8},
                        normal[3] = {-0.224, 0.768, 0.6};
    struct slice *s = &made[n_made];
    slice_init(s);
    s->has = SLICE_HAS_PIXELS | SLICE_HAS_POSITION | SLICE_HAS_ORIENTATION | SLICE_HAS_SPACING |
             SLICE_HAS_THICKNESS | SLICE_HAS_INSTANCE;
    strcpy(s->sop_class_uid, "1.2.840.10008.5.1.4.1.1.4");
    snprintf(s->sop_uid, UID_SIZE, "1.2.3.%zu", 1000 + n_made);
    strcpy(s->study_uid, "1.2.1");
    strcpy(s->series_uid, "1.2.2");
    strcpy(s->frame_of_reference_uid, "1.2.4");
    snprintf(s->digest, DIGEST_HEX_SIZE, "%064zu", n_made);
    strcpy(s->patient_digest, "p");
    strcpy(s->modality, "MR");
    strcpy(s->photometric, "MONOCHROME2");
    strcpy(s->acquisition_type, "2D");
    strcpy(s->texts[SLICE_IMAGE_TYPE], "ORIGINAL\\PRIMARY\\M\\ND");
    s->n_rows = 256;
    s->n_columns = 224;
    s->bits_allocated = 16;
    s->bits_stored = 12;
    s->high_bit = 11;
    memcpy(s->row, row, sizeof row);
    memcpy(s->column, column, sizeof column);
    for (int i = 0; i < 3; i++)
        s->position[i] = -100 + 10 * i + z * normal[i];
    s->row_mm = s->column_mm = s->numbers[SLICE_ROW_MM] = s->numbers[SLICE_COLUMN_MM] = 0.9;
    s->thickness_mm = 5;
    s->numbers[SLICE_ECHO_TIME] = 90;
    s->instance_number = (int)n_made + 1;
    s->file = n_made++;
    return s;
}

static void add_stack(size_t n, double distance)
{
    for (size_t i = 0; i < n; i++)
        add((double)i * distance);
}

static void shift(struct slice *s, double along_row)
{
    for (int i = 0; i < 3; i++)
        s->position[i] += along_row * s->row[i];
}

static void sort_made(void)
{
    stack_free(stacks, n_stacks);
    stacks = NULL;
    n_stacks = 0;
    CHECK_OK(stack_sort(made, n_made, wanted, &stacks, &n_stacks, &why));
    size_t total = 0;
    for (size_t i = 0; i < n_stacks; i++) {
        total += stacks[i].n;
        fprintf(stderr, "%zu: %s n=%zu %s | %s\n", i, fault_name(stacks[i].verdict), stacks[i].n,
                stacks[i].reason, stacks[i].warnings);
        CHECK((stacks[i].verdict == FAULT_OK) == (stacks[i].reason[0] == '\0'));
    }
    CHECK(total <= n_made);
}

// The whole series has one outcome.
static void expect(enum fault verdict, const char *reason)
{
    sort_made();
    CHECK_INT(n_stacks, 1);
    CHECK_STR(fault_name(stacks[0].verdict), fault_name(verdict));
    CHECK_INT(stacks[0].n, n_made);
    CHECK_CONTAINS(stacks[0].reason, reason);
}

static void plain_stack(void)
{
    add_stack(20, 6.5);
    sort_made();
    CHECK_INT(n_stacks, 1);
    CHECK_INT(stacks[0].verdict, FAULT_OK);
    CHECK_INT(stacks[0].n, 20);
    CHECK_NEAR(stacks[0].slice_mm, 6.5, 1e-9);
    CHECK_STR(stacks[0].warnings, "");
    for (size_t i = 0; i < 20; i++) {
        CHECK_INT(stacks[0].members[i], i);
        CHECK_NEAR(stacks[0].z_mm[i] - stacks[0].z_mm[0], 6.5 * (double)i, 1e-9);
    }
}

// ---- properties: order, noise, direction

static char *outcome(void)
{
    static char text[2][20000];
    static int which;
    char *out = text[which ^= 1];
    size_t at = 0;
    sort_made();
    for (size_t i = 0; i < n_stacks; i++) {
        at += (size_t)snprintf(out + at, sizeof text[0] - at, "%s %s %s:", fault_name(stacks[i].verdict),
                               stacks[i].reason, stacks[i].warnings);
        for (size_t j = 0; j < stacks[i].n; j++)
            at += (size_t)snprintf(out + at, sizeof text[0] - at, " %s", made[stacks[i].members[j]].sop_uid);
        at += (size_t)snprintf(out + at, sizeof text[0] - at, "\n");
    }
    return out;
}

// A bit of everything.
static void add_mixture(void)
{
    add_stack(20, 6.5);
    for (size_t i = 0; i < 12; i++)
        add((double)i * 5)->numbers[SLICE_ECHO_TIME] = 12;
    for (size_t i = 0; i < 3; i++)
        strcpy(add((double)i)->texts[SLICE_IMAGE_TYPE], "DERIVED\\SECONDARY\\MPR");
    for (size_t i = 0; i < 9; i++)
        shift(add((double)i * 4), 50);
    for (size_t i = 0; i < 14; i++)
        strcpy(add((double)(i % 7) * 6)->texts[SLICE_SEQUENCE_NAME], "*dup");
    add(3)->has &= ~(unsigned)SLICE_HAS_POSITION;
    made[5] = made[4]; // an exact copy
}

static void shuffle_changes_nothing(void)
{
    add_mixture();
    char *want = strdup(outcome());
    CHECK(want != NULL);
    CHECK_CONTAINS(want, "OK");
    CHECK_CONTAINS(want, "DERIVED");
    for (int round = 0; round < 200; round++) {
        for (size_t i = n_made - 1; i > 0; i--) {
            size_t j = next_random() % (i + 1);
            struct slice swap = made[i];
            made[i] = made[j];
            made[j] = swap;
        }
        CHECK_STR(outcome(), want);
    }
    free(want);
}

static void vendor_noise_changes_nothing(void)
{
    for (int round = 0; round < 100; round++) {
        n_made = 0;
        add_stack(24, 5.5);
        for (size_t i = 0; i < n_made; i++)
            for (int axis = 0; axis < 3; axis++) {
                made[i].position[axis] += noise(1.2e-5);
                made[i].row[axis] += noise(3.3e-8);
                made[i].column[axis] += noise(3.3e-8);
            }
        sort_made();
        CHECK_INT(n_stacks, 1);
        CHECK_INT(stacks[0].verdict, FAULT_OK);
        CHECK_STR(stacks[0].warnings, "");
        CHECK_NEAR(stacks[0].slice_mm, 5.5, 5e-5);
    }
}

static void reversed_numbers_do_not_matter(void)
{
    add_stack(10, 5);
    for (size_t i = 0; i < n_made; i++)
        made[i].instance_number = (int)(n_made - i);
    sort_made();
    CHECK_INT(stacks[0].verdict, FAULT_OK);
    CHECK_INT(stacks[0].members[0], 0);
}

// ---- splitting

static void echoes_are_split(void)
{
    add_stack(10, 5);
    add_stack(10, 5);
    for (size_t i = 10; i < 20; i++)
        made[i].numbers[SLICE_ECHO_TIME] = 20;
    made[3].numbers[SLICE_ECHO_TIME] *= 1 + 5e-4; // within the tolerance
    sort_made();
    CHECK_INT(n_stacks, 2);
    CHECK_INT(stacks[0].verdict, FAULT_OK);
    CHECK_INT(stacks[1].verdict, FAULT_OK);
    CHECK_NEAR(made[stacks[0].members[0]].numbers[SLICE_ECHO_TIME], 20, 0);
}

static void magnitude_and_phase_are_split(void)
{
    add_stack(10, 5);
    add_stack(10, 5);
    for (size_t i = 10; i < 20; i++)
        strcpy(made[i].texts[SLICE_IMAGE_TYPE], "ORIGINAL\\PRIMARY\\P\\ND");
    sort_made();
    CHECK_INT(n_stacks, 2);
    CHECK_STR(fault_name(stacks[0].verdict), "OK");
    CHECK_STR(fault_name(stacks[1].verdict), "PHASE");
    CHECK_INT(stacks[1].members[0], 10);
}

// Phases were interpolated like intensities: between 3.1 and -3.1 radian lay 0, half a turn off. Whoever says
// that they are phases is believed; real and imaginary values lie on a line.
static void phases_are_refused(void)
{
    static const struct {
        const char *image_type, *component;
        enum fault fault;
    } cases[] = {
        {"ORIGINAL\\PRIMARY\\P\\ND", "", FAULT_PHASE},
        {"ORIGINAL\\PRIMARY\\PHASE MAP\\P\\FFE", "", FAULT_PHASE},
        {"ORIGINAL\\PRIMARY\\PHASE", "", FAULT_PHASE},
        {"ORIGINAL\\PRIMARY\\OTHER\\PHASE_MAP", "", FAULT_PHASE},
        {"ORIGINAL\\PRIMARY\\VELOCITY MAP\\PCA", "", FAULT_PHASE},
        {"ORIGINAL\\PRIMARY\\OTHER", "GE 1", FAULT_PHASE},
        {"ORIGINAL\\PRIMARY\\T1\\NONE", "PHASE", FAULT_PHASE},
        {"ORIGINAL\\PRIMARY\\P\\ND", "MAGNITUDE", FAULT_PHASE},
        {"ORIGINAL\\PRIMARY\\M\\ND", "PHASE", FAULT_PHASE},
        {"ORIGINAL\\PRIMARY\\M_FFE\\M\\FFE", "", FAULT_OK},
        {"ORIGINAL\\PRIMARY\\PCA", "GE 0", FAULT_OK},
        {"ORIGINAL\\PRIMARY\\OTHER", "GE 10", FAULT_OK},
        {"ORIGINAL\\PRIMARY\\R\\ND", "", FAULT_OK},
        {"ORIGINAL\\PRIMARY\\I\\ND", "", FAULT_OK},
        {"ORIGINAL\\PRIMARY\\T1\\NONE", "REAL", FAULT_OK},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        n_made = 0;
        add_stack(10, 5);
        for (size_t k = 0; k < n_made; k++) {
            snprintf(made[k].texts[SLICE_IMAGE_TYPE], sizeof made[k].texts[0], "%s", cases[i].image_type);
            snprintf(made[k].texts[SLICE_COMPLEX_COMPONENT], sizeof made[k].texts[0], "%s",
                     cases[i].component);
        }
        expect(cases[i].fault, cases[i].fault == FAULT_OK ? "" : cases[i].image_type);
    }
    wanted = STACK_TO_LEARN;
    strcpy(made[0].texts[SLICE_COMPLEX_COMPONENT], "PHASE");
    sort_made();
    CHECK_STR(fault_name(stacks[n_stacks - 1].verdict), "PHASE");
}

static void turn(struct slice *s)
{
    for (int i = 0; i < 3; i++) {
        double swap = s->row[i];
        s->row[i] = s->column[i];
        s->column[i] = -swap;
    }
    double tilted[3] = {-0.224, 0.768, 0.6};
    memcpy(s->column, tilted, sizeof tilted);
}

static void two_orientations_are_split(void)
{
    add_stack(10, 5);
    for (size_t i = 0; i < 10; i++) {
        struct slice *s = add(0);
        turn(s);
        double n[3] = {s->row[1] * s->column[2] - s->row[2] * s->column[1],
                       s->row[2] * s->column[0] - s->row[0] * s->column[2],
                       s->row[0] * s->column[1] - s->row[1] * s->column[0]};
        for (int axis = 0; axis < 3; axis++)
            s->position[axis] += 5.0 * (double)i * n[axis];
    }
    sort_made();
    CHECK_INT(n_stacks, 2);
    CHECK_INT(stacks[0].verdict, FAULT_OK);
    CHECK_INT(stacks[1].verdict, FAULT_OK);
}

static void localizer_by_geometry(void)
{
    add_stack(7, 20);
    for (size_t i = 0; i < 4; i++)
        turn(add((double)i * 20));
    expect(FAULT_LOCALIZER, "2 orientations");
}

static void offset_stacks_are_split(void)
{
    add_stack(10, 5);
    for (size_t i = 0; i < 8; i++)
        shift(add((double)i * 5 + 2), 30);
    sort_made();
    CHECK_INT(n_stacks, 2);
    CHECK_INT(stacks[0].n, 10);
    CHECK_INT(stacks[1].n, 8);
}

static void packages_are_split(void)
{
    add_stack(8, 4);
    for (size_t i = 0; i < 8; i++)
        add(28 + 4 * 5.4 + (double)i * 4);
    sort_made();
    CHECK_INT(n_stacks, 2);
    CHECK_INT(stacks[0].verdict, FAULT_OK);
    CHECK_INT(stacks[1].verdict, FAULT_OK);
    CHECK_INT(stacks[0].members[0], 0);
}

static void volumes_are_split(void)
{
    for (int by = 0; by < 4; by++) {
        n_made = 0;
        for (int volume = 0; volume < 3; volume++)
            for (int i = 0; i < 8; i++) {
                struct slice *s = add(5.0 * i);
                s->instance_number = by == 3 ? volume * 8 + i : 1;
                if (by == 0) {
                    s->temporal_position = volume;
                    s->has |= SLICE_HAS_TEMPORAL;
                }
                if (by == 1) {
                    s->acquisition_number = volume + 5;
                    s->has |= SLICE_HAS_ACQUISITION;
                }
                if (by == 2)
                    snprintf(s->acquisition_time, sizeof s->acquisition_time, "1015%02d.5", volume * 20);
            }
        sort_made();
        CHECK_INT(n_stacks, 3);
        for (int volume = 0; volume < 3; volume++) {
            CHECK_INT(stacks[volume].verdict, FAULT_OK);
            CHECK_INT(stacks[volume].n, 8);
            for (size_t i = 0; i < 8; i++)
                CHECK_INT(stacks[volume].members[i] / 8, stacks[volume].members[0] / 8);
        }
    }
}

// ---- refusals

static void duplicates(void)
{
    add_stack(10, 5);
    add(20)->instance_number = 5;
    expect(FAULT_DUPLICATE_POSITIONS, "11 images at 10 positions, 1 to 2 at each");
    n_made = 0;
    for (int i = 0; i < 20; i++)
        add((i & ~1) * 2.5); // echoes that take turns, with nothing that tells them apart
    expect(FAULT_DUPLICATE_POSITIONS, "20 images at 10 positions, 2 to 2");
}

static void missing_slices(void)
{
    for (int i = 0; i < 20; i++)
        if (i != 7 && i != 12 && i != 13)
            add(5.0 * i);
    expect(FAULT_MISSING_SLICES,
           "3 missing (1 after slice 7; 2 after slice 11) at a slice distance of 5.000 mm");
}

// Dropping any one inner slice of a stack is seen.
static void every_dropped_slice_is_missed(void)
{
    for (int drop = 1; drop < 11; drop++) {
        n_made = 0;
        for (int i = 0; i < 12; i++)
            if (i != drop)
                add(6.0 * i + noise(1e-5));
        expect(FAULT_MISSING_SLICES, "1 missing");
    }
}

static void say_spacing(double thickness, double spacing)
{
    for (size_t i = 0; i < n_made; i++) {
        made[i].thickness_mm = thickness;
        made[i].spacing_between_mm = spacing;
        made[i].has |= SLICE_HAS_SPACING_BETWEEN;
    }
}

static void expect_ok(void)
{
    sort_made();
    CHECK_INT(n_stacks, 1);
    CHECK_STR(fault_name(stacks[0].verdict), "OK");
}

// A sender that stopped passing on every second image: what came was as even as a stack of its own, and went
// out as one, with no more than a warning about Spacing Between Slices.
static void a_regular_part_is_not_the_whole(void)
{
    add_stack(6, 8);
    say_spacing(3.6, 4);
    expect(FAULT_MISSING_SLICES,
           "8.000 mm apart, 2 times the Spacing Between Slices of 4.000 mm, and slices of "
           "3.600 mm leave room for 1 more in every gap");
    say_spacing(4, 4); // no gaps: half the slices, not a gap of 4 mm
    expect(FAULT_MISSING_SLICES, "2 times");
    say_spacing(2.4, -8.0 / 3);
    expect(FAULT_MISSING_SLICES, "3 times");
    for (size_t i = 0; i < n_made; i++)
        made[i].has &= ~(unsigned)SLICE_HAS_THICKNESS;
    expect(FAULT_MISSING_SLICES, "slices of unknown thickness");
    wanted = STACK_TO_LEARN;
    expect(FAULT_MISSING_SLICES, "3 times");
}

// Some vendors write the gap there. Thickness and gap then make up the distance, and nothing fits between.
static void a_gap_for_spacing_is_no_part(void)
{
    add_stack(8, 6);
    say_spacing(4, 2); // a third of the distance
    expect_ok();
    CHECK_CONTAINS(stacks[0].warnings, "Spacing Between Slices says 2.000 mm, the positions 6.000 mm");
    say_spacing(5, 1);
    expect_ok();
    say_spacing(6, 0);
    expect_ok();
    say_spacing(3.6, 2.5); // no whole part
    expect_ok();
    say_spacing(5, 6);
    expect_ok();
    CHECK_STR(stacks[0].warnings, "");
    say_spacing(6, 3); // overlapping slices
    expect_ok();
}

// About the normal through the centre of the image, by an angle, radian.
static void tilt(struct slice *s, double angle)
{
    double row[3], half[2] = {s->column_mm * (s->n_columns - 1) / 2, s->row_mm * (s->n_rows - 1) / 2};
    for (int i = 0; i < 3; i++) {
        double centre = s->position[i] + half[0] * s->row[i] + half[1] * s->column[i];
        row[i] = cos(angle) * s->row[i] + sin(angle) * s->column[i];
        s->column[i] = cos(angle) * s->column[i] - sin(angle) * s->row[i];
        s->row[i] = row[i];
        s->position[i] = centre - half[0] * s->row[i] - half[1] * s->column[i];
    }
}

// Packages or heart beats that took turns, slice by slice: every group was as even as a stack of its own.
static void turns_are_not_stacks(void)
{
    static const char *const unlike[] = {"Repetition Time", "Trigger Time",      "Image Type",
                                         "Inversion Time",  "position in plane", "orientation"};
    for (int by = 0; by < 6; by++)
        for (int n_turns = 2; n_turns <= 3; n_turns++) {
            n_made = 0;
            add_stack(18, 4);
            for (size_t i = 0; i < n_made; i++) {
                int turn = (int)i % n_turns;
                made[i].thickness_mm = 3.6;
                made[i].numbers[SLICE_REPETITION_TIME] = by == 0 ? 4000 + 10 * turn : 4000;
                made[i].numbers[SLICE_TRIGGER_TIME] = by == 1 ? 300 + turn : 300;
                if (by == 2 && turn > 0)
                    snprintf(made[i].texts[SLICE_IMAGE_TYPE], sizeof made[i].texts[0],
                             "ORIGINAL\\PRIMARY\\M%s", turn > 1 ? "\\NORM" : "");
                if (by == 3) // one turn's header does not say it
                    made[i].numbers[SLICE_INVERSION_TIME] = turn > 0 ? 100.0 * turn : (double)NAN;
                if (by == 4)
                    shift(&made[i], 0.5 * turn);
                if (by == 5)
                    tilt(&made[i], 2e-3 * turn);
            }
            sort_made();
            CHECK_INT(n_stacks, n_turns);
            for (int i = 0; i < n_turns; i++) {
                CHECK_STR(fault_name(stacks[i].verdict), "MISSING_SLICES");
                CHECK_CONTAINS(stacks[i].reason, "images of the same pixels between these");
                CHECK_CONTAINS(stacks[i].reason, n_turns == 2 ? "8.000 mm" : "12.000 mm");
                CHECK_CONTAINS(stacks[i].reason, "unlike them in ");
                CHECK_CONTAINS(stacks[i].reason, unlike[by]);
            }
        }
}

// Every slice at a time of its own after the heart beat: refused as what it is, where phases of a few slices
// are nothing to do.
static void triggered_slices_are_named(void)
{
    add_stack(18, 4);
    for (size_t i = 0; i < n_made; i++)
        made[i].numbers[SLICE_TRIGGER_TIME] = 300 + 10 * (double)i;
    sort_made();
    CHECK_INT(n_stacks, 18);
    for (size_t i = 0; i < n_stacks; i++) {
        CHECK_STR(fault_name(stacks[i].verdict), "MISSING_SLICES");
        CHECK_CONTAINS(stacks[i].reason, "17 more, at other positions, are alike in all but Trigger Time");
    }
    n_made = 0;
    for (size_t phase = 0; phase < 20; phase++)
        for (size_t i = 0; i < 3; i++)
            add(4 * (double)i)->numbers[SLICE_TRIGGER_TIME] = 30 * (double)phase;
    sort_made();
    CHECK_INT(n_stacks, 20);
    for (size_t i = 0; i < n_stacks; i++)
        CHECK_STR(fault_name(stacks[i].verdict), "NOTHING_TO_DO");
}

// Groups at the same positions, beside them, one after the other or elsewhere in plane are stacks, each.
static void groups_beside_each_other_are_stacks(void)
{
    static const double beside[] = {0, 0.5, 50, 2.5};
    for (int kind = 0; kind < 4; kind++) {
        n_made = 0;
        add_stack(10, 5);
        for (size_t i = 0; i < 10; i++) {
            struct slice *s = add(5 * (double)i + beside[kind]);
            s->numbers[SLICE_ECHO_TIME] = 20;
            if (kind == 3)
                shift(s, 30);
        }
        sort_made();
        CHECK_INT(n_stacks, 2);
        for (int i = 0; i < 2; i++) {
            CHECK_STR(fault_name(stacks[i].verdict), "OK");
            CHECK_STR(stacks[i].warnings, "");
        }
    }
    // half of one echo came: the other is whole all the same
    n_made = 0;
    add_stack(11, 4);
    for (size_t i = 0; i < 6; i++)
        add(8 * (double)i)->numbers[SLICE_ECHO_TIME] = 20;
    sort_made();
    CHECK_INT(n_stacks, 2);
    CHECK_STR(fault_name(stacks[0].verdict), "OK");
    CHECK_INT(stacks[0].n, 11);
    CHECK_STR(fault_name(stacks[1].verdict), "MISSING_SLICES");
    CHECK_CONTAINS(stacks[1].reason, "5 images");
    CHECK_CONTAINS(stacks[1].reason, "Echo Time");
}

static void uneven(void)
{
    add_stack(12, 5);
    for (int axis = 0; axis < 3; axis++)
        made[6].position[axis] += 0.2 * (double[]){-0.224, 0.768, 0.6}[axis]; // 4 % of 5 mm
    sort_made();
    CHECK_INT(stacks[0].verdict, FAULT_OK);
    CHECK_CONTAINS(stacks[0].warnings, "4.800 to 5.200 mm (4.0 %)");
    for (int axis = 0; axis < 3; axis++)
        made[6].position[axis] += 0.3 * (double[]){-0.224, 0.768, 0.6}[axis];
    expect(FAULT_NON_UNIFORM, "4.500 to 5.500 mm");
}

static void sheared(void)
{
    add_stack(12, 5);
    for (size_t i = 0; i < n_made; i++)
        shift(&made[i], 0.5 * (double)i);
    expect(FAULT_SHEARED, "5.50 mm");
    for (size_t i = 0; i < n_made; i++)
        shift(&made[i], -0.5 * (double)i + 0.005 * (double)i); // a drift that is followed
    sort_made();
    CHECK_INT(stacks[0].verdict, FAULT_OK);
}

static void nothing_to_do(void)
{
    add_stack(4, 5);
    expect(FAULT_NOTHING_TO_DO, "4 slices, at least 5");
    n_made = 0;
    add_stack(40, 1.1);
    expect(FAULT_NOTHING_TO_DO, "1.22 times the pixel");
}

static void three_dimensional(void)
{
    add_stack(30, 3);
    for (size_t i = 0; i < n_made; i++)
        strcpy(made[i].acquisition_type, "3D");
    expect(FAULT_SKIP_3D, "3D");
    for (size_t i = 0; i < n_made; i++)
        strcpy(made[i].acquisition_type, "");
    sort_made();
    CHECK_INT(stacks[0].verdict, FAULT_OK);
    for (size_t i = 0; i < n_made; i++)
        made[i].thickness_mm = 1;
    expect(FAULT_SKIP_3D, "thickness 1.000 mm");
}

// Thin, three-dimensional, oblong: nothing to interpolate, but good to learn from; too few stay too few.
static void to_learn_from(void)
{
    add_stack(30, 0.9);
    for (size_t i = 0; i < n_made; i++) {
        strcpy(made[i].acquisition_type, "3D");
        made[i].row_mm = made[i].numbers[SLICE_ROW_MM] = 2;
    }
    expect(FAULT_NOTHING_TO_DO, "1.00 times the pixel");
    wanted = STACK_TO_LEARN;
    sort_made();
    CHECK_INT(n_stacks, 1);
    CHECK_STR(fault_name(stacks[0].verdict), "OK");
    CHECK_NEAR(stacks[0].slice_mm, 0.9, 1e-9);
    n_made = 4;
    expect(FAULT_NOTHING_TO_DO, "4 slices, at least 5");
}

static void non_square(void)
{
    add_stack(10, 5);
    for (size_t i = 0; i < n_made; i++)
        made[i].row_mm = made[i].numbers[SLICE_ROW_MM] = 3.6;
    sort_made();
    CHECK_INT(stacks[0].verdict, FAULT_OK);
    for (size_t i = 0; i < n_made; i++)
        made[i].row_mm = made[i].numbers[SLICE_ROW_MM] = 3.7;
    expect(FAULT_NON_SQUARE_PIXELS, "3.700 x 0.900 mm, at most 1 : 4.0");
    for (size_t i = 0; i < n_made; i++) {
        made[i].row_mm = made[i].numbers[SLICE_ROW_MM] = 1.8;
        made[i].n_rows = 2050;
    }
    expect(FAULT_NON_SQUARE_PIXELS, "would become 4099 of 0.900 mm");
}

static void multiframe(void)
{
    add_stack(10, 5);
    for (size_t i = 0; i < n_made; i++) {
        made[i].enhanced = 1;
        made[i].n_frames = 10;
        made[i].frame = (int)i;
        strcpy(made[i].sop_uid, "1.2.3");
        strcpy(made[i].digest, "same");
        made[i].has |= SLICE_HAS_GROUPS | SLICE_HAS_SEQUENCE;
    }
    sort_made();
    CHECK_INT(n_stacks, 1);
    CHECK_STR(fault_name(stacks[0].verdict), "OK");
    CHECK_INT(stacks[0].n, 10);
    CHECK_STR(stacks[0].warnings, "");
    for (size_t i = 0; i < n_made; i++)
        made[i].has &= ~(unsigned)SLICE_HAS_SEQUENCE;
    expect(FAULT_MULTIFRAME, "Echo Pulse Sequence");
    for (size_t i = 0; i < n_made; i++)
        made[i].has &= ~(unsigned)SLICE_HAS_GROUPS;
    expect(FAULT_MULTIFRAME, "10 frames without functional groups");
    for (size_t i = 0; i < n_made; i++)
        made[i].enhanced = 0;
    expect(FAULT_MULTIFRAME, "classic");
}

static void mixed_patient(void)
{
    add_stack(10, 5);
    strcpy(made[4].patient_digest, "q");
    expect(FAULT_MIXED_PATIENT, "Patient ID");
    strcpy(made[4].patient_digest, "p");
    strcpy(made[4].study_uid, "1.9");
    expect(FAULT_MIXED_PATIENT, "Study Instance UID");
    strcpy(made[4].study_uid, "1.2.1");
    strcpy(made[4].frame_of_reference_uid, "1.9");
    expect(FAULT_MIXED_PATIENT, "Frame of Reference");
}

static void one_diffusion_image_is_enough(void)
{
    add_stack(10, 5);
    made[3].diffusion = 1;
    expect(FAULT_DIFFUSION, "1 of 10");
}

static void copies_and_conflicts(void)
{
    add_stack(10, 5);
    made[n_made] = made[2];
    made[n_made++].file = 99;
    sort_made();
    CHECK_INT(n_stacks, 1);
    CHECK_INT(stacks[0].verdict, FAULT_OK);
    CHECK_INT(stacks[0].n, 10);
    CHECK_CONTAINS(stacks[0].warnings, "1 exact copy");
    strcpy(made[10].digest, "other");
    expect(FAULT_IN_CONFLICT, made[2].sop_uid);
}

// One slice with one fault: it alone is refused.
static void expect_one_out(enum fault fault, const char *reason)
{
    sort_made();
    CHECK_INT(n_stacks, 2);
    CHECK_INT(stacks[0].verdict, FAULT_OK);
    CHECK_INT(stacks[0].n, 10);
    CHECK_STR(fault_name(stacks[1].verdict), fault_name(fault));
    CHECK_INT(stacks[1].n, 1);
    CHECK_CONTAINS(stacks[1].reason, reason);
    CHECK_CONTAINS(stacks[1].reason, "1 image: ");
}

static struct slice *odd_one(void)
{
    n_made = 0;
    add_stack(10, 5);
    return add(50);
}

static void single_images(void)
{
    strcpy(odd_one()->sop_class_uid, "1.2.840.10008.5.1.4.1.1.7");
    expect_one_out(FAULT_NOT_MR, "1.2.840.10008.5.1.4.1.1.7");
    strcpy(odd_one()->modality, "CT");
    expect_one_out(FAULT_NOT_MR, "'CT'");
    odd_one()->has &= ~(unsigned)SLICE_HAS_PIXELS;
    expect_one_out(FAULT_NO_PIXELS, "no pixel data");
    odd_one()->own_output = 1;
    expect_one_out(FAULT_OWN_OUTPUT, "Isoslice");
    strcpy(odd_one()->texts[SLICE_IMAGE_TYPE], "DERIVED\\PRIMARY\\ADC");
    expect_one_out(FAULT_DERIVED, "ADC");
    strcpy(odd_one()->texts[SLICE_IMAGE_TYPE], "ORIGINAL\\PRIMARY\\M\\ND\\MOSAIC");
    expect_one_out(FAULT_MOSAIC, "256 x 224");
    strcpy(odd_one()->texts[SLICE_IMAGE_TYPE], "ORIGINAL\\PRIMARY\\LOCALIZER\\M");
    expect_one_out(FAULT_LOCALIZER, "LOCALIZER");
    odd_one()->burned_in = 1;
    expect_one_out(FAULT_BURNED_IN, "YES");
    strcpy(odd_one()->photometric, "MONOCHROME1");
    expect_one_out(FAULT_PHOTOMETRIC, "MONOCHROME1");
    odd_one()->samples = 3;
    expect_one_out(FAULT_PHOTOMETRIC, "3 samples");
    odd_one()->bits_allocated = 32;
    expect_one_out(FAULT_PHOTOMETRIC, "allocated 32");
    odd_one()->bits_stored = 17;
    expect_one_out(FAULT_PHOTOMETRIC, "stored 17");
    odd_one()->high_bit = 10;
    expect_one_out(FAULT_PHOTOMETRIC, "high bit 10");
    odd_one()->n_rows = 5000;
    expect_one_out(FAULT_PIXEL_SIZE, "5000");
    odd_one()->n_frames = 3;
    expect_one_out(FAULT_MULTIFRAME, "3 frames");
    odd_one()->has &= ~(unsigned)SLICE_HAS_ORIENTATION;
    expect_one_out(FAULT_NO_POSITION, "Image Orientation (Patient)");
    odd_one()->frame_of_reference_uid[0] = '\0';
    expect_one_out(FAULT_NO_FRAME_OF_REFERENCE, "Frame of Reference");
    odd_one()->row[0] = 0.5;
    expect_one_out(FAULT_BAD_GEOMETRY, "cosines");
    odd_one()->position[1] = 2e5;
    expect_one_out(FAULT_BAD_GEOMETRY, "200000 mm");
    odd_one()->row_mm = 0;
    expect_one_out(FAULT_BAD_GEOMETRY, "0 x 0.9");
    strcpy(odd_one()->transfer_syntax, "1.2.840.10008.1.2.4.91");
    expect_one_out(FAULT_TRANSFER_SYNTAX, "1.2.840.10008.1.2.4.91");
}

static void too_many(void)
{
    enum { N = STACK_MAX_SLICES + 1 };
    struct slice *many = malloc(N * sizeof *many);
    CHECK(many != NULL);
    add(0);
    for (size_t i = 0; i < N; i++) {
        many[i] = made[0];
        snprintf(many[i].sop_uid, UID_SIZE, "1.2.%zu", i);
        for (int axis = 0; axis < 3; axis++)
            many[i].position[axis] += 2.0 * (double)i * (double[]){-0.224, 0.768, 0.6}[axis];
    }
    CHECK_OK(stack_sort(many, N, STACK_TO_DERIVE, &stacks, &n_stacks, &why));
    CHECK_INT(n_stacks, 1);
    CHECK_INT(stacks[0].verdict, FAULT_TOO_MANY_PLANES);
    free(many);
}

static void empty_series(void)
{
    CHECK_OK(stack_sort(made, 0, STACK_TO_DERIVE, &stacks, &n_stacks, &why));
    CHECK_INT(n_stacks, 0);
}

// Random facts, random order: no crash, every slice accounted for, the same twice.
static void random_series(void)
{
    random_state = 7;
    for (int round = 0; round < 3000; round++) {
        n_made = 0;
        size_t n = 1 + next_random() % 40;
        double distance = (double)(next_random() % 100) / 10;
        for (size_t i = 0; i < n; i++) {
            struct slice *s = add(distance * (double)(next_random() % 20));
            switch (next_random() % 12) {
            case 0:
                shift(s, noise(2));
                break;
            case 1:
                s->position[next_random() % 3] = NAN;
                break;
            case 2:
                turn(s);
                break;
            case 3:
                s->numbers[next_random() % SLICE_N_NUMBERS] = noise(100);
                break;
            case 4:
                s->has = next_random() & 0x1FFF;
                break;
            case 5:
                s->row_mm = noise(3);
                break;
            default:
                break;
            }
        }
        char *first = strdup(outcome());
        size_t total = 0;
        for (size_t i = 0; i < n_stacks; i++) {
            total += stacks[i].n;
            if (stacks[i].verdict != FAULT_OK)
                continue;
            CHECK(stacks[i].n >= STACK_MIN_SLICES);
            for (size_t j = 1; j < stacks[i].n; j++)
                CHECK(stacks[i].z_mm[j] > stacks[i].z_mm[j - 1]);
        }
        CHECK_INT(total, n_made);
        struct slice swap = made[0];
        made[0] = made[n_made - 1];
        made[n_made - 1] = swap;
        CHECK_STR(outcome(), first);
        free(first);
    }
}

// ---- properties of random stacks: what is expected follows from how they were made

static double uniform(double low, double high)
{
    return low + (high - low) * (double)next_random() / 4294967296.0;
}

// Three perpendicular axes, turned at random (a unit quaternion's rotation).
static void random_axes(double axes[3][3])
{
    double q[4], length = 0;
    for (int i = 0; i < 4; i++) {
        q[i] = uniform(-1, 1);
        length += q[i] * q[i];
    }
    length = sqrt(length + 1e-12);
    double w = q[0] / length, x = q[1] / length, y = q[2] / length, z = q[3] / length;
    double turned[3][3] = {{w * w + x * x - y * y - z * z, 2 * (x * y + w * z), 2 * (x * z - w * y)},
                           {2 * (x * y - w * z), w * w - x * x + y * y - z * z, 2 * (y * z + w * x)},
                           {2 * (x * z + w * y), 2 * (y * z - w * x), w * w - x * x - y * y + z * z}};
    memcpy(axes, turned, sizeof turned);
}

// One series of up to three echoes, each a whole number of slices at even distances.
struct recipe {
    double axes[3][3], corner[3], pixel, distance;
    int n, n_echoes, direction; // slices of each echo; along the normal or against it
    int jitter;                 // vendors' noise
    unsigned dropped[3];        // bit i: slice i of that echo is missing
};

// Which echo and which slice of it, as the tests know; nothing that the sorter looks at.
static int made_echo[MOST], made_place[MOST];

static void add_of(const struct recipe *r, int echo, int place)
{
    struct slice *s = add(0);
    size_t at = n_made - 1;
    made_echo[at] = echo;
    made_place[at] = place;
    for (int i = 0; i < 3; i++) {
        double step = r->direction * place * r->distance;
        s->position[i] = r->corner[i] + step * r->axes[2][i] + (r->jitter ? noise(1.2e-5) : 0);
        s->row[i] = r->axes[0][i] + (r->jitter ? noise(3.3e-8) : 0);
        s->column[i] = r->axes[1][i] + (r->jitter ? noise(3.3e-8) : 0);
    }
    s->row_mm = s->column_mm = s->numbers[SLICE_ROW_MM] = s->numbers[SLICE_COLUMN_MM] = r->pixel;
    s->thickness_mm = 0.9 * r->distance;
    s->numbers[SLICE_ECHO_TIME] = 10 + 30 * echo;
    // what must not matter
    snprintf(s->sop_uid, UID_SIZE, "1.2.3.%u", next_random());
    snprintf(s->digest, DIGEST_HEX_SIZE, "%032x%032zx", next_random(), at);
    s->instance_number = (int)(next_random() % 100);
    s->acquisition_number = (int)(next_random() % 4);
    s->has |= SLICE_HAS_ACQUISITION;
    s->file = next_random() % 1000;
}

static size_t copy_some(size_t n)
{
    for (size_t i = 0; i < n && n_made > 0; i++) {
        size_t from = next_random() % n_made;
        made_echo[n_made] = made_echo[from];
        made_place[n_made] = made_place[from];
        made[n_made] = made[from];
        made[n_made++].file = 1000 + i;
    }
    return n;
}

static void shuffle(void)
{
    for (size_t i = n_made - 1; i > 0; i--) {
        size_t j = next_random() % (i + 1);
        struct slice slice = made[i];
        int echo = made_echo[i], place = made_place[i];
        made[i] = made[j], made_echo[i] = made_echo[j], made_place[i] = made_place[j];
        made[j] = slice, made_echo[j] = echo, made_place[j] = place;
    }
}

static struct recipe random_recipe(void)
{
    struct recipe r = {.n = 10 + (int)(next_random() % 15),
                       .n_echoes = 1 + (int)(next_random() % 3),
                       .direction = next_random() % 2 ? 1 : -1,
                       .jitter = (int)(next_random() % 2),
                       .pixel = uniform(0.4, 1.2)};
    r.distance = r.pixel * uniform(1.6, 8);
    random_axes(r.axes);
    for (int i = 0; i < 3; i++)
        r.corner[i] = uniform(-200, 200);
    for (int echo = 0; echo < r.n_echoes; echo++)
        for (unsigned k = next_random() % 3; k > 0; k--) // none, one or two inner ones
            r.dropped[echo] |= 1U << (1 + next_random() % (unsigned)(r.n - 2));
    return r;
}

// A stack that must be whole: every slice of one echo, in order of position, at the true distances.
static void expect_whole(const struct recipe *r, const struct stack *stack, size_t n_copies)
{
    CHECK_INT(stack->n, r->n);
    CHECK_NEAR(stack->slice_mm, r->distance, 5e-5);
    if (n_copies == 0)
        CHECK_STR(stack->warnings, "");
    for (size_t i = 0; i < stack->n; i++) {
        int place = r->direction > 0 ? (int)i : r->n - 1 - (int)i;
        CHECK_INT(made_echo[stack->members[i]], made_echo[stack->members[0]]);
        CHECK_INT(made_place[stack->members[i]], place);
        CHECK_NEAR(stack->z_mm[i] - stack->z_mm[0], (double)i * r->distance, 5e-4);
    }
}

static void random_stacks_depend_on_geometry_alone(void)
{
    random_state = 20261123;
    int n_whole = 0, n_holed = 0;
    for (int round = 0; round < 800; round++) {
        struct recipe r = random_recipe();
        n_made = 0;
        for (int echo = 0; echo < r.n_echoes; echo++)
            for (int place = 0; place < r.n; place++)
                if ((r.dropped[echo] >> place & 1) == 0)
                    add_of(&r, echo, place);
        size_t n_copies = copy_some(next_random() % 4), n_all = n_made;
        shuffle();
        sort_made();
        CHECK_INT(n_stacks, r.n_echoes);
        unsigned seen = 0;
        size_t total = 0;
        for (size_t i = 0; i < n_stacks; i++) {
            int echo = made_echo[stacks[i].members[0]];
            seen |= 1U << echo;
            total += stacks[i].n;
            if (r.dropped[echo] != 0) {
                char want[32];
                snprintf(want, sizeof want, "%d missing", __builtin_popcount(r.dropped[echo]));
                CHECK_STR(fault_name(stacks[i].verdict), "MISSING_SLICES");
                CHECK_CONTAINS(stacks[i].reason, want);
                n_holed++;
                continue;
            }
            CHECK_STR(fault_name(stacks[i].verdict), "OK");
            expect_whole(&r, &stacks[i], n_copies);
            n_whole++;
        }
        CHECK_INT(seen, (1U << r.n_echoes) - 1);
        CHECK_INT(total + n_copies, n_all);
    }
    fprintf(stderr, "%d whole, %d with holes\n", n_whole, n_holed);
    CHECK(n_whole > 300 && n_holed > 300);
}

// The same series sent again and again, in another order each time: word for word the same outcome.
static void random_order_changes_no_word(void)
{
    random_state = 77;
    for (int round = 0; round < 300; round++) {
        struct recipe r = random_recipe();
        n_made = 0;
        for (int echo = 0; echo < r.n_echoes; echo++)
            for (int place = 0; place < r.n; place++)
                if ((r.dropped[echo] >> place & 1) == 0)
                    add_of(&r, echo, place);
        if (next_random() % 4 == 0) // one that has no twin: nothing parts the volumes
            add_of(&r, 0, (int)(next_random() % (unsigned)r.n));
        char *first = strdup(outcome());
        CHECK(first != NULL);
        shuffle();
        CHECK_STR(outcome(), first);
        free(first);
    }
}

static const struct test tests[] = {
    {"unit.stack.plain", plain_stack},
    {"unit.stack.shuffle_changes_nothing", shuffle_changes_nothing},
    {"unit.stack.vendor_noise_changes_nothing", vendor_noise_changes_nothing},
    {"unit.stack.reversed_numbers_do_not_matter", reversed_numbers_do_not_matter},
    {"unit.stack.echoes_are_split", echoes_are_split},
    {"unit.stack.magnitude_and_phase_are_split", magnitude_and_phase_are_split},
    {"unit.stack.phases_are_refused", phases_are_refused},
    {"unit.stack.two_orientations_are_split", two_orientations_are_split},
    {"unit.stack.localizer_by_geometry", localizer_by_geometry},
    {"unit.stack.offset_stacks_are_split", offset_stacks_are_split},
    {"unit.stack.packages_are_split", packages_are_split},
    {"unit.stack.volumes_are_split", volumes_are_split},
    {"unit.stack.duplicates", duplicates},
    {"unit.stack.missing_slices", missing_slices},
    {"unit.stack.every_dropped_slice_is_missed", every_dropped_slice_is_missed},
    {"unit.stack.a_regular_part_is_not_the_whole", a_regular_part_is_not_the_whole},
    {"unit.stack.a_gap_for_spacing_is_no_part", a_gap_for_spacing_is_no_part},
    {"unit.stack.turns_are_not_stacks", turns_are_not_stacks},
    {"unit.stack.triggered_slices_are_named", triggered_slices_are_named},
    {"unit.stack.groups_beside_each_other_are_stacks", groups_beside_each_other_are_stacks},
    {"unit.stack.uneven", uneven},
    {"unit.stack.sheared", sheared},
    {"unit.stack.nothing_to_do", nothing_to_do},
    {"unit.stack.three_dimensional", three_dimensional},
    {"unit.stack.to_learn_from", to_learn_from},
    {"unit.stack.non_square", non_square},
    {"unit.stack.multiframe", multiframe},
    {"unit.stack.mixed_patient", mixed_patient},
    {"unit.stack.one_diffusion_image_is_enough", one_diffusion_image_is_enough},
    {"unit.stack.copies_and_conflicts", copies_and_conflicts},
    {"unit.stack.single_images", single_images},
    {"unit.stack.too_many", too_many},
    {"unit.stack.empty_series", empty_series},
    {"fuzz.stack.random_series", random_series},
    {"unit.stack.random_stacks_depend_on_geometry_alone", random_stacks_depend_on_geometry_alone},
    {"unit.stack.random_order_changes_no_word", random_order_changes_no_word},
};
TEST_MAIN(tests)
