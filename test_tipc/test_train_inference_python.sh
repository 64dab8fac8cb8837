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

# The conventional places of the conventional keys (line numbers from 0).
gpu=$(func_parser_value "${lines[3]}")
gpu=${gpu%%|*}
train_device_key=$(func_parser_key "${lines[4]}")
IFS='|' read -ra train_devices <<<"$(func_parser_value "${lines[4]}")"
train_name=$(func_parser_value "${lines[9]}")
trainer=$(func_parser_value "${lines[12]}")
read -ra train_command <<<"$(func_parser_value "${lines[13]}")"
read -ra eval_command <<<"$(func_parser_value "${lines[16]}")"
save_model_key=$(func_parser_key "${lines[19]}")
checkpoint_key=$(func_parser_key "${lines[20]}")
read -ra norm_export <<<"$(func_parser_value "${lines[21]}")"
read -ra infer_export <<<"$(func_parser_value "${lines[22]}")"
read -ra infer_command <<<"$(func_parser_value "${lines[25]}")"
infer_device_key=$(func_parser_key "${lines[26]}")
IFS='|' read -ra infer_devices <<<"$(func_parser_value "${lines[26]}")"
batch_key=$(func_parser_key "${lines[27]}")
IFS='|' read -ra batch_sizes <<<"$(func_parser_value "${lines[27]}")"
model_dir_key=$(func_parser_key "${lines[28]}")
save_path_key=$(func_parser_key "${lines[30]}")

out=test_tipc/output/$model_name/$mode
log=$out/results_python.log
failed=0

# Both words of every parameter line of training that has a value in this mode (lines 6, 8, 9, 11, 12).
train_parameters() {
    local line
    for line in "${lines[5]}" "${lines[7]}" "${lines[8]}" "${lines[10]}" "${lines[11]}"; do
        func_set_params "$(func_parser_key "$line")" "$(func_parser_params "$line" "$mode")"
        echo
    done
    if [ "$mode" = whole_train_whole_infer ]; then
        echo "${TIPC_TRAIN_ARGS:-}"
    fi
}

has_gpu() {
    nvidia-smi -L >/dev/null 2>&1 &&
        "$python" -c 'import importlib.metadata as m; m.version("paddlepaddle-gpu")' 2>/dev/null
}

# record STEP STATUS SECONDS [MAP]
record() {
    printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "${4:--}" >>"$out/steps.tsv"
}

# run_step STEP LOG EVIDENCE COMMAND...: EVIDENCE is `file PATH` or `line TEXT`, what a step that worked has left.
run_step() {
    local step=$1 step_log=$2 evidence=$3 status seconds=$SECONDS
    shift 3
    "$@" >"$step_log" 2>&1
    status=$?
    if [ $status -eq 0 ]; then
        case $evidence in
            file\ *) [ -s "${evidence#file }" ] || status=1 ;;
            line\ *) grep -qF -- "${evidence#line }" "$step_log" || status=1 ;;
        esac
        [ $status -eq 0 ] || echo "error: $evidence is missing although the command ended with status 0" >>"$step_log"
    fi
    status_check $status "$*" "$log"
    seconds=$((SECONDS - seconds))
    if [ $status -eq 0 ]; then
        record "$step" passed $seconds "$(sed -n 's/.*mAP[^ :]*:\{0,1\} \([0-9][0-9.]*\).*/\1/p' "$step_log" | tail -n 1)"
    else
        failed=1
        record "$step" failed $seconds
        echo "last lines of $step_log:"
        tail -n 5 "$step_log" | sed 's/^/    /'
    fi
    return $status
}

# skip_step STEP WHY COMMAND...: said aloud, and no pass.
skip_step() {
    local step=$1 why=$2
    shift 2
    echo "Skipped ($why) command - $*" | tee -a "$log"
    record "$step" "skipped: $why" 0
}

train_and_eval() { # sets checkpoint, to nothing if training failed
    local device chosen='' save
    for device in "${train_devices[@]}"; do
        if [ "$device" = True ] && ! has_gpu; then
            skip_step train_gpu "no GPU" "$python" "${train_command[@]}" "$train_device_key" True
        else
            chosen=$device
            break
        fi
    done
    if [ -z "$chosen" ]; then
        fail "$model_name: line 5 allows no device that this machine has"
    fi
    save=$out/${trainer}_cpu
    [ "$chosen" = True ] && save=$out/${trainer}_gpus_$gpu
    checkpoint=$save/$train_name
    local parameters
    read -ra parameters <<<"$(train_parameters | tr '\n' ' ')"
    run_step train "$out/train.log" "file $checkpoint" \
        "$python" "${train_command[@]}" "${parameters[@]}" --output-dir "$save" "$train_device_key" "$chosen" || {
        checkpoint=
        return
    }
    grep -q 'avg_ips: .* images/sec' "$out/train.log" || echo "note: $out/train.log has no avg_ips line" | tee -a "$log"
    if [ "${eval_command[0]}" != null ]; then
        run_step eval "$out/eval.log" "file $save/eval/result.json" \
            "$python" "${eval_command[@]}" "$checkpoint_key" "$checkpoint" --output-dir "$save/eval" \
            "$train_device_key" "$chosen"
    fi
}

find_checkpoint() { # sets checkpoint
    checkpoint=${TIPC_CHECKPOINT:-}
    if [ -n "$checkpoint" ]; then
        [ -f "$checkpoint" ] || fail "TIPC_CHECKPOINT=$checkpoint does not exist"
    else
        local found
        for found in "test_tipc/output/$model_name"/*/"$trainer"_*/"$train_name"; do
            [ -f "$found" ] && { [ -z "$checkpoint" ] || [ "$found" -nt "$checkpoint" ]; } && checkpoint=$found
        done
        [ -n "$checkpoint" ] || fail "whole_infer of $model_name needs a checkpoint: set TIPC_CHECKPOINT, or run a train" \
            "mode first"
    fi
    echo "checkpoint: $checkpoint" | tee -a "$log"
}

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

rm -rf "$out"
mkdir -p "$out" || exit 1
: >"$log"

if [ "$mode" = whole_infer ]; then
    export_command=("${infer_export[@]}")
    find_checkpoint
else
    export_command=("${norm_export[@]}")
    train_and_eval
fi
if [ -z "$checkpoint" ]; then
    record export "not run: no checkpoint" 0
elif ! run_step export "$out/export.log" "file $out/inference/inference.yml" \
    "$python" "${export_command[@]}" "$checkpoint_key" "$checkpoint" "$save_model_key" "$out/inference"; then
    record infer "not run: no inference model" 0
else
    infer "$out/inference"
fi
exit $failed
