// SPDX-License-Identifier: Apache-2.0
#include "sr_engine/model.h"

#include <string.h>

static struct sr_extent array_of(size_t count)
{
    return (struct sr_extent){1, 1, 1, (int)count};
}

int model_open(struct model *model, const struct sr_ops *ops, struct net_config config, int threads,
               struct fault_note *why)
{
    memset(model, 0, sizeof *model);
    net_init(&model->net, config);
    model->ops = ops;
    int rc = ops->open(&model->net, threads, &model->device, why);
    if (rc == 0)
        rc = ops->buffer_new(model->device, array_of(model->net.n_parameters), 1, &model->parameters, why);
    if (rc == 0)
        rc = ops->prepare(model->device, model->parameters, why);
    if (rc != 0)
        model_close(model);
    return rc;
}

void model_close(struct model *model)
{
    if (model->device != NULL) {
        model->ops->buffer_free(model->device, model->parameters);
        model->ops->close(model->device);
    }
    model->parameters = NULL;
    model->device = NULL;
}

int model_set_parameters(struct model *model, const float *parameters, struct fault_note *why)
{
    int rc = model->ops->upload(model->device, model->parameters, parameters, why);
    return rc != 0 ? rc : model->ops->prepare(model->device, model->parameters, why);
}

int model_get_parameters(struct model *model, float *parameters, struct fault_note *why)
{
    return model->ops->download(model->device, model->parameters, parameters, why);
}

int model_encode(struct model *model, const struct sr_buffer *stack, struct sr_buffer *maps[2],
                 struct fault_note *why)
{
    const struct sr_ops *ops = model->ops;
    struct sr_device *device = model->device;
    int tail = model->net.n_convs - 1;
    int rc = ops->conv_forward(device, 0, stack, 0, maps[0], why);
    for (int block = 0; rc == 0 && block < model->net.config.blocks; block++) {
        rc = ops->conv_forward(device, 2 * block + 1, maps[0], SR_CONV_RELU, maps[1], why);
        if (rc == 0)
            rc = ops->conv_forward(device, 2 * block + 2, maps[1], SR_CONV_ADD, maps[0], why);
    }
    if (rc == 0)
        rc = ops->conv_forward(device, tail, maps[0], 0, maps[1], why);
    if (rc == 0)
        rc = ops->conv_forward(device, 0, stack, SR_CONV_ADD, maps[1], why);
    return rc;
}

static int n_planes_of(struct sr_extent extent, int n_targets)
{
    return extent.n * (extent.d - 1) * n_targets;
}

static int open_batch(struct trainer *trainer, struct model *model, struct sr_extent extent, int n_targets,
                      int n_losses, struct fault_note *why)
{
    const struct sr_ops *ops = model->ops;
    struct sr_device *device = model->device;
    int n_planes = n_planes_of(extent, n_targets), channels = model->net.config.channels, rc = 0;
    struct sr_extent planes = {1, 1, n_planes, SR_PLANE_FLOATS}, image = {1, 1, 1, 1}, one = array_of(1);
    image.d = n_planes;
    image.h = extent.h;
    image.w = extent.w;
    memset(trainer, 0, sizeof *trainer);
    trainer->model = model;
    trainer->extent = extent;
    trainer->n_targets = n_targets;
    trainer->n_losses = n_losses;
    one.w = n_losses;
    const struct {
        struct sr_buffer **buffer;
        struct sr_extent extent;
        int channels;
    } all[] = {
        {&trainer->stack, extent, 1},
        {&trainer->planes, planes, 1},
        {&trainer->target, image, 1},
        {&trainer->y, image, 1},
        {&trainer->dy, image, 1},
        {&trainer->losses, one, 1},
        {&trainer->features, extent, channels},
        {&trainer->dfeatures, extent, channels},
        {&trainer->dh, extent, channels},
        {&trainer->dr, extent, channels},
    };
    for (size_t i = 0; rc == 0 && i < sizeof all / sizeof all[0]; i++)
        rc = ops->buffer_new(device, all[i].extent, all[i].channels, all[i].buffer, why);
    for (int i = 0; rc == 0 && i <= model->net.config.blocks; i++)
        rc = ops->buffer_new(device, extent, channels, &trainer->h[i], why);
    for (int i = 0; rc == 0 && i < model->net.config.blocks; i++)
        rc = ops->buffer_new(device, extent, channels, &trainer->r[i], why);
    return rc;
}

