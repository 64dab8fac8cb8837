"""Every recipe in configs/ trains, evaluates and writes its result through the command that a user types.

The data are small and in the right form (small_data.py); the network is small, for its weights are not at hand. All
else is the recipe's. One recipe a method runs always, all of them with -m slow.
"""
import json
import pathlib

import pytest
import yaml

from models import METHODS
from tests import small_data

CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs"


def cases():
    """(path, data set) of every recipe and every set that it serves; all but the first of a method are slow."""
    found = []
    for name in METHODS:
        paths = sorted((CONFIGS / name).glob("*.yaml"), key=lambda path: (path.stem != "shapes", path.stem))
        for path in paths:
            recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
            own = path.stem in ("default", "features")
            for dataset in [None] if own else recipe.get("datasets") or [recipe["dataset"]]:
                first = path == paths[0]
                found.append(pytest.param(path, dataset, id=f"{name}-{path.stem}-{dataset}",
                                          marks=() if first else pytest.mark.slow))
    return found


def test_every_method_has_recipes():
    assert {path.name for path in CONFIGS.iterdir()} == set(METHODS)
    assert all((CONFIGS / name / "shapes.yaml").is_file() and (CONFIGS / name / "default.yaml").is_file()
               for name in METHODS)


@pytest.mark.parametrize("path, dataset", cases())
def test_recipe_runs(path, dataset, run, tmp_path):
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    method = METHODS[recipe["method"]]
    (tmp_path / "data").mkdir()
    data = small_data.flags(dataset, tmp_path / "data", method.modalities)
    small = ["--backbone", "ConvNet:width=4", "--no-pretrained", "--resize-size", 48, "--crop-size", 40]
    if data[0] == "--dataset" and str(data[1]).endswith(".npz"):
        small = []
    if dataset is not None:
        small += ["--dataset", dataset]
    if recipe.get("cached_views"):
        small += ["--cached-views", method.views]
    small += [word for key, value in method.small.items() for word in (f"--{key.replace('_', '-')}", value)]
    epochs = int(recipe.get("warmup_epochs", 0)) + 1  # a warm-up is shorter than the training
    run("main_single_gpu.py", "--config", path, *data, *small, "--bit", 16, "--batch-size", 16, "--epoch", epochs,
        "--output-dir", tmp_path / "run", "--device", "cpu")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["recipe"]["method"] == method.name and result["score"] is not None and 0 < result["score"] <= 1
    assert result["recipe_source"] == str(path)
