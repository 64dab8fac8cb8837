"""The same as main_single_gpu.py on several processes: NCCL on GPUs, gloo on CPUs, one or many nodes.

python main_multi_gpu.py --nprocs 2 --method hashnet --dataset cifar10-1 --data-path DIR
python -m paddle.distributed.launch --nnodes 2 --master HOST:PORT main_multi_gpu.py ...   (on each node)
"""
import os
import socket
import sys

from utils import streams
from utils.errors import InputError, machine_fault, run_main


def rank(parent, recipe, options, source):
    """What a rank that this command has started does."""
    from engine import run
    from models import find_method
    from utils.training import ranks
    streams.guard()
    ranks.join(options, parent)
    if "method_file" in recipe:  # the launcher found it in its own process
        find_method(recipe["method_file"])
    try:
        run(recipe, options, source)
    except InputError as error:  # the launcher looks for this name: a subclass would pass for a fault of the program
        raise InputError(str(error)) from None
    except (MemoryError, OSError) as error:
        fault = machine_fault(error)
        if fault is None:
            raise
        raise InputError(fault) from error


def check_ports(first, count):
    """Refuse ports that are taken, before any rank starts."""
    for port in range(first, first + count):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except (OSError, OverflowError):  # taken, or above 65535
                raise InputError(f"port {port} is in use or none, and the ranks need {first} to {first + count - 1}; "
                                 "choose another --port or leave it out") from None


def main(argv):
    """The command."""
    from engine import resolve, run
    from utils.training import ranks
    from utils.training.device import gpu_count
    from utils.training.run_folder import interruptions
    recipe, options, source = resolve(argv, "main_multi_gpu.py")
    on_gpu = ranks.on_gpus(options)
    if "PADDLE_TRAINER_ID" in os.environ:  # started by paddle.distributed.launch
        ranks.join(options)
        with interruptions(recipe, options, "-m paddle.distributed.launch ... main_multi_gpu.py"):
            return run(recipe, options, source)
    count = options["nprocs"] or (gpu_count() if on_gpu else 2)
    if on_gpu and count > gpu_count():
        raise InputError(f"--nprocs {count}, and this machine has {gpu_count()} GPUs")
    if options["port"]:
        check_ports(options["port"], count)
    if not on_gpu:
        options["device"] = "cpu"
    with interruptions(recipe, options, f"main_multi_gpu.py --nprocs {count}"):
        try:
            ranks.start(rank, (recipe, options, source), count, on_gpu, options["port"])
        except RuntimeError as error:
            print(f"error: a rank failed and the job was ended\n{error}", file=sys.stderr)
            sys.exit(1)


if __name__ == "__main__":
    run_main(main)
