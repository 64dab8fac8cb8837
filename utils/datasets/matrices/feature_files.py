"""Image-text sets that are published as matrices: ``.npz`` and MATLAB ``.mat`` files, with pictures or features.

One file or several files side by side hold an image matrix [N, D] (or pictures), a text matrix [N, T], labels, and
perhaps who is in the training split. Variables are known by their usual names, whatever their case:

    image   image, images, img, I, IAll, XAll         pictures (4 axes, uint8) or features (2 axes)
    text    text, texts, txt, tags, T, YAll           features [N, T], or strings in an .npz
    label   label, labels, lab, L, LAll               0/1 [N, C], or one class number an item
    and     is_train, is_query, is_database           masks [N]; query = not train, database = train by default
            ids, classes                              strings

or each of image, text, label in two parts, ``I_tr`` and ``I_te``: training = database, and query.

The layouts of the DJSRH and DCMH authors are such sets: mirflickr25k-{i,y,l}all.mat, nus-wide-tc10-{i,y,l}all.mat,
FLICKR-25K.mat. Their splits were drawn without a seed; here the same rule is drawn with one. Wikipedia's
raw_features.mat goes to wiki.py.
"""
import os
import re

from utils.datasets.base import DataSet, is_hidden
from utils.datasets.matrices import mat
from utils.datasets.matrices.splits import DRAWN, FIELDS, MASKS, SIZES, TOPK, make_protocol
from utils.errors import InputError
from utils.npz import read_npz

ENDINGS = (".npz", ".mat")
EXTRA = (*MASKS, "ids", "classes")


# the three entries ----------------------------------------------------------------------------------------------
def load_features_protocol(path, seed=0, name=None, labels="auto", **sizes):
    """The three splits of a feature file.

    Splits: the file's masks or parts where there are some. MIRFlickr and NUS-WIDE files (by name, or ``name``):
    equal shares of every label as in the DJSRH authors' code, see ``draw_by_label``; the database is all but the
    query. Any other file: a random tenth (or ``num_query``) is the query, the rest the database, and all of it (or
    ``num_train``) trains. The database comes in a shuffle fixed by the seed.

    Args:
        path: an ``.npz`` or ``.mat`` file, or a folder with such files of one set.
        seed: of the drawing and of the database's order.
        name: protocol name; by default the file's stem.
        labels: how labels are written, see labels.py.
        sizes: ``num_query``, ``num_train``; None is ignored.

    Raises:
        InputError: unreadable file, variables missing or of different lengths, values that are not finite,
            sizes that do not fit.
    """
    seed = int(seed or 0)
    sizes = {key: int(value) for key, value in sizes.items() if value is not None}
    for key in sizes:
        if key not in SIZES:
            raise InputError(f"{path} has no size '{key}'; it takes {', '.join(SIZES)}")
    path = os.fspath(path)
    if path.lower().endswith(".npz"):
        variables, default = _read_npz(path), os.path.splitext(os.path.basename(path))[0]
    else:
        variables, default = _read_mats(path)
    name = name or next((known for known, rule in DRAWN.items() if default.lower().startswith(rule[3])), default)
    return make_protocol(variables, name, seed, sizes, path, labels)


def data_set(path):
    """DataSet of a feature file, for ``--dataset path/to/file.npz``."""
    def load(request):
        return load_features_protocol(path, request.seed, labels=request.labels, **request.sizes)
    return DataSet(name=path, load=load, topk=TOPK, sizes=SIZES, options=("labels",), source="your own features")


# files ----------------------------------------------------------------------------------------------------------
def _find(names, field):
    """The variable that plays a field: its name, a pair (training part, query part), or None."""
    lower = {name.lower(): name for name in names}
    whole = next((lower[name] for name in FIELDS[field] if name in lower), None)
    if whole is not None:
        return whole
    letter = field[0]
    pairs = ((f"{letter}_tr", f"{letter}_te"), (f"{field}_train", f"{field}_test"))
    return next(((lower[a], lower[b]) for a, b in pairs if a in lower and b in lower), None)


def _read_npz(path):
    """Raw variables of an .npz file; only those with a known name are read."""
    _, there = read_npz(path, ())
    names = {field: _find(there, field) for field in FIELDS}
    parts = {field: found if isinstance(found, tuple) else (found,) for field, found in names.items() if found}
    arrays, _ = read_npz(path, {name for found in parts.values() for name in found} | set(EXTRA))
    variables = {field: None if found is None else tuple(arrays[part] for part in found) if isinstance(found, tuple)
                 else arrays[found] for field, found in names.items()}
    variables.update({key: arrays[key] for key in EXTRA if key in arrays})
    variables["found"] = ", ".join(there)
    return variables


def _family(path):
    """What the files of one set have in common: mirflickr25k-iall.mat, mirflickr25k-yall.mat -> mirflickr25k."""
    stem = os.path.splitext(os.path.basename(path))[0]
    return re.sub(r"[-_]?[a-z]all\b.*$", "", stem, flags=re.IGNORECASE) or stem


def mat_files(folder):
    """The ``.mat`` files in a folder and one level below, but for the name list of NUS-WIDE's official distribution."""
    places = [folder] + sorted(entry.path for entry in os.scandir(folder) if entry.is_dir())
    return [file for place in places for file in _mat_files(place) if os.path.basename(file) != "Concepts81.mat"]


def _mat_files(folder):
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder))
            if name.lower().endswith(".mat") and not is_hidden(name)]


def _read_mats(path):
    """(variables, family) of a ``.mat`` file and its siblings, or of a folder with the files of one set."""
    if os.path.isdir(path):
        files = mat_files(path)
    else:
        folder = os.path.dirname(os.path.abspath(path))
        beside = _mat_files(folder) if os.path.isdir(folder) else []
        files = [path] + [file for file in beside if _family(file) == _family(path)
                          and file != os.path.abspath(path)]
    families = sorted({_family(file) for file in files})
    if not files:
        raise InputError(f"{path} holds no .mat file")
    if len(families) > 1:
        raise InputError(f"{path} holds .mat files of several sets ({', '.join(families[:4])}); name one of the files")
    places, extra, seen = {}, {}, []
    for file in files:
        found = mat.variables(file)
        seen += list(found)
        for field in FIELDS:
            variable = _find(found, field)
            if variable is None:
                continue
            if field in places and places[field][0] != path:
                raise InputError(f"both {places[field][0]} and {file} hold {field} data; name the file to use")
            places.setdefault(field, (file, variable))
        extra.update({key: file for key in MASKS if key in found})
        if file == path and len(places) == len(FIELDS):
            break
    variables = {field: None for field in FIELDS}
    for field in ("label", "text", "image"):   # labels first: their number settles the pictures' axes
        if field in places:
            file, variable = places[field]
            parts = variable if isinstance(variable, tuple) else (variable,)
            count = None if variables["label"] is None or len(parts) > 1 else max(variables["label"].shape)
            read = [_read_variable(file, part, field, count) for part in parts]
            if field == "label":   # MATLAB has no vectors: one class number an item comes as [1, N] or [N, 1]
                read = [value.ravel() if 1 in value.shape else value for value in read]
            variables[field] = tuple(read) if len(parts) > 1 else read[0]
    variables.update({key: mat.read_matrix(file, key).ravel() for key, file in extra.items()})
    variables["found"] = ", ".join(seen)
    return variables, families[0]


def _read_variable(file, name, field, count):
    if field == "image" and len(mat.variables(file)[name]) == 4:
        return mat.read_images(file, name, count if count and count > 1 else None)
    return mat.read_matrix(file, name)
