// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/attributes.h"
#include "dicom_map/number.h"
#include "dicom_map/pixels.h"
#include "tests/support/check.h"

#include <locale.h>
#include <stdint.h>

static void unpack_and_pack(void)
{
    static const struct {
        struct pixels_layout layout;
        uint8_t bytes[2];
        int32_t value;
    } cases[] = {
        {{16, 12, 11, 0}, {0x34, 0x02}, 0x234}, {{16, 12, 11, 0}, {0x34, 0xF2}, 0x234}, // overlay bits above
        {{16, 12, 11, 1}, {0xFF, 0x0F}, -1},    {{16, 12, 11, 1}, {0x00, 0x08}, -2048},
        {{16, 12, 11, 1}, {0xFF, 0x07}, 2047},  {{16, 16, 15, 1}, {0x00, 0x80}, -32768},
        {{16, 16, 15, 0}, {0xFF, 0xFF}, 65535}, {{16, 12, 15, 0}, {0x40, 0x23}, 0x234}, // high bit at the top
        {{16, 12, 15, 1}, {0xF3, 0xFF}, -1},    {{8, 8, 7, 0}, {0xFE, 0}, 254},
        {{8, 8, 7, 1}, {0xFE, 0}, -2},          {{8, 6, 5, 0}, {0xC1, 0}, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int32_t value = 0, again = 0;
        fprintf(stderr, "case %zu\n", i);
        pixels_unpack(&cases[i].layout, cases[i].bytes, 1, &value);
        CHECK_INT(value, cases[i].value);
        uint16_t word = 0;
        struct pixels_layout low = cases[i].layout;
        low.high_bit = low.bits_stored - 1;
        low.bits_allocated = 16;
        pixels_pack(&low, &value, 1, &word);
        pixels_unpack(&low, &word, 1, &again);
        CHECK_INT(again, value);
        int32_t least = 0, most = 0;
        pixels_range(&low, &least, &most);
        CHECK(value >= least && value <= most);
    }
}

static void common_scale(void)
{
    struct pixels_layout layout = {16, 12, 11, 0};
    struct pixels_scale slices[3] = {{1.29, 0, 5, 4000}, {2.5, 0, 0, 3000}, {0.7, 0, 10, 4095}};
    double slope = 0, intercept = 0;
    pixels_common_scale(slices, 3, &layout, &slope, &intercept);
    CHECK_NEAR(slope, 2.5, 0);
    CHECK_NEAR(intercept, 0, 0);
    for (int i = 0; i < 3; i++) {
        float ends[2] = {(float)slices[i].least, (float)slices[i].most};
        pixels_convert(ends, 2, &slices[i], slope, intercept);
        CHECK_NEAR(ends[1] * slope + intercept, slices[i].slope * slices[i].most, 1e-2);
        CHECK(ends[0] >= 0 && ends[1] <= 4095);
    }
    // intercepts that push the values out of what is stored
    slices[1].intercept = -9000;
    pixels_common_scale(slices, 3, &layout, &slope, &intercept);
    for (int i = 0; i < 3; i++) {
        float ends[2] = {(float)slices[i].least, (float)slices[i].most};
        pixels_convert(ends, 2, &slices[i], slope, intercept);
        CHECK(ends[0] >= -1e-3F && ends[1] <= 4095.001F);
        CHECK_NEAR(ends[0] * slope + intercept, slices[i].slope * slices[i].least + slices[i].intercept,
                   1e-2);
    }
    char text[NUMBER_DS_SIZE];
    double back = 0;
    number_ds(slope, 10, text);
    CHECK(number_at(text, 0, &back));
    CHECK_NEAR(back, slope, 0);
    struct pixels_layout ge = {16, 16, 15, 1};
    slices[1] = (struct pixels_scale){1, 0, -32768, 32767};
    pixels_common_scale(slices + 1, 1, &ge, &slope, &intercept);
    CHECK_NEAR(slope, 1, 0);
    CHECK_NEAR(intercept, 0, 0);
}

static void numbers(void)
{
    double v = 0;
    CHECK(number_at("1.5\\-2e3\\ 7 ", 0, &v));
    CHECK_NEAR(v, 1.5, 0);
    CHECK(number_at("1.5\\-2e3\\ 7 ", 1, &v));
    CHECK_NEAR(v, -2000, 0);
    CHECK(number_at("1.5\\-2e3\\ 7 ", 2, &v));
    CHECK_NEAR(v, 7, 0);
    static const char *const bad[] = {"", "\\", "abc", "1.5x", "nan", "inf", "0x10", "1e999", "1 2", "1,5"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (number_at(bad[i], 0, &v))
            CHECK_FAIL("'%s' was taken for %g", bad[i], v);
    CHECK(!number_at("1", 1, &v));
    char text[NUMBER_DS_SIZE];
    static const struct {
        double value;
        int digits;
        const char *want;
    } ds[] = {
        {-21.2000000000000011, 10, "-21.2"},
        {0.0, 10, "0"},
        {-0.0, 10, "0"},
        {1e-300, 10, "1e-300"},
        {-1.23456789012345e-105, 10, "-1.23456789e-105"},
        {123456.789012345, 10, "123456.789"},
        {0.31999999284744, 15, "0.31999999284744"},
        {1.015625, 15, "1.015625"},
    };
    for (size_t i = 0; i < sizeof ds / sizeof ds[0]; i++) {
        number_ds(ds[i].value, ds[i].digits, text);
        CHECK_STR(text, ds[i].want);
    }
    for (int i = 0; i < 100000; i++) {
        double value = ((double)rand() / RAND_MAX - 0.5) * pow(10, rand() % 40 - 20);
        number_ds(value, 15, text);
        CHECK(strlen(text) <= 16);
        CHECK(attribute_is_legal("DS", text));
    }
    double three[3] = {3, 1, 2};
    CHECK_NEAR(number_median(three, 3), 2, 0);
}

// Story: a program that calls setlocale in a country of decimal commas must write the same files.
static void locale_does_not_matter(void)
{
    if (setlocale(LC_ALL, "de_DE.UTF-8") == NULL)
        setlocale(LC_ALL, "C.UTF-8");
    char text[NUMBER_DS_SIZE];
    double v = 0;
    number_ds(1.5, 10, text);
    CHECK_STR(text, "1.5");
    CHECK(number_at("2.25", 0, &v));
    CHECK_NEAR(v, 2.25, 0);
}

static void legal_values(void)
{
    static const struct {
        const char *vr, *text;
        int legal;
    } cases[] = {
        {"DA", "20260105", 1}, {"DA", "***", 0},
        {"DA", "20261305", 0}, {"DA", "2026.01.05", 0},
        {"TM", "101500", 1},   {"TM", "101500.123", 1},
        {"TM", "10:15:00", 0}, {"TM", "1015", 1},
        {"TM", "10", 1},       {"TM", "996000", 0},
        {"AS", "028Y", 1},     {"AS", "28Y", 0},
        {"DS", "1.5\\2", 1},   {"DS", "8.1999999999999993", 0},
        {"DS", "1,5", 0},      {"IS", "12", 1},
        {"IS", "1.5", 0},      {"IS", "1234567890123", 0},
        {"CS", "BRAIN", 1},    {"CS", "Brain", 0},
        {"CS", "A\\B_1", 1},   {"UI", "1.2.3", 1},
        {"UI", "1.02", 0},     {"LO", "anything \xE4", 1},
        {"DA", "", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fprintf(stderr, "%s %s\n", cases[i].vr, cases[i].text);
        CHECK_INT(attribute_is_legal(cases[i].vr, cases[i].text), cases[i].legal);
    }
}

static void table_is_in_order(void)
{
    CHECK(n_attributes > 200);
    for (size_t i = 1; i < n_attributes; i++)
        CHECK(attributes[i - 1].tag < attributes[i].tag);
    for (size_t i = 0; i < n_attributes; i++) {
        CHECK(attribute_find(attributes[i].tag) == &attributes[i]);
        CHECK((attributes[i].tag >> 16) % 2 == 0);
    }
    CHECK(attribute_find(0x00091001) == NULL);
    CHECK(attribute_find(0xFFFFFFFF) == NULL);
}

static const struct test tests[] = {
    {"unit.pixels.unpack_and_pack", unpack_and_pack},
    {"unit.pixels.common_scale", common_scale},
    {"unit.number.texts", numbers},
    {"unit.number.locale_does_not_matter", locale_does_not_matter},
    {"unit.attributes.legal_values", legal_values},
    {"unit.attributes.table_is_in_order", table_is_in_order},
};
TEST_MAIN(tests)
