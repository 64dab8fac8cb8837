"""Post-training quantisation: an exported model with 8-bit convolutions, for Paddle Inference on CPUs.

    python export_model.py --pretrained output/run/best.safetensors --format pdmodel --save-inference-dir output/model
    python deploy/slim/quantize.py --model-dir output/model --save-dir output/int8

Calibrated on pictures of the training split. The folder is used like any model folder (infer.py --model-dir
output/int8); its fingerprint is its own: 8-bit codes are not mixed with those of the float model. The text graph of a
cross-modal model stays in float: it is small.
"""
import hashlib
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, ROOT)

import numpy as np  # noqa: E402  (needs the path above)

from deploy.compare import DATA_FLAGS  # noqa: E402
from deploy.data import Data  # noqa: E402
from deploy.differences import accepted  # noqa: E402
from deploy.model_folder import TRAINED_ON, copy_files, float_export, graph_files, new_folder, write_manifest  # noqa: E402
from deploy.slim.ptq_worker import OPERATORS  # noqa: E402
from utils.errors import InputError, run_main  # noqa: E402
from utils.files import sha256_file  # noqa: E402
from utils.flags import quiet, read_options  # noqa: E402
from utils.picture_loader import PictureLoader  # noqa: E402
from utils.settings import Setting  # noqa: E402

ALGORITHMS = ("hist", "KL", "avg", "mse", "abs_max")
# oneDNN's names of what each word of --ops stands for, after its own fusions
KERNELS = {"conv": ["conv2d", "depthwise_conv2d", "fused_conv2d"], "fc": ["fc"], "matmul": ["matmul", "fused_matmul"]}


def operators(value):
    """``conv,fc`` -> list of names."""
    names = str(value).split(",")
    if not set(names) <= set(OPERATORS):
        raise ValueError(f"names of {', '.join(OPERATORS)} with commas between")
    return names


FLAGS = {
    "model_dir": Setting(None, "folder that export_model.py wrote, with a .pdmodel graph", shown="DIR"),
    "save_dir": Setting(None, "where to write; default: the model folder's name with -int8", shown="DIR"),
    "images": Setting(64, "training pictures to calibrate on", low=1),
    "algo": Setting("hist", "how ranges of activations are found; hist: 99.999% of the values", choices=ALGORITHMS),
    "ops": Setting("conv", f"what to quantise, of {','.join(OPERATORS)} (conv: convolutions)", kind=operators),
    "max_flips": Setting(0.2, "write nothing where more than this share of the bits differs from the float codes",
                         low=0, high=1),
    "calibration_seed": Setting(0, "which training pictures", low=0),
    "check": Setting(False, "only say whether this Paddle can: `ready: ...` or `missing: ...`"),
    **DATA_FLAGS,
}


def parse(argv):
    """The command line as attributes, see FLAGS."""
    return read_options(argv, "quantize.py", "Exported model to 8 bits.", FLAGS)


def packages():
    """``ready: version``, or ``missing: what``."""
    import paddle
    core = getattr(paddle, "base", paddle).core
    built = [getattr(core, name)() for name in ("is_compiled_with_onednn", "is_compiled_with_mkldnn")
             if hasattr(core, name)]
    if any(built):
        return f"ready: Paddle {paddle.__version__} with oneDNN"
    return f"missing: Paddle {paddle.__version__} is built without oneDNN, whose 8-bit kernels the model needs"


