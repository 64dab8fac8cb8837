"""Folders that are a product as a whole: they are replaced in one step, or not at all."""
import contextlib
import ctypes
import glob
import os
import shutil
import tempfile

from utils.errors import InputError
from utils.files import sole_writer

_MOVING = ".moving-in"  # a product whose files are on their way into the folder around it
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux' renameat2
_HERE = -100  # AT_FDCWD


@contextlib.contextmanager
def replaced(folder, names, last, source=None, flag="--save-dir"):
    """Yield an empty folder to fill; when the block succeeds, it becomes ``folder`` in one step.

    A reader sees the old product or the new one, and so does the next one after a kill. Where ``folder`` holds nothing
    else and can be renamed, two folders are swapped. Where it holds other files (a run folder), these stay: the new
    product moves into it as a hidden folder, which readers take from then on (``standing``), then its files take their
    places, and the hidden folder goes. One process at a time: its lock is a file beside the folder, and what killed
    ones have left there is finished or removed.

    Args:
        folder: made if missing.
        names: of all files that such a product may have; ``last``: one that no whole product is without.
        source: the folder that the new one is made of, or None.
        flag: of the command that names ``folder``, for messages.

    Raises:
        InputError: ``folder`` is the source itself, is being written, or cannot be; after any error nothing of the
            block is left.
    """
    folder = os.path.realpath(folder)
    if source is not None and folder == os.path.realpath(source):
        raise InputError(f"{folder} is the model itself; choose another {flag}")
    parent, name = os.path.split(folder)
    try:
        os.makedirs(parent, exist_ok=True)
        beside = os.access(parent, os.W_OK)
        with sole_writer(os.path.join(parent if beside else folder, name), f"wait for it, or choose another {flag}"):
            _clean(folder, names, last)
            whole = beside and (not os.path.exists(folder) or _may_be_replaced(folder, names))
            temporary = tempfile.mkdtemp(prefix=f".{name}.", suffix=".part", dir=parent if whole else folder)
            try:
                yield temporary
                _replace(temporary, folder) if whole else _move_in(temporary, folder, names)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}; free some space or choose another "
                         f"{flag}") from error


def standing(folder):
    """Where the files of the product ``folder`` are: in it, or on their way into it."""
    moving = os.path.join(folder, _MOVING)
    return moving if os.path.isdir(moving) else folder


def _clean(folder, names, last):
    """Finish or remove what killed writers of ``folder`` have left, beside it or in it.

    One that was killed between the two renames of ``_replace`` has left the old product aside and nothing in its place:
    that one comes back.
    """
    parent, name = os.path.split(folder)
    aside, left = (glob.glob(os.path.join(glob.escape(parent), f".{glob.escape(name)}.*{end}"))
                   for end in (".old", ".part"))
    for one in aside:
        if not os.path.exists(folder) and os.path.exists(os.path.join(one, last)):
            os.rename(one, folder)
    for one in (*aside, *left, *glob.glob(os.path.join(glob.escape(folder), f".{glob.escape(name)}.*.part"))):
        shutil.rmtree(one, ignore_errors=True)
    if standing(folder) != folder:
        _move_in(standing(folder), folder, names)


def _may_be_replaced(folder, names):
    """Whether the whole folder may make room: nothing but the product in it."""
    return set(os.listdir(folder)) <= names and not os.path.ismount(folder)


def _replace(temporary, folder):
    """Put the folder ``temporary`` in the place of ``folder``, which may be missing."""
    _open_to_others(temporary)
    if not os.path.exists(folder):
        os.rename(temporary, folder)
    elif not _exchange(temporary, folder):
        aside = tempfile.mkdtemp(prefix=f".{os.path.basename(folder)}.", suffix=".old", dir=os.path.dirname(folder))
        os.rename(folder, aside)
        os.rename(temporary, folder)
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(first, second):
    """Swap two folders in one step. False where the system or the file system cannot."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux, or an old C library
        return False
    return call(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE) == 0


def _move_in(source, folder, names):
    """Move the files of the folder ``source`` into ``folder``; files of an earlier product go, all others stay.

    Args:
        source: a new folder, or the one that a killed process had begun to move.
    """
    moving = os.path.join(folder, _MOVING)
    parts = tempfile.mkdtemp(prefix=f".{os.path.basename(folder)}.", suffix=".part", dir=folder)
    try:
        files = os.listdir(source)
        for name in files:  # what may fail for want of space comes first
            _link(os.path.join(source, name), os.path.join(parts, name))
        if source != moving:
            _open_to_others(source)
            os.rename(source, moving)  # in this moment the new product takes the place of the old one
        for name in files:
            os.replace(os.path.join(parts, name), os.path.join(folder, name))
        for stale in names.difference(files):
            if os.path.exists(os.path.join(folder, stale)):
                os.remove(os.path.join(folder, stale))
        os.rename(moving, os.path.join(parts, "done"))  # and goes in one step, which removing it would not be
    finally:
        shutil.rmtree(parts, ignore_errors=True)


def _link(source, target):
    """The same file under another name; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _open_to_others(folder):
    """Give a folder of mkdtemp, which makes private ones, the ordinary permissions."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(folder, 0o777 & ~umask)
