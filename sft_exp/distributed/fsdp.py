"""Fully sharded data parallelism: torch's FSDP2.

Every process has a shard of the parameters, gradients and optimizer states, and computes some
examples of each batch. A block's parameters are gathered for its computation and prefetched while
the block before it is computed.

Weights that are never trained by gradient (teachers) are not sharded, because the code that updates
them needs all of them at once. Besides its shard, each process has the whole networks that the
engine was given, for evaluation and checkpoints; `refresh` updates them.
"""

from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from sft_exp.core.method import Method
from sft_exp.core.types import Tensors
from sft_exp.distributed import shards
from sft_exp.distributed.group import Group
from sft_exp.distributed.sharing import Shared
from sft_exp.models.layers import blocks


class Sharded(Shared):
    """The engine of FSDP2."""

    shares = True

    def trained(self, nets: nn.ModuleDict) -> nn.ModuleDict:
        self.whole = nets
        # fully_shard accepts no parameters in channels-last order
        return deepcopy(nets).to(memory_format=torch.contiguous_format)

    def wrap(self, group: Group) -> None:
        penalty = self.bound.penalty
        mesh = init_device_mesh(group.device.type, (group.count,))
        frozen = {p for p in self.nets.parameters() if not p.requires_grad}
        # A penalty needs all parameters at once, so that blocks cannot be wrapped by themselves.
        penalised = penalty is not None and penalty(self.nets) is not None
        for block in [] if penalised else blocks(self.nets):
            if not frozen.issuperset(block.parameters()):
                fully_shard(block, mesh=mesh, ignored_params=frozen)
        self.root: Any = fully_shard(self.bound, mesh=mesh, ignored_params=frozen)

    def loss(self, objective: str, *drawn: Tensor) -> tuple[Tensor, Tensors]:
        return self.root(objective, *drawn)

    def adding(self, objective: str, last: bool) -> AbstractContextManager:
        self.root.set_requires_gradient_sync(last)
        return nullcontext()

    def on_step_end(self, *drawn: Tensor) -> None:
        """Call the method with unsharded parameters. This gathers them once more, so it is skipped
        for methods that define no `on_step_end`."""
        if type(self.method).on_step_end is Method.on_step_end:
            return
        sharded = [m for m in self.root.modules() if isinstance(m, FSDPModule)]
        for module in sharded:
            module.unshard()
        self.method.on_step_end(self.nets, *drawn)
        for module in sharded:
            module.reshard()

    @torch.no_grad()
    def refresh(self) -> None:
        whole = {**dict(self.whole.named_parameters()), **dict(self.whole.named_buffers())}
        for name, local in [*self.nets.named_parameters(), *self.nets.named_buffers()]:
            whole[name].copy_(local.full_tensor() if isinstance(local, DTensor) else local)

    def write(self, folder: Path, optimizers: dict[str, torch.optim.Optimizer]) -> None:
        dcp.save(self.state(optimizers), checkpoint_id=str(folder))

    def read(self, folder: Path, optimizers: dict[str, torch.optim.Optimizer]) -> None:
        state = self.state(optimizers)
        shards.read(state, folder)
        self.nets.load_state_dict(state["nets"])
        for objective, optimizer in optimizers.items():
            set_optimizer_state_dict(self.nets, optimizer, state["optimizers"][objective])

    def state(self, optimizers: dict[str, torch.optim.Optimizer]) -> dict[str, Any]:
        """This process's shard of networks and optimizers, for torch.distributed.checkpoint."""
        states = {
            o: get_optimizer_state_dict(self.nets, optimizer) for o, optimizer in optimizers.items()
        }
        return {"nets": self.nets.state_dict(), "optimizers": states}
