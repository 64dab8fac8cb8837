"""A user's mistake: one clear line and a non-zero exit status, never a traceback."""
import sys


class InputError(Exception):
    """What is wrong, where, and what to do, in one line. Raised for anything a user can mend."""


def run_main(main, argv=None):
    """Run ``main(argv)`` and turn a user's mistake into one line on stderr and exit status 2.

    Args:
        main: callable that takes a list of command-line arguments.
        argv: arguments without the program's name; ``sys.argv[1:]`` if None.
    """
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
