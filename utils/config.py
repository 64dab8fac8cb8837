"""Recipes: one flat table of settings, read from defaults < method < YAML < flags; unknown names are errors."""
import glob
import os
import re

import yaml

from utils import augmentation
from utils.datasets import absolute_name, recognise
from utils.datasets.labels import FORMS
from utils.errors import InputError
from utils.files import write_text
from utils.flags import Flags, command_line, note, show_help
from utils.peer_flags import DATA_SETS
from utils.plain_yaml import read_yaml
from utils.schema import anything, check, each, either, mapping, plain_table, table, text, whole
from utils.settings import ALL, Setting, nearest
from utils.text import MOST_WORDS

MAX_BITS = 1024
DESCRIPTION = "Train and evaluate a hashing method. Defaults < recipe file < flags."
LAST_LINES = (
    "--NAME false is --no-NAME; dashes, underscores and case do not matter; -o KEY=VALUE sets any of these. --help "
    "--method M shows the settings of M. Flags of paddle_hashnet, DHN_PyTorch and others: docs/flags.md.",)


def _device(value):
    text = str(value).lower()
    text = {"true": "gpu", "false": "cpu"}.get(text, f"gpu:{text}" if text.isdigit() else text)
    if not re.fullmatch(r"auto|cpu|gpu(:\d+)?", text):
        raise ValueError("auto, cpu, gpu, gpu:N; or true, false, N")
    return text


DATA = {
    "dataset": Setting("shapes", "name (python -m utils.datasets list), folder of pictures, manifest (.csv .jsonl), "
                       "image list (.txt), shards (.tar), features (.npz .mat)",
                       spelled=DATA_SETS),
    "data_path": Setting(None, "folder of the images or of the official archive", shown="DIR"),
    "list_dir": Setting(None, "folder with train/query(test)/database lists, instead of data/<dataset>", shown="DIR"),
    **{key: Setting(None, "of the splits, where free", kind=int, low=1)
       for key in ("num_train", "num_query", "num_database", "train_per_class", "query_per_class")},
    "skip_broken": Setting(None, "leave unreadable ones out", kind=bool),
    "split_seed": Setting(0, "seed of the split", low=0),
    "labels": Setting("auto", "of your own: class numbers or 0/1 columns", choices=FORMS),
    "resize_size": Setting(256, "shorter side before crop", low=8),
    "crop_size": Setting(224, "input of the network", low=8),
    "decode": Setting("full", "reduced: large JPEGs at a smaller size, other codes", choices=("full", "reduced")),
    **augmentation.SETTINGS,
    "text_kind": Setting("tfidf", "of texts", choices=("tfidf", "bow")),
    "text_limit": Setting(2000, "most frequent words kept", low=1, high=MOST_WORDS),
}

MODEL = {
    "method": Setting("hashnet", "hashing method (python -m models), or the file of your own: path/to/six.py"),
    "bit": Setting(64, "code length", low=1, high=MAX_BITS),
    "backbone": Setting("AlexNet", "PaddleClas network"),
    "backbone_weights": Setting(None, "weights: .pdparams, .pth, .safetensors or .npz", shown="FILE"),
    "pretrained_backbone": Setting(True, "ImageNet weights, downloaded unless --backbone-weights; --no-pretrained: "
                                   "random", off=("no_pretrained",)),
    "freeze_backbone": Setting(False, "train the head only"),
    "cache_features": Setting(True, "of a frozen backbone"),
    "feature_dropout": Setting(False, "leave a frozen network's dropout on in training"),
    "precision": Setting("fp32", "of frozen features; auto: bf16 where a sample allows it",
                         choices=("fp32", "bf16", "auto")),
    "cached_views": Setting(0, "frozen backbone: augmented views drawn of each image, once; 0 = anew each epoch",
                            low=0),
    "feature_norm": Setting("none", "of features; fixed", choices=("none", "standardize", "log1p_standardize")),
}

