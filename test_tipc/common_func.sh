#!/usr/bin/env bash
# Functions of the TIPC scripts (sourced). A config is a text file of `key:value` lines whose order is fixed.
#
# A script of a chain:
#
#   . test_tipc/common_func.sh
#   read_arguments "$@"        # CONFIG MODE -> mode, lines, model_name, python, chain, out, log
#   parse_train_lines          # lines 1 to 51 of a config, and its block whole_params
#   start_output               # an empty $out
#   train_and_eval             # steps train and eval; sets checkpoint, to nothing if there is none
#   export_checkpoint && run_step STEP LOG EVIDENCE COMMAND...      # step export: $out/inference
#   finish                     # exit 0 passed, 1 a step failed, 3 the chain cannot run here (skip_chain)
#
# $out is test_tipc/output/<model_name>/<mode> for the base chain and test_tipc/output/<model_name>/<chain>/<mode> for
# the others. It holds results_python.log (one line a step), a log per step, and steps.tsv: step, status (passed,
# failed, `skipped: reason`, `not run: reason`), seconds, mAP.

# fail MESSAGE...: one line and a non-zero status.
fail() {
    echo "error: $*" >&2
    exit 2
}

# func_parser_key LINE: what stands before the first colon.
func_parser_key() {
    printf '%s' "${1%%:*}"
}

# func_parser_value LINE: what stands after the first colon.
func_parser_value() {
    case $1 in
        *:*) printf '%s' "${1#*:}" ;;
    esac
}

# func_parser_params LINE MODE: the value for MODE of `key:modeA=x|modeB=y`; a value without modes serves all.
func_parser_params() {
    local value part
    value=$(func_parser_value "$1")
    case $value in
        *=*) ;;
        *)
            printf '%s' "$value"
            return
            ;;
    esac
    local IFS='|'
    for part in $value; do
        if [ "${part%%=*}" = "$2" ]; then
            printf '%s' "${part#*=}"
            return
        fi
    done
}

# func_set_params KEY VALUE: `KEY VALUE` for a command line, nothing where either is null.
func_set_params() {
    if [ -n "$1" ] && [ "$1" != null ] && [ -n "$2" ] && [ "$2" != null ]; then
        printf '%s %s' "$1" "$2"
    fi
}

# status_check STATUS COMMAND LOG: write the conventional line about a step's outcome to LOG and to the screen.
status_check() {
    if [ "$1" -eq 0 ]; then
        echo "Run successfully with command - $2!" | tee -a "$3"
    else
        echo "Run failed with command - $2!" | tee -a "$3"
    fi
}

MODES="lite_train_lite_infer lite_train_whole_infer whole_train_whole_infer whole_infer benchmark_train"

# chain_of CONFIG: the chain that a config of this name belongs to.
chain_of() {
    local stem=${1##*/}
    case ${stem%.txt} in
        train_infer_python) echo base ;;
        train_linux_gpu_fleet_*) echo fleet ;;
        train_amp_*) echo amp ;;
        paddle2onnx_*) echo paddle2onnx ;;
        ptq_*) echo ptq ;;
        *) echo "${stem%.txt}" ;;
    esac
}

