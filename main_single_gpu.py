"""Train or evaluate a method in one process: a GPU if there is one, else the CPU.

python main_single_gpu.py --method hashnet --dataset cifar10-1 --data-path DIR --bit 48
python main_single_gpu.py --eval --pretrained output/hashnet_cifar10-1_48/best.safetensors

Started by ``python -m paddle.distributed.launch``, as official scripts do, it is one rank of several.
"""
from utils.errors import InputError, run_main


def main(argv):
    """The command."""
    from engine import resolve, run  # inside: what a file in models/ raises on import is one line, too
    from utils.training import ranks
    from utils.training.device import choose_device, use_cores
    from utils.training.run_folder import interruptions
    recipe, options, source = resolve(argv)
    for key in ("nprocs", "port"):
        if options[key]:
            raise InputError(f"--{key} belongs to main_multi_gpu.py; this is one process")
    command = "main_single_gpu.py"
    if ranks.launched():
        ranks.join(options)
        command = f"-m paddle.distributed.launch ... {command}"
    else:
        choose_device(options["device"], options["typed"].get("device"))
        use_cores()
    with interruptions(recipe, options, command):
        run(recipe, options, source)


if __name__ == "__main__":
    run_main(main)
