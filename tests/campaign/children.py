"""Reads a file in a fork of this process with limits of memory and time, and says what came of it.

The process that calls has imported everything already, so an input costs milliseconds. It must not have computed with
several threads before: a fork has only one of them.
"""
import dataclasses
import hashlib
import os
import resource
import select
import signal
import sys
import unicodedata

import numpy as np

from utils.errors import InputError

MEMORY, SECONDS = 2 << 30, 60   # that reading a file may take: bytes, and CPU time
WALL = 300                      # seconds after which a child that does not even compute is ended
LONGEST = 11_000                # characters of a message that still counts as one line: two of the longest paths
KINDS = ("executed", "traceback", "hang", "memory", "other content", "refused", "same")
WRONG = KINDS[:5]
# what reading never does; os.mkdir is the payload of mutate.py, which the canary shows
_FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "socket.connect")


_seen = []   # of these, in a child


@dataclasses.dataclass
class Outcome:
    """What came of one input: ``kind`` of KINDS, ``words`` for people."""

    kind: str
    words: str = ""


def signature(value):
    """SHA-256 of nested plain values and arrays: equal where they are the same, bit for bit."""
    digest = hashlib.sha256()

    def add(*parts):
        for part in parts:
            digest.update(f"{type(part).__name__} ".encode())
            if isinstance(part, np.ndarray):
                digest.update(f"{part.dtype.str} {part.shape} ".encode())
                digest.update(repr(part.tolist()).encode() if part.dtype == object else
                              np.ascontiguousarray(part).tobytes())
            elif isinstance(part, dict):
                digest.update(f"{len(part)} ".encode())
                for key in sorted(part, key=repr):
                    add(key, part[key])
            elif isinstance(part, (list, tuple)):
                digest.update(f"{len(part)} ".encode())
                add(*part)
            else:
                digest.update(f"{part!r}\n".encode("utf-8", "backslashreplace"))
    add(value)
    return digest.hexdigest()


def _events_of(event, _):
    if event in _FORBIDDEN:
        _seen.append(event)


def _is_line(text):
    """Whether a message is one line that no terminal takes for a command."""
    return 0 < len(text) < LONGEST and not any(unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") for one in text)


def _read(read, folder):
    """What reading came to: ``same`` stands for ``read``, its words are the signature."""
    try:
        answer = Outcome("same", signature(read(folder)))
    except MemoryError as error:
        answer = Outcome("memory", repr(error))
    except InputError as error:
        words, cause = str(error), error
        while cause is not None:
            if isinstance(cause, MemoryError):
                return Outcome("memory", f"refused only when the memory was at its end: {words}")
            cause = cause.__cause__ or cause.__context__
        answer = Outcome("refused" if _is_line(words) else "traceback", words)
    except BaseException as error:
        trace, where = error.__traceback__, ""
        while trace is not None:
            where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
            trace = trace.tb_next
        answer = Outcome("traceback", f"{type(error).__name__}: {str(error)[:300]!a} at {where}")
    return Outcome("executed", f"{_seen[0]}; {answer.words}") if _seen else answer


def _child(read, folder, pipe, limits):
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    if limits:
        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))   # a fork starts at 0
        sys.addaudithook(_events_of)
    answer = _read(read, folder)
    os.write(pipe, f"{answer.kind}\n{answer.words[:4000]}".encode("utf-8", "backslashreplace"))


def attempt(read, folder, limits=True):
    """Outcome of ``read(folder)`` in a child; one that could be read is ``same``, its words are the signature.

    Args:
        limits: of memory and time, and of what reading may do; not for what starts commands itself.
    """
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(readable)
            _child(read, folder, writable, limits)
        finally:
            os._exit(0)
    os.close(writable)
    with os.fdopen(readable, "rb") as pipe:
        if select.select([pipe], [], [], WALL)[0]:
            kind, _, words = pipe.read().decode("utf-8", "replace").partition("\n")
        else:
            os.kill(child, signal.SIGKILL)
            kind, words = "hang", f"more than {WALL} seconds"
    status = os.waitpid(child, 0)[1]
    if kind:
        return Outcome(kind, words)
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number == signal.SIGXCPU:
        return Outcome("hang", f"more than {SECONDS} seconds of CPU time")
    return Outcome("memory", "killed") if number == signal.SIGKILL else Outcome("traceback", f"crash, signal {number}")


def judged(read, folder, sound, canary):
    """Outcome of reading a changed file.

    Args:
        read: callable (folder) -> its content as plain values.
        folder: with the changed file.
        sound: signature of the content before the change; None where other content is no fault.
        canary: path that a payload makes when it is executed.
    """
    outcome = attempt(read, folder)
    if os.path.exists(canary):
        os.rmdir(canary)
        return Outcome("executed", f"the payload ran; {outcome.words}")
    if outcome.kind == "same" and sound is not None and outcome.words != sound:
        return Outcome("other content", "it was read")
    return outcome