# read_arguments CONFIG MODE: check both (one line on a fault), go to the repository's root, and set mode, lines (the
# config's), model_name, python, chain, out (folder of the logs, made by start_output) and log.
# shellcheck disable=SC2034  # most are read by the scripts that source this file
read_arguments() {
    [ $# -eq 2 ] || fail "usage: bash $0 CONFIG MODE; MODE is one of $MODES"
    mode=$2
    [ -f "$1" ] || fail "no config file $1; they are in test_tipc/configs/<method>_<bits>/"
    case " $MODES " in
        *" $mode "*) ;;
        *) fail "unknown mode $mode; one of $MODES" ;;
    esac
    lines=()
    while IFS= read -r line || [ -n "$line" ]; do # not mapfile: macOS has bash 3.2
        lines+=("${line%$'\r'}")
    done <"$1"
    [ "$(func_parser_key "${lines[1]:-}")" = model_name ] ||
        fail "$1 is no TIPC config: model_name is expected in the second line"
    cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
    model_name=$(func_parser_value "${lines[1]}")
    chain=$(chain_of "$1")
    if [ "$(func_parser_key "${lines[12]:-}")" = trainer ]; then
        order_as_template
        chain=paddle_hashnet
    fi
    out=${TIPC_OUTPUT:-test_tipc/output}/$model_name/$chain/$mode
    [ "$chain" != base ] || out=${TIPC_OUTPUT:-test_tipc/output}/$model_name/$mode
    log=$out/results_python.log
    # the project's virtual environment, else $PYTHON, else what the config names
    if [ -x "${VENV:-.venv}/bin/python" ]; then
        python=${VENV:-.venv}/bin/python
    else
        python=${PYTHON:-$(func_parser_value "${lines[2]}")}
    fi
    command -v "$python" >/dev/null || fail "no $python; run sh scripts/setup.sh first or set PYTHON"
    "$python" -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("paddle"))' ||
        fail "$python has no Paddle; run sh scripts/setup.sh first or set PYTHON"
    limit=()
    case $mode in
        lite_*)
            # small work, and sums of floats in the same order on every machine
            export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
            # a step that hangs fails; --foreground leaves it in our process group, where an interrupt reaches it
            timeout --foreground 1 true 2>/dev/null && limit=(timeout --foreground -k 20 "${TIPC_TIMEOUT:-1800}")
            ;;
    esac
}

# order_as_template: paddle_hashnet's configs have 32 lines; put them where the template has theirs. Its names of the
# checkpoint and of the device flag (no dashes) are not ours; the place of the codes stands in its command.
order_as_template() {
    local number ordered=()
    [ "${#lines[@]}" -ge 32 ] || fail "$model_name: 32 lines are expected where trainer is in line 13"
    for number in 0 1 2 3 4 - 5 6 7 8 - - - 11 12 13 - - - - - 14 15 16 - 17 18 19 20 21 \
        - - - - - - 23 24 - 26 27 - - 28 - - 29 30 - 31 -; do
        if [ "$number" = - ]; then ordered+=(null:null); else ordered+=("${lines[$number]}"); fi
    done
    lines=("${ordered[@]}")
    lines[4]=--${lines[4]#--}
    lines[10]=train_model_name:best.safetensors
    lines[50]=--save-path:null
}

# section HEADING KEY: the value of KEY in the block whose heading holds HEADING.
section() {
    local line inside=
    for line in "${lines[@]}"; do
        case $line in
            ===*"$1"*) inside=yes ;;
            ===*) inside= ;;
            "$2":*) [ -z "$inside" ] || func_parser_value "$line" ;;
        esac
    done
}

# The conventional places of the conventional keys (line numbers from 0; the order is that of PaddlePaddle's template)
# and what the mode chooses: train_command, parameters (words of training that have a value in this mode), image, data
# (words for infer.py after training on the small set, when it is asked about the whole one).
# shellcheck disable=SC2034
parse_train_lines() {
    if [ "${#lines[@]}" -lt 51 ] || [ "$(func_parser_key "${lines[14]}")" != trainer ]; then
        fail "$model_name: trainer is expected in line 15 of the config, and 51 lines or more"
    fi
    IFS='|' read -ra setups <<<"$(func_parser_value "${lines[3]}")"
    train_device_key=$(func_parser_key "${lines[4]}")
    IFS='|' read -ra train_devices <<<"$(func_parser_value "${lines[4]}")"
    autocast_key=$(func_parser_key "${lines[5]}")
    IFS='|' read -ra autocasts <<<"$(func_parser_value "${lines[5]}")"
    batch=$(func_parser_params "${lines[8]}" "$mode")
    train_name=$(func_parser_value "${lines[10]}")
    trainer=$(func_parser_value "${lines[14]}")
    read -ra train_command <<<"$(func_parser_value "${lines[15]}")"
    read -ra whole_command <<<"$(section whole_params whole_train)"
    read -ra single_command <<<"$(section whole_params single_train)" # the fleet chain's run to compare with
    read -ra eval_command <<<"$(func_parser_value "${lines[23]}")"
    save_model_key=$(func_parser_key "${lines[27]}")
    checkpoint_key=$(func_parser_key "${lines[28]}")
    read -ra norm_export <<<"$(func_parser_value "${lines[29]}")"
    read -ra infer_export <<<"$(func_parser_value "${lines[37]}")"
    read -ra infer_command <<<"$(func_parser_value "${lines[39]}")"
    IFS='|' read -ra infer_devices <<<"$(func_parser_value "${lines[40]}")"
    IFS='|' read -ra batch_sizes <<<"$(func_parser_value "${lines[43]}")"
    infer_device_key=$(func_parser_key "${lines[40]}")
    batch_key=$(func_parser_key "${lines[43]}")
    model_dir_key=$(func_parser_key "${lines[46]}")
    image_key=$(func_parser_key "${lines[47]}")
    image=$(func_parser_value "${lines[47]}")
    benchmark_key=$(func_parser_key "${lines[49]}")
    benchmark_value=$(func_parser_value "${lines[49]}")
    save_path_key=$(func_parser_key "${lines[50]}")
    read -ra parameters <<<"$(train_parameters | tr '\n' ' ')"
    data=()
    [ ${#whole_command[@]} -gt 0 ] || return # a config of paddle_hashnet: its commands are for all modes
    case $mode in
        whole_train_whole_infer) train_command=("${whole_command[@]}") ;;
        lite_train_whole_infer) data=(--data-path "$(section whole_params --data-path)") ;;
    esac
    case $mode in
        *whole_infer) image=$(section whole_params --img-path) ;;
    esac
}

