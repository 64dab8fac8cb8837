"""The shards of a bulk encoding over a Ray cluster: a task a shard, tried again where its process or machine dies.

Every node has the checkout, the model, the pictures and the folder of the codes under the same paths. Nothing but
numbers travels through Ray; a shard that a lost node had finished is found on the disk when its task comes again.
"""
import functools
import os
import re
import socket
import types

from deploy.bulk import Job
from utils.errors import InputError, say

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ONE_LINE = "encode.py on a node: "
PATIENCE = 5.0  # seconds for an answer of the cluster's address; Ray itself takes two minutes
FIRST_WITH_TOKENS = 2, 52


def encode_on(job, numbers, progress):
    """Make shards on the cluster of ``job.options.cluster``.

    Args:
        job: deploy.bulk.Job; its options go to the nodes. numbers: shards. progress: called with the items of each.

    Raises:
        InputError: Ray is not installed, no cluster answers at the address, or what a node says is wrong.
    """
    options = job.options
    ray = _connect(options.cluster)
    try:
        work = _task(ray, options)
        waiting = {work.remote(number): number for number in numbers}
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            try:
                ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                raise _told(error) from error
            except ray.exceptions.RayError as error:
                raise InputError(f"the cluster {options.cluster} lost shard {waiting[ready]}: {_short(error)}; run the "
                                 "command again, finished shards stay") from error
            progress(job.size(waiting.pop(ready)))
    finally:
        ray.shutdown()


def _connect(address):
    """The module ray, connected to a cluster that asks for a token."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # else whoever reaches a port may run code; read at the import
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray itself asks for, in a warning
    try:
        import ray
    except ImportError as error:
        raise InputError(f"--cluster needs Ray ({error}): pip install -r requirements-cluster.txt") from None
    if tuple(map(int, ray.__version__.split(".")[:2])) < FIRST_WITH_TOKENS:
        say(f"----- Note: Ray {ray.__version__} knows no tokens: whoever reaches its ports may run code; keep the "
            "cluster in a network of its own")
    _look_for(address)
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except Exception as error:  # ConnectionError, ValueError, RuntimeError, its own classes: by version and cause
        raise InputError(f"no Ray cluster at {address}: {_short(error)}; start one with `ray start` (RAY_AUTH_MODE="
                         "token and the same token on every node), or leave --cluster out") from error
    return ray


def _look_for(address):
    """Raise InputError where nothing listens at HOST:PORT; other addresses (``auto``) are Ray's own business."""
    found = re.fullmatch(r"(?:\w+://)?\[?([^/]+?)\]?:(\d+)", address)
    if not found:
        return
    try:
        socket.create_connection((found[1], int(found[2])), PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"no Ray cluster at {address} ({error}): start one with `ray start`, correct the address, or "
                         "leave --cluster out") from error


def _task(ray, options):
    """The remote function: shard number -> None. It is sent as code, for Ray's workers do not know the checkout."""
    place, root, flags = os.getcwd(), ROOT, vars(options)

    def work(number):
        import os
        import sys
        if root not in sys.path:
            sys.path.insert(0, root)
        os.chdir(place)  # relative paths mean what they mean on the machine of the command
        from deploy.cluster import make_shard
        make_shard(tuple(sorted(flags.items())), number)

    resources = {"num_cpus": options.threads, "num_gpus": int(options.use_gpu)}
    return ray.remote(max_retries=-1, **resources)(work)


def make_shard(flags, number):
    """Make a shard in a worker process of a node, unless it is there.

    Args:
        flags: (name, value) of all options. number: of the shard.
    """
    try:
        job = _job(flags)
        if not job.done(number):
            job.encode(number)
    except InputError as error:
        raise RuntimeError(ONE_LINE + str(error)) from None


@functools.lru_cache(maxsize=1)
def _job(flags):
    """The job, opened once in a process."""
    return Job(types.SimpleNamespace(**dict(flags)), say=lambda line: None)


def _told(error):
    """What the node has said, as an InputError; anything else is a fault of the program and stays what it is."""
    line = next((line for line in str(error).splitlines() if ONE_LINE in line), None)
    return error if line is None else InputError(line.partition(ONE_LINE)[2])


def _short(error):
    return " ".join(str(error).split())[:300] or type(error).__name__
