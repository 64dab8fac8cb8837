"""A backbone by name, with its weights: the one way in."""
from paddle.utils import unique_name

from models.backbones.adapt import LIKE_TORCHVISION, adapt, as_torchvision
from models.backbones.backbone import Backbone
from models.backbones.convnet import ConvNet
from models.backbones.download import download
from models.backbones.names import known_name, split_name, whole_number
from models.backbones.precomputed import Precomputed
from models.backbones.pretrained import load_into
from models.backbones.quick_cpu import quicken
from models.backbones.vit import is_vit, resize_vit, small_vit
from models.backbones.wheel import factories
from utils.errors import InputError


def build_backbone(name, weights=None, pretrained=True, image_size=224):
    """Build a network by name, cut before its classifier; parameters follow ``paddle.seed``.

    Args:
        name: a PaddleClas architecture, in upper or lower case, with options (models/backbones/names.py).
        weights: a weight file (models/backbones/renames.py says whose), or None.
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
        if len(options) > 1 or whole_number(dim, 10**8) is None:
            raise InputError(f"backbone {name!r}: write precomputed:<dim>, such as precomputed:512")
        return Precomputed(int(dim))
    if base.lower() == "convnet":
        width = options.pop("width", "16")
        if options or whole_number(width) is None:
            raise InputError(f"backbone {name!r}: write ConvNet or ConvNet:width=<channels>")
        if weights or pretrained:
            raise InputError("ConvNet has no ImageNet weights; add --no-pretrained")
        return ConvNet(int(width), image_size)
    # some networks name their weights outright, and Paddle refuses a second one with the same names
    prefix = unique_name.generate("backbone") + "."
    with unique_name.guard(""):
        net, full = _build_net(name, base, options, image_size)
    for tensor in [*net.parameters(), *net.buffers()]:
        tensor.name = prefix + tensor.name
    backbone = Backbone(full, net, image_size)
    if weights or pretrained:
        load_into(backbone, weights or download(backbone), extra_ok=not weights)
    return backbone


def _build_net(name, base, options, image_size):
    """The whole network (with its classifier) and its full name."""
    if base.lower() == "vit":
        return small_vit(name, options, image_size)
    full = known_name(base)
    if set(options) - {LIKE_TORCHVISION}:
        raise InputError(f"backbone {name!r}: {full} has the one option :{LIKE_TORCHVISION}")
    try:
        net = factories()[full](pretrained=False)
    except Exception as error:   # a few variants want arguments or files of their own
        raise InputError(f"backbone {full} cannot be built ({type(error).__name__}: {error}); "
                         "choose another") from error
    if is_vit(net):
        resize_vit(full, net, image_size)
    if LIKE_TORCHVISION in options and as_torchvision(net):
        full += ":" + LIKE_TORCHVISION
    adapt(net, image_size)
    quicken(net)
    return net, full