failed=0       # 1 once a step has failed
chain_skipped= # the reason why the chain cannot run here
checkpoint=
launcher=() # what stands before the program, if not the interpreter alone
tag=        # ending of the names of steps, logs and folders, where a chain trains in several ways

start_output() {
    rm -rf "$out"
    mkdir -p "$out" || exit 1
    : >"$log"
}

finish() {
    [ $failed -eq 0 ] || exit 1
    [ -z "$chain_skipped" ] || exit 3
    exit 0
}

gpu_count() {
    local found=0
    if nvidia-smi -L >/dev/null 2>&1 &&
        "$python" -c 'import importlib.metadata as m; m.version("paddlepaddle-gpu")' 2>/dev/null; then
        found=$(nvidia-smi -L | grep -c '^GPU')
    fi
    echo "$found"
}

has_gpu() {
    [ "$(gpu_count)" -gt 0 ]
}

# record STEP STATUS SECONDS [MAP]
record() {
    printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "${4:--}" >>"$out/steps.tsv"
}

# lacks EVIDENCE LOG: what a step that worked would have left, and this one has not; nothing if all is there. EVIDENCE
# is `file PATH` or `line TEXT` (of the step's log), or several of them in lines of their own.
lacks() {
    local evidence
    while IFS= read -r evidence; do
        case $evidence in
            file\ *) [ -s "${evidence#file }" ] || echo "$evidence is missing" ;;
            line\ *) grep -qF -- "${evidence#line }" "$2" || echo "$evidence is missing" ;;
        esac
    done <<<"$1"
    grep -Eio '(loss|mAP[^ ]*):? -?(nan|inf)([ ,]|$)' "$2" | head -n 1 | tr -d ','
}

# image_map LOG: the last mAP of image queries on image codes in a log (I->I, or without a direction); nothing if none.
image_map() {
    sed -n -e '/->T/d' -e '/T->/d' -e 's/.*mAP[^ :]*:\{0,1\} \([0-9][0-9.]*\).*/\1/p' "$1" | tail -n 1
}

