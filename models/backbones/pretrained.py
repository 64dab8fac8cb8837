"""Put a weight file into a backbone, whoever wrote it."""
import numpy as np

from models.backbones.renames import to_own
from models.backbones.weight_files import read_weights
from utils.errors import InputError


def _name_some(keys):
    return ", ".join(key[:100] for key in keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")


def load_into(backbone, path, extra_ok=False):
    """Load a weight file into a backbone; every weight but the removed classifier's must be there and fit.

    Args:
        backbone: models.backbones.backbone.Backbone; its structure and name may change, see ``as_torchvision``.
        path: a file that ``read_weights`` reads.
        extra_ok: let names that the network does not have pass (files of the architecture's own publisher).

    Raises:
        InputError: unreadable file; missing, unexpected or mismatched weights (named).
    """
    arrays = read_weights(path)
    if any(key.startswith("model/") for key in arrays):
        raise InputError(f"{path} is a checkpoint of a whole model of this project; give it to --pretrained")
    try:
        arrays = to_own(arrays, backbone)
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"{path} does not fit backbone {backbone.name}: {error} is missing or has another form")
    arrays = {key: value for key, value in arrays.items() if key not in backbone.classifier_keys}
    state = backbone.net.state_dict()
    missing = [key for key in state if key not in arrays]
    unexpected = [] if extra_ok else [key for key in arrays if key not in state]
    mismatched = [f"{key} {list(arrays[key].shape)} instead of {list(state[key].shape)}"
                  for key in state if key in arrays and list(arrays[key].shape) != list(state[key].shape)]
    faults = [f"{len(keys)} {word}: {_name_some(keys)}" for word, keys in
              (("missing", missing), ("unexpected", unexpected), ("mismatched", mismatched)) if keys]
    if faults:
        raise InputError(f"{path} does not fit backbone {backbone.name}: {'; '.join(faults)}")
    for key, value in state.items():
        value.set_value(np.ascontiguousarray(arrays[key], dtype=str(value.numpy().dtype)))
