#!/usr/bin/env bash
# The chains that make another model of an exported one (sourced by test_paddle2onnx.sh, test_ptq_inference_python.sh).
# shellcheck source=test_tipc/common_func.sh
. "$(dirname "${BASH_SOURCE[0]}")/common_func.sh"

# parse_convert_lines NAME: the block NAME_params: the command that converts, its folders, deploy/compare.py.
parse_convert_lines() {
    local block=$1_params
    read -ra convert_command <<<"$(section "$block" "${1#paddle}")"
    read -ra compare_command <<<"$(section "$block" compare)"
    if [ ${#convert_command[@]} -eq 0 ] || [ ${#compare_command[@]} -eq 0 ]; then
        fail "$model_name: the config has no block $block with the lines ${1#paddle} and compare"
    fi
    # the batch size of this chain's one inference
    batch=${batch_sizes[0]}
}

# can_convert STEP: succeeds where the packages of the chain are there; else the chain is skipped with the reason. The
# command itself must tell: one that is broken is a failure.
can_convert() {
    local said
    said=$("$python" "${convert_command[0]}" --check 2>&1 | tail -n 1)
    case $said in
        ready:*) echo "$said" | tee -a "$log" ;;
        missing:*)
            skip_chain "$1" "${said#missing: }" "$python" "${convert_command[@]}"
            return 1
            ;;
        *)
            echo "Run failed with command - $python ${convert_command[0]} --check! ($said)" | tee -a "$log"
            record "$1" failed 0
            failed=1
            return 1
            ;;
    esac
}

# Sets checkpoint: that of whole_infer, or of a new training.
train_or_find_checkpoint() {
    if [ "$mode" = whole_infer ]; then
        find_checkpoint
    else
        # shellcheck disable=SC2119  # its arguments are its own
        train_and_eval
    fi
}

# convert_and_infer STEP NAME: the exported model of $out/inference as $out/NAME by the step STEP; then compared with
# the exported model, and asked (steps compare and infer_cpu). Sets infer_log.
# shellcheck disable=SC2154  # out, python: read_arguments
convert_and_infer() {
    local exported=$out/inference converted=$out/$2
    run_step "$1" "$out/$1.log" "file $converted/inference.yml" \
        "$python" "${convert_command[@]}" --model-dir "$exported" --save-dir "$converted" || {
        record infer "not run: no converted model" 0
        return 1
    }
    run_step compare "$out/compare.log" "line mAP" "$python" "${compare_command[@]}" --model-dir "$exported" \
        --other-dir "$converted" ${data[@]+"${data[@]}"}
    infer_log=$out/python_infer_cpu_batchsize_$batch.log
    run_step infer_cpu "$infer_log" "line Hamm_min" "$python" "${infer_command[@]}" "$model_dir_key" "$converted" \
        "$batch_key" "$batch" "$save_path_key" "$out/codes_cpu_batchsize_$batch" \
        "$image_key" "$image" ${data[@]+"${data[@]}"} "$benchmark_key" "$benchmark_value"
}
