"""Whole models in the layout of hatimwen/paddle_hashnet: read as a checkpoint, written back.

Its file (``weights_16.pdparams``, ``model_best_16.pdparams``) holds AlexNet under torchvision's names, with fc6, fc7
and the hash layer in ``classifier_plus``; Linear weights are [in, out] as everywhere in Paddle. It says nothing of the
data, so the recipe is that project's own: HashNet on COCO, the centre 224 of 256 pixels.
"""
import numpy as np
import paddle

from models.backbones.adapt import ALEXNET_SIZES
from models.hashnet import HashNet
from utils.config import RECIPE
from utils.errors import InputError
from utils.files import atomic_path

_HASH_LAYER = "classifier_plus.6.weight"
# module there -> module here
_MODULES = {"features.0": "backbone.net._conv1._conv", "features.3": "backbone.net._conv2._conv",
            "features.6": "backbone.net._conv3", "features.8": "backbone.net._conv4",
            "features.10": "backbone.net._conv5._conv", "classifier_plus.1": "backbone.net._fc6",
            "classifier_plus.4": "backbone.net._fc7", "classifier_plus.6": "hash"}
_NAMES = {f"{theirs}.{part}": f"{own}.{part}" for theirs, own in _MODULES.items() for part in ("weight", "bias")}
_COCO_CLASSES = 80


def is_whole_model(arrays):
    """Has this dict name -> ndarray the hash layer of paddle_hashnet?"""
    return _HASH_LAYER in arrays and arrays[_HASH_LAYER].ndim == 2


def as_checkpoint(arrays, path):
    """A whole model of paddle_hashnet as a checkpoint of ours.

    Args:
        arrays: dict name -> ndarray.
        path: of the file, for messages.

    Returns:
        (dict ``model/...`` -> ndarray, meta dict with ``recipe``, ``data`` and ``classes``).

    Raises:
        InputError: other layers than paddle_hashnet's.
    """
    missing = [key for key in _NAMES if key not in arrays]
    unexpected = [key for key in arrays if key not in _NAMES]
    faults = [f"{len(keys)} {word}: {', '.join(key[:100] for key in keys[:5])}" for word, keys in
              (("missing", missing), ("unexpected", unexpected)) if keys]
    if faults:
        raise InputError(f"{path} has the hash layer of a paddle_hashnet model, but not its layers (AlexNet, then the "
                         f"hash layer): {'; '.join(faults)}")
    recipe = {key: setting.default for key, setting in {**RECIPE, **HashNet.settings}.items()}
    recipe.update(method=HashNet.name, dataset="coco", topK=5000, backbone="AlexNet",
                  bit=int(arrays[_HASH_LAYER].shape[1]))
    data = {"num_train": 0, "num_classes": _COCO_CLASSES, "text_dim": None}
    meta = {"recipe": recipe, "data": data, "classes": []}  # such a file names none
    return {f"model/{own}": arrays[theirs] for theirs, own in _NAMES.items()}, meta


def write_whole_model(method, path):
    """Write a method as paddle_hashnet would: ``paddle.load`` and its ``HashNet(bits).set_dict`` take the file.

    Args:
        method: HashMethod.
        path: ``*.pdparams``.

    Raises:
        InputError: a network that its code cannot build: not AlexNet at 224 pixels below one linear hash layer.
    """
    state = {key: value for key, value in method.state_dict().items() if not key.startswith(method.training_state)}
    size = getattr(method.backbone, "image_size", 0)
    if set(state) != set(_NAMES.values()) or size not in ALEXNET_SIZES:
        raise InputError(f"paddle_hashnet has AlexNet at 224 pixels below one linear hash layer, and this is method "
                         f"{method.name} on {method.backbone.name}" + (f" at {size} pixels" if size else "")
                         + "; such a model cannot be written in its layout")
    with atomic_path(path) as temporary, paddle.no_grad():
        paddle.save({theirs: paddle.to_tensor(np.asarray(state[own].numpy())) for theirs, own in _NAMES.items()},
                    temporary, protocol=2)
