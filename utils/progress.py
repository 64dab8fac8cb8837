"""How far long work is, with its speed and the time that is left: a bar on a terminal, a line now and then in a log."""
import sys
import time

FIRST, MOST = 10.0, 60.0  # seconds before the first line, and between two lines at most


class Progress:
    """Progress on stderr. Call it with the number of items that were done since the last call.

    Example:
        with Progress(len(names), "encode photos") as progress:
            for name in names:
                encode(name)
                progress(1)
    """

    def __init__(self, total, what, stream=None, clock=time.monotonic):
        """
        Args:
            total: number of items. what: what is done, for people. stream, clock: others than stderr and the system's.
        """
        self.total, self.what = total, what
        self.done = self.skipped = 0
        self._stream, self._clock = stream or sys.stderr, clock
        self._start = self._last = clock()
        self._bar = None
        if self._stream.isatty():
            from tqdm import tqdm  # nothing else in deployment needs it
            self._bar = tqdm(total=total, desc=what, unit="", leave=False, dynamic_ncols=True, file=self._stream)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._bar is not None:
            self._bar.close()

    def __call__(self, count):
        """``count`` items more are done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
            return
        now = self._clock()
        if now - self._last >= min(MOST, max(FIRST, self._last - self._start)) and self.done < self.total:
            self._last = now
            print(f"----- {self.what}: {self.line()}", file=self._stream, flush=True)

    def skip(self, count):
        """``count`` items were done before: they say nothing of the speed."""
        self.skipped += count
        self.done += count
        if self._bar is not None:
            self._bar.initial += count
            self._bar.update(count)

    @property
    def seconds(self):
        """Time since it began."""
        return self._clock() - self._start

    @property
    def rate(self):
        """Items a second, without those that were done before."""
        return (self.done - self.skipped) / max(self.seconds, 1e-9)

    def line(self):
        """``1200 of 5000 (24 %), 210.3 a second, 0:00:18 left``."""
        left = f"{_clock(round((self.total - self.done) / self.rate))} left" if self.rate else "time left unknown"
        return (f"{self.done} of {self.total} ({self.done / max(self.total, 1):.0%}), {self.rate:.1f} a second, {left}")


def _clock(seconds):
    """``h:mm:ss``."""
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
