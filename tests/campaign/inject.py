"""Runs a command of the project and kills it, and all that it has started, at the N-th change of a file.

    python -m tests.campaign.inject ORDERS COMMAND ...

ORDERS is the JSON of an ``Orders``. Python's audit events tell of a change before it happens: files opened for writing,
renamed, removed, made. With a delay the blow falls in the middle of what follows.
"""
import dataclasses
import json
import os
import runpy
import signal
import sys
import threading
import time

_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.chmod")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclasses.dataclass
class Orders:
    """When to kill.

    Attributes:
        folder: changes below it count. counter: file that their number so far is kept in.
        event: the change before which the process dies; 0 = never. delay: seconds after that event.
    """

    folder: str
    counter: str
    event: int = 0
    delay: float = 0.0


def _die():
    os.killpg(0, signal.SIGKILL)


def _die_later(delay):
    time.sleep(delay)
    _die()


def install(orders):
    """Count, and kill, from here on. The process must lead its group."""
    counter = os.open(orders.counter, os.O_WRONLY | os.O_CREAT)
    below, seen = orders.folder.rstrip("/") + "/", 0

    def hook(event, arguments):
        nonlocal seen
        if event != "open" and event not in _CHANGES or not isinstance(arguments[0], (str, bytes)):
            return
        if event == "open" and not (arguments[2] or 0) & _WRITING:
            return
        if not os.path.abspath(os.fsdecode(arguments[0])).startswith(below):
            return
        seen += 1
        os.pwrite(counter, str(seen).encode(), 0)
        if seen == orders.event:
            if not orders.delay:
                _die()
            threading.Thread(target=_die_later, args=(orders.delay,), daemon=True).start()
    sys.addaudithook(hook)


def run(words):
    """Run ``script.py ...`` or ``-m module ...`` in this process, as Python would."""
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(words)
        sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    install(Orders(**json.loads(sys.argv[1])))
    run(sys.argv[2:])
