"""A training step and an evaluation against those of the public code, part by part.

    python benchmarks/bench_train.py

The other side is the loop that paddle_hashnet and DeepHash-pytorch share, written here in few lines because it does not
run on Paddle 3 as it is (its bank keeps the graph; here the bank is detached): pictures through Pillow and
paddle.vision.transforms, one image at a time; the loss over a bank of all training images; ``float(loss)`` at every
step; evaluation with a loop over queries in numpy. Network (AlexNet, random weights), batch size, pictures and number
of steps are the same. The sides take turns.

A last row times one step of SqueezeNet 1.1 at 128 pixels (that of the ``*_finetune`` recipes) with the layers of
models/backbones/quick_cpu.py against Paddle's own; both must give the same loss, bit for bit.
"""
import argparse
import os
import sys
import tempfile
import time

import cv2
import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import utils  # noqa: E402, F401  before Paddle

# isort: split
import paddle  # noqa: E402

from benchmarks.bench_metrics import loop_map  # noqa: E402
from benchmarks.measure import in_turns, machine, ratio_text, ratios, write_section  # noqa: E402
from benchmarks.own_layers import with_own_layers  # noqa: E402
from models import METHODS  # noqa: E402
from models.backbones.build import build_backbone  # noqa: E402
from models.method import DataFacts  # noqa: E402
from utils.augmentation import PRESETS  # noqa: E402
from utils.cpu import threads  # noqa: E402
from utils.datasets import FileImages, Split  # noqa: E402
from utils.errors import run_main  # noqa: E402
from utils.retrieval.hamming import pack  # noqa: E402
from utils.retrieval.metrics import evaluate  # noqa: E402
from utils.training.loader import Items, epoch_order, load_batches  # noqa: E402
from utils.transforms import preprocess_spec  # noqa: E402

BITS, CLASSES, WIDTH, HEIGHT = 64, 10, 320, 240


def pictures(folder, count):
    """A split of ``count`` JPEG files with some detail."""
    rng = np.random.default_rng(0)
    names = [f"{i:04}.jpg" for i in range(count)]
    for name in names:
        small = rng.integers(0, 256, (15, 20, 3), np.uint8)
        cv2.imwrite(os.path.join(folder, name), cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC))
    labels = np.eye(CLASSES, dtype=np.uint8)[np.arange(count) % CLASSES]
    return Split("train", names, labels=labels, images=FileImages(folder, names))


class Step:
    """One step of a whole SqueezeNet with a hash layer, on the same pictures each time."""

    def __init__(self, batch_size, change=lambda net: net):
        paddle.seed(0)
        backbone = change(build_backbone("SqueezeNet1_1", pretrained=False, image_size=128))
        self.method = METHODS["hashnet"](backbone, 48, DataFacts(batch_size, CLASSES))
        self.optimizer = paddle.optimizer.Adam(1e-4, parameters=self.method.parameters())
        labels = paddle.eye(CLASSES)[paddle.arange(batch_size) % CLASSES]
        self.batch = {"image0": paddle.randn([batch_size, 3, 128, 128]), "label": labels,
                      "index": paddle.arange(batch_size)}
        self.losses = []

    def __call__(self):
        """Forward, backward, optimizer."""
        total = self.method.loss(self.batch)["total"]
        total.backward()
        self.optimizer.step()
        self.optimizer.clear_grad()
        self.losses.append(float(total))


class Parts:
    """Seconds of the named parts of a side."""

    def __init__(self):
        self.seconds = {}
        self.last = time.perf_counter()

    def start(self):
        """Begin a part."""
        self.last = time.perf_counter()

    def end(self, name):
        """End the part that has run since the last call."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0) + now - self.last
        self.last = now


class Ours:
    """The product's loader, loss, step and evaluation."""

    def __init__(self, split, batch_size):
        paddle.seed(0)
        backbone = build_backbone("AlexNet", pretrained=False)
        self.split, self.batch_size = split, batch_size
        self.method = METHODS["hashnet"](backbone, BITS, DataFacts(len(split), CLASSES))
        self.optimizer = paddle.optimizer.Momentum(1e-4, parameters=self.method.parameters(), weight_decay=5e-4)
        self.items = Items(split, preprocess_spec(), 1, PRESETS["crop_flip"])
        self.parts = Parts()

    def epoch(self):
        """One pass."""
        self.method.train()
        self.parts.start()
        order = epoch_order(len(self.split), self.batch_size, 0, 0, False)
        for batch in load_batches(self.items, order, 2):
            self.parts.end("loading")
            total = self.method.loss(batch)["total"]
            self.parts.end("forward and loss")
            total.backward()
            self.parts.end("backward")
            self.optimizer.step()
            self.optimizer.clear_grad()
            self.parts.end("optimizer")

    def evaluation(self, codes, labels, queries):
        """mAP of random codes, as the metrics see them."""
        packed = pack(codes)
        return evaluate(packed[:queries], packed, labels[:queries], labels, BITS, topk=1000)["mAP"]


