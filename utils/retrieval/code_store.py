"""Code files of a data set: their names, what is in them, and how they are made, checked and brought up to date.

``data`` is anything with ``request`` (plain values that name the data), ``name``, ``root``, ``gallery`` (a folder of
pictures that are searched, or None) and ``protocol`` with the splits; see deploy/data.py. ``encode`` is
utils.retrieval.encode.encode with its ``load``, ``on_broken`` and ``batch_size`` set.
"""
import os
import zlib

import numpy as np

from utils.errors import InputError
from utils.files import forget_dead_writer, sole_writer
from utils.progress import Progress
from utils.retrieval.codes import CodeFile, stored
from utils.retrieval.encode import need_codes
from utils.retrieval.hamming import pack
from utils.retrieval.score import modality_tag
from utils.schema import anything, check, table

ADVICE = "wait for it, or give another --code-file"
_OF_GALLERY = table({"stamps": anything, "broken": anything, "sha256": anything}, others=anything)


def code_name(method, bits, modality="image", precision="fp32", what="database"):
    """File name of a database's (or gallery's) codes; other precisions get other files, for some bits differ."""
    return f"{what}_{modality_tag(modality)}{method}_{bits}" + ("" if precision == "fp32" else f"_{precision}") + ".npz"


def code_file(encoder, split, encoded, role, modality, request, classes, root=None):
    """CodeFile of an encoded split.

    Args:
        encoder: the Encoder that made the codes.
        split: what was encoded.
        encoded: utils.retrieval.encode.Encoded, packed, or relaxed: then the code file holds both.
        role: ``query`` or ``database``.
        modality: ``image`` or ``text``.
        request: plain values that name the data.
        classes: names of the label columns.
        root: folder of the pictures, where the split does not know it.
    """
    relaxed = encoded.codes if encoded.codes.dtype.kind == "f" else None
    whole = len(encoded.positions) == len(split)
    ids = list(split.ids) if whole else [split.ids[i] for i in encoded.positions]
    labels = split.labels if split.labels is None or whole else split.labels[encoded.positions]
    meta = {"split": role, "modality": modality, "data": request, "sha256": split.sha256(),
            "skipped": len(split) - len(encoded.positions), "precision": encoder.precision,
            "engine": encoder.engine, "method": encoder.manifest["method"], "classes": list(classes),
            "root": getattr(split.images, "root", root)}
    if modality == "text" and encoder.vectorizer is not None:
        meta["vectorizer"] = encoder.vectorizer.digest
    return CodeFile(codes=encoded.codes if relaxed is None else pack(relaxed), bits=encoder.bits, ids=ids,
                    labels=labels, fingerprint=encoder.fingerprint, meta=meta, relaxed=relaxed)


