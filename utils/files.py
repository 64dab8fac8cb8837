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
    not lose it. What killed processes have left of the same name is removed at the start.

    Raises:
        InputError: the folder cannot be made or written, the disk is full, or ``path`` is a folder or a device.
    """
    path = os.path.abspath(path)
    if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):  # a rename would replace the device
        raise InputError(f"cannot write {path}: it is {'a folder' if os.path.isdir(path) else 'no ordinary file'}; "
                         "choose another name")
    temporary = handle = None
    try:
        handle, temporary = _begin(path)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes private files; a result should have the ordinary permissions
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
        temporary = None
        sync_folder(os.path.dirname(path))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; free some space or "
                         "choose another output folder") from error
    finally:
        if temporary and os.path.exists(temporary):
            os.remove(temporary)
        if handle is not None:
            os.close(handle)


def _begin(path):
    """A new temporary file for ``path``: (handle, name). While the handle is open, its lock says: somebody writes it.

    The lock is the system's, and free when the process is gone, however it ended.
    """
    folder, name = os.path.split(path)
    stem, ending = os.path.splitext(name)
    os.makedirs(folder, exist_ok=True)
    for part in unfinished(path):
        _remove_if_left(part)
    while True:
        handle, temporary = tempfile.mkstemp(prefix=f".{stem}.", suffix=f".part{ending}", dir=folder)
        _take(handle)
        if os.fstat(handle).st_nlink:  # else another process took it for left behind before it was locked
            return handle, temporary
        os.close(handle)


def _take(handle):
    """Whether a file could be locked by its handle, without waiting. On Windows never: nothing is cleaned there."""
    if os.name != "posix":
        return False
    import fcntl
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody has it, or the file system knows no locks
        return False
    return True


def _remove_if_left(part):
    """Remove a temporary file that nobody writes any more."""
    try:
        handle = os.open(part, os.O_RDWR)
    except OSError:  # gone meanwhile, or not ours
        return
    try:
        if _take(handle):
            os.remove(part)
    except FileNotFoundError:
        pass
    finally:
        os.close(handle)


def remove_left(folder):
    """Remove the temporary files in a folder that killed processes have left."""
    for name in os.listdir(folder):
        if name.startswith(".") and (name.endswith(".part") or os.path.splitext(name)[0].endswith(".part")):
            _remove_if_left(os.path.join(folder, name))


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


@contextlib.contextmanager
def owned(path, patience=0.0, advice="try again when it is done", what=None, keep=True):
    """Hold the lock file ``path`` while the block runs: of all processes (and threads) that ask, one has it.

    The system keeps the lock, not the file's existence: the lock of a process of this machine that was killed is free
    at once, whatever the file says. The file names the owner's host and process, for the message of those who ask in
    vain. Not every shared folder carries locks from machine to machine, so an owner on another machine counts until it
    has ended well, or its file is removed.

    Args:
        path: lock file; made when missing, beside what it guards.
        patience: seconds to wait for another owner.
        advice: what to do where another has it.
        what: what it guards, for messages; by default its folder.
        keep: whether the file stays, empty.

    Raises:
        InputError: another process has it, or the file cannot be written or locked.
    """
    path = os.path.abspath(path)
    with _locked(path, time.monotonic() + patience, advice, what or os.path.dirname(path)) as file:
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {_host()}\n")
            file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):
                file.close()  # what it could not write it would try to write again
            raise InputError(f"cannot write the lock {path}: {error.strerror or error}; free some space") from error
        try:
            yield
        finally:
            file.truncate(0)
            if not keep and os.name == "posix":  # those who wait for it see that it is gone, and make another one
                os.remove(path)


@contextlib.contextmanager
def sole_writer(path, advice):
    """Inside, no other process makes the product ``path``, a file or a folder. Its lock file goes with the block.

    Raises:
        InputError: another one does (``advice`` says what to do), or the folder cannot be written.
    """
    lock = _lock_of(path)
    try:
        os.makedirs(os.path.dirname(lock), exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {os.path.dirname(lock)}: {error.strerror or error}") from error
    with owned(lock, advice=advice, what=path, keep=False):
        yield


def forget_dead_writer(path):
    """Remove the lock file of a ``sole_writer`` that was killed when the product was whole, just before it went."""
    if os.path.exists(_lock_of(path)):
        with contextlib.suppress(InputError):  # somebody is writing, or the folder is not ours
            with sole_writer(path, ""):
                pass


def _lock_of(path):
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(folder, f".{name}.lock")


def _host():
    return platform.node() or "this machine"


def _locked(path, stop, advice, what):
    """The lock file ``path``, open and locked; see ``owned``."""
    while True:
        try:
            file = open(path, "a+", encoding="utf-8", errors="replace")
        except OSError as error:
            raise InputError(f"cannot write the lock {path}: {error.strerror or error}") from error
        try:
            free = _lock(file)
            file.seek(0)
            owner = file.read(300).strip()
            elsewhere = free and " on " in owner and owner.rpartition(" on ")[2] != _host()
            if free and not elsewhere and _is_at(file, path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()
        if (elsewhere or not free) and time.monotonic() >= stop:
            gone = f"; if that process has ended, remove {path}" if elsewhere else ""
            raise InputError(f"{what} is being changed by {owner or 'another process'}; {advice}{gone}")
        time.sleep(0.01)


def _is_at(file, path):
    """Whether an open file still is the one of that name; its last owner may have removed it."""
    try:
        return os.name != "posix" or os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


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
