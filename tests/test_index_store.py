"""The folder behind ``exact`` and ``faiss``: what is acknowledged is kept, whatever happens to the writer."""
import dataclasses
import errno
import os
import random
import resource
import signal
import time

import numpy as np
import pytest

from deploy.index import Where, build_index, open_index, store
from deploy.index.store import Store
from tests.conftest import kills
from tests.indexes import Reference, make, pairs
from utils.errors import InputError
from utils.retrieval.shard_set import MANIFEST, CodesInfo, ShardSet

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def built(folder, n=30, **settings):
    codes = make(n, **settings)
    return build_index(str(folder), (CodesInfo.of(codes), [codes]))


def batch(number):
    """Seven items that belong together."""
    return make(7, seed=number, prefix=f"{number}/")


def child(work):
    """Run ``work(acknowledge)`` in a forked process. Returns (its id, file of the numbers that it acknowledged)."""
    read, write = os.pipe()
    process = os.fork()
    if not process:
        try:
            work(lambda number: os.write(write, f"{number}\n".encode()))
        finally:
            os._exit(0)
    os.close(write)
    return process, read


def acknowledged(read):
    with os.fdopen(read) as file:
        return [int(line) for line in file.read().split()]


def state(folder):
    """Set of the batches that the index holds; each is there as a whole or not at all, and nothing is damaged."""
    index = open_index(str(folder))
    index.check()
    ids = [name for _, items in index.batches() for name in items.ids]
    assert len(ids) == len(set(ids)) == len(index)
    numbers = {name.split("/")[0] for name in ids} - {"images"}
    for number in numbers:
        items = index.page(99, where=Where(prefix=f"{number}/"))[1]
        assert items.ids == batch(int(number)).ids and np.array_equal(items.codes, batch(int(number)).codes)
    assert len([name for name in ids if name.startswith("images/")]) == 30
    return {int(number) for number in numbers}


# killed -------------------------------------------------------------------------------------
ACTS = {"add": lambda index: index.add(batch(1)), "remove": lambda index: index.remove(batch(0).ids),
        "replace": lambda index: index.add(batch(0), replace=True), "compact": lambda index: index.compact(),
        "overwrite": lambda index: build_index(index.uri, (index.info, [make(30), batch(2)]), overwrite=True)}


@pytest.mark.parametrize("act", ACTS)
def test_killed_at_every_step(tmp_path, act):
    """Signal 9 in front of the n-th call that changes the file system, for every n until the act comes to its end."""
    steps = 0
    while True:
        folder = tmp_path / str(steps)
        index = built(folder)
        index.add(batch(0))
        index.add(make(40, prefix="images/x"))
        index.remove(make(40, prefix="images/x").ids)

        def work(acknowledge, index=index, step=steps):
            left = [step]

            def counted(function):
                def call(*arguments, **settings):
                    if not left[0]:
                        os.kill(os.getpid(), signal.SIGKILL)
                    left[0] -= 1
                    return function(*arguments, **settings)
                return call

            for name in ("replace", "fsync", "remove", "open", "write", "chmod"):
                setattr(os, name, counted(getattr(os, name)))
            ACTS[act](index)
            left[0] = 1
            acknowledge(1)

        process, read = child(work)
        os.waitpid(process, 0)
        done = acknowledged(read)
        before = {0}
        after = {"add": {0, 1}, "remove": set(), "overwrite": {2}}.get(act, {0})
        assert state(folder) in ([after] if done else [before, after])
        index = open_index(str(folder))  # and life goes on
        index.add(batch(5))
        index.compact()
        assert 5 in state(folder)
        left = {name for name in os.listdir(folder) if not name.startswith(".lock")}
        assert left == {MANIFEST, *(entry["name"] for entry in ShardSet(folder).manifest["shards"])}
        if done:
            break
        steps += 1
    assert steps > 4


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    """Fifty writers in turn (DEEPHASH_KILLS), each killed while it adds, removes, replaces and compacts."""
    rng = random.Random(0)
    built(tmp_path)
    known, number, times = set(), 0, kills(50)
    for _ in range(times):
        first, plan = number, random.Random(rng.random())

        def work(acknowledge, first=first, plan=plan, known=frozenset(known)):
            index, here, number = open_index(str(tmp_path)), set(known), first
            while True:
                act = plan.random()
                if act < 0.6 or not here:
                    index.add(batch(number))
                    here.add(number)
                elif act < 0.8:
                    gone = plan.choice(sorted(here))
                    index.remove(batch(gone).ids)
                    here.remove(gone)
                    acknowledge(-1 - gone)
                    continue
                elif act < 0.9:
                    index.add(batch(plan.choice(sorted(here))), replace=True)
                    continue
                else:
                    index.compact()
                    continue
                acknowledge(number)
                number += 1

        process, read = child(work)
        time.sleep(rng.uniform(0.005, 0.3))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        for value in acknowledged(read):
            known = known | {value} if value >= 0 else known - {-1 - value}
            number = max(number, value + 1)
        found = state(tmp_path)
        # the act under way is there or not, and there is one at most
        assert len(found ^ known) <= 1, (found, known)
        known, number = found, max([number, *(value + 1 for value in found)])
    assert number > times


