"""Checkpoints: one .safetensors file, arrays plus a JSON of plain values (the meta). Loading executes nothing.

``paddle.load`` unpickles, and a crafted pickle runs code; safetensors cannot. A checkpoint is written
to a temporary name and renamed, so killing the process at any moment leaves the previous one whole.

Arrays are named ``model/<state>``, ``optimizer/<state>`` and ``trained_on`` (utils/datasets/trained_on.py; checkpoints
before November 2026 have none). The meta is made here (``About``, ``save``):

    recipe       the resolved recipe
    data         what the method was built from: num_train, num_classes, text_dim
    protocol     Protocol.record() of the training run
    classes      names of the label columns
    vectorizer   plain values of the text vectoriser, or None
    state        of the training loop: epoch, best_score, best_epoch, history, seconds, images, started_from
    epoch        epochs trained
    fingerprint  of recipe and weights
    optimizer    its plain values; only in a checkpoint that training can go on from
"""
import dataclasses
import json
import os
import re
from typing import Optional

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from utils.errors import InputError
from utils.files import atomic_path

FORMAT = "paddledeephash-checkpoint-1"
BEST, LATEST = "best.safetensors", "latest.safetensors"  # the two checkpoints of a run folder
ENDINGS = (".safetensors", ".pdparams")
TRAINED_ON = "trained_on"


# the file -------------------------------------------------------------------------------
def save_checkpoint(path, tensors, meta):
    """Write arrays and plain values to ``path`` atomically.

    Args:
        path: file name, by convention ``*.safetensors``.
        tensors: dict name -> ndarray.
        meta: JSON-able dict.

    Raises:
        InputError: the file cannot be written (no permission, disk full).
    """
    arrays = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(arrays, temporary, metadata={"format": FORMAT, "meta": json.dumps(meta)})
        except SafetensorError as error:  # safetensors wraps the operating system's error
            raise OSError(None, str(error)) from error


def find_checkpoint(name, of_a_run=BEST):
    """The file that ``name`` stands for.

    Args:
        name: the file itself, or its name without ``.safetensors`` or ``.pdparams`` (paddle_hashnet's commands say
            ``output/weights_16``), or a run folder, which stands for its file ``of_a_run``; or paddle_hashnet's name
            ``<run folder>/model_best_<bit>`` of the best checkpoint of a run of that code length.

    Raises:
        InputError: two files have that name, or the run has codes of another length.
    """
    name = os.fspath(name)
    if os.path.isdir(name):
        return os.path.join(name, of_a_run)
    if os.path.isfile(name):
        return name
    found = [name + ending for ending in ENDINGS if os.path.isfile(name + ending)]
    if len(found) > 1:
        raise InputError(f"{name} may be {' or '.join(found)}; write the ending too")
    return found[0] if found else _best_of_paddle_hashnet(name) or name


def _best_of_paddle_hashnet(name):
    """The best checkpoint of the run that ``<run folder>/model_best_<bit>`` speaks of, or None."""
    folder, base = os.path.split(name)
    match, best = re.fullmatch(r"model_best_(\d+)", base), os.path.join(folder, BEST)
    if not match or not os.path.isfile(best):
        return None
    _, meta = load_checkpoint(best, wanted=lambda key: False)
    if meta["recipe"]["bit"] != int(match.group(1)):
        raise InputError(f"{name}: the run in {folder} has codes of {meta['recipe']['bit']} bits; "
                         f"its best checkpoint is {best}")
    return best


def load_checkpoint(path, wanted=lambda key: True):
    """Read what ``save_checkpoint`` wrote.

    Args:
        path: file name.
        wanted: callable name -> whether that array is to be read.

    Returns:
        (dict name -> ndarray, meta dict).

    Raises:
        InputError: no such file, not a checkpoint of this project, or a truncated one.
    """
    if not os.path.isfile(path):
        raise InputError(f"no checkpoint at {path}; train first or correct the path")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise InputError(f"{path} is not a checkpoint of this project (a .safetensors file that "
                                 "main_single_gpu.py wrote); backbone weights go to --backbone-weights")
            return {key: file.get_tensor(key) for key in file.keys() if wanted(key)}, json.loads(metadata["meta"])
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise InputError(f"{path} is damaged or not a checkpoint ({error}); use another one") from error


