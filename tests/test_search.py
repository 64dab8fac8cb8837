"""search.py: an index that follows a folder of pictures, and never loses what is only away."""
import builtins
import importlib.util
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

import search
from deploy import photos as photos_module
from deploy.engines import open_model
from deploy.index import open_index
from models import METHODS
from tests.conftest import ROOT, kills
from tests.exported import SIZES, exported, one_error_line
from tests.test_startup import needs_onnx
from utils.datasets import load_protocol
from utils.errors import InputError
from utils.files import owned
from utils.images import decode
from utils.paddle_inference import fast_bf16
from utils.transforms import preprocess

CROSS_MODAL = next(name for name in METHODS if "text" in METHODS[name].modalities)


@pytest.fixture(scope="module")
def model(tmp_path_factory, shapes):
    return exported(tmp_path_factory, shapes)


@pytest.fixture
def folder(tmp_path, shapes):
    """20 pictures in two folders and one beside them, a broken one, hidden ones, and a film."""
    images = load_protocol("shapes", root=str(shapes), **SIZES).database.images
    place = tmp_path / "photos"
    for i in range(21):
        target = place / ("", "cat/", "dog/deep/")[0 if i == 20 else 1 + i % 2] / f"{i:02d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(images.path(i), target)
    (place / "cat" / "broken.jpg").write_bytes(b"no picture")
    (place / ".hidden.jpg").write_bytes(b"x")
    (place / "film.mp4").write_bytes(b"x")
    return place


@pytest.fixture
def ask(model, folder, tmp_path, capsys):
    """``ask(query, ...)`` gives what the command prints with --json; ``ask.said`` what it says on stderr."""
    def call(*words, place=folder, using=model):
        search.main([str(word) for word in (place, *words, "--model-dir", using, "--index", tmp_path / "index",
                                            "--threads", 1, "--json")])
        printed = capsys.readouterr()
        call.said = printed.err
        return json.loads(printed.out)
    return call


def ids(tmp_path):
    with open_index(tmp_path / "index") as index:
        index.check()
        return sorted(name for _, items in index.batches() for name in items.ids)


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg") if path.name[0] in "0123z")


def test_a_life(ask, model, folder, tmp_path, monkeypatch):
    answer = ask(folder / "cat" / "04.jpg")
    assert (answer["items"], answer["new"], answer["changed"], answer["gone"]) == (21, 21, 0, 0)
    assert ids(tmp_path) == names(folder)
    assert [one["id"] for one in answer["unreadable"]] == ["cat/broken.jpg"]
    assert "1 pictures could not be read" in ask.said and "1 .mp4" in ask.said and "1 hidden files" in ask.said
    matches = answer["queries"][0]["matches"]
    assert matches[0]["distance"] == 0 and len(matches) == 10
    encoder = open_model(str(model), threads=1)
    spec = encoder.manifest["preprocess"]
    codes = {name: encoder.codes(preprocess(decode(str(folder / name), spec=spec), spec)[None])[0]
             for name in names(folder)}
    far = {name: int(np.unpackbits(code ^ codes["cat/04.jpg"]).sum()) for name, code in codes.items()}
    assert [match["distance"] for match in matches] == [far[match["id"]] for match in matches] == sorted(
        far.values())[:10]
    assert all(os.path.isfile(match["path"]) for match in matches)

    (folder / "dog" / "deep" / "01.jpg").unlink()
    shutil.copy(folder / "cat" / "02.jpg", folder / "z.jpg")
    shutil.copy(folder / "cat" / "02.jpg", folder / "cat" / "00.jpg")
    (folder / "cat" / "04.jpg").write_bytes(b"broken now")
    answer = ask(folder / "z.jpg", "--topk", 3, "--collapse", 0)
    assert (answer["items"], answer["new"], answer["changed"], answer["gone"]) == (20, 1, 1, 1)
    assert ids(tmp_path) == sorted(set(names(folder)) - {"cat/04.jpg"})
    assert answer["queries"][0]["matches"][0]["count"] >= 3  # z, 02 and the new 00 are one picture
    assert [one["id"] for one in answer["unreadable"]] == ["cat/04.jpg", "cat/broken.jpg"]

    def never(*words, **more):
        raise AssertionError("nothing has changed")
    monkeypatch.setattr(photos_module, "encode", never)
    answer = ask()
    assert (answer["new"], answer["changed"], answer["gone"], answer["queries"]) == (0, 0, 0, [])
    assert len(answer["unreadable"]) == 2


