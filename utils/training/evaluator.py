"""Encode splits (sharded over ranks) and report retrieval metrics. Only packed codes travel."""
import itertools
import os
import time

import numpy as np
import paddle

from utils.config import data_request
from utils.errors import InputError
from utils.retrieval.codes import CodeFile, code_health, format_health
from utils.retrieval.hamming import pack
from utils.retrieval.metrics import curves, evaluate, format_line
from utils.training.distributed import barrier, gather_objects
from utils.training.features import pieces
from utils.training.loader import Items, load_batches, shard
from utils.training.logger import bar
from utils.transforms import recipe_spec

SHORT = {"image": "I", "text": "T"}


@paddle.no_grad()
def encode_split(method, split, recipe, run, modality="image", features=None):
    """Packed codes uint8 [N, ceil(bits/8)] of a split, on every rank.

    Args:
        method: HashMethod; left in evaluation mode.
        split: utils.datasets.Split.
        modality: ``image`` or ``text``.
        features: raw backbone features of the split where they are known.
    """
    method.eval()
    positions = pieces(shard(len(split)), recipe["eval_batch_size"])
    own = []
    if modality == "text":
        for piece in positions:
            own.append(pack(method.encode_text(paddle.to_tensor(
                np.asarray(split.text_features[piece], dtype="float32"))).numpy()))
    elif features is not None:
        for piece in positions:
            own.append(pack(method.encode_features(paddle.to_tensor(np.ascontiguousarray(features[piece]))).numpy()))
    else:
        loaded = load_batches(Items(split, recipe_spec(recipe)), positions, run["num_workers"])
        for batch in bar(loaded, len(positions), f"encode {split.name}"):
            own.append(pack(method.encode(batch["image0"]).numpy()))
    return np.concatenate([part for rank_parts in gather_objects(own) for part in rank_parts])


class Evaluator:
    """Evaluates a method on fixed query and database splits, as often as asked.

    Features of a frozen backbone are computed at the first evaluation and reused.
    """

    def __init__(self, query, database, recipe, run, topk, source):
        for split in (query, database):
            if not len(split):
                raise InputError(f"the {split.name} split of {recipe['dataset']} is empty")
        self.query, self.database, self.recipe, self.run, self.topk = query, database, recipe, run, topk
        self.source, self.features = source, {}

    def _encode(self, method, role, modality):
        split = getattr(self, role)
        if modality == "image" and (split.features is not None or
                                    method.frozen and self.recipe["cache_features"]):
            if role not in self.features:
                self.features[role] = self.source(split)
            return encode_split(method, split, self.recipe, self.run, features=self.features[role])
        return encode_split(method, split, self.recipe, self.run, modality)

    def __call__(self, method):
        """Encode both splits and measure.

        Returns:
            dict: ``score`` (what selection looks at: mAP, the mean of I->T and T->I where cross-modal),
            ``metrics`` (direction -> report of utils.retrieval.metrics.evaluate), ``codes`` (role, modality) -> packed,
            ``health`` (of the database codes), ``seconds``; metrics are empty where labels are missing.
        """
        start = time.time()
        codes = {(role, modality): self._encode(method, role, modality)
                 for role in ("query", "database") for modality in method.modalities}
        encoded = time.time()
        metrics = {}
        if self.query.labels is not None and self.database.labels is not None:
            for source in method.modalities:
                for target in method.modalities:
                    metrics[f"{SHORT[source]}->{SHORT[target]}"] = evaluate(
                        codes["query", source], codes["database", target], self.query.labels,
                        self.database.labels, method.bits, topk=self.topk, ap=self.recipe["ap"])
        crossing = [metrics[key]["mAP"] for key in metrics if key in ("I->T", "T->I")]
        score = float(np.mean(crossing)) if crossing else metrics["I->I"]["mAP"] if metrics else None
        health = {modality: code_health(codes["database", modality], method.bits) for modality in method.modalities}
        barrier()
        return {"score": score, "metrics": metrics, "codes": codes, "health": health,
                "seconds": {"encode": encoded - start, "metrics": time.time() - encoded}}

    def code_file(self, method, report, role, modality, classes):
        """The code file of a split after an evaluation, with the same meta values as deploy/ writes."""
        split = getattr(self, role)
        meta = {"split": role, "modality": modality, "data": data_request(self.recipe), "sha256": split.sha256(),
                "skipped": 0, "precision": "fp32", "method": method.name, "classes": list(classes),
                "root": getattr(split.images, "root", self.recipe["data_path"])}
        return CodeFile(report["codes"][role, modality], method.bits, split.ids, split.labels,
                        method.fingerprint(recipe_spec(self.recipe)), meta)

    def save_curves(self, report, folder, bits):
        """PR and P@N curves of every direction as ``pr_curve[_I2T].csv`` and ``.png``."""
        from utils.plots import save_curves  # matplotlib is slow to import
        modalities = [modality for role, modality in report["codes"] if role == "query"]
        for source, target in itertools.product(modalities, repeat=2):
            direction = f"{SHORT[source]}2{SHORT[target]}"
            values = curves(report["codes"]["query", source], report["codes"]["database", target], self.query.labels,
                            self.database.labels, bits)
            save_curves(os.path.join(folder, "pr_curve" + ("" if direction == "I2I" else f"_{direction}")), values,
                        f"{self.recipe['method']}, {bits} bits, {self.recipe['dataset']}, "
                        + direction.replace("2", " to "))


def describe(report):
    """One line per direction and one of code health, for the log."""
    lines = []
    for direction, values in report["metrics"].items():
        lines.append(f"{direction} {format_line(values)}")
    for modality, health in report["health"].items():
        lines.append(f"{modality} codes: {format_health(health)}")
    return lines


def validation_splits(train, database, size, seed):
    """Query and database for model selection, drawn from the database, never from the training split.

    Raises:
        InputError: the database outside the training split has too few images.
    """
    known = set(train.ids)
    free = np.array([i for i, name in enumerate(database.ids) if name not in known], dtype="int64")
    if len(free) <= size:
        raise InputError(f"--select val needs more than {size} database images outside the training split, and there "
                         f"are {len(free)}; lower --val-size or use --select query")
    chosen = np.random.default_rng(seed).permutation(free)[:size]
    rest = np.setdiff1d(np.arange(len(database)), chosen)
    query, remaining = database.select(np.sort(chosen)), database.select(rest)
    query.name, remaining.name = "validation query", "validation database"
    return query, remaining
