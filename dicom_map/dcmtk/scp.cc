// SPDX-License-Identifier: Apache-2.0
#include "dcmtk/config/osconfig.h"

#include "dcmtk/dcmdata/dcostrma.h"
#include "dcmtk/dcmdata/dctk.h"
#include "dcmtk/dcmnet/dcmlayer.h"
#include "dcmtk/dcmnet/dcmtrans.h"
#include "dcmtk/dcmnet/dimse.h"
#include "dcmtk/dcmnet/dulstruc.h"
#include "dcmtk/oflog/oflog.h"
#include "dcmtk/ofstd/ofstd.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <new>
#include <string>
#include <sys/socket.h>
#include <unistd.h>

extern "C" {
#include "dicom_map/dcmtk/commitment.h"
#include "dicom_map/dcmtk/scp.h"
#include "dicom_map/dcmtk/tls.h"
}
#include "dicom_map/dcmtk/introduce.hh"
#include "dicom_map/dcmtk/sink.hh"

namespace
{

constexpr long receive_pdu_bytes = 131072;

const char *const storage_classes[] = {UID_MRImageStorage, UID_EnhancedMRImageStorage,
                                       UID_LegacyConvertedEnhancedMRImageStorage};
const char *const storage_syntaxes[] = {
    UID_LittleEndianExplicitTransferSyntax, UID_LittleEndianImplicitTransferSyntax,
    UID_JPEGProcess14SV1TransferSyntax,     UID_JPEGProcess14TransferSyntax,
    UID_JPEGLSLosslessTransferSyntax,       UID_RLELosslessTransferSyntax,
    UID_JPEG2000LosslessOnlyTransferSyntax};
constexpr int state_idle = 1, state_asked = 3; // PS3.8 table 9-10
constexpr long max_command_bytes = 1L << 20;   // DCMTK gathers a command in memory, whatever its size
constexpr int outcome_poll_us = 50 * 1000;
const char *const plain_syntaxes[] = {UID_LittleEndianExplicitTransferSyntax,
                                      UID_LittleEndianImplicitTransferSyntax};

// One object on its way in: the first fault is latched and the rest of its bytes swallowed.
struct Object {
    const dcm_scp_callbacks *callbacks;
    fault_note *why;
    int fault;
};

class Consumer final : public Sink
{
  public:
    explicit Consumer(Object &object) : object_(object)
    {
    }

  private:
    void take(const void *data, size_t size) override
    {
        object_.callbacks->peer_is_due(object_.callbacks->user, 1);
        if (object_.fault == 0)
            object_.fault = object_.callbacks->store_data(object_.callbacks->user, data, size, object_.why);
    }

    Object &object_;
};

// What may still be read from the peer; negative: without bound.
struct Budget {
    long left;
    int is_spent;
};

class BoundedConnection : public DcmTCPConnection
{
  public:
    BoundedConnection(DcmNativeSocketType socket, Budget &budget) : DcmTCPConnection(socket), budget_(budget)
    {
    }
    ssize_t read(void *data, size_t size) override
    {
        if (budget_.left < 0)
            return DcmTCPConnection::read(data, size);
        const ssize_t n =
            budget_.left == 0
                ? 0
                : DcmTCPConnection::read(data, std::min(size, static_cast<size_t>(budget_.left)));
        budget_.left -= std::max<ssize_t>(n, 0);
        budget_.is_spent = budget_.left == 0;
        return n;
    }

  private:
    Budget &budget_;
};

class BoundedLayer : public DcmTransportLayer
{
  public:
    explicit BoundedLayer(Budget &budget) : budget_(budget)
    {
    }
    DcmTransportConnection *createConnection(DcmNativeSocketType socket, OFBool secure) override
    {
        return secure ? nullptr : new BoundedConnection(socket, budget_);
    }

