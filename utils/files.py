"""Files that matter are written whole or not at all."""
import contextlib
import hashlib
import json
import os
import tempfile

from utils.errors import InputError


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary name beside ``path``; rename it to ``path`` when the block succeeds.

    The temporary file keeps the ending of ``path`` (some writers look at it). On any error it is
    removed and ``path`` is left as it was.

    Raises:
        InputError: the folder cannot be made or written, or the disk is full.
    """
    path = os.path.abspath(path)
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
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; free some space or "
                         "choose another output folder") from error
    finally:
        if temporary and os.path.exists(temporary):
            os.remove(temporary)


def write_bytes(path, data):
    """Write bytes to ``path`` atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


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
