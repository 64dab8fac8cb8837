"""Checkpoints: one .safetensors file, arrays plus a JSON of plain values. Loading executes nothing.

``paddle.load`` unpickles, and a crafted pickle runs code; safetensors cannot. A checkpoint is written
to a temporary name and renamed, so killing the process at any moment leaves the previous one whole.
"""
import json
import os

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from utils.errors import InputError
from utils.files import atomic_path

FORMAT = "paddledeephash-checkpoint-1"
BEST, LATEST = "best.safetensors", "latest.safetensors"  # the two checkpoints of a run folder
ENDINGS = (".safetensors", ".pdparams")


def save_checkpoint(path, tensors, meta):
    """Write arrays and plain values to ``path`` atomically.

    Args:
        path: file name, by convention ``*.safetensors``.
        tensors: dict name -> ndarray. The trainer uses the prefixes ``model/`` and ``optimizer/``.
        meta: JSON-able dict (recipe, epoch, fingerprint, ...).

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
            ``output/weights_16``), or a run folder, which stands for its file ``of_a_run``.

    Raises:
        InputError: two files have that name.
    """
    name = os.fspath(name)
    if os.path.isdir(name):
        return os.path.join(name, of_a_run)
    found = [name + ending for ending in ENDINGS if os.path.isfile(name + ending)]
    if os.path.isfile(name) or not found:
        return name
    if len(found) > 1:
        raise InputError(f"{name} may be {' or '.join(found)}; write the ending too")
    return found[0]


def load_checkpoint(path):
    """Read what ``save_checkpoint`` wrote: (dict name -> ndarray, meta dict).

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
            return {key: file.get_tensor(key) for key in file.keys()}, json.loads(metadata["meta"])
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise InputError(f"{path} is damaged or not a checkpoint ({error}); use another one") from error
