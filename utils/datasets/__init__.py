"""Data sets by name: ``load_protocol("cifar10-1", root)`` gives the train, query and database splits.

A protocol is one Spec (base.py) in ``SPECS`` of a module here; a new data set is a new module and its name in
``_MODULES``. ``python -m utils.datasets list | make | check`` shows, prepares and examines them.
"""
import difflib
import os

from utils.datasets.base import ArrayImages, FileImages, Protocol, Spec, Split, need_items
from utils.datasets.matrices import feature_files as features
from utils.datasets.own import shards
from utils.datasets.own import splits as own
from utils.datasets.protocols import cifar10, coco, imagenet, mirflickr, nuswide, shapes, voc, wiki
from utils.errors import InputError

__all__ = ["ArrayImages", "FileImages", "PROTOCOLS", "Protocol", "Spec", "Split", "find_spec", "load_protocol"]

_MODULES = (shapes, cifar10, coco, nuswide, imagenet, mirflickr, voc, wiki, features)
PROTOCOLS = {spec.name: spec for module in _MODULES for spec in module.SPECS}


def find_spec(name):
    """The Spec of a protocol's name, of a user's own pictures (own.py), or of a file of features (.npz, .mat).

    Raises:
        InputError: neither; names the nearest protocol.
    """
    name = os.fspath(name)
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    if shards.names_shards(name):
        return shards.spec(name)
    if os.path.isdir(name) or os.path.isfile(name) and name.lower().endswith(own.ENDINGS):
        return own.spec(name)
    if name.lower().endswith(features.ENDINGS):
        if not os.path.isfile(name):
            raise InputError(f"the feature file {name} does not exist")
        return features.file_spec(name)
    near = difflib.get_close_matches(name, PROTOCOLS, 1, 0.4)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise InputError(f"unknown data set '{name}'; {hint}choose one of: {', '.join(PROTOCOLS)}, a folder of "
                     "pictures, a manifest (.csv, .jsonl), an image list (.txt), shards (.tar), or a feature file "
                     "(.npz, .mat)")


def load_protocol(name, root=None, seed=None, list_dir=None, **sizes):
    """The three splits of a data set.

    Args:
        name: a key of ``PROTOCOLS``, a folder of pictures or of image lists, a manifest or an image list (see
            own.py), shards (see shards.py), or a file of features (see features.py).
        root: folder (CIFAR-10: or the archive) with the data; None where the protocol has a default.
        seed: of the split (and of the drawing, for ``shapes``); the protocol's default if None.
        list_dir: folder of the list files, for protocols that read such.
        sizes: other split sizes, by the names in the protocol's ``Spec.sizes``; None values are ignored.

    Raises:
        InputError: unknown name or size, missing folder or file, bad list line, empty split.
    """
    return load_spec(find_spec(name), root, seed, list_dir, sizes)


def load_spec(spec, root=None, seed=None, list_dir=None, sizes=None, on_fault=None):
    """As ``load_protocol``; with ``on_fault`` (callable of a message) bad list lines are left out, not raised."""
    sizes = check_sizes(spec, sizes)
    protocol = spec.load(root, spec.seed if seed is None else int(seed), list_dir, sizes, on_fault)
    shards.attach(protocol, on_fault)
    if on_fault is None:
        for split in protocol.splits:
            need_items(split)
    return protocol


def check_sizes(spec, sizes):
    """The given sizes without None; raises InputError for names that the protocol has not."""
    sizes = {key: value for key, value in (sizes or {}).items() if value is not None}
    for key, value in sizes.items():
        if key == "skip_broken" and key not in spec.sizes:
            raise InputError(f"{spec.name}: --skip-broken is for your own pictures; this data set's are fixed")
        if key not in spec.sizes:
            raise InputError(f"{spec.name} has no size '{key}'; it takes {', '.join(spec.sizes) or 'no sizes'}")
        if int(value) < 1:
            raise InputError(f"{spec.name}: size {key} must be 1 or more, got {value}")
    return {key: int(value) for key, value in sizes.items()}
