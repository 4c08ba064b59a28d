// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/attributes.h"

#include "core/digest.h"
#include "dicom_map/number.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

// Modules of PS3.3: SOP Common, Patient, Clinical Trial, Study, Series, Frame of Reference, Equipment,
// Contrast/Bolus, General Image, Image Plane, Image Pixel, MR Image, VOI LUT. Smallest and Largest Pixel
// Value are US or SS.
// clang-format off
const struct attribute attributes[] = {
    {0x00080005, "CS", ATTRIBUTE_COPY_FIRST, "Specific Character Set"},
    {0x00080008, "CS", ATTRIBUTE_NEW, "Image Type"},
    {0x00080012, "DA", ATTRIBUTE_NEW, "Instance Creation Date"},
    {0x00080013, "TM", ATTRIBUTE_NEW, "Instance Creation Time"},
    {0x00080014, "UI", ATTRIBUTE_NEW, "Instance Creator UID"},
    {0x00080016, "UI", ATTRIBUTE_NEW, "SOP Class UID"},
    {0x00080018, "UI", ATTRIBUTE_NEW, "SOP Instance UID"},
    {0x00080020, "DA", ATTRIBUTE_COPY_FIRST_OR_EMPTY, "Study Date"},
    {0x00080021, "DA", ATTRIBUTE_NEW, "Series Date"},
    {0x00080022, "DA", ATTRIBUTE_RECOMPUTED, "Acquisition Date"},
    {0x00080023, "DA", ATTRIBUTE_NEW, "Content Date"},
    {0x0008002A, "DT", ATTRIBUTE_RECOMPUTED, "Acquisition DateTime"},
    {0x00080030, "TM", ATTRIBUTE_COPY_FIRST_OR_EMPTY, "Study Time"},
    {0x00080031, "TM", ATTRIBUTE_NEW, "Series Time"},
    {0x00080032, "TM", ATTRIBUTE_RECOMPUTED, "Acquisition Time"},
    {0x00080033, "TM", ATTRIBUTE_NEW, "Content Time"},
    {0x00080050, "SH", ATTRIBUTE_COPY_FIRST_OR_EMPTY, "Accession Number"},
    {0x00080051, "SQ", ATTRIBUTE_COPY_FIRST, "Issuer of Accession Number Sequence"},
    {0x00080060, "CS", ATTRIBUTE_NEW, "Modality"},
    {0x00080070, "LO", ATTRIBUTE_NEW, "Manufacturer"},
    {0x00080080, "LO", ATTRIBUTE_COPY_SAME, "Institution Name"},
    {0x00080090, "PN", ATTRIBUTE_COPY_FIRST_OR_EMPTY, "Referring Physician's Name"},
    {0x00080096, "SQ", ATTRIBUTE_COPY_FIRST, "Referring Physician Identification Sequence"},
    {0x0008009C, "PN", ATTRIBUTE_COPY_FIRST, "Consulting Physician's Name"},
    {0x0008009D, "SQ", ATTRIBUTE_COPY_FIRST, "Consulting Physician Identification Sequence"},
    {0x00080201, "SH", ATTRIBUTE_COPY_SAME, "Timezone Offset From UTC"},
    {0x00081010, "SH", ATTRIBUTE_NEW, "Station Name"},
    {0x00081030, "LO", ATTRIBUTE_COPY_FIRST, "Study Description"},
    {0x00081032, "SQ", ATTRIBUTE_COPY_FIRST, "Procedure Code Sequence"},
    {0x0008103E, "LO", ATTRIBUTE_NEW, "Series Description"},
    {0x0008103F, "SQ", ATTRIBUTE_NEVER, "Series Description Code Sequence"},
    {0x00081048, "PN", ATTRIBUTE_COPY_FIRST, "Physician(s) of Record"},
    {0x00081049, "SQ", ATTRIBUTE_COPY_FIRST, "Physician(s) of Record Identification Sequence"},
    {0x00081050, "PN", ATTRIBUTE_NEVER, "Performing Physician's Name"},
    {0x00081060, "PN", ATTRIBUTE_COPY_FIRST, "Name of Physician(s) Reading Study"},
    {0x00081062, "SQ", ATTRIBUTE_COPY_FIRST, "Physician(s) Reading Study Identification Sequence"},
    {0x00081070, "PN", ATTRIBUTE_NEVER, "Operators' Name"},
    {0x00081080, "LO", ATTRIBUTE_COPY_FIRST, "Admitting Diagnoses Description"},
    {0x00081084, "SQ", ATTRIBUTE_COPY_FIRST, "Admitting Diagnoses Code Sequence"},
    {0x00081090, "LO", ATTRIBUTE_NEW, "Manufacturer's Model Name"},
    {0x00081110, "SQ", ATTRIBUTE_COPY_FIRST, "Referenced Study Sequence"},
    {0x00081111, "SQ", ATTRIBUTE_NEVER, "Referenced Performed Procedure Step Sequence"},
    {0x00081115, "SQ", ATTRIBUTE_NEW, "Referenced Series Sequence"},
    {0x00081120, "SQ", ATTRIBUTE_COPY_FIRST, "Referenced Patient Sequence"},
    {0x00081140, "SQ", ATTRIBUTE_COPY_SAME, "Referenced Image Sequence"},
    {0x00081250, "SQ", ATTRIBUTE_NEW, "Related Series Sequence"},
    {0x00082111, "ST", ATTRIBUTE_NEW, "Derivation Description"},
    {0x00082112, "SQ", ATTRIBUTE_NEW, "Source Image Sequence"},
    {0x00089215, "SQ", ATTRIBUTE_NEW, "Derivation Code Sequence"},
    {0x00100010, "PN", ATTRIBUTE_COPY_FIRST_OR_EMPTY, "Patient's Name"},
    {0x00100020, "LO", ATTRIBUTE_COPY_FIRST_OR_EMPTY, "Patient ID"},
    {0x00100021, "LO", ATTRIBUTE_COPY_FIRST, "Issuer of Patient ID"},
    {0x00100022, "CS", ATTRIBUTE_COPY_FIRST, "Type of Patient ID"},
    {0x00100024, "SQ", ATTRIBUTE_COPY_FIRST, "Issuer of Patient ID Qualifiers Sequence"},
    {0x00100030, "DA", ATTRIBUTE_COPY_FIRST_OR_EMPTY, "Patient's Birth Date"},
    {0x00100032, "TM", ATTRIBUTE_COPY_FIRST, "Patient's Birth Time"},
    {0x00100033, "LO", ATTRIBUTE_COPY_FIRST, "Patient's Birth Date in Alternative Calendar"},
    {0x00100034, "LO", ATTRIBUTE_COPY_FIRST, "Patient's Death Date in Alternative Calendar"},
    {0x00100035, "CS", ATTRIBUTE_COPY_FIRST, "Patient's Alternative Calendar"},
    {0x00100040, "CS", ATTRIBUTE_COPY_FIRST_OR_EMPTY, "Patient's Sex"},
    {0x00100200, "CS", ATTRIBUTE_COPY_FIRST, "Quality Control Subject"},
    {0x00101001, "PN", ATTRIBUTE_COPY_FIRST, "Other Patient Names"},
    {0x00101002, "SQ", ATTRIBUTE_COPY_FIRST, "Other Patient IDs Sequence"},
    {0x00101010, "AS", ATTRIBUTE_COPY_FIRST, "Patient's Age"},
    {0x00101020, "DS", ATTRIBUTE_COPY_FIRST, "Patient's Size"},
    {0x00101021, "SQ", ATTRIBUTE_COPY_FIRST, "Patient's Size Code Sequence"},
    {0x00101030, "DS", ATTRIBUTE_COPY_FIRST, "Patient's Weight"},
    {0x00102000, "LO", ATTRIBUTE_COPY_FIRST, "Medical Alerts"},
    {0x00102110, "LO", ATTRIBUTE_COPY_FIRST, "Allergies"},
    {0x00102160, "SH", ATTRIBUTE_COPY_FIRST, "Ethnic Group"},
    {0x00102180, "SH", ATTRIBUTE_COPY_FIRST, "Occupation"},
    {0x001021A0, "CS", ATTRIBUTE_COPY_FIRST, "Smoking Status"},
    {0x001021B0, "LT", ATTRIBUTE_COPY_FIRST, "Additional Patient History"},
    {0x001021C0, "US", ATTRIBUTE_COPY_FIRST, "Pregnancy Status"},
    {0x001021D0, "DA", ATTRIBUTE_COPY_FIRST, "Last Menstrual Date"},
    {0x00102201, "LO", ATTRIBUTE_COPY_FIRST, "Patient Species Description"},
    {0x00102202, "SQ", ATTRIBUTE_COPY_FIRST, "Patient Species Code Sequence"},
    {0x00102203, "CS", ATTRIBUTE_COPY_FIRST, "Patient's Sex Neutered"},
    {0x00102292, "LO", ATTRIBUTE_COPY_FIRST, "Patient Breed Description"},
    {0x00102293, "SQ", ATTRIBUTE_COPY_FIRST, "Patient Breed Code Sequence"},
    {0x00102294, "SQ", ATTRIBUTE_COPY_FIRST, "Breed Registration Sequence"},
    {0x00102295, "LO", ATTRIBUTE_COPY_FIRST, "Breed Registration Number"},
    {0x00102296, "SQ", ATTRIBUTE_COPY_FIRST, "Breed Registry Code Sequence"},
    {0x00102297, "PN", ATTRIBUTE_COPY_FIRST, "Responsible Person"},
    {0x00102298, "CS", ATTRIBUTE_COPY_FIRST, "Responsible Person Role"},
    {0x00102299, "LO", ATTRIBUTE_COPY_FIRST, "Responsible Organization"},
    {0x00104000, "LT", ATTRIBUTE_COPY_FIRST, "Patient Comments"},
    {0x00120010, "LO", ATTRIBUTE_COPY_FIRST, "Clinical Trial Sponsor Name"},
    {0x00120020, "LO", ATTRIBUTE_COPY_FIRST, "Clinical Trial Protocol ID"},
    {0x00120021, "LO", ATTRIBUTE_COPY_FIRST, "Clinical Trial Protocol Name"},
    {0x00120030, "LO", ATTRIBUTE_COPY_FIRST, "Clinical Trial Site ID"},
    {0x00120031, "LO", ATTRIBUTE_COPY_FIRST, "Clinical Trial Site Name"},
    {0x00120040, "LO", ATTRIBUTE_COPY_FIRST, "Clinical Trial Subject ID"},
    {0x00120042, "LO", ATTRIBUTE_COPY_FIRST, "Clinical Trial Subject Reading ID"},
    {0x00120050, "LO", ATTRIBUTE_COPY_FIRST, "Clinical Trial Time Point ID"},
    {0x00120051, "ST", ATTRIBUTE_COPY_FIRST, "Clinical Trial Time Point Description"},
    {0x00120052, "FD", ATTRIBUTE_COPY_FIRST, "Longitudinal Temporal Offset from Event"},
    {0x00120053, "CS", ATTRIBUTE_COPY_FIRST, "Longitudinal Temporal Event Type"},
    {0x00120060, "LO", ATTRIBUTE_COPY_FIRST, "Clinical Trial Coordinating Center Name"},
    {0x00120062, "CS", ATTRIBUTE_COPY_FIRST, "Patient Identity Removed"},
    {0x00120063, "LO", ATTRIBUTE_COPY_FIRST, "De-identification Method"},
    {0x00120064, "SQ", ATTRIBUTE_COPY_FIRST, "De-identification Method Code Sequence"},
    {0x00120071, "LO", ATTRIBUTE_COPY_FIRST, "Clinical Trial Series ID"},
    {0x00120072, "LO", ATTRIBUTE_COPY_FIRST, "Clinical Trial Series Description"},
    {0x00120081, "LO", ATTRIBUTE_COPY_FIRST, "Clinical Trial Protocol Ethics Committee Name"},
    {0x00120082, "LO", ATTRIBUTE_COPY_FIRST, "Clinical Trial Protocol Ethics Committee Approval Number"},
    {0x00120083, "SQ", ATTRIBUTE_COPY_FIRST, "Consent for Clinical Trial Use Sequence"},
    {0x00180010, "LO", ATTRIBUTE_COPY_SAME, "Contrast/Bolus Agent"},
    {0x00180012, "SQ", ATTRIBUTE_COPY_SAME, "Contrast/Bolus Agent Sequence"},
    {0x00180014, "SQ", ATTRIBUTE_COPY_SAME, "Contrast/Bolus Administration Route Sequence"},
    {0x00180015, "CS", ATTRIBUTE_COPY_SAME, "Body Part Examined"},
    {0x00180020, "CS", ATTRIBUTE_COPY_FIRST, "Scanning Sequence"},
    {0x00180021, "CS", ATTRIBUTE_COPY_FIRST, "Sequence Variant"},
    {0x00180022, "CS", ATTRIBUTE_COPY_SAME_OR_EMPTY, "Scan Options"},
    {0x00180023, "CS", ATTRIBUTE_COPY_SAME_OR_EMPTY, "MR Acquisition Type"},
    {0x00180024, "SH", ATTRIBUTE_COPY_SAME, "Sequence Name"},
    {0x00180025, "CS", ATTRIBUTE_COPY_SAME, "Angio Flag"},
    {0x00180050, "DS", ATTRIBUTE_RECOMPUTED, "Slice Thickness"},
    {0x00180080, "DS", ATTRIBUTE_COPY_SAME, "Repetition Time"},
    {0x00180081, "DS", ATTRIBUTE_COPY_SAME_OR_EMPTY, "Echo Time"},
    {0x00180082, "DS", ATTRIBUTE_COPY_SAME, "Inversion Time"},
    {0x00180083, "DS", ATTRIBUTE_COPY_SAME, "Number of Averages"},
    {0x00180084, "DS", ATTRIBUTE_COPY_SAME, "Imaging Frequency"},
    {0x00180085, "SH", ATTRIBUTE_COPY_SAME, "Imaged Nucleus"},
    {0x00180086, "IS", ATTRIBUTE_COPY_SAME, "Echo Number(s)"},
    {0x00180087, "DS", ATTRIBUTE_COPY_SAME, "Magnetic Field Strength"},
    {0x00180088, "DS", ATTRIBUTE_RECOMPUTED, "Spacing Between Slices"},
    {0x00180089, "IS", ATTRIBUTE_COPY_SAME, "Number of Phase Encoding Steps"},
    {0x00180090, "DS", ATTRIBUTE_NEVER, "Data Collection Diameter"},
    {0x00180091, "IS", ATTRIBUTE_COPY_SAME_OR_EMPTY, "Echo Train Length"},
    {0x00180093, "DS", ATTRIBUTE_COPY_SAME, "Percent Sampling"},
    {0x00180094, "DS", ATTRIBUTE_COPY_SAME, "Percent Phase Field of View"},
    {0x00180095, "DS", ATTRIBUTE_COPY_SAME, "Pixel Bandwidth"},
    {0x00181000, "LO", ATTRIBUTE_NEW, "Device Serial Number"},
    {0x00181020, "LO", ATTRIBUTE_NEW, "Software Versions"},
    {0x00181030, "LO", ATTRIBUTE_COPY_SAME, "Protocol Name"},
    {0x00181040, "LO", ATTRIBUTE_COPY_SAME, "Contrast/Bolus Route"},
    {0x00181041, "DS", ATTRIBUTE_COPY_SAME, "Contrast/Bolus Volume"},
    {0x00181042, "TM", ATTRIBUTE_COPY_SAME, "Contrast/Bolus Start Time"},
    {0x00181043, "TM", ATTRIBUTE_COPY_SAME, "Contrast/Bolus Stop Time"},
    {0x00181044, "DS", ATTRIBUTE_COPY_SAME, "Contrast/Bolus Total Dose"},
    {0x00181046, "DS", ATTRIBUTE_COPY_SAME, "Contrast Flow Rate"},
    {0x00181047, "DS", ATTRIBUTE_COPY_SAME, "Contrast Flow Duration"},
    {0x00181048, "CS", ATTRIBUTE_COPY_SAME, "Contrast/Bolus Ingredient"},
    {0x00181049, "DS", ATTRIBUTE_COPY_SAME, "Contrast/Bolus Ingredient Concentration"},
    {0x00181060, "DS", ATTRIBUTE_NEVER, "Trigger Time"},
    {0x00181062, "IS", ATTRIBUTE_NEVER, "Nominal Interval"},
    {0x00181063, "DS", ATTRIBUTE_NEVER, "Frame Time"},
    {0x00181064, "LO", ATTRIBUTE_NEVER, "Cardiac Framing Type"},
    {0x00181310, "US", ATTRIBUTE_COPY_SAME, "Acquisition Matrix"},
    {0x00181312, "CS", ATTRIBUTE_COPY_SAME, "In-plane Phase Encoding Direction"},
    {0x00181314, "DS", ATTRIBUTE_COPY_SAME, "Flip Angle"},
    {0x00181316, "DS", ATTRIBUTE_COPY_SAME, "SAR"},
    {0x00185100, "CS", ATTRIBUTE_COPY_SAME, "Patient Position"},
    {0x00189004, "CS", ATTRIBUTE_NEW, "Content Qualification"},
    {0x00189087, "FD", ATTRIBUTE_NEVER, "Diffusion b-value"},
    {0x00189089, "FD", ATTRIBUTE_NEVER, "Diffusion Gradient Orientation"},
    {0x0018A001, "SQ", ATTRIBUTE_NEW, "Contributing Equipment Sequence"},
    {0x0020000D, "UI", ATTRIBUTE_COPY_FIRST_OR_FAIL, "Study Instance UID"},
    {0x0020000E, "UI", ATTRIBUTE_NEW, "Series Instance UID"},
    {0x00200010, "SH", ATTRIBUTE_COPY_FIRST_OR_EMPTY, "Study ID"},
    {0x00200011, "IS", ATTRIBUTE_NEW, "Series Number"},
    {0x00200012, "IS", ATTRIBUTE_COPY_SAME, "Acquisition Number"},
    {0x00200013, "IS", ATTRIBUTE_RECOMPUTED, "Instance Number"},
    {0x00200032, "DS", ATTRIBUTE_RECOMPUTED, "Image Position (Patient)"},
    {0x00200037, "DS", ATTRIBUTE_COPY_FIRST_OR_FAIL, "Image Orientation (Patient)"},
    {0x00200052, "UI", ATTRIBUTE_COPY_FIRST_OR_FAIL, "Frame of Reference UID"},
    {0x00200060, "CS", ATTRIBUTE_COPY_SAME, "Laterality"},
    {0x00200100, "IS", ATTRIBUTE_NEVER, "Temporal Position Identifier"},
    {0x00200105, "IS", ATTRIBUTE_NEVER, "Number of Temporal Positions"},
    {0x00201040, "LO", ATTRIBUTE_COPY_FIRST_OR_EMPTY, "Position Reference Indicator"},
    {0x00201041, "DS", ATTRIBUTE_RECOMPUTED, "Slice Location"},
    {0x00204000, "LT", ATTRIBUTE_NEW, "Image Comments"},
    {0x00280002, "US", ATTRIBUTE_NEW, "Samples per Pixel"},
    {0x00280004, "CS", ATTRIBUTE_NEW, "Photometric Interpretation"},
    {0x00280010, "US", ATTRIBUTE_RECOMPUTED, "Rows"},
    {0x00280011, "US", ATTRIBUTE_RECOMPUTED, "Columns"},
    {0x00280030, "DS", ATTRIBUTE_COPY_FIRST_OR_FAIL, "Pixel Spacing"},
    {0x00280100, "US", ATTRIBUTE_RECOMPUTED, "Bits Allocated"},
    {0x00280101, "US", ATTRIBUTE_RECOMPUTED, "Bits Stored"},
    {0x00280102, "US", ATTRIBUTE_RECOMPUTED, "High Bit"},
    {0x00280103, "US", ATTRIBUTE_RECOMPUTED, "Pixel Representation"},
    {0x00280106, "US", ATTRIBUTE_RECOMPUTED, "Smallest Image Pixel Value"},
    {0x00280107, "US", ATTRIBUTE_RECOMPUTED, "Largest Image Pixel Value"},
    {0x00280108, "US", ATTRIBUTE_NEVER, "Smallest Pixel Value in Series"},
    {0x00280109, "US", ATTRIBUTE_NEVER, "Largest Pixel Value in Series"},
    {0x00280120, "US", ATTRIBUTE_NEVER, "Pixel Padding Value"},
    {0x00280301, "CS", ATTRIBUTE_COPY_SAME, "Burned In Annotation"},
    {0x00281050, "DS", ATTRIBUTE_RECOMPUTED, "Window Center"},
    {0x00281051, "DS", ATTRIBUTE_RECOMPUTED, "Window Width"},
    {0x00281052, "DS", ATTRIBUTE_RECOMPUTED, "Rescale Intercept"},
    {0x00281053, "DS", ATTRIBUTE_RECOMPUTED, "Rescale Slope"},
    {0x00281054, "LO", ATTRIBUTE_RECOMPUTED, "Rescale Type"},
    {0x00281055, "LO", ATTRIBUTE_NEVER, "Window Center & Width Explanation"},
    {0x00282110, "CS", ATTRIBUTE_RECOMPUTED, "Lossy Image Compression"},
    {0x00282112, "DS", ATTRIBUTE_RECOMPUTED, "Lossy Image Compression Ratio"},
    {0x00282114, "CS", ATTRIBUTE_RECOMPUTED, "Lossy Image Compression Method"},
    {0x00283010, "SQ", ATTRIBUTE_NEVER, "VOI LUT Sequence"},
    {0x00321066, "UT", ATTRIBUTE_COPY_FIRST, "Reason for Visit"},
    {0x00321067, "SQ", ATTRIBUTE_COPY_FIRST, "Reason for Visit Code Sequence"},
    {0x00380010, "LO", ATTRIBUTE_COPY_FIRST, "Admission ID"},
    {0x00380014, "SQ", ATTRIBUTE_COPY_FIRST, "Issuer of Admission ID Sequence"},
    {0x00380060, "LO", ATTRIBUTE_COPY_FIRST, "Service Episode ID"},
    {0x00380062, "LO", ATTRIBUTE_COPY_FIRST, "Service Episode Description"},
    {0x00380064, "SQ", ATTRIBUTE_COPY_FIRST, "Issuer of Service Episode ID Sequence"},
    {0x00380500, "LO", ATTRIBUTE_COPY_FIRST, "Patient State"},
    {0x00400244, "DA", ATTRIBUTE_NEVER, "Performed Procedure Step Start Date"},
    {0x00400245, "TM", ATTRIBUTE_NEVER, "Performed Procedure Step Start Time"},
    {0x00400250, "DA", ATTRIBUTE_NEVER, "Performed Procedure Step End Date"},
    {0x00400251, "TM", ATTRIBUTE_NEVER, "Performed Procedure Step End Time"},
    {0x00400253, "SH", ATTRIBUTE_NEVER, "Performed Procedure Step ID"},
    {0x00400254, "LO", ATTRIBUTE_NEVER, "Performed Procedure Step Description"},
    {0x00400260, "SQ", ATTRIBUTE_NEVER, "Performed Protocol Code Sequence"},
    {0x00400275, "SQ", ATTRIBUTE_COPY_SAME, "Request Attributes Sequence"},
    {0x00401012, "SQ", ATTRIBUTE_COPY_FIRST, "Reason For Performed Procedure Code Sequence"},
    {0x00409096, "SQ", ATTRIBUTE_COPY_SAME, "Real World Value Mapping Sequence"},
    {0x00880200, "SQ", ATTRIBUTE_NEVER, "Icon Image Sequence"},
    {0x04000561, "SQ", ATTRIBUTE_NEVER, "Original Attributes Sequence"},
    {0x7FE00010, "OW", ATTRIBUTE_NEW, "Pixel Data"},
};
// clang-format on
const size_t n_attributes = sizeof attributes / sizeof attributes[0];

