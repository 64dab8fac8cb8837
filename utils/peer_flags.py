"""Flags of other projects, and what they do here: works, has no effect, or is refused. docs/flags.md is this table.

A row holds for some commands, and for some methods if it names them. What a flag's *value* may be spelled like
belongs to its Setting (``spelled``), for recipes have values too.
"""
import dataclasses
from typing import Mapping, Optional, Tuple

from utils.errors import InputError

WORKS, NO_EFFECT, REFUSED = "works", "no effect", "refused"
# the projects
HASHNET, DHN, NSH, WCH, DJSRH, PADDLE = "paddle_hashnet", "DHN_PyTorch", "NSH", "WCH", "DJSRH", "Paddle"
CLAS = "PaddleClas"
SINGLE, MULTI, EXPORT, PREDICT, INFER = ("main_single_gpu.py", "main_multi_gpu.py", "export_model.py", "predict.py",
                                         "infer.py")
TRAIN = (SINGLE, MULTI)


@dataclasses.dataclass(frozen=True)
class Row:
    """A flag as other projects spell it.

    Attributes:
        names: as typed there, short form first.
        projects: who has it.
        commands: where it is known here.
        answer: WORKS, NO_EFFECT or REFUSED.
        here: the setting that it gives, for WORKS.
        why: WORKS: what is different here, if anything is; else the reason, as the user reads it.
        values: values that have an answer of their own: dict lower-case text -> dict setting -> text. An empty dict
            asks for what happens anyway.
        methods: only with these methods; () = any.
    """

    names: Tuple[str, ...]
    projects: Tuple[str, ...]
    commands: Tuple[str, ...]
    answer: str
    here: Optional[str] = None
    why: str = ""
    values: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    methods: Tuple[str, ...] = ()

    def settings(self, text, as_typed, say):
        """What the flag with value ``text`` gives: dict setting -> text.

        Args:
            text: the value, without quotes.
            as_typed: the flag as the user spelled it.
            say: callable of a line for the user.

        Raises:
            InputError: the flag is refused; says why.
        """
        if text.lower() in self.values:
            return self.values[text.lower()]
        if self.answer == WORKS:
            return {self.here: text}
        if self.answer == REFUSED:
            raise InputError(f"{as_typed}{' ' + text if self.values else ''}: {self.why}")
        say(f"{as_typed} has no effect here: {self.why}")
        return {}


def _works(names, projects, commands, here, why="", **more):
    return Row(tuple(names.split()), projects, commands, WORKS, here, why, **more)


def _no_effect(names, projects, commands, why, **more):
    return Row(tuple(names.split()), projects, commands, NO_EFFECT, None, why, **more)


def _refused(names, projects, commands, why, **more):
    return Row(tuple(names.split()), projects, commands, REFUSED, None, why, **more)


_OFF = {"false": {}, "0": {}}
_SHARED = "the model knows its own picture sizes"
_TENSORRT = "TensorRT is not part of this project; leave it out, or use --mkldnn (float32) or --bf16 on a CPU"

# data sets as these projects spell them, where that means one set here; utils/datasets hints at the others
DATA_SETS = {"cifar-10": "cifar10-1", "nus-wide-tc21": "nuswide_21", "imagenet-tc100": "imagenet",  # DHN_PyTorch
             "NUS-WIDE": "nuswide_21", "nus-wide": "nuswide_21",
             "WIKI": "wiki", "MIRFlickr": "mirflickr_crossmodal", "NUSWIDE": "nuswide_10"}  # DJSRH

