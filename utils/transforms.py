"""From pixels to a network's input; the same code for training, evaluation and deployment.

Resizing. cv2.INTER_AREA when shrinking (every source pixel counts, no aliasing), cv2.INTER_LINEAR when enlarging.

Randomness. Only from the numpy Generator that is passed in; ``item_rng`` makes one from (seed, epoch, index, view),
so an item is the same whichever worker or rank prepares it, and in whatever order.
"""
import functools

import cv2
import numpy as np

from utils import limits
from utils.errors import InputError
from utils.images import DECODES, short_size

STRIP = 16  # see resize_short
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def preprocess_spec(resize_size=256, crop_size=224, mean=IMAGENET_MEAN, std=IMAGENET_STD, decode="full"):
    """The plain dict that travels with a model: how an image becomes its input.

    ``decode`` is in it only when it is not ``full``, so that models made before it existed keep their fingerprints.

    Raises:
        InputError: sizes below 1, a crop larger than the resized image, or an unknown way of decoding.
    """
    if not 1 <= crop_size <= resize_size:
        raise InputError(f"crop_size {crop_size} must be between 1 and resize_size {resize_size}")
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise InputError(f"mean {list(mean)} and std {list(std)} must be 3 numbers each, std above 0")
    if decode not in DECODES:
        raise InputError(f"unknown decode '{decode}', choose one of: {', '.join(DECODES)}")
    return {"resize_size": int(resize_size), "crop_size": int(crop_size),
            "mean": [float(v) for v in mean], "std": [float(v) for v in std],
            **({} if decode == "full" else {"decode": decode})}


def recipe_spec(recipe):
    """The preprocessing of a recipe (or of a checkpoint's, which may be older than its ``decode`` key)."""
    return preprocess_spec(recipe["resize_size"], recipe["crop_size"], decode=recipe.get("decode", "full"))


def preprocess(image, spec):
    """Evaluation path: shorter side to ``resize_size``, centre crop, normalise.

    Args:
        image: uint8 [H, W, 3] RGB.
        spec: dict of ``preprocess_spec``.

    Returns:
        float32 [3, crop, crop].
    """
    return normalise(centre(image, spec), spec)


def centre(image, spec):
    """``preprocess`` without the last step: uint8 [crop, crop, 3], a view where that is possible."""
    crop = spec["crop_size"]
    image = resize_short(image, spec["resize_size"])
    top, left = (image.shape[0] - crop) // 2, (image.shape[1] - crop) // 2
    return image[top:top + crop, left:left + crop]


def augment(image, spec, numbers, rng):
    """Training path: ``vary``, normalised to float32 [3, crop, crop]."""
    return normalise(vary(image, spec, numbers, rng), spec)


def vary(image, spec, numbers, rng):
    """One random view of a picture.

    Args:
        image: uint8 [H, W, 3] RGB.
        spec: dict of ``preprocess_spec``.
        numbers: utils.augmentation.Augmentation; its crop, then jitter, grey, blur and flip.
        rng: numpy Generator, the only source of randomness.

    Returns:
        uint8 [crop, crop, 3].
    """
    image = _crop(image, spec, numbers, rng)
    if numbers.jitter_p and rng.random() < numbers.jitter_p:
        image = _colour_jitter(image, numbers.jitter, rng)
    if numbers.grey_p and rng.random() < numbers.grey_p:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if numbers.blur_p and rng.random() < numbers.blur_p:
        image = cv2.GaussianBlur(image, (numbers.blur_kernel,) * 2, rng.uniform(*numbers.blur_sigma))
    if numbers.flip_p and rng.random() < numbers.flip_p:
        image = cv2.flip(image, 1)
    return image


def _crop(image, spec, numbers, rng):
    """uint8 [crop, crop, 3] of a picture."""
    crop = spec["crop_size"]
    if numbers.crop == "centre":
        return centre(image, spec)
    if numbers.crop == "random":
        image = resize_short(image, spec["resize_size"])
        top = int(rng.integers(image.shape[0] - crop + 1))
        left = int(rng.integers(image.shape[1] - crop + 1))
        return image[top:top + crop, left:left + crop]
    top, left, height, width = _random_box(image.shape[0], image.shape[1], numbers.box, rng)
    return resize(image[top:top + height, left:left + width], crop, crop)