TRAINING = {
    "batch_size": Setting(64, "images a process and step", low=1),
    "epoch": Setting(150, "passes over the images", low=1),
    "optimizer": Setting("momentum", "the optimizer", choices=("momentum", "adam", "adamw", "rmsprop", "sgd"),
                         spelled={"SGD": "momentum"}),
    "momentum": Setting(0.9, "of optimizer momentum", low=0),
    "weight_decay": Setting(5e-4, "L2; decoupled in adamw", low=0),
    "learning_rate": Setting(0.001, "as used: never scaled by the number of processes", low=0),
    "lr_schedule": Setting("step", "of the rate", choices=("constant", "step", "cosine")),
    "lr_update": Setting("epoch", "when it moves", choices=("epoch", "step")),
    "warmup_epochs": Setting(0.0, "the rate grows from 0", low=0),
    "lr_step": Setting(50, "of lr_schedule step", low=1),
    "lr_gamma": Setting(0.5, "factor of a step", low=0),
    "lr_min_ratio": Setting(0.0, "end of schedule cosine", low=0),
    "clip_norm": Setting(0.0, "longest gradient, 0 = any", low=0),
    "accumulate": Setting(1, "batches an optimizer step", low=1),
    "head_lr_mult": Setting(10.0, "of rates above backbone", low=0),
    "amp": Setting("none", "backbone in 16 bits (GPU); the losses stay in float32", choices=("none", "bf16", "fp16")),
    "drop_last": Setting(False, "no incomplete batch"),
    "seed": Setting(0, "weights, order, views", low=0),
}

EVALUATION = {
    "eval_batch_size": Setting(64, "images a process", low=1),
    "eval_epoch": Setting(10, "epochs between evaluations", low=1),
    "topK": Setting(None, "K of mAP@K, 0 = all; default: the data set's", kind=int, low=0, spelled=ALL),
    "ap": Setting("hits", "denominator of AP, utils/retrieval/metrics.py", choices=("hits", "min", "first_hits")),
    "select": Setting("query", "best by", choices=("query", "val")),
    "val_size": Setting(1000, "queries of select val", low=1),
}

# How to run; does not change the result.
RUN = {
    "config": Setting(None, "recipe; default that for the data set in configs/<method>", shown="FILE"),
    "eval": Setting(False, "evaluate --pretrained, with its own recipe, and stop"),
    "pretrained": Setting(None, "checkpoint of a whole model: to evaluate, or to start training from", shown="FILE"),
    "resume": Setting(None, "checkpoint to continue exactly, with its own recipe", shown="FILE"),
    "output_dir": Setting(None, "run folder; default output/<method>_<dataset>_<bit>[_seed<seed>], or the checkpoint's",
                          shown="DIR"),
    "stop_epoch": Setting(None, "stop after this many epochs; the schedule ends at --epoch, and --resume goes on",
                          kind=int, low=1),
    "overwrite": Setting(False, "a folder that holds a run"),
    "device": Setting("auto", "auto, cpu, gpu or gpu:N", kind=_device),
    "num_workers": Setting(2, "loader threads", low=0),
    "log_step": Setting(10, "steps between log lines", low=1),
    "curves": Setting(False, "PR, P@N, training curves"),
    "visualdl": Setting(False, "scalars in <output_dir>/vdl (requirements-visualdl.txt)"),
    "feature_cache": Setting("auto", "folder of kept frozen features; auto: feature_store beside the run; none"),
    "nprocs": Setting(None, "ranks; default all GPUs, or 2", kind=int, low=1),
    "port": Setting(None, "first port of the ranks", kind=int, low=1, high=65535),
}

