#!/bin/sh
# Set up (with the test requirements) and run the tests.
#
#   sh scripts/test.sh [pytest arguments]     for example: -m slow, -k hamming, tests/test_codes.py
#
# Environment: TEST_WORKERS (processes, 0 = none; default: the cores); see scripts/setup.sh (VENV, PYTHON, ...).
set -eu
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
sh scripts/setup.sh --test
# the commands that the tests start must meet this environment first
case $VENV in /*) bin=$VENV/bin ;; *) bin=$PWD/$VENV/bin ;; esac
PATH=$bin:$PATH
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export PATH OMP_NUM_THREADS VENV
# on all cores, at most 8; a file's tests stay together, for they share what is slow to make
exec "$bin/python" -m pytest -q --durations=15 -n "${TEST_WORKERS:-auto}" --maxprocesses 8 --dist loadfile "$@"
