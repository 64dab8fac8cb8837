#!/bin/sh
# Evaluate a checkpoint in one process. Arguments go to main_single_gpu.py; without --pretrained, the newest
# output/*/best.safetensors is evaluated.
#
#   sh scripts/test_single_gpu.sh [--pretrained output/<run>/best.safetensors ...]
set -eu
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
use_python
choose_checkpoint "$@"
exec "$PYTHON" main_single_gpu.py --eval ${checkpoint:+--pretrained "$checkpoint"} "$@"