  private:
    Budget &budget_;
};

void copy_text(char *out, size_t size, const char *text)
{
    OFStandard::strlcpy(out, text ? text : "", size);
}

// Trailing and leading spaces are not part of an AE title (PS3.5 table 6.2-1).
void copy_ae(char out[17], const char *text)
{
    while (*text == ' ')
        text++;
    size_t n = strlen(text);
    while (n > 0 && text[n - 1] == ' ')
        n--;
    n = std::min<size_t>(n, 16);
    memcpy(out, text, n);
    out[n] = '\0';
}

int fault_of(const OFCondition &condition, fault_note *why)
{
    // DIMSE wraps what the layers below it say, and keeps their text only.
    const auto is = [&condition](const OFConditionConst &other) {
        return condition == other || strstr(condition.text(), OFCondition(other).text()) != nullptr;
    };
    if (is(DUL_PEERABORTEDASSOCIATION))
        return fault_set(why, FAULT_PEER_ABORTED, "peer aborted the association");
    if (is(DUL_NETWORKCLOSED))
        return fault_set(why, FAULT_PEER_ABORTED, "peer closed the connection");
    if (condition == DIMSE_NODATAAVAILABLE || is(DUL_READTIMEOUT))
        return fault_set(why, FAULT_TIMEOUT, "peer said nothing for too long");
    if (is(EC_MemoryExhausted))
        return fault_set(why, FAULT_NO_MEMORY, "memory exhausted in an association");
    return fault_set(why, FAULT_PROTOCOL, "association broke: %s", condition.text());
}

int timeout_of(double seconds)
{
    return std::max(1, static_cast<int>(std::lround(seconds)));
}

class Association
{
  public:
    Association(const dcm_scp_options &options, const dcm_scp_callbacks &callbacks, fault_note *why)
        : options_(options), callbacks_(callbacks), why_(why)
    {
        memset(&peer_, 0, sizeof peer_);
    }
    ~Association()
    {
        if (association_ != nullptr) {
            ASC_dropSCPAssociation(association_, 1);
            ASC_destroyAssociation(&association_);
        }
        if (network_ != nullptr)
            ASC_dropNetwork(&network_);
        dcm_tls_close(tls_);
    }
    Association(const Association &) = delete;
    Association &operator=(const Association &) = delete;

    int serve(int fd)
    {
        fd_ = fd;
        dcmExternalSocketHandle.set(fd);
        OFCondition condition =
            ASC_initializeNetwork(NET_ACCEPTOR, 0, timeout_of(options_.acse_timeout_s), &network_);
        if (condition.bad())
            return fault_set(why_, FAULT_INTERNAL, "cannot start the network layer: %s", condition.text());
        if (options_.credentials != nullptr) {
            const int rc = secure();
            if (rc != 0)
                return rc;
        } else {
            ASC_setTransportLayer(network_, &layer_, 0);
        }
        condition = ASC_receiveAssociation(network_, &association_, receive_pdu_bytes, nullptr, nullptr,
                                           options_.credentials != nullptr, DUL_NOBLOCK,
                                           timeout_of(options_.acse_timeout_s));
        if (tls_ != nullptr) {
            peer_.certificate = dcm_tls_peer(tls_);
            if (peer_.certificate == nullptr)
                return fault_set(why_, FAULT_TLS, "%s", dcm_tls_trouble(tls_));
        }
        if (condition == DUL_NOASSOCIATIONREQUEST || condition == DUL_READTIMEOUT)
            return fault_set(why_, FAULT_TIMEOUT, "no association request within %g s",
                             options_.acse_timeout_s);
        if (condition.bad())
            return fault_of(condition, why_);
        // DCMTK calls it good when the peer hangs up or sends another message than the request.
        const int state = static_cast<PRIVATE_ASSOCIATIONKEY *>(association_->DULassociation)->protocolState;
        if (state == state_idle)
            return fault_set(why_, FAULT_PEER_ABORTED, "peer hung up without an association request");
        if (state != state_asked)
            return fault_set(why_, FAULT_PROTOCOL,
                             "peer began with another message than an association request");
        int rc = negotiate();
        return rc != 0 ? rc : loop();
    }

  private:
    int secure()
    {
        const dcm_tls_options tls = {
            options_.credentials, 1, options_.acse_timeout_s, options_.dimse_timeout_s, "", "", ""};
        const int rc = dcm_tls_open(&tls, &tls_, why_);
        if (rc == 0)
            ASC_setTransportLayer(network_, static_cast<DcmTransportLayer *>(dcm_tls_layer(tls_)), 0);
        return rc;
    }

    int reject(T_ASC_RejectParametersResult result, T_ASC_RejectParametersSource source,
               T_ASC_RejectParametersReason reason, const char *text)
    {
        T_ASC_RejectParameters rejection = {result, source, reason};
        ASC_rejectAssociation(association_, &rejection);
        return fault_set(why_, FAULT_ACCESS, "association rejected: %s: calling '%s' called '%s' from %s",
                         text, peer_.calling_ae, peer_.called_ae, peer_.address);
    }

    int negotiate()
    {
        T_ASC_Parameters *params = association_->params;
        DIC_AE calling, called;
        ASC_getAPTitles(params, calling, sizeof calling, called, sizeof called, nullptr, 0);
        copy_ae(peer_.calling_ae, calling);
        copy_ae(peer_.called_ae, called);
        copy_text(peer_.address, sizeof peer_.address, params->DULparams.callingPresentationAddress);
        char application_context[DUL_LEN_NAME + 1];
        if (ASC_getApplicationContextName(params, application_context, sizeof application_context).bad() ||
            strcmp(application_context, UID_StandardApplicationContext) != 0)
            return reject(ASC_RESULT_REJECTEDPERMANENT, ASC_SOURCE_SERVICEUSER,
                          ASC_REASON_SU_APPCONTEXTNAMENOTSUPPORTED, "unknown application context");
        if (!contexts_are_sound()) {
            ASC_abortAssociation(association_);
            return why_->fault;
        }
        fault_note trouble = {};
        switch (callbacks_.associate(callbacks_.user, &peer_, &trouble)) {
        case DCM_ANSWER_ACCEPT:
            break;
        case DCM_ANSWER_CALLED_UNKNOWN:
            return reject(ASC_RESULT_REJECTEDPERMANENT, ASC_SOURCE_SERVICEUSER,
                          ASC_REASON_SU_CALLEDAETITLENOTRECOGNIZED, "called AE title is not ours");
        case DCM_ANSWER_CALLING_UNKNOWN:
            return reject(ASC_RESULT_REJECTEDPERMANENT, ASC_SOURCE_SERVICEUSER,
                          ASC_REASON_SU_CALLINGAETITLENOTRECOGNIZED, "sender is not listed");
        case DCM_ANSWER_NEEDS_TLS:
            return reject(ASC_RESULT_REJECTEDPERMANENT, ASC_SOURCE_SERVICEUSER,
                          ASC_REASON_SU_CALLINGAETITLENOTRECOGNIZED,
                          "this sender must use TLS and show its certificate");
        case DCM_ANSWER_OTHER_CERTIFICATE: {
            char text[500];
            credentials_describe(peer_.certificate, text, sizeof text);
            const std::string sentence = std::string("the certificate is not that sender's but ") + text;
            return reject(ASC_RESULT_REJECTEDPERMANENT, ASC_SOURCE_SERVICEUSER,
                          ASC_REASON_SU_CALLINGAETITLENOTRECOGNIZED, sentence.c_str());
        }
        case DCM_ANSWER_LOCAL_LIMIT:
            return reject(ASC_RESULT_REJECTEDTRANSIENT, ASC_SOURCE_SERVICEPROVIDER_PRESENTATION_RELATED,
                          ASC_REASON_SP_PRES_LOCALLIMITEXCEEDED, "too many associations");
        case DCM_ANSWER_CONGESTION:
            reject(ASC_RESULT_REJECTEDTRANSIENT, ASC_SOURCE_SERVICEPROVIDER_PRESENTATION_RELATED,
                   ASC_REASON_SP_PRES_TEMPORARYCONGESTION, "");
            return fault_set(why_, trouble.fault, "association rejected: %s: calling '%s'", trouble.text,
                             peer_.calling_ae);
        }
        const char *verification[] = {UID_VerificationSOPClass};
        OFCondition condition = ASC_acceptContextsWithPreferredTransferSyntaxes(
            params, verification, 1, const_cast<const char **>(plain_syntaxes),
            sizeof plain_syntaxes / sizeof plain_syntaxes[0]);
        if (condition.good())
            condition = accept_commitment();
        if (condition.good())
            condition = ASC_acceptContextsWithPreferredTransferSyntaxes(
                params, const_cast<const char **>(storage_classes),
                sizeof storage_classes / sizeof storage_classes[0],
                const_cast<const char **>(storage_syntaxes),
                sizeof storage_syntaxes / sizeof storage_syntaxes[0]);
        introduce(params);
        if (condition.good())
            condition = ASC_acknowledgeAssociation(association_);
        return condition.good() ? 0 : fault_of(condition, why_);
    }

