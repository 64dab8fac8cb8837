"""Dynamic network, static graph and Paddle Inference give the same bits; an export is whole or absent."""
import json
import os
import sys

import numpy as np
import paddle
import pytest
import yaml

import export_model
from deploy import differences
from deploy.inference_python import predictor as engine
from deploy.model_folder import FORMAT, read_manifest
from models import METHODS
from models import export as graphs
from tests.exported import BITS, SIZES, checkpoint, exported, one_error_line, pictures
from utils.errors import InputError
from utils.retrieval.hamming import unpack

PADDLE_2 = paddle.__version__.startswith("2.")


def same_bits(reference, codes):
    """Bits are equal where the code is not next to zero, and few are."""
    near = np.abs(reference) <= differences.MARGIN * np.abs(reference).max()
    print(f"{near.sum()} of {near.size} codes next to zero")
    assert near.mean() < 0.05
    assert ((reference >= 0) == (codes >= 0))[~near].all()


@pytest.mark.parametrize("name", METHODS)
def test_same_bits_dynamic_static_predictor(name, shapes, tmp_path_factory):
    folder = exported(tmp_path_factory, shapes, name)
    _, method = checkpoint(tmp_path_factory, shapes, name)
    split, images = pictures(shapes)
    with paddle.no_grad():
        dynamic = method.encode(paddle.to_tensor(images)).numpy()
        static = paddle.jit.load(str(folder / "inference"))
        static.eval()
        same_bits(dynamic, static(paddle.to_tensor(images)).numpy())
    predictor = engine.Predictor(str(folder), threads=1)
    codes = predictor.encode(images)
    assert codes.dtype == np.float32 and codes.shape == (16, BITS)
    same_bits(dynamic, codes)
    assert (unpack(predictor.codes(images), BITS) == np.where(codes >= 0, 1, -1)).all()
    assert len({row.tobytes() for row in predictor.codes(images)}) > 4  # the test images do tell bits apart
    same_bits(dynamic[:1], predictor.encode(images[:1]))  # another batch size
    assert predictor.encode(images[:0]).shape == (0, BITS)
    if "text" in METHODS[name].modalities:
        from utils.text import Vectorizer
        rows = Vectorizer.load(str(folder / "vectorizer.json")).transform(split.texts)
        with paddle.no_grad():
            same_bits(method.encode_text(paddle.to_tensor(rows)).numpy(), predictor.encode_text(rows))


@pytest.mark.parametrize("name", METHODS)
def test_the_graph_holds_what_codes_need_and_no_more(name, shapes, tmp_path_factory):
    """No target, classifier, bank or second view: as many numbers as the state that a fingerprint covers, at most."""
    folder = exported(tmp_path_factory, shapes, name)
    _, method = checkpoint(tmp_path_factory, shapes, name)
    state = {key: value.size for key, value in method.state_dict().items() if not key.startswith("text_encoder")}
    # a schedule's single number may be part of the code: HashNet's beta
    needed = sum(size for key, size in state.items() if size == 1 or not key.startswith(method.training_state))
    graph = paddle.jit.load(str(folder / "inference"))
    held = sum(value.size for value in graph.state_dict().values())
    assert 0 < held <= needed, (held, needed)


def test_manifest(shapes, tmp_path_factory):
    folder = exported(tmp_path_factory, shapes)
    _, method = checkpoint(tmp_path_factory, shapes)
    manifest = read_manifest(str(folder))
    stored = yaml.safe_load((folder / "inference.yml").read_text())
    assert stored["format"] == FORMAT == 2 and stored.pop("format") and len(stored.pop("digest")) == 64
    assert stored == manifest and list(manifest)[:2] == ["method", "bits"]
    assert (manifest["method"], manifest["bits"]) == ("hashnet", BITS)
    assert manifest["fingerprint"] == method.fingerprint(manifest["preprocess"])
    assert manifest["preprocess"]["crop_size"] == 48 and manifest["image"]["input"] == [3, 48, 48]
    assert manifest["dataset"]["name"] == "shapes" and manifest["dataset"]["sizes"] == SIZES
    assert len(manifest["dataset"]["classes"]) == 12 and "text" not in manifest
    assert ("inference.pdmodel" if PADDLE_2 else "inference.json") in manifest["files"]
    assert sorted(manifest["files"]) == sorted(set(os.listdir(folder)) - {"inference.yml"})


