"""What every method must keep, whatever it is: chosen by what it declares. Tests of a paper's formulas stand apart.

A method of your own: ``METHOD=path/to/six.py python -m pytest tests/test_methods.py tests/test_parallel_losses.py``.
"""
import inspect

import numpy as np
import paddle
import pytest

from models import METHODS
from models.backbones.convnet import ConvNet
from models.build import load_method
from models.method import DataFacts, HashMethod
from tests.tiny import CASES, IDS, NAMES, TinyBackbone, all_finite, random_batch, spread_codes, tensors
from utils.config import RECIPE
from utils.errors import InputError
from utils.settings import Setting
from utils.training import amp, checkpoint
from utils.transforms import recipe_spec

BITS, TRAIN, CLASSES, TEXT = 16, 12, 5, 7
every_method = pytest.mark.parametrize("name", NAMES)
every_case = pytest.mark.parametrize("name, variant", CASES, ids=IDS)


def build(name, variant=None, seed=0, backbone=None, facts=DataFacts(TRAIN, CLASSES, TEXT), bits=BITS, **more):
    paddle.seed(seed)
    method_class = METHODS[name]
    return method_class(backbone or TinyBackbone(), bits, facts, **{**method_class.small, **(variant or {}), **more})


def batch_of(name, n=6, seed=0):
    return tensors(random_batch(METHODS[name], n, TRAIN, CLASSES, TEXT, seed))


def learns_from_labels(name, variant):
    return METHODS[name].needs_labels(METHODS[name].check_settings(variant))


# what it says of itself -----------------------------------------------------------------------------------------
@every_method
def test_declarations(name):
    method = METHODS[name]
    assert method.name == name and method.paper and inspect.getdoc(inspect.getmodule(method))
    assert method.kind in ("supervised", "unsupervised") and method.coupling in ("pairs", "rows")
    assert method.bit_lengths and all(1 <= bits <= 1024 for bits in method.bit_lengths)
    assert method.views >= 1 and method.feature_kind in ("pooled", "tokens")
    assert method.modalities in (("image",), ("image", "text"))
    assert isinstance(method.training_state, tuple)
    for group in (method.small, *method.variants):
        method.check_settings(group)
    for key in method.lite:
        assert key in method.settings or key in RECIPE
    for setting in method.settings.values():
        assert isinstance(setting, Setting) and setting.help and setting.convert(setting.default) == setting.default


@every_method
def test_settings_are_attributes_and_defaults_stand_once(name):
    declared = {key: setting.default for key, setting in METHODS[name].settings.items()}
    plain, named = build(name), build(name, **{key: value for key, value in declared.items()
                                               if key not in METHODS[name].small})
    for key, value in {**declared, **METHODS[name].small}.items():
        assert getattr(plain, key) == getattr(named, key) == value
    assert {key: list(value.shape) for key, value in plain.state_dict().items()} == \
        {key: list(value.shape) for key, value in named.state_dict().items()}


@every_method
def test_an_unknown_setting_is_named(name):
    with pytest.raises(InputError, match="no setting sixth_sense"):
        build(name, sixth_sense=1)


# training -------------------------------------------------------------------------------------------------------
@every_case
def test_loss_is_named_finite_terms_that_reach_the_head(name, variant):
    method, batch = build(name, variant), batch_of(name)
    spread_codes(method)
    terms = method.loss(batch)
    assert "total" in terms and all(value.size == 1 and value.dtype == paddle.float32 for value in terms.values())
    assert all_finite(method, terms)
    assert any(float(p.grad.abs().max()) > 0 for p in method.head_parameters() if p.grad is not None)
    trained = {id(p) for group in method.param_groups(10.0) for p in group["params"]}
    assert {id(p) for p in method.head_parameters()} <= trained


@every_case
@pytest.mark.parametrize("n", [1, 2, 3])
def test_small_batches_are_finite(name, variant, n):
    for scale in (0.0, 1.0, 100.0):
        method, batch = build(name, variant), batch_of(name, n)
        scaled = {key: scale * value if key.startswith("image") else value for key, value in batch.items()}
        assert all_finite(method, method.loss(scaled))


