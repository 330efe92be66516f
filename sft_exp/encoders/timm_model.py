"""Any model of timm (`pip install sft_exp[timm]`), by its name, without its classifier."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, ClassVar

import torch

from sft_exp.core.encoder import Backbone, Encoder
from sft_exp.errors import ConfigError
from sft_exp.models import batchnorm
from sft_exp.models.layers import upsampler
from sft_exp.models.weights import PACKAGES

WIDEST = 512  # most channels of the decoder


@dataclass
class TimmModel(Encoder):
    passes: ClassVar[tuple[str, ...]] = ("options",)  # fields that hold the library's arguments

    name: str = "resnet10t"  # timm's name of the model, which is built without its weights
    # further arguments of timm.create_model, e.g. {img_size: 32} for transformers
    options: dict = field(default_factory=lambda: {})

    def build(self, image):
        try:
            import timm
        except ImportError as error:
            raise ConfigError("", "timm", "needs the extra: pip install 'sft_exp[timm]'") from error
        if not timm.is_model(self.name):
            close = get_close_matches(self.name, timm.list_models(), n=3)
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise ConfigError("name", self.name, f"is not a model of timm{hint}")
        try:
            net = timm.create_model(
                self.name, pretrained=False, in_chans=image[0], num_classes=0, **self.options
            )
            batchnorm.follow(net)
            return Intermediate(image, net)
        except (RuntimeError, TypeError, ValueError, AssertionError, AttributeError) as error:
            raise ConfigError(
                "name", self.name, f"does not fit images of {image}, or these options: {error}"
            ) from error

    def published(self):
        lite = self.name.removeprefix("tf_")
        return f"pypi:{lite}" if lite in PACKAGES else f"timm:{self.name}"


class Intermediate(Backbone):
    """Yields `map1`, `map2`, ... [B, D, H, W], timm's intermediate features, then `code` [B, D],
    the input of its classifier. One forward pass computes all of them."""

    def __init__(self, image: tuple[int, int, int], net: Any):
        super().__init__()
        self.image, self.net = image, net
        with torch.no_grad():
            *maps, (_, code_BD) = self.eval().maps(torch.zeros(2, *image))
        self.train()
        self.shapes, self.width = [m.shape[1:] for _, m in maps], code_BD.shape[1]

    def maps(self, x_BCHW):
        last, intermediate = self.net.forward_intermediates(x_BCHW)
        for n, m_BDHW in enumerate(intermediate, start=1):
            yield f"map{n}", m_BDHW
        yield "code", self.net.forward_head(last, pre_logits=True)

    def decoder(self, width):
        # channels of the last map of each size
        smaller = {s[1:]: min(WIDEST, s[0]) for s in self.shapes if s[1:] != self.image[1:]}
        return upsampler(width, [self.image[0], *smaller.values()], [self.image[1:], *smaller])
