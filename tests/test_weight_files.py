"""Weight files: every format read without executing it, the network inside found or asked for."""
import argparse
import collections
import functools
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import paddle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from models.backbones.weight_files import read_weights
from tests.torch_format import write_torch
from utils.errors import InputError


def some_arrays():
    rng = np.random.RandomState(0)
    flat = rng.standard_normal(48).astype("float32")
    return collections.OrderedDict(
        plain=rng.standard_normal((3, 4)).astype("float32"), half=rng.standard_normal(5).astype("float16"),
        turned=flat.reshape(6, 8).T, part=flat.reshape(6, 8)[1:4, 1::2], count=np.array(7, "int64"),
        flags=np.array([True, False]), double=rng.standard_normal(2), empty=np.zeros((0, 3), "float32"))


# reading --------------------------------------------------------------------------------------
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
def test_torch_files(tmp_path, legacy, wrap):
    arrays = some_arrays()
    write_torch(tmp_path / "w.pth", {wrap: arrays, "epoch": 3} if wrap else arrays, legacy)
    read = read_weights(tmp_path / "w.pth")
    assert set(read) == set(arrays)
    for key, value in arrays.items():
        assert read[key].dtype == value.dtype and np.array_equal(read[key], value), key


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_bfloat16_becomes_float32(tmp_path, legacy):
    values = np.array([1.5, -2.0, 0.0, 3.140625], "float32")
    write_torch(tmp_path / "w.pth", {"a": (values.view("uint32") >> 16).astype("uint16")}, legacy)
    assert np.array_equal(read_weights(tmp_path / "w.pth")["a"], values)
    header = json.dumps({"a": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}).encode()
    data = struct.pack("<Q", len(header)) + header + (values.view("uint32") >> 16).astype("<u2").tobytes()
    (tmp_path / "w.safetensors").write_bytes(data)
    assert np.array_equal(read_weights(tmp_path / "w.safetensors")["a"], values.reshape(2, 2))
    paddle.save({"a": paddle.to_tensor(values).astype("bfloat16")}, str(tmp_path / "w.pdparams"))
    assert np.array_equal(read_weights(tmp_path / "w.pdparams")["a"], values)


@pytest.mark.parametrize("protocol", [2, 4])
def test_paddle_files_of_layers_and_of_arrays(tmp_path, protocol):
    layer = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4))
    paddle.save(layer.state_dict(), str(tmp_path / "a.pdparams"), protocol=protocol)
    paddle.save({key: value.numpy() for key, value in layer.state_dict().items()}, str(tmp_path / "b.pdparams"))
    for name in "ab":
        read = read_weights(tmp_path / f"{name}.pdparams")
        assert set(read) == set(layer.state_dict())
        assert all(np.array_equal(read[key], value.numpy()) for key, value in layer.state_dict().items())


def test_paddle_files_with_an_array_in_slices(tmp_path):
    array = np.arange(12, dtype="float32")
    tree = {"w@@.0": array[:7], "w@@.1": array[7:], "b": array[:2],
            "UnpackBigParamInfor@@": {"w": {"OriginShape": (3, 4), "slices": ["w@@.0", "w@@.1"]}}}
    (tmp_path / "w.pdparams").write_bytes(pickle.dumps(tree, protocol=2))
    read = read_weights(tmp_path / "w.pdparams")
    assert set(read) == {"w", "b"} and np.array_equal(read["w"], array.reshape(3, 4))


def test_safetensors_and_npz(tmp_path):
    arrays = {key: np.ascontiguousarray(value) for key, value in some_arrays().items()}
    save_file(arrays, str(tmp_path / "w.safetensors"), metadata={"format": "np"})
    np.savez_compressed(tmp_path / "w.npz", **arrays)
    for name in ("w.safetensors", "w.npz"):
        read = read_weights(tmp_path / name)
        assert set(read) == set(arrays)
        assert all(read[key].dtype == value.dtype and np.array_equal(read[key], value) for key, value in arrays.items())


def test_the_ending_does_not_matter(tmp_path):
    write_torch(tmp_path / "w.bin", {"a": np.ones(2, "float32")})
    assert set(read_weights(tmp_path / "w.bin")) == {"a"}


