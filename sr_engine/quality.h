// SPDX-License-Identifier: Apache-2.0
//
// How good each method is on this very subject, and which one is delivered. Two tests: held-out in-plane
// places, blurred and decimated like slices (pairs.h), and acquired slices, every second of which is left out
// and predicted from its neighbours. The first is made on an estimate of the place at isotropic spacing,
// since that is what planes look like in use (estimate.h); along the axis that was decimated it is as fine as
// the scanner measured it, and rows where no slice was acquired do not count. Only the second sees what
// differs from slice to slice (banding, motion, gaps). Scores are PSNR in dB over the stack's normalised
// range [0,1].
//
// The second test asks for another thing than the job does: twice the distance, and a truth that is a thick
// slice where the job wants thin planes, so a network that does its job well may well lose on it. A third
// test tells what it should lose: the same in plane, where nothing moves or bands. What a method falls short
// of that on the slices left out is the price of what differs from slice to slice.
//
// The choice: the gain over linear in plane, less what is missing on the slices left out against that
// control; the method with the largest sum is delivered, linear where none is above 0. Where the control
// cannot be measured (small images), a method more than 0.5 dB below linear on the slices left out is out and
// the mean of the two gains decides. Against a truth (docs/RESULTS.md) this finds the better method where the
// mean of the gains gave linear. The network trained on the slices that are left out, but as rows of in-plane
// samples, never as the planes that it predicts here.

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

// All held-out places along both axes, at the true factor, into quality->psnr_db[method].
// quality->measured is set when there was anything to measure, else quality->note says why not.
int quality_in_plane(const struct quality_method *method, const struct pairs *pairs,
                     struct sr_quality *quality, struct fault_note *why);

// Every second slice of at most 9 kept ones left out, on at most 96 x 96 pixels of most detail.
int quality_left_out(const struct quality_method *method, const struct pairs *pairs,
                     struct sr_quality *quality, struct fault_note *why);

// The control of that test: the same distance, blur and number of unknown planes at the held-out places,
// along both axes.
int quality_control(const struct quality_method *method, const struct pairs *pairs,
                    struct sr_quality *quality, struct fault_note *why);

// The choice, from report->in_plane, left_out and control into report->delivered and report->reason.
void quality_choose(struct sr_report *report);

#endif
