// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/j2k.h"

#include <openjpeg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TAIL_BYTES = 64 };

enum marker {
    SOC = 0xFF4F,
    SIZ = 0xFF51,
    COD = 0xFF52,
    COC = 0xFF53,
    TLM = 0xFF55, // lengths of tile-parts
    PLM = 0xFF57, // lengths of packets
    SOT = 0xFF90,
    SOD = 0xFF93,
    EOC = 0xFFD9,
};

struct walk {
    const uint8_t *data;
    size_t size, at;
    const struct pixels_layout *layout;
    int rows, columns;
    uint32_t n_tiles;
    int has_style;
    size_t first_part;               // where the first tile-part begins
    size_t last_part[J2K_MAX_TILES]; // where each tile's last part begins; 0: there is none
    size_t end;                      // where the end marker stands
    struct fault_note *why;
};

static unsigned get16(const uint8_t *p)
{
    return (unsigned)p[0] << 8 | p[1];
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

// Markers of part 1 that may stand in a header. Not among them: changes of the order of packets (POC) and
// packet headers apart from their packets (PPM, PPT), under which packets that are missing cannot be noticed.
static int is_known(unsigned marker)
{
    static const unsigned known[] = {COD, COC, TLM, PLM, 0xFF58, 0xFF5C, 0xFF5D, 0xFF5E, 0xFF63, 0xFF64};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i] == marker)
            return 1;
    return 0;
}

// Length of the marker segment at w->at, without the marker, all inside `end`.
static int segment_length(const struct walk *w, size_t end, size_t least, size_t *length)
{
    *length = end - w->at >= 4 ? get16(w->data + w->at + 2) : 0;
    if (*length < least || *length > end - w->at - 2)
        return fault_set(w->why, FAULT_DECODE, "a marker segment of %zu bytes at byte %zu of %zu", *length,
                         w->at, w->size);
    return 0;
}

static int check_bits(const struct walk *w, int bits, int is_signed)
{
    const struct pixels_layout *layout = w->layout;
    int begins_at_0 = layout->high_bit == layout->bits_stored - 1;
    if (bits != layout->bits_allocated && !(begins_at_0 && bits <= layout->bits_stored))
        return fault_set(w->why, FAULT_PIXEL_SIZE,
                         "the codestream holds %d bits, the header says %d allocated, %d stored, high bit %d",
                         bits, layout->bits_allocated, layout->bits_stored, layout->high_bit);
    if (is_signed != layout->is_signed)
        return fault_set(w->why, FAULT_PIXEL_SIZE, "the codestream is %s, the header says %s",
                         is_signed ? "signed" : "unsigned", layout->is_signed ? "signed" : "unsigned");
    return 0;
}

// T.800 A.5.1
static int check_size(struct walk *w)
{
    size_t length;
    int rc = segment_length(w, w->size, 41, &length);
    if (rc != 0)
        return rc;
    const uint8_t *p = w->data + w->at + 4;
    unsigned capabilities = get16(p), components = get16(p + 34);
    uint32_t width = get32(p + 2), height = get32(p + 6), left = get32(p + 10), top = get32(p + 14);
    uint32_t tile_width = get32(p + 18), tile_height = get32(p + 22);
    if (capabilities & 0xC000)
        return fault_set(w->why, FAULT_DECODE, "the codestream needs capabilities 0x%04x beyond part 1",
                         capabilities);
    if (width != (uint32_t)w->columns || height != (uint32_t)w->rows || components != 1)
        return fault_set(
            w->why, FAULT_PIXEL_SIZE,
            "the codestream holds %u x %u pixels of %u components, the header says %d x %d of one", height,
            width, components, w->rows, w->columns);
    if (left != 0 || top != 0 || get32(p + 26) != 0 || get32(p + 30) != 0 || p[37] != 1 || p[38] != 1)
        return fault_set(w->why, FAULT_PIXEL_SIZE,
                         "image or tiles do not begin at 0, or pixels are sub-sampled");
    rc = check_bits(w, (p[36] & 0x7F) + 1, p[36] >> 7);
    if (rc != 0)
        return rc;
    unsigned long long across = tile_width > 0 ? (width + (uint64_t)tile_width - 1) / tile_width : 0;
    unsigned long long down = tile_height > 0 ? (height + (uint64_t)tile_height - 1) / tile_height : 0;
    if (across * down < 1 || across * down > J2K_MAX_TILES)
        return fault_set(w->why, FAULT_DECODE, "%llu tiles, not 1 to %d", across * down, J2K_MAX_TILES);
    w->n_tiles = (uint32_t)(across * down);
    w->at += 2 + length;
    return 0;
}

