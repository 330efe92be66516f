"""Any classifier of torchvision.models, by its name, without its classification layers."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import ClassVar

import torch
from torch import Tensor, nn

from sft_exp.core.encoder import Backbone, Encoder
from sft_exp.errors import ConfigError
from sft_exp.models import batchnorm
from sft_exp.models.layers import upsampler

WIDEST = 512  # most channels of the decoder


@dataclass
class TorchvisionModel(Encoder):
    passes: ClassVar[tuple[str, ...]] = ("options",)  # fields that hold the library's arguments

    name: str = "mobilenet_v3_small"  # name in torchvision.models; built without its weights
    # further arguments of its builder, e.g. {dropout: 0.1}
    options: dict = field(default_factory=lambda: {})

    def build(self, image):
        from torchvision import models

        known = models.list_models(module=models)
        if self.name not in known:
            close = get_close_matches(self.name, known, n=3) or known[:3]
            valid = f"must be a classifier of torchvision.models, e.g. {', '.join(close)}"
            raise ConfigError("name", self.name, valid)
        if image[0] not in (1, 3):
            problem = f"takes grey or colour images, but these have {image[0]} channels"
            raise ConfigError("name", self.name, problem)
        try:
            # its transformers take images of no other size
            sized = {"image_size": image[1]} if self.name.startswith("vit_") else {}
            net = models.get_model(self.name, weights=None, **{**sized, **self.options})
            batchnorm.follow(net)
            return Traced(image, net)
        except (RuntimeError, TypeError, ValueError, AssertionError, AttributeError) as error:
            raise ConfigError(
                "name", self.name, f"does not fit images of {image}, or these options: {error}"
            ) from error

    def published(self):
        return f"torchvision:{self.name}"


class Traced(Backbone):
    """Yields `map1`, `map2`, ... [B, D, H, W], the last map of each size, then `code` [B, D], the
    input of the classifier. One forward pass computes all of them. Grey images are repeated over
    three channels."""

    def __init__(self, image: tuple[int, int, int], net: nn.Module):
        super().__init__()
        from torchvision.models.feature_extraction import (
            create_feature_extractor,
            get_graph_node_names,
        )

        self.image = image
        names = get_graph_node_names(net)[1]
        with torch.no_grad():
            extractor = create_feature_extractor(net, {n: n for n in names}).eval()
            outputs = extractor(torch.zeros(2, 3, *image[1:]))
        last: dict[tuple[int, int], str] = {}  # height and width -> last node of this size
        for name in names:
            out = outputs[name]
            if isinstance(out, Tensor) and out.dim() == 2 and len(out) == 2:
                break  # the first vector of features: the code
            if isinstance(out, Tensor) and out.dim() == 4:
                size = (out.shape[2], out.shape[3])
                if proportional(size, image[1:]):
                    last[size] = name
        self.shapes = [outputs[n].shape[1:] for n in last.values()]
        self.width = outputs[name].shape[1]
        nodes = {node: f"map{n}" for n, node in enumerate(last.values(), start=1)} | {name: "code"}
        self.net = create_feature_extractor(net, nodes).train()

    def maps(self, x_BCHW):
        yield from self.net(x_BCHW.expand(-1, 3, -1, -1)).items()

    def decoder(self, width):
        smaller = [s for s in self.shapes if s[1:] != self.image[1:]]
        channels = [self.image[0], *(min(WIDEST, s[0]) for s in smaller)]
        return upsampler(width, channels, [self.image[1:], *((s[1], s[2]) for s in smaller)])


def proportional(size: tuple[int, ...], image: tuple[int, int]) -> bool:
    """Whether height and width were divided by the same number, up to rounding.

    This excludes tensors whose last dimension is that of the channels.
    """
    return (
        size[0] <= image[0]
        and size[1] <= image[1]
        and abs(size[0] * image[1] - size[1] * image[0]) <= max(image)
    )
