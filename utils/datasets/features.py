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
FLICKR-25K.mat; Wikipedia has raw_features.mat beside two lists and a folder ``images``. Their splits were drawn
without a seed; here the same rule is drawn with one.
"""
import os
import re

import numpy as np

from utils.datasets import mat
from utils.datasets.base import ArrayImages, FileImages, Protocol, Spec, Split, need_folder
from utils.errors import InputError

ENDINGS = (".npz", ".mat")
SIZES = ("num_query", "num_train")
TOPK = 50   # of the cross-modal literature
NAMES = {"image": ("image", "images", "img", "i", "iall", "xall"),
         "text": ("text", "texts", "txt", "tags", "t", "yall"),
         "label": ("label", "labels", "lab", "l", "lall")}
EXTRA = ("is_train", "is_query", "is_database", "ids", "classes")
WIKI_FILE = "raw_features.mat"
WIKI_LISTS = ("trainset_txt_img_cat.list", "testset_txt_img_cat.list")
WIKI_CLASSES = ("art", "biology", "geography", "history", "literature", "media", "music", "royalty", "sport", "warfare")
# protocol: (query, train, how much larger the first label's share is, first letters of the file names)
DRAWN = {"mirflickr_crossmodal": (2000, 5000, 2, ("mirflickr25k", "flickr-25k", "flickr25k")),
         "nuswide_10": (2000, 5000, 1, ("nus-wide-tc10", "nuswide-tc10", "nus-wide-tc-10"))}


# the three entries ----------------------------------------------------------------------------------------------
def load_features_protocol(path, seed=0, name=None, **sizes):
    """The three splits of a feature file.

    Splits: the file's masks or parts where there are some. MIRFlickr and NUS-WIDE files (by name, or ``name``):
    equal shares of every label as in the DJSRH authors' code, see ``draw_by_label``; the database is all but the
    query. Any other file: a random tenth (or ``num_query``) is the query, the rest the database, and all of it (or
    ``num_train``) trains. The database comes in a shuffle fixed by the seed.

    Args:
        path: an ``.npz`` or ``.mat`` file, or a folder with such files of one set.
        seed: of the drawing and of the database's order.
        name: protocol name; by default the file's stem.
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
    if os.path.isfile(os.path.join(path, WIKI_FILE)):
        path = os.path.join(path, WIKI_FILE)
    if os.path.basename(path) == WIKI_FILE:
        table, default = _read_wiki(path), "wiki"
    elif path.lower().endswith(".npz"):
        table, default = _read_npz(path), os.path.splitext(os.path.basename(path))[0]
    else:
        table, default = _read_mats(path)
    table = _clean(table, path)
    name = name or next((known for known, rule in DRAWN.items() if default.lower().startswith(rule[3])), default)
    train, query, database = _split(table, name, seed, sizes, path)
    rng = np.random.default_rng([seed, 1])
    whole = Split("all", table["ids"], table["label"], table["images"], table["features"], table["texts"],
                  table["text_features"])
    has_text = table["texts"] is not None or table["text_features"] is not None
    return Protocol(name, whole.select(train, "train"), whole.select(query, "query"),
                    whole.select(rng.permutation(database), "database"), table["classes"],
                    topk=TOPK if has_text else 0, seed=seed)


def file_spec(path):
    """Spec of a feature file, for ``--dataset path/to/file.npz``."""
    def load(root, seed, list_dir, sizes, on_fault):
        return load_features_protocol(path, seed, **sizes)
    return Spec(name=path, load=load, topk=TOPK, sizes=SIZES, source="your own features")


def _spec(name, counts, classes, source):
    def load(root, seed, list_dir, sizes, on_fault):
        return load_features_protocol(need_folder(root, source), seed, name, **sizes)
    return Spec(name=name, load=load, counts=counts, topk=TOPK, classes=classes, sizes=SIZES, source=source)


SPECS = (
    _spec("mirflickr_crossmodal", (2000, 5000, 18015), 24, "mirflickr25k-iall.mat, -yall.mat, -lall.mat (DJSRH)"),
    _spec("nuswide_10", (2000, 5000, None), 10, "nus-wide-tc10-iall.mat, -yall.mat, -lall.mat (DJSRH)"),
    _spec("wiki", (693, 2173, 2173), 10, f"{WIKI_FILE}, {', '.join(WIKI_LISTS)} and the folder images (svcl.ucsd.edu)"),
)


