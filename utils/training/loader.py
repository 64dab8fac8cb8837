"""Splits -> batches of tensors. What an item looks like depends on (seed, epoch, position) only.

So the number of worker processes, of ranks, and of earlier epochs never changes the data.
"""
import functools

import numpy as np
import paddle

from utils.errors import InputError
from utils.images import read
from utils.training.distributed import rank, world_size
from utils.training.seeding import derive
from utils.transforms import centre, item_rng, normalise, vary


class Items(paddle.io.Dataset):
    """Items of a split as dicts of arrays, for paddle.io.DataLoader. Images are uint8 until ``collate``.

    Args:
        split: utils.datasets.Split.
        spec: preprocessing dict (utils/transforms.py).
        views: augmented views per image (``image0``, ``image1``); 0 gives one un-augmented view.
        kind: augmentation.
        seed: seed of the augmentation.
    """

    def __init__(self, split, spec, views=0, kind="none", seed=0):
        super().__init__()
        self.split, self.spec, self.views, self.kind, self.seed = split, spec, views, kind, seed
        self.epoch = 0

    def __len__(self):
        return len(self.split)

    def __getitem__(self, position):
        try:
            item = {"index": np.int64(position)}
            if self.split.labels is not None:
                item["label"] = self.split.labels[position].astype("float32")
            if self.split.text_features is not None:
                item["text"] = np.asarray(self.split.text_features[position], dtype="float32")
            if self.split.features is not None:
                item["feature0"] = np.asarray(self.split.features[position], dtype="float32")
                return item
            image = read(self.split.images, position, self.spec, self.kind if self.views else "none")
            if not self.views:
                item["image0"] = centre(image, self.spec)
            for view in range(self.views):
                rng = item_rng(self.seed, self.epoch, position, view)
                item[f"image{view}"] = vary(image, self.spec, self.kind, rng)
            return item
        except InputError as error:  # a worker process would wrap it in a traceback
            return {"error": str(error)}


def collate(items, spec):
    """List of item dicts -> dict of stacked arrays, images normalised; a broken image becomes one error.

    Images uint8 [crop, crop, 3] are written as float32 right into their place in the batch [N, 3, crop, crop].
    """
    for item in items:
        if "error" in item:  # as bytes: DataLoader hands on arrays only
            return {"error": np.frombuffer(item["error"].encode("utf-8", "replace"), dtype="uint8")}
    batch = {}
    for key in items[0]:
        if key.startswith("image"):
            batch[key] = np.empty((len(items), 3) + items[0][key].shape[:2], "float32")
            for item, place in zip(items, batch[key]):
                normalise(item[key], spec, place)
        else:
            batch[key] = np.stack([item[key] for item in items])
    return batch


def epoch_order(n, batch_size, seed, epoch, drop_last):
    """This rank's batches of positions for an epoch.

    The epoch's permutation is cut into global batches of ``world * batch_size``; rank r takes the r-th
    piece of each, so that N ranks with B see what one rank with N*B sees. The last, short global batch is cut
    to a multiple of the ranks (at most ``world - 1`` images wait for another epoch), or dropped.

    Returns:
        list of int64 arrays.
    """
    world = world_size()
    order = np.random.default_rng(derive(seed, epoch, 1)).permutation(n)
    step = world * batch_size
    batches = [order[start:start + step] for start in range(0, n, step)]
    if batches and len(batches[-1]) < step:
        short = batches.pop()
        short = short[:len(short) // world * world]
        if len(short) and not drop_last:
            batches.append(short)
    return [np.split(batch, world)[rank()] for batch in batches]


def load_batches(items, batches, num_workers=0):
    """Yield dicts of tensors for the given lists of positions, in order.

    Raises:
        InputError: an image cannot be read; the message names it.
    """
    loader = paddle.io.DataLoader(items, batch_sampler=_Batches(batches), num_workers=num_workers,
                                  collate_fn=functools.partial(collate, spec=items.spec), return_list=True)
    for batch in loader:
        if "error" in batch:
            raise InputError(batch["error"].numpy().tobytes().decode("utf-8"))
        yield batch


class _Batches(paddle.io.BatchSampler):
    """Fixed batches of positions in the form that DataLoader takes."""

    def __init__(self, batches):
        self.batches = [batch.tolist() for batch in batches]

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


def cached_batches(split, features, batches, views=0, seed=0, epoch=0):
    """As ``load_batches``, from backbone features computed before.

    Args:
        features: float32 [N, ...], or [N, V, ...] where ``views`` of V augmented views are to be drawn per item.
        views: 0 = ``features`` has no axis of views.
    """
    for positions in batches:
        batch = {"index": paddle.to_tensor(positions.astype("int64"))}
        if views:
            drawn = np.stack([item_rng(seed, epoch, i).permutation(features.shape[1])[:views]
                              for i in positions])
        for view in range(max(views, 1)):
            rows = features[positions, drawn[:, view]] if views else features[positions]
            batch[f"feature{view}"] = paddle.to_tensor(np.ascontiguousarray(rows))
        if split.labels is not None:
            batch["label"] = paddle.to_tensor(split.labels[positions].astype("float32"))
        if split.text_features is not None:
            batch["text"] = paddle.to_tensor(np.asarray(split.text_features[positions], dtype="float32"))
        yield batch


def shard(n):
    """This rank's contiguous range of ``n`` positions; the ranges of all ranks in order make 0..n-1."""
    pieces = np.array_split(np.arange(n), world_size())
    return pieces[rank()]
