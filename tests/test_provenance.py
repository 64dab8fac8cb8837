"""What a result says of itself: the split it was trained on, the code it came from, codes that have collapsed."""
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models import METHODS
from tests.conftest import ROOT, SHAPES_SIZES
from utils.datasets import load_protocol
from utils.datasets.trained_on import MOST, compare, id_hashes, note, remember
from utils.retrieval.codes import collapse, running_together
from utils.retrieval.hamming import pack
from utils.training.checkpoint import load_checkpoint, save_checkpoint

TINY = ["--bit", 8, "--backbone", "ConvNet:width=4", "--no-pretrained", "--resize-size", 36, "--crop-size", 32,
        "--batch-size", 8, "--device", "cpu", "--no-visualdl"]
SIZES = [f"--{key.replace('_', '-')}={value}" for key, value in SHAPES_SIZES.items()]


def result(folder):
    return json.loads((folder / "result.json").read_text())


# the split ----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with two classes of twelve pictures."""
    root, rng = tmp_path_factory.mktemp("own") / "pics", np.random.default_rng(0)
    for i in range(24):
        (root / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), "uint8")).save(root / f"class{i % 2}" / f"{i:02}.png")
    return root


@pytest.fixture(scope="module")
def trained(run, pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    run("main_single_gpu.py", *TINY, "--dataset", pictures, "--num-query", 6, "--epoch", 1, "--output-dir", folder)
    return folder


def evaluate(run, trained, folder, *more):
    return run("main_single_gpu.py", "--eval", "--pretrained", trained / "best.safetensors", "--device", "cpu",
               "--output-dir", folder, *more), result(folder)


def test_the_split_of_the_training_needs_no_word(run, trained, tmp_path):
    done, found = evaluate(run, trained, tmp_path)
    assert "of the training run" not in done.stdout
    assert found["split_of_training"] == {"same_data": True, "differs": [], "queries": 6, "queries_trained_on": 0}
    assert result(trained)["split_of_training"] is None


def test_a_folder_that_has_gained_a_picture(run, trained, pictures, tmp_path):
    more = tmp_path / "pics"
    shutil.copytree(pictures, more)
    Image.fromarray(np.zeros((40, 40, 3), "uint8")).save(more / "class0" / "000.png")
    done, found = evaluate(run, trained, tmp_path / "out", "--dataset", more, "--num-query", 6)
    split = found["split_of_training"]
    before = {picture for picture in load_names(trained)}
    assert set(split["differs"]) == {"train", "query", "database"} and 0 < split["queries_trained_on"] <= 6
    words = f"{split['queries_trained_on']} of 6 queries were training items"
    assert len(before) == 18 and done.stdout.count(words) == 1
    assert words in (tmp_path / "out" / "train.log").read_text()
    # weights that go on to be trained elsewhere have seen both
    run("main_single_gpu.py", *TINY, "--pretrained", trained, "--dataset", more, "--num-query", 6, "--epoch", 1,
        "--output-dir", tmp_path / "on")
    assert len(load_names(tmp_path / "on")) > 19


def test_an_exported_model_knows_it_too(run, trained, pictures, tmp_path):
    model, infer = tmp_path / "model", "deploy/inference_python/infer.py"
    run("export_model.py", "--pretrained", trained, "--save-inference-dir", model)
    assert set(np.load(model / "trained_on.npy").tolist()) == load_names(trained)
    call = (infer, "--model-dir", model, "--evaluate", "--threads", 1, "--batch-size", 8)
    assert "of the training run" not in run(*call, "--save-path", tmp_path / "same").stdout
    more = tmp_path / "pics"
    shutil.copytree(pictures, more)
    Image.fromarray(np.zeros((40, 40, 3), "uint8")).save(more / "class0" / "000.png")
    done = run(*call, "--save-path", tmp_path / "out", "--data-path", more)
    queries = {path for path in load_protocol(str(pictures), root=str(more), num_query=6).query.ids}
    known = len(load_names(trained) & set(id_hashes(queries).tolist()))
    words = f"query and database splits are not that of the training run; {known} of 6 queries were training items"
    assert 0 < known and done.stdout.count(words) == 1 and "mAP@all" in done.stdout


def load_names(folder):
    return set(load_checkpoint(folder / "best.safetensors")[0]["trained_on"].tolist())


def test_an_older_checkpoint_says_that_it_does_not_know(run, trained, tmp_path):
    tensors, meta = load_checkpoint(trained / "best.safetensors")
    del tensors["trained_on"]
    save_checkpoint(tmp_path / "best.safetensors", tensors, meta)
    done, found = evaluate(run, tmp_path, tmp_path / "out", "--split-seed", 5)
    assert found["split_of_training"]["queries_trained_on"] is None and "is not known" in done.stdout


class Data:
    """Stands for a Protocol."""

    def __init__(self, name, query):
        self.name, self.query = name, type("Split", (list,), {"ids": query})(query)

    def record(self):
        return {"name": self.name, "sha256": {"query": str(self.query)}}


@given(st.lists(st.text(), unique=True, max_size=30), st.lists(st.text(), unique=True, max_size=30))
def test_queries_that_were_trained_on_are_counted(trained_ids, query_ids):
    data = Data("pics", query_ids)
    known = {"name": "pics", "sha256": {"query": "another"}}
    found = compare(known, remember(trained_ids), data)
    assert found["queries_trained_on"] == len(set(trained_ids) & set(query_ids))
    assert note(found) and (", so the figures flatter" in note(found)) == bool(found["queries_trained_on"])
    assert note(compare(data.record(), remember(trained_ids), data)) is None
    # another data set is meant: only names that occur in both are worth a word
    other = note(compare({**known, "name": "else"}, remember(trained_ids), data))
    assert bool(other) == bool(found["queries_trained_on"])


def test_too_many_ids_are_not_kept():
    class Many(list):
        def __len__(self):
            return MOST + 1
    assert remember(Many()) is None and len(id_hashes(["a", "\udcff", "a"])) == 3


# the code -----------------------------------------------------------------------------------------
def test_code_that_git_does_not_know_is_a_change(tmp_path):
    def git(*words):
        return subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True,
                              capture_output=True, text=True).stdout.strip()

    def commit():
        code = "from utils.training.result import git_commit; print(git_commit())"
        return subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True,
                              text=True).stdout.strip()
    shutil.copytree(ROOT / "utils", tmp_path / "utils", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "models").mkdir()
    (tmp_path / ".gitignore").write_text("__pycache__/\n")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "all")
    head = git("rev-parse", "HEAD")
    assert commit() == head
    (tmp_path / "notes.txt").write_text("no code")
    assert commit() == head
    for name in ("models/six.py", "own_main.py", "configs/six/shapes.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("# new")
        assert commit() == head + "+changes", name
        (tmp_path / name).unlink()
    assert commit() == head


# codes that have collapsed --------------------------------------------------------------------------
def codes(*groups):
    """Packed 16-bit codes: group i holds so many items with code i."""
    bits = np.unpackbits(np.arange(len(groups), dtype=">u2").view("uint8").reshape(-1, 2), axis=1)
    return pack(np.repeat(bits, groups, axis=0).astype("float32") - 0.5)


@pytest.mark.parametrize("groups, classes, words", [
    ((50,), 0, "all 50 items share one code"), ((2,), 2, "all 2 items"), ((1,), 0, None), ((1, 1), 0, None),
    ((996, 1, 1, 1, 1), 0, "996 of 1000"), ((990, 10), 0, None), ((3000, 3000, 3000), 0, "only 3 different"),
    ((3000, 3000, 3000), 3, None), ((3000, 3000, 3000), 4, "only 3 different"), ([1] * 1000, 0, None)])
def test_collapse(groups, classes, words):
    said = collapse(codes(*groups), classes)
    assert said is None if words is None else words in said


def test_a_run_whose_codes_say_nothing_warns(run, tmp_path):
    np.savez(tmp_path / "f.npz", image=np.ones((40, 8), "float32"), label=np.eye(4, dtype="uint8")[np.arange(40) % 4])
    done = run("main_single_gpu.py", "--bit", 8, "--dataset", tmp_path / "f.npz", "--num-query", 8, "--epoch", 2,
               "--eval-epoch", 1, "--feature-norm", "none", "--device", "cpu", "--no-visualdl", "--output-dir",
               tmp_path / "run")
    found, words = result(tmp_path / "run"), "image codes: all 32 items share one code"
    assert [words in line for line in found["warnings"]] == [True]
    assert done.stdout.count(f"warning: {words}") == 3  # after each epoch, and at the end
    done = run("main_single_gpu.py", "--bit", 8, "--dataset", tmp_path / "f.npz", "--num-query", 8, "--epoch", 3,
               "--eval-epoch", 3, "--feature-norm", "none", "--device", "cpu", "--no-visualdl", "--output-dir",
               tmp_path / "early")
    early = "warning: 8 of 8 bits are the same for all of 32 training images"
    assert re.findall(rf"epoch: \[(\d)/3\], {early}", " ".join(done.stdout.split())) == ["1", "2"]


@pytest.mark.parametrize("constant, items, warns", [(4, 16, False), (5, 16, True), (8, 15, False), (0, 64, False)])
def test_codes_about_to_collapse(constant, items, warns):
    signs = np.where((np.arange(items) % 2)[:, None], 1.0, -1.0).repeat(8, axis=1)
    signs[:, :constant] = 1
    assert bool(running_together(pack(signs), 8)) == warns


# what starts anew, what cannot start ----------------------------------------------------------------
def test_training_state_that_starts_anew_is_named(run, shapes, tmp_path):
    for name, method in METHODS.items():
        if not method.training_state or method.modalities != ("image",):
            continue
        common = ["--method", name, "--data-path", shapes, *SIZES, "--epoch", 1]
        done = run("main_single_gpu.py", *TINY, *common, "--output-dir", tmp_path / name)
        assert "starts anew" not in done.stdout
        latest, best = (load_checkpoint(tmp_path / name / f"{part}.safetensors")[0] for part in ("latest", "best"))
        if all(key in best for key in latest if key.startswith("model/")):  # these settings keep nothing
            continue
        for best in ("best.safetensors", "latest.safetensors"):
            done = run("main_single_gpu.py", *TINY, *common, "--pretrained", tmp_path / name / best, "--output-dir",
                       tmp_path / name / best[:4])
            assert f"({method.training_state[0].rstrip('.')}" in done.stdout and "starts anew" in done.stdout
        return
    raise AssertionError("no method has training state")


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.views > 1])
def test_several_views_of_one_picture_are_needed(run, shapes, tmp_path, name):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "f.npz", image=rng.random((40, 8), "float32"), label=rng.integers(0, 2, (40, 3)))
    for wrong in (["--dataset", tmp_path / "f.npz"],
                  ["--data-path", shapes, *SIZES, "--freeze-backbone", "--augment", "none"],
                  ["--data-path", shapes, *SIZES, "--augment", "none"]):
        done = run("main_single_gpu.py", *TINY, "--method", name, *wrong, "--epoch", 1, "--output-dir",
                   tmp_path / "out", ok=False)
        assert done.returncode == 2 and "views of each picture" in done.stderr and done.stderr.count("\n") == 1
        assert not (tmp_path / "out").exists()
