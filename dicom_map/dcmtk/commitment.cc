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
#include "dicom_map/dcmtk/sink.hh"

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

unsigned long n_items(DcmDataset &dataset, const DcmTagKey &tag)
{
    DcmSequenceOfItems *sequence = nullptr;
    return dataset.findAndGetSequence(tag, sequence).good() && sequence != nullptr ? sequence->card() : 0;
}

// Appends the items of one sequence; there is room for them.
int read_sequence(DcmDataset &dataset, const DcmTagKey &tag, bool is_failed, commitment *out, fault_note *why)
{
    DcmSequenceOfItems *sequence = nullptr;
    if (dataset.findAndGetSequence(tag, sequence).bad() || sequence == nullptr)
        return 0;
    // Not getItem(i): its way to the i-th is a walk.
    DcmObject *object = nullptr;
    while ((object = sequence->nextInContainer(object)) != nullptr) {
        commitment_item &item = out->items[out->n];
        DcmItem &source = *static_cast<DcmItem *>(object);
        if (!read_uid(source, DCM_ReferencedSOPClassUID, item.sop_class_uid) ||
            !read_uid(source, DCM_ReferencedSOPInstanceUID, item.sop_instance_uid))
            return fault_set(why, FAULT_BAD_UID,
                             "SOP class or instance UID of item %zu is missing or malformed", out->n + 1);
        Uint16 reason = 0;
        item.reason = COMMITMENT_KEPT;
        if (is_failed && source.findAndGetUint16(DCM_FailureReason, reason).good() && reason != 0)
            item.reason = reason;
        else if (is_failed)
            item.reason = COMMITMENT_PROCESSING_FAILURE; // it failed, whatever is not said
        out->n++;
    }
    return 0;
}

int read_items(DcmDataset &dataset, int is_outcome, commitment *out, fault_note *why)
{
    if (!read_uid(dataset, DCM_TransactionUID, out->transaction_uid))
        return fault_set(why, FAULT_BAD_UID, "Transaction UID is missing or malformed");
    const unsigned long n_failed = is_outcome ? n_items(dataset, DCM_FailedSOPSequence) : 0;
    const unsigned long n = n_items(dataset, DCM_ReferencedSOPSequence) + n_failed;
    if (n == 0)
        return fault_set(why, FAULT_BAD_HEADER, "Referenced SOP Sequence is missing or empty");
    if (n > COMMITMENT_MAX_ITEMS)
        return fault_set(why, FAULT_TOO_LARGE, "%lu instances in one %s, at most %d", n,
                         is_outcome ? "report" : "request", COMMITMENT_MAX_ITEMS);
    out->items = static_cast<commitment_item *>(calloc(n, sizeof *out->items));
    if (out->items == nullptr)
        return fault_set(why, FAULT_NO_MEMORY, "cannot hold %lu instances", n);
    int rc = read_sequence(dataset, DCM_ReferencedSOPSequence, false, out, why);
    if (rc == 0 && n_failed > 0)
        rc = read_sequence(dataset, DCM_FailedSOPSequence, true, out, why);
    return rc;
}

// Of a report; of a request when no item has a reason.
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
                                    int is_outcome, struct commitment *out, struct fault_note *why)
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
            rc = fault_set(why, FAULT_BAD_HEADER, "the data set cannot be parsed: %s", condition.text());
        else
            rc = read_items(dataset, is_outcome, &parsed, why);
    } catch (...) {
        rc = fault_set(why, FAULT_NO_MEMORY, "memory exhausted while a commitment was parsed");
    }
    if (rc != 0) {
        free(parsed.items);
        return rc;
    }
    *out = parsed;
    return 0;
}

