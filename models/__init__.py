"""The registry: every file here that defines a HashMethod with a name is a method. Nothing else to edit."""
import importlib
import inspect
import pkgutil

import numpy as np

from utils.checkpoint import load_checkpoint  # utils comes before Paddle, see utils/__init__.py
from utils.errors import InputError
from models.method import HashMethod


def _discover():
    methods = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name.startswith("_"):
            continue
        for _, value in inspect.getmembers(importlib.import_module(f"models.{module.name}"), inspect.isclass):
            if issubclass(value, HashMethod) and value.name:
                methods[value.name] = value
    return dict(sorted(methods.items()))


METHODS = _discover()


def build_method(recipe, num_train, num_classes, text_dim=None):
    """Build the network and loss that a resolved recipe names.

    Args:
        recipe: flat dict (utils/config.py).
        num_train: images in the training split (size of a memory bank).
        num_classes: label columns, 0 where there are no labels.
        text_dim: columns of the text features, for cross-modal methods.

    Returns:
        HashMethod in training mode; parameters follow ``paddle.seed``.
    """
    from models.backbones import build_backbone
    method_class = METHODS[recipe["method"]]
    backbone = build_backbone(recipe["backbone"], weights=recipe["backbone_weights"],
                              pretrained=recipe["pretrained_backbone"], image_size=recipe["crop_size"])
    hyper = {key: recipe[key] for key in method_class.hyperparameters}
    return method_class(backbone, recipe["bit"], num_train, num_classes, text_dim=text_dim,
                        feature_norm=recipe["feature_norm"], frozen=recipe["freeze_backbone"], **hyper)


def load_state(method, tensors, where):
    """Copy arrays (dict name -> ndarray) into a method; every name and shape must match.

    Raises:
        InputError: names the missing, unexpected and mismatched entries of ``where``.
    """
    state = method.state_dict()
    faults = [f"missing {key}" for key in state if key not in tensors]
    faults += [f"unexpected {key}" for key in tensors if key not in state]
    faults += [f"{key} is {list(tensors[key].shape)}, not {list(state[key].shape)}"
               for key in state if key in tensors and list(tensors[key].shape) != list(state[key].shape)]
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise InputError(f"{where} does not fit the recipe: {'; '.join(faults[:5])}{more}")
    for key, value in state.items():
        value.set_value(np.asarray(tensors[key]))


def load_weights(method, path):
    """Copy the weights of a checkpoint into a method; training-only state (a memory bank) stays as it is."""
    tensors, _ = load_checkpoint(path)
    weights = {key: value.numpy() for key, value in method.state_dict().items()
               if key.startswith(method.training_state)}
    weights.update({key[len("model/"):]: value for key, value in tensors.items()
                    if key.startswith("model/") and not key[len("model/"):].startswith(method.training_state)})
    load_state(method, weights, path)


def load_method(path):
    """Rebuild the method of a checkpoint: (HashMethod in evaluation mode, meta dict).

    Raises:
        InputError: unreadable checkpoint, or one of an unknown method.
    """
    _, meta = load_checkpoint(path)
    recipe = meta["recipe"]
    if recipe["method"] not in METHODS:
        raise InputError(f"{path} was made by method {recipe['method']!r}, which this version does not have "
                         f"({', '.join(METHODS)})")
    # the checkpoint holds the backbone's weights: nothing to download or to read
    method = build_method({**recipe, "backbone_weights": None, "pretrained_backbone": False}, **meta["data"])
    load_weights(method, path)
    method.eval()
    return method, meta
