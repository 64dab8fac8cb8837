"""The training loop. It knows no method by name: only the contract in models/method.py."""
import math
import os
import shutil
import time

import paddle

from utils.errors import InputError
from utils.files import atomic_path
from utils.training import amp
from utils.training.checkpoint import load_checkpoint, save_checkpoint
from utils.training.distributed import barrier, gather_objects, is_main, rank, world_size
from utils.training.evaluator import describe
from utils.training.loader import Items, cached_batches, epoch_order, load_batches
from utils.training.logger import bar
from utils.training.seeding import seed_everything
from utils.transforms import recipe_spec

OPTIMIZERS = {
    "momentum": lambda lr, groups, recipe: paddle.optimizer.Momentum(
        lr, momentum=recipe["momentum"], parameters=groups, weight_decay=recipe["weight_decay"]),
    "sgd": lambda lr, groups, recipe: paddle.optimizer.SGD(lr, parameters=groups, weight_decay=recipe["weight_decay"]),
    "adam": lambda lr, groups, recipe: paddle.optimizer.Adam(
        lr, parameters=groups, weight_decay=recipe["weight_decay"] or None),
    "adamw": lambda lr, groups, recipe: paddle.optimizer.AdamW(
        lr, parameters=groups, weight_decay=recipe["weight_decay"]),
    # torch's defaults (rho .99, eps outside the root are not Paddle's): the seeds' recipes were made with them
    "rmsprop": lambda lr, groups, recipe: paddle.optimizer.RMSProp(
        lr, rho=0.99, epsilon=1e-8, parameters=groups, weight_decay=recipe["weight_decay"] or None),
}