# splits ---------------------------------------------------------------------------------------------------------
def draw_by_label(labels, num_query, num_train, first=1, seed=0):
    """Query and training rows with equal shares of every label (datasets.py of the DJSRH authors).

    Label by label, rows that are not yet taken are shuffled; the first ones become queries, the next ones train.
    Shares that a rare label cannot fill, and remainders, are filled from all rows.

    Args:
        labels: [N, C] of 0/1.
        num_query, num_train: sizes.
        first: shares of the first label (MIRFlickr 2: 160 queries where the others have 80).
        seed: of the drawing.

    Returns:
        (query, train) int64, disjoint; shorter than asked for only where there are too few rows.
    """
    labels = np.asarray(labels)
    rng = np.random.default_rng(seed)
    shares = [first] + [1] * (labels.shape[1] - 1)
    taken = np.zeros(len(labels), bool)
    query, train = [], []
    for label, share in enumerate(shares):
        rows = rng.permutation(np.flatnonzero((labels[:, label] > 0) & ~taken))
        want_query, want_train = (share * (size // sum(shares)) for size in (num_query, num_train))
        query.extend(rows[:want_query])
        train.extend(rows[want_query:want_query + want_train])
        taken[rows[:want_query + want_train]] = True
    rest = rng.permutation(np.flatnonzero(~taken))
    missing = num_query - len(query)
    query.extend(rest[:missing])
    train.extend(rest[missing:missing + num_train - len(train)])
    return np.array(query, np.int64), np.array(train, np.int64)


def _split(table, name, seed, sizes, path):
    """(train, query, database) row numbers."""
    n = len(table["ids"])
    masks = {key: table[key] for key in EXTRA[:3] if table.get(key) is not None}
    if masks:
        if sizes:
            raise InputError(f"{path} brings its own split; leave out {', '.join('--' + key for key in sizes)}")
        if "is_train" not in masks:
            raise InputError(f"{path} has {', '.join(masks)}, but no is_train")
        train = masks["is_train"]
        rows = train, masks.get("is_query", ~train), masks.get("is_database", train)
        train, query, database = (np.flatnonzero(mask) for mask in rows)
    else:
        num_query, num_train, first, _ = DRAWN.get(name, (max(1, n // 10), None, None, None))
        num_query = sizes.get("num_query", num_query)
        num_train = sizes.get("num_train", num_train or n - num_query)
        if num_query + num_train > n or num_train < 1:
            raise InputError(f"{path}: {num_query} query and {num_train} training items do not fit into {n}; "
                             "choose --num-query and --num-train")
        if name in DRAWN and table["label"] is None:
            raise InputError(f"{path}: the split of {name} is drawn by labels, and there are none")
        if name in DRAWN:
            query, train = draw_by_label(table["label"], num_query, num_train, first, seed)
        else:
            order = np.random.default_rng(seed).permutation(n)
            query, train = order[:num_query], order[num_query:num_query + num_train]
        database = np.setdiff1d(np.arange(n), query)
        query, train = np.sort(query), np.sort(train)
    for part, rows in (("training", train), ("query", query), ("database", database)):
        if not len(rows):
            raise InputError(f"{path}: the {part} split is empty")
    return train, query, database


# files ----------------------------------------------------------------------------------------------------------
def _find(names, role):
    """The variable that plays a role: its name, a pair (training part, query part), or None."""
    lower = {name.lower(): name for name in names}
    whole = next((lower[name] for name in NAMES[role] if name in lower), None)
    if whole is not None:
        return whole
    letter = role[0]
    pairs = ((f"{letter}_tr", f"{letter}_te"), (f"{role}_train", f"{role}_test"))
    return next(((lower[a], lower[b]) for a, b in pairs if a in lower and b in lower), None)


def _read_npz(path):
    try:
        with np.load(path, allow_pickle=False) as file:
            names = {role: _find(file.files, role) for role in NAMES}
            table = {role: None if found is None else
                     tuple(file[part] for part in found) if isinstance(found, tuple) else file[found]
                     for role, found in names.items()}
            table.update({key: file[key] for key in EXTRA if key in file.files})
            table["found"] = ", ".join(file.files)
            return table
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except Exception as error:  # zipfile, zlib and numpy complain about damaged files in many ways
        raise InputError(f"{path} is no readable .npz file of plain arrays "
                         f"({str(error).splitlines()[0][:80]})") from None


def _family(path):
    """What the files of one set have in common: mirflickr25k-iall.mat, mirflickr25k-yall.mat -> mirflickr25k."""
    stem = os.path.splitext(os.path.basename(path))[0]
    return re.sub(r"[-_]?[a-z]all\b.*$", "", stem, flags=re.IGNORECASE) or stem


def _mat_files(folder):
    if not os.path.isdir(folder):
        return []
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.lower().endswith(".mat")]


def _read_mats(path):
    """(table, family) of a ``.mat`` file and its siblings, or of a folder with the files of one set."""
    if os.path.isdir(path):
        places = [path] + sorted(entry.path for entry in os.scandir(path) if entry.is_dir())
        files = [file for place in places for file in _mat_files(place)]
    else:
        beside = _mat_files(os.path.dirname(os.path.abspath(path)))
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
        for role in NAMES:
            variable = _find(found, role)
            if variable is None:
                continue
            if role in places and places[role][0] != path:
                raise InputError(f"both {places[role][0]} and {file} hold {role} data; name the file to use")
            places.setdefault(role, (file, variable))
        extra.update({key: file for key in EXTRA[:3] if key in found})
        if file == path and len(places) == len(NAMES):
            break
    table = {role: None for role in NAMES}
    for role in ("label", "text", "image"):   # labels first: their number settles the pictures' axes
        if role in places:
            file, variable = places[role]
            parts = variable if isinstance(variable, tuple) else (variable,)
            count = None if table["label"] is None or len(parts) > 1 else max(table["label"].shape)
            read = [_read_variable(file, part, role, count) for part in parts]
            if role == "label":   # MATLAB has no vectors: one class number an item comes as [1, N] or [N, 1]
                read = [value.ravel() if 1 in value.shape else value for value in read]
            table[role] = tuple(read) if len(parts) > 1 else read[0]
    table.update({key: mat.read_matrix(file, key).ravel() for key, file in extra.items()})
    table["found"] = ", ".join(seen)
    return table, families[0]


def _read_variable(file, name, role, count):
    if role == "image" and len(mat.variables(file)[name]) == 4:
        return mat.read_images(file, name, count if count and count > 1 else None)
    return mat.read_matrix(file, name)


def _read_wiki(path):
    """Table of the Wikipedia set: texts from raw_features.mat, labels and picture names from the two lists."""
    folder = os.path.dirname(os.path.abspath(path))
    found = mat.variables(path)
    for name in ("T_tr", "T_te"):
        if name not in found:
            raise InputError(f"{path} has no {name} (text features); it holds {', '.join(found) or 'nothing'}")
    texts = tuple(mat.read_matrix(path, name) for name in ("T_tr", "T_te"))
    rows, labels = [], []
    for name, text in zip(WIKI_LISTS, texts):
        part = _read_wiki_list(os.path.join(folder, name))
        if len(part) != len(text):
            raise InputError(f"{os.path.join(folder, name)} has {len(part)} lines, and {WIKI_FILE} {len(text)} texts")
        rows += part
        labels.append(np.eye(len(WIKI_CLASSES), dtype="uint8")[[label for _, _, label in part]])
    names = [f"{WIKI_CLASSES[label]}/{image}.jpg" for _, image, label in rows]
    images = os.path.join(folder, "images")
    if os.path.isdir(images):
        image = FileImages(images, names)
    elif "I_tr" in found and "I_te" in found:
        image = tuple(mat.read_matrix(path, name) for name in ("I_tr", "I_te"))
    else:
        raise InputError(f"{folder} has no folder images (art/<name>.jpg, ...), and {WIKI_FILE} no image features "
                         "I_tr, I_te")
    is_train = np.arange(len(rows)) < len(texts[0])
    # a picture may illustrate two articles: the article's id makes the row's id unique
    ids = [f"{name}#{text}" for name, (text, _, _) in zip(names, rows)]
    return {"image": np.concatenate(image) if isinstance(image, tuple) else image, "text": np.concatenate(texts),
            "label": np.concatenate(labels), "is_train": is_train, "ids": ids, "classes": list(WIKI_CLASSES)}


def _read_wiki_list(path):
    """[(text id, image id, label from 0)] of a ``*_txt_img_cat.list``."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    rows = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 3 or not words[2].isdigit() or not 1 <= int(words[2]) <= len(WIKI_CLASSES):
            raise InputError(f"{path}:{number}: expected '<text id> <image id> <label 1 to {len(WIKI_CLASSES)}>'")
        rows.append((words[0], words[1], int(words[2]) - 1))
    return rows


# arrays ---------------------------------------------------------------------------------------------------------
def _clean(table, path):
    """Check and convert the raw variables: images or features, texts or text_features, label, ids, classes, masks."""
    roles = {role: table[role] for role in NAMES}
    if roles["image"] is None and roles["text"] is None:
        raise InputError(f"{path} holds neither an image nor a text matrix; looked for "
                         f"{', '.join(NAMES['image'])}; {', '.join(NAMES['text'])}; "
                         f"found {table.get('found') or 'nothing'}")
    masks = {key: table.get(key) for key in EXTRA[:3]}
    pairs = [value for value in roles.values() if isinstance(value, tuple)]
    if pairs:
        if any(value is not None and not isinstance(value, tuple) for value in roles.values()):
            raise InputError(f"{path}: some of image, text and label are in two parts and some in one")
        masks["is_train"] = np.arange(sum(map(len, pairs[0]))) < len(pairs[0][0])
        for role, value in roles.items():
            if value is not None and [len(part) for part in value] != [len(part) for part in pairs[0]]:
                raise InputError(f"{path}: the parts of {role} have {len(value[0])} and {len(value[1])} rows, others "
                                 f"{len(pairs[0][0])} and {len(pairs[0][1])}")
            if value is not None and not isinstance(value[0], np.ndarray):
                raise InputError(f"{path}: pictures in two parts are not supported; store them as one variable "
                                 "with a mask is_train")
            roles[role] = None if value is None else np.concatenate(value)

    n = _count(roles)
    image, pictures = roles["image"], None
    if image is not None and getattr(image, "ndim", None) == 4:
        if image.dtype != np.uint8 or image.shape[-1] != 3:
            raise InputError(f"{path}: pictures must be uint8 [N, H, W, 3], not {image.dtype} {list(image.shape)}")
        image = ArrayImages(image)
    if image is not None and not isinstance(image, np.ndarray):
        image, pictures = None, image
        _same_length(len(pictures), n, "image", path)
    text, texts = roles["text"], None
    if text is not None and text.dtype.kind == "U":
        text, texts = None, [str(value) for value in text.ravel()]
        _same_length(len(texts), n, "text", path)
    for key, mask in masks.items():
        if mask is not None:
            masks[key] = np.asarray(mask).astype(bool).ravel()
            _same_length(len(masks[key]), n, key, path)
    ids = table.get("ids")
    ids = [f"{row:07d}" for row in range(n)] if ids is None else [str(value) for value in np.ravel(ids)]
    _same_length(len(ids), n, "ids", path)
    label = _labels(roles["label"], n, path)
    classes = table.get("classes")
    if classes is None:
        classes = [f"class_{i}" for i in range(0 if label is None else label.shape[1])]
    elif label is not None and len(classes) != label.shape[1]:
        raise InputError(f"{path} names {len(classes)} classes, but the labels have {label.shape[1]} columns")
    return {"images": pictures, "features": _matrix(image, n, "image", path), "texts": texts,
            "text_features": _matrix(text, n, "text", path), "label": label, "ids": ids,
            "classes": [str(name) for name in classes], **masks}


def _count(roles):
    """Number of items: that of the pictures, texts (one string each) or matrices; a label vector does not count."""
    for role in ("image", "text", "label"):
        value = roles[role]
        if value is not None and not (isinstance(value, np.ndarray) and value.ndim == 2):
            return len(value) if role != "label" else value.size
    shapes = [value.shape for value in roles.values() if value is not None]
    common = [size for size in shapes[0] if all(size in shape for shape in shapes)]
    return shapes[0][0] if shapes[0][0] in common or not common else common[0]


def _same_length(length, n, role, path):
    if length != n:
        raise InputError(f"{path}: {role} has {length} items, others {n}")


def _matrix(value, n, role, path):
    """float32 [N, D]; a matrix stored the other way round is turned."""
    if value is None:
        return None
    if value.ndim != 2 or value.dtype.kind not in "fiub":
        raise InputError(f"{path}: {role} must be a matrix of numbers, not {value.dtype} {list(value.shape)}")
    if value.shape[0] != n and value.shape[1] == n:
        value = value.T
    _same_length(value.shape[0], n, role, path)
    value = np.ascontiguousarray(value, dtype="float32")
    bad = np.flatnonzero(~np.isfinite(value).all(axis=1))
    if len(bad):
        raise InputError(f"{path}: {len(bad)} rows of {role} hold NaN or infinity, row {bad[0]} first")
    return value


def _labels(value, n, path):
    """uint8 [N, C] of 0/1 from 0/1 (or -1/1) columns, or from one class number an item (columns in their order)."""
    if value is None:
        return None
    value = np.asarray(value)
    if value.ndim == 2 and min(value.shape) > 1:
        value = value.T if value.shape[0] != n and value.shape[1] == n else value
        _same_length(value.shape[0], n, "label", path)
        if not np.isin(value, (-1, 0, 1)).all():
            raise InputError(f"{path}: label columns must be 0 or 1")
        return np.ascontiguousarray(value > 0, dtype="uint8")
    value = value.ravel()
    _same_length(len(value), n, "label", path)
    numbers, column = np.unique(value, return_inverse=True)
    if value.dtype.kind == "f" and not np.array_equal(numbers, np.round(numbers)):
        raise InputError(f"{path}: label must be class numbers or 0/1 columns")
    return np.eye(len(numbers), dtype="uint8")[column]
