#!/usr/bin/env bash
# Train, evaluate, export, infer and compare as a config says. Ends with a non-zero status if any step failed.
#
#   bash test_tipc/test_train_inference_python.sh test_tipc/configs/hashnet_16/train_infer_python.txt MODE
#
# Logs: test_tipc/output/<model>/<mode>/results_python.log (one line a step), one log per step, and steps.tsv
# (step, status, seconds, mAP) for scripts/tipc.sh.
#
# Environment:
#   TIPC_CHECKPOINT   whole_infer: the checkpoint to export; default: the newest that a train mode of this config left
#   TIPC_TRAIN_ARGS   whole_train_whole_infer: more flags for training, such as
#                     "--dataset cifar10-1 --data-path DIR --backbone-weights FILE"
set -u
# shellcheck source=test_tipc/common_func.sh
. "$(dirname "${BASH_SOURCE[0]}")/common_func.sh"
read_arguments "$@"
parse_train_lines
[ "${#lines[@]}" -ge 32 ] || fail "$1 is no TIPC config of training and inference: it has no 32 lines"

read -ra infer_command <<<"$(func_parser_value "${lines[25]}")"
infer_device_key=$(func_parser_key "${lines[26]}")
IFS='|' read -ra infer_devices <<<"$(func_parser_value "${lines[26]}")"
batch_key=$(func_parser_key "${lines[27]}")
IFS='|' read -ra batch_sizes <<<"$(func_parser_value "${lines[27]}")"
model_dir_key=$(func_parser_key "${lines[28]}")
save_path_key=$(func_parser_key "${lines[30]}")

# compare STEP LOG: Paddle Inference against the evaluation, where both saw the same data.
compare() {
    local evaluation
    evaluation=$(dirname "$checkpoint")/eval/result.json
    case $mode in
        lite_train_lite_infer | whole_train_whole_infer)
            [ ! -f "$evaluation" ] ||
                run_step "compare_${1#infer_}" "$out/compare_${1#infer_}.log" "line tolerance" \
                    "$python" test_tipc/compare_results.py --eval_file "$evaluation" --log_file "$2"
            ;;
    esac
}

infer() { # MODEL_DIR
    local device name batch command extra=()
    local image_key image
    image_key=$(func_parser_key "${lines[29]}")
    image=$(func_parser_params "${lines[29]}" "$mode")
    [ -n "$image" ] && [ "$image" != null ] && extra+=("$image_key" "$image")
    # trained on the small set, asked about the whole one
    if [ "$mode" = lite_train_whole_infer ]; then
        extra+=("$(func_parser_key "${lines[10]}")" "$(func_parser_params "${lines[10]}" whole_train_whole_infer)")
    fi
    [ "$(func_parser_value "${lines[31]}")" = null ] ||
        extra+=("$(func_parser_key "${lines[31]}")" "$(func_parser_value "${lines[31]}")")
    for device in "${infer_devices[@]}"; do
        name=cpu
        [ "$device" = True ] && name=gpu
        for batch in "${batch_sizes[@]}"; do
            command=("$python" "${infer_command[@]}" "$infer_device_key" "$device" "$batch_key" "$batch"
                "$model_dir_key" "$1" "$save_path_key" "$out/codes_${name}_batchsize_$batch" ${extra[@]+"${extra[@]}"})
            if [ "$device" = True ] && ! has_gpu; then
                skip_step "infer_$name" "no GPU" "${command[@]}"
            else
                run_step "infer_$name" "$out/python_infer_${name}_batchsize_$batch.log" "line Hamm_min" "${command[@]}" &&
                    compare "infer_$name" "$out/python_infer_${name}_batchsize_$batch.log"
            fi
        done
    done
}

start_output
if [ "$mode" = whole_infer ]; then
    find_checkpoint
else
    train_and_eval
fi
if export_checkpoint; then
    infer "$out/inference"
fi
finish
