"""Structured pruning: whole channels are taken out, so that the network is smaller and not only emptier.

Which channels hang together (by residual sums, concatenations, flattening) is Torch-Pruning's dependency graph (Fang et
al., DepGraph, arXiv:2301.12900); in each layer those of the smallest norm go. Then the rest is trained to imitate the
original.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from sft_exp.core.deploy import Compressor
from sft_exp.errors import ConfigError, require
from sft_exp.models.layers import Standardise


@dataclass
class Prune(Compressor):
    follows_channels: ClassVar[bool] = True
    unhashed: ClassVar[tuple[str, ...]] = ("tolerance",)

    tolerance: float | None = None  # accuracy (a fraction) that may be lost; more fails the run
    ratio: float = 0.5  # of each layer's channels that go
    steps: int = 1000  # of the fine-tuning
    lr: float = 1e-3  # Adam, half a cosine down to 0
    batch_size: int = 64

    def __post_init__(self):
        require(0 < self.ratio < 1, "ratio", self.ratio, "between 0 and 1")
        require(self.steps >= 0, "steps", self.steps, "0 or more")
        require(self.lr > 0, "lr", self.lr, "above 0")
        require(self.batch_size > 0, "batch_size", self.batch_size, "above 0")

    def alter(self, network, x_BCHW):
        try:
            import torch_pruning
            from torch_pruning.pruner.function import BasePruningFunc
        except ImportError as error:
            raise ConfigError(
                "compress", "prune", "needs torch-pruning: pip install 'sft_exp[export]'"
            ) from error

        class Scale(BasePruningFunc):
            """How channels are taken out of a Standardise."""

            def prune_out_channels(self, layer, idxs):
                kept = torch.ones(len(layer.mean), dtype=torch.bool)
                kept[idxs] = False
                layer.mean, layer.sd = layer.mean[kept], layer.sd[kept]
                return layer

            prune_in_channels = prune_out_channels

            def get_out_channels(self, layer):
                return len(layer.mean)

            get_in_channels = get_out_channels

        for p in network.parameters():
            p.requires_grad_(True)  # the graph is read off the gradients' path
        # its outputs are the classes
        *_, last = (m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d))
        torch_pruning.pruner.MagnitudePruner(
            network.eval(),
            x_BCHW[:2],
            importance=torch_pruning.importance.MagnitudeImportance(p=2),
            pruning_ratio=self.ratio,
            ignored_layers=[last],
            customized_pruners={Standardise: Scale()},
        ).step()

    def training(self):
        return self.steps, self.lr, self.batch_size