// The part that COD and COC share, T.800 table A.15; `p` with n bytes.
static int check_parameters(const struct walk *w, const uint8_t *p, size_t n, int has_precincts,
                            unsigned n_layers)
{
    unsigned levels = p[0], style = p[3], wavelet = p[4];
    if (wavelet != 1)
        return fault_set(w->why, FAULT_LOSSY,
                         "the codestream is lossy (wavelet %u, not the reversible 5/3) under a lossless "
                         "transfer syntax",
                         wavelet);
    if (levels > J2K_MAX_LEVELS || n_layers < 1 || n_layers > J2K_MAX_LAYERS)
        return fault_set(w->why, FAULT_DECODE, "%u decompositions and %u layers, more than %d and %d", levels,
                         n_layers, J2K_MAX_LEVELS, J2K_MAX_LAYERS);
    if (p[1] > 8 || p[2] > 8 || p[1] + p[2] > 8 || style > 0x3F)
        return fault_set(w->why, FAULT_DECODE, "code blocks of size %u, %u and style 0x%02x", p[1], p[2],
                         style);
    if (!has_precincts)
        return 0;
    if (n < 5 + (size_t)levels + 1)
        return fault_set(w->why, FAULT_DECODE, "%zu bytes of precinct sizes for %u decompositions", n - 5,
                         levels);
    uint64_t precincts = 0;
    for (unsigned i = 0; i <= levels; i++)
        precincts += (uint64_t)((w->columns >> (p[5 + i] & 15)) + 1) * ((w->rows >> (p[5 + i] >> 4)) + 1);
    if (precincts * n_layers > J2K_MAX_PRECINCTS)
        return fault_set(w->why, FAULT_DECODE, "%llu precincts in %u layers", (unsigned long long)precincts,
                         n_layers);
    return 0;
}

// One marker segment of the main header or of a tile-part's, inside `end`; w->at moves behind it.
static int check_segment(struct walk *w, size_t end)
{
    const uint8_t *p = w->data + w->at;
    unsigned marker = get16(p);
    size_t length;
    if (!is_known(marker))
        return fault_set(w->why, FAULT_DECODE, "marker 0x%04x at byte %zu is not known here", marker, w->at);
    int rc = segment_length(w, end, marker == COD ? 12 : marker == COC ? 9 : 2, &length);
    if (rc != 0)
        return rc;
    if (marker == COD) {
        w->has_style = 1;
        rc = check_parameters(w, p + 9, length - 7, p[4] & 1, get16(p + 6));
    } else if (marker == COC) {
        rc = check_parameters(w, p + 6, length - 4, p[5] & 1, 1);
    }
    w->at += 2 + length;
    return rc;
}

// A tile-part, T.800 A.4.2; w->at moves behind it. `end` is where the end marker stands.
static int check_tile_part(struct walk *w, size_t end)
{
    size_t length;
    int rc = segment_length(w, end, 10, &length);
    if (rc != 0)
        return rc;
    const uint8_t *p = w->data + w->at;
    uint32_t tile = get16(p + 4), bytes = get32(p + 6);
    size_t part_end = bytes == 0 ? end : w->at + bytes;
    if (length != 10 || tile >= w->n_tiles || part_end > end || part_end - w->at < 14)
        return fault_set(w->why, FAULT_DECODE, "tile-part of tile %u with %u bytes at byte %zu of %zu", tile,
                         bytes, w->at, w->size);
    w->last_part[tile] = w->at;
    w->at += 12;
    while (part_end - w->at >= 2 && get16(w->data + w->at) != SOD) {
        rc = check_segment(w, part_end);
        if (rc != 0)
            return rc;
    }
    if (part_end - w->at < 2)
        return fault_set(w->why, FAULT_DECODE, "tile-part of tile %u has no data", tile);
    w->at = part_end;
    return 0;
}

