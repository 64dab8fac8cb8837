"""The same as main_single_gpu.py on several processes: NCCL on GPUs, gloo on CPUs, one or many nodes.

python main_multi_gpu.py --nprocs 2 --method hashnet --dataset cifar10-1 --data-path DIR
python -m paddle.distributed.launch --nnodes 2 --master HOST:PORT main_multi_gpu.py ...   (on each node)
"""
import os
import signal
import socket
import sys

from utils.cpu import USER_THREADS
from utils.errors import InputError, run_main


def worker(recipe, options, source):
    """One rank."""
    import paddle

    from engine import run
    from models import find_method
    from utils.training.device import use_cores
    if "method_file" in recipe:  # the launcher found it in its own process
        find_method(recipe["method_file"])
    paddle.disable_signal_handler()  # the launcher's SIGTERM should not print a C++ trace over the failed rank's line
    if options["device"] == "cpu":
        paddle.set_device("cpu")
    paddle.distributed.init_parallel_env()
    use_cores(int(os.environ.get("PADDLE_LOCAL_SIZE", paddle.distributed.get_world_size())))  # ranks of this machine
    run(recipe, options, source)


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
    import paddle

    from engine import resolve
    from utils.training.device import NO_GPU, gpu_count
    recipe, options, source = resolve(argv, "main_multi_gpu.py")
    gpus = gpu_count()
    on_gpu = options["device"] != "cpu" and gpus > 0
    if options["device"].startswith("gpu:"):
        raise InputError(f"{options['typed']['device']}: every rank has its own GPU; choose them by "
                         "CUDA_VISIBLE_DEVICES")
    if options["device"] == "gpu" and not on_gpu:
        raise InputError(f"{options['typed']['device']}: {NO_GPU}")
    if "PADDLE_TRAINER_ID" in os.environ:  # started by paddle.distributed.launch
        return worker(recipe, options, source)
    nprocs = options["nprocs"] or (gpus if on_gpu else 2)
    if on_gpu and nprocs > gpus:
        raise InputError(f"--nprocs {nprocs}, and this machine has {gpus} GPUs")
    settings = {}
    if options["port"]:
        check_ports(options["port"], nprocs)
        settings["started_port"] = options["port"]
    if not on_gpu:
        options["device"] = "cpu"
        # spawn would pick it by the build, which may have GPUs that this job does not use
        settings["backend"] = "gloo"
    if not USER_THREADS:
        os.environ.pop("OMP_NUM_THREADS", None)  # set by Paddle, not by the user: the ranks must not take it over
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through the `finally` below: no rank outlives the job
    ranks = None
    try:
        ranks = paddle.distributed.spawn(worker, args=(recipe, options, source), nprocs=nprocs, join=False, **settings)
        while not ranks.join():
            pass
    except Exception as error:  # spawn raises a bare Exception that holds the failed rank's traceback as text
        text = str(error).strip()
        if "InputError: " in text:
            raise InputError(text.rsplit("InputError: ", 1)[1].strip()) from None
        print(f"error: a rank failed and the job was ended\n{text}", file=sys.stderr)
        sys.exit(1)
    finally:
        for process in ranks.processes if ranks else ():
            if process.is_alive():
                process.terminate()


if __name__ == "__main__":
    run_main(main)