# run_step STEP LOG EVIDENCE COMMAND...: status 77 of the command means that it cannot be done here, for the reason in
# its last line; that is no failure and no pass.
run_step() {
    local step=$1 step_log=$2 evidence=$3 status seconds=$SECONDS missing
    shift 3
    ${limit[@]+"${limit[@]}"} "$@" >"$step_log" 2>&1
    status=$?
    if [ $status -eq 0 ]; then
        missing=$(lacks "$evidence" "$step_log")
        if [ -n "$missing" ]; then
            status=1
            echo "error: $missing, although the command ended with status 0" >>"$step_log"
        fi
    elif [ $status -eq 77 ]; then
        skip_step "$step" "$(tail -n 1 "$step_log" | sed 's/^skipped: //' | tr '\t' ' ')" "$@"
        return 77
    elif [ $status -eq 124 ] && [ ${#limit[@]} -gt 0 ]; then
        echo "error: ended after TIPC_TIMEOUT=${TIPC_TIMEOUT:-1800} seconds" >>"$step_log"
    fi
    status_check $status "$*" "$log"
    seconds=$((SECONDS - seconds))
    if [ $status -eq 0 ]; then
        record "$step" passed $seconds "$(image_map "$step_log")"
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

# skip_chain STEP WHY COMMAND...: the step that the chain is for cannot run here, so the chain's verdict is skipped.
skip_chain() {
    chain_skipped=$2
    skip_step "$@"
}

# Both words of every parameter line of training that has a value in this mode (lines 7, 9, 10, 13).
train_parameters() {
    local line
    for line in "${lines[6]}" "${lines[8]}" "${lines[9]}" "${lines[12]}"; do
        func_set_params "$(func_parser_key "$line")" "$(func_parser_params "$line" "$mode")"
        echo
    done
    if [ "$mode" = whole_train_whole_infer ]; then
        echo "${TIPC_TRAIN_ARGS:-}"
    fi
}

# choose_device: device becomes the first of line 5's that this machine has; those before it are skipped aloud.
# device_name becomes cpu or gpus. The chain is skipped where the machine has none of them.
choose_device() {
    local candidate
    device=
    device_name=cpu
    for candidate in "${train_devices[@]}"; do
        if [ "$candidate" = True ] && ! has_gpu; then
            skip_step train_gpu "no GPU" "$python" "${train_command[@]}" "$train_device_key" True
        else
            device=$candidate
            if [ "$device" != False ] && has_gpu; then device_name=gpus; fi
            return
        fi
    done
    chain_skipped="no GPU"
    finish
}

# train_and_eval [FLAG...]: the steps train and eval; sets checkpoint, to nothing if training failed. `launcher` stands
# before the program, FLAGs after it.
train_and_eval() {
    local save step_log=$out/train$tag.log launch=("$python")
    [ ${#launcher[@]} -eq 0 ] || launch=("${launcher[@]}")
    [ -n "${device:-}" ] || choose_device
    save=$out/${trainer}_$device_name$tag
    checkpoint=$save/$train_name
    run_step "train$tag" "$step_log" "file $checkpoint"$'\n'"line images/sec" \
        "${launch[@]}" "${train_command[@]}" "${parameters[@]}" "$@" --output-dir "$save" \
        "$train_device_key" "$device" || {
        checkpoint=
        return 1
    }
    if [ "${eval_command[0]}" != null ]; then
        run_step "eval$tag" "$out/eval$tag.log" "file $save/eval/result.json" \
            "${launch[@]}" "${eval_command[@]}" "$@" "$checkpoint_key" "$checkpoint" --output-dir "$save/eval" \
            "$train_device_key" "$device"
    fi
}

# find_checkpoint: sets checkpoint to TIPC_CHECKPOINT, or to the newest that a train mode of the chain left, else to the
# newest of the config's base chain.
find_checkpoint() {
    checkpoint=${TIPC_CHECKPOINT:-}
    if [ -n "$checkpoint" ]; then
        [ -f "$checkpoint" ] || fail "TIPC_CHECKPOINT=$checkpoint does not exist"
    else
        local folder found
        for folder in "${out%/*}" "${TIPC_OUTPUT:-test_tipc/output}/$model_name"; do # of the chain, of the base chain
            for found in "$folder"/*/"$trainer"_*/"$train_name"; do
                [ -f "$found" ] && { [ -z "$checkpoint" ] || [ "$found" -nt "$checkpoint" ]; } && checkpoint=$found
            done
            [ -z "$checkpoint" ] || break
        done
        [ -n "$checkpoint" ] || fail "whole_infer of $model_name needs a checkpoint: set TIPC_CHECKPOINT, or run a" \
            "train mode first"
    fi
    echo "checkpoint: $checkpoint" | tee -a "$log"
}

# export_checkpoint: the step export, $checkpoint to $out/inference; fails where there is none.
export_checkpoint() {
    local command=("${norm_export[@]}")
    [ "$mode" != whole_infer ] || command=("${infer_export[@]}")
    if [ -z "$checkpoint" ]; then
        record "export$tag" "not run: no checkpoint" 0
        return 1
    fi
    run_step "export$tag" "$out/export$tag.log" "file $out/inference$tag/inference.yml" \
        "$python" "${command[@]}" "$checkpoint_key" "$checkpoint" "$save_model_key" "$out/inference$tag" && return
    record "infer$tag" "not run: no inference model" 0
    return 1
}