const struct attribute *attribute_find(uint32_t tag)
{
    size_t low = 0, high = n_attributes;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (attributes[middle].tag == tag)
            return &attributes[middle];
        if (attributes[middle].tag < tag)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static int only(const char *text, size_t n, const char *set)
{
    return strspn(text, set) >= n;
}

static int is_time(const char *p, size_t n)
{
    size_t whole = strcspn(p, ".");
    if (whole > n)
        whole = n;
    if (whole != 2 && whole != 4 && whole != 6)
        return 0;
    if (!only(p, whole, "0123456789") || p[0] > '2' || (whole >= 4 && p[2] > '5') ||
        (whole == 6 && p[4] > '6'))
        return 0;
    return whole == n || (whole == 6 && n > 7 && n <= 13 && only(p + 7, n - 7, "0123456789"));
}

// One value of a text that may hold several.
static int is_legal_value(const char *vr, const char *p, size_t n)
{
    static const char digits[] = "0123456789";
    double number = 0;
    if (n == 0)
        return 1;
    if (strcmp(vr, "DA") == 0)
        return n == 8 && only(p, n, digits) && memcmp(p + 4, "00", 2) > 0 && memcmp(p + 4, "13", 2) < 0 &&
               memcmp(p + 6, "00", 2) > 0 && memcmp(p + 6, "32", 2) < 0;
    if (strcmp(vr, "TM") == 0)
        return is_time(p, n);
    if (strcmp(vr, "AS") == 0)
        return n == 4 && only(p, 3, digits) && strchr("DWMY", p[3]) != NULL;
    if (strcmp(vr, "DS") == 0)
        return n <= 16 && number_at(p, 0, &number);
    if (strcmp(vr, "IS") == 0)
        return n <= 12 && only(p, n, "0123456789+- ") && number_at(p, 0, &number);
    if (strcmp(vr, "CS") == 0)
        return n <= 16 && only(p, n, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _");
    if (strcmp(vr, "UI") == 0) {
        char uid[UID_SIZE];
        if (n >= sizeof uid)
            return 0;
        memcpy(uid, p, n);
        uid[n] = '\0';
        return uid_is_valid(uid);
    }
    return 1;
}

int attribute_is_legal(const char *vr, const char *text)
{
    for (;;) {
        size_t n = strcspn(text, "\\");
        if (!is_legal_value(vr, text, n))
            return 0;
        if (text[n] == '\0')
            return 1;
        text += n + 1;
    }
}

// Letters and digits of a value, upper case.
static void reduce(const char *text, size_t n, char *out, size_t size)
{
    size_t at = 0;
    for (size_t i = 0; i < n && at + 1 < size; i++)
        if (isalnum((unsigned char)text[i]))
            out[at++] = (char)toupper((unsigned char)text[i]);
    out[at] = '\0';
}

// Appends one value of a Specific Character Set.
static void spell_charset(const char *text, size_t n, char *out, size_t size)
{
    char reduced[32] = "";
    size_t at = strlen(out);
    reduce(text, n, reduced, sizeof reduced);
    const char *number = strncmp(reduced, "ISO2022IR", 9) == 0 ? reduced + 9
                         : strncmp(reduced, "ISOIR", 5) == 0   ? reduced + 5
                                                               : NULL;
    if (strcmp(reduced, "UTF8") == 0)
        snprintf(out + at, size - at, "ISO_IR 192");
    else if (number != NULL && *number != '\0' && number[strspn(number, "0123456789")] == '\0')
        snprintf(out + at, size - at, "%s %s", number == reduced + 9 ? "ISO 2022 IR" : "ISO_IR", number);
    else
        snprintf(out + at, size - at, "%.*s", (int)n, text);
}

int attribute_charset(const char *text, char *out, size_t size)
{
    out[0] = '\0';
    for (;;) {
        size_t n = strcspn(text, "\\");
        spell_charset(text, n, out, size);
        if (text[n] == '\0')
            return attribute_is_legal("CS", out);
        text += n + 1;
        size_t at = strlen(out);
        snprintf(out + at, size - at, "\\");
    }
}
