"""A method as static graphs, and the manifest that says how to feed them."""
import contextlib
import os
import re

import paddle
from paddle import nn
from paddle.static import InputSpec

from utils.config import data_request
from utils.errors import InputError
from utils.transforms import recipe_spec

IMAGE, TEXT = "inference", "text"


class _ImageCodes(nn.Layer):
    """``method.encode`` as a forward function: what paddle.jit.save wants."""

    def __init__(self, method):
        super().__init__()
        self.method = method

    def forward(self, image):
        return self.method.encode(image)


class _TextCodes(nn.Layer):
    """``method.encode_text`` as a forward function."""

    def __init__(self, method):
        super().__init__()
        self.method = method

    def forward(self, text):
        return self.method.encode_text(text)


def image_shape(recipe):
    """Shape of one image input: [3, crop, crop], or [D] where the data set brings features instead of pictures."""
    name, _, dim = str(recipe["backbone"]).partition(":")
    return [int(dim)] if name == "precomputed" else [3, recipe["crop_size"], recipe["crop_size"]]


def manifest(method, meta, fingerprint):
    """What deployment needs to know about a model, as plain values (deploy/model_folder.py says what they are).

    Args:
        method: HashMethod.
        meta: the checkpoint's meta dict.
        fingerprint: of recipe and weights.
    """
    recipe = meta["recipe"]
    request = data_request(recipe)
    out = {"method": method.name, "bits": method.bits, "fingerprint": fingerprint, "preprocess": recipe_spec(recipe),
           "image": {"prefix": IMAGE, "input": image_shape(recipe)}}
    if "text" in method.modalities:
        out["text"] = {"prefix": TEXT, "dim": int(meta["data"]["text_dim"])}
    out["dataset"] = {"name": recipe["dataset"], "root": recipe.get("data_path"), "list_dir": recipe.get("list_dir"),
                      "split_seed": request["split_seed"], "topk": recipe.get("topK"), "sizes": request["sizes"],
                      "classes": list(meta["classes"])}
    out["recipe"] = recipe
    out["paddle"] = paddle.__version__
    return out


def save_graphs(method, folder, image, text_dim=None):
    """Write ``inference.*`` and, for a cross-modal method, ``text.*`` into an existing folder.

    Paddle 3 writes ``.json`` (``.pdmodel`` with FLAGS_enable_pir_api=0 set before its import), Paddle 2 ``.pdmodel``.

    Args:
        method: HashMethod in evaluation mode.
        folder: where to write.
        image: shape of one image input (``image_shape``).
        text_dim: columns of the text features where the method reads texts.

    Raises:
        InputError: Paddle cannot turn this network into the wanted format.
    """
    _save(_ImageCodes(method), os.path.join(folder, IMAGE), InputSpec([None, *image], "float32", "image"))
    if "text" in method.modalities:
        _save(_TextCodes(method), os.path.join(folder, TEXT), InputSpec([None, text_dim], "float32", "text"))


def _save(layer, path, spec):
    layer.eval()
    with _old_operators():
        paddle.jit.save(layer, path, input_spec=[spec])


# Paddle 3.3 maps these functions to operators of the new program form only, and fails with a TypeError when the
# old form (.pdmodel) is asked for. function: (old operator, its inputs, arguments -> attributes)
_OLD = {"matmul": ("matmul_v2", ("X", "Y"), {"transpose_x": "trans_x", "transpose_y": "trans_y"}),
        "multiply": ("elementwise_mul", ("X", "Y"), {}),
        "maximum": ("elementwise_max", ("X", "Y"), {}),
        "gelu": ("gelu", ("X",), {"approximate": "approximate"}),
        **{name: (name, ("X",), {}) for name in ("tanh", "log1p", "exp", "sqrt", "rsqrt", "sigmoid", "abs")}}


@contextlib.contextmanager
def _old_operators():
    """While Paddle 3 traces to the old program form, let the functions of ``_OLD`` make the old operators.

    Raises:
        InputError: the network uses another function that only the new form knows.
    """
    operators = paddle._C_ops
    if paddle.__version__.startswith("2.") or paddle.get_flags("FLAGS_enable_pir_api")["FLAGS_enable_pir_api"]:
        yield
        return
    # the functions look in paddle._C_ops when they are called; the methods of a Variable were bound at import
    kept = [(owner, name, getattr(owner, name)) for owner in (operators, paddle.static.Variable) for name in _OLD
            if hasattr(owner, name)]
    for owner, name, function in kept:
        setattr(owner, name, _old_operator(function, *_OLD[name]))
    try:
        yield
    except TypeError as error:
        if "must be Value" not in str(error):
            raise
        reason = re.search(r"(\w+)\(\): argument", str(error))
        reason = f" ({reason[1]})" if reason else ""
        raise InputError(f"Paddle {paddle.__version__} cannot write this network as .pdmodel{reason}; use --format "
                         "json, or export with Paddle 2.6 (Paddle 3 reads its .pdmodel)") from error
    finally:
        for owner, name, function in kept:
            setattr(owner, name, function)


def _old_operator(function, operator, inputs, attributes):
    names = [name.lower() for name in inputs] + list(attributes)

    def call(*arguments, **named):
        values = {**dict(zip(names, arguments)), **named}
        first = values.get("x")
        if not isinstance(first, paddle.static.Variable):
            return function(*arguments, **named)  # an eager tensor
        from paddle.base.layer_helper import LayerHelper
        helper = LayerHelper(operator)
        out = helper.create_variable_for_type_inference(first.dtype)
        helper.append_op(type=operator, inputs={name: values[name.lower()] for name in inputs}, outputs={"Out": out},
                         attrs={attributes[key]: values[key] for key in attributes if key in values})
        return out
    return call
