"""What a run says: plain lines on stdout and in train.log, a bar on a terminal, VisualDL scalars."""
import os
import sys

from tqdm import tqdm

from utils.distributed import is_main


class RunLog:
    """Log of one run folder. Only rank 0 writes; on the other ranks every call does nothing.

    Args:
        folder: run folder, or None to print only.
        append: continue train.log (a resumed run) instead of starting it anew.
        visualdl: write scalars to ``<folder>/vdl``.
    """

    def __init__(self, folder=None, append=False, visualdl=False):
        self.file = self.scalars = None
        self.active = is_main()
        if self.active and folder:
            os.makedirs(folder, exist_ok=True)
            self.file = open(os.path.join(folder, "train.log"), "a" if append else "w", encoding="utf-8")
            if visualdl:
                from visualdl import LogWriter  # slow to import, and of no use elsewhere
                self.scalars = LogWriter(logdir=os.path.join(folder, "vdl"), display_name=os.path.basename(folder))

    def line(self, text):
        """Print one line and append it to train.log."""
        if not self.active:
            return
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
        if self.file:
            print(text, file=self.file, flush=True)

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
