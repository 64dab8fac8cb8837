"""Raw variables -> a protocol: images or features, texts or text features, labels and who is in which split.

``variables`` is a dict with the keys image, text, label (an array, a pair of training and query part, or None), the
masks is_train, is_query, is_database, and ids, classes; feature_files.py and wiki.py read such from files. Pictures may
be an images object of base.py, texts a list of str.
"""
import numpy as np

from utils.datasets.base import ArrayImages, Protocol, Split
from utils.datasets.labels import one_hot
from utils.datasets.seeded import permutation
from utils.datasets.text_files import whole_text
from utils.errors import InputError

SIZES = ("num_query", "num_train")
TOPK = 50   # of the cross-modal literature
MASKS = ("is_train", "is_query", "is_database")
FIELDS = {"image": ("image", "images", "img", "i", "iall", "xall"),
         "text": ("text", "texts", "txt", "tags", "t", "yall"),
         "label": ("label", "labels", "lab", "l", "lall")}
# protocol: (query, train, how much larger the first label's share is, first letters of the file names)
DRAWN = {"mirflickr_crossmodal": (2000, 5000, 2, ("mirflickr25k", "flickr-25k", "flickr25k")),
         "nuswide_10": (2000, 5000, 1, ("nus-wide-tc10", "nuswide-tc10", "nus-wide-tc-10"))}


def make_protocol(variables, name, seed, sizes, path, labels="auto"):
    """Protocol of raw variables.

    Args:
        variables: dict, see the module; ``path`` is the file for messages.
        name: protocol name; where it is a key of ``DRAWN``, equal shares of every label are drawn (``draw_by_label``).
        seed: of the drawing and of the database's order.
        sizes: ``num_query``, ``num_train``.
        labels: how labels are written, see labels.py.

    Raises:
        InputError: variables missing or of different lengths, values that are not finite, sizes that do not fit.
    """
    variables = _clean(variables, path, labels)
    train, query, database = _split(variables, name, seed, sizes, path)
    rng = np.random.default_rng([seed, 1])
    whole = Split("all", variables["ids"], variables["label"], variables["images"], variables["features"],
                  variables["texts"], variables["text_features"])
    has_text = variables["texts"] is not None or variables["text_features"] is not None
    return Protocol(name, whole.select(train, "train"), whole.select(query, "query"),
                    whole.select(rng.permutation(database), "database"), variables["classes"],
                    topk=TOPK if has_text else 0, seed=seed)


