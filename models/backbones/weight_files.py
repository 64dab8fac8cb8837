"""Weight files of others, read as plain arrays: nothing in a file is ever executed.

The format is told by a file's first bytes, not by its ending. Pickles (.pdparams, .pth) go through utils.safe_pickle.
Many files wrap the weights: ``{"state_dict": {...}, "epoch": 9, "best_acc1": tensor}``. A wrapper is preferred wherever
there is one; where a file holds several networks, ``FILE::NAME`` says which.
"""
import os
import zipfile

import numpy as np

from models.backbones import torch_files
from models.backbones.array_files import plain_numbers, read_safetensors
from utils.errors import InputError
from utils.npz import open_zip, read_entries
from utils.safe_pickle import Array, is_shape, load

CHOICE = "::"
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "student", "teacher")
_BIG_ARRAYS = "UnpackBigParamInfor@@"   # where Paddle says which slices make an array of more than 4 GB
_DEEPEST = 4   # wrappers inside wrappers


def file_format(path):
    """``safetensors``, ``zip`` (torch or numpy), ``pickle`` or None, by the first bytes of a file.

    A safetensors file starts with the length of its header, whose bytes may look like the start of the others.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    if start[8:] == b"{":
        return "safetensors"
    return {b"PK": "zip", b"\x80": "pickle"}.get(start[:2] if start[:1] == b"P" else start[:1])


def _read_tree(path):
    """What a file holds: a dict of arrays (ndarray, or a stand-in with ``array``), dicts and other values."""
    kind = file_format(path)
    if kind == "safetensors":
        return read_safetensors(path)
    if kind == "zip":
        with open_zip(path) as archive:
            if any(name.endswith("data.pkl") for name in archive.namelist()):
                return torch_files.read_zip(archive)
            return read_entries(archive, texts=False)
    if kind == "pickle":
        with open(path, "rb") as file:
            data = file.read()
        tree, _ = load(data)
        legacy = type(tree) is int and tree == torch_files.MAGIC
        return torch_files.read_legacy(data) if legacy else tree
    raise ValueError("it is none of .pdparams, .pth, .safetensors, .npz")


# the network inside -------------------------------------------------------------------------------
def _stand_in(value):
    """What has the ``array`` of a value: a stand-in or the ndarray itself; None for what is no array."""
    if type(value) is tuple and len(value) == 2 and type(value[0]) is str:
        value = value[1]       # Paddle writes a tensor as (name, array)
    return value if isinstance(value, (np.ndarray, torch_files.Tensor)) or type(value) is Array and \
        value.array is not None else None


def _has_arrays(tree, seen):
    """Is this a dict with arrays, or with a wrapper that has some? ``seen``: ids of dicts, each is looked at once."""
    if type(tree) is not dict or id(tree) in seen:
        return False
    seen.add(id(tree))
    return any(_stand_in(value) is not None for value in tree.values()) or \
        any(_has_arrays(tree.get(name), seen) for name in WRAPPERS)


def _unwrap(tree, path):
    """The dict of arrays inside a tree; InputError where several could be meant."""
    for _ in range(_DEEPEST):
        seen = {id(tree)}
        inside = [name for name in WRAPPERS if _has_arrays(tree.get(name), seen)]
        if not inside and not any(_stand_in(value) is not None for value in tree.values()):
            inside = [name for name, value in tree.items() if _has_arrays(value, seen)]
        if not inside:
            return tree
        if len(inside) > 1:
            names = [str(name)[:100] for name in inside[:8]]
            raise InputError(f"{path} holds several networks ({', '.join(names)}); say which one: "
                             f"{path}{CHOICE}{names[-1]}")
        tree = tree[inside[0]]
    raise ValueError(f"more than {_DEEPEST} wrappers inside each other")


def _arrays_of(tree, room):
    """dict name -> ndarray of a dict's own arrays; ``room``: bytes that may be made anew."""
    def spend(array):
        nonlocal room
        room -= array.nbytes
        if room < 0:
            raise ValueError("its arrays share more bytes than it has")
        return array

    arrays = {}
    for key, value in tree.items():
        found = _stand_in(value)
        array = getattr(found, "array", found)
        if type(found) is Array and array.dtype == np.uint16:   # Paddle writes bfloat16 as uint16
            array = plain_numbers("bf16", spend(array).tobytes()).reshape(array.shape)
        if array is not None:
            arrays[str(key)] = array
    cut = tree.get(_BIG_ARRAYS)
    for key, info in cut.items() if type(cut) is dict else ():
        parts, shape = info["slices"], tuple(info["OriginShape"])
        if type(key) is not str or any(type(part) is not str for part in parts) or not is_shape(shape):
            raise ValueError("its slices of arrays have another form")
        arrays[key] = np.concatenate([spend(arrays.pop(part)) for part in parts]).reshape(shape)
    return arrays


def _with_prefix(arrays, name):
    """The arrays whose names start with ``name.``, without it."""
    return {key[len(name) + 1:]: value for key, value in arrays.items() if key.startswith(f"{name}.")}


def _read_arrays(path, choice):
    tree, room = _read_tree(path), os.path.getsize(path)
    if type(tree) is not dict:
        raise ValueError("it holds no dictionary of arrays")
    if choice and type(tree.get(choice)) is dict:
        return _arrays_of(_unwrap(tree[choice], path), room)
    if choice:   # a file without wrappers, such as .safetensors
        arrays = _with_prefix(_arrays_of(tree, room), choice)
        if not arrays:
            raise InputError(f"{path} holds no {choice}; it holds {', '.join(str(key)[:40] for key in list(tree)[:8])}")
        return arrays
    arrays = _arrays_of(_unwrap(tree, path), room)
    pair = [found for found in (_with_prefix(arrays, name) for name in ("student", "teacher")) if found]
    if len(pair) > 1:
        raise InputError(f"{path} holds a student and a teacher; say which one: {path}{CHOICE}teacher")
    return pair[0] if pair else arrays


def read_weights(path):
    """Read a weight file without executing anything in it.

    Args:
        path: ``.pdparams`` (Paddle 2 and 3), ``.pth``/``.pt`` (torch, zip or the older layout), ``.safetensors``
            or ``.npz``; the content decides, not the ending. ``FILE::NAME`` chooses the network NAME of a file.

    Returns:
        dict name -> ndarray as stored (bfloat16 as float32), maybe read-only; entries that are no arrays are left out.

    Raises:
        InputError: missing, truncated, hostile or of another kind; several networks and none chosen.
    """
    path, choice = os.fspath(path), None
    if not os.path.exists(path) and CHOICE in path:
        path, _, choice = path.partition(CHOICE)
    if not os.path.isfile(path):
        raise InputError(f"weight file {path} does not exist")
    try:
        arrays = _read_arrays(path, choice)
    except InputError:
        raise
    except Exception as error:  # damaged bytes reach four parsers, and those raise almost anything
        known = isinstance(error, (ValueError, zipfile.BadZipFile)) and not isinstance(error, UnicodeError)
        reason = str(error).strip().splitlines() if known else []
        raise InputError(f"{path} is no weight file that can be read safely "
                         f"({reason[0] if reason else f'damaged: {type(error).__name__}'}); "
                         "give a .pdparams, .pth, .safetensors or .npz with arrays only") from error
    if not arrays:
        raise InputError(f"{path} holds no arrays; give a .pdparams, .pth, .safetensors or .npz of a network")
    return arrays
