"""Data sets by name or path: ``load_protocol("cifar10-1", root)`` gives the train, query and database splits."""
import dataclasses
import difflib
import os
import re

from utils.datasets import lists
from utils.datasets.base import Request, is_hidden, need_items
from utils.datasets.labels import FORMS
from utils.datasets.matrices import feature_files
from utils.datasets.own import folders, shards, splits
from utils.datasets.protocols import cifar10, coco, imagenet, mirflickr, nuswide, shapes, voc, wiki
from utils.errors import InputError

_MODULES = (shapes, cifar10, coco, nuswide, imagenet, mirflickr, voc, wiki)
PROTOCOLS = {known.name: known for module in _MODULES for known in module.DATA_SETS}
# other names that papers and code give to the sets, in the spelling of ``_plain``
_ALSO = {"cifar": "cifar10", "coco2014": "coco", "mscoco": "coco", "mscoco2014": "coco", "flickr": "mirflickr",
         "flickr25k": "mirflickr", "mirflickr25k": "mirflickr", "mirflickr25000": "mirflickr",
         "nuswide": "nuswide_21", "nuswidetc21": "nuswide_21", "nuswidetc10": "nuswide_10", "nuswide81": "nuswide_81_m",
         "imagenet100": "imagenet", "imagenet1k": "imagenet", "ilsvrc2012": "imagenet", "voc": "voc2012",
         "pascalvoc": "voc2012", "pascalvoc2012": "voc2012", "wikipedia": "wiki"}


