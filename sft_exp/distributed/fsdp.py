"""Every process has a share of parameters, gradients and optimizer, and some rows of each batch: torch's FSDP2. A block's
parameters are put together while it is computed, and sent for while the block before it is.

Weights that no gradient ever moves (teachers) stay whole everywhere: what follows them must see all of them at once. Beside its
share each process has the whole networks that it was given, to be looked at and kept: `refresh` fills them.
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
    shares = True

    def moved(self, nets: nn.ModuleDict) -> nn.ModuleDict:
        self.whole = nets
        return deepcopy(nets)

    def wrap(self, group: Group) -> None:
        penalty = self.bound.penalty
        mesh = init_device_mesh(group.device.type, (group.count,))
        still = {p for p in self.nets.parameters() if not p.requires_grad}
        # it sees all parameters at once: no block by itself
        pulled = penalty is not None and penalty(self.nets) is not None
        for block in [] if pulled else blocks(self.nets):
            if not still.issuperset(block.parameters()):
                fully_shard(block, mesh=mesh, ignored_params=still)
        self.root: Any = fully_shard(self.bound, mesh=mesh, ignored_params=still)

    def loss(self, objective: str, *drawn: Tensor) -> tuple[Tensor, Tensors]:
        return self.root(objective, *drawn)

    def adding(self, objective: str, last: bool) -> AbstractContextManager:
        self.root.set_requires_gradient_sync(last)
        return nullcontext()

    def on_step_end(self, *drawn: Tensor) -> None:
        """With whole parameters, which costs sending them once more: only for methods that do something."""
        if type(self.method).on_step_end is Method.on_step_end:
            return
        parts = [m for m in self.root.modules() if isinstance(m, FSDPModule)]
        for part in parts:
            part.unshard()
        self.method.on_step_end(self.nets, *drawn)
        for part in parts:
            part.reshard()

    @torch.no_grad()
    def refresh(self) -> None:
        whole = {**dict(self.whole.named_parameters()), **dict(self.whole.named_buffers())}
        for name, mine in [*self.nets.named_parameters(), *self.nets.named_buffers()]:
            whole[name].copy_(mine.full_tensor() if isinstance(mine, DTensor) else mine)

    def write(self, folder: Path, optimizers: dict[str, torch.optim.Optimizer]) -> None:
        dcp.save(self.state(optimizers), checkpoint_id=str(folder))

    def read(self, folder: Path, optimizers: dict[str, torch.optim.Optimizer]) -> None:
        state = self.state(optimizers)
        shards.read(state, folder)
        self.nets.load_state_dict(state["nets"])
        for objective, optimizer in optimizers.items():
            set_optimizer_state_dict(self.nets, optimizer, state["optimizers"][objective])

    def state(self, optimizers: dict[str, torch.optim.Optimizer]) -> dict[str, Any]:
        states = {
            o: get_optimizer_state_dict(self.nets, optimizer) for o, optimizer in optimizers.items()
        }
        return {"nets": self.nets.state_dict(), "optimizers": states}
