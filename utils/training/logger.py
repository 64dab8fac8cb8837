"""What a run says: plain lines on stdout and in train.log, a bar on a terminal, VisualDL scalars."""
import contextlib
import os
import sys

from tqdm import tqdm

from utils.errors import InputError, printable
from utils.training.distributed import is_main


class RunLog:
    """Log of one run folder. Only rank 0 writes; on the other ranks every call does nothing.

    Args:
        folder: run folder, or None to print only.
        append: continue train.log (a resumed run) instead of starting it anew.
        visualdl: write scalars to ``<folder>/vdl``.

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
                self.file = open(os.path.join(folder, "train.log"), "a" if append else "w", 1, encoding="utf-8")
            if visualdl:
                from visualdl import LogWriter  # slow to import, and of no use elsewhere
                self.scalars = LogWriter(logdir=os.path.join(folder, "vdl"), display_name=os.path.basename(folder))

    @contextlib.contextmanager
    def _named_errors(self):
        try:
            yield
        except OSError as error:
            self.file = None  # closing would try to write once more
            raise InputError(f"cannot write {self.folder}/train.log: {error.strerror or error}; free some space or "
                             "choose another --output-dir") from error

    def line(self, text):
        """Print one line and append it to train.log."""
        if not self.active:
            return
        text = printable(text)
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
        for stream in (self.file, self.scalars):
            if stream:
                stream.close()


def bar(iterable, total, text):
    """A progress bar on a terminal (rank 0), the bare iterable elsewhere."""
    return tqdm(iterable, total=total, desc=text, leave=False, dynamic_ncols=True,
                disable=not (is_main() and sys.stderr.isatty()))