def calibration(manifest, options):
    """Preprocessed training pictures float32 [n, 3, crop, crop], chosen by the seed.

    Raises:
        InputError: no pictures in the training split, or none of them can be read.
    """
    split = Data(manifest, options.dataset, options.data_path, options.list_dir, options.split_seed).protocol.train
    if split.images is None:
        raise InputError(f"the {split.name} split has no pictures to calibrate on; choose another --dataset")
    rng = np.random.default_rng(options.calibration_seed)
    chosen = np.sort(rng.permutation(len(split))[:options.images])
    load = PictureLoader(manifest["preprocess"], options.workers)
    found = [images for _, images, _ in load(split, np.array_split(chosen, -(-len(chosen) // 16)))
             if images is not None]
    if not found:
        raise InputError("no picture of the training split can be read; choose another --dataset")
    return np.concatenate(found)


def quantize(options):
    """Quantise as the flags say; an earlier model in the folder is replaced only by a checked one.

    Returns:
        The lines that the comparison with the float model printed.

    Raises:
        InputError: no such model, one that cannot be quantised, no training pictures, too many flipped bits, or a
            folder that cannot be written; then nothing is left behind.
    """
    manifest = float_export(options.model_dir)
    stem, ending = os.path.splitext(graph_files(options.model_dir, manifest, manifest["image"]["prefix"])[0])
    if len(manifest["image"]["input"]) != 3:
        raise InputError(f"{options.model_dir} reads feature vectors: there is no network to quantise")
    if ending != ".pdmodel":
        raise InputError(f"{stem}.pdmodel is missing: Paddle quantises graphs of that form only; export the model with "
                         "export_model.py --format pdmodel")
    images = calibration(manifest, options)
    with new_folder(options.save_dir, options.model_dir) as temporary:
        with tempfile.TemporaryDirectory() as scratch:
            np.save(os.path.join(scratch, "images.npy"), images)
            run_worker(stem, os.path.join(scratch, "images.npy"), temporary, options)
        others = {name for name in manifest["files"] if not name.startswith(manifest["image"]["prefix"] + ".")}
        copy_files(options.model_dir, temporary, others - {TRAINED_ON})  # the text side, as it is
        own = fingerprint(manifest, temporary)
        copy_files(options.model_dir, temporary, others & {TRAINED_ON})
        write_manifest(temporary, {
            **manifest, "fingerprint": own, "made_of": manifest["fingerprint"],
            "precision": "int8", "int8": {"kernels": sorted(k for word in options.ops for k in KERNELS[word]),
                                          "algo": options.algo, "images": len(images)}})
        return check(temporary, options)


def run_worker(stem, images, folder, options):
    """ptq_worker.py in a process of its own."""
    worker = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ptq_worker.py")
    done = subprocess.run([sys.executable, worker, os.path.abspath(stem), images, folder, options.algo,
                           ",".join(options.ops)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip()] or ["no output"]
        telling = [line for line in lines if "Error" in line] or lines
        raise InputError(f"Paddle's quantisation failed on {stem}.pdmodel (status {done.returncode}): "
                         f"{' '.join(telling[-1].split())[:300]}")


def fingerprint(manifest, folder):
    """16 hex digits of the float model's fingerprint and of the quantised files."""
    digest = hashlib.sha256(manifest["fingerprint"].encode())
    for name in sorted(os.listdir(folder)):
        digest.update(f"{name}{sha256_file(os.path.join(folder, name))}".encode())
    return digest.hexdigest()[:16]


def check(folder, options):
    """The int8 model against the float one on oneDNN; lines to print."""
    command = ["--mkldnn", "--max-flips", str(options.max_flips)]
    for name in ("dataset", "data_path", "list_dir", "split_seed", "batch_size", "workers", "threads"):
        if getattr(options, name) is not None:
            command += [f"--{name}", str(getattr(options, name))]
    return accepted(options.model_dir, folder, command, "quantised",
                    lambda status, said: f"Paddle Inference ended with status {status}")


def main(argv):
    """Quantize a model folder to int8; with --check only say which packages do it.

    Raises:
        InputError: no folder is given, packages are missing, or the int8 model is refused.
    """
    options = parse(argv)
    if options.check:
        quiet()
        print(packages())
        return
    if not options.model_dir:
        raise InputError("--model-dir DIR is missing (the folder that export_model.py wrote)")
    quiet()
    options.save_dir = options.save_dir or options.model_dir.rstrip("/") + "-int8"
    for line in quantize(options):
        print(line)
    print(f"----- int8 model is saved in {options.save_dir}")


if __name__ == "__main__":
    run_main(main)
