"""The device of a process and its share of the machine."""
import paddle
from paddle.base import core

from utils.cpu import threads
from utils.errors import InputError

NO_GPU = "this machine or this Paddle has no GPU; use --device cpu"


def gpu_count():
    """GPUs that this Paddle can use."""
    return paddle.device.cuda.device_count() if paddle.device.is_compiled_with_cuda() else 0


def choose_device(name, typed=None):
    """Select ``auto`` (GPU if there is one), ``cpu``, ``gpu`` or ``gpu:N``.

    Args:
        name: the device.
        typed: how the user asked for it, for messages: ``--use-gpu True``.

    Raises:
        InputError: a GPU that is not there.
    """
    if name == "auto":
        name = "gpu" if gpu_count() else "cpu"
    if name.startswith("gpu") and not gpu_count():
        raise InputError(f"{typed or f'--device {name}'}: {NO_GPU}")
    try:
        paddle.set_device(name)
    except (ValueError, OSError):
        raise InputError(f"{typed or f'--device {name}'}: this machine has no such GPU; there are {gpu_count()}") \
            from None


def use_cores(processes=1):
    """Give this process its share of the cores for arithmetic; Paddle starts with one thread."""
    core.set_num_threads(max(1, threads() // processes))
