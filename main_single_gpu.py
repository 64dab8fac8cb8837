"""Train or evaluate a method in one process: a GPU if there is one, else the CPU.

    python main_single_gpu.py --method hashnet --dataset cifar10-1 --data-path DIR --bit 48
    python main_single_gpu.py --eval --pretrained output/hashnet_cifar10-1_48/best.safetensors
"""
import os

from utils.errors import InputError, run_main


def choose_device(name):
    """Select ``auto`` (GPU if there is one), ``cpu``, ``gpu`` or ``gpu:N``; returns Paddle's name of it."""
    import paddle
    has_gpu = paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if name == "auto":
        name = "gpu" if has_gpu else "cpu"
    if name.startswith("gpu") and not has_gpu:
        raise InputError(f"--device {name}: this machine or this Paddle has no GPU; use --device cpu")
    try:
        paddle.set_device(name)
    except ValueError:
        raise InputError(f"--device {name}: expected auto, cpu, gpu or gpu:N") from None
    if has_gpu:
        paddle.set_flags({"FLAGS_cudnn_deterministic": True})
    return paddle.get_device()


def resolve(argv):
    """Command line -> (recipe, run options, where the recipe came from)."""
    from models import METHODS
    from utils.checkpoint import load_checkpoint
    from utils.config import parse
    configs = os.path.join(os.path.dirname(os.path.abspath(__file__)), "configs")
    return parse(argv, {name: method.hyperparameters for name, method in METHODS.items()}, configs,
                 base=lambda path: load_checkpoint(path)[1]["recipe"])


def load_data(recipe, method_class):
    """The protocol of a recipe, checked against what the method needs."""
    from utils.config import data_request
    from utils.datasets import load_protocol
    request = data_request(recipe)
    protocol = load_protocol(recipe["dataset"], root=recipe["data_path"], seed=recipe["split_seed"],
                             list_dir=recipe["list_dir"], **request["sizes"])
    if method_class.kind == "supervised" and protocol.train.labels is None:
        raise InputError(f"method {recipe['method']} needs labels, and the training split of {recipe['dataset']} has none")
    return protocol


def add_text_features(protocol, recipe, saved=None):
    """Turn the texts of all splits into features, where the data brings texts and not features.

    Args:
        saved: plain values of the vectoriser of a checkpoint; None fits one on the training texts.

    Returns:
        (plain values of the vectoriser or None, a line for the log or None).
    """
    from utils.text import Vectorizer, empty_rows
    if protocol.train.texts is None or protocol.train.text_features is not None:
        return None, None
    vectorizer = Vectorizer.from_dict(saved) if saved else \
        Vectorizer.fit(protocol.train.texts, recipe["text_kind"], recipe["text_limit"])
    empty = 0
    for split in protocol.splits:
        split.text_features = vectorizer.transform(split.texts)
        empty += empty_rows(split.text_features)
    return vectorizer.to_dict(), f"texts: {len(vectorizer)} words, {empty} texts without a known word"


def main(argv):
    recipe, run, source = resolve(argv)
    choose_device(run["device"])
    job(recipe, run, source)


