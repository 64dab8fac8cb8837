"""Names and layouts of other projects -> those of the network here.

What is understood (models/backbones/weight_files.py has the file formats):

* PaddleClas names, any architecture; paddle.vision's AlexNet, SqueezeNet, VGG and ResNet.
* torchvision names: AlexNet, VGG11/13/16/19, ResNet18..152, SqueezeNet 1.0 and 1.1. Where torchvision's
  network differs in structure the backbone is changed to it (``Backbone.as_torchvision``).
* paddle_hashnet's AlexNet, whose fc6 and fc7 lie in ``classifier_plus``.
* Google's ViT ``.npz`` (ViT-B_16.npz ...), and torch files whose names agree with PaddleClas' (timm ViT and DeiT).

Dropout convention of AlexNet and VGG: PaddleClas and paddle.vision (AlexNet) train with dropout that multiplies by
0.5 in evaluation, torchvision with dropout that multiplies by 2 in training. The names tell which it is: files with
PaddleClas names are of the first kind, and the weights behind a dropout are halved; ours is the second kind.
"""
import re

import numpy as np
from paddle import nn

from models.backbones.vit import is_vit, resize_position_embedding

# layers whose input PaddleClas halves in evaluation
_HALVED = {"AlexNetDY": ("_fc6", "_fc7"), "VGGNet": ("fc2",)}
_WHOLE = ("module.", "_orig_mod.")   # torch's DataParallel and compile put them before every name
_MOST_PREFIXES = 8
_PART = ("backbone.", "encoder_q.", "base_encoder.")   # before the names of the part that is a backbone


def _rename(arrays, table):
    """Rename ``module.parameter`` by a dict module -> module; others stay."""
    out = {}
    for key, value in arrays.items():
        module, _, parameter = key.rpartition(".")
        out[f"{table[module]}.{parameter}" if module in table else key] = value
    return out


def _from_alexnet(arrays, net):
    return _rename(arrays, {"features.0": "_conv1._conv", "features.3": "_conv2._conv", "features.6": "_conv3",
                            "features.8": "_conv4", "features.10": "_conv5._conv",
                            **{f"{part}.{theirs}": own for part in ("classifier", "classifier_plus")
                               for theirs, own in ((1, "_fc6"), (4, "_fc7"), (6, "_fc8"))}})


def _from_vgg(arrays, net):
    own = [name for name, layer in net.named_sublayers() if isinstance(layer, nn.Conv2D)]
    theirs = sorted({int(key.split(".")[1]) for key, value in arrays.items()
                     if re.fullmatch(r"features\.\d+\.weight", key) and value.ndim == 4})
    table = {f"features.{number}": name for number, name in zip(theirs, own)}
    return _rename(arrays, {**table, "classifier.0": "fc1", "classifier.3": "fc2", "classifier.6": "fc3"})


def _from_resnet(arrays, net):
    blocks = {tuple(map(int, found.groups()))   # (stage, block) of the file, in order
              for found in (re.match(r"layer([0-9])\.([0-9]{1,3})\.", key) for key in arrays) if found}
    table = {"conv1": "stem.0.conv", "bn1": "stem.0.bn"}
    for number, (stage, block) in enumerate(sorted(blocks)):
        theirs, own = f"layer{stage}.{block}", f"blocks.{number}"
        for part in (1, 2, 3):
            table[f"{theirs}.conv{part}"] = f"{own}.conv{part - 1}.conv"
            table[f"{theirs}.bn{part}"] = f"{own}.conv{part - 1}.bn"
        table[f"{theirs}.downsample.0"] = f"{own}.short.conv"
        table[f"{theirs}.downsample.1"] = f"{own}.short.bn"
    return _rename(arrays, table)


def _from_squeezenet(arrays, net):
    arrays = {key: value for key, value in arrays.items() if not key.startswith("caffe_bgr.")}
    fires = sorted({int(key.split(".")[1]) for key in arrays if re.match(r"features\.\d+\.squeeze\.", key)})
    table = {"features.0": "_conv", "classifier.1": "_conv9"}
    for number, fire in enumerate(fires, 1):
        table[f"features.{fire}.squeeze"] = f"_conv{number}._conv._conv"
        table[f"features.{fire}.expand1x1"] = f"_conv{number}._conv_path1._conv"
        table[f"features.{fire}.expand3x3"] = f"_conv{number}._conv_path2._conv"
    return _rename(arrays, table)


# class of PaddleClas -> (a key that only torchvision's naming has, renaming)
_TORCHVISION = {"AlexNetDY": ("features.0.weight", _from_alexnet), "VGGNet": ("features.0.weight", _from_vgg),
                "ResNet": ("layer1.0.conv1.weight", _from_resnet),
                "SqueezeNet": ("features.3.squeeze.weight", _from_squeezenet)}


