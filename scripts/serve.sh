#!/bin/sh
# Serve an index over HTTP, with a page to search on: http://127.0.0.1:8765. Ctrl-C ends it.
#
#   sh scripts/serve.sh                                       the embedded shapes set: trains and indexes when absent
#   sh scripts/serve.sh --model-dir DIR --index URI [...]     your own; flags of python -m deploy.service
#   sh scripts/serve.sh --port 9000                           the embedded set, with other flags
#
# Environment: see scripts/setup.sh (PYTHON, VENV, PADDLE_DEVICE, PADDLE_VERSION).
set -eu
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

named=no
for argument; do
    case $argument in --model-dir | --model-dir=* | --model_dir | --model_dir=* | --index | --index=* | -h | --help) named=yes ;; esac
done
out=output/quickstart
if [ "$named" = no ] && { [ ! -f $out/inference/inference.yml ] || [ ! -f $out/database.npz ]; }; then
    sh scripts/quickstart.sh
fi
sh scripts/setup.sh --service
use_python
if [ "$named" = yes ]; then
    exec "$PYTHON" -m deploy.service "$@"
fi
[ -f $out/index/manifest.json ] || "$PYTHON" -m deploy.index build exact:$out/index $out/database.npz
exec "$PYTHON" -m deploy.service --model-dir $out/inference --index exact:$out/index "$@"
