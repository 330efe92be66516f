"""Structured pruning: remove whole channels, so that the network becomes smaller, not merely
sparse.

Torch-Pruning's dependency graph (Fang et al., DepGraph, arXiv:2301.12900) finds which channels are
coupled by residual sums, concatenations and flattening. In each layer, the channels of the smallest
norm are removed. Then the network is trained to imitate the original.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from sft_exp.core.deploy import Compressor
from sft_exp.errors import require
from sft_exp.models.layers import Standardise


@dataclass
class Prune(Compressor):
    follows_channels: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("torch_pruning",)
    unhashed: ClassVar[tuple[str, ...]] = ("tolerance",)

    tolerance: float | None = None  # largest loss of accuracy (a fraction); more fails the run
    ratio: float = 0.5  # share of each layer's channels that are removed
    steps: int = 1000  # number of fine-tuning steps
    lr: float = 1e-3  # learning rate of Adam, which falls to 0 along half a cosine
    batch_size: int = 64

    def __post_init__(self):
        require(0 < self.ratio < 1, "ratio", self.ratio, "between 0 and 1")
        require(self.steps >= 0, "steps", self.steps, "0 or more")
        require(self.lr > 0, "lr", self.lr, "above 0")
        require(self.batch_size > 0, "batch_size", self.batch_size, "above 0")

    def alter(self, network, x_BCHW):
        import torch_pruning
        from torch_pruning.pruner.function import BasePruningFunc

        class Scale(BasePruningFunc):
            """How Torch-Pruning removes channels of a Standardise layer."""

            def prune_out_channels(self, layer, idxs):
                remaining = torch.ones(len(layer.mean), dtype=torch.bool)
                remaining[idxs] = False
                layer.mean, layer.sd = layer.mean[remaining], layer.sd[remaining]
                return layer

            prune_in_channels = prune_out_channels

            def get_out_channels(self, layer):
                return len(layer.mean)

            get_in_channels = get_out_channels

        for p in network.parameters():
            p.requires_grad_(True)  # Torch-Pruning traces the autograd graph
        # the last layer is left whole: its outputs are the classes
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
