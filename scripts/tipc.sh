#!/bin/sh
# Run TIPC configs and print a table; ends with a non-zero status if any step of any config failed.
#
#   sh scripts/tipc.sh [PATTERN ...] [--chain NAMES] [--mode MODE] [--jobs N] [--venv DIR ...] [--rerun-failed]
#
#   PATTERN         configs by name, such as hashnet_16 or 'hashnet_*' (default: all)
#   --chain NAMES   base (default), fleet, amp, paddle2onnx, ptq, benchmark; comma-separated, or all
#   --mode MODE     lite_train_lite_infer (default), lite_train_whole_infer, whole_train_whole_infer, whole_infer
#   --jobs N        configs at a time; default: by cores and free memory
#   --venv DIR      virtual environment; given twice, both Paddle versions stand in one table
#   --rerun-failed  what failed last time, again
#
# Logs: test_tipc/output/<config>/; the summary: test_tipc/output/summary.txt, summary.xml (JUnit), summary.json.
set -eu
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

command -v bash >/dev/null || die "the TIPC scripts need bash"
case " $*" in
    *" --venv"*) # each has its own Paddle; the runner needs none
        PYTHON=$(command -v python3 || command -v python) || die "no Python found; install Python 3.9 or newer"
        ;;
    *) use_python ;;
esac
exec "$PYTHON" test_tipc/run.py "$@"