RECIPE = {**DATA, **MODEL, **TRAINING, **EVALUATION}  # what decides the result; written beside every result
GROUPS = {"data": DATA, "model": MODEL, "training": TRAINING, "evaluation": EVALUATION, "run": RUN}
OWN_FILE = ("method_file", "method_sha256")  # a recipe of a method from outside says where and what it was
RECIPE_LINES = ("datasets", "by_bit", *OWN_FILE)  # lines of a recipe file that are no settings
MAY_CHANGE_ON_RESUME = ("epoch", "eval_epoch", "eval_batch_size", "data_path", "list_dir", "backbone_weights")
# a recipe file, before its values are compared with the settings
_FILE = table({}, {"datasets": each(text(), 1), "by_bit": either(mapping(plain_table, whole(1, MAX_BITS))),
                   "method": either(text())}, others=anything)
SIZES = ("num_train", "num_query", "num_database", "train_per_class", "query_per_class", "skip_broken", "labels")


def data_request(recipe):
    """What names the data of a recipe, as plain values: ``dataset``, ``split_seed``, ``sizes`` (those that are set)."""
    return {"dataset": recipe["dataset"], "split_seed": recipe["split_seed"],
            "sizes": {key: recipe[key] for key in SIZES if recipe.get(key) and recipe[key] != RECIPE[key].default}}


def _convert(key, value, setting, where):
    if value is None:
        return None
    try:
        return setting.convert(value)
    except ValueError as error:
        raise InputError(f"{where}: {key} = {value!r}, expected {error}") from None


def checked_recipe(recipe, where):
    """A recipe that was stored in the file ``where``: the values of the keys that all methods share are what they must
    be, and stay what they are. Those of the method are checked where it is known.

    Raises:
        InputError: names file, key and what is expected.
    """
    return {key: _convert(key, value, RECIPE[key], where) if key in RECIPE else value for key, value in recipe.items()}