# the network inside a file ------------------------------------------------------------------------
ONE, OTHER = np.ones(2, "float32"), np.zeros(3, "float32")


def put(folder, tree, kind):
    """Write a tree of dicts as torch or Paddle would; returns the path as text."""
    path = folder / f"w.{kind}"
    if kind == "pth":
        write_torch(path, tree)
    else:
        paddle.save(tree, str(path))
    return str(path)


@pytest.mark.parametrize("kind", ["pth", "pdparams"])
@pytest.mark.parametrize("tree", [
    {"state_dict": {"w": ONE}, "best_acc1": OTHER, "epoch": 3},           # the ImageNet example of PyTorch
    {"model": {"w": ONE}, "optimizer": {"state": {0: {"momentum_buffer": OTHER}}, "param_groups": [{"params": [0]}]}},
    {"model_state": {"w": ONE}, "acc": OTHER}, {"network": {"w": ONE}, "ema_decay": OTHER},
    {"model": {"state_dict": {"w": ONE}, "mean": OTHER}}, {"student": {"w": ONE}, "centre": OTHER},
    {"model": {"w": ONE}, "model_ema": {"w": OTHER}}, {"weights_of_mine": {"w": ONE}, "epoch": 1}])
def test_a_wrapper_is_preferred_wherever_there_is_one(tmp_path, kind, tree):
    read = read_weights(put(tmp_path, tree, kind))
    assert list(read) == ["w"] and np.array_equal(read["w"], ONE)


@pytest.mark.parametrize("kind", ["pth", "pdparams"])
def test_student_or_teacher_is_the_users_choice(tmp_path, kind):
    path = put(tmp_path, {"student": {"w": ONE}, "teacher": {"w": OTHER}, "epoch": 9}, kind)
    with pytest.raises(InputError, match="student, teacher.*w.p.*::teacher"):
        read_weights(path)
    assert np.array_equal(read_weights(path + "::teacher")["w"], OTHER)
    assert np.array_equal(read_weights(path + "::student")["w"], ONE)
    with pytest.raises(InputError, match="holds no nurse"):
        read_weights(path + "::nurse")


def test_a_choice_in_a_file_without_wrappers_and_beside_a_preferred_one(tmp_path):
    save_file({"student.w": ONE, "teacher.w": OTHER}, str(tmp_path / "w.safetensors"))
    with pytest.raises(InputError, match="::teacher"):
        read_weights(tmp_path / "w.safetensors")
    assert np.array_equal(read_weights(f"{tmp_path}/w.safetensors::teacher")["w"], OTHER)
    path = put(tmp_path, {"model": {"w": ONE}, "model_ema": {"w": OTHER}}, "pth")
    assert np.array_equal(read_weights(path + "::model_ema")["w"], OTHER)


def test_two_networks_that_could_be_meant_are_named(tmp_path):
    path = put(tmp_path, {"generator": {"w": ONE}, "critic": {"w": OTHER}}, "pth")
    with pytest.raises(InputError, match="several networks .generator, critic."):
        read_weights(path)


def test_settings_and_counters_beside_the_weights_do_not_matter(tmp_path):
    """argparse.Namespace, collections.Counter and numpy numbers are common in checkpoints of training scripts."""
    tree = {"state_dict": {"w": ONE}, "args": argparse.Namespace(lr=0.1, arch="x"), "best": np.float64(71.5),
            "scheduler": {"milestones": collections.Counter([30, 60])}, "epoch": 3}
    for number, write in enumerate((lambda path: write_torch(path, tree), lambda path: path.write_bytes(
            pickle.dumps(tree, protocol=2)), lambda path: path.write_bytes(pickle.dumps(tree, protocol=4)))):
        write(tmp_path / str(number))
        assert np.array_equal(read_weights(tmp_path / str(number))["w"], ONE)