def test_a_drive_that_is_away_empties_nothing(ask, folder, tmp_path):
    outside = tmp_path / "drive" / "usb"
    outside.mkdir(parents=True)
    shutil.copy(folder / "20.jpg", outside / "30.jpg")
    (folder / "usb").symlink_to(outside)
    ask()
    whole = ids(tmp_path)
    assert "usb/30.jpg" in whole and len(whole) == 22
    # a folder behind a link, and one that is a mount point
    os.rename(tmp_path / "drive", tmp_path / "away")
    os.rename(folder / "dog" / "deep", tmp_path / "deep")
    (folder / "dog" / "deep").mkdir()
    answer = ask()
    assert answer["gone"] == 0 and ids(tmp_path) == whole
    assert "usb is empty or cannot be read" in ask.said and "its 10 pictures stay" in ask.said
    # all of it
    os.rename(folder, tmp_path / "elsewhere")
    query = tmp_path / "elsewhere" / "cat" / "02.jpg"
    answer = ask(query)
    assert answer["items"] == 22 and "photos is not there" in ask.said and ids(tmp_path) == whole
    assert all("gone" in match for match in answer["queries"][0]["matches"])
    folder.mkdir()
    assert ask()["gone"] == 0 and "photos is empty" in ask.said and ids(tmp_path) == whole
    folder.rmdir()
    # back again
    os.rename(tmp_path / "elsewhere", folder)
    os.rename(tmp_path / "away", tmp_path / "drive")
    (folder / "dog" / "deep").rmdir()
    os.rename(tmp_path / "deep", folder / "dog" / "deep")
    answer = ask()
    assert (answer["new"], answer["changed"], answer["gone"]) == (0, 0, 0) and ids(tmp_path) == whole
    # deleted for good: a folder that is gone, and what --forget says
    shutil.rmtree(folder / "dog")
    assert ask()["gone"] == 10
    for path in (folder / "cat").iterdir():
        path.unlink()
    assert ask()["gone"] == 0
    assert ask("--forget")["gone"] == 11 and ids(tmp_path) == ["20.jpg", "usb/30.jpg"]


@pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is None, reason="needs pillow-heif")
def test_heic(ask, folder, monkeypatch, capsys):
    import pillow_heif
    from PIL import Image
    pillow_heif.register_heif_opener()
    Image.open(folder / "20.jpg").save(folder / "phone.HEIC", quality=100)
    (folder / "half.heic").write_bytes((folder / "phone.HEIC").read_bytes()[:200])
    answer = ask(folder / "phone.HEIC")
    assert {"phone.HEIC", "20.jpg"} <= {match["id"] for match in answer["queries"][0]["matches"][:6]}
    assert [one["id"] for one in answer["unreadable"]] == ["cat/broken.jpg", "half.heic"]

    imported = builtins.__import__

    def missing(name, *words, **more):
        if name == "pillow_heif":
            raise ImportError
        return imported(name, *words, **more)
    monkeypatch.setattr(builtins, "__import__", missing)
    ask("--rebuild")
    assert "2 HEIC pictures were left out: pip install pillow-heif" in ask.said
    with pytest.raises(InputError, match="pip install pillow-heif"):
        ask(folder / "phone.HEIC")


def test_killed_at_random_moments(model, folder, tmp_path):
    """Signal 9 until it ends by itself, with a picture that goes meanwhile; DEEPHASH_KILLS=50 begins anew for more."""
    rng, done = np.random.default_rng(1), 0
    while done < kills(2):
        shutil.rmtree(tmp_path / "index", ignore_errors=True)
        done += killed_until_it_ends(model, folder, tmp_path, rng)
        assert ids(tmp_path) == names(folder)


