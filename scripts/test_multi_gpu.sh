#!/bin/sh
# Evaluate a checkpoint in several processes that share the encoding. Arguments go to main_multi_gpu.py; without
# --pretrained, the newest output/*/best.safetensors is evaluated.
#
#   [NPROC=2] sh scripts/test_multi_gpu.sh [--pretrained output/<run>/best.safetensors ...]
set -eu
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
use_python
choose_checkpoint "$@"
exec "$PYTHON" main_multi_gpu.py ${NPROC:+--nprocs "$NPROC"} --eval ${checkpoint:+--pretrained "$checkpoint"} "$@"
