"""encode.py against what the machine can give: the predictor alone, decoding alone, and the seed's way.

    python benchmarks/bench_bulk.py                    # 640 x 480 JPEG files, AlexNet of random weights
    python benchmarks/bench_bulk.py --cifar data/cifar10 --files 60000       # CIFAR-10 enlarged; --folder keeps them
    python benchmarks/bench_bulk.py --memory 2000 20000 --kills 20

In bfloat16 where the CPU has it. ``predictor alone`` runs on batches that lie ready in memory, ``decoding alone``
throws its batches away; both have all cores, and so has encode.py, which does both: ``bound`` is the rate at which the
two costs add up. ``the seed's way`` is that of public code: Pillow and paddle.vision.transforms, a picture at a time,
the plain predictor.
"""
import argparse
import filecmp
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import utils  # noqa: E402, F401  before Paddle

# isort: split
import cv2  # noqa: E402
import numpy as np  # noqa: E402
import paddle  # noqa: E402

from benchmarks.bench_encode import make_models, pictures  # noqa: E402
from benchmarks.measure import machine, ratio_text, used, write_section  # noqa: E402
from deploy.bulk import Job  # noqa: E402
from deploy.engines import open_model  # noqa: E402
from deploy.inference_python.encode import encode_shards, parse  # noqa: E402
from utils.cpu import threads as usable_threads  # noqa: E402
from utils.datasets import FileImages, Split, load_protocol  # noqa: E402
from utils.errors import run_main  # noqa: E402
from utils.images import DECODES  # noqa: E402
from utils.paddle_inference import fast_bf16  # noqa: E402
from utils.picture_loader import PictureLoader  # noqa: E402

COMMAND = os.path.join(ROOT, "deploy", "inference_python", "encode.py")
BATCH = 32
SEED_FILES = 48  # that the seed's way is measured on in a round


def write_files(folder, count, cifar=None):
    """JPEG files of 640 x 480: smooth random patches, or pictures of CIFAR-10."""
    os.makedirs(folder, exist_ok=True)
    rng = np.random.default_rng(3)
    known = None if cifar is None else load_protocol("cifar10-1", root=cifar).database.images
    for i in range(count):
        path = os.path.join(folder, f"{i:06}.jpg")
        if not os.path.exists(path):
            small = rng.integers(0, 256, (30, 40, 3), np.uint8)
            if known is not None:
                small = known.read(i % len(known))[..., ::-1]
            cv2.imwrite(path, cv2.resize(small, (640, 480), interpolation=cv2.INTER_CUBIC))


def command(options, model, photos, codes, *more):
    return [sys.executable, COMMAND, "--model-dir", model, "--gallery", photos, "--save-dir", codes, "--batch-size",
            str(BATCH), "--threads", str(options.threads), "--precision", options.precision, *map(str, more)]


def encode(options, model, photos, codes, *more):
    """(seconds that encode.py says, peak memory in MiB)."""
    process = subprocess.Popen(command(options, model, photos, codes, *more), stdout=subprocess.PIPE, text=True)
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"encode.py ended with status {process.returncode}")
    return float(re.search(r"Encoded \d+ images in ([\d.]+) s", said)[1]), usage.ru_maxrss / 1024


def measured(count, function):
    """float [2]: pictures a second of wall time, and of processor time."""
    before = used()
    function()
    return count / (used() - before)


def bulk(options, model, photos, codes, count):
    """As ``measured``: all that encode.py does once the model is open."""
    job = Job(parse(command(options, model, photos, codes)[2:]), say=lambda line: None)

    def work():
        encode_shards(job, range(job.count))
        job.publish()
    return measured(count, work)


