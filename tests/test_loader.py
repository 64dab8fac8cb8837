"""Order and content of the batches: a function of (seed, epoch, position), whatever the workers and ranks."""
import threading

import cv2
import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import utils.training.loader as loader
from utils import images, transforms
from utils.augmentation import PRESETS
from utils.datasets import Split
from utils.errors import InputError

SPEC = {"resize_size": 40, "crop_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}


class Pictures:
    """Random pictures; one of them unreadable if asked."""

    def __init__(self, n, broken=None):
        self.n, self.broken = n, broken

    def __len__(self):
        return self.n

    def read(self, i):
        if i == self.broken:
            raise InputError(f"picture {i}.jpg is truncated")
        return np.random.default_rng(i).integers(0, 256, (48, 60, 3), dtype="uint8")


def split(n, **more):
    return Split(name="train", ids=[f"{i}.jpg" for i in range(n)], labels=np.eye(4, dtype="uint8")[np.arange(n) % 4],
                 images=Pictures(n, **more))


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 60), size=st.integers(1, 9), world=st.integers(1, 4), epoch=st.integers(0, 3),
       drop=st.booleans())
def test_ranks_share_the_global_batches(n, size, world, epoch, drop):
    def order(r, w, b):
        loader.rank, loader.world_size = lambda: r, lambda: w
        return loader.epoch_order(n, b, 7, epoch, drop)
    saved = loader.rank, loader.world_size
    try:
        single = order(0, 1, size * world)
        ranks = [order(r, world, size) for r in range(world)]
    finally:
        loader.rank, loader.world_size = saved
    whole = [np.concatenate(parts) for parts in zip(*ranks)]
    assert len({tuple(map(len, rank)) for rank in ranks}) == 1  # gathering needs equal sizes
    for one, many in zip(single, whole):
        assert np.array_equal(one[:len(many)], many) and len(one) - len(many) < world
    seen = np.concatenate(whole) if whole else np.zeros(0, int)
    assert len(set(seen)) == len(seen) and (drop or n - len(seen) < world)


def test_epochs_and_seeds_differ():
    orders = {tuple(np.concatenate(loader.epoch_order(50, 8, seed, epoch, False)))
              for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


@pytest.mark.parametrize("kind", ["crop_flip", "simclr"])
def test_workers_never_change_the_data(kind):
    def read(workers, epoch=1):
        items = loader.Items(split(12), SPEC, views=2, numbers=PRESETS[kind], seed=3)
        items.epoch = epoch
        return [{key: value.numpy() for key, value in batch.items()}
                for batch in loader.load_batches(items, loader.epoch_order(12, 4, 3, epoch, False), workers)]
    plain, ahead, later = read(0), read(2), read(0, epoch=2)
    for a, b in zip(plain, ahead):
        assert a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)
        assert not np.array_equal(a["image0"], a["image1"])
    assert not np.array_equal(plain[0]["image0"], later[0]["image0"])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_one_named_error(workers):
    items = loader.Items(split(6, broken=4), SPEC)
    with pytest.raises(InputError, match="picture 4.jpg is truncated"):
        list(loader.load_batches(items, [np.arange(3), np.arange(3, 6)], workers))


class Files:
    """Encoded pictures, as FileImages and shards hold them."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def source(self, i):
        image = np.random.default_rng(i).integers(0, 256, (6, 8, 3), dtype="uint8")
        image = cv2.resize(image, (160, 120 + i), interpolation=cv2.INTER_CUBIC)
        return cv2.imencode(".jpg", image)[1].tobytes(), f"{i}.jpg"


@pytest.mark.parametrize("decode", images.DECODES)
@pytest.mark.parametrize("kind, views", [("none", 0), ("crop_flip", 1), ("simclr", 2)])
def test_a_batch_holds_what_single_pictures_give(decode, kind, views):
    """One code path: the loader's batches are bit by bit what decode + preprocess or augment give."""
    spec = transforms.preprocess_spec(40, 32, decode=decode)
    items = loader.Items(Split(name="train", ids=list("abcde"), images=Files(5)), spec, views, PRESETS[kind], seed=2)
    items.epoch = 1
    for workers in (0, 1):
        batch, = loader.load_batches(items, [np.array([4, 0, 3])], workers)
        for row, position in enumerate((4, 0, 3)):
            data, _ = items.split.images.source(position)
            image = images.decode(data, spec=spec, box=PRESETS[kind].box)
            for view in range(max(views, 1)):
                rng = transforms.item_rng(2, 1, position, view)
                want = (transforms.augment(image, spec, PRESETS[kind], rng) if views else
                        transforms.preprocess(image, spec))
                assert np.array_equal(batch[f"image{view}"].numpy()[row], want)


def test_reduced_decoding_reaches_the_batches():
    """A picture large enough gives other pixels by reduced decoding, and near ones."""
    batches = [next(iter(loader.load_batches(loader.Items(
        Split(name="query", ids=["a"], images=Files(1)), transforms.preprocess_spec(40, 32, decode=decode)),
        [np.array([0])])))["image0"].numpy() for decode in images.DECODES]
    assert 0 < np.abs(batches[0] - batches[1]).mean() < 0.05


@pytest.mark.parametrize("decode", images.DECODES)
def test_normalising_on_the_device_gives_the_same_bits(decode):
    spec = transforms.preprocess_spec(40, 32, decode=decode)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype="uint8")
    want = np.stack([transforms.normalise(picture, spec) for picture in pixels])
    assert np.array_equal(loader.normalise_on_device(paddle.to_tensor(pixels), spec).numpy(), want)


def test_a_consumer_that_stops_early_leaves_no_threads():
    before = threading.active_count()
    batches = loader.load_batches(loader.Items(split(40), SPEC), [np.arange(i, i + 4) for i in range(0, 40, 4)], 3)
    next(batches)
    batches.close()
    assert threading.active_count() == before


@pytest.mark.slow
def test_two_hundred_epochs_beside_other_work_end():
    """Forked workers once stood still under load; threads must not."""
    stop = threading.Event()

    def load():
        while not stop.is_set():
            np.linalg.norm(np.random.default_rng(0).standard_normal((300, 300)) @ np.ones((300, 300)))
    others = [threading.Thread(target=load, daemon=True) for _ in range(4)]
    for thread in others:
        thread.start()
    try:
        items = loader.Items(split(64), SPEC, views=1, numbers=PRESETS["crop_flip"])
        seen = 0
        for epoch in range(200):
            items.epoch = epoch
            for batch in loader.load_batches(items, loader.epoch_order(64, 16, 0, epoch, False), 2):
                seen += int(paddle.matmul(batch["image0"].flatten(1), batch["image0"].flatten(1).t()).shape[0])
        assert seen == 200 * 64
    finally:
        stop.set()