def _from_google_vit(arrays, net):
    """Google's names and layouts (Dense [in, out], heads apart, HWIO convolution) -> PaddleClas ViT."""
    table = {"cls_token": arrays["cls"], "pos_embed": arrays["Transformer/posembed_input/pos_embedding"],
             "patch_embed.proj.weight": arrays["embedding/kernel"].transpose(3, 2, 0, 1),
             "patch_embed.proj.bias": arrays["embedding/bias"],
             "norm.weight": arrays["Transformer/encoder_norm/scale"],
             "norm.bias": arrays["Transformer/encoder_norm/bias"]}
    depth = len({key.split("/")[1] for key in arrays if key.startswith("Transformer/encoderblock_")})
    for number in range(depth):
        theirs, own = f"Transformer/encoderblock_{number}/", f"blocks.{number}."
        attention = theirs + "MultiHeadDotProductAttention_1/"
        dim = arrays[attention + "query/kernel"].shape[0]
        parts = ("query", "key", "value")
        table[own + "attn.qkv.weight"] = np.concatenate(
            [arrays[f"{attention}{part}/kernel"].reshape(dim, -1) for part in parts], axis=1)
        table[own + "attn.qkv.bias"] = np.concatenate([arrays[f"{attention}{part}/bias"].ravel() for part in parts])
        table[own + "attn.proj.weight"] = arrays[attention + "out/kernel"].reshape(-1, dim)
        table[own + "attn.proj.bias"] = arrays[attention + "out/bias"]
        for theirs_norm, own_norm in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
            table[f"{own}{own_norm}.weight"] = arrays[f"{theirs}{theirs_norm}/scale"]
            table[f"{own}{own_norm}.bias"] = arrays[f"{theirs}{theirs_norm}/bias"]
        for layer in (0, 1):
            table[f"{own}mlp.fc{layer + 1}.weight"] = arrays[f"{theirs}MlpBlock_3/Dense_{layer}/kernel"]
            table[f"{own}mlp.fc{layer + 1}.bias"] = arrays[f"{theirs}MlpBlock_3/Dense_{layer}/bias"]
    return table


def _torch_details(arrays, net):
    """torch's names of batch statistics, its counters, and its [out, in] Linear weights -> Paddle's."""
    ends = {".running_mean": "._mean", ".running_var": "._variance"}
    out = {}
    for key, value in arrays.items():
        for theirs, own in ends.items():
            key = key[:-len(theirs)] + own if key.endswith(theirs) else key
        if not key.endswith("num_batches_tracked"):
            out[key] = value
    linear = {f"{name}.weight": list(layer.weight.shape) for name, layer in net.named_sublayers()
              if isinstance(layer, nn.Linear)}
    both = {key: shape for key, shape in linear.items() if key in out and out[key].ndim == 2}
    # a square matrix does not show its layout: the file's other matrices decide for it
    if any(shape != list(out[key].shape) and shape == list(out[key].shape[::-1]) for key, shape in both.items()):
        out.update({key: out[key].T for key in both})
    return out


def without_prefixes(arrays, own):
    """Take away what training code put before the names, in any combination (``module.encoder_q._orig_mod.``).

    ``backbone.``, ``encoder_q.`` and ``base_encoder.`` mark the part that is wanted; what lies beside it (a classifier,
    a momentum encoder, a queue) is left out. A prefix that names of the network itself have (``own``) is kept.
    """
    prefixes = [prefix for prefix in (*_WHOLE, *_PART) if not any(key.startswith(prefix) for key in own)]
    for _ in range(_MOST_PREFIXES):
        inside = {prefix: [key for key in arrays if key.startswith(prefix)] for prefix in prefixes}
        found = next((prefix for prefix, keys in inside.items()
                      if keys and (prefix in _PART or len(keys) == len(arrays))), None)
        if found is None:
            break
        arrays = {key[len(found):]: arrays[key] for key in inside[found]}
    return arrays


def to_own(arrays, backbone):
    """Arrays of any known origin -> arrays by the names of ``backbone.net``; may change its structure.

    Raises:
        KeyError, ValueError, IndexError: an array that its origin should have is missing or has another form.
    """
    net, kind = backbone.net, type(backbone.net).__name__
    arrays = without_prefixes(arrays, net.state_dict())
    if is_vit(net) and "embedding/kernel" in arrays:
        arrays = _from_google_vit(arrays, net)
    mark, rename = _TORCHVISION.get(kind, (None, None))
    if mark in arrays:
        backbone.as_torchvision()
        arrays = _torch_details(rename(arrays, net), net)
    else:
        arrays = _torch_details(arrays, net)
        for layer in _HALVED.get(kind, ()):
            if f"{layer}.weight" in arrays:
                arrays[f"{layer}.weight"] = arrays[f"{layer}.weight"] * np.float32(0.5)
    if is_vit(net) and "pos_embed" in arrays:
        extra = net.pos_embed.shape[1] - net.patch_embed.num_patches
        arrays["pos_embed"] = resize_position_embedding(arrays["pos_embed"], net.pos_embed.shape[1], extra)
    return arrays


