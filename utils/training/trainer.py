"""The training loop. It knows no method by name: only the contract in models/method.py."""
import contextlib
import dataclasses
import os
import shutil
import time
from typing import Any

import paddle

from utils.augmentation import PRESETS, augmentation
from utils.errors import InputError
from utils.files import atomic_path
from utils.retrieval.codes import running_together
from utils.retrieval.hamming import pack
from utils.training import amp, checkpoint, optim
from utils.training.distributed import barrier, broadcast, gather_objects, is_main, rank, world_size
from utils.training.evaluator import describe
from utils.training.loader import Items, cached_batches, epoch_order, load_batches
from utils.training.logger import Progress, fold
from utils.training.meter import Meter, check_finite
from utils.training.seeding import seed_everything
from utils.transforms import recipe_spec


@dataclasses.dataclass
class Training:
    """What the loop works on.

    Attributes:
        method: HashMethod.
        train: training split (utils.datasets.base.Split).
        recipe, run: see utils/config.py.
        optimizer: of utils/training/optim.py.
        state: plain values that go into every checkpoint (``epoch``, ``best_score``, ``best_epoch``, ``history``,
            ``seconds``, ``images``, ``started_from``); kept up to date.
        source: FeatureSource of the run.
    """

    method: Any
    train: Any
    recipe: dict
    run: dict
    optimizer: Any
    state: dict
    source: Any

    def path(self, name):
        """A file of the run folder."""
        return os.path.join(self.run["output_dir"], name)


def start(method, train, recipe, run, source):
    """The Training of a new run, or of the checkpoint ``run["resume"]``; writes nothing.

    Raises:
        InputError: too few images for a step; a format of ``amp`` that the device has not; a checkpoint that does not
            fit or has trained longer than ``epoch``.
    """
    amp.check(recipe["amp"])
    if not epoch_order(len(train), recipe["batch_size"], 0, 0, recipe["drop_last"]):
        raise InputError(f"the training split has {len(train)} images, too few for a step of {world_size()} x "
                         f"{recipe['batch_size']}; lower --batch-size or give more images")
    if recipe["cached_views"] and not method.fixed_features:
        raise InputError("cached_views computes the features of a view once, and feature_dropout in every step anew; "
                         "leave one of them out")
    optimizer = optim.make_optimizer(method, recipe)
    if not run["resume"]:
        state = {"epoch": 0, "best_score": None, "best_epoch": None, "history": [], "seconds": 0.0, "images": 0,
                 "started_from": run["pretrained"]}
        return Training(method, train, recipe, run, optimizer, state, source)
    state = checkpoint.restore(run["resume"], method, optimizer)
    if state["epoch"] > recipe["epoch"]:
        raise InputError(f"{run['resume']} has finished {state['epoch']} epochs; raise --epoch to go on")
    best = best_files(run)
    if state["best_epoch"] and not any(map(os.path.isfile, best)):
        raise InputError(f"{best[0]} is missing: the best checkpoint so far, of epoch {state['best_epoch']}; put it "
                         "there, or start anew from these weights with --pretrained")
    return Training(method, train, recipe, run, optimizer, state, source)


def best_files(run):
    """Where a run keeps its best checkpoint, and where the run that it continues kept it."""
    folders = run["output_dir"], os.path.dirname(run["resume"] or "")
    return [os.path.join(folder, checkpoint.BEST) for folder in folders]