static int check_codestream(struct walk *w)
{
    size_t end = w->size;
    while (end > 0 && w->data[end - 1] == 0)
        end--;
    if (end < 8 || get16(w->data) != SOC || get16(w->data + 2) != SIZ)
        return fault_set(w->why, FAULT_DECODE, "the codestream does not begin with SOC and SIZ");
    if (get16(w->data + end - 2) != EOC)
        return fault_set(w->why, FAULT_DECODE, "the codestream of %zu bytes does not end with EOC", w->size);
    end -= 2;
    w->at = 2;
    int rc = check_size(w);
    while (rc == 0 && w->at < end && end - w->at >= 2 && get16(w->data + w->at) != SOT)
        rc = check_segment(w, end);
    if (rc == 0 && !w->has_style)
        rc = fault_set(w->why, FAULT_DECODE, "the codestream has no coding style");
    w->first_part = w->at;
    w->end = end;
    while (rc == 0 && w->at < end) {
        if (end - w->at < 2 || get16(w->data + w->at) != SOT)
            return fault_set(w->why, FAULT_DECODE, "no tile-part at byte %zu of %zu", w->at, w->size);
        rc = check_tile_part(w, end);
    }
    for (uint32_t tile = 0; rc == 0 && tile < w->n_tiles; tile++)
        if (w->last_part[tile] == 0)
            rc = fault_set(w->why, FAULT_DECODE, "tile %u of %u is missing", tile, w->n_tiles);
    return rc;
}

int j2k_check(const void *codestream, size_t size, const struct pixels_layout *layout, int rows, int columns,
              struct fault_note *why)
{
    struct walk walk = {
        .data = codestream, .size = size, .layout = layout, .rows = rows, .columns = columns, .why = why};
    return check_codestream(&walk);
}

// ---- OpenJPEG

struct input {
    const uint8_t *data;
    size_t size, at;
};

static OPJ_SIZE_T input_read(void *buffer, OPJ_SIZE_T n, void *user)
{
    struct input *input = user;
    size_t left = input->size - input->at;
    if (left == 0)
        return (OPJ_SIZE_T)-1;
    n = n < left ? n : left;
    memcpy(buffer, input->data + input->at, n);
    input->at += n;
    return n;
}

static OPJ_OFF_T input_skip(OPJ_OFF_T n, void *user)
{
    struct input *input = user;
    if (n < 0 || (uint64_t)n > input->size - input->at)
        return -1;
    input->at += (size_t)n;
    return n;
}

static OPJ_BOOL input_seek(OPJ_OFF_T at, void *user)
{
    struct input *input = user;
    if (at < 0 || (uint64_t)at > input->size)
        return OPJ_FALSE;
    input->at = (size_t)at;
    return OPJ_TRUE;
}

// The first complaint, without its line end.
static void note_complaint(const char *message, void *user)
{
    char *text = user;
    if (text[0] == '\0')
        snprintf(text, 200, "%.*s", (int)strcspn(message, "\r\n"), message);
}

static void ignore(const char *message, void *user)
{
    (void)message, (void)user;
}

static opj_stream_t *open_stream(struct input *input)
{
    opj_stream_t *stream = opj_stream_create(input->size < 65536 ? input->size : 65536, OPJ_STREAM_READ);
    if (stream == NULL)
        return NULL;
    opj_stream_set_user_data(stream, input, NULL);
    opj_stream_set_user_data_length(stream, input->size);
    opj_stream_set_read_function(stream, input_read);
    opj_stream_set_skip_function(stream, input_skip);
    opj_stream_set_seek_function(stream, input_seek);
    return stream;
}

static void copy_samples(const opj_image_comp_t *component, int bits_allocated, uint8_t *out)
{
    size_t n = (size_t)component->w * component->h;
    for (size_t i = 0; i < n; i++) {
        uint32_t value = (uint32_t)component->data[i];
        if (bits_allocated == 8) {
            out[i] = (uint8_t)value;
        } else {
            out[2 * i] = (uint8_t)value;
            out[2 * i + 1] = (uint8_t)(value >> 8);
        }
    }
}

