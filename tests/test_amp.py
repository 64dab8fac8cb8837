"""--amp: refused where it would do nothing; where it works, only the backbone is in 16 bits."""
import numpy as np
import paddle
import pytest

from tests.conftest import SHAPES_SIZES
from utils.errors import InputError
from utils.training import amp


class Halved:
    """Stands for a method: its backbone tells in which format it was called."""

    def __init__(self, monkeypatch):
        self.formats = []
        self.asked = None
        monkeypatch.setattr(paddle.amp, "auto_cast", self.auto_cast)

    def auto_cast(self, level, dtype):
        owner = self

        class Cast:
            def __enter__(self):
                owner.asked = dtype

            def __exit__(self, *_):
                owner.asked = None
        assert level == "O1"
        return Cast()

    def backbone_features(self, image):
        self.formats.append(self.asked)
        return image.astype(self.asked or "float32")


@pytest.mark.parametrize("name, dtype", [("bf16", "bfloat16"), ("fp16", "float16")])
def test_only_the_backbone_in_training_is_in_16_bits(monkeypatch, name, dtype):
    method = Halved(monkeypatch)
    image = paddle.to_tensor([[1.0, 1.0009]])
    with amp.backbone(method, name):
        features = method.backbone_features(image)
        assert method.asked is None
    assert features.dtype == paddle.float32 and float(features[0, 1]) != float(image[0, 1])
    assert np.array_equal(method.backbone_features(image).numpy(), image.numpy())
    with amp.backbone(method, "none"):
        method.backbone_features(image)
    assert method.formats == [dtype, None, None]


def test_the_backbone_is_whole_again_after_a_fault(monkeypatch):
    method = Halved(monkeypatch)
    with pytest.raises(ZeroDivisionError), amp.backbone(method, "bf16"):
        1 / 0
    method.backbone_features(paddle.ones([1]))
    assert method.formats == [None]


def test_only_fp16_scales_the_loss():
    assert amp.scaler("none") is None and amp.scaler("bf16") is None and amp.scaler("fp16") is not None


@pytest.mark.skipif(paddle.get_device() != "cpu", reason="a GPU may do it")
def test_a_cpu_refuses(run, shapes, tmp_path):
    amp.check("none")
    with pytest.raises(InputError, match="GPU"):
        amp.check("fp16")
    sizes = [word for key, value in SHAPES_SIZES.items() for word in (f"--{key.replace('_', '-')}", value)]
    done = run("main_single_gpu.py", "--amp", "bf16", "--data-path", shapes, *sizes, "--epoch", 1, "--output-dir",
               tmp_path / "out", "--device", "cpu", "--backbone", "ConvNet:width=4", "--no-pretrained", ok=False)
    assert len(done.stderr.strip().splitlines()) == 1 and "amp bf16 needs a GPU" in done.stderr
    assert not (tmp_path / "out").exists()
