// SPDX-License-Identifier: Apache-2.0
//
// How good each method is on this very subject, and which one is delivered. Two tests, both with a truth that
// the scanner measured: held-out in-plane places, blurred and decimated like slices (pairs.h), and acquired
// slices, every second of which is left out and predicted from its neighbours. Only the second sees what
// differs from slice to slice (banding, motion, gaps). Scores are PSNR in dB over the stack's normalised
// range [0,1].
//
// The choice: of the methods that are not below linear in plane, and not more than 0.5 dB below it on the
// slices left out, the one with the largest mean gain over linear; where none gains, linear. The 0.5 dB are
// there because the second test asks for twice the distance of the job: on three volumes with a known truth
// (factor 4) the network was 1.2 to 2.5 dB better than linear in the end while it was +0.4, 0.0 and -0.4 dB
// on that test; a loss beyond it is taken as a sign of motion, banding or gaps. The network trained on the
// slices that are left out, but as rows of in-plane samples, never as the planes that it predicts here.

#ifndef ISOSLICE_SR_ENGINE_QUALITY_H
#define ISOSLICE_SR_ENGINE_QUALITY_H

#include "core/fault.h"
#include "sr_engine/engine.h"
#include "sr_engine/interpolate.h"
#include "sr_engine/model.h"
#include "sr_engine/pairs.h"

#include <stddef.h>

// What a check predicts with. `model` is needed by SR_BASE and SR_TUNED, which differ by the parameters it
// holds.
struct quality_method {
    enum sr_method method;
    struct model *model;
    int clip; // predictions of the network are clipped to [0,1], as they will be in use
    struct interpolate_limits *limits;
};

// A PSNR of more than this is reported as this: a prediction without any error.
#define QUALITY_MOST_DB 120.0

// -10 log10 of a mean squared error over the range [0,1].
double quality_psnr(double mean_square);

// Sum of squares of errors and their number, added to *sum and *count.
int quality_check(const struct quality_method *method, const struct pairs_check *check, double *sum,
                  double *count, struct fault_note *why);

// All held-out places along both axes, withheld planes at the true factor, into quality->psnr_db[method].
// quality->measured is set when there was anything to measure, else quality->note says why not.
int quality_in_plane(const struct quality_method *method, const struct pairs *pairs,
                     struct sr_quality *quality, struct fault_note *why);

// Every second slice of at most 9 kept ones left out, on at most 96 x 96 pixels of most detail.
int quality_left_out(const struct quality_method *method, const struct pairs *pairs,
                     struct sr_quality *quality, struct fault_note *why);

// The choice, from report->in_plane and report->left_out into report->delivered and report->reason.
void quality_choose(struct sr_report *report);

#endif
