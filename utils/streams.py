"""Standard output and error of a command, which may be closed, or on a disk that is full."""
import contextlib
import io
import os
import sys


class OutputError(Exception):
    """Standard output cannot be written; one line."""


class _Output(io.FileIO):
    """Standard output. A write that fails is a user's matter (a full disk), and one line."""

    def write(self, data):
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"cannot write the standard output: {error.strerror or error}; what the command has "
                              "finished stays") from error


class _Errors(io.FileIO):
    """Standard error. What cannot be written there can be told nowhere, and is no reason to stop."""

    def write(self, data):
        try:
            return super().write(data)
        except OSError:
            return len(data)


def guard():
    """Put both in the place of Python's own; to be called before a command opens anything.

    A handle that is closed becomes one of the null device: else the first file that is opened would get its number,
    and what libraries print would land in it. Names of files that are no Unicode are printed escaped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one
    for number, name, kind in ((1, "stdout", _Output), (2, "stderr", _Errors)):
        old = getattr(sys, name)
        if old is not getattr(sys, f"__{name}__"):
            continue  # somebody else's already
        if old is not None:
            old.flush()
        raw = kind(number, "w", closefd=False)
        plain = old is not None and isinstance(getattr(old, "buffer", None), io.RawIOBase)  # python -u
        setattr(sys, name, io.TextIOWrapper(
            raw if plain else io.BufferedWriter(raw), encoding=old.encoding if old else "utf-8",
            errors="backslashreplace", line_buffering=number == 2 or old is not None and old.line_buffering,
            write_through=plain))


def mute():
    """After a write to standard output has failed: what still waits for it goes nowhere, and nothing fails again."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
        sys.stdout.flush()
