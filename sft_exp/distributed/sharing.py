"""The base class of engines whose processes each compute some examples of the batch."""

import torch
import torch.distributed as dist
from torch import nn

from sft_exp.core.method import Method
from sft_exp.core.types import Tensors
from sft_exp.distributed.group import Group, Together
from sft_exp.distributed.local import Engine, Penalty
from sft_exp.models.batchnorm import across_ranks


class Shared(Engine):
    """An engine whose processes share each batch and average their gradients."""

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
        super().__init__(method, self.trained(nets), penalty, compiled, recompute)
        self.ranks = group.sharing(batch_size)
        self.part = len(self.ranks.share) / batch_size
        self.weight = self.part * self.ranks.count
        self.wrap(group)

    def trained(self, nets: nn.ModuleDict) -> nn.ModuleDict:
        """The networks that the optimizers update, made from those that the engine is given."""
        return nets

    def wrap(self, group: Group) -> None:
        """Wrap `self.bound`, losses with networks, to synchronise gradients."""

    def mean(self, values: Tensors) -> Tensors:
        means = torch.stack([v.detach() * self.part for v in values.values()])
        dist.all_reduce(means, group=self.ranks.group.channel)
        return dict(zip(values, means.unbind(), strict=True))
