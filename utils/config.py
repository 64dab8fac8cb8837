"""Recipes: one flat table of settings, read from defaults < method < YAML < flags; unknown names are errors."""
import argparse
import glob
import os
import re

import yaml

from utils.errors import InputError
from utils.files import write_text
from utils.settings import Setting, nearest
from utils.training.checkpoint import BEST, LATEST, find_checkpoint

MAX_BITS = 1024


def _device(value):
    if not re.fullmatch(r"auto|cpu|gpu(:\d+)?", str(value)):
        raise ValueError("auto, cpu, gpu or gpu:N")
    return str(value)


# What decides the result; written beside every result.
RECIPE = {
    "method": Setting("hashnet", "hashing method; `python -m models` lists them"),
    "dataset": Setting("shapes", "protocol name (`python -m utils.datasets list`), or your own pictures: a folder, a "
                "manifest (.csv, .jsonl) or an image list (.txt); data/README.md"),
    "data_path": Setting(None, "folder of the images or of the official archive"),
    "list_dir": Setting(None, "folder with train/query(test)/database lists, instead of data/<dataset>"),
    "num_train": Setting(None, "training images, where the protocol lets one choose", kind=int, low=1),
    "num_query": Setting(None, "query images, where the protocol lets one choose", kind=int, low=1),
    "num_database": Setting(None, "database images, where the protocol lets one choose", kind=int, low=1),
    "train_per_class": Setting(None, "training images a class, where the protocol lets one choose", kind=int, low=1),
    "query_per_class": Setting(None, "query images a class, where the protocol lets one choose", kind=int, low=1),
    "skip_broken": Setting(None, "your own pictures: leave out those that cannot be read, with a count", kind=bool),
    "split_seed": Setting(0, "seed of the split", low=0),
    "bit": Setting(64, "code length in bits", low=1, high=MAX_BITS),
    "backbone": Setting("AlexNet", "PaddleClas network"),
    "backbone_weights": Setting(None, "backbone weights: .pdparams, .pth, .safetensors or .npz"),
    "pretrained_backbone": Setting(True, "start from ImageNet weights (downloaded unless --backbone-weights)"),
    "freeze_backbone": Setting(False, "train the head only"),
    "feature_norm": Setting("none", "fixed normalisation of frozen backbone features, fitted on the training split", choices=("none", "standardize", "log1p_standardize")),
    "cache_features": Setting(True, "frozen backbone: compute features of un-augmented splits once"),
    "precision": Setting("fp32", "features of a frozen backbone; bf16: faster on CPUs that have it, some bits flip; "
                         "auto: bf16 where a sample allows it", choices=("fp32", "bf16", "auto")),
    "cached_views": Setting(0, "frozen backbone: draw this many augmented views of each training image once, from "
                     "--split-seed, and let the epochs choose among them; 0 = augment anew in every epoch", low=0),
    "resize_size": Setting(256, "shorter side before the crop, pixels", low=8),
    "crop_size": Setting(224, "input size of the network, pixels", low=8),
    "decode": Setting("full", "JPEG decoding; reduced: large pictures straight at a smaller size "
               "(faster, other pixels: it is part of the model's fingerprint)", choices=("full", "reduced")),
    "augment": Setting("crop_flip", "training augmentation", choices=("none", "crop_flip", "simclr")),
    "text_kind": Setting("tfidf", "text features of raw texts: TF-IDF or bag of words", choices=("tfidf", "bow")),
    "text_limit": Setting(2000, "words kept for the text features, the most frequent first", low=1),
    "batch_size": Setting(64, "images per process and step", low=1),
    "eval_batch_size": Setting(64, "images per process when encoding", low=1),
    "epoch": Setting(150, "passes over the training split", low=1),
    "eval_epoch": Setting(10, "evaluate every so many epochs, and after the last", low=1),
    "optimizer": Setting("momentum", "optimizer", choices=("momentum", "adam", "adamw", "rmsprop", "sgd")),
    "learning_rate": Setting(0.001, "learning rate as used (never scaled by the number of processes)", low=0),
    "momentum": Setting(0.9, "momentum of optimizer=momentum", low=0),
    "weight_decay": Setting(5e-4, "L2 penalty (decoupled for adamw)", low=0),
    "lr_schedule": Setting("step", "per epoch", choices=("constant", "step", "cosine")),
    "lr_step": Setting(50, "epochs between two steps of lr_schedule=step", low=1),
    "lr_gamma": Setting(0.5, "factor of a step", low=0),
    "lr_min_ratio": Setting(0.0, "lr_schedule=cosine ends at learning_rate times this", low=0),
    "head_lr_mult": Setting(10.0, "learning-rate multiplier of the layers above the backbone", low=0),
    "amp": Setting("none", "train with the backbone in 16 bits (GPU); the losses stay in float32", choices=("none", "bf16", "fp16")),
    "drop_last": Setting(False, "drop the last incomplete batch of an epoch"),
    "seed": Setting(0, "seed of weights, order and augmentation", low=0),
    "topK": Setting(None, "K of mAP@K, 0 = all; the protocol's by default", kind=int, low=0),
    "ap": Setting("hits", "denominator of AP: see utils/retrieval/metrics.py", choices=("hits", "min", "first_hits")),
    "select": Setting("query", "what chooses the best checkpoint; val = drawn from the database", choices=("query", "val")),
    "val_size": Setting(1000, "images of the validation query set of --select val", low=1),
}

