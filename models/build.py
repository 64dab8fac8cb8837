"""From a recipe, or a checkpoint, to a method object with its weights."""
import numpy as np

from models import METHODS, find_method
from models.backbones.build import build_backbone
from models.checkpoint import open_checkpoint, open_meta
from models.method import DataFacts
from utils.errors import InputError
from utils.training.checkpoint import array_kind


def build_method(recipe, facts):
    """Build the network and loss that a resolved recipe names.

    Args:
        recipe: flat dict (utils/config.py).
        facts: DataFacts of the training data.

    Returns:
        HashMethod in training mode; parameters follow ``paddle.seed``.

    Raises:
        InputError: see models.backbones.build.build_backbone and HashMethod.
    """
    method_class = METHODS[recipe["method"]]
    backbone = build_backbone(recipe["backbone"], weights=recipe["backbone_weights"],
                              pretrained=recipe["pretrained_backbone"], image_size=recipe["crop_size"])
    feature_dropout = recipe.get("feature_dropout", False)  # older recipes have no such key
    return method_class(backbone, recipe["bit"], facts, recipe["feature_norm"], recipe["freeze_backbone"],
                        feature_dropout, **method_settings(recipe))


def method_settings(recipe):
    """The settings of its method that a flat recipe holds, as a dict."""
    return {key: recipe[key] for key in METHODS[recipe["method"]].settings if key in recipe}


def load_state(method, tensors, where):
    """Copy arrays (dict name -> ndarray) into a method; every name and shape must match.

    Raises:
        InputError: names the missing, unexpected and mismatched entries of ``where``.
    """
    state = method.state_dict()
    faults = [f"missing {key}" for key in state if key not in tensors]
    faults += [f"unexpected {key}" for key in tensors if key not in state]
    faults += [f"{key} is {array_kind(tensors[key])}, not {array_kind(value.numpy())}" for key, value in state.items()
               if key in tensors and array_kind(tensors[key]) != array_kind(value.numpy())]
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise InputError(f"{where} does not fit the recipe: {'; '.join(faults[:5])}{more}")
    for key, value in state.items():
        value.set_value(np.asarray(tensors[key]))


def load_weights(method, path):
    """Copy the weights of a checkpoint into a method; training-only state (a memory bank) stays as it is."""
    tensors, _ = open_checkpoint(path)
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
    meta = open_meta(path)
    recipe = meta["recipe"]
    find_method(recipe["method"], path, recipe.get("method_file"))
    # the checkpoint holds the backbone's weights: nothing to download or to read
    method = build_method({**recipe, "backbone_weights": None, "pretrained_backbone": False},
                          DataFacts(**{key: meta["data"].get(key) for key in ("num_train", "num_classes", "text_dim")}))
    load_weights(method, path)
    method.eval()
    return method, meta