namespace
{

// Sends a message, whose own fields `fill` sets, with its data set in the context that was accepted.
template <typename Fill>
int send(T_ASC_Association *to, DcmDataset &dataset, const Fill &fill, fault_note *why)
{
    const T_ASC_PresentationContextID id = ASC_findAcceptedPresentationContextID(to, DCM_COMMITMENT_CLASS);
    if (id == 0)
        return fault_set(why, FAULT_NOT_NEGOTIATED, "peer accepts no storage commitment");
    T_DIMSE_Message message;
    memset(&message, 0, sizeof message);
    fill(message);
    const OFCondition condition =
        DIMSE_sendMessageUsingMemoryData(to, id, &message, nullptr, &dataset, nullptr, nullptr, nullptr);
    return condition.good() ? 0
                            : fault_set(why, FAULT_PEER_ABORTED, "association broke: %s", condition.text());
}

} // namespace

extern "C" int dcm_commitment_send(void *association, unsigned short message_id,
                                   const struct commitment *outcome, struct fault_note *why)
{
    try {
        DcmDataset dataset;
        const OFCondition condition = build(dataset, *outcome);
        if (condition.bad())
            return fault_set(why, FAULT_INTERNAL, "cannot write the report: %s", condition.text());
        bool is_whole = true;
        for (size_t i = 0; i < outcome->n; i++)
            is_whole = is_whole && outcome->items[i].reason == COMMITMENT_KEPT;
        const auto fill = [message_id, is_whole](T_DIMSE_Message &message) {
            message.CommandField = DIMSE_N_EVENT_REPORT_RQ;
            T_DIMSE_N_EventReportRQ &request = message.msg.NEventReportRQ;
            request.MessageID = message_id;
            OFStandard::strlcpy(request.AffectedSOPClassUID, DCM_COMMITMENT_CLASS,
                                sizeof request.AffectedSOPClassUID);
            OFStandard::strlcpy(request.AffectedSOPInstanceUID, DCM_COMMITMENT_INSTANCE,
                                sizeof request.AffectedSOPInstanceUID);
            request.EventTypeID = is_whole ? 1 : 2;
            request.DataSetType = DIMSE_DATASET_PRESENT;
        };
        return send(static_cast<T_ASC_Association *>(association), dataset, fill, why);
    } catch (...) {
        return fault_set(why, FAULT_NO_MEMORY, "memory exhausted while a report was written");
    }
}

extern "C" int dcm_commitment_ask(void *association, unsigned short message_id,
                                  const struct commitment *request, struct fault_note *why)
{
    try {
        DcmDataset dataset;
        const OFCondition condition = build(dataset, *request);
        if (condition.bad())
            return fault_set(why, FAULT_INTERNAL, "cannot write the request: %s", condition.text());
        const auto fill = [message_id](T_DIMSE_Message &message) {
            message.CommandField = DIMSE_N_ACTION_RQ;
            T_DIMSE_N_ActionRQ &action = message.msg.NActionRQ;
            action.MessageID = message_id;
            OFStandard::strlcpy(action.RequestedSOPClassUID, DCM_COMMITMENT_CLASS,
                                sizeof action.RequestedSOPClassUID);
            OFStandard::strlcpy(action.RequestedSOPInstanceUID, DCM_COMMITMENT_INSTANCE,
                                sizeof action.RequestedSOPInstanceUID);
            action.ActionTypeID = 1;
            action.DataSetType = DIMSE_DATASET_PRESENT;
        };
        return send(static_cast<T_ASC_Association *>(association), dataset, fill, why);
    } catch (...) {
        return fault_set(why, FAULT_NO_MEMORY, "memory exhausted while a request was written");
    }
}

extern "C" unsigned dcm_commitment_status(int rc)
{
    if (rc == 0)
        return STATUS_N_Success;
    if (rc == FAULT_BAD_UID || rc == FAULT_BAD_HEADER)
        return STATUS_N_InvalidArgumentValue;
    if (rc == FAULT_TOO_LARGE || rc == FAULT_NO_SPACE || rc == FAULT_NO_MEMORY)
        return STATUS_N_ResourceLimitation;
    return STATUS_N_ProcessingFailure;
}

