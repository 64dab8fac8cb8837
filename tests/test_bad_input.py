"""Bad input through the commands: one clear line, a non-zero status, nothing half-written."""
import os
import resource
import shutil
import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT, SHAPES_SIZES
from tests.test_train import one_line
from utils.training.checkpoint import load_checkpoint

SIZES = [f"--{key.replace('_', '-')}={value}" for key, value in SHAPES_SIZES.items()]
TINY = ["--backbone", "ConvNet:width=4", "--no-pretrained", "--resize-size", 36, "--crop-size", 32, "--batch-size", 16,
        "--epoch", 1, "--device", "cpu", "--no-visualdl"]


@pytest.fixture(scope="module")
def train(run):
    def call(*more, script="main_single_gpu.py", **kwargs):
        return run(script, "--method", "hashnet", "--bit", 12, *TINY, *more, **kwargs)
    return call


@pytest.fixture(scope="module")
def folder(shapes, tmp_path_factory):
    """A folder of image lists of its own, to be damaged."""
    copy = tmp_path_factory.mktemp("lists") / "mine"
    shutil.copytree(next(path for path in shapes.iterdir() if path.is_dir()), copy)
    return copy


@pytest.fixture(scope="module")
def model(train, folder, tmp_path_factory):
    """A run on that folder."""
    output = tmp_path_factory.mktemp("model")
    train("--dataset", folder, "--output-dir", output)
    return output


class Changed:
    """A file with other bytes inside a ``with`` block."""

    def __init__(self, path, change):
        self.path, self.change, self.kept = path, change, path.read_bytes()

    def __enter__(self):
        self.path.write_bytes(self.change(self.kept))

    def __exit__(self, *_):
        self.path.write_bytes(self.kept)


def first_image(folder, name):
    return (folder / name).read_text().split("\n")[0].split()[0]


def test_lists_and_folders(train, folder, tmp_path):
    out = tmp_path / "out"
    with Changed(folder / "database.txt", lambda data: data.replace(b" 0\n", b"\n", 1)):
        one_line(train("--dataset", folder, "--output-dir", out, ok=False), "database.txt:", "labels where", "expected")
    with Changed(folder / "query.txt", lambda data: b"\n"):
        one_line(train("--dataset", folder, "--output-dir", out, ok=False), "query.txt", "empty")
    one_line(train("--dataset", folder, "--data-path", tmp_path / "nowhere", "--output-dir", out, ok=False), "nowhere",
             "does not exist")
    one_line(train("--dataset", "shaps", "--output-dir", out, ok=False), "shaps", "shapes")
    assert not out.exists()


@pytest.mark.parametrize("script", ["main_single_gpu.py", "main_multi_gpu.py"])
def test_a_broken_image_ends_the_job_and_is_named(train, folder, tmp_path, script):
    name = first_image(folder, "train.txt")
    with Changed(folder / name, lambda data: data[:len(data) // 2]):
        done = train("--dataset", folder, "--output-dir", tmp_path / "out", "--num-workers", 1, script=script, ok=False)
        one_line(done, os.path.basename(name), "truncated")
    assert not (tmp_path / "out" / "latest.safetensors").exists()


def test_settings_are_seen_before_anything_is_written(train, folder, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "file").write_text("")
    for more, words in [(["--bit", 0], ["1 to 1024"]), (["--bit", 1025], ["1 to 1024"]),
                        (["--batch-size", 65, "--drop-last"], ["--batch-size"]),
                        (["--device", "tpu"], ["device", "auto, cpu"]),
                        (["--backbone", "precomputed:8"], ["pictures"]),
                        (["--resume", "a", "--pretrained", "b"], ["--resume", "--pretrained"]),
                        (["--nprocs", 2], ["main_multi_gpu.py"])]:
        one_line(train("--dataset", folder, "--output-dir", out, *more, ok=False), *words)
    one_line(train("--dataset", folder, "--output-dir", tmp_path / "file", ok=False), "file", "--output-dir")
    one_line(train("--device", "tpu", "--output-dir", out, script="main_multi_gpu.py", ok=False), "device")
    one_line(train("--port", 65535, "--output-dir", out, script="main_multi_gpu.py", ok=False), "65535")
    assert not out.exists() and (tmp_path / "file").read_text() == ""


def test_weights_of_something_else(train, run, folder, model, tmp_path):
    best, out = model / "best.safetensors", tmp_path / "out"
    at = ["--dataset", folder, "--output-dir", out]
    other = ["--backbone", "SqueezeNet1_1", "--pretrained-backbone", "true", "--backbone-weights"]
    one_line(train(*at, *other, tmp_path / "none.pdparams", ok=False), "none.pdparams")
    one_line(train(*at, *other, best, ok=False), "best.safetensors")
    one_line(train(*at, "--pretrained", tmp_path / "none.safetensors", ok=False), "none.safetensors")
    one_line(train(*at, "--pretrained", best, "--bit", 16, ok=False), "does not fit", "12")
    one_line(train(*at, "--pretrained", best, "--method", "nsh", ok=False), "does not fit")
    for more in (["--bit", 16], ["--method", "dhn"]):
        one_line(run("export_model.py", "--pretrained", best, *more, "--save-inference-dir", out, ok=False), *more)
    assert not out.exists()


def test_codes_of_other_weights(train, run, folder, model, tmp_path):
    train("--dataset", folder, "--seed", 1, "--output-dir", tmp_path / "other")
    one_line(run("predict.py", "--pretrained", model / "best.safetensors", "--code-file",
                 tmp_path / "other" / "database_hashnet_12.npz", "--save-path", tmp_path / "found", ok=False),
             "database_hashnet_12.npz")
    assert not (tmp_path / "found").exists()


def test_resume_on_other_data(train, run, folder, model):
    before = (model / "recipe.yaml").read_bytes()
    with Changed(folder / "train.txt", lambda data: data.split(b"\n", 1)[1]):
        one_line(run("main_single_gpu.py", "--resume", model / "latest.safetensors", "--epoch", 2, ok=False),
                 "other images")
    assert (model / "recipe.yaml").read_bytes() == before
    assert load_checkpoint(model / "latest.safetensors")[1]["epoch"] == 1


@pytest.mark.parametrize("limit", [300, 20_000])
def test_a_full_disk(shapes, folder, tmp_path, limit):
    """A file size limit refuses writes in the middle, as a full disk does: of train.log, and of the checkpoint."""
    def full():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    command = [sys.executable, "main_single_gpu.py", "--method", "hashnet", "--bit", 64, *TINY, "--dataset", folder,
               "--output-dir", tmp_path / "out"]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, preexec_fn=full, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 2
    one_line(done, "cannot write", "free some space")
    assert set(os.listdir(tmp_path / "out")) <= {".lock", "train.log", "recipe.yaml"}
