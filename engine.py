"""Prepare, train, evaluate, write: the one road of both mains. Every rank of a job runs it.

``resolve``: command line -> recipe.
``prepare``: recipe -> data, method, evaluators, optimizer. What can be wrong is told here: nothing is written yet.
``train``: epochs (utils/training/trainer.py); afterwards the network is that of the best checkpoint.
``products``: result.json, code files, curves.
"""
import contextlib
import dataclasses
import functools
import os
import socket
import time
from typing import Any, Optional

import paddle

from models import METHODS, find_method
from models.build import build_method, load_weights, method_settings
from models.checkpoint import open_checkpoint, open_meta
from models.encoder import LiveEncoder
from models.method import DataFacts
from utils.config import data_request, parse, write_recipe
from utils.datasets import load_protocol, trained_on
from utils.errors import InputError
from utils.retrieval.code_store import code_name
from utils.text import Vectorizer, empty_rows
from utils.training import checkpoint, trainer
from utils.training.distributed import broadcast, is_main, world_size
from utils.training.evaluator import Evaluator, describe, save_curves, validation_splits
from utils.training.features import FeatureSource
from utils.training.logger import RunLog, fold, need_visualdl
from utils.training.result import write_result
from utils.training.run_folder import clean_folder, is_new, keep_old_run, own_folder
from utils.training.seeding import derive, seed_everything
from utils.transforms import recipe_spec

CONFIGS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "configs")


def resolve(argv, command="main_single_gpu.py"):
    """Command line of a main -> (recipe, run options, where the recipe came from)."""
    return parse(argv, METHODS, find_method, CONFIGS, command=command,
                 base=lambda path: open_meta(path)["recipe"])


def run(recipe, options, source):
    """Train or evaluate one resolved recipe in this process: one of several ranks, or the only one.

    Args:
        recipe, options, source: of ``resolve``.

    Raises:
        InputError: a user's mistake; nothing has been written then.
    """
    keep_old_run(options)
    if paddle.get_device().startswith("gpu"):
        paddle.set_flags({"FLAGS_cudnn_deterministic": True})
    with paddle.utils.unique_name.guard():  # optimizer state is stored under parameter names
        job = prepare(recipe, options)
        with own_folder(options["output_dir"]), contextlib.closing(open_log(job, source)) as log:
            report = job.evaluator() if options["eval"] else train(job, log)
            if report is not None:
                for text in describe(report):
                    log.line(*fold(f"{job.protocol.query.name}: {text}"))
                if is_main():
                    log.line(f"wrote {products(job, report, source)}")


# prepare --------------------------------------------------------------------------------
@dataclasses.dataclass
class Job:
    """What ``prepare`` made.

    Attributes:
        recipe, options: see utils/config.py; the recipe is complete.
        protocol: utils.datasets.base.Protocol.
        split: how its splits compare with those of the checkpoint (utils/datasets/trained_on.py); None without one.
        method: HashMethod.
        about: checkpoint.About.
        features: FeatureSource that all of them share.
        evaluator: of the query and database splits.
        chooser: of the splits that choose the best checkpoint; often the same object.
        training: trainer.Training; None where there is only an evaluation.
        notes: lines for the log.
    """

    recipe: dict
    options: dict
    protocol: Any
    split: Optional[dict]
    method: Any
    about: checkpoint.About
    features: FeatureSource
    evaluator: Evaluator
    chooser: Evaluator
    training: Optional[trainer.Training]
    notes: list


def prepare(recipe, options):
    """Read data and checkpoint, build the method. Writes nothing.

    Returns:
        Job.

    Raises:
        InputError: whatever is wrong with settings, files and data.
    """
    if options["visualdl"]:
        need_visualdl()
    # stored with the checkpoint: the same data from every folder
    recipe = {**recipe, **{key: os.path.abspath(recipe[key]) for key in ("data_path", "list_dir") if recipe[key]}}
    method_class = METHODS[recipe["method"]]
    start = options["pretrained"] or options["resume"]
    arrays, saved = open_checkpoint(start, lambda key: key == checkpoint.TRAINED_ON) if start else ({}, {})
    seen = arrays.get(checkpoint.TRAINED_ON)
    if options["resume"]:
        checkpoint.check_resumable(start, saved)  # before the data, which take longer to read
    protocol = load_data(recipe, method_class)
    if options["resume"]:
        checkpoint.check_same_data(start, saved, protocol)
    recipe = complete(recipe, protocol, method_class, saved)
    if not options["eval"]:
        check_views(recipe, protocol, method_class)
    notes = [f"note: {note}" for note in protocol.notes]
    vectorizer, note = text_features(protocol, recipe, method_class, saved.get("vectorizer"))
    notes += [note] if note else []
    split = trained_on.compare(saved.get("protocol"), seen, protocol)
    notes += [f"note: {note}" for note in [trained_on.note(split)] if note]
    if not options["eval"] and protocol.train.labels is not None and not learns_from_labels(recipe):
        notes.append(f"note: {recipe['method']} is unsupervised; the labels serve evaluation only")
    text = protocol.train.text_features if "text" in method_class.modalities else None
    facts = DataFacts(len(protocol.train), len(protocol.classes), None if text is None else text.shape[1])

    seed_everything(recipe["seed"], 0)
    own_weights = {"backbone_weights": None, "pretrained_backbone": False} if start else {}
    method = build_method({**recipe, **own_weights}, facts)
    recipe = {**recipe, "backbone": method.backbone.name}  # the name that builds this very network again
    if options["pretrained"]:
        load_weights(method, start)
        notes += [] if options["eval"] else starts_anew(method, start)
    features = FeatureSource(method, recipe, options, sum(map(len, protocol.splits)))
    meta = checkpoint.describe(recipe, dataclasses.asdict(facts), protocol, vectorizer)
    about = checkpoint.About(meta, recipe_spec(recipe), seen_items(options, protocol, seen))
    encoder = functools.partial(LiveEncoder, method, meta, say=lambda text: features.say(text))
    chooser = evaluator = Evaluator(encoder, protocol.query, protocol.database, recipe, options, features)
    training = None
    if not options["eval"]:
        if recipe["select"] == "val":
            splits = validation_splits(protocol.train, protocol.database, recipe["val_size"],
                                       derive(recipe["split_seed"], 3))
            chooser = Evaluator(encoder, *splits, recipe, options, features)
        training = trainer.start(method, protocol.train, recipe, options, features)
    return Job(recipe, options, protocol, split, method, about, features, evaluator, chooser, training, notes)


