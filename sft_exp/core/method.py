"""What a training method is: hyperparameters, the networks, the random draws of a step, and a pure loss."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from sft_exp.core.rng import Stream
from sft_exp.core.types import Batch, Spec, Tensors


@dataclass
class Method:
    """What to learn: hyperparameters (the fields, which are its typed config) and pure functions of networks and numbers.

    `draw`, `networks` and `loss` are each method's own; `on_step_end` and `prepare` are words that most leave neutral.
    """

    # loss method -> (network it moves, every n-th step)
    objectives: ClassVar[dict[str, tuple[str, int]]] = {"loss": ("", 1)}
    # pool -> rows taken from it for each row of the batch size
    pools: ClassVar[dict[str, int]] = {"labelled": 1}
    # the loss is a mean over rows, so a batch may be taken in pieces
    per_row: ClassVar[bool] = True
    # several processes may each have rows of it; False: a library's loss looks across them all
    shared: ClassVar[bool] = True

    def networks(self, encoder: nn.Module, spec: Spec) -> nn.ModuleDict:
        """All networks of the method, `encoder` among them."""
        raise NotImplementedError

    def prepare(self, nets: nn.ModuleDict, data: Tensors) -> None:
        """Closed forms, before the first step and without gradients: a head's start, a PCA. `data`: x [N, C, H, W] of the pool;
        of a task that starts at features, f [N, D], y [N], its targets by name, and the pool's features, pool [N, D]."""

    def draw(self, batch: Batch, rng: Stream, progress: float) -> tuple[Tensor, ...]:
        """ALL randomness of one step, made before any network runs; each [B or a multiple of B, ...] or 0-dim."""
        raise NotImplementedError

    def loss(self, nets: nn.ModuleDict, *drawn: Tensor) -> tuple[Tensor, Tensors]:
        """(scalar to minimise, scalars to log), without randomness: testable, repeatable, shardable."""
        raise NotImplementedError

    def on_step_end(self, nets: nn.ModuleDict, *drawn: Tensor) -> None:
        """Once a step, after the updates, without gradients: teachers, queues, centres."""
