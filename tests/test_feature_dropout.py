"""feature_dropout: the weights of the backbone are frozen, and its dropout is not."""
import numpy as np
import paddle
import pytest

from models import METHODS
from models.backbones.build import build_backbone
from models.backbones.networks import build_net, dropout_layers
from models.method import DataFacts
from tests.tiny import TinyBackbone
from utils.errors import InputError

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
    net, _ = build_net("VGG11", "VGG11", {}, 224)
    assert len(dropout_layers(net)) == 2


def test_features_are_not_cached(run, tmp_path, shapes):
    """The loss of an epoch without learning differs from that of cached features; cached views are refused."""
    flags = ["--method", METHOD.name, "--dataset", "shapes", "--data-path", shapes, "--num-train", 64, "--num-query", 16,
             "--num-database", 160, "--backbone", "AlexNet", "--no-pretrained", "--freeze-backbone", "--crop-size", 32,
             "--resize-size", 32, "--augment", "none", "--bit", 12, "--epoch", 1, "--learning-rate", 0, "--device", "cpu"]
    losses = []
    for more in ([], ["--feature-dropout"]):
        done = run("main_single_gpu.py", *flags, *more, "--output-dir", tmp_path / f"run{len(more)}")
        losses += [line.split("loss: ")[1].split(",")[0] for line in done.stdout.splitlines() if "loss: " in line][:1]
    assert losses[0] != losses[1]
    done = run("main_single_gpu.py", *flags, "--feature-dropout", "--cached-views", 2, "--output-dir", tmp_path / "c",
               ok=False)
    assert done.returncode == 2 and "cached_views" in done.stderr and not (tmp_path / "c").exists()