def job(recipe, run, source):
    """Train or evaluate one resolved recipe in this process (one of several ranks, or the only one)."""
    import paddle
    from models import METHODS, build_method, load_weights
    from utils.checkpoint import load_checkpoint
    from utils.config import write_recipe
    from utils.distributed import is_main, world_size
    from utils.evaluator import Evaluator, describe, recipe_spec, validation_splits
    from utils.logger import RunLog
    from utils.result import write_result
    from utils.seeding import derive, seed_everything
    from utils.trainer import fit

    method_class = METHODS[recipe["method"]]
    folder = run["output_dir"]
    if not (run["eval"] or run["resume"] or run["overwrite"]) and os.path.exists(f"{folder}/latest.safetensors"):
        raise InputError(f"{folder} holds a run; go on with --resume {folder}/latest.safetensors, start anew with "
                         "--overwrite, or choose another --output-dir")
    protocol = load_data(recipe, method_class)
    checkpoint = run["pretrained"] or run["resume"]
    data = {"num_train": len(protocol.train), "num_classes": len(protocol.classes), "text_dim": None}
    vectorizer = text_note = None
    if "text" in method_class.modalities:
        vectorizer, text_note = add_text_features(
            protocol, recipe, load_checkpoint(checkpoint)[1].get("vectorizer") if checkpoint else None)
        if protocol.train.text_features is None:
            raise InputError(f"method {recipe['method']} needs texts, and dataset {recipe['dataset']} has none")
        data["text_dim"] = protocol.train.text_features.shape[1]
    if protocol.train.features is not None:
        recipe = {**recipe, "backbone": f"precomputed:{protocol.train.features.shape[1]}", "freeze_backbone": True}
    if recipe["feature_norm"] != "none" and not recipe["freeze_backbone"]:
        raise InputError("feature_norm is fitted once, on a frozen backbone; add --freeze-backbone or set it to none")
    if recipe["cached_views"] and not (recipe["freeze_backbone"] and recipe["cached_views"] >= method_class.views):
        raise InputError(f"cached_views needs --freeze-backbone and at least the {method_class.views} views of "
                         f"{recipe['method']}; change it or set it to 0")
    if recipe["topK"] is None:
        recipe = {**recipe, "topK": protocol.topk}

    seed_everything(recipe["seed"], 0)
    with paddle.utils.unique_name.guard():  # optimizer state is stored under parameter names
        method = build_method({**recipe, **({"backbone_weights": None, "pretrained_backbone": False} if checkpoint else {})},
                              **data)
        recipe = {**recipe, "backbone": method.backbone.name}  # the name that builds this very network again
        if run["pretrained"]:
            load_weights(method, run["pretrained"])

        log = RunLog(folder, append=bool(run["resume"] or run["eval"]), visualdl=run["visualdl"] and not run["eval"])
        log.line(f"recipe: {source or 'defaults'}; method {recipe['method']}, {recipe['bit']} bits, dataset "
                 f"{recipe['dataset']}: {len(protocol.train)} train, {len(protocol.query)} query, "
                 f"{len(protocol.database)} database; device {paddle.get_device()} x {world_size()}, seed {recipe['seed']}")
        if text_note:
            log.line(text_note)
        if method_class.kind == "unsupervised" and protocol.train.labels is not None and not run["eval"]:
            log.line(f"note: {recipe['method']} is unsupervised; the labels serve evaluation only")
        final = Evaluator(protocol.query, protocol.database, recipe, run, recipe["topK"])
        state = None
        if run["eval"]:
            report = final(method)
        else:
            if is_main():
                write_recipe(os.path.join(folder, "recipe.yaml"), recipe)
            chooser = final
            if recipe["select"] == "val":
                splits = validation_splits(protocol.train, protocol.database, recipe["val_size"],
                                           derive(recipe["split_seed"], 3))
                chooser = Evaluator(*splits, recipe, run, recipe["topK"])
            extra = {"data": data, "protocol": protocol.record(), "classes": protocol.classes,
                     "vectorizer": vectorizer}
            report, state = fit(method, protocol.train, chooser, recipe, run, log, extra)
            # the result is that of the best checkpoint: the one that is exported and deployed
            if state["best_epoch"] != state["epoch"]:
                load_weights(method, os.path.join(folder, "best.safetensors"))
                report = None
            if report is None or chooser is not final:
                report = final(method)
            log.line(f"result of the best checkpoint: epoch {state['best_epoch']} of {state['epoch']}, selected by "
                     f"the {chooser.query.name} set")
        for text in describe(report):
            log.line(f"{protocol.query.name}: {text}")
        if is_main():
            name = os.path.join(folder, "eval.json" if run["eval"] else "result.json")
            write_result(name, recipe, protocol.record(), report, method.fingerprint(recipe_spec(recipe)),
                         paddle.get_device(), state, source)
            for modality in method.modalities:
                tag = "" if modality == "image" else f"{modality}_"
                final.code_file(method, report, "database", modality, protocol.classes).save(
                    os.path.join(folder, f"database_{tag}{recipe['method']}_{recipe['bit']}.npz"))
            if run["curves"] and report["metrics"]:
                final.save_curves(report, folder, method.bits)
            log.line(f"wrote {name}")
        log.close()


if __name__ == "__main__":
    run_main(main)
