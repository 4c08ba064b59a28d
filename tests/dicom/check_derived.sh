#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check_derived.sh SOURCE_DIR OUT_DIR [crop=N] [residual=R] [spacing=MM]: see check_derived.py. The values are compared
# with linear interpolation unless values=any is given, as for a network's output.
exec /usr/bin/python3 "$(dirname "$0")/check_derived.py" "$@"