int trainer_open(struct trainer *trainer, struct model *model, struct sr_extent extent, int n_targets,
                 int n_losses, struct fault_note *why)
{
    struct sr_extent arena = array_of(model->net.n_parameters);
    int rc = open_batch(trainer, model, extent, n_targets, n_losses, why);
    struct sr_buffer **arenas[] = {&trainer->gradients, &trainer->moment1, &trainer->moment2};
    for (size_t i = 0; rc == 0 && i < sizeof arenas / sizeof arenas[0]; i++)
        rc = model->ops->buffer_new(model->device, arena, 1, arenas[i], why);
    if (rc != 0)
        trainer_close(trainer);
    return rc;
}

int trainer_open_beside(struct trainer *trainer, const struct trainer *first, struct sr_extent extent,
                        int n_targets, int n_losses, struct fault_note *why)
{
    int rc = open_batch(trainer, first->model, extent, n_targets, n_losses, why);
    trainer->borrows = 1;
    trainer->first_conv = first->first_conv;
    trainer->gradients = first->gradients;
    trainer->moment1 = first->moment1;
    trainer->moment2 = first->moment2;
    if (rc != 0)
        trainer_close(trainer);
    return rc;
}

void trainer_close(struct trainer *trainer)
{
    if (trainer->model == NULL)
        return;
    const struct sr_ops *ops = trainer->model->ops;
    struct sr_device *device = trainer->model->device;
    struct sr_buffer *all[] = {trainer->stack,  trainer->planes, trainer->target,    trainer->y,
                               trainer->dy,     trainer->losses, trainer->features,  trainer->dfeatures,
                               trainer->dh,     trainer->dr,     trainer->gradients, trainer->moment1,
                               trainer->moment2};
    size_t n = sizeof all / sizeof all[0] - (trainer->borrows ? 3 : 0);
    for (size_t i = 0; i < n; i++)
        ops->buffer_free(device, all[i]);
    for (int i = 0; i <= NET_MAX_BLOCKS; i++)
        ops->buffer_free(device, trainer->h[i]);
    for (int i = 0; i < NET_MAX_BLOCKS; i++)
        ops->buffer_free(device, trainer->r[i]);
    memset(trainer, 0, sizeof *trainer);
}

size_t trainer_bytes(const struct net *net, struct sr_extent extent, int n_targets)
{
    size_t image = (size_t)extent.h * (size_t)extent.w, voxels = (size_t)extent.n * (size_t)extent.d * image;
    size_t maps = 2 * (size_t)net->config.blocks + 5;
    return sizeof(float) * (maps * voxels * (size_t)net->config.channels + voxels +
                            3 * (size_t)n_planes_of(extent, n_targets) * image + 3 * net->n_parameters);
}

// The whole of a sample is decoded.
static struct sr_window window_of(const struct trainer *trainer)
{
    return (struct sr_window){0, 0, trainer->extent.h, trainer->extent.w};
}

static int encode(struct trainer *trainer, struct fault_note *why)
{
    const struct sr_ops *ops = trainer->model->ops;
    struct sr_device *device = trainer->model->device;
    int blocks = trainer->model->net.config.blocks, tail = trainer->model->net.n_convs - 1;
    int rc = ops->conv_forward(device, 0, trainer->stack, 0, trainer->h[0], why);
    for (int i = 0; rc == 0 && i < blocks; i++) {
        rc = ops->conv_forward(device, 2 * i + 1, trainer->h[i], SR_CONV_RELU, trainer->r[i], why);
        if (rc == 0)
            rc = ops->copy(device, trainer->h[i + 1], trainer->h[i], why);
        if (rc == 0)
            rc = ops->conv_forward(device, 2 * i + 2, trainer->r[i], SR_CONV_ADD, trainer->h[i + 1], why);
    }
    if (rc == 0)
        rc = ops->copy(device, trainer->features, trainer->h[0], why);
    return rc == 0 ? ops->conv_forward(device, tail, trainer->h[blocks], SR_CONV_ADD, trainer->features, why)
                   : rc;
}

