"""Machine code on disk: used when it is right, and never a reason to fail."""
import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import SHAPES_SIZES
from utils.errors import InputError
from utils.files import write_bytes
from utils.retrieval import compiled

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SEARCH = """
import json
import numpy as np
from utils.retrieval import hamming
x = np.arange(256, dtype=np.uint8)[:, None]
print(json.dumps(hamming.distances(x[:2], x).sum(1).tolist()))
"""


@pytest.fixture
def checkout(tmp_path):
    """``run(before="", **environment)`` a search from a copy of the files that it needs."""
    folder = tmp_path / "checkout"
    os.makedirs(folder / "utils" / "retrieval")
    for name in ("__init__.py", "cpu.py", "errors.py", "files.py", "streams.py", "retrieval/__init__.py",
                 "retrieval/hamming.py", "retrieval/kernels.py", "retrieval/vectors.py", "retrieval/compiled.py"):
        shutil.copy(os.path.join(ROOT, "utils", name), folder / "utils" / name)

    def run(before="", **environment):
        env = {**os.environ, "HOME": str(tmp_path / "home"), "PYTHONDONTWRITEBYTECODE": "1", **environment}
        for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
            if name not in environment:
                env.pop(name, None)
        command = [sys.executable, "-c", before + SEARCH]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == [256 * 4] * 2  # of 8 bits, each differs half of the time

    run.folder = folder
    return run


def add_one(x):
    return x + 1


def other(x):
    return x + 2


@pytest.fixture
def compile_in(monkeypatch):
    """``compile_in(folders, function)`` calls a fresh kernel: whether it was compiled (else it came from disk)."""
    def compile_in(folders, function=add_one):
        monkeypatch.setattr(compiled, "folders", lambda: [str(folder) for folder in folders])
        kernel = compiled.kernel(function)
        assert kernel(3) == function(3)
        return not sum(kernel.stats.cache_hits.values())
    return compile_in


DAMAGE = [
    lambda data: data[:len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1:],
    lambda data: bytes([data[0] ^ 128]) + data[1:],  # in the digest
    lambda data: data[:-1],
    lambda data: data[:20],
    lambda data: b"",
    lambda data: data + b"x",
]


def test_kept_and_found(compile_in, tmp_path):
    assert compile_in([tmp_path])
    assert not compile_in([tmp_path])
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_machine_code_is_compiled_anew_and_replaced(compile_in, tmp_path, damage):
    compile_in([tmp_path])
    file, = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert compile_in([tmp_path])
    assert not compile_in([tmp_path])
    assert list(tmp_path.iterdir()) == [file]


def test_machine_code_of_another_kernel_is_not_taken(compile_in, tmp_path):
    compile_in([tmp_path / "one"])
    compile_in([tmp_path / "two"], other)
    one, = (tmp_path / "one").iterdir()
    two, = (tmp_path / "two").iterdir()
    one.write_bytes(two.read_bytes())
    assert compile_in([tmp_path / "one"])


def test_a_change_of_the_sources_compiles_anew(compile_in, tmp_path, monkeypatch):
    compile_in([tmp_path])
    monkeypatch.setattr(compiled, "SOURCES", b"other sources")
    assert compile_in([tmp_path])
    assert len(list(tmp_path.iterdir())) == 1  # replaced, not added


def test_sources_are_what_kernels_are_made_of(tmp_path):
    shutil.copytree(os.path.join(ROOT, "utils"), tmp_path / "utils", ignore=shutil.ignore_patterns("__pycache__"))
    show = [sys.executable, "-c", "from utils.retrieval import compiled; print(compiled.SOURCES.hex())"]
    assert subprocess.check_output(show, cwd=tmp_path, text=True).strip() == compiled.SOURCES.hex()
    with open(tmp_path / "utils" / "retrieval" / "kernels.py", "a") as file:
        file.write("# changed\n")
    assert subprocess.check_output(show, cwd=tmp_path, text=True).strip() != compiled.SOURCES.hex()


def test_a_read_only_installation(compile_in, tmp_path, monkeypatch):
    installed, home = tmp_path / "installed", tmp_path / "home"
    assert compile_in([installed, home])

    def refuse(path, data):
        if str(path).startswith(str(installed)):
            raise InputError("read-only")
        write_bytes(path, data)

    monkeypatch.setattr(compiled, "write_bytes", refuse)
    assert not compile_in([installed, home])  # compiled when it was installed
    assert compile_in([installed, home], other) and not compile_in([installed, home], other)  # kept at home
    assert len(list(installed.iterdir())) == len(list(home.iterdir())) == 1


def test_folders(monkeypatch):
    monkeypatch.setattr(compiled.config, "CACHE_DIR", "/some/where")
    assert compiled.folders() == ["/some/where/paddle_deep_hash"]
    monkeypatch.setattr(compiled.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert compiled.folders() == [os.path.join(ROOT, "utils", "retrieval", "__pycache__"),
                                  "/caches/paddle_deep_hash/kernels"]


def test_runs_where_no_cache_folder_can_be_written(checkout):
    (checkout.folder / "utils" / "retrieval" / "__pycache__").write_text("a file where the folder should be")
    checkout(HOME="/dev/null", XDG_CACHE_HOME="/dev/null")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of POSIX systems")
def test_runs_when_the_cache_cannot_be_saved(checkout, tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"  # as a full disk
    checkout(limit, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]


@pytest.mark.slow
def test_after_the_warm_up_no_command_compiles(run, shapes, tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    run("-m", "utils.retrieval.warm_up", env=cache)
    ready = sorted(os.listdir(tmp_path / "kernels" / "paddle_deep_hash"))
    training = ["--backbone", "ConvNet:width=4", "--no-pretrained", "--resize-size", 36, "--crop-size", 32, "--device",
                "cpu", "--no-visualdl", "--data-path", shapes, *(f"--{key.replace('_', '-')}={value}"
                                                                 for key, value in SHAPES_SIZES.items())]
    for bits in (16, 24, 32, 48, 64, 100):
        folder = tmp_path / str(bits)
        run("main_single_gpu.py", "--bit", bits, "--epoch", 1, *training, "--curves", "--output-dir", folder, env=cache)
        for more in ([], ["--rank", "asymmetric"]):
            run("predict.py", "--pretrained", folder / "best.safetensors", "--topk", 5, "--data-path", shapes,
                "--save-path", folder / "answer", *more, env=cache)
    assert sorted(os.listdir(tmp_path / "kernels" / "paddle_deep_hash")) == ready