    // The peer may ask for our commitment, tell us of its own, or both, as the roles that it proposes say.
    // Some propose none and tell all the same.
    OFCondition accept_commitment()
    {
        T_ASC_Parameters *params = association_->params;
        OFCondition condition = EC_Normal;
        const int n = ASC_countPresentationContexts(params);
        for (int i = 0; i < n && condition.good(); i++) {
            T_ASC_PresentationContext context;
            condition = ASC_getPresentationContext(params, i, &context);
            if (condition.bad() || strcmp(context.abstractSyntax, DCM_COMMITMENT_CLASS) != 0)
                continue;
            const T_ASC_SC_ROLE role = context.proposedRole;
            const bool asks = options_.commitment && role != ASC_SC_ROLE_SCP;
            const bool tells = options_.reports && role != ASC_SC_ROLE_SCU;
            if (!asks && !tells)
                continue; // what no one accepts is refused
            const char *syntax = nullptr;
            for (const char *ours : plain_syntaxes)
                for (int j = 0; j < context.transferSyntaxCount && syntax == nullptr; j++)
                    if (strcmp(context.proposedTransferSyntaxes[j], ours) == 0)
                        syntax = ours;
            condition = syntax == nullptr
                            ? ASC_refusePresentationContext(params, context.presentationContextID,
                                                            ASC_P_TRANSFERSYNTAXESNOTSUPPORTED)
                            : ASC_acceptPresentationContext(params, context.presentationContextID, syntax,
                                                            role == ASC_SC_ROLE_DEFAULT ? role
                                                            : asks && tells             ? ASC_SC_ROLE_SCUSCP
                                                            : tells                     ? ASC_SC_ROLE_SCP
                                                                                        : ASC_SC_ROLE_SCU);
        }
        return condition;
    }

    // Identifiers are odd and used once (PS3.8 section 9.3.2.2), so there are 128 at most; DCMTK does not
    // look.
    int contexts_are_sound()
    {
        unsigned char seen[256] = {0};
        const int n = ASC_countPresentationContexts(association_->params);
        for (int i = 0; i < n; i++) {
            T_ASC_PresentationContext context;
            if (ASC_getPresentationContext(association_->params, i, &context).bad() ||
                (context.presentationContextID & 1) == 0 || seen[context.presentationContextID]++ != 0) {
                fault_set(why_, FAULT_PROTOCOL,
                          "%d presentation contexts proposed, of which number %d has a bad identifier, %u", n,
                          i + 1, static_cast<unsigned>(context.presentationContextID));
                return 0;
            }
        }
        return 1;
    }

    // Until the peer says something: reports outcomes that have become known. One report at a time.
    int wait_for_peer()
    {
        for (double waited_s = 0; n_unreported_ > 0 && reporting_ < 0 &&
                                  waited_s < options_.dimse_timeout_s && !ASC_dataWaiting(association_, 0);
             waited_s += outcome_poll_us * 1e-6) {
            commitment outcome = {};
            if (!callbacks_.commit_outcome(callbacks_.user, &reporting_, &outcome)) {
                reporting_ = -1;
                usleep(outcome_poll_us);
                continue;
            }
            report_id_ = association_->nextMsgID++;
            const int rc = dcm_commitment_send(association_, report_id_, &outcome, why_);
            free(outcome.items);
            if (rc != 0)
                return rc;
        }
        return 0;
    }

    void end_report(const T_DIMSE_N_EventReportRSP &response)
    {
        if (reporting_ < 0 || response.MessageIDBeingRespondedTo != report_id_)
            return;
        if (response.DimseStatus == STATUS_N_Success)
            callbacks_.commit_reported(callbacks_.user, reporting_);
        reporting_ = -1;
        n_unreported_--; // refused: it is reported elsewhere later
    }