# How to run; does not change the result.
RUN = {
    "config": Setting(None, "recipe file; default that for the data set in configs/<method>. --resume and --eval take "
                      "the checkpoint's recipe instead"),
    "eval": Setting(False, "evaluate --pretrained and stop"),
    "pretrained": Setting(None, "checkpoint of a whole model: to evaluate, or to start training from"),
    "resume": Setting(None, "checkpoint to continue exactly"),
    "output_dir": Setting(None, "run folder; default output/<method>_<dataset>_<bit>, with --resume and --eval that of "
                              "the checkpoint"),
    "stop_epoch": Setting(None, "stop after this many epochs; the schedule ends at --epoch, and --resume goes on", kind=int, low=1),
    "overwrite": Setting(False, "start anew in a folder that holds a run"),
    "device": Setting("auto", "auto, cpu, gpu or gpu:N", kind=_device),
    "num_workers": Setting(2, "threads that load pictures ahead; they never change the data", low=0),
    "log_step": Setting(10, "steps between two log lines", low=1),
    "curves": Setting(False, "write PR, P@N and training curves as CSV and PNG at the last evaluation"),
    "visualdl": Setting(True, "write VisualDL scalars to <output_dir>/vdl"),
    "feature_cache": Setting("auto", "folder that keeps features of a frozen backbone between runs; auto: feature_store "
                             "beside the run folder; none: nothing is kept"),
    "nprocs": Setting(None, "main_multi_gpu.py: processes; default all GPUs, or 2 on a CPU", kind=int, low=1),
    "port": Setting(None, "main_multi_gpu.py: first port for the ranks; default any free one", kind=int, low=1, high=65535),
}

# flags of the seeds' repositories
ALIASES = {"code_length": "bit", "root": "data_path", "arch": "backbone", "lr": "learning_rate",
           "max_iter": "epoch", "topk": "topK", "evaluate_interval": "eval_epoch"}
MAY_CHANGE_ON_RESUME = ("epoch", "eval_epoch", "eval_batch_size", "data_path", "list_dir", "backbone_weights")
SIZES = ("num_train", "num_query", "num_database", "train_per_class", "query_per_class", "skip_broken")


def data_request(recipe):
    """What names the data of a recipe, as plain values: ``dataset``, ``split_seed``, ``sizes`` (those that are set)."""
    return {"dataset": recipe["dataset"], "split_seed": recipe["split_seed"],
            "sizes": {key: recipe[key] for key in SIZES if recipe.get(key)}}


def _convert(key, value, setting, where):
    if value is None or setting.default is None and str(value).lower() in ("null", "none", ""):
        return None  # "none" is a value of its own where the default is one
    try:
        return setting.convert(value)
    except ValueError as error:
        raise InputError(f"{where}: {key} = {value!r}, expected {error}") from None


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise InputError(message + "; --help lists the flags")


