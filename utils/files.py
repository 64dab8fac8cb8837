"""Files that matter are written whole or not at all."""
import contextlib
import errno
import glob
import hashlib
import json
import os
import platform
import stat
import tempfile
import time
import zipfile

import numpy as np

from utils.errors import InputError


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary name beside ``path``; rename it to ``path`` when the block succeeds.

    The temporary file keeps the ending of ``path`` (some writers look at it). On any error it is
    removed and ``path`` is left as it was. After the block the file is on the disk, name included: a power cut does
    not lose it.

    Raises:
        InputError: the folder cannot be made or written, the disk is full, or ``path`` is a folder or a device.
    """
    path = os.path.abspath(path)
    if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):  # a rename would replace the device
        raise InputError(f"cannot write {path}: it is {'a folder' if os.path.isdir(path) else 'no ordinary file'}; "
                         "choose another name")
    folder, name = os.path.split(path)
    stem, ending = os.path.splitext(name)
    temporary = None
    try:
        os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{stem}.", suffix=f".part{ending}", dir=folder)
        os.close(handle)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes private files; a result should have the ordinary permissions
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
        temporary = None
        sync_folder(folder)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; free some space or "
                         "choose another output folder") from error
    finally:
        if temporary and os.path.exists(temporary):
            os.remove(temporary)


def sync_folder(folder):
    """Bring the names in a folder to the disk, where the system can (POSIX)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def unfinished(path):
    """Files that writers of ``path`` have left behind when they were killed (or have not finished yet)."""
    folder, name = os.path.split(os.path.abspath(path))
    stem, ending = os.path.splitext(name)
    return glob.glob(os.path.join(glob.escape(folder), f".{glob.escape(stem)}.*.part{glob.escape(ending)}"))


def unfinished_in(folder, ending):
    """As ``unfinished``, for all files of a folder with this ending."""
    return glob.glob(os.path.join(glob.escape(os.fspath(folder)), f".*.part{glob.escape(ending)}"))


@contextlib.contextmanager
def owned(path, patience=0.0, advice="try again when it is done"):
    """Hold the lock file ``path`` while the block runs: of all processes (and threads) that ask, one has it.

    The system keeps the lock, not the file's existence: the lock of a process of this machine that was killed is free
    at once, whatever the file says. The file stays; it names the owner's host and process, for the message of those who
    ask in vain. Not every shared folder carries locks from machine to machine, so an owner on another machine counts
    until it has ended well, or its file is removed.

    Args:
        path: lock file; made when missing, beside what it guards.
        patience: seconds to wait for another owner.
        advice: what to do where another has it.

    Raises:
        InputError: another process has it, or the file cannot be written or locked.
    """
    here = platform.node() or "this machine"
    path, stop = os.path.abspath(path), time.monotonic() + patience
    try:
        file = open(path, "a+", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the lock {path}: {error.strerror or error}") from error
    with file:
        while True:
            free = _lock(file)
            file.seek(0)
            owner = file.read(300).strip()
            elsewhere = free and " on " in owner and owner.rpartition(" on ")[2] != here
            if free and not elsewhere:
                break
            if time.monotonic() >= stop:
                gone = f"; if that process has ended, remove {path}" if elsewhere else ""
                raise InputError(f"{os.path.dirname(path)} is being changed by {owner or 'another process'}; "
                                 f"{advice}{gone}")
            time.sleep(0.01)
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {here}\n")
            file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):
                file.close()  # what it could not write it would try to write again
            raise InputError(f"cannot write the lock {path}: {error.strerror or error}; free some space") from error
        try:
            yield
        finally:
            file.truncate(0)


def _lock(file):
    """Whether the file could be locked. Closing it frees the lock."""
    try:
        if os.name == "posix":
            import fcntl
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt
            file.seek(1 << 20)  # a byte behind the text, which others may then read
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        raise InputError(f"{file.name} cannot be locked ({error.strerror or error}): the file system knows no locks; "
                         "keep what is changed on another one") from error
    return True


def write_bytes(path, data):
    """Write bytes to ``path`` atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


def write_npz(path, arrays):
    """Write a dict name -> array (no objects) to ``path`` atomically; the bytes are those of ``numpy.savez``.

    ``numpy.savez`` itself leaves an open archive behind where the disk is full, which complains once more at exit.
    """
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        write_members(file, arrays)


def write_members(file, arrays):
    """Write arrays as members of an uncompressed .npz to a binary file. Raises OSError; nothing stays open."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def write_text(path, text):
    """Write UTF-8 text to ``path`` atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path, value):
    """Write ``value`` as indented JSON to ``path`` atomically (NaN is refused)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_file(path):
    """SHA-256 of a file's bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