def rates(options, model, photos, folder):
    """Lines about images a second, the sides in turns."""
    from paddle.vision import transforms as vision
    from PIL import Image
    names = sorted(os.listdir(photos))
    plain = open_model(model, threads=options.threads, mkldnn=False)
    encoder = open_model(model, threads=options.threads, bf16=options.precision == "bf16")
    spec = encoder.manifest["preprocess"]
    steps = vision.Compose([vision.Resize(256), vision.CenterCrop(224), vision.ToTensor(),
                            vision.Normalize(spec["mean"], spec["std"])])
    split, ready = Split("files", names, images=FileImages(photos, names)), pictures(BATCH, 224, 2)
    pieces = np.array_split(np.arange(len(names)), -(-len(names) // BATCH))
    load, calls = PictureLoader(spec, options.threads), max(1, min(len(names), 640) // BATCH)
    found = {name: [] for name in ("the seed's way", "predictor alone", "decoding alone", "bound", "encode.py")}
    for number in range(options.rounds + 1):
        some = names[:SEED_FILES]
        row = {"the seed's way": measured(len(some), lambda: [plain.encode(steps(Image.open(
            os.path.join(photos, name)).convert("RGB")).numpy()[None]) for name in some]),
            "predictor alone": measured(calls * BATCH, lambda: [encoder.encode(ready) for _ in range(calls)]),
            "decoding alone": measured(len(names), lambda: [None for _ in load(split, pieces)])}
        row["bound"] = 1 / (1 / row["predictor alone"] + 1 / row["decoding alone"])
        codes = os.path.join(folder, f"codes{number}")
        row["encode.py"] = bulk(options, model, photos, codes, len(names))
        shutil.rmtree(codes)
        if number:
            for name, value in row.items():
                found[name].append(value)
    lines = [f"{len(names)} JPEG files of 640 x 480, AlexNet 224, batch {BATCH}, {options.precision}, "
             f"{options.decode} decoding, "
             f"{options.rounds} rounds; encode.py / side.\n",
             "| | images a second | a CPU second | ratio of wall time | of CPU time |", "|--|--|--|--|--|"]
    for name, values in found.items():
        rate, ratio = np.median(values, 0), np.divide(found["encode.py"], values)
        spread = [ratio_text((np.median(column), column.min(), column.max())) for column in ratio.T]
        lines.append(f"| {name} | {rate[0]:.0f} | {rate[1]:.0f} | {' | '.join(spread)} |")
    return [*lines, ""]


def memory(options, model, photos, folder):
    """Lines about the peak memory for more and more pictures (links to the same files)."""
    names, lines = sorted(os.listdir(photos)), ["| pictures | peak memory, MiB |", "|--|--|"]
    for count in options.memory:
        place, codes = os.path.join(folder, f"links{count}"), os.path.join(folder, f"codes-{count}")
        os.makedirs(place)
        for i in range(count):
            os.symlink(os.path.join(os.path.abspath(photos), names[i % len(names)]), os.path.join(place, f"{i:07}.jpg"))
        lines.append(f"| {count} | {encode(options, model, place, codes, '--shard-size', 1000)[1]:.0f} |")
        shutil.rmtree(place)
    return [*lines, ""]


def kills(options, model, photos, folder):
    """A line about runs that were killed at random moments and end with the same bytes."""
    wanted, codes, rng, done = os.path.join(folder, "wanted"), os.path.join(folder, "killed"), random.Random(0), 0
    more = ["--shard-size", max(1, options.files // (2 * options.kills))]
    usual = encode(options, model, photos, wanted, *more)[0]
    while done < options.kills:
        process = subprocess.Popen(command(options, model, photos, codes, *more), stdout=subprocess.PIPE)
        process.stdout.readline()  # the model is open
        try:
            process.wait(rng.uniform(0, 2 * usual / options.kills))
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
        finally:
            process.stdout.close()
    encode(options, model, photos, codes, *more)
    names = sorted(os.listdir(wanted))
    if names != sorted(os.listdir(codes)) or filecmp.cmpfiles(wanted, codes, names, shallow=False)[0] != names:
        raise SystemExit("the bytes differ after kills")
    return [f"Killed {done} times at random moments and run again: {len(names)} files, the same bytes.", ""]


def main(argv):
    """Measure, print, and write a section of RESULTS.md: ``bulk encoding``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000, help="JPEG files (default 2000)")
    parser.add_argument("--cifar", help="folder of the CIFAR-10 archive, in place of random patches")
    parser.add_argument("--folder", help="keep the files here")
    parser.add_argument("--threads", type=int, default=usable_threads(), help="math threads, and decoding threads")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16" if fast_bf16() else "fp32")
    parser.add_argument("--decode", choices=DECODES, default="full", help="decoding of the model (default full)")
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds (default 3)")
    parser.add_argument("--memory", type=int, nargs="*", default=[2000, 20000], help="numbers of pictures")
    parser.add_argument("--kills", type=int, default=10, help="kills of the last part (default 10)")
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md")
    options = parser.parse_args(argv)
    paddle.base.core.set_num_threads(options.threads)
    lines = [f"## Bulk encoding: `{' '.join(['python benchmarks/bench_bulk.py', *argv])}`\n",
             f"{machine(options.threads, paddle=paddle.__version__)}; medians (lowest to highest).\n"]
    with tempfile.TemporaryDirectory() as folder:
        photos = options.folder or os.path.join(folder, "photos")
        write_files(photos, options.files, options.cifar)
        make_models(folder, False, options.decode)
        model = os.path.join(folder, "model")
        lines += rates(options, model, photos, folder) if options.rounds else []
        lines += memory(options, model, photos, folder) if options.memory else []
        lines += kills(options, model, photos, folder) if options.kills else []
    print("\n".join(lines))
    if options.write:
        write_section("bulk encoding" if options.decode == "full" else "bulk encoding, reduced decoding", lines)


if __name__ == "__main__":
    run_main(main)