class CodeStore:
    """The code files of one encoder for one data set."""

    def __init__(self, encoder, data, encode, say=print):
        """
        Args:
            encoder: an Encoder.
            data, encode: see the module.
            say: callable of a line.
        """
        self.encoder, self.data, self.encode, self.say = encoder, data, encode, say
        self.fingerprint = encoder.fingerprint
        self._notes_said = False

    def name(self, modality="image"):
        """The usual file name of the database's codes."""
        return code_name(self.encoder.manifest["method"], self.encoder.bits, modality, self.encoder.precision,
                         "database" if self.data.gallery is None else "gallery")

    def open(self, path, modality="image", rebuild=False, check_data=True, keep_relaxed=False):
        """Load the code file at ``path``, or build and save it when there is none (or ``rebuild``).

        One process at a time makes or changes it.

        Args:
            check_data: compare the file with the data set's lists too (reads them); the file of a gallery is brought
                up to date and saved.
            keep_relaxed: the file holds the codes before the sign, too.

        Raises:
            InputError: the file was made by other weights, from other data, or from the other modality, or it has no
                relaxed codes and they are wanted; another process is making it.
        """
        if rebuild or not os.path.exists(path):
            with sole_writer(path, ADVICE):
                if rebuild or not os.path.exists(path):  # else it has been made meanwhile
                    return self._make(path, modality, keep_relaxed)
        codefile = CodeFile.load(path, fingerprint=self.fingerprint)
        forget_dead_writer(path)
        self._check_origin(path, codefile.meta, modality)
        if keep_relaxed and codefile.relaxed is None:
            raise InputError(f"{path} was made without --keep-relaxed; --rebuild makes it anew, or leave the flag out")
        if check_data and self.data.gallery is not None:
            check(codefile.meta, _OF_GALLERY, path, "give another --code-file or --rebuild")
            if self._changes(codefile, modality):
                with sole_writer(path, ADVICE):
                    codefile = CodeFile.load(path, fingerprint=self.fingerprint)  # it may have been changed meanwhile
                    fresh = self.refresh(codefile, modality)
                    if fresh is not None:
                        codefile = fresh
                        codefile.save(path)
        elif check_data and codefile.meta.get("sha256") not in (None, self.data.protocol.database.sha256()):
            raise InputError(f"{path} was built from another list of {self.data.name} than the one found now; "
                             "give another --code-file or --rebuild")
        precision = codefile.meta.get("precision", self.encoder.precision)
        if precision != self.encoder.precision:
            self.say(f"----- Note: the database codes are {precision}, the query's {self.encoder.precision}: some bits "
                     "may differ")
        self.say(f"----- Load code of database from {path} ({len(codefile)} items)")
        return codefile

    def _make(self, path, modality, keep_relaxed):
        codefile = self.build(modality=modality, relaxed=keep_relaxed)
        if keep_relaxed:
            codefile.relaxed = stored(codefile.relaxed)
        codefile.save(path)
        self.say(f"----- Save code of database in {path}")
        return codefile

    def _check_origin(self, path, meta, modality):
        """Raise InputError where the file's meta names other data or the other modality."""
        made = meta.get("data")
        if made is not None and made != self.data.request:
            moved = "gallery" in made and "gallery" in self.data.request
            hint = f"if its pictures were moved there, leave --gallery out and give --data-path {self.data.gallery}; " \
                   "else " if moved else ""
            raise InputError(f"{path} holds codes of {_words(made)}, not of {_words(self.data.request)}; {hint}give "
                             "another --code-file or --rebuild")
        if meta.get("modality", modality) != modality:
            raise InputError(f"{path} holds {meta['modality']} codes, {modality} codes are wanted; give another "
                             "--code-file")
        reads = self.encoder.vectorizer
        if "vectorizer" in meta and reads is not None and meta["vectorizer"] != reads.digest:
            raise InputError(f"{path} holds codes of texts that another text vectoriser has read; give another "
                             "--code-file or --rebuild")

    def build(self, role="database", modality="image", relaxed=False):
        """Encode a split of the data set into a CodeFile (not yet saved), with the codes before the sign if asked.

        Raises:
            InputError: the data are not there, or not one item can be read.
        """
        split = getattr(self.data.protocol, role)
        if not self._notes_said:
            for note in self.data.protocol.notes:
                self.say(f"----- Note: {note}")
            self._notes_said = True
        encoded = need_codes(self._encode(split, role, modality, relaxed), split)
        codefile = code_file(self.encoder, split, encoded, role, modality, self.data.request,
                             self.data.protocol.classes, self.data.root)
        if self.data.gallery is not None:
            codefile.meta.update(_stamps(split, modality, set(encoded.positions.tolist())))
        return codefile

    def _encode(self, split, what, modality, relaxed=False):
        """``encode`` with a line on its speed and one on broken pictures."""
        with Progress(len(split), f"encode {what} {modality}s") as progress:
            encoded = self.encode(self.encoder, split, modality, relaxed=relaxed, progress=progress)
        self.say(f"----- Encoded {len(encoded.codes)} {what} {modality}s in {progress.seconds:.1f} s "
                 f"({len(encoded.codes) / progress.seconds:.1f} a second)")
        if encoded.messages:
            self.say(f"----- Skipped {broken_pictures(encoded.messages)}")
        return encoded

    def refresh(self, codefile, modality="image"):
        """The code file of a gallery brought up to date: new and changed items are encoded, gone ones dropped.

        Returns:
            CodeFile, not yet saved; None where nothing has changed.

        Raises:
            InputError: the gallery is not there, or not one item of it can be read.
        """
        changes = self._changes(codefile, modality)
        if changes is None:
            return None
        kept, todo, gone = changes
        split, meta = self.data.protocol.database, codefile.meta
        codes, relaxed, good = codefile.codes, codefile.relaxed, []
        if todo:
            fresh, good, _ = self._encode(split.select(todo), "new", modality, relaxed is not None)
            if relaxed is not None:
                relaxed, fresh = np.concatenate([relaxed, stored(fresh)]), pack(fresh)
            codes = np.concatenate([codes, fresh])
            for place, i in enumerate(good):
                kept[todo[i]] = len(codefile.codes) + place
        self.say(f"----- The gallery has changed: {len(good)} pictures encoded, {gone} gone, "
                 f"{sum(0 <= i < len(codefile.codes) for i in kept)} as they were")
        positions = [i for i, place in enumerate(kept) if place >= 0]
        if not positions:
            raise InputError(f"no picture of {self.data.gallery} can be read")
        meta = {**meta, "sha256": split.sha256(), "skipped": len(split) - len(positions), "root": split.images.root,
                "classes": list(self.data.protocol.classes), **_stamps(split, modality, set(positions))}
        rows = [kept[i] for i in positions]
        return CodeFile(codes=codes[rows], bits=codefile.bits, ids=[split.ids[i] for i in positions],
                        labels=None if split.labels is None else split.labels[positions],
                        fingerprint=codefile.fingerprint, meta=meta, relaxed=None if relaxed is None else relaxed[rows])


    def _changes(self, codefile, modality):
        """What a gallery has that its code file has not; None where both agree.

        Returns:
            (row of each item in the code file, or -1; positions to encode; number of items that are gone).
        """
        split, meta = self.data.protocol.database, codefile.meta
        now = _stamps(split, modality, range(len(split)))["stamps"]
        row = {item: i for i, item in enumerate(codefile.ids) if meta["stamps"][i] is not None}
        kept = [row[item] if item in row and meta["stamps"][row[item]] == stamp else -1
                for item, stamp in zip(split.ids, now)]
        todo = [i for i, (item, stamp) in enumerate(zip(split.ids, now)) if kept[i] < 0 and
                (item not in meta["broken"] or meta["broken"][item] != stamp)]
        gone = len(set(codefile.ids) - set(split.ids))
        return (kept, todo, gone) if todo or gone or meta["sha256"] != split.sha256() else None


def _words(request):
    """``request`` of a Data in words."""
    if "gallery" in request:
        return f"the gallery {request['gallery']}"
    more = {"split seed": request.get("split_seed"), **(request.get("sizes") or {})}
    known = [f"{key} {value}" for key, value in more.items() if value is not None]
    return f"data set {request.get('dataset')}" + (f" ({', '.join(known)})" if known else "")


def broken_pictures(messages, shown=3):
    """``2 broken pictures: a; b``: how many, and the first of them by name."""
    more = f" and {len(messages) - shown} more" if len(messages) > shown else ""
    return f"{len(messages)} broken pictures: {'; '.join(messages[:shown])}{more}"


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
