"""A checkpoint whose bytes are not those that were written is refused, and so is a meta of other types."""
import copy
import json
import shutil

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from models.build import load_method
from models.checkpoint import open_checkpoint, open_meta
from tests.conftest import ROOT
from tests.exported import checkpoint, one_error_line
from utils.errors import InputError
from utils.training.checkpoint import load_checkpoint, save_checkpoint

BEFORE = ROOT / "tests" / "before"


def write(path, meta=None):
    rng = np.random.default_rng(0)
    save_checkpoint(path, {"model/w": rng.standard_normal((4, 3)).astype("float32"), "model/bank": np.arange(5),
                           "optimizer/w_moment": np.zeros((4, 3), "float32"), "trained_on": np.uint64([1, 2])},
                    meta or {"epoch": 3, "classes": ["猫", "b"]})


def test_every_flipped_byte_is_noticed(tmp_path):
    write(tmp_path / "c.safetensors")
    arrays, meta = load_checkpoint(tmp_path / "c.safetensors")
    data = (tmp_path / "c.safetensors").read_bytes()
    path, noticed = tmp_path / "f.safetensors", 0
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 + position % 255
        path.write_bytes(bytes(damaged))
        try:
            found, other = load_checkpoint(path)
        except InputError as error:
            noticed += 1
            assert "\n" not in str(error)
        else:  # a blank of the padding, or the like
            assert other == meta and found.keys() == arrays.keys()
            assert all(np.array_equal(found[key], arrays[key]) and found[key].dtype == arrays[key].dtype
                       for key in arrays)
    assert noticed > len(data) - 20


@pytest.mark.parametrize("change", [
    lambda arrays, texts: arrays.update({"model/w": arrays["model/w"].reshape(3, 4)}),
    lambda arrays, texts: arrays.update({"model/w": arrays["model/w"].view("int32")}),
    lambda arrays, texts: arrays.update({"model/v": arrays.pop("model/w")}),
    lambda arrays, texts: arrays.pop("trained_on"),
    lambda arrays, texts: arrays.update({"model/more": np.zeros(2)}),
    lambda arrays, texts: texts.update(meta=texts["meta"].replace("3", "4", 1)),
    lambda arrays, texts: texts.update(digests=json.dumps({key: "0" * 64 for key in arrays})),
    lambda arrays, texts: texts.pop("digest"),
    lambda arrays, texts: texts.update(format="paddledeephash-checkpoint-1"),
], ids=["shape", "type", "name", "less", "more", "meta", "digests", "no digest", "older format"])
def test_what_is_exchanged_is_noticed(tmp_path, change):
    write(tmp_path / "c.safetensors")
    with safe_open(tmp_path / "c.safetensors", framework="np") as file:
        texts, arrays = dict(file.metadata()), {key: file.get_tensor(key) for key in file.keys()}
    save_file(arrays, tmp_path / "same.safetensors", metadata=texts)
    load_checkpoint(tmp_path / "same.safetensors")
    change(arrays, texts)
    save_file(arrays, tmp_path / "other.safetensors", metadata=texts)
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(tmp_path / "other.safetensors")


def test_the_commands_refuse_a_flipped_weight(run, tmp_path_factory, shapes, tmp_path):
    path, _ = checkpoint(tmp_path_factory, shapes)
    data = bytearray(path.read_bytes())
    data[-50] ^= 64
    (tmp_path / "best.safetensors").write_bytes(bytes(data))
    for words in (["export_model.py", "--save-inference-dir", tmp_path / "model"], ["predict.py"],
                  ["main_single_gpu.py", "--eval"]):
        one_error_line(run(words[0], "--pretrained", tmp_path / "best.safetensors", *words[1:], ok=False),
                       "best.safetensors is damaged", "is not what was written")
    assert [path.name for path in tmp_path.iterdir()] == ["best.safetensors"]


def test_an_older_checkpoint_loads_with_one_note(run, tmp_path):
    shutil.copy(BEFORE / "best.safetensors", tmp_path)
    done = run("export_model.py", "--pretrained", tmp_path / "best.safetensors")
    assert done.stderr.count("would not be noticed") == 1
    assert open_meta(str(BEFORE / "latest.safetensors"))["epoch"] == 2


# the meta -----------------------------------------------------------------------------------------
WRONG = [None, True, -1, 10 ** 12, 1.5, float("nan"), "x", [], [[1]], {}, {"a": 1}]


def places(value, path=()):
    """Paths of all values in plain values."""
    yield path
    for key in value if isinstance(value, dict) else range(min(len(value), 1)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def replaced(value, path, new):
    value = copy.deepcopy(value)
    if not path:
        return new
    inside = value
    for key in path[:-1]:
        inside = inside[key]
    if new is KeyError:
        del inside[path[-1]]
    else:
        inside[path[-1]] = new
    return value


@pytest.fixture(scope="module")
def whole_run():
    """Arrays and meta of a checkpoint that training can go on from."""
    return load_checkpoint(BEFORE / "latest.safetensors")


def test_a_meta_of_other_types_is_one_line(whole_run, tmp_path):
    """Whatever stands where: the file is read as a model, or one line says what is wrong."""
    arrays, meta = whole_run
    path, outcomes = tmp_path / "c.safetensors", {"read": 0, "refused": 0}
    small = {key: value for key, value in arrays.items() if not key.startswith("optimizer/")}
    for place in places(meta):
        for new in (*WRONG, KeyError) if len(place) < 3 and place[:2] != ("protocol",) else WRONG[:3]:
            if new is KeyError and not place:
                continue
            save_checkpoint(path, {} if len(place) > 2 else small, replaced(meta, place, new))
            try:
                (open_checkpoint if len(place) > 2 else load_method)(str(path))
                outcomes["read"] += 1
            except InputError as error:
                outcomes["refused"] += 1
                assert "\n" not in str(error) and str(path) in str(error) or place[:1] == ("recipe",), (place, new)
            except MemoryError:
                assert new == 10 ** 12, (place, new)  # a size; utils.errors.run_main says so in one line
    assert outcomes["refused"] > 300 and outcomes["read"] > 50


def test_an_optimizer_state_that_does_not_fit(run, whole_run, tmp_path):
    arrays, meta = whole_run
    key = next(key for key in arrays if key.startswith("optimizer/") and arrays[key].ndim == 2)
    for change in ({key: arrays[key].T.copy()}, {key: arrays[key].astype("float64")}, {"optimizer/x": arrays[key]}):
        save_checkpoint(tmp_path / "latest.safetensors", {**arrays, **change}, meta)
        shutil.copy(BEFORE / "best.safetensors", tmp_path)
        done = run("main_single_gpu.py", "--resume", tmp_path, "--epoch", 3, "--data-path", tmp_path / "set", ok=False)
        one_error_line(done, "does not fit", next(iter(change)))
