"""Image loading against the usual pipeline (Pillow and paddle.vision.transforms), side by side on the same JPEG files.

    python benchmarks/bench_loader.py                          # makes its own 640x480 files, about a minute
    python benchmarks/bench_loader.py --images DIR             # or takes the JPEG files of a folder
    python benchmarks/bench_loader.py --accuracy --data-path DIR --backbone-weights FILE

From a file to a float32 tensor [3, 224, 224]: decode, shorter side to 256, centre crop, normalise. Four sides, in
turns: ``seed`` (Pillow, then paddle.vision's Resize, CenterCrop, ToTensor, Normalize), ``seed_array`` (the same with
Normalize on arrays instead of tensors), ``full`` and ``reduced`` (ours, utils/transforms.py). Ratios are taken round
by round, of processor time (which other work on the machine changes least) and of wall time.

``--accuracy``: CIFAR-10 (official archive in DIR), every picture enlarged to 640x480 and stored as JPEG; a hash head on
frozen features is trained and evaluated with either decoding, with the same seeds.
"""
import argparse
import os
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import PIL  # noqa: E402
import simplejpeg  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks.measure import in_turns, machine, write_section  # noqa: E402
from utils import images, transforms  # noqa: E402
from utils.cpu import threads  # noqa: E402
from utils.datasets.base import FileImages, Split  # noqa: E402
from utils.errors import InputError, run_main  # noqa: E402
from utils.files import write_json  # noqa: E402

WIDTH, HEIGHT = 640, 480
SPECS = {mode: transforms.preprocess_spec(decode=mode) for mode in images.DECODES}