def fit(training, evaluator, log, about):
    """Train, evaluate every ``eval_epoch`` epochs, keep the latest and the best checkpoint.

    Args:
        training: of ``start``.
        evaluator: utils.training.evaluator.Evaluator of the method.
        log: RunLog.
        about: checkpoint.About.

    Returns:
        The report of the last epoch's evaluation; None where no epoch was left to train.

    Raises:
        InputError: a non-finite loss term (named, with step and images), a picture that cannot be read, a full disk.
    """
    method, train, recipe, run, state = (training.method, training.train, training.recipe, training.run,
                                         training.state)
    best, earlier = best_files(run)
    if is_main() and state["best_epoch"] and not os.path.isfile(best):
        with atomic_path(best) as temporary:
            shutil.copyfile(earlier, temporary)
    parallel = paddle.DataParallel(method) if world_size() > 1 else method
    features, views = training_features(training, log)
    items = Items(train, recipe_spec(recipe), method.views, augmentation(recipe), recipe["seed"])

    report = None
    epochs = range(state["epoch"], min(recipe["epoch"], run["stop_epoch"] or recipe["epoch"]))
    progress = Progress(len(epochs) * len(epoch_order(len(train), recipe["batch_size"], 0, 0, recipe["drop_last"])))
    for epoch in epochs:
        started = time.time()
        seed_everything(recipe["seed"], epoch, 2 + rank())
        items.epoch = epoch
        method.train()
        method.start_epoch(epoch, recipe["epoch"])
        order = epoch_order(len(train), recipe["batch_size"], recipe["seed"], epoch, recipe["drop_last"])
        if features is not None:
            batches = cached_batches(train, features, order, views, recipe["seed"], epoch)
        else:
            batches = load_batches(items, order, run["num_workers"])
        with amp.backbone(method, recipe["amp"]):
            mean_loss, sample = train_epoch(training, parallel, batches, order, epoch, log, progress)
        # running statistics of batch norm differ by rank: the ranks would encode their shares of a split with different
        # networks, and a resumed run would not equal an uninterrupted one
        broadcast(value for key, value in method.state_dict().items()
                  if value.stop_gradient and not (method.frozen and key.startswith("backbone.")))
        state["images"] += sum(map(len, order)) * world_size()
        state["seconds"] += time.time() - started
        state["epoch"] = epoch + 1

        evaluated = epoch + 1 == recipe["epoch"] or (epoch + 1) % recipe["eval_epoch"] == 0
        if evaluated:
            report = evaluator()
            lines = [f"{evaluator.query.name}: {text}" for text in describe(report)]
        else:
            lines = early_warning(method, sample)
        for text in lines:
            log.line(*fold(f"epoch: [{epoch + 1}/{recipe['epoch']}], {text}"))
        if evaluated:
            keep_best(training, report, mean_loss, log, about)
        save(training.path(checkpoint.LATEST), method, training.optimizer, about, state)
    progress.close()
    return report


def keep_best(training, report, loss, log, about):
    """Write down an evaluation after ``state["epoch"]`` epochs; keep the checkpoint where it is the best so far."""
    state, score = training.state, report["score"]
    epoch = state["epoch"]
    state["history"].append({"epoch": epoch, "loss": loss, "score": score})
    if score is not None:
        log.scalar("eval/score", score, epoch)
    if score is None or state["best_score"] is None or score > state["best_score"]:
        state["best_score"], state["best_epoch"] = score, epoch
        save(training.path(checkpoint.BEST), training.method, None, about, state)


def save(path, method, optimizer, about, state):
    """Write a checkpoint on the rank that writes files; the others wait."""
    if is_main():
        checkpoint.save(path, method, optimizer, about, state)
    barrier()


def training_features(training, log):
    """Fit the normalisations and compute once what need not be computed in every epoch.

    Returns:
        (features, views): float32 [N, ...] with views 0 (un-augmented, or given with the data), or [N, cached_views,
        ...] with the number of views a step draws; (None, 0) where the backbone runs in every step.
    """
    method, train, recipe, run, source = (training.method, training.train, training.recipe, training.run,
                                          training.source)
    if not run["resume"]:
        method.fit(train)
    given = train.features is not None
    once = given or method.fixed_features and recipe["cache_features"] and augmentation(recipe) == PRESETS["none"]
    fit_norm = recipe["feature_norm"] != "none" and not run["resume"]
    plain = source(train) if once or fit_norm else None
    if fit_norm:
        log.line(method.norm.fit(plain))
    if once:
        return plain, 0
    if recipe["cached_views"]:  # only with fixed features, see ``start``
        return source(train, recipe["cached_views"]), method.views
    return None, 0


