"""A user's mistake: one clear line and a non-zero exit status, never a traceback."""
import re
import sys

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


def run_main(main, argv=None):
    """Run ``main(argv)`` and turn a user's mistake into one line on stderr and exit status 2.

    Args:
        main: callable that takes a list of command-line arguments.
        argv: arguments without the program's name; ``sys.argv[1:]`` if None.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # JSON may hold halves of characters, too: \udcff is how JSON writes them
            stream.reconfigure(errors="backslashreplace")
    try:
        main(sys.argv[1:] if argv is None else argv)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr, flush=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
