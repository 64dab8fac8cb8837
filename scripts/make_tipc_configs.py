"""Write test_tipc/configs from the method registry: one TIPC config per method and code length, one lite recipe per
method.

    python scripts/make_tipc_configs.py             write them
    python scripts/make_tipc_configs.py --check     fail where a committed file differs
"""
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from utils.errors import InputError, run_main  # noqa: E402  (needs the path above)

FOLDER = os.path.join(ROOT, "test_tipc", "configs")

# The order is the convention: readers go by line numbers. {lite} and {whole} are what stands for both lite modes and
# for whole_train_whole_infer. `--use-gpu` of training: the first device of the list that the machine has.
CONFIG = """\
===========================train_params===========================
model_name:{name}
python:python
gpu_list:0
--use-gpu:True|False
--epoch:{lite_epoch}
--output-dir:null
--batch-size:{lite_batch}
--pretrained:null
train_model_name:best.safetensors
--data-path:{data}
--config:{recipe}
trainer:norm_train
norm_train:main_single_gpu.py --method {method} --bit {bit} --dataset shapes
##
===========================eval_params===========================
eval:main_single_gpu.py --eval
##
===========================infer_params===========================
--save-inference-dir:null
--pretrained:null
norm_export:export_model.py --method {method} --bit {bit}
infer_export:export_model.py --method {method} --bit {bit}
infer_model:null
##
inference:deploy/inference_python/infer.py --bit {bit} --evaluate True
--use-gpu:True|False
--batch-size:1
--model-dir:null
--img-path:{image}
--save-path:null
--benchmark:True
"""

LITE_RECIPE = """\
# Small enough for a minute on two cores: it shows that every step works, not that the method learns.
method: {method}
dataset: shapes
backbone: ConvNet:width=8
pretrained_backbone: false
resize_size: 72
crop_size: 64
freeze_backbone: true          # standardised random features: codes that differ from image to image
feature_norm: standardize
augment: {augment}
eval_epoch: 2
optimizer: adam
learning_rate: 0.001
weight_decay: 0.0
lr_schedule: constant
head_lr_mult: 1
drop_last: true
"""


def by_mode(lite, whole=None):
    """The `mode=value|mode=value` form of a line."""
    values = [("lite_train_lite_infer", lite), ("lite_train_whole_infer", lite)]
    if whole is not None:
        values.append(("whole_train_whole_infer", whole))
    return "|".join(f"{mode}={value}" for mode, value in values)


def config(method, bit):
    """Text of test_tipc/configs/<method>_<bit>/train_infer_python.txt."""
    query = "data/shapes/tipc/{}/images/q000000.jpg"
    return CONFIG.format(name=f"{method}_{bit}", method=method, bit=bit, lite_epoch=by_mode(2), lite_batch=by_mode(16),
                         data=by_mode("data/shapes/tipc/lite", "data/shapes/tipc/whole"),
                         recipe=by_mode(f"test_tipc/configs/lite/{method}.yaml"),
                         image=f"lite_train_lite_infer={query.format('lite')}|"
                               f"lite_train_whole_infer={query.format('whole')}|"
                               f"whole_train_whole_infer={query.format('whole')}|whole_infer={query.format('whole')}")


def wanted(methods):
    """dict path below test_tipc/configs -> text.

    Args:
        methods: dict name -> HashMethod class (``bit_lengths`` and ``views`` are read).
    """
    files = {}
    for name, method in methods.items():
        augment = "simclr" if method.views > 1 else "crop_flip"
        files[os.path.join("lite", f"{name}.yaml")] = LITE_RECIPE.format(method=name, augment=augment)
        for bit in method.bit_lengths:
            files[os.path.join(f"{name}_{bit}", "train_infer_python.txt")] = config(name, bit)
    return files


def present(folder):
    """dict path below ``folder`` -> text, of all files there."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            with open(path, encoding="utf-8") as file:
                found[os.path.relpath(path, folder)] = file.read()
    return found


def main(argv):
    if argv not in ([], ["--check"]):
        raise InputError(f"unknown argument {' '.join(argv)}; the only one is --check")
    from models import METHODS
    from utils.files import write_text
    new, old = wanted(METHODS), present(FOLDER)
    changed = sorted(path for path in {*new, *old} if new.get(path) != old.get(path))
    if argv and changed:
        raise InputError(f"{len(changed)} files in test_tipc/configs are not current ({', '.join(changed[:3])}, ...); "
                         "run python scripts/make_tipc_configs.py")
    for path in changed:
        if path in new:
            write_text(os.path.join(FOLDER, path), new[path])
        else:
            os.remove(os.path.join(FOLDER, path))
    print(f"{len(new)} files in test_tipc/configs, {len(changed)} of them " + ("changed" if not argv else "differ"))


if __name__ == "__main__":
    run_main(main)
