"""Encode many pictures into a folder of code shards, which is an index (exact) as it is.

python deploy/inference_python/encode.py --model-dir output/model --gallery photos/ --save-dir output/codes
python deploy/inference_python/encode.py --model-dir output/model --dataset cifar10-1 --save-dir output/codes
python -m deploy.index search output/codes --img cat.jpg --model-dir output/model
"""
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from deploy import engine_flags, ranking  # noqa: E402  (needs the path above)
from utils.cpu import cpus, threads  # noqa: E402
from utils.errors import InputError, run_main, say  # noqa: E402
from utils.flags import quiet, read_options  # noqa: E402
from utils.peer_flags import DATA_SETS  # noqa: E402
from utils.settings import Setting  # noqa: E402

SHOWN = 3  # unreadable pictures that the closing line names


def part(value):
    """``2/8`` -> (2, 8). Raises ValueError for anything else."""
    found = re.fullmatch(r"(\d+)/(\d+)", str(value))
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError("I/N with I from 1 to N, as in 2/8")
    return int(found[1]), int(found[2])


FLAGS = {
    "model_dir": Setting(None, "folder that export_model.py wrote", shown="DIR"),
    "save_dir": Setting(None, "folder of the code shards", shown="DIR"),
    "gallery": Setting(None, "encode these pictures: a folder with its sub-folders, a manifest (.csv, .jsonl), a list "
                       "(.txt) or tar shards", shown="PATH"),
    "dataset": Setting(None, "in place of --gallery: protocol or folder of lists; default: the one the model was "
                       "trained on", shown="NAME", spelled=DATA_SETS),
    "split": Setting("database", "which split of the data set", choices=("database", "query", "train")),
    "data_path": Setting(None, "folder of the images; default: the one of the training run", shown="DIR"),
    "list_dir": Setting(None, "folder with the lists", shown="DIR"),
    "split_seed": Setting(None, "seed of the split; default: the training run's", kind=int, low=0, also=("seed",)),
    "modality": Setting("image", "what is encoded (text: cross-modal models)", choices=("image", "text")),
    **ranking.KEEP,
    "shard_size": Setting(8192, "items of a shard: so much work is lost by a kill", low=1),
    "overwrite": Setting(False, "encode again what the folder holds of other data, models or flags"),
    "part": Setting(None, "this process's share of the shards: I of N", kind=part, shown="I/N"),
    "cluster": Setting(None, "spread the shards over a Ray cluster: its address, or auto (requirements-cluster.txt)",
                       shown="ADDRESS"),
    "bit": Setting(None, "refuse a model of another code length", kind=int, low=1),
    "batch_size": Setting(32, "pictures a call", low=1),
    "workers": Setting(None, "decoding threads; default as many as math threads", kind=int, low=1),
    "use_gpu": Setting(False, "run on the GPU"),
    "threads": Setting(None, "math threads on the CPU; default all cores (2 on a cluster)", kind=int, low=1),
    **engine_flags.FLAGS,
}


def parse(argv):
    """The command line as attributes, see FLAGS; what is not given is filled in.

    Raises:
        InputError: flags that are missing or contradict each other.
    """
    options = read_options(argv, "encode.py", "Encode many pictures into a folder of code shards, which is an index.",
                           FLAGS)
    for name, what in (("model_dir", "the folder that export_model.py wrote"), ("save_dir", "where the codes go")):
        if not getattr(options, name):
            raise InputError(f"--{name.replace('_', '-')} DIR is missing ({what})")
    if options.gallery is not None and (options.dataset or options.list_dir or options.split != "database"):
        raise InputError("--gallery takes the place of a data set; leave out --dataset, --list-dir and --split")
    ranks = int(os.environ.get("PADDLE_TRAINERS_NUM", 1))
    if options.cluster and (options.part or ranks > 1):
        raise InputError("--cluster spreads all shards by itself; leave --part and paddle.distributed.launch out")
    if ranks > 1:
        if options.part:
            raise InputError("paddle.distributed.launch gives every rank its part; leave --part out")
        if options.use_gpu:
            raise InputError("ranks of paddle.distributed.launch run on the CPU here; start one process a GPU with "
                             "CUDA_VISIBLE_DEVICES and --part I/N")
        options.part = int(os.environ["PADDLE_TRAINER_ID"]) + 1, ranks
        # the launcher sets OMP_NUM_THREADS to 1, whatever the machine
        options.threads = options.threads or max(1, cpus() // int(os.environ.get("PADDLE_LOCAL_SIZE", ranks)))
    options.threads = options.threads or (2 if options.cluster else threads())
    options.workers = options.workers or options.threads
    engine_flags.precision_of(options)
    return options


def main(argv):
    """Encode what the flags name.

    Raises:
        InputError: what is wrong with flags, model or data; not one picture can be read.
    """
    options = parse(argv)
    quiet()
    # inside: --help and wrong flags are answered at once
    from deploy.bulk import UNREADABLE, Job
    job = Job(options)
    for note in job.notes:
        say(f"----- Note: {note}")
    number, parts = options.part or (1, 1)
    mine = range(number - 1, job.count, parts)
    encoder = job.encoder
    say(f"----- Encode {job.name}: {encoder.manifest['method']}, {encoder.bits} bits, {encoder.precision}, "
        f"{encoder.engine}; {len(mine)} of {job.count} shards of {options.shard_size} items")
    progress = encode_shards(job, mine)
    say(f"----- Encoded {progress.done - progress.skipped} {options.modality}s in {progress.seconds:.1f} s "
        f"({progress.rate:.1f} a second); {progress.skipped} were there already")
    missing, lost = job.publish()
    if missing:
        say(f"----- Part {number} of {parts} is done; {len(missing)} shards of other parts are missing yet: the last "
            f"part to end completes {options.save_dir}")
        return
    say(f"----- {len(job.split) - len(lost)} codes in {options.save_dir}: python -m deploy.index search "
        f"{options.save_dir} --img PICTURE --model-dir {options.model_dir}")
    if lost:
        names = "; ".join(reason for _, reason in lost[:SHOWN]) + ("; ..." if len(lost) > SHOWN else "")
        say(f"----- {len(lost)} of {len(job.split)} could not be read, all in "
            f"{os.path.join(options.save_dir, UNREADABLE)}: {names}")


def encode_shards(job, numbers):
    """Make the shards that are not there yet, here or on the cluster; returns the Progress."""
    from utils.progress import Progress
    with Progress(sum(map(job.size, numbers)), "encode") as progress:
        todo = []
        job.begin()
        for number in numbers:
            if job.done(number):
                progress.skip(job.size(number))
            elif job.options.cluster:
                todo.append(number)
            else:
                job.encode(number, progress)
        if todo:
            from deploy.cluster import encode_on  # Ray is optional
            encode_on(job, todo, progress)
    return progress


if __name__ == "__main__":
    run_main(main)
