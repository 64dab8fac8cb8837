"""The folder of a run: one owner at a time, no product of an earlier run, and last words where a run is interrupted."""
import contextlib
import os
import shlex
import shutil
import signal
import sys

from utils.errors import InputError
from utils.files import owned, remove_left
from utils.training.checkpoint import BEST, LATEST, load_checkpoint
from utils.training.distributed import is_main
from utils.training.logger import say_last

LOCK = ".lock"
TERMINATED = 143  # exit status after SIGTERM, as a shell gives it


def is_new(options):
    """True where a training starts; False for --resume and --eval."""
    return not (options["eval"] or options["resume"])


def keep_old_run(options):
    """Raise InputError where a new training would take the place of another one."""
    folder = options["output_dir"]
    if is_new(options) and not options["overwrite"] and os.path.exists(os.path.join(folder, LATEST)):
        raise InputError(f"{folder} holds a run; go on with --resume {folder}/{LATEST}, start anew with "
                         "--overwrite, or choose another --output-dir")


@contextlib.contextmanager
def own_folder(folder):
    """Inside, no other run writes into ``folder``; rank 0 speaks for its job.

    Raises:
        InputError: another run does, or the folder cannot be made.
    """
    if not is_main():
        yield
        return
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror or error}; choose another --output-dir") \
            from error
    with owned(os.path.join(folder, LOCK), advice="wait for it, or choose another --output-dir"):
        yield


def clean_folder(folder, new):
    """Remove what a killed run has left unfinished and, for a ``new`` run, the products of an earlier one, so that none
    of them passes for one of this run.
    """
    remove_left(folder)
    for name in (BEST, LATEST, "result.json") if new else ():
        if os.path.exists(os.path.join(folder, name)):
            os.remove(os.path.join(folder, name))
    if new:
        shutil.rmtree(os.path.join(folder, "vdl"), ignore_errors=True)


@contextlib.contextmanager
def interruptions(recipe, options, command):
    """Inside, an interruption (Ctrl-C, SIGTERM) says what was kept and how to go on, on the screen and in the log.

    Args:
        recipe, options: of ``resolve``.
        command: what runs here, behind ``python``.
    """
    latest = os.path.join(options["output_dir"], LATEST)
    before = stamp(latest)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        if is_main() and (isinstance(error, KeyboardInterrupt) or error.code == TERMINATED):
            after = stamp(latest)
            say_last(options["output_dir"],
                     *interrupted(recipe, options, command, latest if after and after != before else None))
        raise


def stamp(path):
    """What changes when a file is written anew; None where there is none."""
    return (os.stat(path).st_ino, os.stat(path).st_mtime_ns) if os.path.exists(path) else None


def interrupted(recipe, options, command, latest):
    """Lines of an interruption: what was kept, and how to go on.

    Args:
        latest: the checkpoint that this run has written, or None.
    """
    if options["eval"]:
        return "interrupted; the evaluation is not finished, and nothing of it was written",
    kept = latest or options["resume"]
    if not kept:
        return "interrupted before the end of the first epoch; there is no checkpoint to go on from",
    epoch = load_checkpoint(kept, lambda key: False)[1]["epoch"]
    where = "" if latest or os.path.dirname(kept) == options["output_dir"] else \
        f" --output-dir {shlex.quote(options['output_dir'])}"
    return (f"interrupted; epoch {epoch} of {recipe['epoch']} is kept in {kept}; go on with",
            f"python {command} --resume {shlex.quote(kept)}{where}")
