// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/phantom.h"

#include "core/digest.h"
#include "core/file.h"
#include "dicom_map/dcmtk/object.h"
#include "dicom_map/number.h"
#include "dicom_map/object_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double HEAD_X_MM = 70, HEAD_Y_MM = 86, HEAD_Z_MM = 84; // half axes
static const double EDGE_MM = 0.35;                                 // softness of every boundary
static const double FULL_SCALE = 1500, NOISE = 6;                   // stored values
enum { SUB_SLICES = 12, MOST_STORED = 4095 };

// ---- the head

static uint32_t mix(uint32_t h)
{
    h ^= h >> 16;
    h *= 0x7FEB352DU;
    h ^= h >> 15;
    h *= 0x846CA68BU;
    return h ^ h >> 16;
}

// 0 to 1, the same for the same numbers.
static double chance(uint32_t seed, uint32_t index)
{
    return mix(seed * 0x9E3779B9U + mix(index + 1)) / 4294967296.0;
}

// 1 inside (distance > 0), 0 outside, soft at the edge.
static double inside(double distance_mm)
{
    double t = distance_mm / EDGE_MM;
    if (t > 12)
        return 1;
    if (t < -12)
        return 0;
    return 1 / (1 + exp(-t));
}

static double blend(double below, double above, double share)
{
    return below + (above - below) * share;
}

// Distance from the surface of an ellipsoid, about: positive inside.
static double ellipsoid(double x, double y, double z, double cx, double cy, double cz, double a, double b,
                        double c)
{
    double u = (x - cx) / a, v = (y - cy) / b, w = (z - cz) / c;
    return (1 - sqrt(u * u + v * v + w * w)) * fmin(a, fmin(b, c));
}

// Distance in mm from the middle of the nearest furrow of the cortex, about: a gyroid, whose sheets wander
// through the head some 2 cm apart.
static double furrow(const double phase[4], double x, double y, double z)
{
    double a = x / 5.5 + 0.9 * sin(y / 17 + phase[0]) + phase[1];
    double b = y / 6.0 + 0.9 * sin(z / 15 + phase[2]) + phase[3];
    double c = z / 5.2 + 0.9 * sin(x / 16 + phase[1]) + phase[0];
    return 3.8 * fabs(sin(a) * cos(b) + sin(b) * cos(c) + sin(c) * cos(a));
}

// Distance from a vessel that runs along a bent, oblique line: positive inside.
static double vessel(uint32_t seed, uint32_t index, double x, double y, double z)
{
    double angle = 6.283 * chance(seed, 10 * index), radius = 18 + 38 * chance(seed, 10 * index + 1);
    double lean_x = 1.2 * (chance(seed, 10 * index + 2) - 0.5),
           lean_y = 1.2 * (chance(seed, 10 * index + 3) - 0.5);
    double cx = radius * cos(angle) + lean_x * z + 3 * sin(z / 9 + angle);
    double cy = radius * sin(angle) + lean_y * z + 3 * cos(z / 8 + angle);
    return 0.9 + 0.7 * chance(seed, 10 * index + 4) -
           hypot(x - cx, y - cy) / sqrt(1 + lean_x * lean_x + lean_y * lean_y);
}

double phantom_signal(uint32_t seed, double x, double y, double z)
{
    double phase[4];
    for (uint32_t i = 0; i < 4; i++)
        phase[i] = 6.283 * chance(seed, 1000 + i);
    double skin = ellipsoid(x, y, z, 0, 0, 0, HEAD_X_MM, HEAD_Y_MM, HEAD_Z_MM);
    if (skin < -12 * EDGE_MM)
        return 0;
    double depth = skin - 12; // under the inner table of the skull
    // furrows are open at the surface and close some 2 cm below it
    double brain = fmin(depth - 1.2, furrow(phase, x, y, z) - 1.0 + 0.35 * fmax(0, depth - 12));
    double white = brain - 2.4; // cortex of even thickness
    double texture = 0.03 * sin(x / 1.7 + phase[0]) * sin(y / 1.9 + phase[1]) * sin(z / 1.8 + phase[2]);
    double signal = 0;
    signal = blend(signal, 0.55 + texture, inside(skin));                        // scalp
    signal = blend(signal, 0.06, inside(skin - 5));                              // skull
    signal = blend(signal, 0.30, inside(skin - 7.5) * (1 - inside(skin - 9.5))); // marrow
    signal = blend(signal, 1.0, inside(depth));                                  // fluid
    signal = blend(signal, 0.64 + texture, inside(brain));                       // cortex
    signal = blend(signal, 0.38 + texture, inside(white));
    for (int side = -1; side <= 1; side += 2) {
        signal = blend(signal, 0.50, inside(ellipsoid(x, y, z, 22 * side, 4, 2, 7, 15, 11))); // deep grey
        double bent = x - side * (9 + 0.004 * y * y);
        signal =
            blend(signal, 1.0, inside(ellipsoid(bent, y, z, 0, 4, 12 + 0.1 * y, 4.5, 30, 7))); // ventricle
        signal = blend(signal, 0.95, inside(ellipsoid(x, y, z, 31 * side, -66, -22, 11, 12, 11))); // eye
        signal = blend(signal, 0.35, inside(ellipsoid(x, y, z, 31 * side, -72, -22, 4, 3, 4)));    // its lens
    }
    signal = blend(signal, 1.0, inside(ellipsoid(x, y, z, 0, 2, -2, 2.2, 12, 9)));    // third ventricle
    signal = blend(signal, 0.45, inside(ellipsoid(x, y, z, 0, 12, -40, 13, 11, 28))); // brain stem
    double within = inside(depth);
    for (uint32_t i = 0; i < 14; i++)
        signal = blend(signal, 0.05, within * inside(vessel(seed, i, x, y, z)));
    return signal;
}

