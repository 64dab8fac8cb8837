"""Where a network is cut: it runs once on a probe image, which shows its classifier and its last feature map."""
import math

import paddle
from paddle import nn

_POOLS = (nn.AdaptiveAvgPool2D, nn.AvgPool2D, nn.AdaptiveMaxPool2D, nn.MaxPool2D)


class Tap(nn.Layer):
    """Takes the classifier's place: keeps its input and passes it on."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def forward(self, x):
        """Its input."""
        _keep(self.seen, "features", x)
        return x


class KeepMap:
    """Hook that keeps the feature map: a layer's output, or its input where it is called before the layer."""

    def __init__(self, seen):
        self.seen = seen

    def __call__(self, layer, inputs, output=None):   # noqa: D102 - see the class
        _keep(self.seen, "map", inputs[0] if output is None else output)


@paddle.jit.not_to_static
def _keep(seen, key, value):
    seen[key] = value


class _Call:
    """One executed layer of the probe run; holds its tensors so that identity means something."""

    def __init__(self, name, layer, inputs, output):
        self.name, self.layer, self.output = name, layer, output
        self.input = inputs[0] if inputs else None
        self.leaf = not layer.sublayers()


def shape_of(x):
    """The shape of a tensor as a list; [] of anything else."""
    return list(x.shape) if isinstance(x, paddle.Tensor) else []


def trace(net, image):
    """Run ``net`` in evaluation mode and return (its first output, calls in the order of their ends)."""
    calls, hooks = [], []
    for name, layer in net.named_sublayers():
        def record(layer, inputs, output, name=name):
            calls.append(_Call(name, layer, inputs, output))
        hooks.append(layer.register_forward_post_hook(record))
    try:
        net.eval()
        with paddle.no_grad():
            output = net(image)
    finally:
        for hook in hooks:
            hook.remove()
        net.train()
    return output[0] if isinstance(output, (list, tuple)) else output, calls


def find_heads(calls, scores):
    """Positions of the calls that make as many numbers as there are scores: the classifier, and twins of it."""
    classes = shape_of(scores)[-1] if shape_of(scores) else 0
    found = []
    for number, call in enumerate(calls):
        linear = isinstance(call.layer, nn.Linear) and shape_of(call.output)[-1:] == [classes]
        conv = (isinstance(call.layer, nn.Conv2D) and shape_of(call.output)[1:2] == [classes]
                and list(call.layer.weight.shape[2:]) == [1, 1])
        if call.output is scores and (linear or conv):
            return [number]
        if linear or conv:
            found.append(number)
    return found


def find_map(calls, head):
    """The call that has the last feature map before the classifier: (call, is it its input), or (None, ..)."""
    if len(shape_of(head.input)) == 4 and math.prod(shape_of(head.input)[2:]) > 1:
        return head, True
    for call in reversed(calls):
        shape = shape_of(call.output)
        if isinstance(call.layer, _POOLS) and shape[2:] == [1, 1]:
            return call, True
        if len(shape) == 4 and shape[2] * shape[3] > 1:
            return call, False
        if len(shape) == 3 and isinstance(call.layer, nn.LayerNorm) and shape[1] > 1:
            return call, False
    return None, False


def replace(net, name, layer):
    """Put a layer in the place of the one called ``name``."""
    path = name.split(".")
    for part in path[:-1]:
        net = net._sub_layers[part]
    net._sub_layers[path[-1]] = layer
