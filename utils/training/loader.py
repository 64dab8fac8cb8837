"""Splits -> batches of tensors. What an item looks like depends on (seed, epoch, position) only.

So the number of workers, of ranks, and of earlier epochs never changes the data.
"""
import numpy as np
import paddle

from utils.images import read
from utils.prefetch import ordered
from utils.training.distributed import rank, world_size
from utils.training.seeding import derive
from utils.transforms import byte_tables, centre, item_rng, normalise, vary


class Items:
    """Items of a split, as the places of a batch want them.

    Args:
        split: utils.datasets.base.Split.
        spec: preprocessing dict (utils/transforms.py).
        views: augmented views per image (``image0``, ``image1``); 0 gives one un-augmented view.
        numbers: utils.augmentation.Augmentation; None where there are no augmented views.
        seed: seed of the augmentation.
    """

    def __init__(self, split, spec, views=0, numbers=None, seed=0):
        self.split, self.spec, self.views, self.numbers, self.seed = split, spec, views, numbers, seed
        self.epoch = 0

    def __len__(self):
        return len(self.split)

    def columns(self, positions):
        """What needs no picture: dict of arrays for a batch of positions."""
        batch = {"index": np.asarray(positions, "int64")}
        for name, column in (("label", self.split.labels), ("text", self.split.text_features),
                             ("feature0", self.split.features)):
            if column is not None:
                batch[name] = np.asarray(column[positions], dtype="float32")
        return batch

    def pictures(self, position):
        """The views of one picture: list of uint8 [crop, crop, 3]. Raises InputError, which names the picture."""
        image = read(self.split.images, position, self.spec, self.numbers.box if self.views else None)
        if not self.views:
            return [centre(image, self.spec)]
        return [vary(image, self.spec, self.numbers, item_rng(self.seed, self.epoch, position, view))
                for view in range(self.views)]


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


def load_batches(items, batches, workers=0):
    """Yield dicts of tensors for the given lists of positions, in order.

    Args:
        items: Items.
        batches: list of int64 arrays of positions.
        workers: threads that decode, and augment, two batches ahead; they never change the data.

    Raises:
        InputError: an image cannot be read; the message names it.
    """
    on_gpu = paddle.get_device().startswith("gpu")
    def fill(place):
        batch, row, position = place
        for view, image in enumerate(items.pictures(position)):
            if on_gpu:
                batch[f"image{view}"][row] = image
            else:
                normalise(image, items.spec, batch[f"image{view}"][row])
        return batch

    def places():
        crop = items.spec["crop_size"]
        shape, kind = ([crop, crop, 3], "uint8") if on_gpu else ([3, crop, crop], "float32")
        for positions in batches:
            batch = items.columns(positions)
            for view in range(max(items.views, 1)):
                batch[f"image{view}"] = np.empty([len(positions), *shape], kind)
            yield from ((batch, row, position) for row, position in enumerate(positions))

    if items.split.features is not None:
        yield from ({key: paddle.to_tensor(value) for key, value in items.columns(positions).items()}
                    for positions in batches)
        return
    done = ordered(fill, places(), workers, 2 * max(map(len, batches), default=0))
    for positions in batches:
        for _ in positions:
            batch = next(done)
        tensors = {key: paddle.to_tensor(value) for key, value in batch.items()}
        if on_gpu:
            tensors.update({key: normalise_on_device(value, items.spec) for key, value in tensors.items()
                            if key.startswith("image")})
        yield tensors


def normalise_on_device(images, spec):
    """utils.transforms.normalise for a batch on its device, bit for bit: a quarter of the bytes travel there.

    Args:
        images: uint8 tensor [N, crop, crop, 3].
        spec: preprocessing dict.

    Returns:
        float32 [N, 3, crop, crop].
    """
    tables = paddle.to_tensor(byte_tables(tuple(spec["mean"]), tuple(spec["std"]))[:, 0])
    channels = [paddle.gather(table, images[..., channel].flatten().astype("int32")).reshape(images.shape[:3])
                for channel, table in enumerate(tables)]
    return paddle.stack(channels, axis=1)


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