@pytest.mark.parametrize("length", [0x80, 0x4B50])
def test_a_safetensors_header_whose_length_looks_like_another_format(tmp_path, length):
    """0x80 begins a pickle, PK (0x50 0x4B) a zip file."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode().ljust(length)
    (tmp_path / "w").write_bytes(struct.pack("<Q", length) + header + ONE.tobytes())
    assert np.array_equal(read_weights(tmp_path / "w")["w"], ONE)


# hostile and broken files -----------------------------------------------------------------------
class Run:
    """Pickles to a call of a function with arguments: what a hostile file does."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HOSTILE = {"system": lambda mark: Run(os.system, f"touch {mark}"),
           "eval": lambda mark: Run(eval, f"open({str(mark)!r}, 'w')"),
           "open": lambda mark: Run(open, str(mark), "w"),
           "partial": lambda mark: Run(functools.partial, os.mkdir, str(mark))}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("layout", ["pdparams", "zip", "legacy", "npz"])
def test_a_hostile_file_is_refused_and_runs_nothing(tmp_path, kind, layout):
    mark, path = tmp_path / "mark", tmp_path / "w.pth"
    evil = HOSTILE[kind](mark)
    if layout == "npz":
        np.savez(path.with_suffix(".npz"), a=np.array([evil], dtype=object))
        path = path.with_suffix(".npz")
    elif layout == "pdparams":
        path.write_bytes(pickle.dumps({"w": np.ones(2, "float32"), "x": evil}))
    else:
        write_torch(path, {"w": np.ones(2, "float32"), "x": evil}, legacy=layout == "legacy")
    with pytest.raises(InputError) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert not mark.exists()


def test_a_pickle_cannot_change_our_stand_ins(tmp_path):
    """BUILD on what a global stands for would reach into the reader itself."""
    good = pickle.dumps({"w": np.ones(2, "float32")}, protocol=2)
    evil = b"\x80\x02cnumpy\nndarray\nq\x00N}q\x01X\x07\x00\x00\x00__doc__X\x01\x00\x00\x00xs\x86b."
    (tmp_path / "evil.pdparams").write_bytes(evil)
    (tmp_path / "good.pdparams").write_bytes(good)
    with pytest.raises(InputError):
        read_weights(tmp_path / "evil.pdparams")
    assert np.array_equal(read_weights(tmp_path / "good.pdparams")["w"], np.ones(2))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Bytes of one small file of each format."""
    folder = tmp_path_factory.mktemp("files")
    arrays = {"a": np.arange(6, dtype="float32").reshape(2, 3), "b": np.ones(4, "float16")}
    write_torch(folder / "zip", arrays)
    write_torch(folder / "legacy", arrays, legacy=True)
    save_file(arrays, str(folder / "safetensors"))
    np.savez(folder / "x.npz", **arrays)
    paddle.save(arrays, str(folder / "pdparams"))
    return folder, {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["zip", "legacy", "safetensors", "x.npz", "pdparams"])
def test_a_truncated_file_is_refused(files, tmp_path, name):
    data = files[1][name]
    for size in range(0, len(data) - 1, max(1, len(data) // 40)):
        (tmp_path / "cut").write_bytes(data[:size])
        with pytest.raises(InputError):
            read_weights(tmp_path / "cut")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["zip", "legacy", "safetensors", "x.npz", "pdparams"]),
       where=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_a_damaged_file_is_read_or_refused(files, name, where, value):
    data = bytearray(files[1][name])
    data[int(where * len(data))] = value
    path = files[0] / "damaged"
    path.write_bytes(data)
    try:
        read = read_weights(path)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(array, np.ndarray) for array in read.values())


def test_a_tensor_cannot_reach_past_its_storage(tmp_path):
    write_torch(tmp_path / "w.pth", {"a": np.arange(6, dtype="float32").reshape(2, 3)})
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    body = parts["archive/data.pkl"]
    at = body.index(b"K\x02K\x03\x86")   # the size (2, 3)
    parts["archive/data.pkl"] = body[:at] + b"K\x09K\x03\x86" + body[at + 5:]
    with zipfile.ZipFile(tmp_path / "bad.pth", "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    with pytest.raises(InputError, match="past its storage"):
        read_weights(tmp_path / "bad.pth")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04]\x94.", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "w.pdparams").write_bytes(content)
    with pytest.raises(InputError, match="w.pdparams"):
        read_weights(tmp_path / "w.pdparams")


def test_a_missing_file_and_a_folder_are_said_so(tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(InputError, match="does not exist"):
            read_weights(path)
