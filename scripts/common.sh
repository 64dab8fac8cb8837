# shellcheck shell=sh
# Sourced by the other scripts: goes to the repository's root (paths in arguments are relative to it) and
# gives `die`, `use_python` and `choose_checkpoint`.
cd "$(dirname "$0")/.." || exit 1

VENV=${VENV:-.venv}

die() {
    echo "error: $*" >&2
    exit 2
}

# PYTHON becomes the interpreter that runs the project: the virtual environment's where there is one, else
# $PYTHON, else the python of the PATH.
use_python() {
    if [ -x "$VENV/bin/python" ]; then
        PYTHON=$VENV/bin/python
    elif [ -z "${PYTHON:-}" ]; then
        PYTHON=$(command -v python3 || command -v python) ||
            die "no Python found; run sh scripts/setup.sh first or set PYTHON"
    fi
    command -v "$PYTHON" >/dev/null 2>&1 || die "PYTHON=$PYTHON is not a program"
    "$PYTHON" -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("paddle"))' ||
        die "$PYTHON has no Paddle; run sh scripts/setup.sh first or set PYTHON"
    export PYTHON
}

# checkpoint becomes the newest output/*/best.safetensors, or empty where the arguments name one.
choose_checkpoint() {
    checkpoint=
    for argument; do
        case $argument in --pretrained | --pretrained=*) return ;; esac
    done
    for candidate in output/*/best.safetensors; do
        if [ -f "$candidate" ] && { [ -z "$checkpoint" ] || [ -n "$(find "$candidate" -newer "$checkpoint")" ]; }; then
            checkpoint=$candidate
        fi
    done
    [ -n "$checkpoint" ] || die "no output/*/best.safetensors to evaluate; train with sh" \
        "scripts/train_single_gpu.sh or give --pretrained CHECKPOINT"
    echo "evaluating $checkpoint"
}
