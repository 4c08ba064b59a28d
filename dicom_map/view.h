// SPDX-License-Identifier: Apache-2.0
//
// The same volume in another plane: which of its axes run along rows, along columns and across, and in what
// sense, so that the picture stands as readers know it. Nothing is resampled: voxels only change places.
// Where the stack is oblique, so are the views: their planes are the volume's own. Not here: values,
// attributes.

#ifndef ISOSLICE_DICOM_MAP_VIEW_H
#define ISOSLICE_DICOM_MAP_VIEW_H

#include <stddef.h>

// By the patient's axis that planes are across: x (left), y (back), z (head).
enum view_plane { VIEW_ACQUIRED, VIEW_SAGITTAL, VIEW_CORONAL, VIEW_AXIAL, VIEW_N_PLANES };

// "acquired", "sagittal", "coronal", "axial".
const char *view_name(enum view_plane plane);
// 0 when `text` is none of the last three.
int view_from_name(const char *text, enum view_plane *plane);

// The volume's grid. Axis 0 is along rows (column index), 1 along columns (row index), 2 across planes.
struct view_grid {
    double origin[3];  // of voxel (0,0,0), mm
    double axis[3][3]; // unit vectors, at right angles
    double step_mm[3];
    int n[3];
};

// One view of it. Image `m` of n_images, pixel (row, column) is the voxel that view_voxel() gives.
struct view {
    enum view_plane plane;
    int axis[3];    // of the volume: along a row of the image, along a column of it, across images
    int is_back[3]; // non-zero: in the opposite sense
    int n[3];       // width, height, number of images
    double step_mm[3];
    double direction[3][3]; // as Image Orientation (Patient), then across, in the order of images
    int is_oblique;         // more than 0.05 degrees from the patient's axes
};

// Every axis of the volume is across one view: the assignment with the least angles altogether. Rows and
// columns then run as readers expect: sagittal to the back and to the feet, coronal to the left and to the
// feet, axial to the left and to the back; images go to the left, to the back, to the head. Returns 1, or 0
// when `plane` is VIEW_ACQUIRED or the one that the stack has already; *view is then untouched.
// Source: PS3.3 C.7.6.2.1.1 for the patient's axes.
int view_init(const struct view_grid *grid, enum view_plane plane, struct view *view);

// Index of the voxel along the volume's three axes.
void view_voxel(const struct view *view, const struct view_grid *grid, int image, int row, int column,
                int index[3]);

// Image Position (Patient): the centre of the first pixel of that image.
void view_position(const struct view *view, const struct view_grid *grid, int image, double position[3]);

#endif
