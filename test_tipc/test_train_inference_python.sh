#!/usr/bin/env bash
# The chains base, fleet and amp: train, evaluate, export, infer and compare as a config says. Ends with a non-zero
# status if any step failed.
#
#   bash test_tipc/test_train_inference_python.sh test_tipc/configs/hashnet_16/train_infer_python.txt MODE
#
# Logs: test_tipc/output/<model>/<mode>/results_python.log (one line a step), one log per step, and steps.tsv
# (step, status, seconds, mAP) for scripts/tipc.sh; test_tipc/output/<model>/<chain>/<mode>/ for fleet and amp.
#
# Environment:
#   TIPC_CHECKPOINT   whole_infer: the checkpoint to export; default: the newest that a train mode of this config left
#   TIPC_TRAIN_ARGS   whole_train_whole_infer: more flags for training, such as
#                     "--dataset cifar10-1 --data-path DIR --backbone-weights FILE"
#   TIPC_TIMEOUT      lite modes: seconds after which a step has failed (1800)
set -u
# shellcheck source=test_tipc/common_func.sh
. "$(dirname "${BASH_SOURCE[0]}")/common_func.sh"
read_arguments "$@"
parse_train_lines

# compare DEVICE BATCH LOG: Paddle Inference against the evaluation, where both saw the same data; the lite run of the
# base chain against the stored results too.
compare() {
    local evaluation command
    case " ${infer_command[*]} " in
        *" --evaluate "*) ;;
        *) return ;; # paddle_hashnet's command answers a query only: there is no mAP to compare
    esac
    evaluation=$(dirname "$checkpoint")/eval/result.json
    case $mode in
        lite_train_lite_infer | whole_train_whole_infer) [ -f "$evaluation" ] || return ;;
        *) return ;;
    esac
    command=("$python" test_tipc/compare_results.py --eval_file "$evaluation" --log_file "$3"
        --codes "$out/codes_$1_batchsize_$2$tag")
    if [ "$chain" = base ] && [ "$mode" = lite_train_lite_infer ]; then
        command+=(--train_log "$out/train.log" --gt_file "test_tipc/results/{paddle}/${model_name}_$mode.json")
    fi
    run_step "compare_$1$tag" "$out/compare_$1$tag.log" "line verdict: same" "${command[@]}"
}

infer() { # MODEL_DIR
    local device name batch command infer_log
    for device in "${infer_devices[@]}"; do
        name=cpu
        [ "$device" = True ] && name=gpu
        for batch in "${batch_sizes[@]}"; do
            command=("$python" "${infer_command[@]}" "$infer_device_key" "$device" "$batch_key" "$batch"
                "$model_dir_key" "$1" "$save_path_key" "$out/codes_${name}_batchsize_$batch$tag"
                "$image_key" "$image" ${data[@]+"${data[@]}"} "$benchmark_key" "$benchmark_value")
            infer_log=$out/python_infer_${name}_batchsize_$batch$tag.log
            if [ "$device" = True ] && ! has_gpu; then
                skip_step "infer_$name$tag" "no GPU" "${command[@]}"
            else
                run_step "infer_$name$tag" "$infer_log" "line Hamm_min" "${command[@]}" &&
                    compare "$name" "$batch" "$infer_log"
            fi
        done
    done
}

export_and_infer() {
    if export_checkpoint; then
        infer "$out/inference$tag"
    fi
}

# cannot_amp FORMAT: why training cannot use this format of numbers here; nothing if it can.
cannot_amp() {
    "$python" -c 'import sys
from utils import errors
from utils.training import amp
try:
    amp.check(sys.argv[1])
except errors.InputError as error:
    print(error)' "$1" 2>/dev/null | tail -n 1
}

# The chain amp: one run for each format of numbers (line 6: `--amp:bf16|fp16`).
train_formats() {
    local why="" format
    choose_device
    for format in "${autocasts[@]}"; do
        tag=_$format
        why=$(cannot_amp "$format")
        if [ -n "$why" ]; then
            skip_step "train$tag" "$why" "$python" "${train_command[@]}" "$autocast_key" "$format"
        else
            train_and_eval "$autocast_key" "$format"
            export_and_infer
        fi
    done
    grep -q '^train.*passed' "$out/steps.tsv" || chain_skipped=$why
}

# The chain fleet: several ranks (line 4: `0,1`) and several nodes (`ADDRESS,ADDRESS;0`).
train_ranks() {
    local setup addresses
    choose_device
    for setup in "${setups[@]}"; do
        IFS=, read -ra addresses <<<"${setup%%;*}" # or numbers of ranks
        case $setup in
            *\;*)
                tag=_${#addresses[@]}nodes
                if tr ',' '\n' <<<"${setup%%;*}" | grep -qv '^127\.'; then
                    skip_step "train$tag" "these are other machines: start paddle.distributed.launch on each" \
                        "$python" "${train_command[@]}"
                    continue
                fi
                launcher=("$python" test_tipc/run_nodes.py --nodes "${#addresses[@]}" --log-dir "$out/nodes" --)
                train_and_eval
                ;;
            *)
                tag=_${#addresses[@]}ranks
                launcher=()
                train_and_eval --nprocs "${#addresses[@]}"
                ;;
        esac
        [ -z "$checkpoint" ] || compare_train "${#addresses[@]}"
        export_and_infer
    done
}

# compare_train RANKS: the losses are those of one rank with the batches of all (lite modes; the others take too long).
compare_train() {
    local single=$out/${trainer}_1rank_of_$1
    case $mode in lite_*) ;; *) return ;; esac
    [ -d "$single" ] || run_step "train_1rank" "$out/train_1rank.log" "file $single/result.json" \
        "$python" "${single_command[@]}" "${parameters[@]}" --batch-size $((batch * $1)) --output-dir "$single" \
        "$train_device_key" "$device" || return
    run_step "compare_train$tag" "$out/compare_train$tag.log" "line verdict: same" \
        "$python" test_tipc/compare_losses.py --run "$(dirname "$checkpoint")" --reference "$single"
}

start_output
if [ "$mode" = whole_infer ]; then
    find_checkpoint
    export_and_infer
elif [ "$chain" = amp ]; then
    train_formats
elif [ "$chain" = fleet ]; then
    train_ranks
else
    train_and_eval
    export_and_infer
fi
finish
