"""The thread that works for many callers: what goes together, who waits, and faults that stay with their callers."""
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.service.batching import Batcher, Busy
from deploy.service.searcher import batch_sizes, cover


def doubling(calls, gate=None):
    def work(key, values):
        if gate is not None:
            gate.wait(10)
        calls.append((key, list(values)))
        return [ValueError(str(value)) if value < 0 else 2 * value for value in values]
    return work


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(-3, 99)), min_size=1, max_size=40), st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_every_caller_gets_its_own_result(values, most):
    calls, gate = [], threading.Event()
    batcher = Batcher("test", doubling(calls, gate), most)
    futures = [(value, batcher.submit(key, value)) for key, value in values]
    gate.set()
    for value, future in futures:
        if value < 0:
            with pytest.raises(ValueError, match=str(value)):
                future.result(10)
        else:
            assert future.result(10) == 2 * value
    batcher.close()
    assert all(len(batch) <= most for _, batch in calls) and not batcher.alive
    for key in "ab":  # in the order in which they came
        assert [v for k, batch in calls if k == key for v in batch] == [v for k, v in values if k == key]


def test_what_gathers_meanwhile_goes_together():
    calls, gate = [], threading.Event()
    batcher = Batcher("test", doubling(calls, gate), most=32)
    first = batcher.submit("a", 0)
    time.sleep(0.2)  # the first one is under way
    others = [batcher.submit("a", value) for value in range(1, 20)]
    gate.set()
    assert [future.result(10) for future in [first, *others]] == [2 * value for value in range(20)]
    assert calls == [("a", [0]), ("a", list(range(1, 20)))]
    batcher.close()


def test_it_waits_for_those_who_are_coming_and_for_nobody_else():
    calls, coming = [], [1]
    batcher = Batcher("test", doubling(calls), most=2, wait=20.0, coming=lambda: coming[0])
    one = batcher.submit("a", 1)
    time.sleep(0.3)
    assert not calls  # another one has been announced
    other = batcher.submit("a", 2)
    assert (one.result(5), other.result(5)) == (2, 4) and calls == [("a", [1, 2])]
    coming[0] = 0
    start = time.monotonic()
    assert batcher.submit("a", 3).result(5) == 6 and time.monotonic() - start < 5
    batcher.close()


def test_too_many_are_refused_and_the_end_serves_those_who_wait():
    calls, gate = [], threading.Event()
    batcher = Batcher("test", doubling(calls, gate), most=1, limit=3)
    first = batcher.submit("a", 0)
    time.sleep(0.2)
    waiting = [batcher.submit("a", value) for value in (1, 2, 3)]
    with pytest.raises(Busy, match="too many"):
        batcher.submit("a", 4)
    waiting[1].cancel()  # its caller has given up
    closing = threading.Thread(target=batcher.close)
    closing.start()
    gate.set()
    closing.join(10)
    assert [first.result(5), waiting[0].result(5), waiting[2].result(5)] == [0, 2, 6]
    assert [values for _, values in calls] == [[0], [1], [3]]
    with pytest.raises(Busy, match="ending"):
        batcher.submit("a", 5)


def test_a_fault_is_that_of_the_batch_and_the_next_one_is_served():
    def work(key, values):
        if key == "bad":
            raise MemoryError("no room")
        return values
    batcher = Batcher("test", work)
    with pytest.raises(MemoryError):
        batcher.submit("bad", 1).result(5)
    assert batcher.submit("good", 1).result(5) == 1 and batcher.alive
    batcher.close()


@given(st.integers(1, 300), st.integers(1, 300))
def test_sizes_of_batches_are_few_and_little_is_computed_for_nobody(most, count):
    sizes = batch_sizes(most)
    assert sizes[0] == 1 and sizes[-1] == most and sizes == sorted(set(sizes)) and len(sizes) <= 6
    parts = cover(count, sizes)
    assert set(parts) <= set(sizes) and sum(parts[:-1]) < count <= sum(parts) < 2 * count
