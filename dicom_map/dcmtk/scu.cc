// SPDX-License-Identifier: Apache-2.0
#include "dcmtk/config/osconfig.h"

#include "dcmtk/dcmdata/dctk.h"
#include "dcmtk/dcmnet/dcmtrans.h"
#include "dcmtk/dcmnet/dimse.h"
#include "dcmtk/dcmnet/diutil.h"
#include "dcmtk/ofstd/ofstd.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>

extern "C" {
#include "dicom_map/dcmtk/commitment.h"
#include "dicom_map/dcmtk/scu.h"
#include "dicom_map/dcmtk/tls.h"
}
#include "dicom_map/dcmtk/introduce.hh"

struct dcm_scu {
    T_ASC_Network *network = nullptr;
    T_ASC_Association *association = nullptr;
    dcm_tls *tls = nullptr;
    int dimse_timeout_s = 60;
    bool broken = false; // abort instead of release
};

namespace
{

int timeout_of(double seconds)
{
    return std::max(1, static_cast<int>(std::lround(seconds)));
}

int fault_of(dcm_scu &scu, const OFCondition &condition, fault_note *why)
{
    scu.broken = true;
    if (condition == DIMSE_NODATAAVAILABLE || condition == DUL_READTIMEOUT)
        return fault_set(why, FAULT_TIMEOUT, "no answer within %d s", scu.dimse_timeout_s);
    return fault_set(why, FAULT_PEER_ABORTED, "association broke: %s", condition.text());
}

int fault_of_status(unsigned status, fault_note *why)
{
    if (status == 0x0000 || status == 0xB000 || status == 0xB006 || status == 0xB007)
        return 0;
    if ((status & 0xff00) == 0xA700 || status == 0x0110 || status == 0x0213)
        return fault_set(why, FAULT_PEER_BUSY, "peer answered 0x%04x", status);
    return fault_set(why, FAULT_PEER_REFUSED, "peer answered 0x%04x", status);
}

void say_rejection(T_ASC_Association *association, char *text, size_t size)
{
    T_ASC_RejectParameters rejection;
    OFString words;
    ASC_getRejectParameters(association->params, &rejection);
    ASC_printRejectParameters(words, &rejection);
    std::replace(words.begin(), words.end(), '\n', ' ');
    OFStandard::strlcpy(text, words.c_str(), size);
}

int secure(dcm_scu &scu, T_ASC_Parameters *params, const dcm_scu_options &options, fault_note *why)
{
    const dcm_tls_options tls = {options.credentials,
                                 0,
                                 options.connect_timeout_s,
                                 options.dimse_timeout_s,
                                 options.host,
                                 options.certificate_sha256,
                                 options.certificate_name};
    const int rc = dcm_tls_open(&tls, &scu.tls, why);
    if (rc != 0)
        return rc;
    ASC_setTransportLayer(scu.network, static_cast<DcmTransportLayer *>(dcm_tls_layer(scu.tls)), 0);
    ASC_setTransportLayerType(params, OFTrue);
    return 0;
}

int open_association(dcm_scu &scu, const dcm_scu_options &options, fault_note *why)
{
    const int connect_s = timeout_of(options.connect_timeout_s);
    scu.dimse_timeout_s = timeout_of(options.dimse_timeout_s);
    dcmConnectionTimeout.set(connect_s);
    OFCondition condition = ASC_initializeNetwork(NET_REQUESTOR, 0, connect_s, &scu.network);
    T_ASC_Parameters *params = nullptr;
    if (condition.good())
        condition = ASC_createAssociationParameters(&params, ASC_MAXIMUMPDUSIZE);
    if (condition.bad())
        return fault_set(why, FAULT_INTERNAL, "cannot start the network layer: %s", condition.text());
    introduce(params);
    if (options.credentials != nullptr) {
        const int rc = secure(scu, params, options, why);
        if (rc != 0) {
            ASC_destroyAssociationParameters(&params);
            return rc;
        }
    }
    char address[512];
    snprintf(address, sizeof address, "%s:%d", options.host, static_cast<int>(options.port));
    ASC_setAPTitles(params, options.calling_ae, options.called_ae, nullptr);
    ASC_setPresentationAddresses(params, OFStandard::getHostName().c_str(), address);
    const char *explicit_le[] = {UID_LittleEndianExplicitTransferSyntax};
    const char *implicit_le[] = {UID_LittleEndianImplicitTransferSyntax};
    const char *both_le[] = {UID_LittleEndianExplicitTransferSyntax, UID_LittleEndianImplicitTransferSyntax};
    if (options.is_report) {
        ASC_addPresentationContext(params, 1, DCM_COMMITMENT_CLASS, both_le, 2, ASC_SC_ROLE_SCP);
    } else if (options.is_commit) {
        ASC_addPresentationContext(params, 1, DCM_COMMITMENT_CLASS, both_le, 2);
    } else if (options.is_query) {
        ASC_addPresentationContext(params, 1, UID_FINDStudyRootQueryRetrieveInformationModel, both_le, 2);
    } else {
        ASC_addPresentationContext(params, 1, UID_VerificationSOPClass, implicit_le, 1);
        ASC_addPresentationContext(params, 3, UID_MRImageStorage, explicit_le, 1);
        ASC_addPresentationContext(params, 5, UID_MRImageStorage, implicit_le, 1);
        ASC_addPresentationContext(params, 7, UID_EnhancedMRImageStorage, explicit_le, 1);
        ASC_addPresentationContext(params, 9, UID_EnhancedMRImageStorage, implicit_le, 1);
        ASC_addPresentationContext(params, 11, UID_SecondaryCaptureImageStorage, explicit_le, 1);
        ASC_addPresentationContext(params, 13, UID_SecondaryCaptureImageStorage, implicit_le, 1);
    }
    condition = ASC_requestAssociation(scu.network, params, &scu.association);
    if (condition == DUL_ASSOCIATIONREJECTED) {
        char words[256];
        say_rejection(scu.association, words, sizeof words);
        scu.broken = true;
        return fault_set(why, FAULT_ASSOCIATION_REJECTED, "'%s' at %s rejected the association: %s",
                         options.called_ae, address, words);
    }
    if (condition.bad()) {
        scu.broken = true;
        if (scu.association == nullptr)
            ASC_destroyAssociationParameters(&params);
        if (scu.tls != nullptr && dcm_tls_trouble(scu.tls)[0] != '\0')
            return fault_set(why, FAULT_TLS, "'%s' at %s: %s", options.called_ae, address,
                             dcm_tls_trouble(scu.tls));
        return fault_set(why, FAULT_CONNECT, "cannot reach '%s' at %s: %s", options.called_ae, address,
                         condition.text());
    }
    if (ASC_countAcceptedPresentationContexts(scu.association->params) == 0)
        return fault_set(why, FAULT_NOT_NEGOTIATED, "'%s' at %s accepts no %s", options.called_ae, address,
                         options.is_report   ? "storage commitment reports"
                         : options.is_commit ? "storage commitment"
                         : options.is_query  ? "queries"
                                             : "MR images");
    return 0;
}

int store_file(dcm_scu &scu, const char *path, unsigned *status, fault_note *why)
{
    DcmFileFormat file;
    OFCondition condition = file.loadFile(path);
    if (condition.bad())
        return fault_set(why, FAULT_IO, "cannot load '%s': %s", path, condition.text());
    DIC_UI sop_class, sop_instance;
    if (!DU_findSOPClassAndInstanceInDataSet(file.getDataset(), sop_class, sizeof sop_class, sop_instance,
                                             sizeof sop_instance))
        return fault_set(why, FAULT_NOT_DICOM, "'%s' names no SOP class and instance", path);
    T_ASC_PresentationContextID id = ASC_findAcceptedPresentationContextID(
        scu.association, sop_class, UID_LittleEndianExplicitTransferSyntax);
    if (id == 0)
        id = ASC_findAcceptedPresentationContextID(scu.association, sop_class,
                                                   UID_LittleEndianImplicitTransferSyntax);
    if (id == 0)
        return fault_set(why, FAULT_NOT_NEGOTIATED, "peer accepts no context for SOP class %s", sop_class);
    T_DIMSE_C_StoreRQ request;
    T_DIMSE_C_StoreRSP response;
    memset(&request, 0, sizeof request);
    memset(&response, 0, sizeof response);
    request.MessageID = scu.association->nextMsgID++;
    OFStandard::strlcpy(request.AffectedSOPClassUID, sop_class, sizeof request.AffectedSOPClassUID);
    OFStandard::strlcpy(request.AffectedSOPInstanceUID, sop_instance, sizeof request.AffectedSOPInstanceUID);
    request.DataSetType = DIMSE_DATASET_PRESENT;
    request.Priority = DIMSE_PRIORITY_MEDIUM;
    DcmDataset *detail = nullptr;
    condition = DIMSE_storeUser(scu.association, id, &request, nullptr, file.getDataset(), nullptr, nullptr,
                                DIMSE_NONBLOCKING, scu.dimse_timeout_s, &response, &detail);
    std::unique_ptr<DcmDataset> owner(detail);
    if (condition.bad())
        return fault_of(scu, condition, why);
    *status = response.DimseStatus;
    return fault_of_status(*status, why);
}

int report(dcm_scu &scu, const commitment &outcome, fault_note *why)
{
    const DIC_US message_id = scu.association->nextMsgID++;
    int rc = dcm_commitment_send(scu.association, message_id, &outcome, why);
    if (rc != 0) {
        scu.broken = true;
        return rc;
    }
    T_DIMSE_Message message;
    T_ASC_PresentationContextID id = 0;
    DcmDataset *detail = nullptr;
    memset(&message, 0, sizeof message);
    const OFCondition condition =
        DIMSE_receiveCommand(scu.association, DIMSE_NONBLOCKING, scu.dimse_timeout_s, &id, &message, &detail);
    std::unique_ptr<DcmDataset> owner(detail);
    if (condition.bad())
        return fault_of(scu, condition, why);
    const T_DIMSE_N_EventReportRSP &response = message.msg.NEventReportRSP;
    if (message.CommandField != DIMSE_N_EVENT_REPORT_RSP || response.DataSetType != DIMSE_DATASET_NULL ||
        response.MessageIDBeingRespondedTo != message_id) {
        scu.broken = true;
        return fault_set(why, FAULT_PEER_ABORTED, "peer answered a report with something else");
    }
    return response.DimseStatus == STATUS_N_Success
               ? 0
               : fault_set(why, FAULT_PEER_REFUSED, "peer answered the report with 0x%04x",
                           static_cast<unsigned>(response.DimseStatus));
}

// The answer to the request, and the report, which may come before or after it or on another association.
int commit(dcm_scu &scu, const commitment &asked, double wait_s,
           int (*told)(void *user, const commitment *outcome, fault_note *why), void *user, fault_note *why)
{
    const DIC_US message_id = scu.association->nextMsgID++;
    int rc = dcm_commitment_ask(scu.association, message_id, &asked, why);
    scu.broken = rc != 0;
    for (bool is_answered = false, is_told = false; rc == 0 && !(is_answered && is_told);) {
        T_DIMSE_Message message;
        T_ASC_PresentationContextID id = 0;
        DcmDataset *detail = nullptr;
        memset(&message, 0, sizeof message);
        const OFCondition condition = DIMSE_receiveCommand(
            scu.association, DIMSE_NONBLOCKING, is_answered ? timeout_of(wait_s) : scu.dimse_timeout_s, &id,
            &message, &detail);
        std::unique_ptr<DcmDataset> owner(detail);
        if (condition.bad() && is_answered) { // told elsewhere, then
            scu.broken = condition != DIMSE_NODATAAVAILABLE;
            return 0;
        }
        if (condition.bad())
            return fault_of(scu, condition, why);
        const T_DIMSE_N_ActionRSP &response = message.msg.NActionRSP;
        if (message.CommandField == DIMSE_N_EVENT_REPORT_RQ) {
            rc = dcm_commitment_hear(scu.association, id, &message.msg.NEventReportRQ, scu.dimse_timeout_s,
                                     nullptr, nullptr, told, user, why);
            is_told = true;
            scu.broken = rc != 0;
        } else if (message.CommandField == DIMSE_N_ACTION_RSP && !is_answered &&
                   response.DataSetType == DIMSE_DATASET_NULL &&
                   response.MessageIDBeingRespondedTo == message_id) {
            is_answered = true;
            rc = fault_of_status(response.DimseStatus, why);
        } else {
            scu.broken = true;
            return fault_set(why, FAULT_PEER_ABORTED, "peer answered a request with something else");
        }
    }
    return rc;
}

struct Found {
    const char *series_uid;
    int64_t n_answers; // about this series
    int64_t n_told;    // Number of Series Related Instances; -1: not given
};

void note_answer(void *user, T_DIMSE_C_FindRQ *, int, T_DIMSE_C_FindRSP *, DcmDataset *answer)
{
    Found &found = *static_cast<Found *>(user);
    const char *uid = nullptr;
    Sint32 n = -1;
    if (answer == nullptr)
        return;
    // A peer that ignores the key would count other series.
    if (answer->findAndGetString(DCM_SeriesInstanceUID, uid).bad() || uid == nullptr ||
        strcmp(uid, found.series_uid) != 0)
        return;
    found.n_answers++;
    if (answer->findAndGetSint32(DCM_NumberOfSeriesRelatedInstances, n).good() && n >= 0)
        found.n_told = n;
}

int find(dcm_scu &scu, const char *level, const char *study_uid, Found &found, fault_note *why)
{
    const T_ASC_PresentationContextID id = ASC_findAcceptedPresentationContextID(
        scu.association, UID_FINDStudyRootQueryRetrieveInformationModel);
    if (id == 0)
        return fault_set(why, FAULT_NOT_NEGOTIATED, "peer does not accept queries");
    DcmDataset query;
    query.putAndInsertString(DCM_QueryRetrieveLevel, level);
    query.putAndInsertString(DCM_StudyInstanceUID, study_uid);
    query.putAndInsertString(DCM_SeriesInstanceUID, found.series_uid);
    if (strcmp(level, "IMAGE") == 0)
        query.insertEmptyElement(DCM_SOPInstanceUID);
    else
        query.insertEmptyElement(DCM_NumberOfSeriesRelatedInstances);
    T_DIMSE_C_FindRQ request;
    T_DIMSE_C_FindRSP response;
    memset(&request, 0, sizeof request);
    memset(&response, 0, sizeof response);
    request.MessageID = scu.association->nextMsgID++;
    OFStandard::strlcpy(request.AffectedSOPClassUID, UID_FINDStudyRootQueryRetrieveInformationModel,
                        sizeof request.AffectedSOPClassUID);
    request.DataSetType = DIMSE_DATASET_PRESENT;
    request.Priority = DIMSE_PRIORITY_MEDIUM;
    int n_responses = 0;
    DcmDataset *detail = nullptr;
    const OFCondition condition =
        DIMSE_findUser(scu.association, id, &request, &query, n_responses, note_answer, &found,
                       DIMSE_NONBLOCKING, scu.dimse_timeout_s, &response, &detail);
    std::unique_ptr<DcmDataset> owner(detail);
    if (condition.bad())
        return fault_of(scu, condition, why);
    return fault_of_status(response.DimseStatus, why);
}

int count(dcm_scu &scu, const char *study_uid, const char *series_uid, int64_t *n, fault_note *why)
{
    Found found = {series_uid, 0, -1};
    int rc = find(scu, "SERIES", study_uid, found, why);
    if (rc == 0 && found.n_answers > 0 && found.n_told < 0) {
        found.n_answers = 0;
        rc = find(scu, "IMAGE", study_uid, found, why);
        found.n_told = found.n_answers;
    }
    if (rc == 0)
        *n = found.n_answers > 0 ? found.n_told : -1;
    return rc;
}

int caught(fault_note *why)
{
    try {
        throw;
    } catch (const std::bad_alloc &) {
        return fault_set(why, FAULT_NO_MEMORY, "memory exhausted while sending");
    } catch (...) {
        return fault_set(why, FAULT_INTERNAL, "unexpected exception while sending");
    }
}

} // namespace