def killed_until_it_ends(model, folder, tmp_path, rng):
    """Number of processes that were killed while they indexed."""
    code = ("import sys, time; sys.path.insert(0, sys.argv[1])\nimport search\nfrom deploy import photos\n"
            "photos.AT_ONCE, photos.SAVED_EVERY, real = 3, 0, photos.encode\n"
            "def slow(*a, **k):\n    print('batch', flush=True); time.sleep(.05); return real(*a, **k)\n"
            "photos.encode = slow\nsearch.main(sys.argv[2:])")
    words = [folder, "--model-dir", model, "--index", tmp_path / "index", "--threads", 1]
    for done in itertools.count():
        worker = subprocess.Popen([sys.executable, "-c", code, str(ROOT), *map(str, words)], text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        begun = 0
        for line in worker.stdout:
            begun += line == "batch\n"
            if begun == 3:
                time.sleep(rng.uniform(0, .15))
                worker.send_signal(signal.SIGKILL)
                break
        said = worker.communicate()
        if worker.returncode != -signal.SIGKILL:
            assert worker.returncode == 0, said
            return done
        ids(tmp_path)
        if not done:
            (folder / "cat" / "00.jpg").unlink(missing_ok=True)  # it may be in the index already


def test_words(run, folder, tmp_path, tmp_path_factory, shapes):
    model = exported(tmp_path_factory, shapes, CROSS_MODAL)
    text = load_protocol("shapes", root=str(shapes), **SIZES).train.texts[0]
    done = run("search.py", folder, text, "--model-dir", model, "--index", tmp_path / "index", "--topk", 4)
    assert f"Query: {text}" in done.stdout and len([line for line in done.stdout.splitlines() if ".jpg" in line
                                                     and not line.startswith("-----")]) == 4


@needs_onnx
def test_onnx_needs_no_paddle(run, model, folder, tmp_path):
    """And is the default model where output/onnx is there; the index serves both."""
    run("deploy/onnx/convert.py", "--model-dir", model, "--save-dir", tmp_path / "output" / "onnx", "--opset", 13)
    words = [ROOT / "search.py", folder, folder / "20.jpg"]
    done = run(*words, cwd=tmp_path, program=[sys.executable, "-X", "importtime"])
    modules = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()
               if line.startswith("import time:")}
    assert "onnxruntime" in modules and not modules & {"paddle", "models", "matplotlib"}
    assert "Model: output/onnx" in done.stdout and "21 pictures" in done.stdout
    again = run(*words, "--model-dir", model, "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["new"] == 0 and len(os.listdir(tmp_path / "output" / "search")) == 1


@pytest.mark.skipif(not fast_bf16(), reason="needs bfloat16 instructions")
def test_another_precision_is_said(ask, folder):
    ask()
    assert "some bits may differ" not in ask.said
    try:
        answer = ask(folder / "20.jpg", "--precision", "bf16")
    except InputError as error:
        if "primitive descriptor" not in str(error):
            raise
        pytest.skip(str(error))  # Paddle 2.6 on some networks
    assert "the codes of the index are fp32, the query's bf16: some bits may differ" in ask.said
    assert answer["new"] == 0 and len(answer["queries"][0]["matches"]) == 10


def test_another_process_is_at_it(ask, tmp_path):
    ask()
    with owned(str(tmp_path / "index" / ".photos.lock")):
        answer = ask(tmp_path / "photos" / "20.jpg")
    assert "is being changed by" in ask.said and answer["queries"][0]["matches"]


@pytest.mark.skipif(importlib.util.find_spec("uvicorn") is None, reason="needs uvicorn and fastapi")
def test_the_page_opens(model, folder, tmp_path):
    """A browser is called with an address that answers; its pictures are those of the folder."""
    note = tmp_path / "url"
    browser = tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\necho \"$1\" > {note}.part && mv {note}.part {note}\n")
    browser.chmod(0o755)
    page = subprocess.Popen([sys.executable, "search.py", folder, "--model-dir", model, "--index", tmp_path / "index",
                             "--threads", "1", "--open"], cwd=ROOT, env={**os.environ, "BROWSER": f"{browser} %s"},
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        stop = time.monotonic() + 200
        while not note.exists() and page.poll() is None and time.monotonic() < stop:
            time.sleep(.1)
        assert note.exists(), page.communicate(timeout=9) if page.poll() is not None else "no browser was called"
        url = note.read_text().strip()
        assert b"<html" in urllib.request.urlopen(url, timeout=60).read()
        data = json.load(urllib.request.urlopen(urllib.request.Request(
            f"{url}v1/search/picture?k=3", (folder / "20.jpg").read_bytes(), method="POST"), timeout=60))
        assert data["matches"][0]["distance"] == 0
        page.send_signal(signal.SIGINT)
        said = page.communicate(timeout=60)
        assert "Traceback" not in said[1] and f"{url} until Ctrl-C" in said[0]
    finally:
        page.kill()
        page.wait()


@pytest.mark.parametrize("words, expected", [
    ([], "search which folder?"), (["FOLDER", "a", "b"], "put words in quotes"),
    (["nowhere"], "there is no folder nowhere"), (["FOLDER", "a cat"], "there is no picture a cat"),
    (["FOLDER", "--model-dir", "away"], "no model folder at away"), (["FOLDER", "--first", 3], "--first belongs"),
    (["FOLDER", "--tokp", 3], "did you mean --topk?")])
def test_mistakes(run, model, folder, tmp_path, words, expected):
    words = [folder if word == "FOLDER" else word for word in words]
    more = [] if "--model-dir" in words else ["--model-dir", model]
    one_error_line(run("search.py", *words, *more, "--index", tmp_path / "index", ok=None), expected)


def test_no_model_and_no_match(run, model, folder, tmp_path, tmp_path_factory, shapes):
    one_error_line(run(ROOT / "search.py", folder, cwd=tmp_path, ok=None), "sh scripts/quickstart.sh")
    words = ["--index", tmp_path / "index", "--model-dir"]
    run("search.py", folder, *words, model)
    other = exported(tmp_path_factory, shapes, seed=8)
    one_error_line(run("search.py", folder, *words, other, ok=None), "another model")
    (tmp_path / "other").mkdir()
    one_error_line(run("search.py", tmp_path / "other", *words, model, ok=None), "is the index of")
    assert "0 pictures" in run("search.py", tmp_path / "other", "--index", tmp_path / "i2", "--model-dir", model).stdout
