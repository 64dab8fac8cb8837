"""Train or evaluate a method in one process: a GPU if there is one, else the CPU.

python main_single_gpu.py --method hashnet --dataset cifar10-1 --data-path DIR --bit 48
python main_single_gpu.py --eval --pretrained output/hashnet_cifar10-1_48/best.safetensors
"""
import os
import shutil

from utils.cpu import threads
from utils.errors import InputError, run_main


def choose_device(name):
    """Select ``auto`` (GPU if there is one), ``cpu``, ``gpu`` or ``gpu:N``."""
    import paddle
    has_gpu = paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if name == "auto":
        name = "gpu" if has_gpu else "cpu"
    if name.startswith("gpu") and not has_gpu:
        raise InputError(f"--device {name}: this machine or this Paddle has no GPU; use --device cpu")
    try:
        paddle.set_device(name)
    except (ValueError, OSError):
        raise InputError(f"--device {name}: this machine has no such GPU; "
                         f"there are {paddle.device.cuda.device_count()}") from None


def use_cores(processes=1):
    """Give this process its share of the cores for arithmetic; Paddle starts with one thread."""
    from paddle.base import core
    core.set_num_threads(max(1, threads() // processes))


def resolve(argv):
    """Command line -> (recipe, run options, where the recipe came from)."""
    from models import METHODS
    from models.checkpoint import open_checkpoint
    from utils.config import parse
    configs = os.path.join(os.path.dirname(os.path.abspath(__file__)), "configs")
    return parse(argv, {name: method.settings for name, method in METHODS.items()}, configs,
                 base=lambda path: open_checkpoint(path)[1]["recipe"])


def load_data(recipe, method_class):
    """The protocol of a recipe, checked against what the method needs."""
    from utils.config import data_request
    from utils.datasets import load_protocol
    request = data_request(recipe)
    protocol = load_protocol(recipe["dataset"], root=recipe["data_path"], seed=recipe["split_seed"],
                             list_dir=recipe["list_dir"], **request["sizes"])
    if method_class.kind == "supervised" and protocol.train.labels is None:
        raise InputError(f"method {recipe['method']} needs labels, and the training split of {recipe['dataset']} has "
                         "none; put the pictures into one sub-folder a class, name the labels in a manifest, or choose "
                         "an unsupervised --method (nsh, wch)" + "".join(f"; note: {note}" for note in protocol.notes))
    return protocol


def add_text_features(protocol, recipe, saved=None):
    """Turn the texts of all splits into features, where the data brings texts and not features.

    Args:
        saved: plain values of the vectoriser of a checkpoint; None fits one on the training texts.

    Returns:
        (plain values of the vectoriser or None, a line for the log or None).
    """
    from utils.text import Vectorizer, empty_rows
    if protocol.train.text_features is not None:
        # published columns with known words: queries may be typed all the same
        return (Vectorizer("bow", protocol.vocabulary).to_dict() if protocol.vocabulary else None), None
    if protocol.train.texts is None:
        return None, None
    vectorizer = Vectorizer.from_dict(saved) if saved else \
        Vectorizer.fit(protocol.train.texts, recipe["text_kind"], recipe["text_limit"])
    empty = 0
    for split in protocol.splits:
        split.text_features = vectorizer.transform(split.texts)
        empty += empty_rows(split.text_features)
    return vectorizer.to_dict(), f"texts: {len(vectorizer)} words, {empty} texts without a known word"


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
    if recipe["feature_norm"] != "none" and not recipe["freeze_backbone"]:
        raise InputError("feature_norm is fitted once, on a frozen backbone; add --freeze-backbone or set it to none")
    if recipe["cached_views"] and not (recipe["freeze_backbone"] and recipe["cached_views"] >= method_class.views):
        raise InputError(f"cached_views needs --freeze-backbone and at least the {method_class.views} views of "
                         f"{recipe['method']}; change it or set it to 0")
    return {**recipe, "topK": protocol.topk if recipe["topK"] is None else recipe["topK"]}


def clear_folder(folder):
    """Remove the products of an earlier run, so that none of them passes for one of the new run."""
    for name in ("best.safetensors", "result.json", "latest.safetensors"):
        if os.path.exists(os.path.join(folder, name)):
            os.remove(os.path.join(folder, name))
    shutil.rmtree(os.path.join(folder, "vdl"), ignore_errors=True)


def main(argv):
    recipe, run, source = resolve(argv)
    for key in ("nprocs", "port"):
        if run[key]:
            raise InputError(f"--{key} belongs to main_multi_gpu.py; this is one process")
    choose_device(run["device"])
    use_cores()
    job(recipe, run, source)


def job(recipe, run, source):
    """Train or evaluate one resolved recipe in this process (one of several ranks, or the only one)."""
    import paddle

    from models import METHODS
    from models.build import build_method, load_weights
    from models.checkpoint import open_checkpoint
    from models.method import DataFacts
    from utils.config import write_recipe
    from utils.training.distributed import is_main, world_size
    from utils.training.evaluator import Evaluator, describe, validation_splits
    from utils.training.features import FeatureSource
    from utils.training.logger import RunLog
    from utils.training.seeding import derive, seed_everything
    from utils.training.trainer import broadcast, fit, start

    method_class = METHODS[recipe["method"]]
    folder = run["output_dir"]
    new = not (run["eval"] or run["resume"])
    if new and not run["overwrite"] and os.path.exists(f"{folder}/latest.safetensors"):
        raise InputError(f"{folder} holds a run; go on with --resume {folder}/latest.safetensors, start anew with "
                         "--overwrite, or choose another --output-dir")
    checkpoint = run["pretrained"] or run["resume"]
    saved = open_checkpoint(checkpoint)[1] if checkpoint else {}
    if run["resume"] and "protocol" not in saved:
        raise InputError(f"{checkpoint} holds weights only, so training cannot continue exactly; start from them with "
                         "--pretrained")
    protocol = load_data(recipe, method_class)
    if run["resume"] and saved["protocol"]["sha256"] != protocol.record()["sha256"]:
        raise InputError(f"{checkpoint} was made with other images or labels of {recipe['dataset']} than those found "
                         "now, so training cannot continue exactly; start from these weights with --pretrained")
    recipe = complete(recipe, protocol, method_class, saved)
    data = {"num_train": len(protocol.train), "num_classes": len(protocol.classes), "text_dim": None}
    vectorizer = text_note = None
    if "text" in method_class.modalities:
        vectorizer, text_note = add_text_features(protocol, recipe, saved.get("vectorizer"))
        if protocol.train.text_features is None:
            raise InputError(f"method {recipe['method']} needs texts, and dataset {recipe['dataset']} has none")
        data["text_dim"] = protocol.train.text_features.shape[1]
    if paddle.get_device().startswith("gpu"):
        paddle.set_flags({"FLAGS_cudnn_deterministic": True})

    seed_everything(recipe["seed"], 0)
    with paddle.utils.unique_name.guard():  # optimizer state is stored under parameter names
        own_weights = {"backbone_weights": None, "pretrained_backbone": False} if checkpoint else {}
        method = build_method({**recipe, **own_weights}, DataFacts(**data))
        recipe = {**recipe, "backbone": method.backbone.name}  # the name that builds this very network again
        if run["pretrained"]:
            load_weights(method, run["pretrained"])
        source_of_features = FeatureSource(method, recipe, run, sum(map(len, protocol.splits)))
        final = chooser = Evaluator(protocol.query, protocol.database, recipe, run, recipe["topK"], source_of_features)
        optimizer = state = None
        if not run["eval"]:
            if recipe["select"] == "val":
                splits = validation_splits(protocol.train, protocol.database, recipe["val_size"],
                                           derive(recipe["split_seed"], 3))
                chooser = Evaluator(*splits, recipe, run, recipe["topK"], source_of_features)
            optimizer, state = start(method, protocol.train, recipe, run)

        # what can be wrong with settings and files has been seen: from here on files are written
        if new and is_main():
            clear_folder(folder)
        log = RunLog(folder, append=not new, visualdl=run["visualdl"] and not run["eval"])
        source_of_features.say = log.line
        log.line(f"recipe: {source or 'defaults'}; method {recipe['method']}, {recipe['bit']} bits, dataset "
                 f"{recipe['dataset']}: {len(protocol.train)} train, {len(protocol.query)} query, "
                 f"{len(protocol.database)} database; device {paddle.get_device()} x {world_size()}, "
                 f"seed {recipe['seed']}" + (f"; weights of {checkpoint}" if checkpoint else ""))
        for note in protocol.notes:
            log.line(f"note: {note}")
        if text_note:
            log.line(text_note)
        if run["eval"]:
            report = final(method)
        else:
            if method_class.kind == "unsupervised" and protocol.train.labels is not None:
                log.line(f"note: {recipe['method']} is unsupervised; the labels serve evaluation only")
            if is_main():
                write_recipe(os.path.join(folder, "recipe.yaml"), recipe)
            extra = {"data": data, "protocol": protocol.record(), "classes": protocol.classes,
                     "vectorizer": vectorizer}
            report = fit(method, protocol.train, chooser, recipe, run, log, optimizer, state, source_of_features,
                         extra)
            if state["epoch"] < recipe["epoch"]:
                log.line(f"stopped after epoch {state['epoch']} of {recipe['epoch']} as --stop-epoch asks; go on with "
                         f"--resume {folder}/latest.safetensors")
                return log.close()
            # the result is that of the best checkpoint: the one that is exported and deployed
            if state["best_epoch"] != state["epoch"]:
                if is_main():  # the other ranks may be on machines that do not see the file
                    load_weights(method, os.path.join(folder, "best.safetensors"))
                broadcast(method.state_dict().values())
                report = None
            if report is None or chooser is not final:
                report = final(method)
            how = "the last, for there are no labels to choose by" if state["best_score"] is None else \
                f"selected by the {chooser.query.name} set"
            log.line(f"result of the best checkpoint: epoch {state['best_epoch']} of {state['epoch']}, {how}")
        for text in describe(report):
            log.line(f"{protocol.query.name}: {text}")
        if is_main():
            log.line(f"wrote {write_products(method, final, report, protocol, recipe, run, state, source)}")
        log.close()


def write_products(method, evaluator, report, protocol, recipe, run, state, source):
    """result.json, the database's code files and, if asked for, the curves; returns the first."""
    import paddle

    from utils.training.result import write_result
    from utils.transforms import recipe_spec
    folder = run["output_dir"]
    name = os.path.join(folder, "result.json")
    write_result(name, recipe, protocol.record(), report, method.fingerprint(recipe_spec(recipe)), paddle.get_device(),
                 state, source)
    for modality in method.modalities:
        tag = "" if modality == "image" else f"{modality}_"
        evaluator.code_file(method, report, "database", modality, protocol.classes).save(
            os.path.join(folder, f"database_{tag}{recipe['method']}_{recipe['bit']}.npz"))
    if run["curves"] and report["metrics"]:
        evaluator.save_curves(report, folder, method.bits)
    if run["curves"] and state:
        from utils.plots import save_history  # matplotlib is slow to import
        save_history(os.path.join(folder, "training_curve"), state["history"],
                     f"{recipe['method']}, {recipe['bit']} bits, {recipe['dataset']}")
    return name


if __name__ == "__main__":
    run_main(main)