def draw_by_label(labels, num_query, num_train, first=1, seed=0):
    """Query and training rows with equal shares of every label (the rule of the DJSRH authors' datasets.py).

    Label by label, rows that are not yet taken are shuffled; the first ones become queries, the next ones train.
    Shares that a rare label cannot fill, and remainders, are filled from all rows.

    Args:
        labels: [N, C] of 0/1.
        num_query, num_train: sizes.
        first: shares of the first label (MIRFlickr 2: 160 queries where the others have 80).
        seed: of the drawing, by ``permutation(n, seed, 30, label)``: the same with every version of numpy.

    Returns:
        (query, train) int64, disjoint; shorter than asked for only where there are too few rows.
    """
    labels = np.asarray(labels)
    shares = [first] + [1] * (labels.shape[1] - 1)
    taken = np.zeros(len(labels), bool)
    query, train = [], []
    for label, share in enumerate(shares):
        rows = np.flatnonzero((labels[:, label] > 0) & ~taken)
        rows = rows[permutation(len(rows), seed, 30, label)]
        want_query, want_train = (share * (size // sum(shares)) for size in (num_query, num_train))
        query.extend(rows[:want_query])
        train.extend(rows[want_query:want_query + want_train])
        taken[rows[:want_query + want_train]] = True
    rest = np.flatnonzero(~taken)
    rest = rest[permutation(len(rest), seed, 30, len(shares))]
    missing = num_query - len(query)
    query.extend(rest[:missing])
    train.extend(rest[missing:missing + num_train - len(train)])
    return np.array(query, np.int64), np.array(train, np.int64)


def _split(variables, name, seed, sizes, path):
    """(train, query, database) row numbers."""
    n = len(variables["ids"])
    masks = {key: variables[key] for key in MASKS if variables.get(key) is not None}
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
        if name in DRAWN and variables["label"] is None:
            raise InputError(f"{path}: the split of {name} is drawn by labels, and there are none")
        if name in DRAWN:
            query, train = draw_by_label(variables["label"], num_query, num_train, first, seed)
        else:
            order = np.random.default_rng(seed).permutation(n)
            query, train = order[:num_query], order[num_query:num_query + num_train]
        database = np.setdiff1d(np.arange(n), query)
        query, train = np.sort(query), np.sort(train)
    for part, rows in (("training", train), ("query", query), ("database", database)):
        if not len(rows):
            raise InputError(f"{path}: the {part} split is empty")
    return train, query, database


def _clean(variables, path, labels):
    """Check and convert the raw variables: images or features, texts or text_features, label, ids, classes, masks."""
    fields = {field: variables[field] for field in FIELDS}
    if fields["image"] is None and fields["text"] is None:
        raise InputError(f"{path} holds neither an image nor a text matrix; looked for "
                         f"{', '.join(FIELDS['image'])}; {', '.join(FIELDS['text'])}; "
                         f"found {variables.get('found') or 'nothing'}")
    masks = {key: variables.get(key) for key in MASKS}
    for field, value in fields.items():
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, np.ndarray) and part.ndim not in (1, 2, 4):
                raise InputError(f"{path}: {field} has the shape {list(part.shape)}; expected [N], [N, D] or pictures")
    if any(isinstance(value, tuple) for value in fields.values()):
        masks["is_train"] = _join_parts(fields, path)

    n = _count(fields)
    image, pictures = fields["image"], None
    if image is not None and getattr(image, "ndim", None) == 4:
        if image.dtype != np.uint8 or image.shape[-1] != 3:
            raise InputError(f"{path}: pictures must be uint8 [N, H, W, 3], not {image.dtype} {list(image.shape)}")
        image = ArrayImages(image)
    if image is not None and not isinstance(image, np.ndarray):
        image, pictures = None, image
        _same_length(len(pictures), n, "image", path)
    text, texts = fields["text"], None
    if isinstance(text, list) or (text is not None and text.dtype.kind in "SU"):
        text, texts = None, text if isinstance(text, list) else _strings(text, "text", path)
        _same_length(len(texts), n, "text", path)
    for key, mask in masks.items():
        if mask is not None:
            mask = np.asarray(mask)
            if mask.dtype.kind not in "biuf":
                raise InputError(f"{path}: {key} is {mask.dtype}, and must be a mask of 0 and 1")
            masks[key] = mask.astype(bool).ravel()
            _same_length(len(masks[key]), n, key, path)
    label = _labels(fields["label"], n, path, labels)
    classes = variables.get("classes")
    if classes is None:
        classes = [f"class_{i}" for i in range(0 if label is None else label.shape[1])]
    elif label is not None and np.size(classes) != label.shape[1]:
        raise InputError(f"{path} names {np.size(classes)} classes, but the labels have {label.shape[1]} columns")
    return {"images": pictures, "features": _matrix(image, n, "image", path), "texts": texts,
            "text_features": _matrix(text, n, "text", path), "label": label,
            "ids": _ids(variables.get("ids"), n, path), "classes": _strings(classes, "classes", path), **masks}


def _join_parts(fields, path):
    """Join image, text and label that come in two parts each, in place; returns the mask of the training part.

    Raises:
        InputError: some come in one part, parts of different lengths or shapes.
    """
    pairs = [value for value in fields.values() if isinstance(value, tuple)]
    if any(value is not None and not isinstance(value, tuple) for value in fields.values()):
        raise InputError(f"{path}: some of image, text and label are in two parts and some in one")
    for field, value in fields.items():
        if value is not None and [len(part) for part in value] != [len(part) for part in pairs[0]]:
            raise InputError(f"{path}: the parts of {field} have {len(value[0])} and {len(value[1])} rows, others "
                             f"{len(pairs[0][0])} and {len(pairs[0][1])}")
        if value is not None and not isinstance(value[0], np.ndarray):
            raise InputError(f"{path}: pictures in two parts are not supported; store them as one variable with a mask "
                             "is_train")
        if value is not None and value[0].shape[1:] != value[1].shape[1:]:
            raise InputError(f"{path}: the parts of {field} have the shapes {list(value[0].shape)} and "
                             f"{list(value[1].shape)}")
        fields[field] = None if value is None else np.concatenate(value)
    return np.arange(sum(map(len, pairs[0]))) < len(pairs[0][0])


def _ids(value, n, path):
    """One string an item, each once; row numbers where the file has none."""
    if value is None:
        return [f"{row:07d}" for row in range(n)]
    ids = _strings(value, "ids", path)
    _same_length(len(ids), n, "ids", path)
    first = {}
    for row, name in enumerate(ids):
        if first.setdefault(name, row) != row:
            raise InputError(f"{path}: the id {name[:60]} is that of row {first[name]} and of row {row}; every item "
                             "needs its own")
    return ids


def _strings(values, what, path):
    """List of str from an array of text, bytes or numbers. Raises InputError for what no text file can hold."""
    try:
        return [whole_text(value.decode() if isinstance(value, bytes) else str(value)) for value in np.ravel(values)]
    except (ValueError, TypeError, SystemError) as error:  # the last is numpy's word for a code point that is none
        raise InputError(f"{path}: {what} holds no valid text ({error})") from None


def _count(fields):
    """Number of items: that of the pictures, texts (one string each) or matrices; a label vector does not count."""
    for field in ("image", "text", "label"):
        value = fields[field]
        if value is not None and not (isinstance(value, np.ndarray) and value.ndim == 2):
            return len(value) if field != "label" else value.size
    shapes = [value.shape for value in fields.values() if value is not None]
    common = [size for size in shapes[0] if all(size in shape for shape in shapes)]
    return shapes[0][0] if shapes[0][0] in common or not common else common[0]


def _same_length(length, n, field, path):
    if length != n:
        raise InputError(f"{path}: {field} has {length} items, others {n}")


def _matrix(value, n, field, path):
    """float32 [N, D]; a matrix stored the other way round is turned."""
    if value is None:
        return None
    if value.ndim != 2 or value.dtype.kind not in "fiub":
        raise InputError(f"{path}: {field} must be a matrix of numbers, not {value.dtype} {list(value.shape)}")
    if value.shape[0] != n and value.shape[1] == n:
        value = value.T
    _same_length(value.shape[0], n, field, path)
    with np.errstate(over="ignore"):  # too large for float32 is infinity, which is told
        value = np.ascontiguousarray(value, dtype="float32")
    bad = np.flatnonzero(~np.isfinite(value).all(axis=1))
    if len(bad):
        raise InputError(f"{path}: {len(bad)} rows of {field} hold NaN or infinity, row {bad[0]} first")
    return value


def _labels(value, n, path, form):
    """uint8 [N, C] of 0/1 from 0/1 (or -1/1) columns, or from one class number an item (columns in their order)."""
    if value is None:
        return None
    value = np.asarray(value)
    if value.dtype.kind not in "biufU":
        raise InputError(f"{path}: label must be numbers, not {value.dtype}")
    if value.ndim == 2 and min(value.shape) > 1 or form == "multihot":
        return _label_columns(value, n, path, form)
    value = value.ravel()
    _same_length(len(value), n, "label", path)
    if value.dtype.kind == "U":
        value = np.array(_strings(value, "label", path))
    numbers, column = np.unique(value, return_inverse=True)
    if value.dtype.kind == "f" and not np.array_equal(numbers, np.round(numbers)):
        raise InputError(f"{path}: label must be class numbers or 0/1 columns")
    if value.dtype.kind in "if" and numbers.min(initial=0) < 0:
        raise InputError(f"{path}: label holds the class number {numbers.min():g} (row {int(column.argmin())} first); "
                         "class numbers are 0 or more, and 0/1 columns need a matrix [N, C]")
    return one_hot(column, len(numbers), f"{path}: label")


def _label_columns(value, n, path, form):
    """uint8 [N, C] from a matrix of 0/1 (or -1/1); with ``multihot`` a vector is one column."""
    if form == "index":
        raise InputError(f"{path}: label has the shape {list(value.shape)}; --labels index reads one class "
                         "number an item")
    value = value.reshape(-1, 1) if value.ndim == 1 or 1 in value.shape else value
    value = value.T if value.shape[0] != n and value.shape[1] == n else value
    _same_length(value.shape[0], n, "label", path)
    if value.dtype.kind == "U" or not np.isin(value, (-1, 0, 1)).all():
        raise InputError(f"{path}: label columns must be 0 or 1")
    return np.ascontiguousarray(value > 0, dtype="uint8")