def learning_rate(recipe, epoch):
    """Learning rate of epoch ``epoch`` (from 0), before the groups' multipliers."""
    base = recipe["learning_rate"]
    if recipe["lr_schedule"] == "step":
        return base * recipe["lr_gamma"] ** (epoch // recipe["lr_step"])
    if recipe["lr_schedule"] == "cosine":
        low = base * recipe["lr_min_ratio"]
        return low + (base - low) * (1 + math.cos(math.pi * epoch / max(recipe["epoch"], 1))) / 2
    return base


def start(method, train, recipe, run):
    """Optimizer and state of the loop, of a new run or of the checkpoint ``run["resume"]``; writes nothing.

    Returns:
        (optimizer, state): plain values that go into every checkpoint.

    Raises:
        InputError: too few images for a step; a format of ``amp`` that the device has not; a checkpoint that does not
            fit or has trained longer than ``epoch``.
    """
    amp.check(recipe["amp"])
    if not epoch_order(len(train), recipe["batch_size"], 0, 0, recipe["drop_last"]):
        raise InputError(f"the training split has {len(train)} images, too few for a step of {world_size()} x "
                         f"{recipe['batch_size']}; lower --batch-size or give more images")
    groups = method.param_groups(recipe["head_lr_mult"])
    optimizer = OPTIMIZERS[recipe["optimizer"]](recipe["learning_rate"], groups, recipe)
    if not run["resume"]:
        return optimizer, {"epoch": 0, "best_score": None, "best_epoch": None, "history": [], "seconds": 0.0,
                           "images": 0, "started_from": run["pretrained"]}
    state = restore(run["resume"], method, optimizer)
    if state["epoch"] > recipe["epoch"]:
        raise InputError(f"{run['resume']} has finished {state['epoch']} epochs; raise --epoch to go on")
    if state["best_epoch"] and not any(map(os.path.isfile, best_files(run))):
        raise InputError(f"{best_files(run)[0]} is missing: the best checkpoint so far, of epoch "
                         f"{state['best_epoch']}; put it there, or start anew from these weights with --pretrained")
    return optimizer, state


def best_files(run):
    """Where a run keeps its best checkpoint, and where the run that it continues kept it."""
    folders = run["output_dir"], os.path.dirname(run["resume"] or "")
    return [os.path.join(folder, "best.safetensors") for folder in folders]


def fit(method, train, evaluator, recipe, run, log, optimizer, state, source, extra=None):
    """Train, evaluate every ``eval_epoch`` epochs, keep the latest and the best checkpoint.

    Args:
        method: HashMethod.
        train: training split.
        evaluator: callable method -> report (utils/training/evaluator.py).
        recipe, run: see utils/config.py.
        log: RunLog.
        optimizer, state: of ``start``; the state is kept up to date (``epoch``, ``best_score``, ``best_epoch``,
            ``history``, ``seconds``, ``images``).
        source: FeatureSource of the run.
        extra: dict of plain values stored in every checkpoint (``data`` for rebuilding the method among them).

    Returns:
        The report of the last epoch's evaluation; None where no epoch was left to train.

    Raises:
        InputError: a non-finite loss term (named, with step and images), a picture that cannot be read, a full disk.
    """
    best, earlier = best_files(run)
    if is_main() and state["best_epoch"] and not os.path.isfile(best):
        with atomic_path(best) as temporary:
            shutil.copyfile(earlier, temporary)
    parallel = paddle.DataParallel(method) if world_size() > 1 else method

    features, views = training_features(method, train, recipe, run, source)
    items = Items(train, recipe_spec(recipe), method.views, recipe["augment"], recipe["seed"])

    report = None
    for epoch in range(state["epoch"], min(recipe["epoch"], run["stop_epoch"] or recipe["epoch"])):
        started = time.time()
        seed_everything(recipe["seed"], epoch, 2 + rank())
        items.epoch = epoch
        method.train()
        method.start_epoch(epoch, recipe["epoch"])
        optimizer.set_lr(learning_rate(recipe, epoch))
        order = epoch_order(len(train), recipe["batch_size"], recipe["seed"], epoch, recipe["drop_last"])
        if features is not None:
            batches = cached_batches(train, features, order, views, recipe["seed"], epoch)
        else:
            batches = load_batches(items, order, run["num_workers"])
        with amp.backbone(method, recipe["amp"]):
            mean_loss = train_epoch(method, parallel, optimizer, batches, order, train, epoch, recipe, run, log)
        # running statistics of batch norm differ by rank: the ranks would encode their shares of a split with different
        # networks, and a resumed run would not equal an uninterrupted one
        broadcast(value for key, value in method.state_dict().items()
                  if value.stop_gradient and not (method.frozen and key.startswith("backbone.")))
        state["images"] += sum(map(len, order)) * world_size()
        state["seconds"] += time.time() - started
        state["epoch"] = epoch + 1

        last = epoch + 1 == recipe["epoch"]
        if last or (epoch + 1) % recipe["eval_epoch"] == 0:
            report = evaluator(method)
            for text in describe(report):
                log.line(f"epoch: [{epoch + 1}/{recipe['epoch']}], {evaluator.query.name}: {text}")
            score = report["score"]
            state["history"].append({"epoch": epoch + 1, "loss": mean_loss, "score": score})
            if score is not None:
                log.scalar("eval/score", score, epoch + 1)
            if score is None or state["best_score"] is None or score > state["best_score"]:
                state["best_score"], state["best_epoch"] = score, epoch + 1
                save(best, method, None, recipe, state, extra)
        save(os.path.join(run["output_dir"], "latest.safetensors"), method, optimizer, recipe, state, extra)
    return report


def broadcast(tensors):
    """Give every rank the values of rank 0."""
    if world_size() > 1:
        for tensor in tensors:
            paddle.distributed.broadcast(tensor, 0)


def training_features(method, train, recipe, run, source):
    """Fit the normalisations and compute once what need not be computed in every epoch.

    Args:
        source: FeatureSource.

    Returns:
        (features, views): float32 [N, ...] with views 0 (un-augmented, or given with the data), or [N, cached_views,
        ...] with the number of views a step draws; (None, 0) where the backbone runs in every step.
    """
    if not run["resume"]:
        method.fit(train)
    given = train.features is not None
    if not given and not method.frozen:
        return None, 0
    once = given or recipe["augment"] == "none" and recipe["cache_features"]
    fit_norm = recipe["feature_norm"] != "none" and not run["resume"]
    plain = source(train) if once or fit_norm else None
    if fit_norm:
        method.norm.fit(plain)
    if once:
        return plain, 0
    if recipe["cached_views"]:
        return source(train, recipe["cached_views"]), method.views
    return None, 0


def train_epoch(method, parallel, optimizer, batches, order, train, epoch, recipe, run, log):
    """One pass; returns the mean of the total loss, over all ranks. The log line carries what TIPC readers look for."""
    scaler = amp.scaler(recipe["amp"])
    total, reader, batch_cost, since, count = 0.0, 0.0, 0.0, 0, 0
    before = time.time()
    for step, batch in enumerate(bar(batches, len(order), f"epoch {epoch + 1}")):
        loaded = time.time()
        reader += loaded - before
        method.start_step(epoch * len(order) + step, recipe["epoch"] * len(order))
        terms = parallel(batch)
        values = {name: float(value) for name, value in terms.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                names = [train.ids[i] for i in order[step]]
                raise InputError(f"loss term {name!r} is {value} at epoch {epoch + 1}, step {step + 1}; lower the "
                                 f"learning rate or look at the images of the batch: {', '.join(names[:8])}"
                                 + (f" and {len(names) - 8} more" if len(names) > 8 else ""))
        if scaler:
            scaler.scale(terms["total"]).backward()
            scaler.step(optimizer)
            scaler.update()
        else:
            terms["total"].backward()
            optimizer.step()
        optimizer.clear_grad()
        total += values["total"]
        since += len(order[step])
        count += 1
        batch_cost += time.time() - before
        before = time.time()
        if count == run["log_step"] or step + 1 == len(order):
            values = rank_means(values)
            parts = ", ".join(f"{name}: {value:.5f}" for name, value in values.items() if name != "total")
            log.line(f"epoch: [{epoch + 1}/{recipe['epoch']}], step: [{step + 1}/{len(order)}], "
                     f"lr: {optimizer.get_lr():.3g}, loss: {values['total']:.5f}{', ' if parts else ''}{parts}, "
                     f"avg_reader_cost: {reader / count:.5f} sec, avg_batch_cost: {batch_cost / count:.5f} sec, "
                     f"avg_ips: {since * world_size() / max(batch_cost, 1e-9):.2f} images/sec")
            log.scalar("train/loss", values["total"], epoch * len(order) + step)
            reader, batch_cost, since, count = 0.0, 0.0, 0, 0
    return rank_means({"total": total / len(order)})["total"]


def rank_means(values):
    """dict name -> number, each the mean over the ranks: what the job minimises."""
    everyone = gather_objects(values)
    return {name: sum(own[name] for own in everyone) / len(everyone) for name in values}


def save(path, method, optimizer, recipe, state, extra):
    """Write a checkpoint (rank 0); without an optimizer it holds what evaluation and export need."""
    if is_main():
        tensors = {f"model/{key}": value.numpy() for key, value in method.state_dict().items()
                   if optimizer is not None or not key.startswith(method.training_state)}
        meta = {"recipe": recipe, "state": state, "epoch": state["epoch"],
                "fingerprint": method.fingerprint(recipe_spec(recipe)), **(extra or {})}
        if optimizer is not None:
            values = optimizer.state_dict()
            meta["optimizer"] = {key: value for key, value in values.items() if isinstance(value, (int, float))}
            tensors.update({f"optimizer/{key}": value.numpy() for key, value in values.items()
                            if isinstance(value, paddle.Tensor)})
        save_checkpoint(path, tensors, meta)
    barrier()


def restore(path, method, optimizer):
    """Load weights, training state and optimizer of a checkpoint; returns the loop's state.

    Random generators need no state: they are seeded from (seed, epoch) (utils/training/seeding.py).
    """
    tensors, meta = load_checkpoint(path)
    state = {key[len("model/"):]: value for key, value in tensors.items() if key.startswith("model/")}
    slots = {key[len("optimizer/"):]: paddle.to_tensor(value) for key, value in tensors.items()
             if key.startswith("optimizer/")}
    if "optimizer" not in meta:
        raise InputError(f"{path} holds no optimizer state, so training cannot continue exactly; resume from "
                         "latest.safetensors, or start from these weights with --pretrained")
    own = method.state_dict()
    faults = [key for key in own if key not in state or list(state[key].shape) != list(own[key].shape)]
    if faults or len(own) != len(state):
        raise InputError(f"{path} does not fit the recipe and the data: {', '.join(faults[:5]) or 'unknown entries'}")
    for key, value in own.items():
        value.set_value(state[key])
    optimizer.set_state_dict({**slots, **meta["optimizer"]})
    return meta["state"]
