#!/bin/sh
# From a bare clone to an answered query: set up, draw the shapes set, train HashNet on it, evaluate, export, encode
# the database and search it with Paddle Inference. Ends with a table; everything lands in output/quickstart.
#
#   sh scripts/quickstart.sh
#
# Environment: see scripts/setup.sh (PYTHON, VENV, PADDLE_DEVICE, PADDLE_VERSION).
set -eu
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
[ $# -eq 0 ] || die "quickstart.sh takes no arguments; train with main_single_gpu.py or scripts/train_single_gpu.sh"

step() {
    echo
    echo "== $*"
}

step "1/5 set up"
sh scripts/setup.sh
use_python
out=output/quickstart
begin=$(date +%s)

step "2/5 train HashNet on the embedded shapes set and evaluate it"
"$PYTHON" main_single_gpu.py --method hashnet --dataset shapes --output-dir $out --curves --overwrite

step "3/5 export for Paddle Inference"
"$PYTHON" export_model.py --pretrained $out/best.safetensors --save-inference-dir $out/inference

step "4/5 encode the database and answer a query with Paddle Inference"
codes=$out/database.npz
"$PYTHON" deploy/inference_python/infer.py --model-dir $out/inference --code-file $codes --rebuild True --batch-size 32 \
    --benchmark True >$out/infer.log || { cat $out/infer.log; die "the query failed"; }
grep -e '^-----' $out/infer.log

step "5/5 show the matches of the first query"
"$PYTHON" predict.py --model-dir $out/inference --code-file $codes --save-path $out/matches.png --json \
    >$out/matches.json

"$PYTHON" - $out "$(($(date +%s) - begin))" <<'END'
import json
import re
import sys

folder, seconds = sys.argv[1:]
with open(f"{folder}/result.json", encoding="utf-8") as file:
    result = json.load(file)
with open(f"{folder}/infer.log", encoding="utf-8") as file:
    log = file.read()
stages = re.search(r"preprocess_time\(ms\): ([\d.]+), inference_time\(ms\): ([\d.]+), postprocess_time\(ms\): ([\d.]+)", log)
encoded = re.search(r"\(([\d.]+) a second\)", log)
rows = [("mAP", f"{result['score']:.3f}", f"{result['recipe']['bit']} bits, "
                                          f"{result['protocol']['counts']['query']} queries in "
                                          f"{result['protocol']['counts']['database']} images"),
        ("training", f"{result['training']['images_per_second']:.0f} images/s", f"{result['training']['epoch']} epochs"),
        ("encoding", f"{float(encoded[1]):.0f} images/s" if encoded else "-", "Paddle Inference, decoding included"),
        ("query", f"{sum(map(float, stages.groups())):.1f} ms", "preprocess, network and search of one picture"),
        ("whole run", f"{seconds} s", "without the set-up")]
print()
for name, value, note in rows:
    print(f"{name:<12}{value:>16}   {note}")
print()
for name in ("result.json", "matches.png", "pr_curve.png"):
    with open(f"{folder}/{name}", "rb"):
        print(f"{folder}/{name}")
END