# readers ------------------------------------------------------------------------------------
def test_readers_see_whole_states_while_a_writer_works(tmp_path):
    built(tmp_path)
    waits, wakes = os.pipe()  # the writer does not run away from a reader that gets no processor

    def work(acknowledge):
        index = open_index(str(tmp_path))
        for number in range(40):
            if number in stops:
                os.read(waits, 1)
            index.add(batch(number))
            if number % 5 == 4:
                index.remove(batch(number - 2).ids)
                index.compact()
            acknowledge(number)

    stops = [10, 20, 30]
    process, read = child(work)
    index, seen = open_index(str(tmp_path)), []
    try:
        while not seen or 39 not in seen[-1]:
            if stops and seen and stops[0] - 1 in seen[-1]:
                os.write(wakes, b"w")
                stops.pop(0)
            index.refresh()
            first = pairs(index.search(batch(3).codes[:1], 500)[0])
            now = {name.split("/")[0] for _, name in first}
            seen.append({int(number) for number in now - {"images"}})
            assert all(sum(name.startswith(f"{number}/") for _, name in first) == 7 for number in seen[-1])
            assert pairs(index.search(batch(3).codes[:1], 500)[0]) == first  # until it looks again
            state(tmp_path)
    finally:
        os.waitpid(process, 0)
    assert acknowledged(read) == list(range(40)) and len({frozenset(batches) for batches in seen}) > 3
    os.close(waits)
    os.close(wakes)


def test_an_old_view_outlives_its_files(tmp_path):
    index, reference = built(tmp_path), Reference(make(30))
    other = open_index(str(tmp_path))
    other.remove([f"images/{i}.jpg" for i in range(10)])
    other.compact()
    code = make(1, seed=5).codes
    assert pairs(index.search(code, 30)[0]) == reference.ranked(code[0])
    assert index.refresh() and len(index) == 20 and not index.refresh()


# writers ------------------------------------------------------------------------------------
def test_two_writers(tmp_path, monkeypatch):
    """The second waits its turn, or is told who has it; both additions are kept."""
    index, other = built(tmp_path), open_index(str(tmp_path))
    process, read = child(lambda acknowledge: other.add(batch(1)) and acknowledge(1))
    index.add(batch(2))
    os.waitpid(process, 0)
    assert acknowledged(read) == [1] and state(tmp_path) == {1, 2}
    monkeypatch.setattr(store, "PATIENCE", 0)
    with other.store._change():
        with pytest.raises(InputError, match=f"is being changed by process {os.getpid()} on "):
            index.add(batch(3))
    index.add(batch(3))


def test_a_full_disk_changes_nothing(tmp_path):
    built(tmp_path)
    before = sorted(os.listdir(tmp_path))

    def work(acknowledge):
        index = open_index(str(tmp_path))
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))  # the system refuses larger files
        try:
            index.add(make(500, prefix="large/"))
        except InputError as error:
            acknowledge(int("cannot write" in str(error) and os.strerror(errno.EFBIG) in str(error)))

    process, read = child(work)
    os.waitpid(process, 0)
    assert acknowledged(read) == [1] and sorted(os.listdir(tmp_path)) == before and state(tmp_path) == set()


def test_many_small_additions_leave_few_files(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "MERGE", 64)
    index, reference = built(tmp_path, 3), Reference(make(3))
    for number in range(100):
        more = make(1, seed=number, prefix=f"{number}/")
        index.add(more)
        reference.add(more)
        if number % 7 == 0:
            index.remove(more.ids)
            reference.remove(more.ids)
    assert index.stats()["shards"] < 9 and len(index) == len(reference.items)
    code = make(1, seed=5).codes
    assert pairs(index.search(code, 200)[0]) == reference.ranked(code[0])


def test_compaction_makes_full_shards_and_keeps_those_that_are(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "ROWS", 10)
    monkeypatch.setattr(store, "MERGE", 0)
    index = built(tmp_path, 25)
    reference = Reference(make(25))
    for number in range(3):
        index.add(batch(number))
        reference.add(batch(number))
    index.remove(["images/3.jpg", "1/2.jpg"])
    reference.remove(["images/3.jpg", "1/2.jpg"])
    files = [part.entry["name"] for part in index.view.parts]
    assert [part.shard.rows for part in index.view.parts] == [10, 10, 5, 7, 7, 7]
    assert index.compact() == 2 and index.compact() == 0
    assert [part.shard.rows for part in index.view.parts] == [9, 10, 10, 10, 5]
    assert [part.entry["name"] for part in index.view.parts].index(files[1]) == 1
    code = make(1, seed=5).codes
    assert pairs(index.search(code, 99)[0]) == reference.ranked(code[0])
    index.check()


def test_another_precision_is_noted(tmp_path):
    index = built(tmp_path)
    index.add(dataclasses.replace(batch(1), meta={"precision": "bf16"}))
    assert index.info.precision == "bf16+fp32" == Store(tmp_path).view.info.precision


def test_a_damaged_mask_is_noticed(tmp_path):
    built(tmp_path).remove(["images/3.jpg"])
    path, = tmp_path.glob("*.removed")
    path.write_bytes(b"\xff" * len(path.read_bytes()))
    with pytest.raises(InputError, match="removed is damaged"):
        open_index(str(tmp_path))
    path.unlink()
    with pytest.raises(InputError, match="removed is missing"):
        open_index(str(tmp_path))
