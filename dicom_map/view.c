// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/view.h"

#include <math.h>
#include <string.h>

static const double OBLIQUE_COSINE = 1 - 3.8e-7; // of 0.05 degrees

static const char *const names[VIEW_N_PLANES] = {"acquired", "sagittal", "coronal", "axial"};

const char *view_name(enum view_plane plane)
{
    return plane >= VIEW_ACQUIRED && plane < VIEW_N_PLANES ? names[plane] : "unknown";
}

int view_from_name(const char *text, enum view_plane *plane)
{
    for (enum view_plane i = VIEW_SAGITTAL; i < VIEW_N_PLANES; i++)
        if (strcmp(text, names[i]) == 0) {
            *plane = i;
            return 1;
        }
    return 0;
}

// For each of the patient's axes, the volume's axis that is assigned to it.
static void assign(const struct view_grid *grid, int to[3])
{
    static const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    double most = -1;
    for (int i = 0; i < 6; i++) {
        double sum = 0;
        for (int axis = 0; axis < 3; axis++)
            sum += fabs(grid->axis[orders[i][axis]][axis]);
        // what is equal but for rounding is decided by the order above
        if (sum > most + 1e-6) {
            most = sum;
            memcpy(to, orders[i], sizeof orders[i]);
        }
    }
}

int view_init(const struct view_grid *grid, enum view_plane plane, struct view *view)
{
    // the patient's axis, and its sense, along rows, along columns, across
    static const int patient[VIEW_N_PLANES][3] = {{0}, {1, 2, 0}, {0, 2, 1}, {0, 1, 2}};
    static const int sense[VIEW_N_PLANES][3] = {{0}, {1, -1, 1}, {1, -1, 1}, {1, 1, 1}};
    int to[3];
    assign(grid, to);
    if (plane <= VIEW_ACQUIRED || plane >= VIEW_N_PLANES || to[patient[plane][2]] == 2)
        return 0;
    memset(view, 0, sizeof *view);
    view->plane = plane;
    for (int i = 0; i < 3; i++) {
        int axis = to[patient[plane][i]];
        double along = grid->axis[axis][patient[plane][i]] * sense[plane][i];
        view->axis[i] = axis;
        view->is_back[i] = along < 0;
        view->n[i] = grid->n[axis];
        view->step_mm[i] = grid->step_mm[axis];
        for (int k = 0; k < 3; k++)
            view->direction[i][k] = along < 0 ? -grid->axis[axis][k] : grid->axis[axis][k];
        if (fabs(along) < OBLIQUE_COSINE)
            view->is_oblique = 1;
    }
    return 1;
}

void view_voxel(const struct view *view, const struct view_grid *grid, int image, int row, int column,
                int index[3])
{
    const int along[3] = {column, row, image};
    for (int i = 0; i < 3; i++) {
        int axis = view->axis[i];
        index[axis] = view->is_back[i] ? grid->n[axis] - 1 - along[i] : along[i];
    }
}

void view_position(const struct view *view, const struct view_grid *grid, int image, double position[3])
{
    int index[3];
    view_voxel(view, grid, image, 0, 0, index);
    for (int k = 0; k < 3; k++) {
        position[k] = grid->origin[k];
        for (int axis = 0; axis < 3; axis++)
            position[k] += index[axis] * grid->step_mm[axis] * grid->axis[axis][k];
    }
}
