"""Names of backbones: the parts of one, and the nearest to one that does not exist.

A name may carry options after a colon:
    ``SqueezeNet1_1:torchvision``   the network as torchvision has it, see adapt.py
    ``ViT:patch=16,dim=32,depth=2,heads=4,mlp=2``   a vision transformer of any size, see vit.py
    ``ConvNet:width=16``            six convolutions of our own, for small pictures from scratch
    ``precomputed:512``             features in, features out
"""
import difflib
import re

from models.backbones.wheel import list_backbones
from utils.errors import InputError

OWN = ("ViT", "ConvNet", "precomputed")   # not PaddleClas' architectures
MOST_CHANNELS = 65_536   # more would only run out of memory
# how other libraries say it: vit_b_16, ViT-B/16, swin_t, convnext_tiny, vgg16_bn
_SIZES = {"ti": "tiny", "t": "tiny", "s": "small", "b": "base", "l": "large", "h": "huge", "g": "giant"}
_SIZED = ("vit", "deit", "swin", "swinv", "convnext", "clip", "mae")
_FAMILIES = {"swin": "swintransformer", "swinv": "swintransformerv", "bn": ""}


def split_name(name):
    """``"ViT:patch=16,dim=32"`` -> ("ViT", {"patch": "16", "dim": "32"}); a bare option maps to ""."""
    base, _, tail = str(name).partition(":")
    options = {}
    for part in filter(None, tail.split(",")):
        key, _, value = part.partition("=")
        options[key.strip()] = value.strip()
    return base.strip(), options


def whole_number(text, most=MOST_CHANNELS):
    """The value of an option, 1 to ``most``, or None for anything else."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) and 1 <= int(text) <= most else None


def known_name(base):
    """PaddleClas' own spelling of an architecture, whatever its upper and lower case.

    Raises:
        InputError: there is none; names the nearest.
    """
    names = list_backbones()
    same = {name.lower(): name for name in names}
    if base.lower() in same:
        return same[base.lower()]
    near = nearest_names(base, [*names, *OWN])
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise InputError(f"unknown backbone {base!r}{hint} (models.backbones.wheel.list_backbones() lists {len(names)})")


def nearest_names(base, names):
    """Up to three of ``names`` that ``base`` may mean: the same letters, the same beginning, or alike."""
    keys = {_letters(name): name for name in names}
    wanted = _as_paddleclas(base)
    if wanted in keys:
        return [keys[wanted]]
    longer = [key for key in keys if len(wanted) > 2 and key.startswith(wanted)]
    longer.sort(key=lambda key: (len(key), key))
    return [keys[key] for key in longer[:3] or difflib.get_close_matches(wanted, list(keys), 3, 0.6)]


def _letters(name):
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _as_paddleclas(base):
    """The letters of a name as PaddleClas would have it: ``google/vit-b_16`` -> ``vitbasepatch16``."""
    base = re.sub(r"^[a-z]+/(?=[a-z])", "", base.lower())   # the owner's name of a model hub
    words = re.findall(r"[a-z]+|[0-9]+", base)
    if words and words[0] in _SIZED:
        words[1:] = [_SIZES.get(word, word) for word in words[1:]]
    if words and words[0] in ("vit", "deit") and "patch" not in words:
        size = next((word for word in words if word in ("8", "14", "16", "32")), None)
        words = [part for word in words for part in (("patch", word) if word == size else (word,))]
    return "".join(_FAMILIES.get(word, word) for word in words)