def item_rng(seed, epoch, index, view=0):
    """The Generator of one view of one item in one epoch; the same on every worker and rank."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch, index, view))))


def resize(image, width, height):
    """uint8 [H, W, 3] -> uint8 [height, width, 3]; antialiased when shrinking."""
    if image.shape[0] == height and image.shape[1] == width:
        return image
    shrink = width * height < image.shape[0] * image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)


def resize_short(image, size):
    """uint8 [H, W, 3] -> the shorter side has ``size`` pixels, the longer side keeps the aspect (rounded down).

    Of a strip so long that the result would pass the limit of pixels (2 x 3000 at 256 would be 256 x 384,000), only the
    middle is kept, ``STRIP`` times as long as wide: no crop sees more, and every other picture stays as it is.
    """
    wide, high = short_size(image.shape[1], image.shape[0], size)
    if wide * high > limits.limit(limits.PIXELS):
        image = _middle(image, STRIP * min(image.shape[:2]))
        wide, high = short_size(image.shape[1], image.shape[0], size)
    return resize(image, wide, high)


def _middle(image, most):
    """The middle of a picture, at most ``most`` pixels along each side; a view."""
    height, width = (min(side, most) for side in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top:top + height, left:left + width]


def normalise(image, spec, result=None):
    """uint8 [H, W, 3] -> float32 [3, H, W], (x / 255 - mean) / std.

    One table look-up per value: 256 possible inputs a channel, so the result is exact and the same everywhere.

    Args:
        result: float32 [3, H, W], contiguous, to write to (a place in a batch); None = a new array.
    """
    tables = byte_tables(tuple(spec["mean"]), tuple(spec["std"]))
    if result is None:
        result = np.empty((3,) + image.shape[:2], np.float32)
    for channel in range(3):
        cv2.LUT(cv2.extractChannel(image, channel), tables[channel], dst=result[channel])
    return result


@functools.lru_cache(maxsize=8)
def byte_tables(mean, std):
    """float32 [3, 1, 256]: the normalised value of each byte."""
    values = np.arange(256) / 255
    return ((values - np.array(mean)[:, None]) / np.array(std)[:, None]).astype(np.float32)[:, None]


# random pieces -----------------------------------------------------------------------------------
def _random_box(height, width, box, rng):
    """(top, left, height, width) of a box of the area and aspect that ``box`` allows; 10 tries, then the centre."""
    least, ratio = box
    for _ in range(10):
        area = height * width * rng.uniform(least, 1.0)
        aspect = np.exp(rng.uniform(np.log(1 / ratio), np.log(ratio)))
        w, h = int(round((area * aspect) ** 0.5)), int(round((area / aspect) ** 0.5))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w, h = min(width, max(1, int(height * ratio))), min(height, max(1, int(width * ratio)))
    return (height - h) // 2, (width - w) // 2, h, w


def _colour_jitter(image, jitter, rng):
    """Brightness, contrast and saturation by random factors, hue by a random turn, in random order."""
    reach = np.array(jitter[:3])
    factors = rng.uniform(np.maximum(1 - reach, 0), 1 + reach)
    turn = rng.uniform(-jitter[3], jitter[3])
    for step in rng.permutation(4):
        if step == 0:
            image = _scale(image, factors[0], 0.0)
        elif step == 1:
            mean = np.rint(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0])
            image = _scale(image, factors[1], mean * (1 - factors[1]))
        elif step == 2:
            # blend with the grey value: f * I + (1 - f) * [luma; luma; luma]
            matrix = factors[2] * np.eye(3) + (1 - factors[2]) * np.array([0.299, 0.587, 0.114])
            image = cv2.transform(image, matrix)
        else:
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
            hsv[..., 0] += np.uint8(int(np.rint(turn * 256)) % 256)  # wraps round the colour circle
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    return image


def _scale(image, factor, offset):
    """clip(image * factor + offset) by a table of 256 values."""
    table = np.clip(np.rint(np.arange(256) * factor + offset), 0, 255).astype(np.uint8)
    return cv2.LUT(image, table)