def _parse_flags(argv, table):
    """Command line -> dict of the given settings, raw strings (dashes and underscores are the same)."""
    parser = _Parser(allow_abbrev=False, argument_default=argparse.SUPPRESS)
    known = {**{key: key for key in table}, **ALIASES}
    for name, key in known.items():
        more = {"nargs": "?", "const": "true"} if table[key].type is bool else {}
        names = list(dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name}"]))
        parser.add_argument(*names, dest=key, metavar="V", help=table[key].help.replace("%", "%%"), **more)
        if more:
            parser.add_argument(f"--no-{name.replace('_', '-')}", f"--no_{name}", dest=key, action="store_const",
                                const="false", help=argparse.SUPPRESS)
    parser.add_argument("--no-pretrained", "--no_pretrained", dest="pretrained_backbone", action="store_const",
                        const="false", help="random backbone: an explicit choice, never a fallback")
    parser.add_argument("--use-gpu", "--use_gpu", "--gpu", dest="use_gpu", metavar="V",
                        help="true, false or a GPU number (seed's spelling of --device)")
    parser.add_argument("-o", dest="overrides", action="append", metavar="KEY=VALUE", help="any recipe key")
    given, unknown = parser.parse_known_args(argv)
    given = vars(given)
    if unknown:
        flag = unknown[0].split("=")[0]
        hint = nearest(flag.lstrip("-").replace("-", "_"), known)
        raise InputError(f"unknown argument {flag}{hint.replace('mean ', 'mean --')}; --help lists the flags")
    for pair in given.pop("overrides", []):
        key, sign, value = pair.partition("=")
        if not sign or key not in table:
            raise InputError(f"-o {pair}: expected KEY=VALUE with a recipe key{nearest(key, table)}")
        given[key] = value
    gpu = given.pop("use_gpu", None)
    if gpu is not None and "device" not in given:
        flag = str(gpu).lower()
        given["device"] = {"true": "gpu", "false": "cpu"}.get(flag, f"gpu:{gpu}" if flag.isdigit() else gpu)
    return given