def load_data(recipe, method_class):
    """The protocol of a recipe, checked against what the method needs.

    Raises:
        InputError: unreadable data, or no labels for a method that learns from them.
    """
    protocol = load_protocol(recipe["dataset"], root=recipe["data_path"], seed=recipe["split_seed"],
                             list_dir=recipe["list_dir"], **data_request(recipe)["sizes"])
    if learns_from_labels(recipe) and protocol.train.labels is None:
        others = ", ".join(name for name, method in METHODS.items()
                           if method.kind == "unsupervised" and method.modalities == method_class.modalities)
        raise InputError(f"method {recipe['method']} needs labels, and the training split of {recipe['dataset']} has "
                         "none; put the pictures into one sub-folder a class, name the labels in a manifest, or choose "
                         f"an unsupervised --method ({others})" + "".join(f"; note: {note}" for note in protocol.notes))
    return protocol


def learns_from_labels(recipe):
    """True where the method of a recipe does so with the recipe's settings."""
    method_class = METHODS[recipe["method"]]
    return method_class.needs_labels(method_class.check_settings(method_settings(recipe)))


def seen_items(options, protocol, before):
    """What a checkpoint of this run says of the items that its weights were trained on; None = not known.

    Args:
        before: the same of the checkpoint that the run starts from, or None.
    """
    if options["eval"] or options["pretrained"] and before is None:
        return None
    return trained_on.remember(protocol.train.ids, before)


def starts_anew(method, checkpoint_name):
    """A note of what is not taken over from the checkpoint that training starts from: list of no or one line."""
    kept = [prefix for prefix in method.training_state if any(key.startswith(prefix) for key in method.state_dict())]
    if not kept:
        return []
    return [f"note: {checkpoint_name} is taken for its weights; what {method.name} keeps for training only "
            f"({', '.join(prefix.rstrip('.') for prefix in kept)}) starts anew, and so do optimizer and schedule "
            "(--resume goes on exactly)"]


def complete(recipe, protocol, method_class, saved):
    """The recipe with what only the data, or the checkpoint that training starts from, can tell.

    Args:
        saved: meta of that checkpoint, or an empty dict.

    Raises:
        InputError: settings that do not go together.
    """
    if protocol.train.features is not None:
        recipe = {**recipe, "backbone": f"precomputed:{protocol.train.features.shape[1]}", "freeze_backbone": True}
    elif recipe["backbone"].startswith("precomputed"):
        raise InputError(f"backbone {recipe['backbone']} takes features as they are, and dataset {recipe['dataset']} "
                         "has pictures; choose another --backbone")
    known = saved.get("recipe", {}).get("backbone", "")
    if known.split(":")[0].lower() == recipe["backbone"].lower():
        # SqueezeNet1_1 and SqueezeNet1_1:torchvision have the same weights, and are different networks
        recipe = {**recipe, "backbone": known}
    if recipe["cached_views"] and not (recipe["freeze_backbone"] and recipe["cached_views"] >= method_class.views):
        raise InputError(f"cached_views needs --freeze-backbone and at least the {method_class.views} views of "
                         f"{recipe['method']}; change it or set it to 0")
    return {**recipe, "topK": protocol.topk if recipe["topK"] is None else recipe["topK"]}