# of a training run ----------------------------------------------------------------------
@dataclasses.dataclass
class About:
    """What is the same in all checkpoints of a run.

    Attributes:
        meta: plain values.
        preprocess: of utils.transforms.recipe_spec; the fingerprint covers it.
        trained_on: of utils.datasets.trained_on.remember.
    """

    meta: dict
    preprocess: dict
    trained_on: Optional[np.ndarray] = None


def describe(recipe, data, protocol, vectorizer):
    """The plain values of an About.

    Args:
        recipe: resolved recipe.
        data: dict num_train, num_classes, text_dim.
        protocol: utils.datasets.base.Protocol.
        vectorizer: plain values, or None.
    """
    return {"recipe": recipe, "data": data, "protocol": protocol.record(), "classes": protocol.classes,
            "vectorizer": vectorizer}


def save(path, method, optimizer, about, state):
    """Write a method as a checkpoint.

    Args:
        path: file name.
        method: HashMethod.
        optimizer: None leaves out what only training needs: the file holds what evaluation and export need.
        about: About.
        state: of the training loop, plain values.
    """
    tensors = {f"model/{key}": value.numpy() for key, value in method.state_dict().items()
               if optimizer is not None or not key.startswith(method.training_state)}
    meta = {**about.meta, "state": state, "epoch": state["epoch"],
            "fingerprint": method.fingerprint(about.preprocess)}
    if about.trained_on is not None:
        tensors[TRAINED_ON] = about.trained_on
    if optimizer is not None:
        values = optimizer.state_dict()
        meta["optimizer"] = {key: value for key, value in values.items() if isinstance(value, (int, float))}
        tensors.update({f"optimizer/{key}": value.numpy() for key, value in values.items()
                        if hasattr(value, "numpy")})
    save_checkpoint(path, tensors, meta)


def check_resumable(path, meta):
    """Raise InputError where checkpoint ``path`` lacks what training needs to go on."""
    if "optimizer" not in meta:
        raise InputError(f"{path} holds no optimizer state, so training cannot continue exactly; resume from "
                         f"{LATEST}, or start from these weights with --pretrained")


def check_same_data(path, meta, protocol):
    """Refuse to go on from checkpoint ``path`` where the data are not those that it was trained on.

    Raises:
        InputError: other items or labels.
    """
    if meta["protocol"]["sha256"] != protocol.record()["sha256"]:
        raise InputError(f"{path} was made with other images or labels of {meta['recipe']['dataset']} than those "
                         "found now, so training cannot continue exactly; start from these weights with --pretrained")


def restore(path, method, optimizer):
    """Load weights, training state and optimizer of a checkpoint; returns the loop's state.

    Random generators need no state: they are seeded from (seed, epoch) (utils/training/seeding.py).

    Raises:
        InputError: no optimizer state, or entries that do not fit.
    """
    import paddle  # inside: utils/config.py takes names from here, and commands that need no Paddle import it

    tensors, meta = load_checkpoint(path)
    check_resumable(path, meta)
    state = {key[len("model/"):]: value for key, value in tensors.items() if key.startswith("model/")}
    slots = {key[len("optimizer/"):]: paddle.to_tensor(value) for key, value in tensors.items()
             if key.startswith("optimizer/")}
    own = method.state_dict()
    faults = [key for key in own if key not in state or list(state[key].shape) != list(own[key].shape)]
    if faults or len(own) != len(state):
        raise InputError(f"{path} does not fit the recipe and the data: {', '.join(faults[:5]) or 'unknown entries'}")
    for key, value in own.items():
        value.set_value(state[key])
    optimizer.set_state_dict({**slots, **meta["optimizer"]})
    return meta["state"]
