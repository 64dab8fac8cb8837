#!/usr/bin/env bash
# Train, export, convert to ONNX, compare bit for bit with Paddle Inference, and ask onnxruntime.
#
#   bash test_tipc/test_paddle2onnx.sh test_tipc/configs/hashnet_16/paddle2onnx_infer_python.txt MODE
#
# Steps: train, eval, export, paddle2onnx, compare, infer_cpu, compare_cpu. Without paddle2onnx or onnxruntime the chain
# is skipped with the line that says how to install them (exit status 3). Logs and environment: see
# test_train_inference_python.sh.
# Tried (networks ConvNet, SqueezeNet1_1, ResNet18, AlexNet, small ViTs; five methods, the text graph of DJSRH):
#   paddle2onnx 2.1.0 on Paddle 3.3.1   all .json graphs; of .pdmodel graphs the CNNs, ViTs crash it (signal 11)
#   paddle2onnx 1.3.1 on Paddle 2.6.2   all .pdmodel graphs; so also on Paddle 3.3.1
#   paddle2onnx 1.2.11 on Paddle 2.6.2  converts them too
#   paddle2onnx 2.0.1 on Paddle 2.6.2   cannot be imported (2.1.0 not run: its code refuses Paddle below 3.0)
#   AlexNet at 48 pixels (at 224 it converts): onnxruntime 1.19 and 1.23 crash on the graph, 1.31 refuses it
set -u
# shellcheck source=test_tipc/convert_func.sh
. "$(dirname "${BASH_SOURCE[0]}")/convert_func.sh"
read_arguments "$@"
parse_train_lines
parse_convert_lines paddle2onnx
start_output
if can_convert paddle2onnx; then
    train_or_find_checkpoint
    evaluation=$(dirname "$checkpoint")/eval/result.json
    if export_checkpoint && convert_and_infer paddle2onnx onnx && [ -f "$evaluation" ]; then
        case $mode in
            # the same data as the evaluation's
            lite_train_lite_infer | whole_train_whole_infer)
                run_step compare_cpu "$out/compare_cpu.log" "line verdict: same" \
                    "$python" test_tipc/compare_results.py --eval_file "$evaluation" --log_file "$infer_log" \
                    --codes "$out/codes_cpu_batchsize_$batch"
                ;;
        esac
    fi
fi
finish
