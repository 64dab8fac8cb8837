"""Checkpoints: one .safetensors file, arrays plus a JSON of plain values (the meta). Loading executes nothing.

``paddle.load`` unpickles, and a crafted pickle runs code; safetensors cannot. A checkpoint is written
to a temporary name and renamed, so killing the process at any moment leaves the previous one whole.

The file's own table of texts holds ``format``; ``meta``; ``digests``, JSON: name -> SHA-256 of the array, its type and
shape; ``digest``, SHA-256 of these two. Whatever is read of a file is compared with them, so that a byte that was
changed anywhere is noticed by whoever uses it. Files of format 1 (until November 2026) hold no digests.

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
import functools
import hashlib
import json
import os
import re
from typing import Optional

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from utils.errors import InputError
from utils.files import atomic_path
from utils.flags import note
from utils.plain_json import parse_json
from utils.schema import anything, check, each, either, mapping, number, plain_table, scalar, table, text, truth, whole

FORMAT, WITHOUT_DIGESTS = "paddledeephash-checkpoint-2", "paddledeephash-checkpoint-1"
LARGEST_META = 32 << 20  # characters; its largest part is the vocabulary
BEST, LATEST = "best.safetensors", "latest.safetensors"  # the two checkpoints of a run folder
ENDINGS = (".safetensors", ".pdparams")
TRAINED_ON = "trained_on"
_COUNT = whole(0, (1 << 31) - 1)
_META = table(
    {"recipe": table({"method": text(), "dataset": text(), "backbone": text(), "bit": whole(1), "resize_size": whole(1),
                      "crop_size": whole(1), "split_seed": _COUNT, "seed": whole(0), "feature_norm": text(),
                      "freeze_backbone": truth, "ap": text()}, others=scalar),
     "data": table({"num_train": _COUNT, "num_classes": _COUNT}, {"text_dim": either(_COUNT)}, others=scalar),
     "classes": each(text())},
    {"protocol": table({"name": text(), "sha256": mapping(text())}, others=anything), "vectorizer": either(plain_table),
     "epoch": whole(0), "fingerprint": text(), "optimizer": mapping(number()),
     "state": table({"epoch": whole(0), "best_score": either(number()), "best_epoch": either(whole(1)),
                     "history": each(table({"epoch": whole(1), "loss": number(), "score": either(number())})),
                     "seconds": number(0), "images": whole(0), "started_from": either(text())})}, others=anything)


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
            save_file(arrays, temporary, metadata=_about(arrays, json.dumps(meta)))
        except SafetensorError as error:  # safetensors wraps the operating system's error
            raise OSError(None, str(error)) from error


def _about(arrays, meta):
    """The file's table of texts."""
    digests = json.dumps({key: _digest(array) for key, array in arrays.items()}, sort_keys=True)
    return {"format": FORMAT, "meta": meta, "digests": digests, "digest": _digest_of_texts(meta, digests)}


def _digest(array):
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def _digest_of_texts(*texts):
    return hashlib.sha256("\n".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


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
        InputError: no such file, not a checkpoint of this project, a truncated one, or bytes in it are not those that
            were written.
    """
    if not os.path.isfile(path):
        raise InputError(f"no checkpoint at {path}; train first or correct the path")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") not in (FORMAT, WITHOUT_DIGESTS):
                raise InputError(f"{path} is not a checkpoint of this project (a .safetensors file that "
                                 "main_single_gpu.py wrote); backbone weights go to --backbone-weights")
            arrays = {key: file.get_tensor(key) for key in file.keys() if wanted(key)}
            _compare(path, metadata, set(file.keys()), arrays)
            return arrays, parse_json(metadata["meta"])
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise InputError(f"{path} is damaged or not a checkpoint ({error}); use another one") from error


def _compare(path, metadata, names, arrays):
    """Raise ValueError where something in a file is not what was written.

    Args:
        path: of the file.
        metadata: its table of texts.
        names: of all its arrays.
        arrays: those that were read.
    """
    if len(metadata["meta"]) > LARGEST_META:
        raise ValueError(f"its meta is longer than {LARGEST_META >> 20} MB")
    if metadata["format"] == WITHOUT_DIGESTS:
        if set(metadata) != {"format", "meta"}:
            raise ValueError("it says to be of format 1, which has no digests, and has some")
        return _tell_of_no_digests(path)
    if _digest_of_texts(metadata["meta"], metadata["digests"]) != metadata["digest"]:
        raise ValueError("its meta is not what was written")
    digests = parse_json(metadata["digests"])
    if set(digests) != names:
        raise ValueError("it has other arrays than those that were written")
    for key, array in arrays.items():
        if _digest(array) != digests[key]:
            raise ValueError(f"the array {key} is not what was written")


@functools.lru_cache(maxsize=None)
def _tell_of_no_digests(path):
    """One note for a file, however often it is looked at."""
    note(f"{path} was written before checkpoints held digests: damage to it would not be noticed")


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


def check_meta(path, meta):
    """Raise InputError where the meta of a run's checkpoint is not what ``save`` writes; names the key."""
    check(meta, _META, path, "use another checkpoint")


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
    slots = {key[len("optimizer/"):]: value for key, value in tensors.items() if key.startswith("optimizer/")}
    own = method.state_dict()
    faults = [key for key, value in own.items()
              if key not in state or array_kind(state[key]) != array_kind(value.numpy())]
    faults += _unfit_slots(slots, [one for one in method.parameters() if not one.stop_gradient])
    if faults or len(own) != len(state):
        raise InputError(f"{path} does not fit the recipe and the data: {', '.join(faults[:5]) or 'unknown entries'}")
    for key, value in own.items():
        value.set_value(state[key])
    optimizer.set_state_dict({**{key: paddle.to_tensor(value) for key, value in slots.items()}, **meta["optimizer"]})
    return meta["state"]


def _unfit_slots(slots, parameters):
    """Names of the optimizer's arrays that belong to none of the parameters, or have another shape or type.

    Args:
        slots: dict name -> ndarray; a name is that of the parameter and of what the optimizer keeps of it.
        parameters: those that are trained.
    """
    shapes = {one.name: tuple(one.shape) for one in parameters}
    owners = {key: max((name for name in shapes if key.startswith(f"{name}_")), key=len, default=None) for key in slots}
    return [f"optimizer/{key}" for key, array in slots.items()
            if owners[key] is None or array.dtype != np.float32 or array.shape not in ((1,), shapes[owners[key]])]


def array_kind(array):
    """Type and shape of an array, as text for messages: ``float32 [64, 16]``."""
    return f"{array.dtype} {list(array.shape)}"