# files ------------------------------------------------------------------------------------------
def make_pictures(folder, count, seed=0):
    """Write ``count`` JPEG files: drawn shapes, enlarged, under texture of every scale and noise (quality 90)."""
    from utils.datasets.protocols.shapes import draw_image
    rng = np.random.default_rng(seed)
    for number in range(count):
        image = cv2.resize(draw_image(seed, 1, number)[0], (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) * 0.8 + 20
        for cell, strength in ((160, 20), (80, 14), (40, 10), (20, 8), (8, 6), (4, 5), (2, 5), (1, 3)):
            noise = rng.standard_normal((HEIGHT // cell, WIDTH // cell, 3), dtype=np.float32)
            image += strength * cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        image = np.clip(image, 0, 255).astype(np.uint8)
        write_jpeg(os.path.join(folder, f"{number:05}.jpg"), image, 90)


def write_jpeg(path, image, quality):
    """uint8 [H, W, 3] RGB to a JPEG file, 4:2:0 as cameras do."""
    with open(path, "wb") as file:
        file.write(simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality, colorsubsampling="420"))


def find_pictures(folder, count):
    """Names of the first ``count`` JPEG files of a folder; raises InputError where there is none."""
    if not os.path.isdir(folder):
        raise InputError(f"--images {folder}: no such folder")
    names = sorted(name for name in os.listdir(folder) if name.lower().endswith((".jpg", ".jpeg")))
    if not names:
        raise InputError(f"--images {folder}: no .jpg file in this folder")
    return names[:count]


# sides ------------------------------------------------------------------------------------------
def sides(split):
    """dict name -> paddle.io.Dataset."""
    import paddle
    from paddle.vision import transforms as vision

    from utils.training.loader import Items
    mean, std = list(transforms.IMAGENET_MEAN), list(transforms.IMAGENET_STD)
    window = [vision.Resize(256), vision.CenterCrop(224)]
    steps = {"seed": [vision.ToTensor(), vision.Normalize(mean, std)],
             "seed_array": [vision.Transpose(), vision.Normalize([255 * v for v in mean], [255 * v for v in std])]}

    class Usual(paddle.io.Dataset):
        def __init__(self, more):
            super().__init__()
            self.transform = vision.Compose(window + more)

        def __len__(self):
            return len(split)

        def __getitem__(self, i):
            with open(split.images.path(i), "rb") as file:
                return self.transform(Image.open(file).convert("RGB"))

    return {**{name: Usual(more) for name, more in steps.items()},
            **{mode: Items(split, spec) for mode, spec in SPECS.items()}}


def single(dataset, i):
    """Item i up to the normalised float32 array or tensor."""
    if hasattr(dataset, "spec"):
        return transforms.preprocess(images.read(dataset.split.images, i, dataset.spec), dataset.spec)
    return dataset[i]


def drain(dataset, batch_size, workers):
    """Read a data set once through paddle.io.DataLoader, as training does; number of images."""
    import paddle

    from utils.training.loader import load_batches
    n = len(dataset)
    if hasattr(dataset, "spec"):
        positions = [np.arange(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]
        return sum(len(batch["image0"]) for batch in load_batches(dataset, positions, workers))
    loader = paddle.io.DataLoader(dataset, batch_size=batch_size, num_workers=workers, return_list=True)
    return sum(len(batch[0] if isinstance(batch, (list, tuple)) else batch) for batch in loader)


# measuring --------------------------------------------------------------------------------------
def report(times, count, base="seed"):
    """Print a line a side; dict name -> figures."""
    figures = {}
    for name, values in times.items():
        wall, processor = np.median(values, axis=0) / count * 1e3
        ratio_wall, ratio = np.median(times[base] / values, axis=0)
        figures[name] = {"cpu_ms": processor, "wall_ms": wall, "ratio_cpu": ratio, "ratio_wall": ratio_wall}
        print(f"  {name:10s} {processor:6.2f} ms of CPU an image ({1e3 / processor:5.0f} images/s), {wall:6.2f} ms "
              f"wall ({1e3 / wall:5.0f}/s); {base} / {name}: {ratio:.2f} (CPU), {ratio_wall:.2f} (wall)", flush=True)
    return figures


def step_times(split, rounds):
    """Milliseconds of CPU of each step on its own, for the files of the split."""
    numbers = range(len(split))
    datas = [open(split.images.path(i), "rb").read() for i in numbers]
    spec = SPECS["full"]
    wholes = [images.decode(data) for data in datas]
    smalls = [transforms.resize_short(whole, 256) for whole in wholes]
    pils = [Image.fromarray(whole) for whole in wholes]
    jobs = {
        "read the file": lambda: [open(split.images.path(i), "rb").read() for i in numbers],
        "decode, Pillow": lambda: [Image.open(split.images.path(i)).convert("RGB") for i in numbers],
        "decode, full": lambda: [images.decode(data) for data in datas],
        "decode and resize, reduced": lambda: [images.decode(data, spec=SPECS["reduced"]) for data in datas],
        "resize, Pillow": lambda: [pil.resize(small.shape[1::-1], Image.BILINEAR) for pil, small in zip(pils, smalls)],
        "resize, full": lambda: [transforms.resize_short(whole, 256) for whole in wholes],
        "crop and normalise": lambda: [transforms.preprocess(small, spec) for small in smalls],
    }
    values = {name: float(np.median(times[:, 1])) / len(split) * 1e3 for name, times in in_turns(jobs, rounds).items()}
    print("steps, ms of CPU an image: " + "; ".join(f"{name} {value:.2f}" for name, value in values.items()))
    return values


def distances(split):
    """Mean absolute difference of the resized pictures, in 8-bit steps."""
    values = {"full_to_pillow": [], "reduced_to_pillow": [], "reduced_to_full": []}
    for i in range(len(split)):
        reduced = transforms.resize_short(images.read(split.images, i, SPECS["reduced"]), 256).astype(np.float32)
        full = transforms.resize_short(images.read(split.images, i, SPECS["full"]), 256).astype(np.float32)
        with Image.open(split.images.path(i)) as file:
            pillow = np.asarray(file.convert("RGB").resize(full.shape[1::-1], Image.BILINEAR), dtype=np.float32)
        for name, (a, b) in zip(values, ((full, pillow), (reduced, pillow), (reduced, full))):
            values[name].append(np.abs(a - b).mean())
    values = {name: float(np.mean(column)) for name, column in values.items()}
    print("mean distance of the resized pictures, of 255: " + ", ".join(f"{k.replace('_', ' ')} {v:.2f}"
                                                                        for k, v in values.items()))
    return values


def speed(options):
    """The loading benchmark; dict of figures."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.images or temporary
        if not options.images:
            make_pictures(folder, options.count)
        names = find_pictures(folder, options.count)
        split = Split("query", names, images=FileImages(folder, names))
        bytes_each = np.mean([os.path.getsize(split.images.path(i)) for i in range(len(split))])
        found = sorted({"x".join(map(str, split.images.size(i))) for i in range(len(split))})
        sizes = ", ".join(found[:3]) + " ..." * (len(found) > 3)
        print(f"{len(names)} files of {bytes_each / 1e3:.0f} kB, {sizes}; "
              f"median of {options.rounds} rounds", flush=True)
        figures = {"files": len(names), "sizes": sizes, "kilobytes": bytes_each / 1e3, "distance": distances(split),
                   "steps": step_times(split, options.rounds)}
        data = sides(split)
        print("one worker, file to normalised tensor:")
        figures["item"] = report(in_turns({name: lambda d=dataset: [single(d, i) for i in range(len(split))]
                                           for name, dataset in data.items()}, options.rounds), len(split))
        for workers in options.workers:
            print(f"batches of {options.batch_size}, {workers} workers: paddle.io.DataLoader with processes, "
                  f"ours with threads (their start and end included):")
            many = split.select(np.resize(np.arange(len(split)), options.loader_images))
            jobs = {name: lambda d=dataset: drain(d, options.batch_size, workers)
                    for name, dataset in sides(many).items()}
            figures[f"loader_{workers}"] = report(in_turns(jobs, options.rounds), len(many))
    return figures


# accuracy ---------------------------------------------------------------------------------------
def jpeg_split(split, folder, quality):
    """The pictures of a split, enlarged to 640 x 480, as JPEG files in ``folder``; the split that reads them."""
    names = [f"{split.name}{i:05}.jpg" for i in range(len(split))]
    for i, name in enumerate(names):
        image = cv2.resize(split.images.read(i), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        write_jpeg(os.path.join(folder, name), image, quality)
    return Split(split.name, names, labels=split.labels, images=FileImages(folder, names))


def features(backbone, split, spec, batch_size):
    """Pooled features float32 [N, D] of a split, decoded and preprocessed as ``spec`` says."""
    import paddle

    from utils.training.loader import Items, load_batches
    positions = [np.arange(start, min(start + batch_size, len(split))) for start in range(0, len(split), batch_size)]
    with paddle.no_grad():
        batches = load_batches(Items(split, spec), positions)
        return np.concatenate([backbone(batch["image0"]).numpy() for batch in batches])


def train_head(options, split, x, seed):
    """DHN's hash layer trained on features float32 [N, D] (the recipe configs/dhn/cifar10-1_frozen.yaml)."""
    import paddle

    from models import METHODS, find_method
    from models.build import build_method
    from models.method import DataFacts
    from utils.config import parse
    from utils.training.loader import cached_batches, epoch_order
    from utils.training.optim import make_optimizer
    flags = ["--config", os.path.join(os.path.dirname(__file__), "..", "configs", "dhn", "cifar10-1_frozen.yaml"),
             "--method", "dhn", "--bit", str(options.bit), "--backbone", f"precomputed:{x.shape[1]}"]
    recipe, _, _ = parse(flags, METHODS, find_method)
    paddle.seed(seed)
    method = build_method(recipe, DataFacts(len(split), split.labels.shape[1]))
    method.norm.fit(x)
    optimizer = make_optimizer(method, recipe)
    method.train()
    for epoch in range(options.epoch):
        method.start_epoch(epoch, 10)
        for batch in cached_batches(split, x, epoch_order(len(split), recipe["batch_size"], seed, epoch, False)):
            method.loss(batch)["total"].backward()
            optimizer.step()
            optimizer.clear_grad()
    method.eval()
    return method


def accuracy(options):
    """mAP with either decoding; dict of figures."""
    import paddle

    from models.backbones.build import build_backbone
    from utils.datasets import load_protocol
    from utils.retrieval.hamming import pack
    from utils.retrieval.metrics import evaluate
    if not options.data_path or not options.backbone_weights:
        raise InputError("--accuracy needs --data-path (folder with the CIFAR-10 archive) and --backbone-weights")
    protocol = load_protocol("cifar10-1", root=options.data_path)
    rng = np.random.default_rng(0)
    sizes = {"train": options.num_train, "query": options.num_query, "database": options.num_database}
    parts = {split.name: split.select(rng.permutation(len(split))[:sizes[split.name]]) for split in protocol.splits}
    print("CIFAR-10 at 640x480: " + ", ".join(f"{len(part)} {name}" for name, part in parts.items())
          + f"; {options.backbone}, DHN, {options.bit} bits, {options.epoch} epochs", flush=True)
    backbone = build_backbone(options.backbone, weights=options.backbone_weights)
    backbone.eval()
    found = {}
    for name, part in parts.items():  # one split of files at a time
        with tempfile.TemporaryDirectory() as folder:
            files = jpeg_split(part, folder, 95)
            for mode, spec in SPECS.items():
                found[mode, name] = features(backbone, files, spec, options.batch_size)

    def score(method, mode):
        """mAP of a trained head on pictures decoded as ``mode`` says."""
        with paddle.no_grad():
            codes = [pack(method.encode_features(paddle.to_tensor(found[mode, name])).numpy())
                     for name in ("query", "database")]
        return float(evaluate(*codes, parts["query"].labels, parts["database"].labels, options.bit)["mAP"])

    # trained and evaluated with one decoding; and one head on both, which leaves out the chances of training
    sides = {"full": [], "reduced": [], "reduced, head of full": []}
    for seed in range(options.seeds):
        heads = {mode: train_head(options, parts["train"], found[mode, "train"], seed) for mode in SPECS}
        for name, head, mode in zip(sides, ("full", "reduced", "full"), ("full", "reduced", "reduced")):
            sides[name].append(score(heads[head], mode))
        values = "; ".join(f"{name} {column[-1]:.4f}" for name, column in sides.items())
        print(f"seed {seed}: mAP {values}", flush=True)
    figures = {"sizes": sizes, "mAP": sides}
    for name in list(sides)[1:]:
        apart = np.subtract(sides[name], sides["full"])
        error = float(apart.std(ddof=1) / len(apart) ** 0.5) if len(apart) > 1 else float("nan")
        figures[f"{name} - full"] = {"mean": float(apart.mean()), "standard_error": error}
        print(f"{name} - full: {apart.mean():+.4f} (standard error over the seeds {error:.4f}); mean mAP of full "
              f"{np.mean(sides['full']):.4f}")
    return figures


def table(figures, workers):
    """The lines of RESULTS.md: ratios seed / side of processor and wall time."""
    columns = {"item": "one picture", **{f"loader_{n}": f"batches, {n} worker{'s' * (n != 1)}" for n in workers}}
    steps, apart = ("; ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in figures[part].items())
                    for part in ("steps", "distance"))
    return ["## Loading: `python benchmarks/bench_loader.py`\n", f"{figures['machine']}.\n",
            f"{figures['files']} JPEG files of {figures['sizes']}, {figures['kilobytes']:.0f} kB each, to float32 "
            "[3, 224, 224]; medians; ratios seed / side of processor time, of wall time.\n",
            f"| | ms of CPU, one picture | {' | '.join(columns.values())} |", "|--" * (len(columns) + 2) + "|",
            *(f"| {side} | {item['cpu_ms']:.2f} | " + " | ".join(
                f"{figures[name][side]['ratio_cpu']:.2f}, {figures[name][side]['ratio_wall']:.2f}" for name in columns)
              + " |" for side, item in figures["item"].items()),
            f"\nSteps, ms of CPU a picture: {steps}.\n", f"Mean distance of the resized pictures, of 255: {apart}."]


def plain(value):
    """Figures as JSON holds them, rounded."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    return value if isinstance(value, (str, int)) else round(float(value), 5)


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag, default, text in (("count", 64, "files"), ("rounds", 5, "measured rounds"), ("batch-size", 32, "batch"),
                                ("loader-images", 512, "images through each DataLoader"), ("bit", 48, "code length"),
                                ("num-train", 2000, "training images"), ("num-query", 200, "queries"),
                                ("num-database", 4000, "database items"), ("epoch", 40, "epochs of the hash head"),
                                ("seeds", 5, "trainings with either decoding")):
        parser.add_argument(f"--{flag}", type=int, default=default, help=f"{text} (default {default})")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2], help="worker processes (default 0 1 2)")
    parser.add_argument("--images", metavar="DIR", help="JPEG files to use; default: made for the run")
    parser.add_argument("--accuracy", action="store_true", help="compare mAP instead of speed")
    parser.add_argument("--data-path", metavar="DIR", help="folder with cifar-10-python.tar.gz")
    parser.add_argument("--backbone", default="SqueezeNet1_1", help="frozen network (default SqueezeNet1_1)")
    parser.add_argument("--backbone-weights", metavar="FILE", help="its weights")
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md (not --accuracy)")
    options = parser.parse_args(arguments)
    import paddle
    figures = {"machine": machine(threads(), paddle=paddle.__version__, OpenCV=cv2.__version__, Pillow=PIL.__version__,
                                  simplejpeg=simplejpeg.__version__, numpy=np.__version__)}
    print(figures["machine"], flush=True)
    figures.update(accuracy(options) if options.accuracy else speed(options))
    if options.json:
        write_json(options.json, plain(figures))
    if options.write and not options.accuracy:
        write_section("loader", table(figures, options.workers))


if __name__ == "__main__":
    run_main(main)
