"""How kernels are compiled, kept on disk and run on several threads.

Kernels hold no lock of the interpreter; ``spread`` runs them on plain threads, because numba's own parallel loops are
neither safe to enter from several threads of a service nor safe to fork beside, and take seconds to compile.

Machine code is kept in numba's folders, but in files of our own. numba's have no digest (a damaged one crashes, or
computes something else), their index mixes up what two processes write at once, and they notice a change of the
kernel's own file only, not of a constant or an inlined kernel that it imports.
"""
import hashlib
import os
import pickle
import platform
from concurrent.futures import ThreadPoolExecutor
from glob import glob

import numba
from numba.core import caching, compiler, config

from utils.cpu import threads
from utils.errors import InputError
from utils.files import write_bytes

BLOCK = 64  # queries that a thread takes at once
_DIGEST = hashlib.sha256().digest_size


def kernel(function):
    """Compile ``function`` at its first call, or load its machine code from disk."""
    dispatcher = numba.njit(nogil=True)(function)
    dispatcher._cache = KernelCache(function)
    return dispatcher


def part_of_kernel(function):
    """A function for kernels only, put in place of its calls: cheaper to compile than one that Python may call too."""
    return numba.njit(nogil=True, inline="always")(function)


def _sources():
    """Digest of the files of this room: any change of a kernel, a constant or what they inline compiles anew."""
    digest = hashlib.sha256()
    for path in sorted(glob(os.path.join(os.path.dirname(os.path.abspath(__file__)), "*.py"))):
        with open(path, "rb") as file:
            digest.update(file.read())
    return digest.digest()


SOURCES = _sources()


def folders():
    """Where machine code is looked for, and written where that is possible: the first one that works."""
    if config.CACHE_DIR:  # NUMBA_CACHE_DIR
        return [os.path.join(config.CACHE_DIR, "paddle_deep_hash")]
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return [os.path.join(os.path.dirname(os.path.abspath(__file__)), "__pycache__"),
            os.path.join(home, "paddle_deep_hash", "kernels")]


class KernelCache(caching.NullCache):
    """Machine code of one kernel: a file per signature and processor, digest first.

    Whatever is wrong with a file or folder costs the time to compile, never the computation.
    """

    def __init__(self, function):
        self.name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"

    def file_name(self, signature, codegen):
        """Name by everything that the machine code depends on, but for the sources: new ones replace old ones."""
        key = (platform.python_version(), numba.__version__, str(signature), codegen.magic_tuple())
        return f"{self.name}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.kernel"

    def seal(self, name, payload):
        """Digest that binds machine code to its file name and to the sources."""
        return hashlib.sha256(SOURCES + name.encode() + payload).digest()

    def load_overload(self, signature, target_context):
        """The compiled kernel, or None (numba calls this)."""
        target_context.refresh()
        name = self.file_name(signature, target_context.codegen())
        for folder in folders():
            try:
                with open(os.path.join(folder, name), "rb") as file:
                    digest, payload = file.read(_DIGEST), file.read()
            except OSError:
                continue
            if digest == self.seal(name, payload):
                return compiler.CompileResult._rebuild(target_context, *pickle.loads(payload))
        return None

    def save_overload(self, signature, compiled):
        """Keep a compiled kernel (numba calls this)."""
        name = self.file_name(signature, compiled.codegen)
        payload = numba.core.serialize.dumps(compiled._reduce())
        for folder in folders():
            try:
                write_bytes(os.path.join(folder, name), self.seal(name, payload) + payload)
                return
            except InputError:  # read-only, full: the next one
                continue


def blocks(n, most=BLOCK):
    """Consecutive slices of ``range(n)``, some for each thread, of at most ``most`` each."""
    size = max(1, min(most, BLOCK, n // (4 * threads())))
    return [slice(first, min(first + size, n)) for first in range(0, n, size)]


def spread(function, jobs):
    """``function(job)`` for each job, on several threads where that helps."""
    if threads() <= 1 or len(jobs) <= 1:
        for job in jobs:
            function(job)
        return
    with ThreadPoolExecutor(min(threads(), len(jobs))) as pool:
        for _ in pool.map(function, jobs):
            pass
