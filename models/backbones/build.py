"""A backbone by name, with its weights: the one way in."""
from paddle.utils import unique_name

from models.backbones.networks import Backbone, ConvNet, Precomputed, build_net, split_name
from models.backbones.pretrained import download, load_into
from utils.errors import InputError


def build_backbone(name, weights=None, pretrained=True, image_size=224):
    """Build a network by name, cut before its classifier; parameters follow ``paddle.seed``.

    Args:
        name: a PaddleClas architecture (any spelling of upper and lower case), with options as above.
        weights: a weight file (models/backbones/pretrained.py says which kinds), or None.
        pretrained: without ``weights``, fetch PaddleClas' ImageNet weights; False leaves the network random.
        image_size: pixels of the square pictures (the recipe's crop_size); ViT's position embedding follows.

    Returns:
        Backbone in training mode.

    Raises:
        InputError: unknown name, a network that cannot be cut or cannot take the size, unreadable or
            mismatched weights, a failed download.
    """
    base, options = split_name(name)
    if base == "precomputed":
        dim = next(iter(options), "")
        if not dim.isdigit() or int(dim) < 1:
            raise InputError(f"backbone {name!r}: write precomputed:<dim>, such as precomputed:512")
        return Precomputed(int(dim))
    if base.lower() == "convnet":
        width = options.pop("width", "16")
        if options or not width.isdigit() or int(width) < 1:
            raise InputError(f"backbone {name!r}: write ConvNet or ConvNet:width=<channels>")
        if weights or pretrained:
            raise InputError("ConvNet has no ImageNet weights; add --no-pretrained")
        return ConvNet(int(width), image_size)
    # some networks name their weights outright, and Paddle refuses a second one with the same names
    prefix = unique_name.generate("backbone") + "."
    with unique_name.guard(""):
        net, full = build_net(name, base, options, image_size)
    for tensor in [*net.parameters(), *net.buffers()]:
        tensor.name = prefix + tensor.name
    backbone = Backbone(full, net, image_size)
    if weights or pretrained:
        load_into(backbone, weights or download(backbone), extra_ok=not weights)
    return backbone
