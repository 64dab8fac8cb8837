"""Sound files to damage and runs to kill: what the public commands write for a tiny cross-modal model."""
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENVIRONMENT = {"GLOG_v": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
SIZES = ["--num-train", "64", "--num-database", "160", "--num-query", "16"]
NETWORK = ["--bit", "12", "--backbone", "ConvNet:width=4", "--no-pretrained", "--resize-size", "36", "--crop-size",
           "32", "--freeze-backbone", "--device", "cpu", "--no-visualdl"]


def command(*words):
    """The words of a command of the project, for subprocess."""
    return [sys.executable, *map(str, words)]


def run(*words, ok=(0,), seconds=600):
    """Run a command to its end; returns the CompletedProcess. RuntimeError for another exit status."""
    done = subprocess.run(command(*words), cwd=ROOT, env={**os.environ, **ENVIRONMENT}, text=True, timeout=seconds,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, errors="replace")
    if done.returncode not in ok:
        raise RuntimeError(f"exit status {done.returncode}: {' '.join(done.args)}\n{done.stdout[-2000:]}"
                           f"\n{done.stderr[-2000:]}")
    return done


def training(folder, out, *more, method="djsrh", batch=16):
    """Words of a training on the shapes set of the material in ``folder``."""
    small = ["--text-hidden", "16"] if method == "djsrh" else []
    return ["main_single_gpu.py", "--method", method, "--dataset", "shapes", "--data-path", folder / "shapes", *SIZES,
            *NETWORK, "--batch-size", batch, *small, "--output-dir", out, *more]


def make(folder):
    """Write ``shapes`` (pictures), ``run`` (of two epochs), ``feature_store``, ``model`` and ``pdmodel`` (exports).

    Nothing is done where that has been done to its end.
    """
    if (folder / "pdmodel" / "inference.yml").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    run(*training(folder, folder / "run", "--epoch", 2, "--eval-epoch", 2))
    for name, form in (("model", "auto"), ("pdmodel", "pdmodel")):
        run("export_model.py", "--pretrained", folder / "run", "--save-inference-dir", folder / name, "--format", form)