// ---- the series

struct phantom {
    struct phantom_options o;
    double row[3], column[3], normal[3];
    char study_uid[UID_SIZE], series_uid[UID_SIZE], frame_uid[UID_SIZE];
    struct dcm_object *object;
    struct dcm_item *root;
    struct fault_note *why;
    int rc;
};

static void put(struct phantom *p, uint32_t tag, const char *vr, const char *text)
{
    if (p->rc == 0)
        p->rc = dcm_put_text(p->root, tag, vr, text, p->why);
}

static void put_short(struct phantom *p, uint32_t tag, int value)
{
    if (p->rc == 0)
        p->rc = dcm_put_short(p->root, tag, 0, value, p->why);
}

static void put_ds(struct phantom *p, uint32_t tag, const double *values, int n)
{
    char text[200] = "", one[NUMBER_DS_SIZE];
    for (int i = 0; i < n; i++) {
        number_ds(values[i], 10, one);
        size_t at = strlen(text);
        snprintf(text + at, sizeof text - at, "%s%s", i > 0 ? "\\" : "", one);
    }
    put(p, tag, "DS", text);
}

static void make_uid(struct phantom *p, const char *what, int k, char uid[UID_SIZE])
{
    char name[300];
    const struct phantom_options *o = &p->o;
    snprintf(name, sizeof name, "isoslice/phantom/1|%s|%d|%u", what, k, o->seed);
    if (strcmp(what, "study") != 0 && strcmp(what, "frame") != 0) {
        size_t at = strlen(name);
        snprintf(name + at, sizeof name - at, "|%d x %d x %d|%.6f|%.6f|%.6f|%d", o->width, o->height,
                 o->n_slices, o->pixel_mm, o->slice_mm, o->thickness_mm, o->is_isotropic);
    }
    if (p->rc == 0)
        p->rc = uid_from_name(name, uid, p->why);
}

