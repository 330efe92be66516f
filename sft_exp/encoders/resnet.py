"""torchvision's residual network. He et al., arXiv:1512.03385.

Small images get the stem of the paper's section 4.2.
"""

from dataclasses import dataclass, replace
from math import ceil

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet

from sft_exp.core.encoder import Backbone, Encoder
from sft_exp.errors import require
from sft_exp.models.layers import upsampler

LAYERS = {
    10: (BasicBlock, [1, 1, 1, 1]),
    18: (BasicBlock, [2, 2, 2, 2]),
    34: (BasicBlock, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
    101: (Bottleneck, [3, 4, 23, 3]),
}


@dataclass
class ResNet(Encoder):
    depth: int = 18  # 10, 18, 34, 50 or 101 layers
    # small (3x3, no pooling), large (7x7, stride 4), or auto: that of the weights it starts from,
    # or else small for images below 64 pixels
    stem: str = "auto"

    def __post_init__(self):
        require(self.depth in LAYERS, "depth", self.depth, f"one of {', '.join(map(str, LAYERS))}")
        require(self.stem in ("small", "large", "auto"), "stem", self.stem, "small, large or auto")

    def build(self, image):
        return Residual(image, *LAYERS[self.depth], small=self.variants(image)[0].stem == "small")

    def variants(self, image):
        usual = ("small", "large") if max(image[1:]) < 64 else ("large", "small")
        return [replace(self, stem=stem) for stem in usual] if self.stem == "auto" else [self]

    def published(self):
        return f"torchvision:resnet{self.depth}" if self.depth != 10 else None


class Residual(Backbone):
    """Yields `stem`, `layer1` to `layer4` [B, D, H, W], then `pool` [B, D].

    The parameters have torchvision's names.
    """

    def __init__(self, image: tuple[int, int, int], block: type, layers: list[int], small: bool):
        super().__init__()
        net = TorchvisionResNet(block, layers)
        self.image, self.small, self.width = image, small, net.fc.in_features
        self.conv1 = nn.Conv2d(image[0], 64, *((3, 1, 1) if small else (7, 2, 3)), bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1, self.maxpool = net.bn1, nn.Identity() if small else net.maxpool
        self.layer1, self.layer2 = net.layer1, net.layer2
        self.layer3, self.layer4 = net.layer3, net.layer4

    def maps(self, x_BCHW):
        x_BCHW = self.maxpool(self.bn1(self.conv1(x_BCHW)).relu())
        yield "stem", x_BCHW
        for n, layer in enumerate((self.layer1, self.layer2, self.layer3, self.layer4), start=1):
            x_BCHW = layer(x_BCHW)
            yield f"layer{n}", x_BCHW
        yield "pool", x_BCHW.mean((2, 3))

    def decoder(self, width):
        stem = 1 if self.small else 4
        strides = (1, *(stem * 2**n for n in range(4)))
        sizes = [(ceil(self.image[1] / s), ceil(self.image[2] / s)) for s in strides]
        return upsampler(width, [self.image[0], 64, 128, 256, 512], sizes)