extern "C" int dcm_scu_open(const struct dcm_scu_options *options, struct dcm_scu **scu,
                            struct fault_note *why)
{
    dcm_scu *opened = nullptr;
    int rc;
    try {
        opened = new dcm_scu;
        rc = open_association(*opened, *options, why);
    } catch (...) {
        rc = caught(why);
    }
    if (rc != 0) {
        dcm_scu_close(opened);
        return rc;
    }
    *scu = opened;
    return 0;
}

extern "C" int dcm_scu_echo(struct dcm_scu *scu, struct fault_note *why)
{
    try {
        DIC_US status = 0xffff;
        DcmDataset *detail = nullptr;
        if (ASC_findAcceptedPresentationContextID(scu->association, UID_VerificationSOPClass) == 0)
            return fault_set(why, FAULT_NOT_NEGOTIATED, "peer does not accept verification");
        OFCondition condition = DIMSE_echoUser(scu->association, scu->association->nextMsgID++,
                                               DIMSE_NONBLOCKING, scu->dimse_timeout_s, &status, &detail);
        std::unique_ptr<DcmDataset> owner(detail);
        return condition.good() ? fault_of_status(status, why) : fault_of(*scu, condition, why);
    } catch (...) {
        return caught(why);
    }
}

extern "C" int dcm_scu_store(struct dcm_scu *scu, const char *path, unsigned *status, struct fault_note *why)
{
    *status = 0xffff;
    try {
        return store_file(*scu, path, status, why);
    } catch (...) {
        scu->broken = true;
        return caught(why);
    }
}

