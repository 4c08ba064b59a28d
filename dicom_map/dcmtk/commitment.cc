// SPDX-License-Identifier: Apache-2.0
#include "dcmtk/config/osconfig.h"

#include "dcmtk/dcmdata/dcistrmb.h"
#include "dcmtk/dcmdata/dctk.h"
#include "dcmtk/dcmnet/dimse.h"
#include "dcmtk/ofstd/ofstd.h"

#include <cstdlib>
#include <cstring>
#include <new>

extern "C" {
#include "dicom_map/dcmtk/commitment.h"
#include "dicom_map/prescan.h"
}

namespace
{

bool read_uid(DcmItem &item, const DcmTagKey &tag, char uid[UID_SIZE])
{
    OFString text;
    if (item.findAndGetOFString(tag, text).bad() || text.length() >= UID_SIZE)
        return false;
    OFStandard::strlcpy(uid, text.c_str(), UID_SIZE);
    return uid_is_valid(uid);
}

int read_items(DcmDataset &dataset, commitment *out, fault_note *why)
{
    DcmSequenceOfItems *sequence = nullptr;
    if (!read_uid(dataset, DCM_TransactionUID, out->transaction_uid))
        return fault_set(why, FAULT_BAD_UID, "Transaction UID is missing or malformed");
    if (dataset.findAndGetSequence(DCM_ReferencedSOPSequence, sequence).bad() || sequence->card() == 0)
        return fault_set(why, FAULT_BAD_HEADER, "Referenced SOP Sequence is missing or empty");
    const unsigned long n = sequence->card();
    if (n > COMMITMENT_MAX_ITEMS)
        return fault_set(why, FAULT_TOO_LARGE, "%lu instances in one request, at most %d", n,
                         COMMITMENT_MAX_ITEMS);
    out->items = static_cast<commitment_item *>(calloc(n, sizeof *out->items));
    if (out->items == nullptr)
        return fault_set(why, FAULT_NO_MEMORY, "cannot hold %lu instances", n);
    // Not getItem(i): its way to the i-th is a walk.
    DcmObject *object = nullptr;
    while ((object = sequence->nextInContainer(object)) != nullptr && out->n < n) {
        commitment_item &item = out->items[out->n];
        DcmItem &source = *static_cast<DcmItem *>(object);
        if (!read_uid(source, DCM_ReferencedSOPClassUID, item.sop_class_uid) ||
            !read_uid(source, DCM_ReferencedSOPInstanceUID, item.sop_instance_uid))
            return fault_set(why, FAULT_BAD_UID,
                             "SOP class or instance UID of item %zu is missing or malformed", out->n + 1);
        out->n++;
    }
    return 0;
}

OFCondition build(DcmDataset &dataset, const commitment &outcome)
{
    OFCondition condition = dataset.putAndInsertString(DCM_TransactionUID, outcome.transaction_uid);
    for (size_t i = 0; i < outcome.n && condition.good(); i++) {
        const commitment_item &from = outcome.items[i];
        DcmItem *item = nullptr;
        condition = dataset.findOrCreateSequenceItem(
            from.reason == COMMITMENT_KEPT ? DCM_ReferencedSOPSequence : DCM_FailedSOPSequence, item,
            -2); // -2: a new one at the end
        if (condition.good())
            condition = item->putAndInsertString(DCM_ReferencedSOPClassUID, from.sop_class_uid);
        if (condition.good())
            condition = item->putAndInsertString(DCM_ReferencedSOPInstanceUID, from.sop_instance_uid);
        if (condition.good() && from.reason != COMMITMENT_KEPT)
            condition = item->putAndInsertUint16(DCM_FailureReason, static_cast<Uint16>(from.reason));
    }
    return condition;
}

} // namespace

extern "C" int dcm_commitment_parse(const void *data, size_t size, const char *transfer_syntax,
                                    struct commitment *out, struct fault_note *why)
{
    commitment parsed = {};
    fault_note note = {};
    const int explicit_vr = strcmp(transfer_syntax, UID_LittleEndianImplicitTransferSyntax) != 0;
    int rc = prescan_dataset(data, size, explicit_vr, &note); // DCMTK follows nesting without end
    if (rc != 0)
        return fault_set(why, rc == FAULT_NO_MEMORY ? FAULT_NO_MEMORY : FAULT_BAD_HEADER, "%s", note.text);
    try {
        DcmInputBufferStream stream;
        DcmDataset dataset;
        stream.setBuffer(data, static_cast<offile_off_t>(size));
        stream.setEos();
        const OFCondition condition = dataset.read(stream, DcmXfer(transfer_syntax).getXfer());
        if (condition.bad())
            rc = fault_set(why, FAULT_BAD_HEADER, "the request cannot be parsed: %s", condition.text());
        else
            rc = read_items(dataset, &parsed, why);
    } catch (...) {
        rc = fault_set(why, FAULT_NO_MEMORY, "memory exhausted while a request was parsed");
    }
    if (rc != 0) {
        free(parsed.items);
        return rc;
    }
    *out = parsed;
    return 0;
}

extern "C" int dcm_commitment_send(void *association, unsigned short message_id,
                                   const struct commitment *outcome, struct fault_note *why)
{
    try {
        T_ASC_Association *to = static_cast<T_ASC_Association *>(association);
        const T_ASC_PresentationContextID id =
            ASC_findAcceptedPresentationContextID(to, DCM_COMMITMENT_CLASS);
        if (id == 0)
            return fault_set(why, FAULT_NOT_NEGOTIATED, "peer accepts no storage commitment");
        DcmDataset dataset;
        OFCondition condition = build(dataset, *outcome);
        if (condition.bad())
            return fault_set(why, FAULT_INTERNAL, "cannot write the report: %s", condition.text());
        bool is_whole = true;
        for (size_t i = 0; i < outcome->n; i++)
            is_whole = is_whole && outcome->items[i].reason == COMMITMENT_KEPT;
        T_DIMSE_Message message;
        memset(&message, 0, sizeof message);
        message.CommandField = DIMSE_N_EVENT_REPORT_RQ;
        T_DIMSE_N_EventReportRQ &request = message.msg.NEventReportRQ;
        request.MessageID = message_id;
        OFStandard::strlcpy(request.AffectedSOPClassUID, DCM_COMMITMENT_CLASS,
                            sizeof request.AffectedSOPClassUID);
        OFStandard::strlcpy(request.AffectedSOPInstanceUID, DCM_COMMITMENT_INSTANCE,
                            sizeof request.AffectedSOPInstanceUID);
        request.EventTypeID = is_whole ? 1 : 2;
        request.DataSetType = DIMSE_DATASET_PRESENT;
        condition =
            DIMSE_sendMessageUsingMemoryData(to, id, &message, nullptr, &dataset, nullptr, nullptr, nullptr);
        if (condition.bad())
            return fault_set(why, FAULT_PEER_ABORTED, "association broke: %s", condition.text());
        return 0;
    } catch (...) {
        return fault_set(why, FAULT_NO_MEMORY, "memory exhausted while a report was written");
    }
}