// What a scanner writes into every image of such a series.
static void put_common(struct phantom *p)
{
    static const struct {
        uint32_t tag;
        const char *vr, *text;
    } rows[] = {
        {0x00080005, "CS", "ISO_IR 100"},
        {0x00080008, "CS", "ORIGINAL\\PRIMARY\\M\\ND"},
        {0x00080016, "UI", MR_IMAGE_STORAGE},
        {0x00080020, "DA", "20260105"},
        {0x00080021, "DA", "20260105"},
        {0x00080022, "DA", "20260105"},
        {0x00080023, "DA", "20260105"},
        {0x00080030, "TM", "101500"},
        {0x00080031, "TM", "102010.250000"},
        {0x00080032, "TM", "102011.500000"},
        {0x00080033, "TM", "102345.750000"},
        {0x00080050, "SH", "PH0001"},
        {0x00080060, "CS", "MR"},
        {0x00080070, "LO", "Phantom Works"},
        {0x00080080, "LO", "Isoslice demonstration"},
        {0x00080090, "PN", ""},
        {0x00081010, "SH", "PHANTOM1"},
        {0x00081030, "LO", "Head phantom"},
        {0x0008103E, "LO", "t2_tse_tra"},
        {0x00081090, "LO", "Formula 1.5T"},
        {0x00100010, "PN", "Phantom^Isoslice"},
        {0x00100020, "LO", "PHANTOM"},
        {0x00100030, "DA", "20000101"},
        {0x00100040, "CS", "O"},
        {0x00101010, "AS", "026Y"},
        {0x00180015, "CS", "BRAIN"},
        {0x00180020, "CS", "SE"},
        {0x00180021, "CS", "SK\\SP"},
        {0x00180022, "CS", "PFP"},
        {0x00180023, "CS", "2D"},
        {0x00180024, "SH", "*tse2d1_15"},
        {0x00180025, "CS", "N"},
        {0x00180080, "DS", "4500"},
        {0x00180081, "DS", "98"},
        {0x00180083, "DS", "2"},
        {0x00180084, "DS", "63.681"},
        {0x00180085, "SH", "1H"},
        {0x00180086, "IS", "1"},
        {0x00180087, "DS", "1.5"},
        {0x00180089, "IS", "154"},
        {0x00180091, "IS", "15"},
        {0x00180093, "DS", "80"},
        {0x00180094, "DS", "100"},
        {0x00180095, "DS", "130"},
        {0x00181000, "LO", "1"},
        {0x00181020, "LO", "phantom 1"},
        {0x00181030, "LO", "t2_tse_tra"},
        {0x00181312, "CS", "ROW"},
        {0x00181314, "DS", "150"},
        {0x00185100, "CS", "HFS"},
        {0x00200010, "SH", "1"},
        {0x00200012, "IS", "1"},
        {0x00201040, "LO", ""},
        {0x00280004, "CS", "MONOCHROME2"},
        {0x00281050, "DS", "750"},
        {0x00281051, "DS", "1500"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        put(p, rows[i].tag, rows[i].vr, rows[i].text);
    put(p, 0x0020000D, "UI", p->study_uid);
    put(p, 0x0020000E, "UI", p->series_uid);
    put(p, 0x00200052, "UI", p->frame_uid);
    put(p, 0x00200011, "IS", p->o.is_isotropic ? "4" : "3");
    double axes[6] = {p->row[0], p->row[1], p->row[2], p->column[0], p->column[1], p->column[2]};
    double spacing[2] = {p->o.pixel_mm, p->o.pixel_mm};
    put_ds(p, 0x00200037, axes, 6);
    put_ds(p, 0x00280030, spacing, 2);
    put_ds(p, 0x00180050, &p->o.thickness_mm, 1);
    put_ds(p, 0x00180088, &p->o.slice_mm, 1);
    put_short(p, 0x00280002, 1);
    put_short(p, 0x00280010, p->o.height);
    put_short(p, 0x00280011, p->o.width);
    put_short(p, 0x00280100, 16);
    put_short(p, 0x00280101, 12);
    put_short(p, 0x00280102, 11);
    put_short(p, 0x00280103, 0);
}

static void compute_slice(const struct phantom *p, int k, const double corner[3], uint16_t *words)
{
    const struct phantom_options *o = &p->o;
    int n_sub = o->is_isotropic ? 1 : SUB_SLICES;
    for (int i = 0; i < o->height; i++)
        for (int j = 0; j < o->width; j++) {
            double sum = 0;
            for (int sub = 0; sub < n_sub; sub++) {
                double along = ((sub + 0.5) / n_sub - 0.5) * o->thickness_mm, at[3];
                for (int axis = 0; axis < 3; axis++)
                    at[axis] = corner[axis] + j * o->pixel_mm * p->row[axis] +
                               i * o->pixel_mm * p->column[axis] + along * p->normal[axis];
                sum += phantom_signal(o->seed, at[0], at[1], at[2]);
            }
            size_t pixel = (size_t)i * (size_t)o->width + (size_t)j;
            uint32_t index = (uint32_t)((size_t)k * (size_t)o->width * (size_t)o->height + pixel);
            // magnitude of a complex value with noise in both parts, as a scanner's is
            double real = sum / n_sub * FULL_SCALE, imaginary = 0;
            for (uint32_t draw = 0; draw < 4; draw++) {
                real += NOISE * (chance(o->seed + 77, 8 * index + draw) - 0.5) * 1.732;
                imaginary += NOISE * (chance(o->seed + 77, 8 * index + 4 + draw) - 0.5) * 1.732;
            }
            words[pixel] = (uint16_t)fmin(MOST_STORED, rint(hypot(real, imaginary)));
        }
}

static int write_slice(struct phantom *p, int k, uint16_t *words)
{
    const struct phantom_options *o = &p->o;
    char uid[UID_SIZE], text[32];
    double corner[3], location = 0;
    double first = -0.5 * (o->n_slices - 1) * o->slice_mm;
    for (int axis = 0; axis < 3; axis++) {
        corner[axis] = (first + k * o->slice_mm) * p->normal[axis] -
                       0.5 * (o->width - 1) * o->pixel_mm * p->row[axis] -
                       0.5 * (o->height - 1) * o->pixel_mm * p->column[axis];
        location += corner[axis] * p->normal[axis];
    }
    compute_slice(p, k, corner, words);
    make_uid(p, "image", k, uid);
    put(p, 0x00080018, "UI", p->rc == 0 ? uid : "");
    snprintf(text, sizeof text, "%d", k + 1);
    put(p, 0x00200013, "IS", text);
    put_ds(p, 0x00200032, corner, 3);
    put_ds(p, 0x00201041, &location, 1);
    if (p->rc == 0)
        p->rc = dcm_put_pixels(p->root, words, (size_t)o->width * (size_t)o->height, p->why);
    return p->rc;
}

static int complete(struct phantom_options *o, struct fault_note *why)
{
    o->width = o->width != 0 ? o->width : 192;
    o->height = o->height != 0 ? o->height : 192;
    o->n_slices = o->n_slices != 0 ? o->n_slices : 20;
    o->pixel_mm = o->pixel_mm != 0 ? o->pixel_mm : 1.0;
    o->slice_mm = o->slice_mm != 0 ? o->slice_mm : 5.5;
    o->thickness_mm = o->thickness_mm != 0 ? o->thickness_mm : 5.0;
    o->seed = o->seed != 0 ? o->seed : 1;
    if (o->width < 8 || o->width > 1024 || o->height < 8 || o->height > 1024 || o->n_slices < 2 ||
        o->n_slices > 1000 || !(o->pixel_mm >= 0.1 && o->pixel_mm <= 10) ||
        !(o->slice_mm >= 0.1 && o->slice_mm <= 20) || !(o->thickness_mm >= 0.1 && o->thickness_mm <= 20))
        return fault_set(why, FAULT_USAGE, "a phantom of %d x %d x %d at %g, %g and %g mm is out of range",
                         o->width, o->height, o->n_slices, o->pixel_mm, o->slice_mm, o->thickness_mm);
    if (o->is_isotropic) {
        o->n_slices = (int)floor((o->n_slices - 1) * o->slice_mm / o->pixel_mm + 1e-6) + 1;
        o->slice_mm = o->thickness_mm = o->pixel_mm;
    }
    return 0;
}

int phantom_write(const char *directory, const struct phantom_options *options, struct fault_note *why)
{
    // Transverse, tilted by 14 degrees about the left-right axis and turned by 4 about the feet-head axis.
    static const double tilt = 14 * 3.14159265358979 / 180, turn = 4 * 3.14159265358979 / 180;
    struct phantom p = {.o = *options,
                        .row = {cos(turn), sin(turn), 0},
                        .column = {-sin(turn) * cos(tilt), cos(turn) * cos(tilt), -sin(tilt)},
                        .why = why};
    int rc = complete(&p.o, why);
    if (rc != 0)
        return rc;
    p.normal[0] = p.row[1] * p.column[2] - p.row[2] * p.column[1];
    p.normal[1] = p.row[2] * p.column[0] - p.row[0] * p.column[2];
    p.normal[2] = p.row[0] * p.column[1] - p.row[1] * p.column[0];
    make_uid(&p, "study", 0, p.study_uid);
    make_uid(&p, "series", 0, p.series_uid);
    make_uid(&p, "frame", 0, p.frame_uid);
    uint16_t *words = malloc((size_t)p.o.width * (size_t)p.o.height * sizeof *words);
    if (p.rc == 0)
        p.rc = words != NULL ? dcm_object_new(&p.object, why)
                             : fault_set(why, FAULT_NO_MEMORY, "cannot hold a slice of the phantom");
    if (p.rc == 0) {
        p.root = dcm_root(p.object);
        put_common(&p);
    }
    for (int k = 0; p.rc == 0 && k < p.o.n_slices; k++) {
        char name[32], uid[UID_SIZE] = "";
        void *dataset = NULL;
        size_t size = 0;
        if (write_slice(&p, k, words) == 0)
            p.rc = dcm_object_encode(p.object, &dataset, &size, why);
        make_uid(&p, "image", k, uid);
        snprintf(name, sizeof name, "IM%04d.dcm", k + 1);
        if (p.rc == 0)
            p.rc = object_file_write(directory, name, MR_IMAGE_STORAGE, uid, dataset, size, why);
        free(dataset);
    }
    if (p.rc == 0)
        p.rc = file_sync_directory(directory, why);
    dcm_object_free(p.object);
    free(words);
    return p.rc;
}
