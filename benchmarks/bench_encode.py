"""Encoding: the dynamic network, Paddle Inference (plain, oneDNN in float32 and bfloat16) and onnxruntime, in turns.

    python benchmarks/bench_encode.py --threads 1      features of a frozen SqueezeNet, AlexNet codes at batch 32
    python benchmarks/bench_encode.py                  and from 640 x 480 JPEG files to codes

The seed's way of the last table is that of the public code: Pillow and paddle.vision.transforms, one picture at a time,
plain predictor. ``flips``: share of bits that differ from the dynamic network's, on random weights (AlexNet) or over
random projections of the features. The dynamic network has Paddle's own layers; a second row has those of
models/backbones/quick_cpu.py. onnxruntime is measured where deploy/onnx is installed (scripts/setup.sh --deploy).
"""
import argparse
import copy
import importlib.util
import os
import sys
import tempfile

import cv2
import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import utils  # noqa: E402, F401  before Paddle

# isort: split
import paddle  # noqa: E402

from benchmarks.measure import in_turns, machine, ratio_text, ratios, write_section  # noqa: E402
from benchmarks.own_layers import with_own_layers  # noqa: E402
from deploy.engines import open_model  # noqa: E402
from deploy.onnx.convert import convert  # noqa: E402
from export_model import export  # noqa: E402
from models import METHODS  # noqa: E402
from models.backbones.build import build_backbone  # noqa: E402
from models.encoder import checkpoint_encoder  # noqa: E402
from models.method import DataFacts  # noqa: E402
from utils.config import RECIPE  # noqa: E402
from utils.cpu import threads as usable_threads  # noqa: E402
from utils.datasets import FileImages, Split  # noqa: E402
from utils.datasets.protocols.shapes import draw_image  # noqa: E402
from utils.errors import InputError, run_main  # noqa: E402
from utils.picture_loader import PictureLoader  # noqa: E402
from utils.retrieval.encode import encode  # noqa: E402
from utils.retrieval.hamming import pack  # noqa: E402
from utils.training.checkpoint import save_checkpoint  # noqa: E402
from utils.training.static_function import StaticFunction, flipped_bits  # noqa: E402
from utils.transforms import preprocess, preprocess_spec  # noqa: E402

BITS = 64


def pictures(count, side, seed=0):
    """Network inputs float32 [count, 3, side, side] of the embedded shapes set."""
    spec = preprocess_spec(side, side)
    return np.stack([preprocess(draw_image(seed, 1, i)[0], spec) for i in range(count)])


def row(name, times, base, count, flips):
    """A line of a table: images a second, and ratios to ``base``."""
    ratio = ratios(times, name, base)
    return (f"| {name} | {count / np.median(times[name][:, 1]):.0f} | {ratio_text(ratio['cpu'])} | "
            f"{ratio_text(ratio['wall'])} | {flips} |")


HEADER = ["| | images a CPU second | ratio of CPU time | of wall time | flips |", "|--|--|--|--|--|"]


def features(options):
    """Lines about the features of a frozen network."""
    backbone = build_backbone("SqueezeNet1_1", weights=options.weights, pretrained=False, image_size=160)
    method = METHODS["hashnet"](backbone, BITS, DataFacts(16, 4), frozen=True)
    method.eval()
    own = with_own_layers(copy.deepcopy(method))
    images = pictures(64, 160)

    def side(precision="fp32", method=method):
        return StaticFunction(method, method.backbone_features, "features", flipped_bits, precision, lambda text: None)

    sides = {"dynamic network": side(method=own).dynamic, "dynamic network, quick layers": side().dynamic}
    for precision in ("fp32", "bf16"):
        try:
            sides[f"oneDNN {precision}"] = frozen = side(precision)
            frozen.prepare(images)
        except InputError as error:
            print(f"oneDNN {precision} left out: {error}")
            del sides[f"oneDNN {precision}"]
    wanted = sides["dynamic network"](images)
    times = in_turns({name: lambda s=side: s(images) for name, side in sides.items()}, options.rounds)
    lines = [f"Frozen SqueezeNet1_1, 160 pixels, batch 64, {'given weights' if options.weights else 'random weights'}; "
             "dynamic network / side.\n", *HEADER]
    for name, side in sides.items():
        flips = f"{100 * flipped_bits(wanted, side(images))[0]:.3f} %"
        lines.append(row(name, times, "dynamic network", len(images), flips))
    return lines + [""]


def make_models(folder, onnx, decode="full"):
    """An AlexNet of random weights as checkpoint, model folder and, if asked for, ONNX folder; path of the first."""
    paddle.seed(0)
    method = METHODS["hashnet"](build_backbone("AlexNet", pretrained=False), BITS, DataFacts(16, 4))
    recipe = {key: setting.default for key, setting in RECIPE.items()}
    recipe.update({key: setting.default for key, setting in METHODS["hashnet"].settings.items()})
    recipe.update(method="hashnet", bit=BITS, decode=decode)
    with paddle.no_grad():  # random weights give codes near zero: centred, as trained ones are
        raw = method.hash(method.backbone(paddle.to_tensor(pictures(32, 224, 1))))
        method.hash.bias.set_value(-raw.mean(axis=0))
    checkpoint = os.path.join(folder, "best.safetensors")
    save_checkpoint(checkpoint, {f"model/{key}": value.numpy() for key, value in method.state_dict().items()},
                    {"recipe": recipe, "epoch": 0, "classes": [],
                     "data": {"num_train": 16, "num_classes": 4, "text_dim": None}})
    export(checkpoint, os.path.join(folder, "model"))
    if onnx:
        convert(os.path.join(folder, "model"), os.path.join(folder, "onnx"))
    return checkpoint