    int loop()
    {
        for (;;) {
            const int wait_rc = wait_for_peer();
            if (wait_rc != 0)
                return wait_rc;
            T_DIMSE_Message message;
            T_ASC_PresentationContextID id;
            DcmDataset *detail = nullptr;
            memset(&message, 0, sizeof message);
            callbacks_.peer_is_due(callbacks_.user, 1);
            budget_.left = max_command_bytes;
            OFCondition condition =
                DIMSE_receiveCommand(association_, DIMSE_NONBLOCKING, timeout_of(options_.dimse_timeout_s),
                                     &id, &message, &detail);
            delete detail;
            callbacks_.peer_is_due(callbacks_.user, 0);
            if (budget_.is_spent)
                return fault_set(why_, FAULT_PROTOCOL, "peer sent a command of more than %ld bytes",
                                 max_command_bytes);
            budget_.left = -1;
            if (condition == DUL_PEERREQUESTEDRELEASE) {
                ASC_acknowledgeRelease(association_);
                const int n = ASC_countPresentationContexts(association_->params);
                return ASC_countAcceptedPresentationContexts(association_->params) > 0
                           ? 0
                           : fault_set(why_, FAULT_NOT_NEGOTIATED,
                                       "none of the %d presentation contexts proposed is ours", n);
            }
            if (condition.bad()) {
                int rc = fault_of(condition, why_);
                if (rc == FAULT_NO_MEMORY) // of so short a command only a length can ask for that
                    rc = fault_set(why_, FAULT_PROTOCOL, "peer sent a command with a length that it has not");
                if (rc == FAULT_TIMEOUT)
                    ASC_abortAssociation(association_);
                return rc;
            }
            if (message.CommandField == DIMSE_C_ECHO_RQ)
                condition =
                    DIMSE_sendEchoResponse(association_, id, &message.msg.CEchoRQ, STATUS_Success, nullptr);
            else if (message.CommandField == DIMSE_C_STORE_RQ)
                condition = store(id, message.msg.CStoreRQ);
            else if (message.CommandField == DIMSE_N_ACTION_RQ && options_.commitment)
                condition = commit(id, message.msg.NActionRQ);
            else if (message.CommandField == DIMSE_N_EVENT_REPORT_RQ && options_.reports) {
                callbacks_.peer_is_due(callbacks_.user, 1);
                const int rc = dcm_commitment_hear(association_, id, &message.msg.NEventReportRQ,
                                                   timeout_of(options_.dimse_timeout_s), is_alive, this,
                                                   callbacks_.commit_told, callbacks_.user, why_);
                callbacks_.peer_is_due(callbacks_.user, 0);
                if (rc != 0)
                    return rc;
            } else if (message.CommandField == DIMSE_N_EVENT_REPORT_RSP && reporting_ >= 0 &&
                       message.msg.NEventReportRSP.DataSetType == DIMSE_DATASET_NULL)
                end_report(message.msg.NEventReportRSP);
            else {
                ASC_abortAssociation(association_);
                return fault_set(why_, FAULT_PROTOCOL, "peer sent a command that was not negotiated: 0x%04x",
                                 static_cast<unsigned>(message.CommandField));
            }
            if (condition.bad())
                return fault_of(condition, why_);
        }
    }

    OFCondition receive(T_ASC_PresentationContextID id, Sink &sink)
    {
        SinkStream stream(&sink);
        T_ASC_PresentationContextID data_id = id;
        callbacks_.peer_is_due(callbacks_.user, 1);
        OFCondition condition =
            DIMSE_receiveDataSetInFile(association_, DIMSE_NONBLOCKING, timeout_of(options_.dimse_timeout_s),
                                       &data_id, &stream, nullptr, nullptr);
        callbacks_.peer_is_due(callbacks_.user, 0);
        if (condition.good() && data_id != id)
            condition = makeDcmnetCondition(DIMSEC_INVALIDPRESENTATIONCONTEXTID, OF_error,
                                            "data set in another presentation context than its command");
        return condition;
    }

