"""A user's mistake: one clear line and a non-zero exit status, never a traceback."""
import errno
import re
import sys

from utils import streams

# what moves a cursor, ends a line or turns the direction of writing, and halves of characters (bytes that are no UTF-8)
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
LONGEST = 10_000  # characters of a message: two of the longest paths, and words
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text):
    r"""A text with a foreign name in it, as one line that any terminal and file takes and shows as it is.

    Control characters and the like are written as in Python, a line end as ``\n``; bytes of a file name that are no
    UTF-8 as ``\xff``. Everything else stays.
    """
    def escaped(match):
        code = ord(match[0])
        if 0xdc80 <= code <= 0xdcff:  # how Python keeps such bytes of a file name
            code -= 0xdc00
        return _SHORT.get(match[0]) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
    return _UNSEEN.sub(escaped, str(text))


def say(text):
    """Print one line that may hold a foreign name."""
    print(printable(text))


class InputError(Exception):
    """What is wrong, where, and what to do, in one line. Raised for anything a user can mend.

    A name out of a foreign file may be as long as the file: of a very long line the middle is left out.
    """

    def __str__(self):
        text = printable(super().__str__())
        return text if len(text) <= LONGEST else f"{text[:LONGEST // 2]} ... {text[-LONGEST // 2:]}"


# of the machine, not of the program, and what to do
_MACHINE = {errno.EMFILE: "raise the number of open files (`ulimit -n`)", errno.ENFILE: "close other programs",
            errno.ENOMEM: "close other programs", errno.ENOSPC: "free some space", errno.EDQUOT: "free some space"}


def run_main(main, argv=None):
    """Run ``main(argv)`` and turn a user's mistake into one line on stderr and exit status 2.

    So it is told, too, where the machine has no memory, no space or no files left to open.

    Args:
        main: callable that takes a list of command-line arguments.
        argv: arguments without the program's name; ``sys.argv[1:]`` if None.
    """
    streams.guard()
    try:
        main(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except (InputError, streams.OutputError) as error:
        _end(error, 2)
    except KeyboardInterrupt:
        _end("interrupted", 130)
    except BrokenPipeError:
        streams.mute()
        sys.exit(141)
    except (MemoryError, OSError) as error:
        fault = machine_fault(error)
        if fault is None:
            raise
        _end(fault, 2)


def machine_fault(error):
    """What to tell of an error that says that the machine has no memory, no space or no files left; None of others."""
    if isinstance(error, MemoryError):
        return f"not enough memory ({first_line(error)}); lower --batch-size, or look at the sizes in the given files"
    if isinstance(error, OSError) and error.errno in _MACHINE:
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{where}; {_MACHINE[error.errno]}"
    return None


def _end(message, status):
    print(f"error: {printable(message)}", file=sys.stderr, flush=True)
    try:
        sys.stdout.flush()
    except (streams.OutputError, OSError):
        streams.mute()
    sys.exit(status)


def first_line(error):
    """The telling line of an error; messages of Paddle carry a C++ stack. The kind of error where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line and "Traceback" not in line]
    return (telling or lines or [type(error).__name__])[-1][:300]
