#!/bin/sh
# Train in one process, on a GPU if there is one, else on the CPU. Arguments go to main_single_gpu.py; without any,
# HashNet learns on the embedded shapes set.
#
#   sh scripts/train_single_gpu.sh [--method hashnet --dataset cifar10-1 --data-path DIR --bit 48 ...]
set -eu
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
use_python
exec "$PYTHON" main_single_gpu.py "$@"
