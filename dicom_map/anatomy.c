// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/anatomy.h"

#include <stddef.h>
#include <string.h>

// Heart is left out: its code stands for two words.
static const struct anatomy regions[] = {
    {"ABDOMEN", "818981001", "113345001", "T-D4000", "Abdomen"},
    {"ANKLE", "70258002", NULL, "T-15750", "Ankle joint"},
    {"BLADDER", "89837001", NULL, "T-74000", "Bladder"},
    {"BRAIN", "12738006", NULL, "T-A0100", "Brain"},
    {"BREAST", "76752008", NULL, "T-04000", "Breast"},
    {"CALCANEUS", "80144004", NULL, "T-12770", "Calcaneus"},
    {"CHESTABDOMEN", "416550000", NULL, "R-FAB55", "Chest and Abdomen"},
    {"CHESTABDPELVIS", "416775004", NULL, "R-FAB56", "Chest, Abdomen and Pelvis"},
    {"CLAVICLE", "51299004", NULL, "T-12310", "Clavicle"},
    {"COCCYX", "64688005", NULL, "T-11BF0", "Coccyx"},
    {"CSPINE", "122494005", NULL, "T-11501", "Cervical spine"},
    {"CTSPINE", "1217257000", "297171002", "T-D00F7", "Cervico-thoracic spine"},
    {"ELBOW", "16953009", NULL, "T-15430", "Elbow joint"},
    {"EYE", "81745001", NULL, "T-AA000", "Eye"},
    {"FEMUR", "71341001", NULL, "T-12710", "Femur"},
    {"FINGER", "7569003", NULL, "T-D8800", "Finger"},
    {"FOOT", "56459004", NULL, "T-D9700", "Foot"},
    {"FOREARM", "14975008", NULL, "T-D8500", "Forearm"},
    {"HAND", "85562004", NULL, "T-D8700", "Hand"},
    {"HEAD", "69536005", NULL, "T-D1100", "Head"},
    {"HEADNECK", "774007", NULL, "T-D1000", "Head and Neck"},
    {"HIP", "24136001", "29836001", "T-D2500", "Hip joint"},
    {"HUMERUS", "85050009", NULL, "T-12410", "Humerus"},
    {"IAC", "361078006", NULL, "T-AB959", "Internal Auditory Canal"},
    {"KNEE", "72696002", NULL, "T-D9200", "Knee"},
    {"LIVER", "10200004", NULL, "T-62000", "Liver"},
    {"LSPINE", "122496007", NULL, "T-11503", "Lumbar spine"},
    {"LSSPINE", "1217253001", "297173004", "T-D00F9", "Lumbo-sacral spine"},
    {"NECK", "45048000", NULL, "T-D1600", "Neck"},
    {"ORBIT", "363654007", NULL, "T-D14AE", "Orbital structure"},
    {"PAROTID", "45289007", NULL, "T-61100", "Parotid gland"},
    {"PATELLA", "64234005", NULL, "T-12730", "Patella"},
    {"PELVIS", "816092008", "12921003", "T-D6000", "Pelvis"},
    {"PROSTATE", "41216001", NULL, "T-92000", "Prostate"},
    {"SELLA", "42575006", NULL, "T-D1460", "Sella turcica"},
    {"SHOULDER", "16982005", NULL, "T-D2220", "Shoulder"},
    {"SIJOINT", "39723000", NULL, "T-15680", "Sacroiliac joint"},
    {"SKULL", "89546000", NULL, "T-11100", "Skull"},
    {"SPINE", "421060004", NULL, "T-D04FF", "Spine"},
    {"SSPINE", "54735007", NULL, "T-11AD0", "Sacrum"},
    {"STERNUM", "56873002", NULL, "T-11210", "Sternum"},
    {"THIGH", "68367000", NULL, "T-D9100", "Thigh"},
    {"THUMB", "76505004", NULL, "T-D8810", "Thumb"},
    {"TLSPINE", "1217256009", "297172009", "T-D00F8", "Thoraco-lumbar spine"},
    {"TMJ", "53620006", NULL, "T-15290", "Temporomandibular joint"},
    {"TOE", "29707007", NULL, "T-D9800", "Toe"},
    {"TSPINE", "122495006", NULL, "T-11502", "Thoracic spine"},
    {"UTERUS", "35039007", NULL, "T-83000", "Uterus"},
    {"WHOLEBODY", "38266002", NULL, "T-D0010", "Entire body"},
    {"WRIST", "74670003", NULL, "T-15460", "Wrist joint"},
};
enum { N_REGIONS = sizeof regions / sizeof regions[0] };

const struct anatomy *anatomy_of_body_part(const char *body_part)
{
    for (size_t i = 0; i < N_REGIONS; i++)
        if (strcmp(regions[i].body_part, body_part) == 0)
            return &regions[i];
    return NULL;
}

const struct anatomy *anatomy_of_code(const char *scheme, const char *code)
{
    // SNM3 and 99SDM are what SNOMED RT was called before
    int is_srt = strcmp(scheme, "SRT") == 0 || strcmp(scheme, "SNM3") == 0 || strcmp(scheme, "99SDM") == 0;
    if (!is_srt && strcmp(scheme, "SCT") != 0)
        return NULL;
    for (size_t i = 0; i < N_REGIONS; i++) {
        const struct anatomy *region = &regions[i];
        if (is_srt ? strcmp(region->srt, code) == 0
                   : strcmp(region->code, code) == 0 ||
                         (region->old_code != NULL && strcmp(region->old_code, code) == 0))
            return region;
    }
    return NULL;
}
