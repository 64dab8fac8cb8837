#!/bin/sh
# The trust campaign: real commands killed at any moment, and damaged or hostile files of every kind that is read.
#
#   sh scripts/campaign.sh [--minutes N] [--seed S] [--only kills|mutations] [--keep DIR] [--material DIR]
#                          [--results FILE] [NAME ...]
#
# NAME: parts of the names of commands (tests/campaign/scenarios.py) and kinds of files (tests/campaign/formats.py).
# --results: rows are added to FILE, and the tables are of all that is in it, so a campaign goes on where another one
# ended; give it another seed. --material keeps the sound models for the next one.
# Prints two tables; the exit status is 1 where something came out wrong. Linux; needs the test requirements.
set -eu
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
use_python
exec "$PYTHON" -m tests.campaign "$@"
