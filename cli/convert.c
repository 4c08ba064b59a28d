// SPDX-License-Identifier: Apache-2.0
//
// isoslice convert-weights: PyTorch checkpoints to safetensors and back.

#include "cli/command.h"
#include "core/file.h"
#include "sr_engine/weights.h"
#include "train/torchfile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// A checkpoint does not say which network it holds: it is taken as P0, the authors', and where it does not
// fit as P1. What is wrong with a checkpoint that fits neither is said of P0.
static int parse_checkpoint(const void *data, size_t size, const char *in, struct net *net, float *parameters,
                            struct fault_note *why)
{
    net_init(net, net_config_p0());
    int rc = torchfile_parse(data, size, in, net, parameters, why);
    if (rc != FAULT_WEIGHTS)
        return rc;
    net_init(net, net_config_p1());
    return torchfile_parse(data, size, in, net, parameters, NULL) == 0 ? 0 : rc;
}

static int convert(const char *in, const char *out, struct fault_note *why)
{
    struct net net;
    struct net_config config = net_config_p1(); // the larger one
    struct weights_metadata metadata = {0};
    void *data = NULL;
    size_t size = 0;
    net_init(&net, config);
    float *parameters = malloc(net.n_parameters * sizeof *parameters);
    int rc = parameters == NULL ? fault_set(why, FAULT_NO_MEMORY, "no memory for the weights")
                                : file_read(in, TORCHFILE_MAX_BYTES, &data, &size, why);
    if (rc == 0 && torchfile_is(data, size)) {
        rc = parse_checkpoint(data, size, in, &net, parameters, why);
        weights_metadata_set(&metadata, "architecture", net_architecture(&net));
        weights_metadata_set(&metadata, "converted_from", "PyTorch checkpoint");
        if (rc == 0)
            rc = weights_save(out, &net, parameters, &metadata, why);
        if (rc == 0)
            printf("%s: safetensors, %zu parameters in %d tensors\n", out, net.n_parameters, net.n_tensors);
    } else if (rc == 0) {
        rc = weights_parse_config(data, size, in, &config, why);
        net_init(&net, config);
        if (rc == 0)
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

int command_convert_weights(int argc, char **argv)
{
    struct fault_note why;
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        puts("usage: isoslice convert-weights IN OUT\n\n"
             "Turns a PyTorch checkpoint (torch.save, PyTorch 1.6 or later) into safetensors, and "
             "safetensors into\n"
             "a PyTorch state dict; which of the two IN is, its first bytes tell. The checkpoint may hold "
             "the state\n"
             "dict itself or have it inside, as {\"model\": {\"sd\": ...}}. Nothing in it is run. Tensors "
             "that are\n"
             "missing or unknown to the network are named. A network with conditions (isoslice train\n"
             "--conditioned) is known by the shape of imnet.layers.0.weight.\n\n"
             "Exit code: 0 done; 2 usage; 1 fault.");
        return 0;
    }
    if (argc != 3 || argv[1][0] == '-' || argv[2][0] == '-')
        return command_usage_error("convert-weights", "needs IN and OUT");
    return convert(argv[1], argv[2], &why) == 0 ? 0 : command_fault("convert-weights", &why);
}
