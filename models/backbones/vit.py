"""Plain vision transformers (ViT, DeiT): any size of one, another picture size, another grid of positions."""
import importlib
from fractions import Fraction

import numpy as np
from paddle import nn

from models.backbones.names import whole_number
from models.backbones.wheel import paddleclas
from utils.errors import InputError

_DEFAULTS = {"patch": 16, "dim": 32, "depth": 2, "heads": 4}
_LARGEST_GRID = 256   # patches a side of a file's position embedding
_OPTIONS = (*_DEFAULTS, "mlp", "mlp_width")


def small_vit(name, options, image_size):
    """A vision transformer of any size, PaddleClas' class with Google's settings (LayerNorm eps 1e-6).

    Args:
        name: as the user wrote it, for messages.
        options: dict of texts: ``patch``, ``dim``, ``depth``, ``heads``, and the width of the MLP either as ``mlp``, a
            multiple of ``dim`` (2, or 1.5), or as ``mlp_width``, in channels.
        image_size: pixels.

    Returns:
        (network, its full name).
    """
    sizes = dict(_DEFAULTS)
    for key, value in options.items():
        if key not in _OPTIONS:
            raise InputError(f"backbone {name!r}: there is no option {key}; there are {', '.join(_OPTIONS)}")
        if key in sizes:
            sizes[key] = whole_number(value)
        if key != "mlp" and whole_number(value) is None:
            raise InputError(f"backbone {name!r}: {key}={value}: a whole number from 1 to 65536 is wanted")
    if sizes["dim"] % sizes["heads"]:
        raise InputError(f"backbone {name!r}: dim {sizes['dim']} is not a multiple of heads {sizes['heads']}")
    check_patches(name, image_size, sizes["patch"])
    width = _mlp_width(name, options, sizes["dim"])
    module = importlib.import_module(paddleclas().__name__ + ".model_zoo.vision_transformer")
    net = module.VisionTransformer(
        img_size=image_size, patch_size=sizes["patch"], embed_dim=sizes["dim"], depth=sizes["depth"],
        num_heads=sizes["heads"], mlp_ratio=(width + 0.5) / sizes["dim"],   # PaddleClas rounds dim * ratio down
        qkv_bias=True, epsilon=1e-6)
    # names from before mlp_width stay as they were
    mlp = f"mlp={width // sizes['dim']}" if width % sizes["dim"] == 0 else f"mlp_width={width}"
    return net, "ViT:" + ",".join([*(f"{key}={value}" for key, value in sizes.items()), mlp])


def _mlp_width(name, options, dim):
    if "mlp_width" in options:
        if "mlp" in options:
            raise InputError(f"backbone {name!r}: give mlp (a multiple of dim) or mlp_width (channels), not both")
        return int(options["mlp_width"])
    ratio = options.get("mlp", "2")
    try:
        width = Fraction(ratio) * dim if len(ratio) < 10 and "/" not in ratio and "e" not in ratio.lower() else 0
    except ValueError:
        width = 0
    if width < 1 or width.denominator != 1 or whole_number(str(width)) is None:
        raise InputError(f"backbone {name!r}: mlp={ratio}: wanted is the width of the MLP as a multiple of dim {dim}, "
                         "such as 2 or 1.5, that makes a whole number; or give mlp_width=<channels>")
    return int(width)


def check_patches(name, image_size, patch):
    """InputError where patches do not fill a picture."""
    if image_size % patch:
        raise InputError(f"backbone {name}: crop size {image_size} is not a multiple of its patch size {patch}")


def is_vit(net):
    """Is this PaddleClas' plain vision transformer (ViT, DeiT), with one grid of position embeddings?"""
    return all(hasattr(net, part) for part in ("patch_embed", "pos_embed", "cls_token", "blocks", "norm"))


def resize_vit(name, net, image_size):
    """Give a freshly built ViT the grid of ``image_size`` pixels; its position embedding is drawn anew."""
    patches = net.patch_embed
    if not hasattr(patches, "img_size") or patches.img_size[0] == image_size:
        return
    patch = patches.patch_size[0]
    check_patches(name, image_size, patch)
    extra = net.pos_embed.shape[1] - patches.num_patches
    patches.img_size = (image_size, image_size)
    patches.num_patches = (image_size // patch) ** 2
    net.pos_embed = net.create_parameter(
        shape=[1, patches.num_patches + extra, net.pos_embed.shape[2]],
        default_initializer=nn.initializer.TruncatedNormal(std=0.02))


def resize_grid(grid, size):
    """Bilinear resize of [h, w, C] to [size, size, C] with aligned corners (scipy.ndimage.zoom of order 1)."""
    def weights(old):
        at = np.linspace(0, old - 1, size) if size > 1 else np.zeros(1)
        return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(old)[None, :]))   # [size, old]
    rows, columns = weights(grid.shape[0]), weights(grid.shape[1])
    return np.einsum("ia,jb,abc->ijc", rows, columns, grid.astype("float64"))


def resize_position_embedding(embedding, tokens, extra=1):
    """Position embedding [1, extra + old, D] for another number of patches: [1, tokens, D].

    The rows of the ``extra`` (class, distillation) tokens are kept, the square grid is resized.
    """
    old, new = (int(round(max(0, count - extra) ** 0.5)) for count in (embedding.shape[1], tokens))
    if embedding.shape[1] == tokens or old * old + extra != embedding.shape[1] or not new or old > _LARGEST_GRID:
        return embedding    # nothing to do, or no such grid: the shapes will be compared
    grid = resize_grid(embedding[0, extra:].reshape(old, old, -1), new).reshape(new * new, -1)
    return np.concatenate([embedding[:, :extra], grid[None].astype(embedding.dtype)], axis=1)
