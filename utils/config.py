"""Recipes: one flat table of settings, read from defaults < method < YAML < flags; unknown names are errors."""
import argparse
import difflib
import math
import os
import re

import yaml

from utils.errors import InputError
from utils.files import write_text

MAX_BITS = 1024


def boolean(value):
    """``true``/``false`` in any case, also 1/0, yes/no, on/off. Raises ValueError for anything else."""
    text = str(value).lower()
    if text in ("true", "1", "yes", "on"):
        return True
    if text in ("false", "0", "no", "off"):
        return False
    raise ValueError("true or false")


def _whole(low, high=None):
    def convert(value):
        number = int(str(value))
        if number < low or (high is not None and number > high):
            raise ValueError(f"a whole number from {low}" + (f" to {high}" if high is not None else " up"))
        return number
    return convert


def _real(low=None):
    def convert(value):
        number = float(value)
        if not math.isfinite(number) or (low is not None and number < low):
            raise ValueError("a finite number" + (f" of at least {low}" if low is not None else ""))
        return number
    return convert


def _choice(*names):
    def convert(value):
        if str(value) in names:
            return str(value)
        raise ValueError("one of " + ", ".join(names) + nearest(value, names))
    return convert


def _device(value):
    if not re.fullmatch(r"auto|cpu|gpu(:\d+)?", str(value)):
        raise ValueError("auto, cpu, gpu or gpu:N")
    return str(value)


# name: (default, converter, help). What decides the result; written beside every result.
RECIPE = {
    "method": ("hashnet", str, "hashing method; `python -m models` lists them"),
    "dataset": ("shapes", str, "protocol name (`python -m utils.datasets list`), or your own pictures: a folder, a "
                "manifest (.csv, .jsonl) or an image list (.txt); data/README.md"),
    "data_path": (None, str, "folder of the images or of the official archive"),
    "list_dir": (None, str, "folder with train/query(test)/database lists, instead of data/<dataset>"),
    "num_train": (None, _whole(1), "training images, where the protocol lets one choose"),
    "num_query": (None, _whole(1), "query images, where the protocol lets one choose"),
    "num_database": (None, _whole(1), "database images, where the protocol lets one choose"),
    "train_per_class": (None, _whole(1), "training images a class, where the protocol lets one choose"),
    "query_per_class": (None, _whole(1), "query images a class, where the protocol lets one choose"),
    "skip_broken": (None, boolean, "your own pictures: leave out those that cannot be read, with a count"),
    "split_seed": (0, _whole(0), "seed of the split"),
    "bit": (64, _whole(1, MAX_BITS), "code length in bits"),
    "backbone": ("AlexNet", str, "PaddleClas network"),
    "backbone_weights": (None, str, "backbone weights: .pdparams, .pth, .safetensors or .npz"),
    "pretrained_backbone": (True, boolean, "start from ImageNet weights (downloaded unless --backbone-weights)"),
    "freeze_backbone": (False, boolean, "train the head only"),
    "feature_norm": ("none", _choice("none", "standardize", "log1p_standardize"),
                     "fixed normalisation of frozen backbone features, fitted on the training split"),
    "cache_features": (True, boolean, "frozen backbone: compute features of un-augmented splits once"),
    "cached_views": (0, _whole(0), "frozen backbone: draw this many augmented views of each training image once, from "
                     "--split-seed, and let the epochs choose among them; 0 = augment anew in every epoch"),
    "resize_size": (256, _whole(8), "shorter side before the crop, pixels"),
    "crop_size": (224, _whole(8), "input size of the network, pixels"),
    "decode": ("full", _choice("full", "reduced"), "JPEG decoding; reduced: large pictures straight at a smaller size "
               "(faster, other pixels: it is part of the model's fingerprint)"),
    "augment": ("crop_flip", _choice("none", "crop_flip", "simclr"), "training augmentation"),
    "text_kind": ("tfidf", _choice("tfidf", "bow"), "text features of raw texts: TF-IDF or bag of words"),
    "text_limit": (2000, _whole(1), "words kept for the text features, the most frequent first"),
    "batch_size": (64, _whole(1), "images per process and step"),
    "eval_batch_size": (64, _whole(1), "images per process when encoding"),
    "epoch": (150, _whole(1), "passes over the training split"),
    "eval_epoch": (10, _whole(1), "evaluate every so many epochs, and after the last"),
    "optimizer": ("momentum", _choice("momentum", "adam", "adamw", "rmsprop", "sgd"), "optimizer"),
    "learning_rate": (0.001, _real(0.0), "learning rate as used (never scaled by the number of processes)"),
    "momentum": (0.9, _real(0.0), "momentum of optimizer=momentum"),
    "weight_decay": (5e-4, _real(0.0), "L2 penalty (decoupled for adamw)"),
    "lr_schedule": ("step", _choice("constant", "step", "cosine"), "per epoch"),
    "lr_step": (50, _whole(1), "epochs between two steps of lr_schedule=step"),
    "lr_gamma": (0.5, _real(0.0), "factor of a step"),
    "lr_min_ratio": (0.0, _real(0.0), "lr_schedule=cosine ends at learning_rate times this"),
    "head_lr_mult": (10.0, _real(0.0), "learning-rate multiplier of the layers above the backbone"),
    "amp": ("none", _choice("none", "bf16", "fp16"), "train with the backbone in 16 bits (GPU); the losses stay in float32"),
    "drop_last": (False, boolean, "drop the last incomplete batch of an epoch"),
    "seed": (0, _whole(0), "seed of weights, order and augmentation"),
    "topK": (None, _whole(0), "K of mAP@K, 0 = all; the protocol's by default"),
    "ap": ("hits", _choice("hits", "min", "first_hits"), "denominator of AP: see utils/metrics.py"),
    "select": ("query", _choice("query", "val"), "what chooses the best checkpoint; val = drawn from the database"),
    "val_size": (1000, _whole(1), "images of the validation query set of --select val"),
}

