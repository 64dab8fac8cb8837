"""Raw backbone features of whole splits, each picture's computed once: see feature_store.py and static_function.py."""
import hashlib
import os

import numpy as np

from utils.augmentation import augmentation, augmentation_key
from utils.retrieval.encode import FEW, SAMPLE
from utils.training.distributed import barrier, gather_objects, rank, world_size
from utils.training.feature_store import DEFAULT, Space, image_keys
from utils.training.loader import Items, load_batches
from utils.training.logger import bar
from utils.training.static_function import DYNAMIC, StaticFunction, flipped_bits
from utils.transforms import recipe_spec

PIECE = 2048  # pictures a piece of the store: what an interruption loses


def pieces(positions, size):
    """Positions cut into batches of ``size``."""
    return [positions[start:start + size] for start in range(0, len(positions), size)]


def store_folder(run):
    """Folder of the feature store of a run (options of utils/config.py), by default beside the run's; or None."""
    chosen = run["feature_cache"]
    if chosen != "auto":
        return None if chosen == "none" else chosen
    folder = run["output_dir"]
    if run["eval"] and run["pretrained"]:  # the folder of an evaluation lies in that of the run
        folder = os.path.dirname(run["pretrained"])
    return os.path.join(os.path.dirname(os.path.abspath(folder)), os.path.basename(DEFAULT))


class Piecewise:
    """Rows that come batch by batch, written to a space in pieces.

    Args:
        space: feature_store.Space.
        keys: of all pictures, in the order in which their rows will come.
        size: pictures a piece.
    """

    def __init__(self, space, keys, size):
        self.space, self.keys, self.size = space, keys, size
        self.rows, self.done = [], 0

    def take(self, rows):
        """The rows of the next pictures, float32 [n, ...]."""
        self.rows.append(rows)
        if sum(map(len, self.rows)) >= self.size:
            self.write()

    def write(self):
        """Write what has come since the last piece. Raises InputError (full disk)."""
        if self.rows:
            rows, self.rows = np.concatenate(self.rows), []
            self.space.add(self.keys[self.done:self.done + len(rows)], rows)
            self.done += len(rows)


class FeatureSource:
    """Features of splits for one frozen backbone, whatever asks for them: training, evaluation, a baseline.

    Args:
        method: HashMethod whose backbone stays as it is.
        recipe, run: see utils/config.py.
        pictures: how many there are in all splits; for a few the dynamic network computes.
        say: callable of a line.
    """

    def __init__(self, method, recipe, run, pictures, say=print):
        self.method, self.recipe, self.run, self.say = method, recipe, run, say
        self.fast = pictures >= FEW or recipe["precision"] != "fp32"
        self.spec = recipe_spec(recipe)
        self.backbone = StaticFunction(method, method.backbone_features, "features", flipped_bits,
                                       recipe["precision"], lambda text: self.say(text))
        self.weights = None

    def __call__(self, split, views=0):
        """Raw backbone features of a split, on every rank.

        Args:
            split: utils.datasets.base.Split; one with features of its own hands them on.
            views: draw this many augmented views of each picture, from the recipe's ``split_seed``; 0 = as it is.

        Returns:
            array-like float32 [N, ...], or [N, views, ...]: an ndarray, or StoredFeatures mapped from the store.

        Raises:
            InputError: a picture that cannot be read, a full disk, a precision that the CPU has not got.
        """
        if split.features is not None:
            return np.asarray(split.features, dtype="float32")
        training = self.method.training
        self.method.eval()
        items = Items(split, self.spec, views, augmentation(self.recipe), self.recipe["split_seed"])
        try:
            self._prepare(items)
            folder = store_folder(self.run)
            return self._compute(items, views) if folder is None else self._stored(folder, items, split, views)
        finally:
            if training:
                self.method.train()

    def _prepare(self, items):
        """Choose what computes, by the first pictures."""
        if self.backbone.engine is None and self.fast:
            first = next(iter(load_batches(items, [np.arange(min(SAMPLE, len(items)))])))
            self.backbone.prepare(first["image0"].numpy())

    @property
    def engine(self):
        """What computes, as results name it."""
        return self.backbone.engine or DYNAMIC

    def _features(self, items, batches, views, title):
        """Yield the features of batches of positions, [n, ...] or [n, views, ...]."""
        for batch in bar(load_batches(items, batches, self.run["num_workers"]), len(batches), title):
            parts = [self.backbone(batch[f"image{view}"].numpy()) for view in range(max(views, 1))]
            yield np.stack(parts, 1) if views else parts[0]

    def _compute(self, items, views):
        """All features in memory; the ranks share the work."""
        own = np.array_split(np.arange(len(items)), world_size())[rank()]
        batches = pieces(own, self.recipe["eval_batch_size"])
        parts = list(self._features(items, batches, views, f"features {items.split.name}"))
        return np.concatenate([part for parts_of_rank in gather_objects(parts) for part in parts_of_rank])

    def _stored(self, folder, items, split, views):
        """Features from the store; those it has not are computed, shared among the ranks, and added."""
        drawn = None
        if views:  # a view follows the picture's position, as in training
            drawn = [augmentation_key(augmentation(self.recipe)), views, self.recipe["split_seed"]]
        space = Space(folder, self._about(drawn), self.say)
        keys = image_keys(split.images, (lambda i: i) if views else None)
        todo = space.missing(keys)
        barrier()  # all ranks have looked before one writes
        if len(todo):
            self.say(f"features of {split.name}: {len(keys) - len(todo)} of {len(keys)} pictures are in {folder}")
        own = np.array_split(todo, world_size())[rank()]
        batches = pieces(own, self.recipe["eval_batch_size"])
        piece = Piecewise(space, [keys[i] for i in own], max(1, PIECE // max(views, 1)))
        try:
            for rows in self._features(items, batches, views, f"features {split.name}"):
                piece.take(rows)
        finally:  # also when the user interrupts: what is computed stays
            piece.write()
        barrier()
        space.refresh()
        return space.find(keys)

    def _about(self, drawn):
        """What features depend on beside the picture, as plain values."""
        if self.weights is None:
            digest = hashlib.sha256()
            for key, value in sorted(self.method.backbone.state_dict().items()):
                digest.update(key.encode() + value.numpy().tobytes())
            self.weights = digest.hexdigest()
        return {"backbone": self.recipe["backbone"], "weights": self.weights, "features": self.method.feature_key,
                "preprocess": self.spec, "views": drawn, "engine": self.engine}
