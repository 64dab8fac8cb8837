"""A folder of one's own pictures and the index that follows it: what is new comes in, what is gone goes.

The index lies elsewhere than the pictures, so a drive that is not mounted empties nothing: where the folder is missing,
or all of it or a folder below it has suddenly become empty, what was known of it stays. Beside the index's files
``photos.json`` says of every picture that was seen its size and time, and why it could not be read. It is written after
the index: whoever is killed in between encodes a few pictures again.
"""
import json
import os
import time
from typing import List, NamedTuple, Optional

import numpy as np

from deploy.index.uri import build_index, open_index
from utils.datasets.base import FileImages, Split
from utils.datasets.own.folders import walk
from utils.errors import InputError
from utils.files import owned, write_text
from utils.image_header import HEIF_ENDINGS, read_heif
from utils.images import IMAGE_ENDINGS
from utils.picture_loader import PictureLoader
from utils.plain_json import read_json
from utils.progress import Progress
from utils.retrieval.code_store import code_file
from utils.retrieval.encode import encode
from utils.retrieval.shard_set import MANIFEST, CodesInfo
from utils.schema import check, either, mapping, row, text

SEEN, LOCK = "photos.json", ".photos.lock"
REBUILD = "--rebuild makes the index anew"
_SEEN = mapping(row(text(), either(text())))  # fields of Seen
AT_ONCE = 512  # pictures that are added together
SAVED_EVERY = 20.0  # seconds
HEIF_ADVICE = "HEIC pictures were left out: pip install pillow-heif (requirements-photos.txt) reads them"


class Seen(NamedTuple):
    """What is known of a picture: its size and time as text ("" where that is not certain), and why it could not be
    read (None where it could).
    """

    stamp: str
    reason: Optional[str] = None


class Update(NamedTuple):
    """What an update has done.

    Attributes:
        new, changed, gone: numbers of pictures, without those that cannot be read.
        unreadable: list of (id, reason), of all pictures that are there.
        left_out: lines about what was left out, or kept although it is not there.
    """

    new: int
    changed: int
    gone: int
    unreadable: list
    left_out: List[str]