def test_predictor_refuses_wrong_shapes_and_texts(shapes, tmp_path_factory):
    predictor = engine.Predictor(str(exported(tmp_path_factory, shapes)), threads=1)
    with pytest.raises(InputError, match="image input"):
        predictor.encode(np.zeros([1, 3, 32, 32], "float32"))
    with pytest.raises(InputError, match="reads images only"):
        predictor.encode_text(np.zeros([1, 5], "float32"))
    cross = engine.Predictor(str(exported(tmp_path_factory, shapes, "djsrh")), threads=1)
    with pytest.raises(InputError, match="text input"):
        cross.encode_text(np.zeros([1, 5], "float32"))
    if not paddle.is_compiled_with_cuda():
        with pytest.raises(InputError, match="no GPU"):
            engine.Predictor(str(exported(tmp_path_factory, shapes)), device="gpu")


def test_export_beside_other_files_replaces_only_its_own(shapes, tmp_path_factory, tmp_path):
    path, _ = checkpoint(tmp_path_factory, shapes)
    (tmp_path / "train.log").write_text("kept")
    stale = "inference.json" if PADDLE_2 else "inference.pdmodel"
    (tmp_path / stale).write_text("of an older export")
    export_model.export(str(path), str(tmp_path))
    first = read_manifest(str(tmp_path))["fingerprint"]
    assert (tmp_path / "train.log").read_text() == "kept" and not (tmp_path / stale).exists()
    other, _ = checkpoint(tmp_path_factory, shapes, seed=4)
    export_model.export(str(other), str(tmp_path))
    assert engine.Predictor(str(tmp_path), threads=1).fingerprint != first
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


def test_failed_check_leaves_nothing_and_keeps_the_old_export(shapes, tmp_path_factory, tmp_path, monkeypatch):
    path, _ = checkpoint(tmp_path_factory, shapes)
    export_model.export(str(path), str(tmp_path / "old"))
    before = {name: (tmp_path / "old" / name).read_bytes() for name in os.listdir(tmp_path / "old")}
    encode = engine.Predictor.encode
    monkeypatch.setattr(engine.Predictor, "encode", lambda self, x: -encode(self, x))
    for folder in ("old", "new"):
        with pytest.raises(InputError, match="other bits"):
            export_model.export(str(path), str(tmp_path / folder))
    assert os.listdir(tmp_path) == ["old"]
    assert before == {name: (tmp_path / "old" / name).read_bytes() for name in os.listdir(tmp_path / "old")}


def test_damaged_or_mixed_files_are_refused(shapes, tmp_path_factory, tmp_path):
    path, _ = checkpoint(tmp_path_factory, shapes)
    export_model.export(str(path), str(tmp_path))
    weights = tmp_path / "inference.pdiparams"
    data = weights.read_bytes()
    weights.write_bytes(data[:-100])
    with pytest.raises(InputError, match="not the file that inference.yml describes"):
        engine.Predictor(str(tmp_path), threads=1)
    weights.unlink()
    with pytest.raises(InputError, match="missing"):
        engine.Predictor(str(tmp_path), threads=1)
    (tmp_path / "inference.yml").write_text("format: [")
    with pytest.raises(InputError, match="cannot read"):
        read_manifest(str(tmp_path))
    (tmp_path / "inference.yml").write_text(yaml.safe_dump({"format": 1, "method": "hashnet"}))
    with pytest.raises(InputError, match="a table with bits"):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize("arguments, words", [
    (dict(bit=16), ("--bit 16", f"{BITS}-bit")),
    (dict(method_name="dhn"), ("--method dhn", "hashnet"))])
def test_wrong_checkpoint(arguments, words, shapes, tmp_path_factory, tmp_path):
    path, _ = checkpoint(tmp_path_factory, shapes)
    with pytest.raises(InputError) as error:
        export_model.export(str(path), str(tmp_path / "x"), **arguments)
    assert all(word in str(error.value) for word in words) and not (tmp_path / "x").exists()