namespace
{

OFCondition confirm(T_ASC_Association *to, T_ASC_PresentationContextID id,
                    const T_DIMSE_N_EventReportRQ &command, unsigned status)
{
    T_DIMSE_Message message;
    memset(&message, 0, sizeof message);
    message.CommandField = DIMSE_N_EVENT_REPORT_RSP;
    T_DIMSE_N_EventReportRSP &response = message.msg.NEventReportRSP;
    response.MessageIDBeingRespondedTo = command.MessageID;
    response.DimseStatus = static_cast<DIC_US>(status);
    OFStandard::strlcpy(response.AffectedSOPClassUID, command.AffectedSOPClassUID,
                        sizeof response.AffectedSOPClassUID);
    OFStandard::strlcpy(response.AffectedSOPInstanceUID, command.AffectedSOPInstanceUID,
                        sizeof response.AffectedSOPInstanceUID);
    response.EventTypeID = command.EventTypeID;
    response.DataSetType = DIMSE_DATASET_NULL;
    response.opts = O_NEVENTREPORT_AFFECTEDSOPCLASSUID | O_NEVENTREPORT_AFFECTEDSOPINSTANCEUID |
                    O_NEVENTREPORT_EVENTTYPEID;
    return DIMSE_sendMessageUsingMemoryData(to, id, &message, nullptr, nullptr, nullptr, nullptr, nullptr);
}

int broken(const OFCondition &condition, fault_note *why)
{
    const bool is_late = condition == DIMSE_NODATAAVAILABLE || condition == DUL_READTIMEOUT;
    return fault_set(why, is_late ? FAULT_TIMEOUT : FAULT_PEER_ABORTED, "association broke in a report: %s",
                     condition.text());
}

} // namespace

extern "C" int dcm_commitment_hear(void *association, unsigned char context, const void *command,
                                   int timeout_s, void (*alive)(void *user), void *alive_user,
                                   int (*told)(void *user, const struct commitment *outcome,
                                               struct fault_note *why),
                                   void *user, struct fault_note *why)
{
    try {
        T_ASC_Association *from = static_cast<T_ASC_Association *>(association);
        const T_DIMSE_N_EventReportRQ &request = *static_cast<const T_DIMSE_N_EventReportRQ *>(command);
        T_ASC_PresentationContext negotiated;
        MemorySink sink(DCM_COMMITMENT_MAX_BYTES, alive, alive_user);
        OFCondition condition = ASC_findAcceptedPresentationContext(from->params, context, &negotiated);
        T_ASC_PresentationContextID data_context = context;
        if (condition.good() && request.DataSetType != DIMSE_DATASET_NULL) {
            SinkStream stream(&sink);
            condition = DIMSE_receiveDataSetInFile(from, DIMSE_NONBLOCKING, timeout_s, &data_context, &stream,
                                                   nullptr, nullptr);
        }
        if (condition.bad())
            return broken(condition, why);
        if (data_context != context)
            return fault_set(why, FAULT_PROTOCOL,
                             "data set in another presentation context than its command");
        unsigned status = STATUS_N_InvalidArgumentValue;
        if (strcmp(negotiated.abstractSyntax, DCM_COMMITMENT_CLASS) != 0 ||
            strcmp(request.AffectedSOPClassUID, DCM_COMMITMENT_CLASS) != 0) {
            status = STATUS_N_NoSuchSOPClass;
        } else if (request.EventTypeID != 1 && request.EventTypeID != 2) {
            status = STATUS_N_NoSuchEventType;
        } else if (request.DataSetType != DIMSE_DATASET_NULL) {
            commitment outcome = {};
            fault_note note = {};
            int rc = sink.fault;
            if (rc == 0)
                rc = dcm_commitment_parse(sink.data, sink.size, negotiated.acceptedTransferSyntax, 1,
                                          &outcome, &note);
            if (rc == 0)
                rc = told(user, &outcome, &note);
            free(outcome.items);
            status = dcm_commitment_status(rc);
        }
        condition = confirm(from, context, request, status);
        return condition.good() ? 0 : broken(condition, why);
    } catch (...) {
        return fault_set(why, FAULT_NO_MEMORY, "memory exhausted while a report was read");
    }
}