class Theirs:
    """The loop of the public code."""

    def __init__(self, split, batch_size):
        from paddle.vision import transforms as vision
        paddle.seed(0)
        self.split, self.batch_size = split, batch_size
        backbone = with_own_layers(build_backbone("AlexNet", pretrained=False))
        self.net = paddle.nn.Sequential(backbone, paddle.nn.Linear(backbone.out_dim, BITS))
        self.optimizer = paddle.optimizer.Momentum(1e-4, parameters=self.net.parameters(), weight_decay=5e-4)
        self.bank = paddle.zeros([len(split), BITS])
        self.bank_labels = paddle.zeros([len(split), CLASSES])
        self.transform = vision.Compose([vision.Resize(256), vision.RandomCrop(224), vision.RandomHorizontalFlip(),
                                         vision.ToTensor(), vision.Normalize([0.485, 0.456, 0.406],
                                                                             [0.229, 0.224, 0.225])])
        self.parts = Parts()

    def batch(self, positions):
        """(images, labels) of positions."""
        from PIL import Image
        images = [self.transform(Image.open(self.split.images.path(i)).convert("RGB")) for i in positions]
        return paddle.stack(images), paddle.to_tensor(self.split.labels[positions].astype("float32"))

    def loss(self, u, y, index):
        """HashNet's loss over the bank, as in paddle_hashnet's utils/loss.py, with the bank detached."""
        u = paddle.tanh(u)
        with paddle.no_grad():
            self.bank = paddle.scatter(self.bank, index, u.detach())
            self.bank_labels = paddle.scatter(self.bank_labels, index, y)
        similar = (paddle.matmul(y, self.bank_labels, transpose_y=True) > 0).astype("float32")
        dot = 0.1 * paddle.matmul(u, self.bank, transpose_y=True)
        likelihood = paddle.log(1 + paddle.exp(-paddle.abs(dot))) + paddle.clip(dot, min=0) - similar * dot
        positive, negative = similar.sum(), (1 - similar).sum()
        weight = similar * (positive + negative) / positive + (1 - similar) * (positive + negative) / negative
        return (likelihood * weight).mean()

    def epoch(self):
        """One pass."""
        self.net.train()
        order = np.random.default_rng(0).permutation(len(self.split))
        self.parts.start()
        for start in range(0, len(order), self.batch_size):
            positions = order[start:start + self.batch_size]
            images, labels = self.batch(positions)
            self.parts.end("loading")
            loss = self.loss(self.net(images), labels, paddle.to_tensor(positions))
            self.parts.end("forward and loss")
            loss.backward()
            self.parts.end("backward")
            self.optimizer.step()
            self.optimizer.clear_grad()
            float(loss)
            self.parts.end("optimizer")

    def evaluation(self, codes, labels, queries):
        """mAP by the loop over queries."""
        signs = np.sign(codes)
        return loop_map(signs[:queries], signs, labels[:queries], labels, 1000)


def fine_tuning_row(options):
    """The row of one step of the ``*_finetune`` recipes."""
    steps = {"ours": Step(options.batch_size), "own": Step(options.batch_size, with_own_layers)}
    times = in_turns(steps, options.rounds)
    assert steps["ours"].losses == steps["own"].losses, "the layers give other bits"
    ratio, seconds = ratios(times, "ours", "own"), {name: np.median(values[:, 0]) for name, values in times.items()}
    return (f"| a step of SqueezeNet 1.1, 128 px, against Paddle's own layers; same bits | {seconds['ours']:.2f} "
            f"({options.batch_size / seconds['ours']:.0f} images/s) | {seconds['own']:.2f} | "
            f"{ratio_text(ratio['wall'])} | {ratio_text(ratio['cpu'])} |")


def main(argv):
    """Measure, print, and write the section ``training`` of RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag, default, text in (("images", 256, "pictures of an epoch"), ("batch-size", 64, "pictures a step"),
                                ("rounds", 3, "counted rounds"), ("items", 20000, "database of the evaluation"),
                                ("queries", 200, "queries of the evaluation")):
        parser.add_argument(f"--{flag}", type=int, default=default, help=f"{text} (default {default})")
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md")
    options = parser.parse_args(argv)
    from paddle.base import core
    core.set_num_threads(threads())
    lines = [f"## Training step and evaluation: `python benchmarks/bench_train.py`\n\n"
             f"{machine(threads(), paddle=paddle.__version__)}\n\n"
             f"AlexNet, 224 pixels, batch {options.batch_size}, {options.images} JPEG files of {WIDTH} x {HEIGHT}; "
             f"ratios public loop / ours, median (lowest to highest) of {options.rounds} rounds.\n",
             "| part | ours, s | public loop, s | ratio of wall time | of CPU time |", "|--|--|--|--|--|"]
    with tempfile.TemporaryDirectory() as folder:
        split = pictures(folder, options.images)
        sides = {"ours": Ours(split, options.batch_size), "theirs": Theirs(split, options.batch_size)}
        times = in_turns({name: side.epoch for name, side in sides.items()}, options.rounds)
        ratio = ratios(times, "ours", "theirs")
        lines.append(f"| one epoch | {np.median(times['ours'][:, 0]):.2f} | {np.median(times['theirs'][:, 0]):.2f} | "
                     f"{ratio_text(ratio['wall'])} | {ratio_text(ratio['cpu'])} |")
        rounds = options.rounds + 1
        for part, seconds in sides["ours"].parts.seconds.items():
            other = sides["theirs"].parts.seconds[part]
            lines.append(f"| ... {part} (mean) | {seconds / rounds:.2f} | {other / rounds:.2f} | "
                         f"{other / seconds:.2f} | |")
        rng = np.random.default_rng(1)
        codes = rng.standard_normal((options.items, BITS)).astype("float32")
        labels = np.eye(CLASSES, dtype=np.int64)[rng.integers(0, CLASSES, options.items)]
        times = in_turns({name: lambda s=side: s.evaluation(codes, labels, options.queries)
                          for name, side in sides.items()}, options.rounds)
        ratio = ratios(times, "ours", "theirs")
        lines.append(f"| mAP@1000, {options.queries} x {options.items} | {np.median(times['ours'][:, 0]):.3f} | "
                     f"{np.median(times['theirs'][:, 0]):.2f} | {ratio_text(ratio['wall'])} | "
                     f"{ratio_text(ratio['cpu'])} |")
    lines.append(fine_tuning_row(options))
    print("\n".join(lines))
    if options.write:
        write_section("training", lines)


if __name__ == "__main__":
    run_main(main)