PEER_FLAGS = (
    # training: paddle_hashnet
    _works("--model", (HASHNET,), TRAIN, "method"),
    _works("--bit", (HASHNET,), TRAIN, "bit"),
    _works("--seed", (HASHNET, DHN), TRAIN, "seed"),
    _works("--eval", (HASHNET,), TRAIN, "eval"),
    _works("--pretrained", (HASHNET,), TRAIN, "pretrained"),
    _works("--resume", (HASHNET,), TRAIN, "resume", "everything is restored, the number of the epoch too"),
    _works("--debug_steps", (HASHNET,), TRAIN, "log_step"),
    _works("--dataset", (HASHNET, DHN, NSH, WCH, DJSRH), TRAIN, "dataset", "spellings of DHN_PyTorch and DJSRH are "
           "known: " + ", ".join(f"{typed} = {name}" for typed, name in DATA_SETS.items())),
    _works("--data-path", (HASHNET,), TRAIN, "data_path"),
    _no_effect("--num_class", (HASHNET,), TRAIN, "the data set says how many classes there are"),
    _works("--topK", (HASHNET, DHN), TRAIN, "topK", "-1 and all mean the whole database, as 0 does"),
    _works("--crop_size", (HASHNET, NSH, WCH), TRAIN, "crop_size"),
    _works("--resize_size", (HASHNET, NSH, WCH), TRAIN, "resize_size"),
    _works("-bs --batch-size", (HASHNET, DHN, NSH, WCH, DJSRH), TRAIN, "batch_size"),
    _no_effect("--last_epoch", (HASHNET,), TRAIN, "--resume takes the number of the epoch from the checkpoint"),
    _works("-ee --eval_epoch", (HASHNET,), TRAIN, "eval_epoch"),
    _works("--alpha", (HASHNET,), TRAIN, "alpha", methods=("hashnet",)),
    _works("--step_continuation", (HASHNET,), TRAIN, "step_continuation", methods=("hashnet",)),
    _works("-lr --learning_rate", (HASHNET,), TRAIN, "learning_rate",
           "used as given: paddle_hashnet multiplies it by batch size / 64"),
    _works("--de_step", (HASHNET,), TRAIN, "lr_step"),
    _works("-e --epoch", (HASHNET, NSH, WCH), TRAIN, "epoch"),
    _works("-op --optimizer", (HASHNET, NSH, WCH), TRAIN, "optimizer",
           "SGD, as paddle_hashnet spells it, is momentum; RMSProp has no momentum here"),
    _works("-wd --weight_decay", (HASHNET, DJSRH), TRAIN, "weight_decay"),
    _works("--momentum", (HASHNET, DJSRH), TRAIN, "momentum"),
    _no_effect("--log_path", (HASHNET,), TRAIN, "the log is train.log in the folder of --output-dir"),
    _works("--output-dir", (HASHNET,), TRAIN, "output_dir"),
    # training: DHN_PyTorch
    _works("--root", (DHN,), TRAIN, "data_path"),
    _works("--code-length", (DHN,), TRAIN, "bit"),
    _works("--arch", (DHN,), TRAIN, "backbone"),
    _works("--lr", (DHN,), TRAIN, "learning_rate"),
    _works("--max-iter", (DHN,), TRAIN, "epoch", "an iteration of DHN_PyTorch is a pass over the training set"),
    _works("--num-workers", (DHN, NSH, WCH, DJSRH), TRAIN, "num_workers"),
    _works("--gpu --use_gpu", (DHN, PADDLE), TRAIN, "device", "true, false, or the number of the GPU"),
    _works("--lamda", (DHN,), TRAIN, "lamda", "weighs the quantisation term only", methods=("dhn",)),
    _works("--evaluate-interval", (DHN,), TRAIN, "eval_epoch"),
    # training: names in the settings of NSH, WCH and DJSRH
    _works("--positive_num", (NSH,), TRAIN, "positives", methods=("nsh",)),
    _works("--tau", (NSH,), TRAIN, "tau", methods=("nsh",)),
    _works("--test_map", (NSH, WCH), TRAIN, "eval_epoch"),
    _refused("--bit_list", (NSH, WCH), TRAIN, "a run makes codes of one length; give --bit N and run once for each "
             "length"),
    _no_effect("--logs_path", (NSH, WCH), TRAIN, "the log is train.log in the folder of --output-dir"),
    _no_effect("--info", (NSH, WCH), TRAIN, "the run folder is named after method, data set and length"),
    _works("--pretrained_dir", (WCH,), TRAIN, "backbone_weights"),
    _no_effect("--alpha", (WCH,), TRAIN, "the authors' code of WCH reads alpha nowhere", methods=("wch",)),
    _works("--beta", (DJSRH,), TRAIN, "beta", methods=("djsrh",)),
    _works("--lambda1", (DJSRH,), TRAIN, "lambda1", methods=("djsrh",)),
    _works("--lambda2", (DJSRH,), TRAIN, "lambda2", methods=("djsrh",)),
    _works("--mu", (DJSRH,), TRAIN, "mu", methods=("djsrh",)),
    _works("--eta", (DJSRH,), TRAIN, "eta", methods=("djsrh",)),
    _works("--code_len", (DJSRH,), TRAIN, "bit"),
    _works("--num_epoch", (DJSRH,), TRAIN, "epoch"),
    _works("--eval_interval", (DJSRH,), TRAIN, "eval_epoch"),
    _works("--lr_img", (DJSRH,), TRAIN, "learning_rate"),
    _refused("--lr_txt", (DJSRH,), TRAIN, "the text encoder's rate is given as a multiple of --learning-rate: "
             "--text-lr-mult X", methods=("djsrh",)),
    _works("--gpu_id", (DJSRH,), TRAIN, "device"),
    _works("--data_dir", (DJSRH,), TRAIN, "data_path"),
    _no_effect("--epoch_interval", (DJSRH,), TRAIN, "--log-step N says how often a line is written"),
    # training: what PaddleClas's TIPC script adds to every command, as -o KEY=VALUE
    _no_effect("--Global.print_mem_info", (CLAS,), TRAIN, "the speed of training is in the log, memory is not"),
    _no_effect("--Global.log_ranks", (CLAS,), TRAIN, "rank 0 writes the log"),
    _refused("--AMP.use_amp", (CLAS,), TRAIN, "16-bit training is --amp bf16 or --amp fp16 here", values=_OFF),
    # export
    _works("--model", (HASHNET,), (EXPORT,), "method"),
    _works("--bit", (HASHNET,), (EXPORT,), "bit"),
    _no_effect("--img_size", (HASHNET,), (EXPORT,), _SHARED),
    _works("--save-inference-dir", (HASHNET,), (EXPORT,), "save_inference_dir"),
    _refused("--load_ckp", (HASHNET,), (EXPORT,), "in paddle_hashnet it leaves the checkpoint out; a model with random "
             "weights is not exported here"),
    _works("--pretrained", (HASHNET,), (EXPORT,), "pretrained"),
    # predict
    _works("--model", (HASHNET,), (PREDICT,), "method"),
    _no_effect("--crop_size --resize_size", (HASHNET,), (PREDICT, INFER), _SHARED),
    _works("--dataset", (HASHNET,), (PREDICT, INFER), "dataset"),
    _works("--data_path", (HASHNET,), (PREDICT, INFER), "data_path"),
    _works("--img", (HASHNET,), (PREDICT,), "img"),
    _works("--save_path", (HASHNET,), (PREDICT, INFER), "save_path"),
    _works("--show", (HASHNET,), (PREDICT,), "show"),
    _works("--bit", (HASHNET,), (PREDICT,), "bit", "without a model: output/weights_BIT.pdparams"),
    _works("--bit", (HASHNET,), (INFER,), "bit"),
    _works("-bs --batch_size", (HASHNET, PADDLE), (PREDICT, INFER), "batch_size"),
    # inference: paddle_hashnet and Paddle's deployment templates
    _works("--model-dir", (HASHNET, PADDLE), (INFER,), "model_dir"),
    _works("--use-gpu", (HASHNET, PADDLE), (INFER,), "use_gpu"),
    _no_effect("--max-batch-size", (HASHNET,), (INFER,), "the graph takes any batch size"),
    _works("--img-path --image_dir --image_file", (HASHNET, PADDLE), (INFER,), "img_path",
           "one picture; predict.py --img takes folders"),
    _works("--benchmark --enable_benchmark --run_benchmark", (HASHNET, PADDLE), (INFER,), "benchmark"),
    _works("--warmup", (HASHNET, PADDLE), (INFER,), "warmup"),
    _works("--use_mkldnn --enable_mkldnn", (PADDLE,), (INFER,), "mkldnn"),
    _works("--cpu_threads --cpu_num_threads", (PADDLE,), (INFER,), "threads"),
    _refused("--use_tensorrt --use_trt", (PADDLE,), (INFER,), _TENSORRT, values=_OFF),
    _works("--precision", (PADDLE,), (INFER,), "precision", "fp32, bf16 or auto; an int8 model is a folder of its own "
           "(deploy/slim/quantize.py), named by --model-dir; fp16 is not offered"),
    _refused("--use_fp16", (PADDLE,), (INFER,), "16-bit floats are --bf16 here, on a CPU", values=_OFF),
    _refused("--run_mode", (PADDLE,), (INFER,), _TENSORRT, values={"paddle": {}, "fluid": {}}),
    _refused("--device", (PADDLE,), (INFER,), "a model runs on CPU or GPU",
             values={"cpu": {"use_gpu": "false"}, "gpu": {"use_gpu": "true"}}),
    _no_effect("--ir_optim", (PADDLE,), (INFER,), "the graph is always optimised"),
    _no_effect("--gpu_mem", (PADDLE,), (INFER,), "memory of the GPU is taken as it is needed"),
    _no_effect("--save_log_path", (PADDLE,), (INFER,), "the benchmark is printed; send the output to a file"),
)


def rows(command, method, settings):
    """The rows of a command whose flags can be read now.

    Args:
        command: file name of the command.
        method: name of a method: the rows that belong to its ``settings`` or to it alone; None: the command's own.
        settings: names of the settings that are known now.
    """
    return [row for row in PEER_FLAGS if command in row.commands and (
        row.here in settings or row.here is None and (method in row.methods if row.methods else method is None))]
