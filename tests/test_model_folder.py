"""Model folders are written in one step: readers see the old model or the new one, and a kill leaves the old one."""
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading

import pytest
import yaml

from deploy.model_folder import MANIFEST, check_files, new_folder, read_manifest, write_manifest
from tests.campaign import inject
from tests.conftest import ROOT
from tests.manifests import manifest_of
from utils import folders
from utils.errors import InputError


def fill(folder, name, more=()):
    """Write a made-up model whose files all hold ``name``."""
    for file in ("inference.json", "inference.pdiparams", *more):
        with open(os.path.join(folder, file), "w", encoding="utf-8") as out:
            out.write(name * 1000)
    write_manifest(folder, manifest_of(name))


def make(folder, name, more=()):
    with new_folder(folder) as temporary:
        fill(temporary, name, more)


def whole(folder):
    """The name of the model in a folder whose files belong together."""
    manifest = read_manifest(str(folder))
    check_files(str(folder), manifest)
    assert set(os.listdir(folder)) == {*manifest["files"], MANIFEST}
    return manifest["method"]


def test_made_and_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "deep" / "model"
    make(folder, "a", ["text.json", "vectorizer.json"])
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o777 & ~umask
    first = os.stat(folder).st_ino
    make(folder, "b")
    assert whole(folder) == "b" and os.stat(folder).st_ino != first and os.listdir(folder.parent) == ["model"]
    (tmp_path / "link").symlink_to(folder)
    make(tmp_path / "link", "c")
    assert whole(folder) == "c" and (tmp_path / "link").is_symlink()


def test_where_folders_cannot_be_exchanged(tmp_path, monkeypatch):
    make(tmp_path / "model", "a")
    monkeypatch.setattr(folders, "_exchange", lambda first, second: False)
    make(tmp_path / "model", "b")
    assert whole(tmp_path / "model") == "b" and os.listdir(tmp_path) == ["model"]


def test_other_files_stay(tmp_path):
    (tmp_path / "run" / "eval").mkdir(parents=True)
    (tmp_path / "run" / "train.log").write_text("kept")
    for name in "ab":
        make(tmp_path / "run", name, ["text.json"] if name == "a" else [])
        assert read_manifest(str(tmp_path / "run"))["method"] == name
    assert sorted(os.listdir(tmp_path / "run")) == ["eval", "inference.json", "inference.pdiparams", MANIFEST,
                                                    "train.log"]
    assert os.listdir(tmp_path) == ["run"]


def test_an_error_leaves_the_old_model_and_nothing_else(tmp_path):
    make(tmp_path / "model", "a")
    for folder in ("model", "new"):
        with pytest.raises(RuntimeError), new_folder(tmp_path / folder) as temporary:
            fill(temporary, "b")
            raise RuntimeError
    assert whole(tmp_path / "model") == "a" and os.listdir(tmp_path) == ["model"]
    with pytest.raises(InputError, match="the model itself"), new_folder(tmp_path / "model", tmp_path / "model"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write .*another --here"), \
            new_folder(tmp_path / "file" / "x", flag="--here"):
        pass


KILLED = """
import os, signal, sys
from deploy import model_folder
from utils import folders
from tests.test_model_folder import make
module = model_folder if hasattr(model_folder, sys.argv[2]) else folders
real = getattr(module, sys.argv[2])
def killed(*arguments):
    if sys.argv[3] == "after":
        real(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(module, sys.argv[2], killed)
make(sys.argv[1], "b")
"""


@pytest.mark.parametrize("where, when, name", [("write_text", "before", "a"), ("write_text", "after", "a"),
                                               ("_replace", "before", "a"), ("_exchange", "after", "b"),
                                               ("_replace", "after", "b")])
def test_a_kill_leaves_one_whole_model(tmp_path, where, when, name):
    make(tmp_path / "model", "a")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "model"), where, when], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL and whole(tmp_path / "model") == name
    make(tmp_path / "model", "c")  # and the next one clears up
    assert whole(tmp_path / "model") == "c" and os.listdir(tmp_path) == ["model"]


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_among_other_files_a_kill_leaves_one_whole_model(tmp_path):
    """Killed before every single change of a file, of the folder and of what lies beside it."""
    folder, seen, killed, number = tmp_path / "run", [], True, 0
    while killed:
        number += 1
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "train.log").write_text("mine")
        make(folder, "a", ["text.json"])
        killed = killed_at(number, tmp_path, lambda: make(folder, "b"))
        manifest = read_manifest(str(folder))
        check_files(str(folder), manifest)
        seen.append(manifest["method"])
        make(folder, "c")
        assert sorted(os.listdir(folder)) == ["inference.json", "inference.pdiparams", MANIFEST, "train.log"]
        assert read_manifest(str(folder))["method"] == "c" and (folder / "train.log").read_text() == "mine"
        check_files(str(folder), read_manifest(str(folder)))
        assert os.listdir(tmp_path) == ["run"]
    assert seen == sorted(seen) and set(seen) == {"a", "b"}


def killed_at(number, folder, work):
    """Whether a fork that works was killed before change ``number`` of a file below ``folder``."""
    counter = folder.parent / f"{folder.name}.events"
    child = os.fork()
    if not child:
        try:
            os.setsid()
            inject.install(inject.Orders(str(folder), str(counter), number))
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_where_files_have_no_second_name(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError
    monkeypatch.setattr(os, "link", refused)
    test_other_files_stay(tmp_path)


def test_a_reader_never_sees_a_mixture(tmp_path):
    """A reader that holds the folder open reads one model, whichever way the folder goes meanwhile."""
    folder, seen, stop = tmp_path / "model", set(), threading.Event()
    make(folder, "a")

    def read():
        while not stop.is_set():
            handle = os.open(folder, os.O_RDONLY)
            try:
                def content(name):
                    with open(name, "rb", opener=lambda path, flags: os.open(path, flags, dir_fd=handle)) as file:
                        return file.read()
                manifest = yaml.safe_load(content(MANIFEST))
                assert all(hashlib.sha256(content(name)).hexdigest() == digest
                           for name, digest in manifest["files"].items())
                seen.add(manifest["method"])
            except FileNotFoundError:
                pass  # the old folder, being removed
            finally:
                os.close(handle)

    failed = []
    reader = threading.Thread(target=lambda: failed.append(1) if _raises(read) else None)
    reader.start()
    for i in range(60):
        make(folder, "ab"[i % 2])
    stop.set()
    reader.join()
    assert not failed and seen == {"a", "b"}


def _raises(function):
    try:
        function()
    except BaseException:
        return True
    return False
