"""``--decode``: part of a model's identity, and the same pixels in evaluation, export, indexing and queries."""
import numpy as np
import pytest

import export_model
from deploy.inference_python import infer
from deploy.inference_python.predictor import Predictor
from models import METHODS, find_method
from models.encoder import LiveEncoder, checkpoint_encoder
from tests.exported import SIZES, checkpoint
from utils import transforms
from utils.config import RECIPE, parse
from utils.datasets import load_protocol
from utils.errors import InputError
from utils.picture_loader import PictureLoader
from utils.retrieval.codes import CodeFile
from utils.retrieval.encode import encode
from utils.training import evaluator
from utils.training.checkpoint import load_checkpoint, save_checkpoint
from utils.training.features import FeatureSource


def stored(made, folder, **changes):
    """A copy of a checkpoint with another recipe (a value of None takes the key out)."""
    path, method = made
    tensors, meta = load_checkpoint(str(path))
    meta["recipe"].update(changes)
    meta["recipe"] = {key: value for key, value in meta["recipe"].items() if key != "decode" or value is not None}
    meta["fingerprint"] = method.fingerprint(transforms.recipe_spec(meta["recipe"]))
    save_checkpoint(str(folder / "best.safetensors"), tensors, meta)
    return str(folder / "best.safetensors"), meta


def test_reduced_decoding_is_one_path_from_checkpoint_to_query(shapes, tmp_path, tmp_path_factory):
    """Pictures of 128 pixels, resized to 56: reduced to 4/8."""
    made = checkpoint(tmp_path_factory, shapes)
    path, meta = stored(made, tmp_path, decode="reduced")
    split = load_protocol("shapes", root=str(shapes), **SIZES).database.select(np.arange(40))

    def as_in_training(recipe):
        run = {"num_workers": 0, "feature_cache": "none"}
        evaluate = evaluator.Evaluator(lambda: LiveEncoder(made[1], {**meta, "recipe": recipe}), split, split, recipe,
                                       run, FeatureSource(made[1], recipe, run, len(split)))
        return evaluate()["database"]["image"].codes
    trained, full = as_in_training(meta["recipe"]), as_in_training({**meta["recipe"], "decode": "full"})
    changed = np.unpackbits(trained ^ full, axis=1)
    assert 0 < changed.sum() < 0.1 * changed.size  # other pixels, near ones

    network = checkpoint_encoder(path)
    assert network.fingerprint == meta["fingerprint"] != made[1].fingerprint(transforms.preprocess_spec(56, 48))
    export_model.export(path, str(tmp_path / "model"))
    engine = Predictor(str(tmp_path / "model"), threads=1)
    assert engine.fingerprint == meta["fingerprint"] and engine.manifest["preprocess"]["decode"] == "reduced"
    for model in (network, engine):
        codes, positions, broken = encode(model, split, load=PictureLoader(model.manifest["preprocess"]), batch_size=16)
        assert len(positions) == 40 and not broken
        assert np.unpackbits(codes ^ trained, axis=1).sum() <= 1  # last digits of the engines

    name, item = infer.query_image(infer.parse(["--img-path", split.images.path(3)]), None,
                                   engine.manifest["preprocess"])
    assert np.array_equal(engine.codes(infer.model_input(engine, item)), codes[3:4]) and name == split.images.path(3)


def test_a_checkpoint_from_before_means_full_decoding(shapes, tmp_path, tmp_path_factory):
    made = checkpoint(tmp_path_factory, shapes)
    path, meta = stored(made, tmp_path, decode=None)
    assert "decode" not in meta["recipe"]
    network = checkpoint_encoder(path)
    assert network.fingerprint == made[1].fingerprint(transforms.preprocess_spec(56, 48))
    assert "decode" not in network.manifest["preprocess"]
    recipe, _, _ = parse(["--eval", "--pretrained", path], METHODS, find_method, base=lambda _: meta["recipe"])
    assert recipe["decode"] == "full"


def test_codes_of_another_decoding_are_refused(shapes, tmp_path, tmp_path_factory):
    made = checkpoint(tmp_path_factory, shapes)
    path, _ = stored(made, tmp_path, decode="reduced")
    full = made[1].fingerprint(transforms.preprocess_spec(56, 48))
    CodeFile(np.zeros((1, 4), np.uint8), 32, ["a"], None, full, {}).save(str(tmp_path / "codes.npz"))
    with pytest.raises(InputError, match="codes.npz"):
        CodeFile.load(str(tmp_path / "codes.npz"), fingerprint=checkpoint_encoder(path).fingerprint)


def test_the_key_and_its_values():
    recipe, _, _ = parse(["--decode", "reduced"], METHODS, find_method, recipe_dir="nowhere")
    assert recipe["decode"] == "reduced" and transforms.recipe_spec(recipe)["decode"] == "reduced"
    assert RECIPE["decode"].default == "full"
    with pytest.raises(InputError, match="reduced"):
        parse(["--decode", "half"], METHODS, find_method, recipe_dir="nowhere")
