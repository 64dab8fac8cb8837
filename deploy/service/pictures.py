"""Pictures of the items: uploads that the service keeps, and the files that the ids name; thumbnails of both.

An upload lies under the hash of its id, so no id ever is a path. What goes out is always a JPEG that was drawn here
from pixels: nothing of what a file holds beside them (places, scripts) leaves the service.
"""
import collections
import contextlib
import hashlib
import os
import threading

import cv2
import numpy as np

from deploy.index.base import check_root, make_folder
from utils.errors import InputError, say
from utils.files import sync_folder, write_bytes
from utils.images import decode
from utils.transforms import preprocess_spec

QUALITY = 85  # of thumbnails
CACHE = 64 << 20  # bytes of thumbnails that are kept in memory
_NEW = ".new"  # ending of a picture that is to take the place of another


class Pictures:
    """Where the pictures of an index are."""

    def __init__(self, uploads, root):
        """
        Args:
            uploads: folder for what is added, made when missing; None where nothing is.
            root: folder where ids are paths of pictures, or None.
        """
        self._uploads, self._root = uploads, None if root is None else os.path.abspath(root)
        self._cache, self._bytes, self._lock = collections.OrderedDict(), 0, threading.Lock()
        if uploads is not None:
            make_folder(uploads)
            for number in range(256):
                make_folder(os.path.join(uploads, f"{number:02x}"))
            sync_folder(uploads)

    def clean(self):
        """Delete what killed writers have left. For the owner of the writers' lock."""
        for number in range(256):
            folder = os.path.join(self._uploads, f"{number:02x}")
            for name in os.listdir(folder):
                if name.startswith(".") or name.endswith(_NEW):
                    os.remove(os.path.join(folder, name))

    def _upload(self, name):
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
        return os.path.join(self._uploads, digest[:2], digest)

    def find(self, name):
        """Path of the picture of an item, or None where it has none."""
        if self._uploads is not None and os.path.isfile(self._upload(name)):
            return self._upload(name)
        if self._root is None or "\0" in name:
            return None
        path = os.path.abspath(os.path.join(self._root, name))
        inside = os.path.commonpath([self._root, path]) == self._root
        return path if inside and os.path.isfile(path) else None

    @contextlib.contextmanager
    def changed(self, uploads):
        """Keep uploads, if the block succeeds.

        A new item's picture is there before the item is. The picture of an item that is replaced stays until the block
        has succeeded.

        Args:
            uploads: dict id -> (bytes, whether it takes the place of another item).

        Raises:
            InputError: the disk is full; nothing has changed then.
        """
        paths = {self._upload(name): replaced for name, (_, replaced) in uploads.items()}
        try:
            for name, (data, replaced) in uploads.items():
                write_bytes(self._upload(name) + _NEW * replaced, data)
            yield
        except BaseException:
            for path, replaced in paths.items():
                with contextlib.suppress(OSError):
                    os.remove(path + _NEW * replaced)
            raise
        for path in (path for path, replaced in paths.items() if replaced):
            os.replace(path + _NEW, path)
            sync_folder(os.path.dirname(path))

    def drop(self, name):
        """Delete an upload, if there is one."""
        if self._uploads is None:
            return
        try:
            os.remove(self._upload(name))
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"cannot delete the picture of {name!r}: {error.strerror or error}") from error

    def stamp(self, path):
        """What changes when the file does, as an HTTP entity tag."""
        found = os.stat(path)
        return f'"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"'

    def thumbnail(self, path, side):
        """JPEG bytes of a picture whose longer side is at most ``side`` pixels.

        Raises:
            ImageError: gone, or no picture.
            OSError: gone.
        """
        key = path, self.stamp(path), side
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        data = draw(decode(path, "the picture", preprocess_spec(side, side, decode="reduced")), side)
        with self._lock:
            if key not in self._cache:
                self._cache[key] = data
                self._bytes += len(data)
            while self._bytes > CACHE:
                self._bytes -= len(self._cache.popitem(last=False)[1])
        return data


def find_root(given, known):
    """The folder where ids are paths of pictures, or None; a note where it is not there.

    Args:
        given: by --data-path, or None. known: what the index says: a path as its maker wrote it.

    Raises:
        InputError: the one that is given is not there.
    """
    check_root(given)
    if given is None and known is not None and not os.path.isdir(known):
        say(f"note: no thumbnails of the index's own pictures, for their folder {known} is not there from "
            f"{os.getcwd()}: give --data-path")
    return given or known


def draw(image, side):
    """JPEG bytes of uint8 [H, W, 3] RGB, made smaller where a side has more than ``side`` pixels."""
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise InputError("the thumbnail could not be drawn")
    return data.tobytes()
