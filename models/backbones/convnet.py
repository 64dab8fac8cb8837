"""A small network of our own, for small pictures."""
import math

from paddle import nn


class ConvNet(nn.Layer):
    """Six 3x3 convolutions with batch norm, for small pictures and no pretrained weights (the embedded ``shapes`` set).

    ``width`` channels, doubled after the first, third and fifth convolution; strides 2 1 2 1 2 1.
    """

    classifier_keys = frozenset()

    def __init__(self, width, image_size):
        super().__init__()
        self.name = f"ConvNet:width={width}"
        channels = [3, width, 2 * width, 2 * width, 4 * width, 4 * width, 8 * width]
        layers = []
        for number, (inputs, outputs) in enumerate(zip(channels, channels[1:])):
            layers += [nn.Conv2D(inputs, outputs, 3, stride=2 - number % 2, padding=1, bias_attr=False),
                       nn.BatchNorm2D(outputs), nn.ReLU()]
        self.net = nn.Sequential(*layers)
        self.out_dim = self.token_dim = channels[-1]
        self.num_tokens = math.ceil(image_size / 8) ** 2

    def forward(self, image):
        """Images float32 [N, 3, H, W] -> mean of the last feature map [N, 8 width]."""
        return self.net(image).mean([2, 3])

    def tokens(self, image):
        """Images float32 [N, 3, H, W] -> the last feature map, row by row [N, T, 8 width]."""
        return self.net(image).flatten(2).transpose([0, 2, 1])

    def tail_parameters(self):
        """None: both outputs use all weights."""
        return []