def _load_yaml(path):
    """The lines of a recipe file as a dict, not looked at further than ``datasets``."""
    try:
        settings = read_yaml(path)
    except OSError as error:
        raise InputError(f"cannot read recipe {path}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None
    settings = {} if settings is None else settings
    check(settings, _FILE, path)
    return settings


def _read_yaml(path, given):
    """Recipe file -> dict of raw settings; ``by_bit`` and ``datasets`` resolved with what the flags have given."""
    settings = _load_yaml(path)
    served = settings.pop("datasets", None)
    if served and "dataset" not in settings and "dataset" not in given:
        raise InputError(f"{path} serves several data sets; choose with --dataset one of {', '.join(served)}")
    by_bit = settings.pop("by_bit", None) or {}
    bit = given.get("bit")
    if bit is None:
        bit = _convert("bit", settings.get("bit", RECIPE["bit"].default), RECIPE["bit"], path)
    settings.update(by_bit.get(bit, {}))
    return {key: value for key, value in settings.items() if key not in OWN_FILE}


def recipe_files(folder):
    """The recipes in a method's folder.

    Returns:
        dict name -> path: a file's name without its ending, and every data set of a line ``datasets: [a, b]``. (Its
        line ``dataset`` is the one that is meant where no flag names any.)

    Raises:
        InputError: a file that cannot be read; two files for one data set.
    """
    paths = sorted(glob.glob(os.path.join(glob.escape(folder), "*.yaml")))
    found = {os.path.splitext(os.path.basename(path))[0]: path for path in paths}
    for path in paths:
        for dataset in _load_yaml(path).get("datasets", ()):
            if found.get(dataset, path) != path:
                raise InputError(f"{found[dataset]} and {path} are both for dataset {dataset}; keep one of them")
            found[dataset] = path
    return found


def _recipe_file(dataset, folders):
    """The recipe for the data set in the first folder that has one, or has a default recipe; None where none has."""
    for folder in folders:
        own = os.path.join(folder, f"{dataset}.yaml")
        # a data set that is a folder or a file has no recipe of its own
        name = dataset if os.path.basename(dataset) == dataset else "default"
        if name == dataset and os.path.isfile(own):
            return own
        recipes = recipe_files(folder)
        if name in recipes or "default" in recipes:
            return recipes.get(name, recipes.get("default"))
    return None


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


def parse(argv, methods, find_method, recipe_dir="configs", base=None, command="main_single_gpu.py"):
    """Resolve a command line into a recipe. ``--help`` prints the flags and ends the program.

    The method is found first; then its settings are flags, and no other method's.

    Args:
        argv: command-line arguments.
        methods: dict method name -> class, to say whose flag it is that does not belong here.
        find_method: models.find_method.
        recipe_dir: where the methods' folders with their recipes lie (``recipe_files``); those of a method from
            outside may lie in ``configs`` beside its file.
        base: callable (path of a checkpoint) -> its recipe; used by --eval and --resume, where the
            model's settings come from the checkpoint.
        command: file name of the command, for ``--help``.

    Returns:
        (recipe, run, source): the flat recipe dict, the run options, and where the recipe came from. ``run["typed"]``
        is how each given setting was typed.

    Raises:
        InputError: unknown flag, key or value, each with the nearest valid one.
    """
    flags = Flags(command, GROUPS)
    given = flags.read(command_line(argv))
    run = {key: given.values.pop(key, None) for key in RUN}
    run = {key: RUN[key].default if value is None else value for key, value in run.items()}
    checkpoint = None if given.help else _checkpoint(run)
    made = base(checkpoint) if checkpoint else {}
    method = _find_method(given.values, made, checkpoint, run["config"], find_method)
    own_flags = Flags(command, {f"settings of {method.name}": method.settings}, method.name)
    own = own_flags.read(given.rest)
    if given.help:
        show_help(command, DESCRIPTION, {**flags.groups, **own_flags.groups}, last=LAST_LINES)
    _refuse_flags_of_others(own.rest, command, method, methods)
    flags.need_all_known(own.rest, own_flags.names)

    values = {**given.values, **own.values}
    if "method" in values:
        values["method"] = method.name
    if not checkpoint:
        values.update(_recognised(values, given.typed, run["config"]))
    if values.get("dataset"):
        values["dataset"] = absolute_name(values["dataset"])  # the same data from every folder
    settings, source = _settings(values, run, made, checkpoint, method, recipe_dir, methods)
    recipe = {key: setting.default for table in (RECIPE, method.settings) for key, setting in table.items()}
    recipe.update({key: value for key, value in {**settings, **values}.items()
                   if value is not None or key in RECIPE and RECIPE[key].default is None})
    recipe["method"] = method.name
    if method.defined_in:
        recipe.update(zip(OWN_FILE, (method.defined_in, method.source_sha256)))
    if recipe["crop_size"] > recipe["resize_size"]:
        raise InputError(f"crop_size {recipe['crop_size']} is larger than resize_size {recipe['resize_size']}")
    run["output_dir"] = run["output_dir"] or _output_dir(recipe, run, settings.get("dataset"))
    run["typed"] = {**given.typed, **own.typed}
    return recipe, run, source


def _checkpoint(run):
    """The checkpoint whose recipe counts, or None; run folders and names without ending become files in ``run``.

    Raises:
        InputError: flags that exclude each other, a checkpoint that is not there.
    """
    # inside: deployment checks recipes too, and is copied without utils/training
    from utils.training.checkpoint import BEST, LATEST, find_checkpoint
    for key, of_a_run in (("pretrained", BEST), ("resume", LATEST)):
        run[key] = run[key] and find_checkpoint(run[key], of_a_run)
    if run["eval"] and not run["pretrained"]:
        raise InputError("--eval needs --pretrained CHECKPOINT (for example output/<run>/best.safetensors)")
    if run["resume"] and run["pretrained"]:
        raise InputError("--resume goes on with its own checkpoint; leave --pretrained (and --eval) out, or --resume")
    return run["pretrained"] if run["eval"] else run["resume"]


def _find_method(given, made, checkpoint, config, find_method):
    """The class of the method: from the flags, else of the checkpoint, else of the recipe file, else the default.

    Only the user names a file to be run: where a checkpoint or a recipe names a method, it must be at hand.
    """
    if given.get("method"):
        method = find_method(given["method"])
    else:
        where, recorded = (checkpoint, made) if checkpoint else (config, _load_yaml(config) if config else {})
        method = find_method(recorded.get("method", RECIPE["method"].default), where, recorded.get("method_file"))
    if method.defined_in and made.get("method_sha256") not in (None, method.source_sha256):
        note(f"{method.defined_in} is another file than the one that {checkpoint} was made with")
    return method


def _recognised(values, typed, config):
    """dict with the ``dataset`` that a ``--data-path`` without one holds; empty where nothing is to be recognised.

    Raises:
        InputError: it cannot be told. Nothing is drawn into a folder that may be the user's.
    """
    if not values.get("data_path") or values.get("dataset") or config and "dataset" in _load_yaml(config):
        return {}
    found = recognise(values["data_path"])
    if found is None:
        what = "no data set is recognised there" if os.path.exists(values["data_path"]) else "it does not exist"
        raise InputError(f"{typed['data_path']}: {what}; name one with --dataset (python -m utils.datasets list)")
    if found != RECIPE["dataset"].default:
        note(f"{typed['data_path']} holds dataset {found}; --dataset names another")
    return {"dataset": found}


def _settings(given, run, made, checkpoint, method, recipe_dir, methods):
    """(settings of the checkpoint or the recipe file, where they came from)."""
    if checkpoint:
        made = {key: value for key, value in made.items() if key not in OWN_FILE}
        settings, source = _of_checkpoint(made, checkpoint, given, run["eval"]), checkpoint
    else:
        folders = [os.path.join(folder, method.name) for folder in (_beside(method), recipe_dir) if folder]
        source = run["config"] or _recipe_file(given.get("dataset") or RECIPE["dataset"].default, folders)
        settings = _read_yaml(source, given) if source else {}
    table = {**RECIPE, **method.settings}
    for key in settings:
        if key not in table:
            owners = [name for name, other in methods.items() if key in other.settings]
            raise InputError(f"{source}: {key} belongs to {', '.join(owners)}, not to {method.name}; leave it out"
                             if owners else f"{source}: unknown key {key}{nearest(key, table)}")
    return {key: _convert(key, value, table[key], source) for key, value in settings.items()}, source


def _beside(method):
    return method.defined_in and os.path.join(os.path.dirname(method.defined_in), "configs")


def _refuse_flags_of_others(line, command, method, methods):
    """Raises InputError where the first unknown word of a Line is a flag of other methods; names them."""
    for word in line.words[:1]:
        flag = word.split("=")[0]
        owners = [name for name, other in methods.items() if flag in Flags(command, {"": other.settings}, name).names]
        if owners:
            raise InputError(f"{line.typed.get(flag, flag)} belongs to {', '.join(owners)}, not to {method.name}; "
                             "leave it out or choose another --method")


def _output_dir(recipe, run, trained_on):
    """The run folder where none is given; ``trained_on``: the data set of the checkpoint."""
    dataset = os.path.basename(os.path.normpath(recipe["dataset"]))
    if run["eval"]:  # a folder of its own: the training's result.json and codes stay
        name = "eval" if recipe["dataset"] == trained_on else f"eval_{dataset}"
        return os.path.join(os.path.dirname(run["pretrained"]), name)
    if run["resume"]:
        return os.path.dirname(run["resume"]) or "."
    seed = f"_seed{recipe['seed']}" if recipe["seed"] else ""
    return os.path.join("output", f"{recipe['method']}_{dataset}_{recipe['bit']}{seed}")


def write_recipe(path, recipe):
    """Write a resolved recipe as YAML; ``--config`` reads it back."""
    write_text(path, yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
