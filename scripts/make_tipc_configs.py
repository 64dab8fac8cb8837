"""Write test_tipc/configs from the method registry: the TIPC configs of every chain for each method and code length,
and the recipes of the lite modes.

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
TRAIN = """\
===========================train_params===========================
model_name:{name}
python:python
gpu_list:{setups}
--use-gpu:{devices}
--epoch:{epoch}
--output-dir:null
--batch-size:{batch}
--pretrained:null
train_model_name:best.safetensors
--data-path:{data}
--config:{recipe}
trainer:{trainer}
{train}
{single}
===========================eval_params===========================
eval:{evaluation}
##
===========================infer_params===========================
--save-inference-dir:null
--pretrained:null
norm_export:export_model.py --method {method} --bit {bit}{graphs}
infer_export:export_model.py --method {method} --bit {bit}{graphs}
infer_model:null
##
"""

INFER = """\
inference:deploy/inference_python/infer.py --bit {bit} --evaluate True
--use-gpu:True|False
--batch-size:1
--model-dir:null
--img-path:{image}
--save-path:null
--benchmark:True
"""

BENCHMARK = """\
===========================train_benchmark_params===========================
batch_size:16
fp_items:fp32
epoch:3
model_type:norm_train
--profiler_options:null
flags:null
===========================infer_benchmark_params===========================
random_infer_input:[{{float32,[3,64,64]}}]
"""

ONNX = """\
===========================paddle2onnx_params===========================
2onnx:deploy/onnx/convert.py --opset 13
--model-dir:null
--save-dir:null
compare:deploy/compare.py --exact True --evaluate True
--other-dir:null
"""

PTQ = """\
===========================ptq_params===========================
ptq:deploy/slim/quantize.py --images 64 --max-flips 0.1
--model-dir:null
--save-dir:null
compare:deploy/compare.py --evaluate True --mkldnn True --max-flips 0.1 --max-drop 0.05 --threads 1
--other-dir:null
"""

CONVERTED_INFER = """\
inference:deploy/inference_python/infer.py --bit {bit} --evaluate True
--batch-size:1
--img-path:{image}
--save-path:null
--benchmark:True
"""

# file: (text, what differs from the base chain's values)
CHAINS = {
    "train_infer_python": (TRAIN + INFER + BENCHMARK, {}),
    # two ranks on this machine; two nodes of one rank each; one rank, whose losses must be theirs
    "train_linux_gpu_fleet_normal_infer_python": (
        TRAIN + INFER, {"setups": "0,1|127.0.0.1,127.0.0.1;0", "train": "norm_train:main_multi_gpu.py {task}",
                        "single": "single_train:main_single_gpu.py {task}", "evaluation": "main_multi_gpu.py --eval"}),
    "train_amp_infer_python": (
        TRAIN + INFER, {"trainer": "amp_bf16|amp_fp16", "train": "amp_train:main_single_gpu.py {task}"}),
    "paddle2onnx_infer_python": (TRAIN + ONNX + CONVERTED_INFER, {}),
    "ptq_infer_python": (TRAIN + PTQ + CONVERTED_INFER, {"graphs": " --format pdmodel"}),  # the form that Paddle quantises
}

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


def config(chain, method, bit):
    """Text of test_tipc/configs/<method>_<bit>/<chain>.txt."""
    text, different = CHAINS[chain]
    query = "data/shapes/tipc/{}/images/q000000.jpg"
    values = {
        "name": f"{method}_{bit}", "method": method, "bit": bit, "graphs": "", "setups": "0", "devices": "True|False",
        "epoch": by_mode(2), "batch": by_mode(16), "data": by_mode("data/shapes/tipc/lite", "data/shapes/tipc/whole"),
        "recipe": by_mode(f"test_tipc/configs/lite/{method}.yaml"), "trainer": "norm_train",
        "train": "norm_train:main_single_gpu.py {task}", "single": "##", "evaluation": "main_single_gpu.py --eval",
        "image": f"lite_train_lite_infer={query.format('lite')}|lite_train_whole_infer={query.format('whole')}|"
                 f"whole_train_whole_infer={query.format('whole')}|whole_infer={query.format('whole')}", **different}
    for key in ("train", "single"):
        values[key] = values[key].format(task=f"--method {method} --bit {bit} --dataset shapes")
    return text.format(**values)


def wanted(methods):
    """dict path below test_tipc/configs -> text.

    Args:
        methods: dict name -> HashMethod class (what it says about itself is read).
    """
    files = {}
    for name, method in methods.items():
        augment = "simclr" if method.views > 1 else "crop_flip"
        files[os.path.join("lite", f"{name}.yaml")] = LITE_RECIPE.format(method=name, augment=augment) + "".join(
            f"{key}: {value}\n" for key, value in method.lite.items())
        for bit in method.bit_lengths:
            for chain in CHAINS:
                files[os.path.join(f"{name}_{bit}", f"{chain}.txt")] = config(chain, name, bit)
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