@every_case
def test_labels_are_asked_for_where_they_are_learnt_from(name, variant):
    facts = DataFacts(TRAIN, 0, TEXT)
    if learns_from_labels(name, variant):
        with pytest.raises(InputError, match="labels"):
            build(name, variant, facts=facts)
        return
    with_labels, without = batch_of(name), batch_of(name)
    del without["label"]
    one, other = (build(name, variant, facts=facts).loss(batch) for batch in (with_labels, without))
    assert {key: float(value) for key, value in one.items()} == {key: float(value) for key, value in other.items()}


@every_case
def test_cached_features_train_as_pictures_do(name, variant):
    method, batch = build(name, variant, frozen=True), batch_of(name)
    features = {key: value for key, value in batch.items() if not key.startswith("image")}
    for view in range(METHODS[name].views):
        features[f"feature{view}"] = method.backbone_features(batch[f"image{view}"])
    one = float(method.loss(batch)["total"])
    other = float(build(name, variant, frozen=True).loss(features)["total"])
    assert one == pytest.approx(other, rel=1e-6)


@every_case
def test_training_lowers_the_loss(name, variant):
    method, batch = build(name, variant, frozen=True), batch_of(name, 8)
    batch["label"] = paddle.nn.functional.one_hot(paddle.arange(8) % CLASSES, CLASSES)
    if METHODS[name].views > 1:
        batch["image1"] = batch["image0"] + 0.1 * batch["image1"]
    spread_codes(method)
    optimizer = paddle.optimizer.Adam(0.01, parameters=[p for p in method.parameters() if not p.stop_gradient])
    losses = []
    for step in range(60):
        method.start_step(0, 60)
        total = method(batch)["total"]
        total.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(total))
    assert np.mean(losses[-5:]) < np.mean(losses[:2])