def codes(options, folder, checkpoint):
    """Lines about AlexNet's codes at batch 32."""
    images = pictures(32, 224, 2)
    model = os.path.join(folder, "model")
    sides = {"dynamic network": checkpoint_encoder(checkpoint, threads=options.threads),
             "dynamic network, quick layers": checkpoint_encoder(checkpoint, threads=options.threads),
             "plain predictor": open_model(model, threads=options.threads, mkldnn=False),
             "oneDNN fp32": open_model(model, threads=options.threads, mkldnn=True)}
    try:
        sides["oneDNN bf16"] = open_model(model, threads=options.threads, bf16=True)
    except InputError as error:
        print(f"oneDNN bf16 left out: {error}")
    if os.path.isdir(os.path.join(folder, "onnx")):
        sides["onnxruntime"] = open_model(os.path.join(folder, "onnx"), threads=options.threads)
    with_own_layers(sides["dynamic network"].method)
    wanted = pack(sides["dynamic network"].encode(images))
    times = in_turns({name: lambda s=side: s.encode(images) for name, side in sides.items()}, options.rounds)
    lines = [f"AlexNet, 224 pixels, batch 32, {BITS} bits; dynamic network / side.\n", *HEADER]
    for name, side in sides.items():
        flips = np.unpackbits(pack(side.encode(images)) ^ wanted).mean()
        lines.append(row(name, times, "dynamic network", len(images), f"{100 * flips:.2f} %"))
    return lines + [""], sides


def end_to_end(options, folder, sides):
    """Lines from JPEG files to codes."""
    from paddle.vision import transforms as vision
    from PIL import Image
    rng = np.random.default_rng(3)
    names = [f"{i:03}.jpg" for i in range(options.files)]
    for name in names:
        small = rng.integers(0, 256, (30, 40, 3), np.uint8)
        cv2.imwrite(os.path.join(folder, name), cv2.resize(small, (640, 480), interpolation=cv2.INTER_CUBIC))
    split = Split("query", names, images=FileImages(folder, names))
    spec = sides["plain predictor"].manifest["preprocess"]
    seed = vision.Compose([vision.Resize(256), vision.CenterCrop(224), vision.ToTensor(),
                           vision.Normalize(spec["mean"], spec["std"])])

    def one_by_one():
        for i in range(len(split)):
            picture = Image.open(split.images.path(i)).convert("RGB")
            pack(sides["plain predictor"].encode(seed(picture).numpy()[None]))

    jobs = {"the seed's way": one_by_one}
    for name, side in sides.items():
        if not name.startswith("dynamic network"):
            for decode in ("full", "reduced"):
                spec_of = {**spec, **({"decode": "reduced"} if decode == "reduced" else {})}
                jobs[f"{name}, {decode} decoding"] = lambda s=side, p=spec_of: encode(
                    s, split, load=PictureLoader(p, options.threads), batch_size=32)
    times = in_turns(jobs, options.rounds)
    lines = [f"{len(split)} JPEG files of 640 x 480 to codes, AlexNet, batch 32; the seed's way / side.\n",
             "| | images a wall second | ratio of CPU time | of wall time |", "|--|--|--|--|"]
    for name in jobs:
        ratio = ratios(times, name, "the seed's way")
        lines.append(f"| {name} | {len(split) / np.median(times[name][:, 0]):.0f} | {ratio_text(ratio['cpu'])} | "
                     f"{ratio_text(ratio['wall'])} |")
    return lines


def main(argv):
    """Measure, print, and write the section ``encoding`` of RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=usable_threads(), help="math and decoding threads")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (default 5)")
    parser.add_argument("--files", type=int, default=96, help="JPEG files of the last table (default 96)")
    parser.add_argument("--weights", help="weights of SqueezeNet1_1; random ones without")
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md")
    options = parser.parse_args(argv)
    paddle.base.core.set_num_threads(options.threads)
    onnx = importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("paddle2onnx")
    lines = [f"## Encoding: `python benchmarks/bench_encode.py --threads {options.threads}`\n\n"
             f"{machine(options.threads, paddle=paddle.__version__)}; medians (lowest to highest) of {options.rounds} "
             "rounds.\n"]
    lines += features(options)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make_models(folder, onnx)
        more, sides = codes(options, folder, checkpoint)
        lines += more
        if options.threads > 1:
            lines += end_to_end(options, folder, sides)
    print("\n".join(lines))
    if options.write:
        write_section(f"encoding, {options.threads} threads", lines)


if __name__ == "__main__":
    run_main(main)
