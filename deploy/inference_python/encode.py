"""Whole splits to code files: decode in threads, encode in batches, keep ids, labels and the model's fingerprint."""
import collections
import concurrent.futures
import functools
import os
import sys
import time
import zlib

import numpy as np

from utils.errors import InputError
from utils.images import ImageError, read
from utils.retrieval.codes import CodeFile
from utils.retrieval.hamming import pack
from utils.transforms import preprocess


class Data:
    """The data set that a command names (by default the one of the model's recipe), loaded when first looked at.

    ``gallery`` names pictures to be searched, all of them, in place of a data set: a folder, manifest or list as in
    utils/datasets/own/splits.py. They are the ``database`` split of the protocol; the other splits are empty.

    Attributes:
        request: plain dict that names it; stored in code files and compared before they are used.
        root: folder of the images, None = the protocol's own.
        classes: class names, without loading anything where the manifest knows them.
    """

    def __init__(self, manifest, name=None, root=None, list_dir=None, split_seed=None, gallery=None):
        known = manifest.get("dataset") or {}
        self.gallery = gallery
        if gallery is not None:
            self.root, self.list_dir, self.topk, self.classes = root, None, None, []
            self.request = {"gallery": os.path.realpath(gallery)}
            return
        if name is not None and name != known.get("name"):
            known = {"name": name}
        self.root = root or known.get("root")
        self.list_dir = list_dir or known.get("list_dir")
        seed = known.get("split_seed") if split_seed is None else split_seed
        self.request = {"dataset": known.get("name"), "split_seed": seed, "sizes": known.get("sizes") or {}}
        self.topk = known.get("topk")
        self.classes = known.get("classes") or []

    @functools.cached_property
    def protocol(self):
        """utils.datasets.Protocol; raises InputError where the data are not there."""
        from utils.datasets import Protocol, load_protocol
        if self.gallery is not None:
            from utils.datasets.own.shards import gallery
            split, classes, notes = gallery(self.gallery, self.root)
            none = [split.select([], name) for name in ("train", "query")]
            return Protocol("gallery", *none, split, classes, notes=notes)
        if not self.request["dataset"]:
            raise InputError("the model does not say which data set it was made for; give --dataset")
        return load_protocol(self.request["dataset"], root=self.root, seed=self.request["split_seed"],
                             list_dir=self.list_dir, **self.request["sizes"])

    @functools.cached_property
    def _paths(self):
        """dict id -> file of the database's pictures; empty where they are no files, or not there."""
        try:
            database = self.protocol.database
        except InputError:
            return {}
        return {name: database.images.path(i) for i, name in enumerate(database.ids)} \
            if hasattr(database.images, "path") else {}

    def path(self, name, root=None):
        """File of a database item's picture (``root``: the folder a code file names), or its id where there is none."""
        for folder in (self.root, root):
            if folder is not None and os.path.isfile(os.path.join(folder, name)):
                return os.path.join(folder, name)
        return self._paths.get(name, name)


def progress(items, total, title):
    """A progress bar where stderr is a terminal, else the plain iterator."""
    if not sys.stderr.isatty():
        return items
    from tqdm import tqdm
    return tqdm(items, total=total, desc=title, leave=False)


def code_name(manifest, modality="image", precision="fp32", what="database"):
    """File name of a database's (or gallery's) codes; other precisions get other files, for some bits differ."""
    parts = [what, *([modality] if modality != "image" else []), manifest["method"], str(manifest["bits"])]
    parts += [precision] if precision != "fp32" else []
    return "_".join(parts) + ".npz"


def batches(split, spec, batch_size, workers):
    """Yield (positions, images float32 [n, 3, crop, crop], messages of broken pictures) in order.

    Two batches are decoded ahead while the caller encodes.
    """
    def load(position):
        try:
            return preprocess(read(split.images, position, spec), spec)
        except ImageError as error:
            return str(error)

    pieces = [range(start, min(start + batch_size, len(split))) for start in range(0, len(split), batch_size)]
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        ahead = collections.deque()
        for piece in [*pieces, None, None]:
            if piece is not None:
                ahead.append((piece, [pool.submit(load, position) for position in piece]))
            if len(ahead) > 2 or (piece is None and ahead):
                done, jobs = ahead.popleft()
                results = [job.result() for job in jobs]
                good = [i for i, result in enumerate(results) if not isinstance(result, str)]
                yield ([done[i] for i in good], np.stack([results[i] for i in good]) if good else None,
                       [result for result in results if isinstance(result, str)])


