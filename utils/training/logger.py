"""What a run says: lines with their time on stdout and in train.log, progress, VisualDL scalars.

On a terminal progress is a bar; elsewhere (a redirected log, a batch system) a line about every half minute.
"""
import contextlib
import importlib.util
import os
import re
import sys
import time

from tqdm import tqdm

from utils.errors import InputError, printable
from utils.training.distributed import is_main

LOG = "train.log"
WIDTH = 100  # columns of a line of a training step or an evaluation
INDENT = " " * len("00:00:00 ")
EVERY = 30.0  # seconds between two lines of progress
_open_log = []  # the RunLog at hand; progress off a terminal goes to it


def need_visualdl():
    """Raise InputError where the package that writes VisualDL scalars is not installed."""
    if importlib.util.find_spec("visualdl") is None:
        raise InputError("--visualdl needs the package visualdl: pip install -r requirements-visualdl.txt, or leave "
                         "the flag out")


class RunLog:
    """Log of one run folder. Only rank 0 writes; on the other ranks every call does nothing.

    Args:
        folder: run folder, or None to print only.
        append: continue train.log (a resumed run) instead of starting it anew.
        visualdl: write scalars to ``<folder>/vdl``; see ``need_visualdl``.

    Raises:
        InputError: the folder cannot be made or written (here, or when the disk fills up).
    """

    def __init__(self, folder=None, append=False, visualdl=False):
        self.file = self.scalars = None
        self.active = is_main()
        self.folder = folder
        if self.active and folder:
            with self._named_errors():
                os.makedirs(folder, exist_ok=True)
                # line buffered: what was said is in the file when the process is killed
                self.file = open(os.path.join(folder, LOG), "a" if append else "w", 1, encoding="utf-8")
            if visualdl:
                from visualdl import LogWriter  # optional
                self.scalars = LogWriter(logdir=os.path.join(folder, "vdl"), display_name=os.path.basename(folder))
        _open_log[:] = [self]

    @contextlib.contextmanager
    def _named_errors(self):
        try:
            yield
        except OSError as error:
            self.file = None  # closing would try to write once more
            raise InputError(f"cannot write {self.folder}/{LOG}: {error.strerror or error}; free some space or "
                             "choose another --output-dir") from error

    def line(self, text, *more):
        """Print a line with its time and append it to train.log; lines that go on with it stand below its text."""
        if not self.active:
            return
        text = "\n".join([f"{time.strftime('%H:%M:%S')} {printable(text)}", *(INDENT + printable(one) for one in more)])
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
        if self.file:
            with self._named_errors():
                self.file.write(text + "\n")

    def scalar(self, tag, value, step):
        """A VisualDL scalar."""
        if self.scalars:
            self.scalars.add_scalar(tag=tag, value=float(value), step=int(step))

    def close(self):
        """Close the files."""
        _open_log.clear()
        for stream in (self.file, self.scalars):
            if stream:
                stream.close()
        self.file = self.scalars = None


def say_last(folder, *lines):
    """Last words on a run folder: into its log where there is one, and on stdout."""
    if _open_log:
        return _open_log[0].line(*lines)
    log = RunLog(folder if os.path.isfile(os.path.join(folder, LOG)) else None, append=True)
    log.line(*lines)
    log.close()


def fold(text, width=WIDTH):
    """A long text as lines of at most ``width`` columns with their time or indent, broken behind commas and the like.

    Returns:
        list of lines, for ``RunLog.line(*lines)``.
    """
    lines = [""]
    for piece in re.split(r"(?<=[,;] )|(?<=  )", text):
        if lines[-1] and len(INDENT) + len((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def on_terminal():
    """True where progress can be a bar."""
    return sys.stderr.isatty()


def duration(seconds):
    """``1:02:03``: hours (as many as there are), minutes, seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def bar(iterable, total, text):
    """Progress of a long loop on rank 0: a bar on a terminal, else a line about every half minute.

    Such a line goes to the log of the run; to stderr where there is none, for stdout holds a command's answer.

    Args:
        iterable: handed on.
        total: how many it has.
        text: what is done, for example ``encode database``.
    """
    if not is_main():
        return iterable
    if on_terminal():
        return tqdm(iterable, total=total, desc=text, leave=False, dynamic_ncols=True)
    return _lines_of_progress(iterable, total, text)


def _lines_of_progress(iterable, total, text):
    began = said = time.monotonic()
    for done, item in enumerate(iterable):
        now = time.monotonic()
        if done and now - said >= EVERY:
            said = now
            line = f"{text}: {100 * done // max(total, 1)} %, {duration((now - began) * (total - done) / done)} left"
            if _open_log:
                _open_log[0].line(line)
            else:
                print(f"{time.strftime('%H:%M:%S')} {printable(line)}", file=sys.stderr, flush=True)
        yield item


class Progress:
    """How far a training is. Its bar and its time left cover the run: what was not trained here (a resumed run's first
    epochs) does not count, evaluations between the epochs do.

    Args:
        steps: to be done.
    """

    def __init__(self, steps):
        self.steps, self.done, self.began = steps, 0, time.monotonic()
        # smoothing 0: the mean rate of the whole run, evaluations included
        self.bar = tqdm(total=steps, desc="training", unit="step", leave=False, dynamic_ncols=True, smoothing=0,
                        disable=not (is_main() and on_terminal()))

    def step(self):
        """One more step is done."""
        self.done += 1
        self.bar.update()

    def left(self):
        """Time to the end at the pace so far, as text."""
        return duration((time.monotonic() - self.began) * (self.steps - self.done) / max(self.done, 1))

    def close(self):
        """Remove the bar."""
        self.bar.close()