def _load_yaml(path):
    """The lines of a recipe file as a dict, not looked at further than ``datasets``."""
    try:
        with open(path, encoding="utf-8") as file:
            settings = yaml.safe_load(file) or {}
    except OSError as error:
        raise InputError(f"cannot read recipe {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise InputError(f"{path}: expected `key: value` lines")
    served = settings.get("datasets", ["any"])
    if not isinstance(served, list) or not served or not all(isinstance(name, str) for name in served) \
            or "datasets" in settings and "dataset" in settings:
        raise InputError(f"{path}: datasets: expected [name, name, ...] in place of `dataset: name`")
    return settings


def _read_yaml(path, table, given):
    """Recipe file -> dict of raw settings; ``by_bit`` and ``datasets`` resolved with what the flags have given."""
    settings = _load_yaml(path)
    served = settings.pop("datasets", None)
    if served and "dataset" not in given:
        raise InputError(f"{path} serves several data sets; choose with --dataset one of {', '.join(served)}")
    bit = given.get("bit")
    by_bit = settings.pop("by_bit", None) or {}
    if not isinstance(by_bit, dict) or not all(isinstance(more, dict) for more in by_bit.values()):
        raise InputError(f"{path}: by_bit: expected `length: {{key: value}}` lines")
    settings.update(by_bit.get(bit if bit is not None else settings.get("bit", RECIPE["bit"].default), {}))
    for key in settings:
        if key not in table:
            raise InputError(f"{path}: unknown key {key}{nearest(key, table)}")
    return settings


def recipe_files(folder):
    """The recipes in a method's folder.

    Returns:
        dict name -> path: a file's name without its ending, and every data set of a line ``datasets: [a, b]``.

    Raises:
        InputError: a file that cannot be read; two files for one data set.
    """
    paths = sorted(glob.glob(os.path.join(glob.escape(folder), "*.yaml")))
    found = {os.path.splitext(os.path.basename(path))[0]: path for path in paths}
    for path in paths:
        for dataset in _load_yaml(path).get("datasets", ()):
            if dataset in found:
                raise InputError(f"{found[dataset]} and {path} are both for dataset {dataset}; keep one of them")
            found[dataset] = path
    return found


def _recipe_file(given, recipe_dir):
    """The recipe of the method for the data set, or its default recipe, or None."""
    dataset = given.get("dataset", RECIPE["dataset"].default)
    folder = os.path.join(recipe_dir, given.get("method", RECIPE["method"].default))
    own = os.path.join(folder, f"{dataset}.yaml")
    if os.path.basename(dataset) != dataset:  # a folder or a file has no recipe of its own
        return recipe_files(folder).get("default")
    if os.path.isfile(own):
        return own
    recipes = recipe_files(folder)
    return recipes.get(dataset, recipes.get("default"))


def _of_checkpoint(settings, checkpoint, given, evaluate):
    """What counts of a checkpoint's recipe for --eval (``evaluate``) or --resume; forgets a ``given`` backbone it has.

    Raises:
        InputError: a given setting that would make another model, or (--resume) another run.
    """
    if str(given.get("backbone")).lower() == settings["backbone"].split(":")[0].lower():
        del given["backbone"]  # the checkpoint has its full name, for example SqueezeNet1_1:torchvision
    allowed = [key for key in RECIPE if key not in ("method", "bit", "backbone", "feature_norm")] if evaluate \
        else MAY_CHANGE_ON_RESUME
    for key in given:
        if key not in allowed and given[key] != settings.get(key):
            raise InputError(f"{checkpoint} was made with {key} = {settings.get(key)}, not {given[key]}; "
                             f"leave --{key} out or use another checkpoint")
    if given.get("dataset", settings["dataset"]) == settings["dataset"]:
        return settings
    # these belong to the data set that the checkpoint was trained on
    forgotten = ("data_path", "list_dir", "topK", "split_seed", *SIZES)
    return {key: value for key, value in settings.items() if key not in forgotten}


def parse(argv, methods, recipe_dir="configs", base=None):
    """Resolve a command line into a recipe.

    Args:
        argv: command-line arguments.
        methods: dict method name -> its ``settings`` (name -> Setting).
        recipe_dir: where the methods' folders with their recipes lie (``recipe_files``).
        base: callable (path of a checkpoint) -> its recipe; used by --eval and --resume, where the
            model's settings come from the checkpoint.

    Returns:
        (recipe, run, source): the flat recipe dict, the run options, and where the recipe came from.

    Raises:
        InputError: unknown flag, key or value, each with the nearest valid one.
    """
    hyper = {name: setting for method in methods.values() for name, setting in method.items()}
    table = {**RECIPE, **RUN, **hyper}
    raw = _parse_flags(argv, table)
    given = {key: _convert(key, value, table[key], f"--{key}") for key, value in raw.items()}
    run = {key: given.pop(key, setting.default) for key, setting in RUN.items()}
    run = {key: RUN[key].default if value is None else value for key, value in run.items()}
    for key, of_a_run in (("pretrained", BEST), ("resume", LATEST)):
        run[key] = run[key] and find_checkpoint(run[key], of_a_run)

    if run["eval"] and not run["pretrained"]:
        raise InputError("--eval needs --pretrained CHECKPOINT (for example output/<run>/best.safetensors)")
    if run["resume"] and run["pretrained"]:
        raise InputError("--resume goes on with its own checkpoint; leave --pretrained (and --eval) out, or --resume")
    checkpoint = run["pretrained"] if run["eval"] else run["resume"]
    if checkpoint:
        settings, source = _of_checkpoint(base(checkpoint), checkpoint, given, run["eval"]), checkpoint
    else:
        source = run["config"] or _recipe_file(given, recipe_dir)
        settings = _read_yaml(source, {**RECIPE, **hyper}, given) if source else {}
        settings = {key: _convert(key, value, table[key], source) for key, value in settings.items()}

    recipe = {key: setting.default for key, setting in RECIPE.items()}
    chosen = given.get("method", settings.get("method", recipe["method"]))
    if chosen not in methods:
        raise InputError(f"unknown method {chosen!r}{nearest(chosen, methods)}; there are {', '.join(methods)}")
    for settings_of in (settings, given):
        for key in settings_of:
            if key not in RECIPE and key not in methods[chosen]:
                owners = ", ".join(name for name in methods if key in methods[name])
                raise InputError(f"{key} belongs to {owners}, not to {chosen}; leave it out")
    recipe.update({key: setting.default for key, setting in methods[chosen].items()})
    recipe.update({key: value for key, value in {**settings, **given}.items()
                   if value is not None or key in recipe and key in RECIPE and RECIPE[key].default is None})
    recipe["method"] = chosen
    if recipe["crop_size"] > recipe["resize_size"]:
        raise InputError(f"crop_size {recipe['crop_size']} is larger than resize_size {recipe['resize_size']}")
    if run["output_dir"] is None:
        dataset = os.path.basename(os.path.normpath(recipe["dataset"]))
        if run["eval"]:  # a folder of its own: the training's result.json and codes stay
            name = "eval" if recipe["dataset"] == settings["dataset"] else f"eval_{dataset}"
            run["output_dir"] = os.path.join(os.path.dirname(checkpoint), name)
        elif run["resume"]:
            run["output_dir"] = os.path.dirname(checkpoint) or "."
        else:
            run["output_dir"] = os.path.join("output", f"{chosen}_{dataset}_{recipe['bit']}")
    return recipe, run, source


def write_recipe(path, recipe):
    """Write a resolved recipe as YAML; ``--config`` reads it back."""
    write_text(path, yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
