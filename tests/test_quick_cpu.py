"""The quicker layers give the bits that Paddle's own give: outputs and all gradients."""
import copy

import numpy as np
import paddle
import pytest
from paddle import nn

from models.backbones import build
from models.backbones.build import build_backbone
from models.backbones.quick_cpu import QUICK, quicken


def results(layer, picture):
    x = paddle.to_tensor(picture, stop_gradient=False)
    y = layer(x)
    weight = paddle.to_tensor(np.random.default_rng(1).standard_normal(y.shape).astype("float32"))
    grads = paddle.grad((y * weight).sum(), [x, *layer.parameters()])
    return [value.numpy() for value in (y, *grads)]


@pytest.mark.parametrize("layer", [
    lambda: nn.Conv2D(6, 8, 3), lambda: nn.Conv2D(6, 8, 3, stride=2, padding=1), lambda: nn.Conv2D(6, 8, 1),
    lambda: nn.Conv2D(6, 12, 3, groups=6, padding=[1, 0]), lambda: nn.Conv2D(6, 8, 3, dilation=2, padding=2, groups=2),
    lambda: nn.Conv2D(6, 8, 3, padding="SAME"), lambda: nn.Conv2D(6, 8, 3, padding=1, padding_mode="reflect"),
    lambda: nn.Conv2D(6, 8, 3, bias_attr=False), lambda: nn.MaxPool2D(3, 2), lambda: nn.MaxPool2D(2),
    lambda: nn.MaxPool2D(3, 2, padding=1), lambda: nn.MaxPool2D(3, 2, ceil_mode=True),
    lambda: nn.MaxPool2D(3, 1, padding=1)])
@pytest.mark.parametrize("levels", [None, 3])   # few levels: many equal maxima in a window
def test_same_bits(layer, levels):
    paddle.seed(0)
    plain = layer()
    quick = copy.deepcopy(plain)
    quicken(quick)
    assert type(quick) is QUICK[type(plain)]
    numbers = np.random.default_rng(0)
    picture = numbers.standard_normal((3, 6, 15, 18)) if levels is None else numbers.integers(0, levels, (3, 6, 15, 18))
    for one, other in zip(results(plain, picture.astype("float32")), results(quick, picture.astype("float32"))):
        np.testing.assert_array_equal(one, other)


def exported_operators(name, folder):
    paddle.seed(0)
    backbone = build_backbone(name, pretrained=False, image_size=64)
    backbone.eval()
    static = paddle.jit.to_static(backbone, input_spec=[paddle.static.InputSpec([None, 3, 64, 64], "float32")])
    paddle.jit.save(static, str(folder / "net"))
    program = paddle.jit.load(str(folder / "net")).program()  # keeps its operators alive: Paddle does not
    return ({type(layer) for layer in backbone.sublayers()},
            [op.name() if hasattr(op, "name") else op.type for op in program.global_block().ops])


@pytest.mark.parametrize("name", ["SqueezeNet1_1", "AlexNet"])
def test_networks_have_them_and_exports_have_not(name, tmp_path, monkeypatch):
    kinds, operators = exported_operators(name, tmp_path / "quick")
    assert kinds & set(QUICK.values()) and not kinds & set(QUICK)
    monkeypatch.setattr(build, "quicken", lambda net: None)
    kinds, plain = exported_operators(name, tmp_path / "plain")
    assert not kinds & set(QUICK.values()) and operators == plain
