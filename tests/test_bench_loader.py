"""The loading benchmark in a small size: what it prints and writes is there and sane. No times are judged."""
import json

import cv2
import numpy as np
import pytest

from benchmarks import bench_loader
from utils.datasets import Split
from utils.datasets.base import FileImages
from utils.errors import InputError

SIDES = {"seed", "seed_array", "full", "reduced"}


def test_small_run_on_its_own_files(run, tmp_path):
    path = tmp_path / "figures.json"
    done = run("benchmarks/bench_loader.py", "--count", "2", "--rounds", "1", "--loader-images", "4", "--batch-size",
               "2", "--workers", "1", "--json", str(path))
    figures = json.loads(path.read_text())
    assert set(figures["item"]) == set(figures["loader_1"]) == SIDES and figures["files"] == 2
    assert all(side["cpu_ms"] > 0 and side["wall_ms"] > 0 for side in figures["item"].values())
    assert figures["item"]["seed"]["ratio_cpu"] == 1
    assert 0 < figures["distance"]["reduced_to_full"] < 1.5  # other pixels, and near: reduced decoding did happen
    assert "640x480" in done.stdout and "simplejpeg" in done.stdout


def test_files_of_a_folder_are_used(tmp_path):
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.jpg"), np.full((300, 310, 3), 90 * number, np.uint8))
    (tmp_path / "notes.txt").write_text("no picture")
    assert bench_loader.find_pictures(str(tmp_path), 2) == ["0.jpg", "1.jpg"]
    with pytest.raises(InputError, match="gone: no such folder"):
        bench_loader.main(["--images", str(tmp_path / "gone")])
    with pytest.raises(InputError, match="--data-path"):
        bench_loader.main(["--accuracy"])


def test_all_sides_give_the_centre_of_the_picture(tmp_path):
    """What is compared with does the same work as ours: near inputs of the same shape from every side."""
    bench_loader.make_pictures(str(tmp_path), 1)
    data = bench_loader.sides(Split("query", ["00000.jpg"], images=FileImages(str(tmp_path), ["00000.jpg"])))
    values = {name: np.asarray(bench_loader.single(dataset, 0)) for name, dataset in data.items()}
    assert set(values) == SIDES and all(bench_loader.drain(dataset, 1, 0) == 1 for dataset in data.values())
    for value in values.values():
        assert value.shape == (3, 224, 224) and value.dtype == np.float32
        assert np.abs(value - values["full"]).mean() * 255 * 0.225 < 2.5
    assert np.abs(values["seed"] - values["seed_array"]).max() < 1e-4
    assert 0 < np.abs(values["reduced"] - values["full"]).mean()
