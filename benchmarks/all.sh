#!/bin/sh
# The benchmarks that fit in a quarter of an hour on two cores, one after another; each writes its section of
# benchmarks/RESULTS.md. Stop all other work first: the ratios survive it, the times do not.
#
#   sh benchmarks/all.sh
#
# Environment: PYTHON, VENV as for the other scripts; WEIGHTS=FILE, weights of SqueezeNet1_1 (random ones without).
set -eu
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../scripts/common.sh"
use_python

measure() {
    script=$1
    shift
    echo "== $script $*"
    "$PYTHON" "benchmarks/$script" "$@" --write
}

measure bench_search.py --items 1000000 --rounds 3
measure bench_metrics.py
( export OMP_NUM_THREADS=1; measure bench_encode.py --threads 1 ${WEIGHTS:+--weights "$WEIGHTS"} )
measure bench_encode.py ${WEIGHTS:+--weights "$WEIGHTS"}
measure bench_loader.py
measure bench_train.py
measure bench_index.py --items 1000000
measure bench_startup.py
