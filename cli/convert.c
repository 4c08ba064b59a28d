// SPDX-License-Identifier: Apache-2.0
//
// isoslice convert-weights: PyTorch checkpoints to safetensors and back, and the mean of several.

#include "cli/command.h"
#include "core/file.h"
#include "sr_engine/weights.h"
#include "train/torchfile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int convert(const char *in, const char *out, struct fault_note *why)
{
    struct net net;
    struct weights_metadata metadata = {0};
    void *data = NULL;
    size_t size = 0;
    net_init(&net, net_config_p0());
    float *parameters = malloc(net.n_parameters * sizeof *parameters);
    int rc = parameters == NULL ? fault_set(why, FAULT_NO_MEMORY, "no memory for the weights")
                                : file_read(in, TORCHFILE_MAX_BYTES, &data, &size, why);
    if (rc == 0 && torchfile_is(data, size)) {
        rc = torchfile_parse(data, size, in, &net, parameters, why);
        weights_metadata_set(&metadata, "architecture", net_architecture);
        weights_metadata_set(&metadata, "converted_from", "PyTorch checkpoint");
        if (rc == 0)
            rc = weights_save(out, &net, parameters, &metadata, why);
        if (rc == 0)
            printf("%s: safetensors, %zu parameters in %d tensors\n", out, net.n_parameters, net.n_tensors);
    } else if (rc == 0) {
        rc = weights_parse(data, size, in, &net, parameters, NULL, why);
        if (rc == 0)
            rc = torchfile_save(out, &net, parameters, why);
        if (rc == 0)
            printf("%s: PyTorch state dict, %zu parameters in %d tensors\n", out, net.n_parameters,
                   net.n_tensors);
    }
    free(data);
    free(parameters);
    return rc;
}

// Adds a file's parameters to `sum`. [net->n_parameters]
static int add_file(const char *path, const struct net *net, float *parameters, double *sum,
                    struct fault_note *why)
{
    int rc = weights_load(path, net, parameters, NULL, why);
    for (size_t i = 0; rc == 0 && i < net->n_parameters; i++)
        sum[i] += (double)parameters[i];
    return rc;
}

static int average(const char *out, char *const *paths, int n, struct fault_note *why)
{
    struct net net;
    struct weights_metadata metadata = {0};
    char text[32];
    net_init(&net, net_config_p0());
    float *parameters = malloc(net.n_parameters * sizeof *parameters);
    double *sum = calloc(net.n_parameters, sizeof *sum);
    if (parameters == NULL || sum == NULL) {
        free(parameters);
        free(sum);
        return fault_set(why, FAULT_NO_MEMORY, "no memory for the weights");
    }
    int rc = 0;
    for (int i = 0; i < n && rc == 0; i++)
        rc = add_file(paths[i], &net, parameters, sum, why);
    for (size_t i = 0; rc == 0 && i < net.n_parameters; i++)
        parameters[i] = (float)(sum[i] / n);
    snprintf(text, sizeof text, "%d", n);
    weights_metadata_set(&metadata, "architecture", net_architecture);
    weights_metadata_set(&metadata, "mean_of", text);
    if (rc == 0)
        rc = weights_save(out, &net, parameters, &metadata, why);
    if (rc == 0)
        printf("%s: the mean of %d\n", out, n);
    free(sum);
    free(parameters);
    return rc;
}

int command_convert_weights(int argc, char **argv)
{
    struct fault_note why;
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        puts("usage: isoslice convert-weights IN OUT\n"
             "       isoslice convert-weights --mean OUT IN IN ...\n\n"
             "Turns a PyTorch checkpoint (torch.save, PyTorch 1.6 or later) into safetensors, and "
             "safetensors into\n"
             "a PyTorch state dict; which of the two IN is, its first bytes tell. The checkpoint may hold "
             "the state\n"
             "dict itself or have it inside, as {\"model\": {\"sd\": ...}}. Nothing in it is run. Tensors "
             "that are\n"
             "missing or unknown to the network are named.\n\n"
             "--mean: the mean of weights (safetensors) that were trained from one another or from the same "
             "start,\n"
             "which often does better than each of them.\n\n"
             "Exit code: 0 done; 2 usage; 1 fault.");
        return 0;
    }
    if (argc >= 5 && strcmp(argv[1], "--mean") == 0 && argv[2][0] != '-')
        return average(argv[2], argv + 3, argc - 3, &why) == 0 ? 0 : command_fault("convert-weights", &why);
    if (argc != 3 || argv[1][0] == '-' || argv[2][0] == '-')
        return command_usage_error("convert-weights", "needs IN and OUT");
    return convert(argv[1], argv[2], &why) == 0 ? 0 : command_fault("convert-weights", &why);
}