@every_case
def test_same_seed_same_method_another_seed_another(name, variant):
    one, same, other = (build(name, variant, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all((one[key].numpy() == same[key].numpy()).all() for key in one)
    assert any((one[key].numpy() != other[key].numpy()).any() for key in one)


def job(name, variant, first, last, seed=0, start=None, end=None):
    """Train as one process would, from and to a checkpoint; the state after the last step."""
    with paddle.utils.unique_name.guard():  # optimizer state is stored under parameter names
        method = build(name, variant, seed=seed)
        optimizer = paddle.optimizer.Adam(0.01, parameters=method.param_groups(10.0))
        if start:
            checkpoint.restore(start, method, optimizer)
        steps(method, optimizer, name, first, last)
        if end:
            checkpoint.save(end, method, optimizer, about(name, variant), STATE)
    return {key: value.numpy() for key, value in method.state_dict().items()}


def steps(method, optimizer, name, first, last):
    for step in range(first, last):
        if step % 3 == 0:
            method.start_epoch(step // 3, 2)
        method.start_step(step, 6)
        method(batch_of(name, 6, seed=step))["total"].backward()
        optimizer.step()
        optimizer.clear_grad()


def about(name, variant):
    recipe = {key: setting.default for key, setting in {**RECIPE, **METHODS[name].settings}.items()}
    recipe.update({**METHODS[name].small, **variant, "method": name, "bit": BITS, "backbone": "ConvNet:width=2",
                   "pretrained_backbone": False, "crop_size": 16, "resize_size": 16})
    meta = {"recipe": recipe, "data": {"num_train": TRAIN, "num_classes": CLASSES, "text_dim": TEXT}, "classes": []}
    return checkpoint.About(meta, recipe_spec(recipe))


STATE = {"epoch": 1, "best_score": None, "best_epoch": None, "history": [], "seconds": 1.5, "images": 6,
         "started_from": None}


@every_case
def test_a_resumed_run_goes_on_exactly(name, variant, tmp_path):
    """All that training depends on is in the checkpoint: weights, banks, targets, whatever was drawn."""
    path = str(tmp_path / "latest.safetensors")
    whole = job(name, variant, 0, 6)
    job(name, variant, 0, 3, end=path)
    again = job(name, variant, 3, 6, seed=7, start=path)
    assert again.keys() == whole.keys()
    for key, value in whole.items():
        np.testing.assert_array_equal(again[key], value, err_msg=key)


# codes ----------------------------------------------------------------------------------------------------------
@every_case
def test_codes(name, variant):
    for bits in (1, 7, BITS):
        method = build(name, variant, bits=bits)
        method.eval()
        image = batch_of(name)["image0"]
        code = method.encode(image)
        assert code.dtype == paddle.float32 and code.shape == [6, bits] and bool(paddle.isfinite(code).all())
        np.testing.assert_array_equal(method.encode(image).numpy(), code.numpy())
        np.testing.assert_allclose(method.encode(image[:2]).numpy(), code[:2].numpy(), rtol=1e-4, atol=1e-5)
        if "text" in method.modalities:
            assert method.encode_text(batch_of(name)["text"]).shape == [6, bits]


@every_case
def test_best_checkpoint_gives_the_same_codes_without_what_training_needed(name, variant, tmp_path):
    paddle.seed(3)
    method = build(name, variant, backbone=ConvNet(2, 16), seed=3)
    method.loss({**batch_of(name), **{f"image{view}": paddle.randn([6, 3, 16, 16]) for view in range(method.views)}})
    method.eval()
    path = str(tmp_path / "best.safetensors")
    checkpoint.save(path, method, None, about(name, variant), STATE)
    arrays, meta = checkpoint.load_checkpoint(path)
    assert not any(key[len("model/"):].startswith(tuple(method.training_state)) for key in arrays)
    loaded, _ = load_method(path)
    image = paddle.randn([4, 3, 16, 16])
    np.testing.assert_array_equal(loaded.encode(image).numpy(), method.encode(image).numpy())
    preprocess = recipe_spec(meta["recipe"])
    assert loaded.fingerprint(preprocess) == meta["fingerprint"] == method.fingerprint(preprocess)


@every_method
def test_a_frozen_backbone_stays_as_it_is(name):
    method = build(name, backbone=ConvNet(2, 16), frozen=True)
    method.train()
    before = {key: value.numpy() for key, value in method.backbone.state_dict().items()}
    batch = {**batch_of(name), **{f"image{view}": paddle.randn([6, 3, 16, 16]) for view in range(method.views)}}
    optimizer = paddle.optimizer.SGD(0.1, parameters=[p for g in method.param_groups() for p in g["params"]])
    method(batch)["total"].backward()
    optimizer.step()
    assert all((before[key] == value.numpy()).all() for key, value in method.backbone.state_dict().items())


@every_method
def test_mixed_precision_is_for_the_backbone_only(name, monkeypatch):
    """Whatever a method computes above its features stays in float32."""
    inside = []

    class Cast:
        def __init__(self, level, dtype):
            assert (level, dtype) == ("O1", "bfloat16")

        def __enter__(self):
            inside.append(True)

        def __exit__(self, *_):
            inside.append(False)

    monkeypatch.setattr(paddle.amp, "auto_cast", Cast)
    method, batch = build(name), batch_of(name)
    plain = float(method.loss(batch)["total"])
    method = build(name)
    with amp.backbone(method, "bf16"):
        assert float(method.loss(batch)["total"]) == pytest.approx(plain, rel=1e-6)
    assert inside == [True, False] * METHODS[name].views
    assert "backbone_features" not in vars(method)


@every_method
def test_only_the_contract_is_overridden(name):
    """A method that overrides what the trainer relies on may break it; this names what to look at."""
    final = {"forward", "encode_features", "fingerprint", "head_parameters", "view", "check_settings", "fixed_features"}
    assert not final & set(vars(METHODS[name]))
    assert callable(METHODS[name].code) and METHODS[name].code is not HashMethod.code
    assert METHODS[name].loss is not HashMethod.loss
