"""Train or evaluate a method in one process: a GPU if there is one, else the CPU.

python main_single_gpu.py --method hashnet --dataset cifar10-1 --data-path DIR --bit 48
python main_single_gpu.py --eval --pretrained output/hashnet_cifar10-1_48/best.safetensors
"""
from utils.errors import InputError, run_main


def main(argv):
    from engine import resolve, run  # inside: what a file in models/ raises when it is imported is one line, too
    from utils.training.device import choose_device, use_cores
    recipe, options, source = resolve(argv)
    for key in ("nprocs", "port"):
        if options[key]:
            raise InputError(f"--{key} belongs to main_multi_gpu.py; this is one process")
    choose_device(options["device"], options["typed"].get("device"))
    use_cores()
    run(recipe, options, source)


if __name__ == "__main__":
    run_main(main)