def train_epoch(training, parallel, batches, order, epoch, log, progress):
    """One pass.

    Args:
        training: Training.
        parallel: the method, or its paddle.DataParallel.
        batches: iterable of batches; ``order``: list of their positions in the training split.
        epoch: from 0.
        log: RunLog.
        progress: Progress of the run.

    Returns:
        (mean over steps and ranks of the total loss, the first batch).
    """
    method, optimizer, recipe, run = training.method, training.optimizer, training.recipe, training.run
    parameters = [parameter for parameter in method.parameters() if not parameter.stop_gradient]
    scaler, meter, steps, accumulate = amp.scaler(recipe["amp"]), Meter(), len(order), recipe["accumulate"]
    for step, batch in enumerate(batches):
        meter.loaded()
        if step == 0:
            sample = batch
        first = step - step % accumulate  # the batches first .. end - 1 make one step of the optimizer
        end = min(first + accumulate, steps)
        share = len(order[step]) / sum(map(len, order[first:end]))
        method.start_step(epoch * steps + step, recipe["epoch"] * steps)
        optim.set_rate(optimizer, optim.learning_rate(recipe, epoch, first, steps))
        with gradients_stay(parallel, step + 1 < end):
            terms = parallel(batch)
            loss = terms["total"] if share == 1 else share * terms["total"]
            (scaler.scale(loss) if scaler else loss).backward()
        if step + 1 == end:
            optim.apply_gradients(optimizer, parameters, recipe["clip_norm"], scaler)
            optimizer.clear_grad()
        meter.stepped(terms, len(order[step]))
        progress.step()
        if len(meter.pending) == run["log_step"] or step + 1 == steps:
            rows = meter.read()
            check_finite(rows, epoch, step + 1 - len(rows), lambda i: [training.train.ids[j] for j in order[i]])
            values = rank_means(rows[-1])
            log.line(*step_lines(f"epoch: [{epoch + 1}/{recipe['epoch']}], step: [{step + 1}/{steps}]", progress.left(),
                                 optimizer.get_lr(), values, meter.costs()))
            log.scalar("train/loss", values["total"], epoch * steps + step)
    return rank_means({"total": meter.total / steps})["total"], sample


def early_warning(method, batch):
    """What is wrong with the image codes of a batch, epochs before an evaluation would show it: a list of lines."""
    method.eval()
    with paddle.no_grad():
        codes = pack(method.code(method.view(batch)).astype("float32").numpy())
    text = running_together(codes, method.bits)
    return [f"warning: {text}: the codes run together; raise warmup_epochs, or lower learning_rate or head_lr_mult"] \
        if text else []


def gradients_stay(parallel, stay):
    """Inside, where ``stay`` is true, gradients of several ranks are not averaged yet: more are to be added to them."""
    return parallel.no_sync() if stay and world_size() > 1 else contextlib.nullcontext()


def step_lines(place, left, rate, values, costs):
    """What the log says of a step, with the words that TIPC's readers look for: ``loss:``, ``avg_ips:`` and so on.

    ``avg_samples`` and ``ips`` are of one device, as TIPC defines them; ``avg_ips`` is of all.
    """
    reader, batch, samples, ips = costs
    terms = "".join(f", {name}: {value:.5f}" for name, value in values.items() if name != "total")
    return [*fold(f"{place}, eta: {left}, lr: {rate:.3g}, loss: {values['total']:.5f}{terms},"),
            *fold(f"avg_reader_cost: {reader:.5f} sec, avg_batch_cost: {batch:.5f} sec, avg_samples: {samples:g}, "
                  f"avg_ips: {ips * world_size():.2f} images/sec, ips: {ips:.2f}")]


def rank_means(values):
    """dict name -> number, each the mean over the ranks: what the job minimises."""
    everyone = gather_objects(values)
    return {name: sum(own[name] for own in everyone) / len(everyone) for name in values}
