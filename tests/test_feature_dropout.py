"""feature_dropout: the weights of the backbone are frozen, and its dropout is not."""
import types

import paddle
import pytest

from models import METHODS
from models.backbones.adapt import adapt, dropout_layers
from models.backbones.build import build_backbone
from models.method import DataFacts
from tests.tiny import TinyBackbone
from utils.errors import InputError
from utils.training import trainer

METHOD = next(method for method in METHODS.values() if method.kind == "supervised" and method.feature_kind == "pooled")


@pytest.fixture(scope="module")
def alexnet():
    return build_backbone("AlexNet", pretrained=False, image_size=64)


def build(backbone, frozen, feature_dropout):
    return METHOD(backbone, 16, DataFacts(20, 5), frozen=frozen, feature_dropout=feature_dropout, **METHOD.small)


@pytest.mark.parametrize("dropout", [True, False])
def test_features_of_a_picture_are_new_in_every_step_of_training(alexnet, dropout):
    method = build(alexnet, True, dropout)
    image = paddle.randn([2, 3, 64, 64])
    for mode, new in (("train", dropout), ("eval", False), ("train", dropout)):
        getattr(method, mode)()
        one, two = (method.backbone_features(image).numpy() for _ in range(2))
        assert (one != two).any() == new
    assert method.fixed_features is not dropout


def test_it_needs_a_frozen_backbone_with_dropout(alexnet):
    for backbone, frozen in ((alexnet, False), (TinyBackbone(), True)):
        with pytest.raises(InputError, match="feature_dropout"):
            build(backbone, frozen, True)


def test_dropout_of_vgg_is_found():
    """A hook on fc6 and fc7."""
    class Vgg(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.conv_block_5, self.drop = paddle.nn.Conv2D(1, 1, 1), paddle.nn.Dropout(0.5)
            self.fc1, self.fc2 = paddle.nn.Linear(2, 2), paddle.nn.Linear(2, 2)

    net = Vgg()
    adapt(net, 224)
    assert dropout_layers(net) == [net.fc1, net.fc2]


@pytest.mark.parametrize("dropout", [True, False])
def test_features_are_cached_without_it_only(alexnet, dropout):
    train = types.SimpleNamespace(features=None, labels=None)
    recipe = {"augment": "none", "cache_features": True, "feature_norm": "none", "cached_views": 0}

    def source(split):
        assert split is train and not dropout
        return "features"

    training = trainer.Training(build(alexnet, True, dropout), train, recipe, {"resume": None}, None, {}, source)
    assert trainer.training_features(training, None) == ((None, 0) if dropout else ("features", 0))


def test_cached_views_and_dropout_exclude_each_other(alexnet):
    recipe = {"amp": "none", "batch_size": 2, "drop_last": False, "cached_views": 2}
    with pytest.raises(InputError, match="cached_views.*feature_dropout"):
        trainer.start(build(alexnet, True, True), range(8), recipe, {}, None)
