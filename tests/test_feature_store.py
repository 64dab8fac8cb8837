"""The store of frozen features: what is found again, what is not, and what damage does."""
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.conftest import ROOT
from utils.datasets import ArrayImages, FileImages
from utils.training.feature_store import Space, image_keys
from utils.training.features import Piecewise
from utils.training.static_function import flipped_bits

SHAPE = (2, 3)
ABOUT = {"backbone": "tiny", "features": "pooled", "engine": "none"}


def rows_of(keys):
    """Some features that follow the key."""
    return np.stack([np.frombuffer(key, np.uint8)[:6].reshape(SHAPE) for key in keys]).astype("float32")


def some_keys(n, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.bytes(16) for _ in range(n)]


def test_keys_follow_the_picture(tmp_path):
    files = FileImages(str(tmp_path), ["a.jpg", "gone.jpg"])
    (tmp_path / "a.jpg").write_bytes(b"one")
    before = image_keys(files)
    assert image_keys(files) == before and before[1] is None
    assert image_keys(files, lambda i: i)[0] != before[0]
    (tmp_path / "a.jpg").write_bytes(b"three")
    assert image_keys(files)[0] != before[0]
    (tmp_path / "b").mkdir()
    os.link(tmp_path / "a.jpg", tmp_path / "b" / "a.jpg")  # same size and time, another file
    assert image_keys(FileImages(str(tmp_path / "b"), ["a.jpg"]))[0] != image_keys(files)[0]
    pixels = np.zeros((2, 3, 3, 3), "uint8")
    one, two = image_keys(ArrayImages(pixels)), image_keys(ArrayImages(pixels + 1))
    assert one[0] == one[1] and one[0] != two[0]
    assert image_keys(ArrayImages(pixels.reshape(2, 9, 1, 3)))[0] != one[0]


def test_what_was_added_is_found_by_any_order(tmp_path):
    keys = some_keys(50)
    first, second = Space(tmp_path, ABOUT), Space(tmp_path, ABOUT)
    first.add(keys[:20], rows_of(keys[:20]))
    second.add(keys[10:35], rows_of(keys[10:35]))  # two processes fill it at once, with some pictures in common
    first.refresh()
    assert first.missing(keys).tolist() == list(range(35, 50)) == Space(tmp_path, ABOUT).missing(keys).tolist()
    assert first.missing([keys[40], keys[40], keys[3], None]).tolist() == [0, 3]
    order = np.random.default_rng(1).permutation(35)
    found = first.find([keys[i] for i in order])
    assert len(found) == 35 and found.shape == (35, *SHAPE)
    want = rows_of([keys[i] for i in order])
    assert np.array_equal(found[np.array([3, 3, 30])], want[[3, 3, 30]]) and np.array_equal(found[5], want[5])
    assert np.array_equal(found[4:9], want[4:9]) and np.array_equal(np.asarray(found), want)
    pairs = np.array([3, 30, 3]), np.array([1, 0, 0])  # of each row the view that was drawn for it
    assert np.array_equal(found[pairs], want[pairs])
    assert Space(tmp_path, {**ABOUT, "engine": "other"}).missing(keys).tolist() == list(range(50))


@pytest.mark.parametrize("where", ["rows", "keys", "header", "length", "cut"])
def test_a_damaged_piece_is_said_and_computed_again(tmp_path, where):
    keys = some_keys(30)
    space = Space(tmp_path, ABOUT)
    space.add(keys, rows_of(keys))
    path = next(path for path in (tmp_path / os.listdir(tmp_path)[0]).iterdir() if path.suffix == ".safetensors")
    data = bytearray(path.read_bytes())
    header = int.from_bytes(data[:8], "little")
    place = {"rows": len(data) - 5, "keys": 8 + header + 3, "header": 20, "length": 6, "cut": 0}[where]
    data[place] ^= 0x10
    path.write_bytes(data[:-40] if where == "cut" else data)
    said = []
    again = Space(tmp_path, ABOUT, said.append)
    assert len(again.missing(keys)) == 30 and "damaged" in said[0] and not path.exists()
    again.add(keys, rows_of(keys))
    again.refresh()
    assert np.array_equal(np.asarray(again.find(keys)), rows_of(keys))


def test_flips_of_rounding_are_told_from_others():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 40)).astype("float32")
    share, far = flipped_bits(x, x * (1 + 1e-6))
    assert far == 0 and share < 1e-3
    share, far = flipped_bits(x, x + 0.1 * rng.standard_normal(x.shape))
    assert far > 0 and share > 0.005


