#!/usr/bin/env bash
# Functions of the TIPC scripts (sourced). A config is a text file of `key:value` lines whose order is fixed.

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

MODES="lite_train_lite_infer lite_train_whole_infer whole_train_whole_infer whole_infer"

# read_arguments CONFIG MODE: check both (one line on a fault), set mode, lines (the config's), model_name and python,
# go to the repository's root.
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
    if [ "${#lines[@]}" -lt 32 ] || [ "$(func_parser_key "${lines[1]}")" != model_name ]; then
        fail "$1 is no TIPC config: 32 lines with model_name in the second are expected"
    fi
    cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
    # shellcheck disable=SC2034  # read by the scripts that source this file
    model_name=$(func_parser_value "${lines[1]}")
    # the project's virtual environment, else $PYTHON, else what the config names
    if [ -x "${VENV:-.venv}/bin/python" ]; then
        python=${VENV:-.venv}/bin/python
    else
        python=${PYTHON:-$(func_parser_value "${lines[2]}")}
    fi
    command -v "$python" >/dev/null || fail "no $python; run sh scripts/setup.sh first or set PYTHON"
    "$python" -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("paddle"))' ||
        fail "$python has no Paddle; run sh scripts/setup.sh first or set PYTHON"
}