    OFCondition store(T_ASC_PresentationContextID id, const T_DIMSE_C_StoreRQ &command)
    {
        T_ASC_PresentationContext context;
        OFCondition condition = ASC_findAcceptedPresentationContext(association_->params, id, &context);
        if (condition.bad())
            return condition;
        dcm_store_request request;
        memset(&request, 0, sizeof request);
        copy_text(request.sop_class_uid, sizeof request.sop_class_uid, command.AffectedSOPClassUID);
        copy_text(request.sop_instance_uid, sizeof request.sop_instance_uid, command.AffectedSOPInstanceUID);
        copy_text(request.transfer_syntax, sizeof request.transfer_syntax, context.acceptedTransferSyntax);
        copy_text(request.context_class, sizeof request.context_class, context.abstractSyntax);
        request.peer = &peer_;

        fault_note note = {};
        Object object = {&callbacks_, &note, 0};
        object.fault = callbacks_.store_begin(callbacks_.user, &request, &note);
        const int began = object.fault == 0;
        Consumer consumer(object);
        condition = receive(id, consumer);
        if (condition.bad()) {
            if (began)
                callbacks_.store_cancel(callbacks_.user);
            return condition;
        }
        if (object.fault == 0)
            object.fault = callbacks_.store_end(callbacks_.user, &request, &note);
        if (object.fault != 0 && began)
            callbacks_.store_cancel(callbacks_.user);
        cork(1);
        condition = respond(id, command, object.fault, note);
        cork(0);
        callbacks_.store_settle(callbacks_.user);
        return condition;
    }

    static void is_alive(void *user)
    {
        const Association &self = *static_cast<Association *>(user);
        self.callbacks_.peer_is_due(self.callbacks_.user, 1);
    }

    OFCondition commit(T_ASC_PresentationContextID id, const T_DIMSE_N_ActionRQ &command)
    {
        T_ASC_PresentationContext context;
        MemorySink sink(DCM_COMMITMENT_MAX_BYTES, is_alive, this);
        fault_note note = {};
        unsigned status = STATUS_N_InvalidArgumentValue;
        OFCondition condition = ASC_findAcceptedPresentationContext(association_->params, id, &context);
        if (condition.good() && command.DataSetType != DIMSE_DATASET_NULL)
            condition = receive(id, sink);
        if (condition.bad())
            return condition;
        if (strcmp(context.abstractSyntax, DCM_COMMITMENT_CLASS) != 0 ||
            strcmp(command.RequestedSOPClassUID, DCM_COMMITMENT_CLASS) != 0)
            status = STATUS_N_NoSuchSOPClass;
        else if (strcmp(command.RequestedSOPInstanceUID, DCM_COMMITMENT_INSTANCE) != 0)
            status = STATUS_N_NoSuchSOPInstance;
        else if (command.ActionTypeID != 1)
            status = STATUS_N_NoSuchAction;
        else if (command.DataSetType != DIMSE_DATASET_NULL)
            status = take_request(sink, context.acceptedTransferSyntax, &note);
        return respond_action(id, command, status, note);
    }

    unsigned take_request(const MemorySink &sink, const char *transfer_syntax, fault_note *note)
    {
        commitment request = {};
        int number;
        int rc = sink.fault;
        if (rc == 0)
            rc = dcm_commitment_parse(sink.data, sink.size, transfer_syntax, 0, &request, note);
        if (rc == 0)
            rc = callbacks_.commit_request(callbacks_.user, &request, &number, note);
        free(request.items);
        n_unreported_ += rc == 0;
        return dcm_commitment_status(rc);
    }

