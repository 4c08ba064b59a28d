// SPDX-License-Identifier: Apache-2.0
//
// isoslice-read: started by the other programs, one for each set of files.

#include "reader/serve.h"

int main(int argc, char **argv)
{
    return serve_main(argc, argv, NULL);
}