def text_features(split, vectorizer):
    """Text features float32 [N, T] of a split: those of the data set, or its texts through the model's vectorizer."""
    if split.texts is not None and vectorizer is not None:
        return np.asarray(vectorizer.transform(split.texts), dtype="float32")
    if split.text_features is not None:
        return np.asarray(split.text_features, dtype="float32")
    raise InputError(f"the {split.name} split has no texts that the model can read; choose another --dataset")


def encode_split(encoder, split, modality="image", batch_size=32, workers=2, vectorizer=None, need=True):
    """Packed codes of a split; broken pictures are left out and reported.

    Args:
        encoder: a Predictor, or anything with its ``manifest``, ``encode`` and ``encode_text``.
        split: utils.datasets.Split.
        modality: ``image`` or ``text``.
        batch_size: items a call of the engine.
        workers: decoding threads.
        vectorizer: utils.text.Vectorizer of the model, for texts.
        need: raise where not one picture can be read.

    Returns:
        (codes uint8 [n, ceil(bits / 8)], positions int64 [n] of the encoded items, messages of the others).
    """
    codes, positions, broken = [], [], []
    if modality == "text" or split.features is not None:
        rows = text_features(split, vectorizer) if modality == "text" else np.asarray(split.features, dtype="float32")
        run = encoder.encode_text if modality == "text" else encoder.encode
        for start in range(0, len(split), batch_size):
            codes.append(pack(run(rows[start:start + batch_size])))
        positions = range(len(split))
    else:
        if split.images is None:
            raise InputError(f"the {split.name} split has no pictures; choose another --dataset")
        total = -(-len(split) // batch_size)
        loaded = batches(split, encoder.manifest["preprocess"], batch_size, workers)
        for good, images, messages in progress(loaded, total, f"encode {split.name}"):
            broken += messages
            if good:
                codes.append(pack(encoder.encode(images)))
                positions += good
    if not codes and not need:
        codes = [np.zeros([0, -(-encoder.manifest["bits"] // 8)], "uint8")]
    if not codes:
        raise InputError(f"no picture of the {split.name} split can be read" + (f": {broken[0]}" if broken else
                                                                               " (it is empty)"))
    return np.concatenate(codes), np.asarray(positions, dtype="int64"), broken


def build_code_file(encoder, data, role="database", modality="image", batch_size=32, workers=2, vectorizer=None,
                    say=print):
    """Encode a split of the data set into a CodeFile (not yet saved)."""
    split = getattr(data.protocol, role)
    for note in data.protocol.notes:
        say(f"----- Note: {note}")
    codes, positions, broken = _encode(encoder, split, role, modality, say, batch_size=batch_size, workers=workers,
                                       vectorizer=vectorizer)
    whole = len(positions) == len(split)
    ids = list(split.ids) if whole else [split.ids[i] for i in positions]
    labels = split.labels if split.labels is None or whole else split.labels[positions]
    meta = {"split": role, "modality": modality, "data": data.request, "sha256": split.sha256(),
            "skipped": len(broken), "precision": encoder.precision, "method": encoder.manifest["method"],
            "classes": list(data.protocol.classes), "root": getattr(split.images, "root", data.root)}
    if data.gallery is not None:
        meta.update(_stamps(split, modality, set(positions.tolist())))
    return CodeFile(codes=codes, bits=encoder.manifest["bits"], ids=ids, labels=labels,
                    fingerprint=encoder.manifest["fingerprint"], meta=meta)


def _encode(encoder, split, role, modality, say, **how):
    """``encode_split`` with a line on its speed and one on broken pictures."""
    start = time.perf_counter()
    codes, positions, broken = encode_split(encoder, split, modality, **how)
    seconds = time.perf_counter() - start
    say(f"----- Encoded {len(codes)} {role} {modality}s in {seconds:.1f} s ({len(codes) / seconds:.1f} a second)")
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        say(f"----- Skipped {len(broken)} broken pictures: {'; '.join(broken[:3])}{more}")
    return codes, positions, broken


def _stamps(split, modality, encoded):
    """What tells a changed item from the one that was encoded: size and time of its file, or its text, as a number.

    Returns:
        dict for the meta of a code file: ``stamps`` of the encoded positions in order, ``broken`` id -> stamp.
    """
    stamps = []
    for i in range(len(split)):
        if modality == "text":
            stamps.append(zlib.crc32(split.texts[i].encode("utf-8", "surrogateescape")))
            continue
        try:
            stamps.append(zlib.crc32(split.images.stamp(i).encode()))
        except OSError:
            stamps.append(None)
    return {"stamps": [stamp for i, stamp in enumerate(stamps) if i in encoded],
            "broken": {split.ids[i]: stamp for i, stamp in enumerate(stamps) if i not in encoded}}


def refresh(encoder, data, codefile, modality="image", say=print, **how):
    """The code file of a gallery brought up to date: new and changed pictures are encoded, gone ones dropped.

    Args:
        how: ``batch_size``, ``workers``, ``vectorizer`` as in ``encode_split``.

    Returns:
        CodeFile, not yet saved; None where nothing has changed.
    """
    split, meta = data.protocol.database, codefile.meta
    now = _stamps(split, modality, range(len(split)))["stamps"]
    row = {item: i for i, item in enumerate(codefile.ids) if meta["stamps"][i] is not None}
    kept = [row[item] if item in row and meta["stamps"][row[item]] == stamp else -1
            for item, stamp in zip(split.ids, now)]
    todo = [i for i, (item, stamp) in enumerate(zip(split.ids, now)) if kept[i] < 0 and
            (item not in meta["broken"] or meta["broken"][item] != stamp)]
    gone = len(set(codefile.ids) - set(split.ids))
    if not todo and not gone and meta["sha256"] == split.sha256():
        return None
    codes, good = codefile.codes, []
    if todo:
        fresh, good, _ = _encode(encoder, split.select(todo), "new", modality, say, need=False, **how)
        codes = np.concatenate([codes, fresh])
        for place, i in enumerate(good):
            kept[todo[i]] = len(codefile.codes) + place
    say(f"----- The gallery has changed: {len(good)} pictures encoded, {gone} gone, "
        f"{sum(0 <= i < len(codefile.codes) for i in kept)} as they were")
    positions = [i for i, place in enumerate(kept) if place >= 0]
    if not positions:
        raise InputError(f"no picture of {data.gallery} can be read")
    meta = {**meta, "sha256": split.sha256(), "skipped": len(split) - len(positions), "root": split.images.root,
            "classes": list(data.protocol.classes), **_stamps(split, modality, set(positions))}
    return CodeFile(codes=codes[[kept[i] for i in positions]], bits=codefile.bits,
                    ids=[split.ids[i] for i in positions],
                    labels=None if split.labels is None else split.labels[positions], fingerprint=codefile.fingerprint,
                    meta=meta)


def open_code_file(encoder, data, path, modality="image", rebuild=False, check_data=True, say=print, **build):
    """Load the code file at ``path``, or build and save it when there is none (or ``rebuild``).

    Args:
        check_data: compare the file with the data set's lists too (reads them); the file of a gallery is brought up
            to date and saved.
        build: see ``build_code_file``.

    Raises:
        InputError: the file was made by other weights, from other data, or from the other modality.
    """
    if rebuild or not os.path.exists(path):
        codefile = build_code_file(encoder, data, modality=modality, say=say, **build)
        codefile.save(path)
        say(f"----- Save code of database in {path}")
        return codefile
    codefile = CodeFile.load(path, fingerprint=encoder.manifest["fingerprint"])
    meta = codefile.meta or {}
    made = meta.get("data")
    if made is not None and made != data.request:
        raise InputError(f"{path} holds codes of {made}, not of {data.request}; give another --code-file or --rebuild")
    if meta.get("modality", modality) != modality:
        raise InputError(f"{path} holds {meta['modality']} codes, {modality} codes are wanted; give another "
                         "--code-file")
    if check_data and data.gallery is not None:
        fresh = refresh(encoder, data, codefile, modality, say, **build)
        if fresh is not None:
            codefile = fresh
            codefile.save(path)
    elif check_data and meta.get("sha256") and meta["sha256"] != data.protocol.database.sha256():
        raise InputError(f"{path} was built from another list of {data.request['dataset']} than the one found now; "
                         "give another --code-file or --rebuild")
    if meta.get("precision", encoder.precision) != encoder.precision:
        say(f"----- Note: the database codes are {meta['precision']}, the query's {encoder.precision}: some bits "
            "may differ")
    say(f"----- Load code of database from {path} ({len(codefile.ids)} items)")
    return codefile


def open_vectorizer(manifest, folder):
    """The model's text vectorizer, or None where it has none."""
    name = (manifest.get("text") or {}).get("vectorizer")
    if not name:
        return None
    from utils.text import Vectorizer
    return Vectorizer.load(os.path.join(folder, name))
