"""The service under writes, killed at random moments: what it has acknowledged is there, and found.

``DEEPHASH_KILLS=50`` raises the number of kills.
"""
import pathlib
import random
import threading
import time

import pytest

from deploy.index import open_index
from deploy.service.client import Client, ServiceError
from tests.conftest import kills
from tests.serving import Served, small_index

pytestmark = pytest.mark.slow


def write(served, paths, number, known, errors, stop):
    """Add, replace and remove without pause; ``known`` holds what was acknowledged and what may or may not be."""
    rng, own = random.Random(number), 0
    try:
        with Client(served.url) as client:
            while not stop.is_set():
                name = f"{number}/{own}.jpg"
                own += 1
                known["open", name] = True
                client.add(paths[own % len(paths)], name)
                known["added", name] = known.pop(("open", name))
                if rng.random() < 0.3:
                    known["open", name] = known.pop(("added", name))
                    client.remove([name])
                    known["removed", name] = known.pop(("open", name))
    except ServiceError as error:
        if error.status is not None:  # killed is no answer; an answer that refuses is a fault
            errors.append(error)


def test_killed_under_writes(tmp_path, tmp_path_factory, shapes):
    model, uri, paths = small_index(tmp_path_factory, shapes, tmp_path)
    rng, errors, acknowledged = random.Random(1), [], 0
    for round_ in range(kills(6)):
        known, stop = {}, threading.Event()
        with Served(model, uri) as served:
            threads = [threading.Thread(target=write, args=(served, paths, f"{round_}-{i}", known, errors, stop))
                       for i in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(rng.uniform(0.3, 2.5))
            served.kill()
            stop.set()
            for thread in threads:
                thread.join()
        assert not errors, errors
        index = open_index(uri)
        index.check()
        for state, there in (("added", True), ("removed", False)):
            names = [name for found, name in known if found == state]
            acknowledged += len(names)
            assert (index.has(names) == there).all(), state
        index.close()
    assert acknowledged > 20
    with Served(model, uri) as served, Client(served.url) as client:  # and it is served: code, picture, neighbours
        names = [name for _, batch in open_index(uri).batches() for name in batch.ids if "-" in name]
        for name in names[:20]:
            assert client.like(name, k=1)["matches"] and client.thumbnail(name)[:2] == b"\xff\xd8"
        assert client.info()["items"] == len(open_index(uri))
    left = [path.name for path in pathlib.Path(f"{uri.split(':')[1]}.service").rglob("*")
            if path.is_file() and (path.name.endswith((".new", ".part")))]
    assert left == []
