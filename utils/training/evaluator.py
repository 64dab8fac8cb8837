"""Encode splits, sharded over ranks, and report metrics. Packed codes travel, the queries' relaxed ones too."""
import dataclasses
import os
import time

import numpy as np

from utils.config import data_request
from utils.errors import InputError
from utils.retrieval.code_store import code_file
from utils.retrieval.codes import code_health, collapse, format_health
from utils.retrieval.encode import Encoded, encode
from utils.retrieval.encoder import modalities
from utils.retrieval.metrics import format_line
from utils.retrieval.score import file_tag, labelled, overall, score, score_curves
from utils.training.distributed import barrier, gather_objects
from utils.training.loader import Items, load_batches, shard
from utils.training.logger import bar
from utils.transforms import recipe_spec


class Evaluator:
    """Evaluates a method on fixed query and database splits, as often as asked.

    Features of a frozen backbone are computed at the first evaluation and reused.
    """

    def __init__(self, open_encoder, query, database, recipe, run, source):
        """
        Args:
            open_encoder: callable -> models.encoder.LiveEncoder of the method as it is at that moment.
            query, database: utils.datasets.Split.
            recipe, run: see utils/config.py.
            source: FeatureSource, for a frozen backbone.

        Raises:
            InputError: an empty split.
        """
        self.splits = {"query": query, "database": database}
        for split in self.splits.values():
            if not len(split):
                raise InputError(f"the {split.name} split of {recipe['dataset']} is empty")
        self.open_encoder, self.recipe, self.run, self.source = open_encoder, recipe, run, source
        self._features = {}

    @property
    def query(self):
        """The query split."""
        return self.splits["query"]

    def _encode(self, encoder, role, modality):
        """Encoded of a whole split, on every rank."""
        split = self.splits[role]
        if modality == "image" and split.features is None and encoder.method.frozen and self.recipe["cache_features"]:
            if role not in self._features:
                self._features[role] = self.source(split)
            split = dataclasses.replace(split, features=self._features[role])
            encoder.engine = self.source.engine
        own = encode(encoder, split, modality, shard(len(split)), load=self._load,
                     batch_size=self.recipe["eval_batch_size"], relaxed=role == "query")
        return Encoded(np.concatenate(gather_objects(own.codes)), np.arange(len(split)), [])

    def _load(self, split, pieces):
        """Pictures as training loads them (``load`` of utils.retrieval.encode); a broken one raises."""
        loaded = load_batches(Items(split, recipe_spec(self.recipe)), pieces, self.run["num_workers"])
        for piece, batch in zip(pieces, bar(loaded, len(pieces), f"encode {split.name}")):
            yield piece, batch["image0"], []

    def _code_files(self, encoder, role):
        """dict modality -> CodeFile, with the same meta values as deployment writes."""
        return {modality: code_file(encoder, self.splits[role], self._encode(encoder, role, modality), role, modality,
                                    data_request(self.recipe), encoder.meta["classes"], self.recipe["data_path"])
                for modality in modalities(encoder)}

    def __call__(self):
        """Encode both splits with the method as it is now, and measure.

        Returns:
            dict: ``score`` (what selection looks at: mAP, the mean of I->T and T->I where cross-modal),
            ``metrics`` (direction -> report of utils.retrieval.metrics.evaluate; empty where labels are missing),
            ``query`` and ``database`` (modality -> CodeFile), ``health`` (of the database codes), ``engine`` (what
            computed the database's image codes, or the features of a frozen backbone), ``warnings`` (lines),
            ``seconds``.
        """
        start = time.time()
        encoder = self.open_encoder()
        query, database = (self._code_files(encoder, role) for role in ("query", "database"))
        encoded = time.time()
        metrics = score(query, database, self.recipe["topK"], self.recipe["ap"]) if labelled(query, database) else {}
        health = {modality: code_health(codefile.codes, codefile.bits) for modality, codefile in database.items()}
        warnings = [f"{modality} codes: {text}" for modality, codefile in database.items() for text in
                    [collapse(codefile.codes, 0 if codefile.labels is None else codefile.labels.shape[1])] if text]
        barrier()
        return {"score": overall(metrics), "metrics": metrics, "query": query, "database": database, "health": health,
                "engine": database["image"].meta["engine"], "warnings": warnings,
                "seconds": {"encode": encoded - start, "metrics": time.time() - encoded}}


def save_curves(report, folder, title):
    """PR and P@N curves of every direction of an Evaluator's report, as ``pr_curve[_I2T].csv`` and ``.png``."""
    from utils import plots  # matplotlib is slow to import
    for direction, values in score_curves(report["query"], report["database"]).items():
        plots.save_curves(os.path.join(folder, "pr_curve" + file_tag(direction)), values,
                          f"{title}, " + direction.replace("->", " to "))


def describe(report):
    """One line per direction, one of code health, and the warnings, for the log."""
    lines = []
    for direction, values in report["metrics"].items():
        lines.append(f"{direction} {format_line(values)}")
    for modality, health in report["health"].items():
        lines.append(f"{modality} codes: {format_health(health)}")
    return lines + [f"warning: {text}" for text in report["warnings"]]


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