// From dfeatures on.
static int encoder_backward(struct trainer *trainer, struct fault_note *why)
{
    const struct sr_ops *ops = trainer->model->ops;
    struct sr_device *device = trainer->model->device;
    int blocks = trainer->model->net.config.blocks, tail = trainer->model->net.n_convs - 1;
    struct sr_buffer *g = trainer->gradients;
    if (trainer->first_conv > tail)
        return 0;
    if (trainer->first_conv == tail)
        return ops->conv_backward(device, tail, trainer->h[blocks], trainer->dfeatures, 0, NULL, g, why);
    int rc = ops->conv_backward(device, tail, trainer->h[blocks], trainer->dfeatures, 0, trainer->dh, g, why);
    for (int i = blocks - 1; rc == 0 && i >= 0; i--) {
        rc = ops->conv_backward(device, 2 * i + 2, trainer->r[i], trainer->dh, SR_CONV_MASK_X, trainer->dr, g,
                                why);
        if (rc == 0)
            rc = ops->conv_backward(device, 2 * i + 1, trainer->h[i], trainer->dr, SR_CONV_ADD, trainer->dh,
                                    g, why);
    }
    if (rc == 0)
        rc = ops->add(device, trainer->dh, trainer->dfeatures, why);
    if (rc == 0)
        rc = ops->conv_backward(device, 0, trainer->stack, trainer->dh, 0, NULL, g, why);
    return rc;
}

int trainer_forward(struct trainer *trainer, struct fault_note *why)
{
    int rc = encode(trainer, why);
    return rc == 0 ? trainer->model->ops->decode_forward(trainer->model->device, trainer->features,
                                                         trainer->stack, trainer->planes, window_of(trainer),
                                                         1, trainer->y, why)
                   : rc;
}

int trainer_backward(struct trainer *trainer, int index, struct fault_note *why)
{
    const struct sr_ops *ops = trainer->model->ops;
    struct sr_device *device = trainer->model->device;
    int rc = ops->loss_l1(device, trainer->y, trainer->target, trainer->dy, trainer->losses, index, why);
    if (rc == 0)
        rc = ops->decode_backward(device, trainer->features, trainer->planes, window_of(trainer), trainer->dy,
                                  trainer->dfeatures, trainer->gradients, why);
    return rc == 0 ? encoder_backward(trainer, why) : rc;
}

int trainer_learn(struct trainer *trainer, int index, struct fault_note *why)
{
    const struct sr_ops *ops = trainer->model->ops;
    if (ops->decode_learn == NULL) {
        int rc = trainer_forward(trainer, why);
        return rc == 0 ? trainer_backward(trainer, index, why) : rc;
    }
    int rc = encode(trainer, why);
    if (rc == 0)
        rc = ops->decode_learn(trainer->model->device, trainer->features, trainer->stack, trainer->planes,
                               window_of(trainer), trainer->target, trainer->losses, index,
                               trainer->dfeatures, trainer->gradients, why);
    return rc == 0 ? encoder_backward(trainer, why) : rc;
}

// Convolutions come first in the arena, then attention and decoder.
static size_t first_trained(const struct net *net, int first_conv)
{
    return first_conv < net->n_convs ? net->convs[first_conv].weight : net->query.weight;
}

int trainer_update(struct trainer *trainer, double rate, double beta2, struct fault_note *why)
{
    const struct sr_ops *ops = trainer->model->ops;
    struct sr_device *device = trainer->model->device;
    struct sr_adam adam = {.rate = (float)rate, .beta1 = 0.9F, .beta2 = (float)beta2, .epsilon = 1e-8F};
    adam.step = ++trainer->step;
    if (trainer->first_conv > 0)
        adam.first = first_trained(&trainer->model->net, trainer->first_conv);
    int rc = ops->adam(device, adam, trainer->gradients, trainer->moment1, trainer->moment2,
                       trainer->model->parameters, why);
    return rc != 0 ? rc : ops->prepare(device, trainer->model->parameters, why);
}