COMMON = ["--method", "hashnet", "--dataset", "shapes", "--bit", 16, "--backbone", "ConvNet:width=4", "--no-pretrained",
          "--freeze-backbone", "--feature-norm", "standardize", "--augment", "none", "--resize-size", 40, "--crop-size",
          32, "--epoch", 1, "--device", "cpu", "--num-train", 530, "--num-query", 20, "--num-database", 600]


def test_runs_share_the_store(run, tmp_path):
    """Another length and way of selection finds all features; --feature-cache none keeps none; same result."""
    data = ["--data-path", tmp_path / "data"]
    first = run("main_single_gpu.py", *COMMON, *data, "--output-dir", tmp_path / "out" / "one")
    assert "features by oneDNN fp32" in first.stdout and "0 of 530 pictures are in" in first.stdout
    assert "530 of 600 pictures are in" in first.stdout  # the training pictures lie inside the database
    again = run("main_single_gpu.py", *COMMON, *data, "--bit", 24, "--select", "val", "--val-size", 20,
                "--output-dir", tmp_path / "out" / "two")
    assert "pictures are in" not in again.stdout
    run("main_single_gpu.py", *COMMON, *data, "--feature-cache", "none", "--output-dir", tmp_path / "none" / "one")
    assert os.listdir(tmp_path / "none") == ["one"]
    one, none = (json.loads((tmp_path / name / "one" / "result.json").read_text()) for name in ("out", "none"))
    assert one["score"] == none["score"] and one["fingerprint"] == none["fingerprint"]
    evaluated = run("main_single_gpu.py", "--eval", "--pretrained", tmp_path / "out" / "one" / "best.safetensors")
    assert "pictures are in" not in evaluated.stdout
    listed = run("-m", "utils.training.feature_store", "list", "--feature-cache", tmp_path / "out" / "feature_store")
    assert "ConvNet" in listed.stdout and "oneDNN fp32" in listed.stdout and "MB in all" in listed.stdout
    run("-m", "utils.training.feature_store", "clear", "--feature-cache", tmp_path / "out" / "feature_store")
    assert not os.listdir(tmp_path / "out" / "feature_store")


def test_an_interrupted_extraction_goes_on(tmp_path):
    """Ctrl-C in the middle: all batches that were computed are found again."""
    keys = some_keys(50)
    space = Space(tmp_path, ABOUT)
    piece = Piecewise(space, keys, 16)

    def batches():
        for start in range(0, 50, 4):
            if start == 28:
                raise KeyboardInterrupt
            yield rows_of(keys[start:start + 4])
    with pytest.raises(KeyboardInterrupt):
        try:
            for rows in batches():
                piece.take(rows)
        finally:
            piece.write()
    again = Space(tmp_path, ABOUT)
    assert again.missing(keys).tolist() == list(range(28, 50))
    assert np.array_equal(np.asarray(again.find(keys[:28])), rows_of(keys[:28]))


def test_ctrl_c_while_features_are_computed_keeps_them(run, tmp_path):
    command = [sys.executable, "main_single_gpu.py", *map(str, COMMON), "--data-path", str(tmp_path / "data"),
               "--output-dir", str(tmp_path / "out" / "one"), "--eval-batch-size", "4"]
    job = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in job.stdout:
        if "pictures are in" in line:
            break
    time.sleep(1)
    job.send_signal(signal.SIGINT)
    job.communicate(timeout=60)
    again = run("main_single_gpu.py", *COMMON, "--data-path", tmp_path / "data", "--output-dir",
                tmp_path / "out" / "one", "--overwrite", "--eval-batch-size", 4)
    known = [int(n) for n in re.findall(r"features of train: (\d+) of 530", again.stdout)]
    assert not known or known[0] > 0  # either all were computed within the second, or those that were are found


def test_bf16_is_refused_or_within_its_bound(run, tmp_path):
    done = run("main_single_gpu.py", *COMMON, "--data-path", tmp_path / "data", "--precision", "bf16", "--output-dir",
               tmp_path / "run", ok=None)
    if done.returncode:
        assert done.stderr.startswith("error: ") and "bf16" in done.stderr and not (tmp_path / "run").exists()
    else:
        assert "features by oneDNN bf16" in done.stdout
