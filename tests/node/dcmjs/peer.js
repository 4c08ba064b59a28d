// SPDX-License-Identifier: Apache-2.0
// A DICOM peer on dcmjs-dimse. Prints one JSON object per line.
//   peer.js echo PORT CALLED
//   peer.js store PORT CALLED FILE...           one association, all files
//   peer.js commit PORT CALLED FILE...          asks whether they are kept, and waits for the report on the same association
//   peer.js serve PORT FOLDER [STATUS [NODE]]   takes MR images into FOLDER, answers STATUS to each; asked to commit itself to
//                                               them it looks into FOLDER and tells the node at port NODE
'use strict';
const fs = require('fs');
const path = require('path');
const dimse = require('dcmjs-dimse');
const { Client, Dataset, Scp, Server } = dimse;
const { CEchoRequest, CStoreRequest, NActionRequest, NEventReportRequest } = dimse.requests;
const { CEchoResponse, CStoreResponse, NActionResponse, NEventReportResponse } = dimse.responses;
const { PresentationContextResult, SopClass, Status, StorageClass, TransferSyntax } = dimse.constants;

const COMMITMENT = '1.2.840.10008.1.20.1';
const COMMITMENT_INSTANCE = '1.2.840.10008.1.20.1.1';
dimse.log.setLevel('error');

function say(object) {
  fs.writeSync(1, JSON.stringify(object) + '\n');
}

function ask(port, called, requests, lingerMs, onReport) {
  const client = new Client();
  for (const request of requests) {
    request.on('response', (response) => say({ status: response.getStatus() }));
    client.addRequest(request);
  }
  client.on('associationAccepted', (association) =>
    say({
      accepted: association.getPresentationContexts().map(({ context }) => ({
        abstractSyntax: context.getAbstractSyntaxUid(),
        result: context.getResult(),
        transferSyntax: context.getAcceptedTransferSyntaxUid(),
      })),
    })
  );
  client.on('associationRejected', (result) => say({ rejected: result }));
  client.on('networkError', (error) => say({ error: String(error) }));
  client.on('closed', () => say({ closed: true }));
  client.on('nEventReportRequest', (request, callback) => {
    onReport(request);
    const response = NEventReportResponse.fromRequest(request);
    response.setStatus(Status.Success);
    callback(response);
  });
  client.send('127.0.0.1', Number(port), 'SENDER', called, { associationLingerTimeout: lingerMs });
}

function referenced(file) {
  const elements = Dataset.fromFile(file).getElements();
  return {
    ReferencedSOPClassUID: elements.SOPClassUID || StorageClass.MrImageStorage,
    ReferencedSOPInstanceUID: elements.SOPInstanceUID,
  };
}

function commit(port, called, files) {
  const request = new NActionRequest(COMMITMENT, COMMITMENT_INSTANCE, 1);
  request.setDataset(
    new Dataset({ TransactionUID: Dataset.generateDerivedUid(), ReferencedSOPSequence: files.map(referenced) })
  );
  ask(port, called, [request], 8000, (report) => {
    const elements = report.getDataset().getElements();
    const count = (sequence) => (Array.isArray(sequence) ? sequence.length : sequence ? 1 : 0);
    say({
      event: report.getEventTypeId(),
      kept: count(elements.ReferencedSOPSequence),
      failed: count(elements.FailedSOPSequence),
    });
  });
}

class Archive extends Scp {
  associationRequested(association) {
    for (const { id } of association.getPresentationContexts()) {
      const context = association.getPresentationContext(id);
      const known = [SopClass.Verification, StorageClass.MrImageStorage, ...(Archive.node ? [COMMITMENT] : [])].includes(
        context.getAbstractSyntaxUid()
      );
      const syntax = [TransferSyntax.ExplicitVRLittleEndian, TransferSyntax.ImplicitVRLittleEndian].find((uid) =>
        context.getTransferSyntaxUids().includes(uid)
      );
      if (known && syntax) context.setResult(PresentationContextResult.Accept, syntax);
      else context.setResult(PresentationContextResult.RejectAbstractSyntaxNotSupported);
    }
    this.sendAssociationAccept();
  }

  cEchoRequest(request, callback) {
    const response = CEchoResponse.fromRequest(request);
    response.setStatus(Status.Success);
    callback(response);
  }

  cStoreRequest(request, callback) {
    const response = CStoreResponse.fromRequest(request);
    response.setStatus(Archive.status);
    if (Archive.status === Status.Success)
      request.getDataset().toFile(path.join(Archive.folder, request.getAffectedSopInstanceUid() + '.dcm'));
    callback(response);
  }

  nActionRequest(request, callback) {
    const response = NActionResponse.fromRequest(request);
    response.setStatus(Status.Success);
    callback(response);
    const { TransactionUID, ReferencedSOPSequence } = request.getDataset().getElements();
    const asked = [].concat(ReferencedSOPSequence);
    const isKept = (item) => fs.existsSync(path.join(Archive.folder, item.ReferencedSOPInstanceUID + '.dcm'));
    const copy = ({ ReferencedSOPClassUID, ReferencedSOPInstanceUID }) => ({ ReferencedSOPClassUID, ReferencedSOPInstanceUID });
    const kept = asked.filter(isKept).map(copy);
    const failed = asked.filter((item) => !isKept(item)).map((item) => ({ ...copy(item), FailureReason: 0x0112 }));
    const report = new NEventReportRequest(COMMITMENT, COMMITMENT_INSTANCE, failed.length > 0 ? 2 : 1);
    report.setDataset(
      new Dataset({
        TransactionUID,
        ...(kept.length > 0 && { ReferencedSOPSequence: kept }),
        ...(failed.length > 0 && { FailedSOPSequence: failed }),
      })
    );
    const client = new Client();
    report.on('response', (answer) => say({ reported: answer.getStatus(), kept: kept.length, failed: failed.length }));
    client.on('networkError', (error) => say({ error: String(error) }));
    client.on('associationRejected', (result) => say({ rejected: result }));
    client.addRequest(report);
    setTimeout(() => client.send('127.0.0.1', Archive.node, 'TESTPACS', 'ISOSLICE'), 200);
  }

  associationReleaseRequested() {
    this.sendAssociationReleaseResponse();
  }
}

const [verb, port, name, ...rest] = process.argv.slice(2);
if (verb === 'echo') ask(port, name, [new CEchoRequest()], 0);
else if (verb === 'store') ask(port, name, rest.map((file) => new CStoreRequest(file)), 0);
else if (verb === 'commit') commit(port, name, rest);
else if (verb === 'serve') {
  Archive.folder = name;
  Archive.status = rest.length > 0 ? Number(rest[0]) : Status.Success;
  Archive.node = Number(rest[1]);
  new Server(Archive).listen(Number(port));
} else process.exit(2);
