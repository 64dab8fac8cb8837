#!/bin/sh
# Train in several processes: NCCL on GPUs, gloo on CPUs. Arguments go to main_multi_gpu.py; without any, HashNet
# learns on the embedded shapes set.
#
#   [NPROC=2] sh scripts/train_multi_gpu.sh [--method hashnet --dataset cifar10-1 --data-path DIR --bit 48 ...]
#
# NPROC: number of processes (default: all GPUs, or 2 on a machine without).
set -eu
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
use_python
exec "$PYTHON" main_multi_gpu.py ${NPROC:+--nprocs "$NPROC"} "$@"