// Decodes; *image is given to the caller also on failure (may be NULL).
static int decode(const uint8_t *codestream, size_t size, opj_image_t **image, struct fault_note *why)
{
    char complaint[200] = "";
    struct input input = {.data = codestream, .size = size};
    opj_dparameters_t parameters;
    opj_set_default_decoder_parameters(&parameters);
    opj_stream_t *stream = open_stream(&input);
    opj_codec_t *codec = opj_create_decompress(OPJ_CODEC_J2K);
    int rc = 0;
    if (stream == NULL || codec == NULL) {
        rc = fault_set(why, FAULT_NO_MEMORY, "cannot start a JPEG 2000 decoder");
        goto out;
    }
    opj_set_info_handler(codec, ignore, NULL);
    opj_set_warning_handler(codec, note_complaint, complaint);
    opj_set_error_handler(codec, note_complaint, complaint);
    int is_decoded = opj_setup_decoder(codec, &parameters) && opj_decoder_set_strict_mode(codec, OPJ_TRUE) &&
                     opj_read_header(stream, codec, image) && opj_decode(codec, stream, *image) &&
                     opj_end_decompress(codec, stream);
    if (!is_decoded || complaint[0] != '\0')
        rc = fault_set(why, FAULT_DECODE, "cannot decode the codestream: %s",
                       complaint[0] != '\0' ? complaint : "the decoder does not say why");
out:
    opj_destroy_codec(codec);
    opj_stream_destroy(stream);
    return rc;
}

// Copies the codestream, each tile followed by bytes that no packet can begin with; returns the copy's size.
static size_t copy_with_tails(const struct walk *w, uint8_t *out)
{
    size_t n = 0, at = 0;
    while (at < w->first_part) { // the main header, without lists of lengths
        unsigned marker = get16(w->data + at);
        size_t length = marker == SOC ? 2 : 2 + (size_t)get16(w->data + at + 2);
        if (marker != TLM && marker != PLM) {
            memcpy(out + n, w->data + at, length);
            n += length;
        }
        at += length;
    }
    while (at < w->end) {
        uint32_t bytes = get32(w->data + at + 6);
        size_t length = bytes == 0 ? w->end - at : bytes, all = length;
        memcpy(out + n, w->data + at, length);
        if (w->last_part[get16(w->data + at + 4)] == at) {
            for (size_t i = 0; i < TAIL_BYTES; i += 2) {
                out[n + length + i] = 0xFF; // ones to the last bit; a zero is stuffed after every FF
                out[n + length + i + 1] = 0x7F;
            }
            all += TAIL_BYTES;
        }
        for (int i = 0; i < 4; i++)
            out[n + 6 + (size_t)i] = (uint8_t)(all >> (24 - 8 * i));
        n += all;
        at += length;
    }
    out[n] = EOC >> 8;
    out[n + 1] = EOC & 0xFF;
    return n + 2;
}

// Packets that are missing at the end of a tile count for OpenJPEG as packets without content: it reads zeros
// behind the data. So the codestream is decoded once more with ones behind each tile's data. Where all
// packets are there nobody reads them; where not they are a packet header of nonsense.
static int check_packets(const struct walk *w, struct fault_note *why)
{
    struct fault_note note = {0};
    opj_image_t *image = NULL;
    uint8_t *copy = malloc(w->size + ((size_t)w->n_tiles + 1) * TAIL_BYTES);
    if (copy == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "cannot hold %zu bytes", w->size);
    int rc = decode(copy, copy_with_tails(w, copy), &image, &note);
    if (rc == FAULT_DECODE)
        rc = fault_set(why, FAULT_DECODE, "packets are missing at the end of a tile");
    else if (rc != 0)
        rc = fault_set(why, (enum fault)rc, "%s", note.text);
    opj_image_destroy(image);
    free(copy);
    return rc;
}

int j2k_decode(const void *codestream, size_t size, const struct pixels_layout *layout, int rows, int columns,
               void *samples, struct fault_note *why)
{
    struct walk walk = {
        .data = codestream, .size = size, .layout = layout, .rows = rows, .columns = columns, .why = why};
    opj_image_t *image = NULL;
    int rc = check_codestream(&walk);
    if (rc == 0)
        rc = decode(codestream, size, &image, why);
    if (rc == 0)
        rc = check_packets(&walk, why);
    if (rc == 0) {
        if (image == NULL || image->numcomps != 1 || image->comps[0].w != (OPJ_UINT32)columns ||
            image->comps[0].h != (OPJ_UINT32)rows || image->comps[0].data == NULL)
            rc = fault_set(why, FAULT_PIXEL_SIZE, "the decoder gave another image than the codestream says");
        else
            copy_samples(&image->comps[0], layout->bits_allocated, samples);
    }
    opj_image_destroy(image);
    return rc;
}
