"""Layers whose CPU kernels are slow in Paddle, computed another way with the same bits (training and dygraph only).

Paddle 3.3.1 adds the biases of convolutions and finds the gradient of max pooling slowly; ``benchmarks/bench_train.py``
times a training step of SqueezeNet 1.1 with and without this file. On GPUs and in a
static graph (export, Paddle Inference) the layers are Paddle's own.
"""
import paddle
from paddle import nn
from paddle.nn import functional as F


def _is_quick(x):
    return paddle.in_dynamic_mode() and x.place.is_cpu_place()


class QuickConv2D(nn.Conv2D):
    """A convolution that adds its bias to [N, C, H W] in place of [N, C, H, W]: a quicker kernel, the same sums."""

    def forward(self, x):
        """Maps float [N, C, H, W] -> [N, D, h, w]."""
        if not _is_quick(x) or self.bias is None or self._padding_algorithm != "EXPLICIT" \
                or self._padding_mode != "zeros" or self._data_format != "NCHW":
            return nn.Conv2D.forward(self, x)  # no super(): to_static of Paddle 2.6 does not know it
        maps = F.conv2d(x, self.weight, None, self._stride, self._updated_padding, self._dilation, self._groups)
        return (maps.flatten(2) + self.bias.unsqueeze(-1)).reshape(maps.shape)


class QuickMaxPool2D(nn.MaxPool2D):
    """Max pooling that keeps where each maximum was: the gradient need not search the window again."""

    def forward(self, x):
        """Maps float [N, C, H, W] -> [N, C, h, w]."""
        if not _is_quick(x) or x.stop_gradient or self.return_mask or self.ceil_mode or self.data_format != "NCHW":
            return nn.MaxPool2D.forward(self, x)  # ceil_mode: Paddle 2.6 has another gradient there
        return F.max_pool2d(x, self.ksize, self.stride, self.padding, return_mask=True)[0]


QUICK = {nn.Conv2D: QuickConv2D, nn.MaxPool2D: QuickMaxPool2D}


def quicken(net):
    """Exchange the classes of the layers above in a network; weights and names stay as they are."""
    for layer in net.sublayers(include_self=True):
        layer.__class__ = QUICK.get(type(layer), type(layer))
