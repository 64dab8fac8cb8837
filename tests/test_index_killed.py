"""The other engines' writers, and the Milvus server, killed at random moments: what was acknowledged is there.

``DEEPHASH_KILLS=50`` raises the number of kills of each of these tests.
"""
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from deploy.index import open_index
from tests.conftest import ROOT, kills
from tests.indexes import Place, make, server

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("milvus_servers")]
PAUSE = {"lists": 0.6, "lite": 0.6, "server": 4.0}  # seconds that a writer lives at most
WRITER = """
import sys
from deploy.index import open_index
from deploy.index.base import Unavailable
from tests.indexes import make

def again(act):
    while True:
        try:
            return act()
        except Unavailable:  # the server is away; whether it had done it before is unknown
            pass

uri, number = sys.argv[1], int(sys.argv[2])
index = open_index(uri)
print("open", flush=True)
while True:
    again(lambda: index.add(make(7, seed=number, prefix=f"{number}/"), replace=True))
    print(number, flush=True)
    again(index.save)
    if number % 3 == 2:
        again(lambda: index.remove(make(7, prefix=f"{number - 1}/").ids, missing_ok=True))
        print(-(number - 1), flush=True)
    number += 1
"""


def built(engine, folder):
    """URI of a new index of 100 items."""
    index = Place(engine, folder).build(make(100))
    index.close()
    return index.uri


def start(uri, number):
    """A writer that adds batches from ``number`` on, and has opened the index."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, uri, str(number)], cwd=ROOT, stdout=subprocess.PIPE,
                              env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True)
    assert writer.stdout.readline() == "open\n"
    return writer


def acknowledged(lines, known, number):
    """(batches that are there, number of the next one) behind what a writer has said."""
    for line in map(int, lines):
        known = known | {line} if line > 0 else known - {-line}
        number = max(number, abs(line) + 1)
    return known, number


def look(uri, known):
    """Batches that an index holds: those that are known, but for one that was on its way. All of it is right."""
    for attempt in range(50):  # the process behind a milvus-lite file ends a moment after its owner
        try:
            index = open_index(uri)
            break
        except Exception:
            if attempt == 49:
                raise
            time.sleep(0.2)
    with index:
        index.check()
        ids = [name for _, items in index.batches() for name in items.ids]
        found = {int(name.split("/")[0]) for name in ids if not name.startswith("images/")}
        assert len(found ^ known) <= 1, (found, known)
        assert sum(name.startswith("images/") for name in ids) == 100 and len(index) == len(ids)
        for batch in found & known:
            items = make(7, seed=batch, prefix=f"{batch}/")
            assert index.get(items.ids).codes.tolist() == items.codes.tolist()
        for batch in sorted(found & known)[-10:]:
            code = make(7, seed=batch, prefix=f"{batch}/").codes[:1]
            near = index.search(code, 1)[0]
            assert near.distance.tolist() == [0] and index.get(near.ids).codes.tolist() == code.tolist()
    return found


@pytest.mark.parametrize("engine", ["lists", "lite", "server"])
def test_killed_at_random_moments(tmp_path, engine):
    uri, rng, known, number = built(engine, tmp_path), random.Random(0), set(), 1
    times = kills(8 if engine != "server" else 4)
    for _ in range(times):
        writer = start(uri, number)
        time.sleep(rng.uniform(0, PAUSE[engine]))
        writer.send_signal(signal.SIGKILL)
        known, number = acknowledged(writer.communicate()[0].split(), known, number)
        known = look(uri, known)
        number = max([number, *(batch + 1 for batch in known)])
    assert number > times


def test_the_milvus_server_is_killed(tmp_path):
    """Under a client that writes: it asks again until the server is back, and what it was told is true."""
    uri, rng, known, number = built("server", tmp_path), random.Random(0), set(), 1
    for _ in range(kills(3)):
        writer = start(uri, number)
        said = [writer.stdout.readline()]  # it is in the middle of writing
        time.sleep(rng.uniform(0, 2))
        server().kill()
        server().start()
        said += [writer.stdout.readline() for _ in range(6)]  # of which at most the first ones were there before
        writer.send_signal(signal.SIGKILL)
        known, number = acknowledged([*said, *writer.communicate()[0].split()], known, number)
        known = look(uri, known)
        number = max([number, *(batch + 1 for batch in known)])