class Photos:
    """The pictures of a folder, and their index.

    Attributes:
        folder: of the pictures. place: of the index. index: deploy.index.base.Index.
    """

    def __init__(self, folder, place, encoder, rebuild=False):
        """Open the index, or make an empty one.

        Args:
            folder: of the pictures; it may be missing where there is an index. place: folder of the index.
            encoder: Encoder of the index's model. rebuild: forget what was there.

        Raises:
            InputError: neither pictures nor index, or the index is of another model or folder.
        """
        self.folder, self.place, self.encoder = folder, place, encoder
        root = os.path.realpath(folder)
        if rebuild or not os.path.exists(os.path.join(place, MANIFEST)):
            if not os.path.isdir(folder):
                raise InputError(f"there is no folder {folder}; name the one with your pictures")
            if os.path.exists(os.path.join(place, SEEN)):
                os.remove(os.path.join(place, SEEN))
            info = CodesInfo(encoder.bits, encoder.fingerprint, encoder.precision,
                             meta={"root": root, "method": encoder.manifest["method"], "engine": encoder.engine})
            build_index(place, (info, []), overwrite=True).close()
        self.index = open_index(place, encoder.fingerprint)
        found = self.index.info.meta.get("root")
        if found != root:
            raise InputError(f"{place} is the index of {found}, not of {root}; choose another --index")

    # what is there --------------------------------------------------------------------------
    def look(self):
        """dict id -> stamp of the pictures that are there now, and lines about what else lies there."""
        faults = []
        if not os.path.isdir(self.folder):
            return {}, []
        names, notes = walk(self.folder, (*IMAGE_ENDINGS, *HEIF_ENDINGS), faults.append)
        heif = [name for name in names if name.lower().endswith(HEIF_ENDINGS)]
        if heif and not read_heif():
            names = [name for name in names if not name.lower().endswith(HEIF_ENDINGS)]
            notes.append(f"{len(heif)} {HEIF_ADVICE}")
        images, found = FileImages(self.folder, names), {}
        for i, name in enumerate(names):
            try:
                found[name] = images.stamp(i)
            except OSError:  # gone since it was seen
                continue
        return found, notes + faults

    def _known(self):
        """dict id -> Seen of earlier calls: all pictures that the index may hold."""
        path = os.path.join(self.place, SEEN)
        try:
            known = read_json(path, largest=None)  # 100 bytes a picture
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is damaged ({error}); {REBUILD}") from error
        check(known, _SEEN, path, REBUILD)
        return {name: Seen(*entry) for name, entry in known.items()}

    def _save(self, known):
        write_text(os.path.join(self.place, SEEN), json.dumps(known) + "\n")

    # following it ---------------------------------------------------------------------------
    def update(self, batch_size=32, workers=2, forget=False):
        """Bring the index up to date.

        Args:
            batch_size: pictures a call. workers: decoding threads.
            forget: pictures that are gone go, whatever the reason seems to be.

        Returns:
            Update.

        Raises:
            InputError: another process is at it, the disk is full, or a damaged index.
        """
        with owned(os.path.join(self.place, LOCK), advice="its answers are as the index is now"):
            self.index.refresh()
            there, left_out = self.look()
            known = self._known()
            gone = [name for name in known if name not in there]
            if not forget:
                gone, kept = self._really_gone(gone, there)
                left_out += kept
            self.index.remove(gone, missing_ok=True)
            for name in gone:
                del known[name]
            todo = [name for name, stamp in there.items() if name not in known or known[name].stamp != stamp]
            new = [name for name in todo if name not in known or not known[name].stamp]
            if todo:
                self._encode(todo, there, known, batch_size, workers)
            if todo or gone:
                self._save(known)
                self.index.save()
        unreadable = [(name, seen.reason) for name, seen in known.items() if seen.reason and name in there]
        counts = [sum(known[name].reason is None for name in some) for some in (new, todo)]
        return Update(counts[0], counts[1] - counts[0], len(gone), unreadable, left_out)

    def _really_gone(self, names, there):
        """(names that are gone, lines about those that are kept because a drive may be missing)."""
        if names and not there:
            what = "empty" if os.path.isdir(self.folder) else "not there"
            return [], [f"{self.folder} is {what} (a drive that is not mounted?): its {len(names)} pictures stay in "
                        "the index; --forget drops them"]
        away, gone = {}, []
        for name in names:
            place = self._missing_place(name)
            if place is None:
                gone.append(name)
            else:
                away[place] = away.get(place, 0) + 1
        return gone, [f"{place} is empty or cannot be read (a drive that is not mounted?): its {count} pictures stay "
                      "in the index; --forget drops them" for place, count in away.items()]

    def _missing_place(self, name):
        """The folder above a picture that a drive may be missing from: empty, a broken link, no access. Or None."""
        place = self.folder
        for part in name.split("/")[:-1]:
            place = os.path.join(place, part)
            if os.path.islink(place) and not os.path.exists(place):
                return place
            if not os.path.isdir(place):
                return None
            try:
                with os.scandir(place) as entries:
                    if next(entries, None) is None:
                        return place
            except OSError:
                return place
        return None

    def _encode(self, names, there, known, batch_size, workers):
        # a process that is killed may leave some of them in the index: they are known from here on
        known.update({name: Seen("") for name in names})
        self._save(known)
        load, saved = PictureLoader(self.encoder.manifest["preprocess"], workers), time.monotonic()
        with Progress(len(names), "look at pictures") as progress:
            for start in range(0, len(names), AT_ONCE):
                some = names[start:start + AT_ONCE]
                split = Split("gallery", some, images=FileImages(self.folder, some))
                found = encode(self.encoder, split, on_broken="skip", load=load, batch_size=batch_size,
                               progress=progress)
                lost = np.setdiff1d(np.arange(len(some)), found.positions).tolist()
                # one that cannot be read any more has no code either
                self.index.remove([some[i] for i in lost], missing_ok=True)
                codefile = code_file(self.encoder, split, found, "database", "image", {}, [])
                codefile.labels = None
                self.index.add(codefile, replace=True)
                reasons = {some[i]: message for i, message in zip(lost, found.messages)}
                known.update({name: Seen(there[name], reasons.get(name)) for name in some})
                if time.monotonic() - saved > SAVED_EVERY:
                    self._save(known)
                    saved = time.monotonic()
