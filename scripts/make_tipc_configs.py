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

# The order is the convention: readers go by line numbers. Lines 1 to 51 are those of PaddlePaddle's template script.
# What is said of a mode is said in lines 7 and 9 only, for the template asks for no other; so the lite data and recipe
# stand in the command. `auto`: a GPU if there is one, else the CPU. whole_infer of the template exports what its
# lite_train_lite_infer has left (it knows one folder for all configs, so a run there is overwritten).
TRAIN = """\
===========================train_params===========================
model_name:{name}
python:python
gpu_list:{setups}
--use-gpu:auto
{autocast}
--epoch:{epoch}
--output-dir:null
--batch-size:{batch}
--pretrained:null
train_model_name:best.safetensors
train_infer_img_dir:{lite_image}
null:null
##
trainer:{trainer}
{trainer}:{program} {lite_task}
pact_train:null
fpgm_train:null
distill_train:null
null:null
null:null
##
===========================eval_params===========================
eval:{program} --eval
null:null
##
===========================infer_params===========================
--save-inference-dir:null
--pretrained:null
norm_export:export_model.py {model}{graphs}
quant_export:null
fpgm_export:null
distill_export:null
export1:null
export2:null
inference_dir:null
infer_model:{lite_run}/best.safetensors
infer_export:export_model.py {model}{graphs}
infer_quant:False
inference:deploy/inference_python/infer.py --bit {bit} --evaluate True --rebuild True
--use-gpu:True|False
--use-mkldnn:False
--cpu-threads:null
--batch-size:1
--use-trt:False
--precision:fp32
--model-dir:null
--img-path:{lite_image}
--save-log-path:null
--benchmark:True
--save-path:{lite_run}
"""

# Read by name, and by our scripts alone: what other modes than the lite one train and ask for.
WHOLE = """\
===========================whole_params===========================
whole_train:{program} {task}
--data-path:{whole}
--img-path:{whole}/images/q000000.jpg
single_train:{single}
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

# The same for PaddleClas's script: it takes the values of lines 7 and 9 as they stand, looks for the training log in
# <run folder>/<model>, infers in the folder deploy, and its whole_infer quantises (what its lite run has left).
PADDLECLAS = """\
===========================train_params===========================
model_name:{name}
python:python
gpu_list:0
--use-gpu:auto
null:null
--epoch:null
null:null
--batch-size:16
--pretrained:null
train_model_name:best.safetensors
null:null
--output-dir:{clas_run}/{name}
##
trainer:norm_train
norm_train:{program} {lite_task}
pact_train:null
fpgm_train:null
distill_train:null
to_static_train:null
null:null
##
===========================eval_params===========================
eval:{program} --eval
null:null
##
===========================infer_params===========================
--save-inference-dir:null
--pretrained:null
norm_export:export_model.py {model} --format pdmodel
quant_export:null
fpgm_export:null
distill_export:null
kl_quant:deploy/slim/quantize.py --images 64 --model-dir {clas_run} --save-dir output/quant_post_static_model
export2:null
null:null
infer_model:output
infer_export:null
infer_quant:False
inference:inference_python/infer.py --bit {bit} --evaluate True --rebuild True --data-path ../{lite}
--use-gpu:True|False
--use-mkldnn:False
--cpu-threads:null
--batch-size:1
--use-trt:False
--precision:fp32
--model-dir:null
--img-path:../{lite_image}
--save-log-path:null
--benchmark:True
--save-path:../{clas_run}
"""

# The same for the script of paddle_hashnet: 32 lines.
PADDLE_HASHNET = """\
===========================train_params===========================
model_name:{name}
python:python
gpu_list:0
--use-gpu:auto
--epoch:{epoch}
--output-dir:./output/
--batch-size:{batch}
--pretrained:null
train_model_name:best.safetensors
--data-path:{lite}
##
trainer:norm_train
norm_train:{program} {lite_task}
##
===========================eval_params===========================
eval:{program} --eval
##
===========================infer_params===========================
--save-inference-dir:{hashnet_run}/inference
--pretrained:
norm_export:export_model.py {model}
##
null:{hashnet_run}/best.safetensors
infer_export:export_model.py {model}
##
inference:deploy/inference_python/infer.py --bit {bit} --evaluate True --rebuild True --save-path {hashnet_run}
--use-gpu:True|False
--batch-size:1
--model-dir:null
--img-path:{lite_image}
--benchmark:True
"""

# file: (text, what differs from the base chain's values)
CHAINS = {
    "train_infer_python": (TRAIN + BENCHMARK + WHOLE, {}),
    "train_infer_python_paddleclas": (PADDLECLAS, {}),
    "train_infer_python_paddle_hashnet": (PADDLE_HASHNET, {}),
    # two ranks on this machine; two nodes of one rank each; one rank, whose losses must be theirs
    "train_linux_gpu_fleet_normal_infer_python": (
        TRAIN + WHOLE, {"setups": "0,1|127.0.0.1,127.0.0.1;0", "program": "main_multi_gpu.py",
                        "single": "main_single_gpu.py {lite_task}"}),
    "train_amp_infer_python": (TRAIN + WHOLE, {"trainer": "amp_train", "autocast": "--amp:bf16|fp16"}),
    "paddle2onnx_infer_python": (TRAIN + ONNX + WHOLE, {}),
    "ptq_infer_python": (TRAIN + PTQ + WHOLE, {"graphs": " --format pdmodel"}),  # the form that Paddle quantises
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


def config(chain, method, bit):
    """Text of test_tipc/configs/<method>_<bit>/<chain>.txt."""
    text, different = CHAINS[chain]
    name, lite, whole = f"{method}_{bit}", "data/shapes/tipc/lite", "data/shapes/tipc/whole"
    task = f"--method {method} --bit {bit} --dataset shapes"
    values = {
        "name": name, "bit": bit, "model": f"--method {method} --bit {bit}", "graphs": "", "setups": "0",
        "autocast": "null:null", "epoch": "lite_train_lite_infer=2|lite_train_whole_infer=2",
        "batch": "lite_train_lite_infer=16|lite_train_whole_infer=16", "trainer": "norm_train",
        "program": "main_single_gpu.py", "single": "null", "lite": lite, "whole": whole,
        "lite_image": f"{lite}/images/q000000.jpg",
        "lite_task": f"{task} --data-path {lite} --config test_tipc/configs/lite/{method}.yaml "
                     "--overwrite True",
        "task": f"{task} --data-path {whole}",
        # where the scripts of others keep their run
        "lite_run": "./test_tipc/output/norm_train_gpus_0_autocast_null",
        "clas_run": f"test_tipc/output/{name}/lite_train_lite_infer/norm_train_gpus_0_autocast_null_nodes_1",
        "hashnet_run": f"./log/{name}/lite_train_lite_infer/norm_train_gpus_0", **different}
    values["single"] = values["single"].format(**values)
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
    """Write the configs that are not current; with --check only compare.

    Raises:
        InputError: an unknown argument, or --check and a file that is not current.
    """
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
