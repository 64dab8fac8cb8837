"""Micro-batching: one thread does the work of many callers, as many at once as are waiting."""
import collections
import threading
import time
from concurrent.futures import Future
from typing import Any, Hashable, NamedTuple

from utils.errors import InputError


class Busy(InputError):
    """More work is waiting than may wait."""


class _Job(NamedTuple):
    key: Hashable
    value: Any
    future: Future


class Batcher:
    """Values that are handed in meanwhile are worked on together.

    While a batch is under way the next one gathers, so a lone caller waits for nobody and many callers share the cost.
    Where more callers are known to be coming, the thread waits for them, ``wait`` seconds at most.
    """

    def __init__(self, name, work, most=1, wait=0.0, coming=lambda: 0, limit=1024, report=lambda size, seconds: None):
        """
        Args:
            name: of the thread.
            work: callable (key, values) -> as many results, or exceptions in their places. Values of a call share
                the key.
            most: values of a call.
            wait: seconds to wait for callers that are coming.
            coming: callable without arguments: how many callers are about to hand in a value.
            limit: values that may wait.
            report: called with size and seconds of each batch.
        """
        self._work, self._most, self._wait, self._coming = work, most, wait, coming
        self._limit, self._report = limit, report
        self._jobs, self._closed = collections.deque(), False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __len__(self):
        """Values that wait."""
        return len(self._jobs)

    @property
    def alive(self):
        """Whether the thread runs."""
        return self._thread.is_alive()

    def submit(self, key, value):
        """Future of the result for a value.

        Raises:
            Busy: too many wait already, or the batcher is closed.
        """
        future = Future()
        with self._changed:
            if self._closed or len(self._jobs) >= self._limit:
                raise Busy("the service is ending" if self._closed else "too many requests wait already")
            self._jobs.append(_Job(key, value, future))
            self._changed.notify()
        return future

    def close(self):
        """Finish what waits, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self):
        while True:
            with self._changed:
                while not self._jobs and not self._closed:
                    self._changed.wait()
                if not self._jobs:
                    return
                self._gather()
                jobs = self._take()
            self._do(jobs)

    def _gather(self):
        """Wait until nobody is coming any more, the batch is full or the time is over."""
        stop = time.monotonic() + self._wait
        while len(self._jobs) < self._most and self._coming() and not self._closed:
            remaining = stop - time.monotonic()
            if remaining <= 0:
                return
            self._changed.wait(remaining)

    def _take(self):
        """The first job and those behind it that share its key; the others stay in their order."""
        key, jobs, others = self._jobs[0].key, [], collections.deque()
        while self._jobs:
            job = self._jobs.popleft()
            (jobs if job.key == key and len(jobs) < self._most else others).append(job)
        self._jobs = others
        return jobs

    def _do(self, jobs):
        jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
        if not jobs:
            return
        start = time.perf_counter()
        try:
            results = self._work(jobs[0].key, [job.value for job in jobs])
        except Exception as error:  # whatever it is belongs to the callers: the thread serves the next ones
            results = [error] * len(jobs)
        self._report(len(jobs), time.perf_counter() - start)
        for job, result in zip(jobs, results):
            if isinstance(result, Exception):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)
