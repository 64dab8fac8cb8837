#!/usr/bin/env bash
# Train, export, quantise after training, compare bits and mAP with the float model, and ask Paddle Inference.
#
#   bash test_tipc/test_ptq_inference_python.sh test_tipc/configs/hashnet_16/ptq_infer_python.txt MODE
#
# Steps: train, eval, export, ptq, compare, infer_cpu. The compare step prints flipped bits, both mAPs, the ratios of
# speed and size, and fails beyond the config's --max-flips and --max-drop. Where Paddle has no oneDNN the chain is
# skipped (exit status 3). Logs and environment: see test_train_inference_python.sh.
# Tried, with paddle.static.quantization.PostTrainingQuantization (what paddleslim's quant_post_static wraps):
#   Paddle 2.6.2 and 3.3.1, .pdmodel graphs, onnx_format: real 8-bit kernels of oneDNN through the old program form
#   3.3.1, the new program form (enable_new_ir) on such a graph: fails (data types); .json graphs cannot be quantised
#   3.3.1, deploy_backend="onednn": its configuration is gone from the package; None with named operators works
set -u
# shellcheck source=test_tipc/convert_func.sh
. "$(dirname "${BASH_SOURCE[0]}")/convert_func.sh"
read_arguments "$@"
parse_train_lines
parse_convert_lines ptq
start_output
if can_convert ptq; then
    train_or_find_checkpoint
    export_checkpoint && convert_and_infer ptq int8
fi
finish