def test_command_and_old_format(shapes, tmp_path_factory, tmp_path, run):
    """Both names of a flag; .pdmodel from Paddle 3 gives the bits of .json, and Paddle 2 has no json."""
    path, _ = checkpoint(tmp_path_factory, shapes)
    wanted = "json" if PADDLE_2 else "pdmodel"
    done = run("export_model.py", "--pretrained", path, f"--save_inference_dir={tmp_path / 'x'}", "--format", wanted,
               ok=not PADDLE_2)
    if PADDLE_2:
        one_error_line(done, "pdmodel only")
        assert not (tmp_path / "x").exists()
        return
    assert "same bits" in done.stdout and (tmp_path / "x" / "inference.pdmodel").exists()
    _, images = pictures(shapes)
    json_codes = engine.Predictor(str(exported(tmp_path_factory, shapes)), threads=1).encode(images)
    same_bits(json_codes, engine.Predictor(str(tmp_path / "x"), threads=1).encode(images))


@pytest.mark.skipif(PADDLE_2, reason="Paddle 3 only")
def test_old_operators_are_taken_back():
    before = paddle._C_ops.tanh, paddle.static.Variable.tanh
    with graphs._old_operators():
        pass
    assert (paddle._C_ops.tanh, paddle.static.Variable.tanh) == before


@pytest.mark.parametrize("arguments, words", [
    ((), ("--pretrained",)),
    (("--pretrained", "nowhere.safetensors"), ("nowhere.safetensors",)),
    (("--pretraned", "x"), ("--pretrained",)),
    (("--pretrained", "x", "--format", "onnx"), ("onnx",))])
def test_bad_command_lines(arguments, words, run):
    one_error_line(run("export_model.py", *arguments, ok=None), *words)


def test_unwritable_folder(shapes, tmp_path_factory, tmp_path):
    path, _ = checkpoint(tmp_path_factory, shapes)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        export_model.export(str(path), str(tmp_path / "file" / "x"))


def test_deploy_imports_no_training_code(run, shapes, tmp_path_factory):
    folder = exported(tmp_path_factory, shapes)
    code = ("import sys; from deploy.inference_python.predictor import Predictor; "
            f"Predictor({str(folder)!r}, threads=1); "
            "import deploy.index, deploy.engines, deploy.data, utils.retrieval.code_store; "
            "print([m for m in ('models', 'paddleclas', 'ppcls', 'matplotlib', 'visualdl', 'utils.training.trainer') "
            "if m in sys.modules])")
    done = run("-c", code, program=[sys.executable])
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stdout


def test_reduced_decoding_travels_with_the_model(run, tmp_path):
    """A recipe with --decode reduced, pictures large enough to be reduced: one fingerprint from training to search."""
    from PIL import Image
    rng = np.random.default_rng(0)
    for i in range(24):
        folder = tmp_path / "photos" / ("a" if i % 2 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((320, 240), Image.BICUBIC).save(folder / f"{i}.jpg")
    out = tmp_path / "run"
    run("main_single_gpu.py", "--method", "hashnet", "--bit", 16, "--dataset", tmp_path / "photos",
        "--decode", "reduced", "--backbone", "ConvNet:width=8", "--no-pretrained", "--resize-size", 72,
        "--crop-size", 64, "--batch-size", 8, "--epoch", 1, "--output-dir", out)
    result = json.loads((out / "result.json").read_text())
    assert result["recipe"]["decode"] == "reduced"
    model = tmp_path / "model"
    run("export_model.py", "--pretrained", out / "best.safetensors", "--save-inference-dir", model)
    manifest = yaml.safe_load((model / "inference.yml").read_text())
    assert manifest["preprocess"]["decode"] == "reduced" and manifest["fingerprint"] == result["fingerprint"]
    # the search finds the picture itself at distance 0: queries and gallery are decoded alike
    for encoder in (("--model-dir", model), ("--pretrained", out / "best.safetensors")):
        done = run("predict.py", *encoder, "--gallery", tmp_path / "photos",
                   "--code-file", tmp_path / f"{len(encoder[0])}.npz", "--img", tmp_path / "photos" / "a" / "1.jpg",
                   "--json", "--save-path", tmp_path)
        found = {match["id"]: match["distance"] for match in json.loads(done.stdout)["queries"][0]["matches"]}
        assert found["a/1.jpg"] == 0
