"""The manifest of a model folder: whatever in it is not what was written, or fits nothing, is refused by name."""
import copy
import json
import shutil

import numpy as np
import pytest
import yaml

from deploy.model_folder import MANIFEST, new_folder, open_vectorizer, read_manifest, read_trained_on, write_manifest
from tests.conftest import ROOT
from tests.exported import checkpoint, exported, one_error_line
from tests.manifests import edited, manifest_of
from tests.test_plain_values import bombs
from utils.errors import InputError
from utils.text import Vectorizer

BEFORE = ROOT / "tests" / "before" / "model"


@pytest.fixture
def folder(tmp_path):
    """A made-up cross-modal model whose files say nothing, with all that a manifest may hold."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("inference.json", "inference.pdiparams", "text.json", "text.pdiparams"):
        (folder / name).write_text(name)
    Vectorizer("bow", ["a", "b"]).save(folder / "vectorizer.json")
    np.save(folder / "trained_on.npy", np.arange(3, dtype=np.uint64))
    write_manifest(str(folder), {
        **manifest_of(), "text": {"prefix": "text", "dim": 2, "vectorizer": "vectorizer.json"},
        "trained_on": {"record": {"name": "shapes", "sha256": {"train": "x"}}, "ids": "trained_on.npy"},
        "onednn": {"image": {"flips": 0, "codes": 64}, "text": {"flips": 1, "codes": 64}}})
    return folder


def refused(folder, *words):
    with pytest.raises(InputError) as caught:
        read_manifest(str(folder))
    message = str(caught.value)
    assert message.startswith(str(folder / MANIFEST)) or f"cannot read {folder / MANIFEST}" in message
    assert "\n" not in message and all(word in message for word in words), message


def store(folder, content, digest=True):
    """Write a manifest as it is, with the digest that it would have."""
    if digest and isinstance(content, dict):
        from deploy import model_folder
        content = {key: value for key, value in content.items() if key != "digest"}
        content["digest"] = model_folder._digest({key: content[key] for key in content if key != "format"})
    (folder / MANIFEST).write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def test_what_was_written_is_read(folder):
    manifest = read_manifest(str(folder))
    assert {key: manifest[key] for key in manifest_of()} == manifest_of()
    assert open_vectorizer(str(folder), manifest).vocabulary == ["a", "b"]
    assert read_trained_on(str(folder), manifest)[1].tolist() == [0, 1, 2]


def test_every_changed_line_is_noticed(folder):
    lines = (folder / MANIFEST).read_text().splitlines()
    for number, line in enumerate(lines):
        for change in (lines[:number] + lines[number + 1:],
                       [*lines[:number], line.replace("0", "1") if "0" in line else line + "0", *lines[number + 1:]]):
            if change != lines:
                (folder / MANIFEST).write_text("\n".join(change) + "\n")
                refused(folder)


@pytest.mark.parametrize("key, value, words", [
    (("preprocess", "resize_size"), 48, ("preprocess is not that of its recipe",)),
    (("preprocess", "crop_size"), "32", ("preprocess.crop_size is '32', expected a whole number from 1 to",)),
    (("preprocess", "std"), [0, 1, 1], ("preprocess.std[0] is 0",)), (("preprocess", "mean"), [1], ("a list of 3",)),
    (("preprocess", "mean"), [float("nan"), 0, 0], ("mean[0] is nan",)), (("preprocess", "decode"), "x", ("decode",)),
    (("preprocess",), None, ("preprocess is None",)), (("preprocess", "more"), 1, ("without 'more'",)),
    (("fingerprint",), None, ("fingerprint is None, expected 16 hex digits",)), (("fingerprint",), "", ("16 hex",)),
    (("fingerprint",), 1234567890123456, ("16 hex",)), (("files",), {}, ("files is a table of 0 keys",)),
    (("files",), None, ("files is None",)), (("files", "inference.json"), None, ("files.inference.json is None",)),
    (("files", "../x"), "0" * 64, ("a key of files is '../x'",)),
    (("files", "/etc/passwd"), "0" * 64, ("/etc/passwd",)),
    (("files", "inference.json"), KeyError, ("lists no inference.json or inference.pdmodel with",)),
    (("files", "text.pdiparams"), KeyError, ("lists no text.json or text.pdmodel with text.pdiparams",)),
    (("files", "vectorizer.json"), KeyError, ("names vectorizer.json and has no SHA-256",)),
    (("files", "trained_on.npy"), KeyError, ("names trained_on.npy and has no SHA-256",)),
    (("image", "prefix"), "../../other/inference", ("image.prefix is", "expected one of inference")),
    (("image", "prefix"), "/tmp/inference", ("image.prefix",)), (("image", "prefix"), "text", ("image.prefix",)),
    (("image", "input"), [3, 64, 64], ("image.input is [3, 64, 64]",)), (("image", "input"), [], ("image.input",)),
    (("image", "input"), [3, -1, 32], ("image.input[1] is -1",)), (("image", "input"), "332", ("image.input",)),
    (("image", "input"), [10 ** 12], ("image.input[0]",)), (("image",), [], ("image is a list",)),
    (("text", "vectorizer"), "../vectorizer.json", ("text.vectorizer",)), (("text", "dim"), 0, ("text.dim is 0",)),
    (("text",), "x", ("text is 'x'",)), (("trained_on", "ids"), "/etc/passwd", ("trained_on.ids",)),
    (("trained_on", "record"), [], ("trained_on.record",)), (("trained_on",), 3, ("trained_on is 3",)),
    (("engine",), "onnx", ("lists no inference.onnx",)),
    (("engine",), "x", ("engine is 'x', expected one of paddle",)),
    (("engine",), ["paddle"], ("engine is a list",)), (("bits",), 16, ("bits is not that of its recipe",)),
    (("bits",), "8", ("bits is '8'",)), (("bits",), True, ("bits is True",)), (("method",), "../x", ("method is",)),
    (("method",), "dhn", ("method is not that of its recipe",)), (("dataset",), None, ("dataset is None",)),
    (("dataset", "classes"), "abc", ("dataset.classes",)), (("dataset", "sizes"), [1], ("dataset.sizes",)),
    (("dataset", "topk"), "all", ("dataset.topk",)), (("dataset", "root"), 3, ("dataset.root",)),
    (("dataset", "name"), {}, ("dataset.name",)), (("recipe",), [1], ("recipe is a list",)),
    (("recipe", "ap"), 3, ("recipe.ap",)), (("recipe", "bit"), [8], ("recipe.bit",)),
    (("recipe", "optimizer"), "none such", ("optimizer = 'none such'",)), (("recipe", "x"), [], ("recipe.x",)),
    (("onednn", "image", "flips"), "0", ("onednn.image.flips",)), (("onednn", "image"), {}, ("onednn.image",)),
    (("onednn",), [], ("onednn is a list",)), (("precision",), 8, ("precision is 8",)), (("int8",), True, ("int8",)),
    (("made_of",), 3, ("made_of is 3",)), (("onnx",), {"opset": "13", "converter": None}, ("onnx.opset",)),
    (("more",), 1, ("'more'",)),
    (("format",), 3, ("format 3", "reads formats 1 and 2")), (("format",), "2", ("format '2'",)),
    (("format",), True, ("format",)), (("format",), [2], ("format [2]",))])
def test_a_value_that_fits_nothing_is_named(folder, key, value, words):
    content = yaml.safe_load((folder / MANIFEST).read_text())
    inside = content
    for part in key[:-1]:
        inside = inside[part]
    if value is KeyError:
        del inside[key[-1]]
    else:
        inside[key[-1]] = value
    store(folder, content)
    refused(folder, *words)


@pytest.mark.parametrize("key", ["digest", "files", "fingerprint", "recipe", "dataset", "image", "preprocess", "bits"])
def test_what_is_missing_is_noticed(folder, key):
    content = yaml.safe_load((folder / MANIFEST).read_text())
    del content[key]
    store(folder, content, digest=False)
    refused(folder)


@pytest.mark.parametrize("text", [bombs()["aliases"], bombs()["merges"], "[" * 9000, "format: " + "9" * 5000, "a: \xff",
                                  "format: 2020-13-45", "- 1", "", "format: !!timestamp 2020-13-45", "{[1]: 2}"])
def test_hostile_manifests(folder, text):
    (folder / MANIFEST).write_text(text, encoding="latin-1")
    refused(folder)


def test_a_folder_of_before_opens_with_a_note_and_cannot_be_made_from_a_new_one(folder, tmp_path, capsys):
    shutil.copytree(BEFORE, tmp_path / "old")
    for _ in range(2):
        assert read_manifest(str(tmp_path / "old"))["fingerprint"] == "46ec759541413bd5"
    assert capsys.readouterr().err.count("would not be noticed") == 1
    old = (tmp_path / "old" / MANIFEST).read_text()
    (tmp_path / "old" / MANIFEST).write_text(old.replace("resize_size: 40", "resize_size: 48", 1))
    refused(tmp_path / "old", "preprocess is not that of its recipe")
    new = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(new.replace("format: 2", "format: 1", 1))
    refused(folder, "not what was written")


def test_only_a_manifest_that_can_be_read_is_written(folder):
    before = (folder / MANIFEST).read_bytes()
    for change in ({"fingerprint": None}, {"more": 1}, {"image": {"prefix": "../x", "input": [3, 32, 32]}}):
        with pytest.raises(InputError):
            write_manifest(str(folder), {**manifest_of(), **change})
    assert (folder / MANIFEST).read_bytes() == before


def test_files_that_fit_their_digests_and_nothing_else(folder):
    """Somebody who writes digests can exchange the files, too: they are checked as such."""
    manifest = copy.deepcopy(read_manifest(str(folder)))
    (folder / "vectorizer.json").write_text(json.dumps(Vectorizer("bow", ["a"]).to_dict()))
    with pytest.raises(InputError, match="vectorizer.json has 1 words, the model reads 2"):
        open_vectorizer(str(folder), manifest)
    start = b"\x93NUMPY\x01\x00"
    for data in (b"", start, b"x" * 200, start + b"\xff\xff" + b"(" * 65535, start + b"\x76\x00" +
                 b"{'descr': '<u8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n",
                 start + b"\x76\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"):
        (folder / "trained_on.npy").write_bytes(data)
        with pytest.raises(InputError, match="trained_on.npy is damaged"):
            read_trained_on(str(folder), manifest)
    np.save(folder / "trained_on.npy", np.zeros((2, 2)))
    with pytest.raises(InputError, match=r"expected uint64 \[n\]"):
        read_trained_on(str(folder), manifest)


def test_the_commands_refuse_a_changed_folder(run, shapes, tmp_path_factory, tmp_path):
    shutil.copytree(exported(tmp_path_factory, shapes), tmp_path / "model")
    path = tmp_path / "model" / MANIFEST
    path.write_text(path.read_text().replace("resize_size: 56", "resize_size: 64"))
    for command in ("deploy/inference_python/infer.py", "predict.py", "deploy/onnx/convert.py"):
        one_error_line(run(command, "--model-dir", tmp_path / "model", ok=False), "not what was written", path)


def test_a_graph_that_is_not_listed_is_not_taken(shapes, tmp_path_factory, tmp_path):
    from deploy.engines import open_model
    folder = tmp_path / "model"
    shutil.copytree(exported(tmp_path_factory, shapes), folder)
    listed = next(name for name in ("inference.json", "inference.pdmodel") if (folder / name).exists())
    other = {"inference.json": "inference.pdmodel", "inference.pdmodel": "inference.json"}[listed]
    (folder / other).write_text("not a graph")
    assert open_model(str(folder), threads=1).bits


def test_codes_of_texts_belong_to_a_vectoriser(run, shapes, tmp_path_factory, tmp_path):
    from models import METHODS
    name = next(name for name, method in METHODS.items() if "text" in method.modalities)
    folder, codes = tmp_path / "model", tmp_path / "codes.npz"
    shutil.copytree(exported(tmp_path_factory, shapes, name), folder)
    ask = ("predict.py", "--model-dir", folder, "--search", "text", "--code-file", codes, "--save-path", tmp_path)
    run(*ask)
    vectorizer = Vectorizer.load(folder / "vectorizer.json")
    vectorizer.vocabulary.reverse()
    vectorizer.save(folder / "vectorizer.json")
    edited(folder, lambda manifest: None)
    one_error_line(run(*ask, ok=False), "another text vectoriser", "--rebuild")


# two at a time, and killed ones ------------------------------------------------------------------
HOLD = """
import sys, time
from utils.files import sole_writer
with sole_writer(sys.argv[1], ""):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def held():
    """``held(path)``: a process that is making the product ``path``; it is killed at the end, or by ``kill``."""
    import subprocess
    import sys
    started = []

    def hold(path):
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_one_at_a_time(run, shapes, tmp_path_factory, tmp_path, held):
    path, _ = checkpoint(tmp_path_factory, shapes)
    model, codes = exported(tmp_path_factory, shapes), tmp_path / "codes.npz"
    export = ("export_model.py", "--pretrained", path, "--save-inference-dir", tmp_path / "model")
    infer = ("deploy/inference_python/infer.py", "--model-dir", model, "--code-file", codes)
    convert = ("deploy/onnx/convert.py", "--model-dir", model, "--save-dir", tmp_path / "onnx")
    for words, product, flag in ((export, tmp_path / "model", "--save-inference-dir"), (infer, codes, "--code-file"),
                                 (convert, tmp_path / "onnx", "--save-dir")):
        process = held(product)
        done = run(*words, ok=False)
        if "onnxruntime is not installed" not in done.stderr:
            one_error_line(done, f"{product} is being changed by process {process.pid} on", flag)
        process.kill()
        process.wait()
    # the dead own nothing, and what they had not finished is gone
    for name in (".codes.abc.part.npz", ".model.abc.part"):
        (tmp_path / name).mkdir() if name == ".model.abc.part" else (tmp_path / name).write_text("half")
    run(*export)
    run(*infer)
    (tmp_path / ".onnx.lock").unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codes.npz", "model"]


def test_the_old_model_comes_back_where_it_was_put_aside(folder, tmp_path):
    """Where two folders cannot be exchanged in one step, an export may be killed between two renames."""
    folder.rename(tmp_path / ".model.abc.old")
    with pytest.raises(RuntimeError), new_folder(str(folder)):
        assert read_manifest(str(folder))["bits"] == 8
        raise RuntimeError
    assert read_manifest(str(folder))["bits"] == 8 and [path.name for path in tmp_path.iterdir()] == ["model"]