    OFCondition respond_action(T_ASC_PresentationContextID id, const T_DIMSE_N_ActionRQ &command,
                               unsigned status, const fault_note &note)
    {
        T_DIMSE_Message message;
        memset(&message, 0, sizeof message);
        message.CommandField = DIMSE_N_ACTION_RSP;
        T_DIMSE_N_ActionRSP &response = message.msg.NActionRSP;
        response.MessageIDBeingRespondedTo = command.MessageID;
        response.DimseStatus = static_cast<DIC_US>(status);
        copy_text(response.AffectedSOPClassUID, sizeof response.AffectedSOPClassUID,
                  command.RequestedSOPClassUID);
        copy_text(response.AffectedSOPInstanceUID, sizeof response.AffectedSOPInstanceUID,
                  command.RequestedSOPInstanceUID);
        response.ActionTypeID = command.ActionTypeID;
        response.DataSetType = DIMSE_DATASET_NULL;
        response.opts =
            O_NACTION_AFFECTEDSOPCLASSUID | O_NACTION_AFFECTEDSOPINSTANCEUID | O_NACTION_ACTIONTYPEID;
        DcmDataset detail;
        char comment[65]; // LO
        copy_text(comment, sizeof comment, note.text);
        if (comment[0] != '\0')
            detail.putAndInsertString(DCM_ErrorComment, comment);
        return DIMSE_sendMessageUsingMemoryData(association_, id, &message,
                                                comment[0] != '\0' ? &detail : nullptr, nullptr, nullptr,
                                                nullptr, nullptr);
    }

    // DCMTK writes a PDU in two pieces, each a segment and a wake-up of the peer without this.
    void cork(int on)
    {
        setsockopt(fd_, IPPROTO_TCP, TCP_CORK, &on, sizeof on);
    }

    OFCondition respond(T_ASC_PresentationContextID id, const T_DIMSE_C_StoreRQ &command, int fault,
                        const fault_note &note)
    {
        T_DIMSE_C_StoreRSP response;
        memset(&response, 0, sizeof response);
        response.DimseStatus = static_cast<DIC_US>(fault_dimse_status(static_cast<enum fault>(fault)));
        response.MessageIDBeingRespondedTo = command.MessageID;
        copy_text(response.AffectedSOPClassUID, sizeof response.AffectedSOPClassUID,
                  command.AffectedSOPClassUID);
        copy_text(response.AffectedSOPInstanceUID, sizeof response.AffectedSOPInstanceUID,
                  command.AffectedSOPInstanceUID);
        response.DataSetType = DIMSE_DATASET_NULL;
        response.opts = O_STORE_AFFECTEDSOPCLASSUID | O_STORE_AFFECTEDSOPINSTANCEUID;
        if (fault == 0)
            return DIMSE_sendStoreResponse(association_, id, &command, &response, nullptr);
        DcmDataset detail;
        char comment[65]; // LO
        copy_text(comment, sizeof comment, note.text);
        detail.putAndInsertString(DCM_ErrorComment, comment);
        return DIMSE_sendStoreResponse(association_, id, &command, &response, &detail);
    }

    int fd_ = -1;
    const dcm_scp_options &options_;
    const dcm_scp_callbacks &callbacks_;
    fault_note *why_;
    dcm_peer peer_;
    T_ASC_Network *network_ = nullptr;
    T_ASC_Association *association_ = nullptr;
    dcm_tls *tls_ = nullptr;
    Budget budget_ = {-1, 0};
    BoundedLayer layer_{budget_};
    int n_unreported_ = 0; // commitment requests of this association
    int reporting_ = -1;   // which of them the peer is being told of
    DIC_US report_id_ = 0; // of that message
};

} // namespace

extern "C" int dcm_network_init(struct fault_note *why)
{
    try {
        setenv("TCP_NODELAY", "1", 1); // DCMTK leaves Nagle on; some 40 ms per object
        OFLog::configure(OFLogger::FATAL_LOG_LEVEL);
        OFStandard::initializeNetwork();
        dcmDisableGethostbyaddr.set(OFTrue);
        dcmAssociatePDUSizeLimit.set(1u << 20);
        if (!dcmDataDict.isDictionaryLoaded())
            return fault_set(why, FAULT_INTERNAL, "cannot load the DICOM dictionary: set DCMDICTPATH");
        return 0;
    } catch (...) {
        return fault_set(why, FAULT_INTERNAL, "cannot start the DICOM network layer");
    }
}

extern "C" int dcm_scp_serve(int fd, const struct dcm_scp_options *options,
                             const struct dcm_scp_callbacks *callbacks, struct fault_note *why)
{
    try {
        return Association(*options, *callbacks, why).serve(fd);
    } catch (const std::bad_alloc &) {
        return fault_set(why, FAULT_NO_MEMORY, "memory exhausted in an association");
    } catch (...) {
        return fault_set(why, FAULT_INTERNAL, "unexpected exception in an association");
    }
}
