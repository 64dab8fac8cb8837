"""Networks whose torchvision twin differs a little: the repairs that AlexNet and VGG need, torchvision's structure."""
import paddle.nn.functional as F
from paddle import nn

LIKE_TORCHVISION = "torchvision"   # the option of a name
ALEXNET_SIZES = range(199, 231)    # pixels that give AlexNet's fc6 its 6 x 6 map without pooling
VGG_SIZES = range(224, 256)        # likewise VGG's 7 x 7


class _DropInput:
    """Hook: dropout on a layer's input, in that layer's training mode."""

    def __call__(self, layer, inputs):
        return F.dropout(inputs[0], 0.5, training=layer.training)


def dropout_layers(net):
    """The layers of a network that drop some of their input while they are in training mode."""
    return [layer for layer in net.sublayers() if isinstance(layer, nn.Dropout) and layer.p > 0
            or any(isinstance(hook, _DropInput) for hook in layer._forward_pre_hooks.values())]


class _PoolOutput:
    """Hook: adaptive average pooling of a layer's output, so that fc6 fits any picture size."""

    def __init__(self, size):
        self.size = size

    def __call__(self, layer, inputs, output):
        return F.adaptive_avg_pool2d(output, self.size)


def adapt(net, image_size):
    """The repairs that AlexNet and VGG need. Both then are dropout-fc6-relu-dropout-fc7-relu.

    PaddleClas trains them with dropout that halves in evaluation ("downscale_in_infer"). Ours is the
    other convention (torchvision, the papers' public code): nothing happens in evaluation, and
    models.backbones.renames halves fc6 and fc7 of PaddleClas' files, which is the same function.

    Other sizes than 224 pixels reach fc6 through adaptive pooling, as in torchvision; at 224 it would be
    the identity and is left out.
    """
    if hasattr(net, "_drop1") and hasattr(net, "_fc7"):
        net._drop1, net._drop2 = nn.Dropout(0.5), nn.Dropout(0.5)
        if image_size not in ALEXNET_SIZES:
            net._conv5.register_forward_post_hook(_PoolOutput((6, 6)))
    elif hasattr(net, "conv_block_5") and hasattr(net, "fc2"):
        net.drop = nn.Identity()
        net.fc1.register_forward_pre_hook(_DropInput())
        net.fc2.register_forward_pre_hook(_DropInput())
        if image_size not in VGG_SIZES:
            net.conv_block_5.register_forward_post_hook(_PoolOutput((7, 7)))


def as_torchvision(net):
    """Change the network where torchvision's differs in structure; False if nothing is to change.

    VGG: convolutions have a bias. ResNet18/34: the first stage's first shortcut is the identity (PaddleClas
    has a convolution there). SqueezeNet 1.1: no padding in the first convolution (PaddleClas pads by one
    pixel; the shared ImageNet weights were trained without, and lose 1.5 points of k-NN with it).
    """
    if hasattr(net, "conv_block_5"):
        for layer in net.sublayers():
            if isinstance(layer, nn.Conv2D) and layer.bias is None:
                layer.bias = layer.create_parameter([layer.weight.shape[0]], is_bias=True)
        return True
    if type(net).__name__ == "SqueezeNet" and net.version == "1.1":
        net._conv._updated_padding = [0, 0]
        net._conv._padding = 0
        return True
    first = net.blocks[0] if type(net).__name__ == "ResNet" else None
    if type(first).__name__ == "BasicBlock" and hasattr(first, "short"):
        del first.short
        first.shortcut = True
        return True
    return False