def _plain(name):
    """A name without capitals, blanks and marks."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def nearest_name(name):
    """The protocol that a wrong name most likely means, or None."""
    plain = {**_ALSO, **{_plain(known): known for known in PROTOCOLS}}
    near = difflib.get_close_matches(_plain(name), plain, 1, 0.5)
    return plain[near[0]] if near else None


def find_data_set(name, root=None):
    """The DataSet of a protocol's name, of a user's own pictures (splits.py), shards, or a file of features (.npz,
    .mat).

    Args:
        name: name or path.
        root: where a path is gone, what stands in its place: the data folder, or the file itself.

    Raises:
        InputError: nothing is there; names the nearest protocol, or the path that is gone.
    """
    name = _listed(os.fspath(name))
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    found = _find_moved(name, os.fspath(root)) if root is not None and is_path(name) and not _is_there(name) else None
    found = found or _find_path(name)
    if found is not None:
        return found
    if is_path(name) and not os.path.exists(name):
        gone = f"the file {name} does not exist (of --dataset or of the training run)" if os.path.splitext(name)[1] \
            else f"the folder {name} of the training run, or of --dataset, does not exist"
        raise InputError(f"{gone}; give --dataset NEW or --data-path NEW")
    if os.path.exists(name):
        raise InputError(f"{name} is no data set: expected a folder of pictures, a manifest (.csv, .tsv, .jsonl), an "
                         "image list (.txt), shards (.tar), or a feature file (.npz, .mat)")
    near = nearest_name(name)
    hint = f"did you mean '{near}'? " if near else ""
    raise InputError(f"unknown data set '{name}'; {hint}choose one of: {', '.join(PROTOCOLS)}, a folder of "
                     "pictures, a manifest (.csv, .jsonl), an image list (.txt), shards (.tar), or a feature file "
                     "(.npz, .mat)")


def _find_path(path):
    """The DataSet of what lies at ``path``, or None."""
    if shards.names_shards(path):
        return shards.data_set(path)
    if os.path.isdir(path) or os.path.isfile(path) and path.lower().endswith(splits.ENDINGS):
        return splits.data_set(path)
    if os.path.isfile(path) and os.path.basename(path) == wiki.FEATURES:
        folder = os.path.dirname(os.path.abspath(path))
        return dataclasses.replace(PROTOCOLS["wiki"], load=lambda request: wiki.load(
            dataclasses.replace(request, root=folder)))
    if os.path.isfile(path) and path.lower().endswith(feature_files.ENDINGS):
        return feature_files.data_set(path)
    return None


def _find_moved(path, root):
    """The DataSet of what lies at ``root`` in place of a path that is gone, or None."""
    if not os.path.splitext(path)[1]:
        return _find_path(root) if os.path.isdir(root) else None
    beside = os.path.join(root, os.path.basename(path))
    if _is_there(beside):
        return _find_path(beside)
    same = os.path.isfile(root) and root.lower().endswith((*feature_files.ENDINGS, ".tar"))
    return _find_path(root) if same else None


def _is_there(path):
    """Whether a path, or one of the shards that a pattern names, exists."""
    return os.path.exists(path) or "{" in path and any(map(os.path.exists, shards.expand_braces(path)))


def is_path(name):
    """Whether a ``--dataset`` is a path (there or not) and no name of a protocol."""
    endings = (*splits.ENDINGS, *feature_files.ENDINGS, ".tar")
    return name not in PROTOCOLS and (os.path.exists(name) or os.path.basename(name) != name
                                      or name.lower().endswith(endings))


def absolute_name(name):
    """A ``--dataset`` that means the same from every folder: paths absolute, names of protocols as they are."""
    name = _listed(os.fspath(name))
    return os.path.abspath(os.path.expanduser(name)) if is_path(name) else name


def _listed(name):
    """NAME, or data/NAME where that holds image lists: paddle_hashnet keeps them there."""
    place = os.path.join("data", name)
    known = name in PROTOCOLS or is_path(name)
    return place if not known and {"train", "query", "database"} <= set(lists.find_lists(place)) else name


def recognise(path):
    """What a folder or file holds, as a ``--dataset``: for a ``--data-path`` that comes without one.

    Official files first: the folder of COCO (``train2014/`` or ``val2014/``), the archive or folder of CIFAR-10 (taken
    as ``cifar10``), and so on. NUS-WIDE, MIRFLICKR and ImageNet have several protocols; the first of ``list`` is taken.
    Then a user's own: image lists, class folders, pictures, manifests, shards, a feature file, or a folder with one.

    Returns:
        name of a protocol, an absolute path, or None where nothing is recognised.
    """
    path = os.fspath(path)
    for name, known in PROTOCOLS.items():
        if known.recognises is not None and os.path.exists(path) and known.recognises(path):
            return name
    if not os.path.isdir(path):
        return absolute_name(path) if _is_there(path) and _find_path(path) else None
    if shards.names_shards(path) or lists.find_lists(path) or folders.any_picture(path):
        return absolute_name(path)
    features = [os.path.join(path, name) for name in sorted(os.listdir(path))
                if name.lower().endswith(feature_files.ENDINGS) and not is_hidden(name)]
    return absolute_name(features[0]) if len(features) == 1 else None


def load_protocol(name, root=None, seed=None, list_dir=None, may_draw=True, **options):
    """The three splits of a data set.

    Args:
        name: a key of ``PROTOCOLS``, a folder of pictures or of image lists, a manifest or an image list (see
            own/splits.py), shards (see own/shards.py), or a file of features (see matrices/feature_files.py).
        root: folder (CIFAR-10: or the archive) with the data; None where the protocol has a default.
        seed: of the split (and of the drawing, for ``shapes``); the protocol's default if None.
        list_dir: folder of the list files, for protocols that read such.
        may_draw: a set that this project draws may be drawn where it is missing.
        options: other split sizes, by the names in ``DataSet.sizes``, and what ``DataSet.options`` says; None values
            are ignored.

    Raises:
        InputError: unknown name or size, missing folder or file, bad list line, empty split.
    """
    data_set = find_data_set(name, root)
    request = make_request(data_set, root, seed, list_dir, options)
    return load_data_set(data_set, dataclasses.replace(request, may_draw=may_draw))


def load_data_set(data_set, request):
    """Protocol of a Request; with ``on_fault`` bad list lines are left out, and splits may be empty.

    Raises:
        InputError: as ``load_protocol``.
    """
    protocol = data_set.load(request)
    shards.attach(protocol, request.on_fault)
    if request.on_fault is None:
        for split in protocol.splits:
            need_items(split)
    return protocol


def make_request(data_set, root=None, seed=None, list_dir=None, options=None):
    """A Request that suits a data set; arguments as in ``load_protocol``.

    Raises:
        InputError: an option that the data set has not, or a size below 1.
    """
    given = {key: value for key, value in (options or {}).items() if value is not None}
    skip_broken = bool(given.pop("skip_broken", False))
    if skip_broken and "skip_broken" not in data_set.options:
        raise InputError(f"{data_set.name}: --skip-broken is for your own pictures; this data set's are fixed")
    labels = str(given.pop("labels", "auto"))
    if labels not in FORMS:
        raise InputError(f"--labels is {labels!r}; choose one of {', '.join(FORMS)}")
    if labels != "auto" and "labels" not in data_set.options:
        raise InputError(f"{data_set.name}: --labels is for your own lists, manifests and feature files; here it is "
                         "known what the labels are")
    for key, value in given.items():
        if key not in data_set.sizes:
            raise InputError(f"{data_set.name} has no size '{key}'; it takes {', '.join(data_set.sizes) or 'no sizes'}")
        if int(value) < 1:
            raise InputError(f"{data_set.name}: size {key} must be 1 or more, got {value}")
    return Request(root, data_set.seed if seed is None else int(seed), list_dir,
                   {key: int(value) for key, value in given.items()}, labels, skip_broken)
