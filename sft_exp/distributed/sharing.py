"""What all engines of several processes have in common: each computes the loss of some rows of the batch."""

import torch
import torch.distributed as dist
from torch import nn

from sft_exp.core.method import Method
from sft_exp.core.types import Tensors
from sft_exp.distributed.group import Group, Together
from sft_exp.distributed.local import Engine, Penalty
from sft_exp.models.batchnorm import across_ranks


class Shared(Engine):
    ranks: Together

    def __init__(
        self,
        method: Method,
        nets: nn.ModuleDict,
        group: Group,
        batch_size: int,
        penalty: Penalty | None = None,
        compiled: bool = False,
        recompute: bool = False,
    ):
        across_ranks(nets)
        super().__init__(method, self.moved(nets), penalty, compiled, recompute)
        self.ranks = group.sharing(batch_size)
        self.part = len(self.ranks.share) / batch_size
        self.weight = self.part * self.ranks.count
        self.wrap(group)

    def moved(self, nets: nn.ModuleDict) -> nn.ModuleDict:
        """The networks that optimizers move, of those that the engine is given."""
        return nets

    def wrap(self, group: Group) -> None:
        """Once the losses are bound to the networks: make ready what shares their gradients."""

    def mean(self, values: Tensors) -> Tensors:
        told = torch.stack([v.detach() * self.part for v in values.values()])
        dist.all_reduce(told, group=self.ranks.group.channel)
        return dict(zip(values, told.unbind(), strict=True))
