// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/number.h"

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The decimal point is a matter of the locale, which belongs to the program, not to us: swap it out and back.
static locale_t enter_c_locale(void)
{
    locale_t c = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0);
    if (c == (locale_t)0)
        return c;
    uselocale(c);
    return c;
}

static void leave_c_locale(locale_t c, locale_t before)
{
    uselocale(before);
    if (c != (locale_t)0)
        freelocale(c);
}

int number_at(const char *text, int index, double *out)
{
    for (; index > 0; index--) {
        text = strchr(text, '\\');
        if (text == NULL)
            return 0;
        text++;
    }
    size_t n = strcspn(text, "\\");
    while (n > 0 && *text == ' ')
        text++, n--;
    while (n > 0 && text[n - 1] == ' ')
        n--;
    char copy[64];
    // strtod would also take hexadecimal numbers, infinities and names
    if (n == 0 || n >= sizeof copy || strspn(text, "0123456789+-.eE") < n)
        return 0;
    memcpy(copy, text, n);
    copy[n] = '\0';
    locale_t before = uselocale((locale_t)0);
    locale_t c = enter_c_locale();
    char *end = NULL;
    double value = strtod(copy, &end);
    leave_c_locale(c, before);
    if (*end != '\0' || !isfinite(value))
        return 0;
    *out = value;
    return 1;
}

void number_ds(double value, int precision, char out[NUMBER_DS_SIZE])
{
    char text[64];
    if (value == 0)
        value = 0; // of either sign
    locale_t before = uselocale((locale_t)0);
    locale_t c = enter_c_locale();
    do
        snprintf(text, sizeof text, "%.*g", precision, value);
    while (strlen(text) >= NUMBER_DS_SIZE && --precision > 0);
    leave_c_locale(c, before);
    if (strcmp(text, "-0") == 0)
        strcpy(text, "0");
    snprintf(out, NUMBER_DS_SIZE, "%s", text);
}

double number_rounded(double value, int precision)
{
    char text[NUMBER_DS_SIZE];
    double out = value;
    number_ds(value, precision, text);
    number_at(text, 0, &out);
    return out;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double number_median(double *values, size_t n)
{
    qsort(values, n, sizeof *values, compare_doubles);
    return values[(n - 1) / 2];
}
