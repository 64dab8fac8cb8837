"""Checkpoints: whole or absent, and nothing in them is executed."""
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from utils.errors import InputError
from utils.files import atomic_path, write_json
from utils.training.checkpoint import load_checkpoint, save_checkpoint


def test_round_trip(tmp_path):
    tensors = {"model/a": np.arange(6, dtype="float32").reshape(2, 3), "model/n": np.int64([3]),
               "b": np.zeros((0, 2), "uint8")}
    save_checkpoint(tmp_path / "c.safetensors", tensors, {"epoch": 3, "recipe": {"bit": 16}})
    read, meta = load_checkpoint(tmp_path / "c.safetensors")
    assert meta == {"epoch": 3, "recipe": {"bit": 16}}
    assert all(np.array_equal(read[key], tensors[key]) and read[key].dtype == tensors[key].dtype for key in tensors)


def test_pickles_are_refused_not_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)
    path = tmp_path / "c.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="damaged or not a checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("damage", [lambda data: data[:len(data) // 2], lambda data: b"", lambda data: data[:9]])
def test_truncated(tmp_path, damage):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"model/a": np.zeros(100, "float32")}, {})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(path)


def test_other_safetensors_file(tmp_path):
    from safetensors.numpy import save_file
    save_file({"a": np.zeros(2)}, tmp_path / "c.safetensors")
    with pytest.raises(InputError, match="--backbone-weights"):
        load_checkpoint(tmp_path / "c.safetensors")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "r.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        with open(temporary, "w") as file:
            file.write("half")
        raise RuntimeError("killed here")
    assert path.read_text() == '{\n  "a": 1\n}\n' and os.listdir(tmp_path) == ["r.json"]


def test_full_disk_is_one_line(tmp_path):
    """A file size limit makes the operating system refuse the write in the middle, as a full disk does."""
    code = ("import resource, signal, numpy as np; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000));"
            "from utils.training.checkpoint import save_checkpoint; from utils.errors import run_main;"
            f"run_main(lambda argv: save_checkpoint({str(tmp_path / 'c.safetensors')!r}, "
            "{'a': np.zeros(10**6)}, {}))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: cannot write") and done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []
