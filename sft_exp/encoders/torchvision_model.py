"""Any classifier of torchvision.models, by its name, without the layers that make class scores of its features."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import ClassVar

import torch
from torch import Tensor, nn

from sft_exp.core.encoder import Backbone, Encoder
from sft_exp.errors import ConfigError
from sft_exp.models.layers import upsampler

WIDEST = 512  # channels of the decoder


@dataclass
class TorchvisionModel(Encoder):
    passes: ClassVar[tuple[str, ...]] = ("options",)  # fields whose keys are the library's

    name: str = "mobilenet_v3_small"  # in torchvision.models; it starts without weights
    # arguments of its builder, e.g. {image_size: 32} of vit_b_16
    options: dict = field(default_factory=lambda: {})

    def build(self, image):
        from torchvision import models

        known = models.list_models(module=models)
        if self.name not in known:
            close = get_close_matches(self.name, known, n=3) or known[:3]
            raise ConfigError(
                "name",
                self.name,
                f"must be a classifier of torchvision.models, e.g. {', '.join(close)}",
            )
        if image[0] not in (1, 3):
            raise ConfigError(
                "name", self.name, f"sees grey or colour images, and these have {image[0]} channels"
            )
        try:
            return Traced(image, models.get_model(self.name, weights=None, **self.options))
        except (RuntimeError, TypeError, ValueError, AssertionError, AttributeError) as error:
            raise ConfigError(
                "name", self.name, f"does not fit images of {image}, or these options: {error}"
            ) from error

    def published(self):
        return f"torchvision:{self.name}"


class Traced(Backbone):
    """Maps `map1`, `map2`, ...: [B, D, H, W], the last of each size; then `code`: [B, D], what the classifier would have seen.
    They are computed all together. Grey images are shown as colour ones."""

    def __init__(self, image: tuple[int, int, int], net: nn.Module):
        super().__init__()
        from torchvision.models.feature_extraction import (
            create_feature_extractor,
            get_graph_node_names,
        )

        self.image = image
        names = get_graph_node_names(net)[1]
        with torch.no_grad():
            found = create_feature_extractor(net, {n: n for n in names}).eval()(
                torch.zeros(2, 3, *image[1:])
            )
        last: dict[tuple[int, int], str] = {}
        for name in names:
            m = found[name]
            if isinstance(m, Tensor) and m.dim() == 2 and len(m) == 2:
                break
            if isinstance(m, Tensor) and m.dim() == 4 and proportional(m.shape[2:], image[1:]):
                last[m.shape[2], m.shape[3]] = name
        self.shapes = [found[n].shape[1:] for n in last.values()]
        self.width = found[name].shape[1]
        nodes = {node: f"map{n}" for n, node in enumerate(last.values(), start=1)} | {name: "code"}
        self.net = create_feature_extractor(net, nodes).train()

    def maps(self, x_BCHW):
        yield from self.net(x_BCHW.expand(-1, 3, -1, -1)).items()

    def decoder(self, width):
        sizes = [self.image[1:], *((s[1], s[2]) for s in self.shapes if s[1:] != self.image[1:])]
        channels = [
            self.image[0],
            *(min(WIDEST, s[0]) for s in self.shapes if s[1:] != self.image[1:]),
        ]
        return upsampler(width, channels, sizes)


def proportional(size: tuple[int, ...], image: tuple[int, int]) -> bool:
    """Whether rows and columns were divided by the same number, up to rounding: maps that keep channels last are no maps."""
    return (
        size[0] <= image[0]
        and size[1] <= image[1]
        and abs(size[0] * image[1] - size[1] * image[0]) <= max(image)
    )
