"""Training with the backbone in 16 bits (--amp bf16, fp16). The layers above it and the losses stay in float32: they
cost nothing, and sums over all pairs of a batch do not fit into 8 bits of mantissa.
"""
import contextlib

import paddle

from utils.errors import InputError

# constant, so that a resumed run needs no state of it; a step whose gradients overflow is left out
LOSS_SCALE = 1024.0


def check(name):
    """Refuse what the chosen device cannot do.

    Raises:
        InputError: a CPU, where Paddle's auto_cast does nothing (2.6.2 and 3.3.1), or a GPU without this format.
    """
    if name == "none":
        return
    if not paddle.get_device().startswith("gpu"):
        raise InputError(f"amp {name} needs a GPU: Paddle {paddle.__version__} computes in float32 on a CPU whatever "
                         "auto_cast asks for; leave --amp out")
    supported = {"bf16": paddle.amp.is_bfloat16_supported, "fp16": paddle.amp.is_float16_supported}[name]
    if not supported():
        raise InputError(f"amp {name}: this GPU does not compute in {name}; choose the other format or leave --amp out")


@contextlib.contextmanager
def backbone(method, name):
    """Inside, ``method.backbone_features`` computes in the format ``name`` and returns float32."""
    if name == "none":
        yield
        return
    full = method.backbone_features

    def half(image):
        with paddle.amp.auto_cast(level="O1", dtype={"bf16": "bfloat16", "fp16": "float16"}[name]):
            return full(image).astype("float32")

    method.backbone_features = half
    try:
        yield
    finally:
        del method.backbone_features  # the class's method again


def scaler(name):
    """What scales the loss of fp16, whose gradients underflow otherwise; None for the others."""
    if name != "fp16":
        return None
    return paddle.amp.GradScaler(init_loss_scaling=LOSS_SCALE, use_dynamic_loss_scaling=False)