def check_views(recipe, protocol, method_class):
    """Refuse to train a method that compares several views of a picture where there is one.

    Raises:
        InputError: features in place of pictures, or views that are all the same.
    """
    if method_class.views == 1:
        return
    wants = f"method {recipe['method']} learns from {method_class.views} different views of each picture"
    if protocol.train.features is not None:
        others = [name for name, other in METHODS.items() if other.views == 1]
        raise InputError(f"{wants}, and dataset {recipe['dataset']} has features, of which there is one view; give the "
                         f"pictures, or choose another --method ({', '.join(others)})")
    if recipe["augment"] == "none" and not recipe["feature_dropout"]:  # dropout makes views of one picture
        raise InputError(f"{wants}, and with augment none they are the same; choose --augment simclr or crop_flip")


def text_features(protocol, recipe, method_class, saved):
    """Turn the texts of all splits into features, where the method reads texts and the data bring no features.

    Args:
        saved: plain values of the vectoriser of a checkpoint; None fits one on the training texts.

    Returns:
        (plain values of the vectoriser or None, a line for the log or None).

    Raises:
        InputError: the method reads texts and there are none.
    """
    if "text" not in method_class.modalities:
        return None, None
    if protocol.train.text_features is not None:
        # published columns with known words: queries may be typed all the same
        return (Vectorizer("bow", protocol.vocabulary).to_dict() if protocol.vocabulary else None), None
    if protocol.train.texts is None:
        raise InputError(f"method {recipe['method']} needs texts, and dataset {recipe['dataset']} has none")
    vectorizer = Vectorizer.from_dict(saved) if saved else \
        Vectorizer.fit(protocol.train.texts, recipe["text_kind"], recipe["text_limit"])
    empty = 0
    for split in protocol.splits:
        split.text_features = vectorizer.transform(split.texts)
        empty += empty_rows(split.text_features)
    return vectorizer.to_dict(), f"texts: {len(vectorizer)} words, {empty} texts without a known word"


# train ----------------------------------------------------------------------------------
def open_log(job, source):
    """The log of the run folder, with its first lines; from here on files are written."""
    recipe, options, splits = job.recipe, job.options, job.protocol
    if is_main():
        keep_old_run(options)  # it may have ended since the first look
        clean_folder(options["output_dir"], is_new(options))
    log = RunLog(options["output_dir"], append=not is_new(options),
                 visualdl=options["visualdl"] and not options["eval"])
    job.features.say = log.line
    start = options["pretrained"] or options["resume"]
    log.line(f"started {time.strftime('%Y-%m-%d %H:%M:%S')}, process {os.getpid()} on {socket.gethostname()}")
    log.line(f"recipe: {source or 'defaults'}; method {recipe['method']}, {recipe['bit']} bits, dataset "
             f"{recipe['dataset']}: {len(splits.train)} train, {len(splits.query)} query, {len(splits.database)} "
             f"database; device {paddle.get_device()} x {world_size()}, seed {recipe['seed']}"
             + (f"; weights of {start}" if start else ""))
    for note in job.notes:
        log.line(note)
    return log


def train(job, log):
    """Train to the end, or to ``stop_epoch``.

    Returns:
        The report of the best checkpoint, whose weights the method has then: the one that is exported and deployed.
        None where training stopped before its last epoch.
    """
    recipe, folder, state = job.recipe, job.options["output_dir"], job.training.state
    for line in job.method.describe():
        log.line(line)
    if is_main():
        write_recipe(os.path.join(folder, "recipe.yaml"), recipe)
    report = trainer.fit(job.training, job.chooser, log, job.about)
    if state["epoch"] < recipe["epoch"]:
        log.line(f"stopped after epoch {state['epoch']} of {recipe['epoch']} as --stop-epoch asks; go on with "
                 f"--resume {folder}/{checkpoint.LATEST}")
        return None
    if state["best_epoch"] != state["epoch"]:
        if is_main():  # the other ranks may be on machines that do not see the file
            load_weights(job.method, os.path.join(folder, checkpoint.BEST))
        broadcast(job.method.state_dict().values())
        report = None
    if report is None or job.chooser is not job.evaluator:
        report = job.evaluator()
    how = "the last, for there are no labels to choose by" if state["best_score"] is None else \
        f"selected by the {job.chooser.query.name} set"
    log.line(f"result of the best checkpoint: epoch {state['best_epoch']} of {state['epoch']}, {how}")
    return report


# products -------------------------------------------------------------------------------
def products(job, report, source):
    """Write result.json, the database's code files and, if asked for, the curves; returns the path of the first."""
    recipe, folder = job.recipe, job.options["output_dir"]
    state = job.training.state if job.training else None
    name = os.path.join(folder, "result.json")
    write_result(name, recipe, job.protocol.record(), report, report["database"]["image"].fingerprint,
                 paddle.get_device(), state, source, job.split)
    for modality, codefile in report["database"].items():
        codefile.save(os.path.join(folder, code_name(recipe["method"], recipe["bit"], modality)))
    title = f"{recipe['method']}, {recipe['bit']} bits, {recipe['dataset']}"
    if job.options["curves"] and report["metrics"]:
        save_curves(report, folder, title)
    if job.options["curves"] and state:
        from utils.plots import save_history  # matplotlib is slow to import
        save_history(os.path.join(folder, "training_curve"), state["history"], title)
    return name
