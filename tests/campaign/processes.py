"""Starts commands to be killed: *cold*, as a shell does, or *warm*, forked from this process.

A warm one is a process of its own with the command's whole life but the import of Paddle, which takes most of the time
of a small command. This process must not have computed before: a fork has only one of its threads.
"""
import dataclasses
import json
import os
import signal
import sys
import time
import traceback

from tests.campaign import inject
from tests.campaign.material import ENVIRONMENT, ROOT

SECONDS = 300   # after which a command counts as hung


@dataclasses.dataclass
class Ended:
    """How a command ended: exit status (negative: by that signal), output, wall seconds, changes of files."""

    status: int
    said: str
    seconds: float
    events: int


def _start(words, orders, output, cold):
    """Fork; the child becomes the command. Returns its number, which is that of its group too."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(ENVIRONMENT)
        os.chdir(ROOT)
        words = [str(word) for word in words]
        if cold:
            orders = json.dumps(dataclasses.asdict(orders))
            os.execv(sys.executable, [sys.executable, "-m", "tests.campaign.inject", orders, *words])
        inject.install(orders)
        inject.run(words)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run(words, folder, event=0, delay=0.0, after=None, cold=False):
    """Run a command and maybe kill it.

    Args:
        words: behind ``python``.
        folder: whose changes count as events; counter and output lie beside it.
        event, delay: see inject.Orders.
        after: seconds after which it is killed; None = not so.
        cold: see above.

    Returns:
        Ended.
    """
    counter, output = f"{folder}.events", f"{folder}.output"
    for path in (counter, output):
        if os.path.exists(path):
            os.remove(path)
    orders = inject.Orders(str(folder), counter, event, delay)
    began = time.monotonic()
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    child = _start(words, orders, handle, cold)
    os.close(handle)
    status, left = None, SECONDS if after is None else after
    while status is None:
        found, status_word = os.waitpid(child, os.WNOHANG)
        if found:
            status = os.waitstatus_to_exitcode(status_word)
        elif time.monotonic() - began >= left:
            try:
                os.killpg(child, signal.SIGKILL)
            except ProcessLookupError:   # it has not yet made its group
                os.kill(child, signal.SIGKILL)
            left = float("inf")
        else:
            time.sleep(0.002)
    with open(output, encoding="utf-8", errors="replace") as file:
        said = file.read()
    seconds = time.monotonic() - began
    if after is None and status == -signal.SIGKILL and not event:
        said += f"\nended after {SECONDS} seconds"
    with open(counter, encoding="ascii") if os.path.exists(counter) else open(os.devnull, encoding="ascii") as file:
        return Ended(status, said, seconds, int(file.read() or 0))
