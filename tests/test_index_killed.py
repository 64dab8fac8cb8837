"""The other engines' writers, killed at random moments: what was acknowledged is there."""
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from deploy.index import open_index
from tests.conftest import ROOT
from tests.indexes import Place, make

pytestmark = pytest.mark.slow
WRITER = """
import sys
from deploy.index import open_index
from tests.indexes import make
uri, number = sys.argv[1], int(sys.argv[2])
index = open_index(uri)
print("open", flush=True)
while True:
    index.add(make(7, seed=number, prefix=f"{number}/"))
    print(number, flush=True)
    index.save()
    if number % 3 == 2:
        index.remove(make(7, prefix=f"{number - 1}/").ids)
        print(-(number - 1), flush=True)
    number += 1
"""


@pytest.mark.parametrize("engine", ["lists", "lite"])
def test_killed_at_random_moments(tmp_path, engine):
    place, rng = Place(engine, tmp_path), random.Random(0)
    index = place.build(make(100))
    uri = index.uri
    index.close()
    known, number = set(), 1
    for _ in range(8):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, uri, str(number)], cwd=ROOT, stdout=subprocess.PIPE,
                                  env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True)
        assert writer.stdout.readline() == "open\n"
        time.sleep(rng.uniform(0, 0.6))
        writer.send_signal(signal.SIGKILL)
        for line in writer.communicate()[0].split():
            known = known | {int(line)} if int(line) > 0 else known - {-int(line)}
            number = max(number, abs(int(line)) + 1)
        for attempt in range(50):  # the process behind a milvus-lite file ends a moment after its owner
            try:
                index = open_index(uri)
                break
            except Exception:
                if attempt == 49:
                    raise
                time.sleep(0.2)
        index.check()
        ids = [name for _, items in index.batches() for name in items.ids]
        found = {int(name.split("/")[0]) for name in ids if not name.startswith("images/")}
        assert len(found ^ known) <= 1 and sum(name.startswith("images/") for name in ids) == 100
        for batch in found & known:
            items = make(7, seed=batch, prefix=f"{batch}/")
            assert index.get(items.ids).codes.tolist() == items.codes.tolist()
            assert index.search(items.codes[:1], 1)[0].distance.tolist() == [0]
        index.close()
        known, number = found, max([number, *(batch + 1 for batch in found)])
    assert number > 8
