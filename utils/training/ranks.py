"""Ranks as processes: how they are started, join their group, and end with the process that started them."""
import ctypes
import multiprocessing.connection
import os
import signal
import sys
import threading
import time

import paddle

from utils.cpu import restore_threads
from utils.errors import InputError
from utils.training.device import NO_GPU, gpu_count, use_cores

GRACE = 5.0  # seconds in which ranks may end by themselves after one has failed
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux' prctl


def launched():
    """True in one of several processes that ``python -m paddle.distributed.launch`` has started."""
    return "PADDLE_TRAINER_ID" in os.environ and int(os.environ.get("PADDLE_TRAINERS_NUM", 1)) > 1


def on_gpus(options):
    """Whether every rank computes on a GPU of its own, by the run options.

    Raises:
        InputError: a GPU is asked for and there is none, or one GPU is asked for by its number.
    """
    if options["device"].startswith("gpu:"):
        raise InputError(f"{options['typed']['device']}: every rank has its own GPU; choose them by "
                         "CUDA_VISIBLE_DEVICES")
    if options["device"] == "gpu" and not gpu_count():
        raise InputError(f"{options['typed']['device']}: {NO_GPU}")
    return options["device"] != "cpu" and gpu_count() > 0


def join(options, parent=None):
    """Make this process a rank of its group.

    Args:
        options: run options (utils/config.py).
        parent: as for ``end_with_parent``.

    Raises:
        InputError: as ``on_gpus``.
    """
    end_with_parent(parent)
    paddle.disable_signal_handler()  # the launcher's SIGTERM should not print a C++ trace over the failed rank's line
    if not on_gpus(options):
        paddle.set_device("cpu")
    paddle.distributed.init_parallel_env()
    use_cores(int(os.environ.get("PADDLE_LOCAL_SIZE", paddle.distributed.get_world_size())))  # ranks of this machine


def end_with_parent(parent=None):
    """End this process when its parent ends, in whatever way: a rank alone would wait for the others for ever.

    Args:
        parent: process number of the parent, where it is known; it may have ended already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    parent = parent or os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def start(function, arguments, count, on_gpu, port=None):
    """Run ``function(parent's process number, *arguments)`` on ``count`` ranks of this machine, to the end of all.

    Raises:
        InputError: one of the ranks has raised it.
        RuntimeError: a rank has failed otherwise; the text is its traceback.
    """
    settings = {"started_port": port} if port else {}
    if not on_gpu:  # spawn would pick it by the build, which may have GPUs that this job does not use
        settings["backend"] = "gloo"
    restore_threads()
    # a terminal sends Ctrl-C to the ranks, too: they leave it to this process
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ranks = paddle.distributed.spawn(function, args=(os.getpid(), *arguments), nprocs=count, join=False, **settings)
    except BaseException:  # a rank could not be started: those that were wait for it, and Python would wait for them
        for process in multiprocessing.active_children():
            process.kill()
        raise
    finally:
        signal.signal(signal.SIGINT, interrupt)
    try:
        _wait(ranks.processes, None)
        if any(process.exitcode for process in ranks.processes):
            _wait(ranks.processes, GRACE, all_of_them=True)
            _raise_fault(ranks)
    finally:
        for process in ranks.processes:
            process.kill()
            process.join()


def _wait(processes, seconds, all_of_them=False):
    """Wait for all processes, or for the first that fails (unless ``all_of_them``)."""
    stop = None if seconds is None else time.monotonic() + seconds
    while True:
        running = [process.sentinel for process in processes if process.exitcode is None]
        left = None if stop is None else stop - time.monotonic()
        if not running or left is not None and left <= 0:
            return
        if not all_of_them and any(process.exitcode for process in processes):
            return
        multiprocessing.connection.wait(running, left)


def _raise_fault(ranks):
    """Raise what has ended a job. Of all ranks' words the user's mistake counts: others fail because one is gone."""
    said = [queue.get() for queue in ranks.error_queues if not queue.empty()]
    for text in said:
        for kind in ("InputError: ", "OutputError: "):
            if kind in text:
                raise InputError(text.rsplit(kind, 1)[1].strip())
    ended = [f"rank {i} ended with status {process.exitcode}" for i, process in enumerate(ranks.processes)
             if process.exitcode]
    raise RuntimeError("\n".join([", ".join(ended), *said[:1]]))
