"""Augmentations as numbers: what a recipe says, and the named sets of numbers. utils/transforms.py draws them."""
import dataclasses
import math
from typing import Tuple

from utils.settings import Setting


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How a training view is drawn. A step whose probability is 0 is left out, and draws no random number.

    Attributes:
        crop: ``centre``: as in evaluation. ``random``: shorter side to ``resize_size``, then a random place.
            ``resized``: a random box of the picture, resized to ``crop_size`` (torchvision's RandomResizedCrop).
        crop_scale: smallest area of that box, as a share of the picture's.
        crop_aspect: its largest ratio of the sides, either way.
        jitter: brightness, contrast, saturation: factors between 1 - x and 1 + x; hue: turned by at most x of the
            circle. In random order (torchvision's ColorJitter).
        jitter_p, grey_p, blur_p, flip_p: probabilities, in this order.
        blur_sigma: smallest and largest standard deviation of the Gaussian blur, pixels.
        blur_kernel: its width, pixels, odd; 0 = as wide as the deviation asks for.
    """

    crop: str = "centre"
    crop_scale: float = 0.2
    crop_aspect: float = 4 / 3
    jitter: Tuple[float, ...] = (0.4, 0.4, 0.4, 0.1)
    jitter_p: float = 0.0
    grey_p: float = 0.0
    blur_p: float = 0.0
    blur_sigma: Tuple[float, ...] = (0.1, 2.0)
    blur_kernel: int = 0
    flip_p: float = 0.0

    @property
    def box(self):
        """(smallest area, largest aspect) of the box that is cut out before the picture is resized; None without."""
        return (self.crop_scale, self.crop_aspect) if self.crop == "resized" else None


PRESETS = {
    "none": Augmentation(),
    "crop_flip": Augmentation("random", flip_p=0.5),
    "simclr": Augmentation("resized", jitter_p=0.8, grey_p=0.2, blur_p=0.5, flip_p=0.5),
}


def _numbers(count, names):
    """The ``kind`` of a Setting that takes ``count`` numbers of at least 0: a list, or a text with commas."""
    def convert(value):
        parts = value if isinstance(value, (list, tuple)) else str(value).strip("[]()").split(",")
        try:
            found = [float(part) for part in parts]
        except (TypeError, ValueError):
            found = []
        if len(found) != count or not all(0 <= number < math.inf for number in found):
            raise ValueError(f"{count} numbers of at least 0: {names}")
        return found
    return convert


def _jitter(value):
    found = _numbers(4, "brightness, contrast, saturation, hue")(value)
    if found[3] > 0.5:
        raise ValueError("a hue of at most 0.5, half of the circle")
    return found


def _sigma(value):
    low, high = _numbers(2, "smallest, largest")(value)
    if not 0 < low <= high:
        raise ValueError("the smallest before the largest, both above 0")
    return [low, high]


def _kernel(value):
    if not str(value).isdigit() or int(value) and int(value) % 2 == 0:
        raise ValueError("an odd number of pixels, or 0")
    return int(value)


SETTINGS = {
    "augment": Setting("crop_flip", "training images: a set of the numbers below", choices=tuple(PRESETS)),
    "crop": Setting(None, "centre, random, resized", choices=("centre", "random", "resized"), shown="X"),
    "crop_scale": Setting(None, "resized: smallest area", kind=float, above=0, high=1, shown="X"),
    "crop_aspect": Setting(None, "resized: largest ratio", kind=float, low=1, shown="X"),
    "jitter": Setting(None, "of B,C,S,H: .4,.4,.4,.1", kind=_jitter, shown="X"),
    **{key: Setting(None, "probabilities", kind=float, low=0, high=1, shown="X")
       for key in ("jitter_p", "grey_p", "blur_p", "flip_p")},
    "blur_sigma": Setting(None, "from,to: .1,2", kind=_sigma, shown="X"),
    "blur_kernel": Setting(None, "odd; 0 = by the sigma", kind=_kernel, shown="X"),
}


def augmentation(recipe):
    """The Augmentation of a recipe: the numbers of its ``augment``, replaced by those that it names itself."""
    own = {field.name: recipe.get(field.name) for field in dataclasses.fields(Augmentation)}
    own = {key: tuple(value) if isinstance(value, list) else value for key, value in own.items() if value is not None}
    return dataclasses.replace(PRESETS[recipe["augment"]], **own)


def augmentation_key(chosen):
    """What tells an Augmentation from others, as plain values: the name of the equal preset, else all numbers."""
    names = [name for name, preset in PRESETS.items() if preset == chosen]
    return names[0] if names else dataclasses.asdict(chosen)