extern "C" int dcm_scu_report(struct dcm_scu *scu, const struct commitment *outcome, struct fault_note *why)
{
    try {
        return report(*scu, *outcome, why);
    } catch (...) {
        scu->broken = true;
        return caught(why);
    }
}

extern "C" int dcm_scu_commit(struct dcm_scu *scu, const struct commitment *request, double wait_s,
                              int (*told)(void *user, const struct commitment *outcome,
                                          struct fault_note *why),
                              void *user, struct fault_note *why)
{
    try {
        return commit(*scu, *request, wait_s, told, user, why);
    } catch (...) {
        scu->broken = true;
        return caught(why);
    }
}

extern "C" int dcm_scu_count(struct dcm_scu *scu, const char *study_uid, const char *series_uid, int64_t *n,
                             struct fault_note *why)
{
    try {
        return count(*scu, study_uid, series_uid, n, why);
    } catch (...) {
        scu->broken = true;
        return caught(why);
    }
}

extern "C" void dcm_scu_close(struct dcm_scu *scu)
{
    if (scu == nullptr)
        return;
    try {
        if (scu->association != nullptr) {
            if (!scu->broken)
                ASC_releaseAssociation(scu->association);
            else
                ASC_abortAssociation(scu->association);
            ASC_destroyAssociation(&scu->association);
        }
        if (scu->network != nullptr)
            ASC_dropNetwork(&scu->network);
    } catch (...) {
        // nothing is left to do for this association
    }
    dcm_tls_close(scu->tls);
    delete scu;
}