# name: (default, converter, help). How to run; does not change the result.
RUN = {
    "config": (None, str, "recipe file; default configs/<method>/<dataset>.yaml. --resume and --eval take the "
                          "checkpoint's recipe instead"),
    "eval": (False, boolean, "evaluate --pretrained and stop"),
    "pretrained": (None, str, "checkpoint of a whole model: to evaluate, or to start training from"),
    "resume": (None, str, "checkpoint to continue exactly"),
    "output_dir": (None, str, "run folder; default output/<method>_<dataset>_<bit>, with --resume and --eval that of "
                              "the checkpoint"),
    "stop_epoch": (None, _whole(1), "stop after this many epochs; the schedule ends at --epoch, and --resume goes on"),
    "overwrite": (False, boolean, "start anew in a folder that holds a run"),
    "device": ("auto", _device, "auto, cpu, gpu or gpu:N"),
    "num_workers": (0, _whole(0), "loader processes per process; never changes the data"),
    "log_step": (10, _whole(1), "steps between two log lines"),
    "curves": (False, boolean, "write PR, P@N and training curves as CSV and PNG at the last evaluation"),
    "visualdl": (True, boolean, "write VisualDL scalars to <output_dir>/vdl"),
    "feature_cache": (None, str, "folder that keeps features of a frozen backbone between runs"),
    "nprocs": (None, _whole(1), "main_multi_gpu.py: processes; default all GPUs, or 2 on a CPU"),
    "port": (None, _whole(1, 65535), "main_multi_gpu.py: first port for the ranks; default any free one"),
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


def nearest(name, names):
    """`` (did you mean X?)`` for the nearest valid name, or an empty string."""
    near = difflib.get_close_matches(str(name), list(names), 1, 0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def _convert(key, value, entry, where):
    default, convert, _ = entry
    if value is None or default is None and str(value).lower() in ("null", "none", ""):
        return None  # "none" is a value of its own where the default is one
    try:
        return convert(value)
    except (ValueError, TypeError) as error:
        expected = str(error) if "invalid literal" not in str(error) and "could not" not in str(error) else \
            ("a whole number" if "int()" in str(error) else "a number")
        raise InputError(f"{where}: {key} = {value!r}, expected {expected}") from None


def _hyper_converters(methods):
    table = {}
    for hyper in methods.values():
        for key, (default, text) in hyper.items():
            kind = {bool: boolean, int: _whole(0), float: _real(), str: str}[type(default)]
            table[key] = (default, kind, text)
    return table


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise InputError(message + "; --help lists the flags")


def _parse_flags(argv, table):
    """Command line -> dict of the given settings, raw strings (dashes and underscores are the same)."""
    parser = _Parser(allow_abbrev=False, argument_default=argparse.SUPPRESS)
    known = {**{key: key for key in table}, **ALIASES}
    for name, key in known.items():
        convert = table[key][1]
        more = {"nargs": "?", "const": "true"} if convert is boolean else {}
        names = list(dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name}"]))
        parser.add_argument(*names, dest=key, metavar="V", help=table[key][2].replace("%", "%%"), **more)
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


def _read_yaml(path, table, bit):
    try:
        with open(path, encoding="utf-8") as file:
            settings = yaml.safe_load(file) or {}
    except OSError as error:
        raise InputError(f"cannot read recipe {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise InputError(f"{path}: expected `key: value` lines")
    by_bit = settings.pop("by_bit", None) or {}
    if not isinstance(by_bit, dict) or not all(isinstance(more, dict) for more in by_bit.values()):
        raise InputError(f"{path}: by_bit: expected `length: {{key: value}}` lines")
    settings.update(by_bit.get(bit if bit is not None else settings.get("bit", RECIPE["bit"][0]), {}))
    for key in settings:
        if key not in table:
            raise InputError(f"{path}: unknown key {key}{nearest(key, table)}")
    return settings


def _recipe_file(given, recipe_dir):
    """The recipe of the method for the data set, or its default recipe, or None."""
    dataset = given.get("dataset", RECIPE["dataset"][0])
    # a data set that is a folder or a file has no recipe of its own
    stems = ["default"] if os.path.basename(dataset) != dataset else [dataset, "default"]
    found = [os.path.join(recipe_dir, given.get("method", RECIPE["method"][0]), f"{stem}.yaml") for stem in stems]
    return next((path for path in found if os.path.isfile(path)), None)


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
        methods: dict method name -> its ``hyperparameters`` (name -> (default, help)).
        recipe_dir: where ``<method>/<dataset>.yaml`` lies.
        base: callable (path of a checkpoint) -> its recipe; used by --eval and --resume, where the
            model's settings come from the checkpoint.

    Returns:
        (recipe, run, source): the flat recipe dict, the run options, and where the recipe came from.

    Raises:
        InputError: unknown flag, key or value, each with the nearest valid one.
    """
    hyper = _hyper_converters(methods)
    table = {**RECIPE, **RUN, **hyper}
    raw = _parse_flags(argv, table)
    given = {key: _convert(key, value, table[key], f"--{key}") for key, value in raw.items()}
    run = {key: given.pop(key, default) for key, (default, _, _) in RUN.items()}
    run = {key: RUN[key][0] if value is None else value for key, value in run.items()}

    if run["eval"] and not run["pretrained"]:
        raise InputError("--eval needs --pretrained CHECKPOINT (for example output/<run>/best.safetensors)")
    if run["resume"] and run["pretrained"]:
        raise InputError("--resume goes on with its own checkpoint; leave --pretrained (and --eval) out, or --resume")
    checkpoint = run["pretrained"] if run["eval"] else run["resume"]
    if checkpoint:
        settings, source = _of_checkpoint(base(checkpoint), checkpoint, given, run["eval"]), checkpoint
    else:
        source = run["config"] or _recipe_file(given, recipe_dir)
        settings = _read_yaml(source, {**RECIPE, **hyper}, given.get("bit")) if source else {}
        settings = {key: _convert(key, value, table[key], source) for key, value in settings.items()}

    recipe = {key: default for key, (default, _, _) in RECIPE.items()}
    chosen = given.get("method", settings.get("method", recipe["method"]))
    if chosen not in methods:
        raise InputError(f"unknown method {chosen!r}{nearest(chosen, methods)}; there are {', '.join(methods)}")
    for settings_of in (settings, given):
        for key in settings_of:
            if key not in RECIPE and key not in methods[chosen]:
                owners = ", ".join(name for name in methods if key in methods[name])
                raise InputError(f"{key} belongs to {owners}, not to {chosen}; leave it out")
    recipe.update({key: default for key, (default, _) in methods[chosen].items()})
    recipe.update({key: value for key, value in {**settings, **given}.items()
                   if value is not None or key in recipe and RECIPE.get(key, (0,))[0] is None})
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
