"""The base class of training methods: hyperparameters, networks, random draws, and a pure loss."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from sft_exp.core.rng import Stream
from sft_exp.core.types import Batch, Spec, Tensors


@dataclass
class Method:
    """A training method: its fields are hyperparameters (the typed config), its methods are pure
    functions of networks and tensors.

    Every method defines `draw`, `networks` and `loss`; most need no `on_step_end` or `prepare`.
    """

    # name of the loss method -> (network that it trains, n: in every n-th step)
    objectives: ClassVar[dict[str, tuple[str, int]]] = {"loss": ("", 1)}
    # pool -> examples taken from it for each example of the batch size
    pools: ClassVar[dict[str, int]] = {"labelled": 1}
    # the loss is a mean over examples, which allows gradient accumulation
    per_row: ClassVar[bool] = True
    # processes may share a batch; False: a library's loss needs all of it at once
    shared: ClassVar[bool] = True

    def networks(self, encoder: nn.Module, spec: Spec) -> nn.ModuleDict:
        """All networks of the method, the encoder among them."""
        raise NotImplementedError

    def prepare(self, nets: nn.ModuleDict, data: Tensors) -> None:
        """Compute closed forms before the first step, without gradients: a PCA, a head's initial
        weights.

        `data` has the pool's images, x [N, C, H, W]. For a task that starts at features it has f
        [N, D], y [N], the targets by name, and the pool's features, pool [N, D].
        """

    def draw(self, batch: Batch, rng: Stream, progress: float) -> tuple[Tensor, ...]:
        """The tensors of one step, with all of its randomness, drawn before any network runs. Each
        is [B or a multiple of B, ...] or 0-dim."""
        raise NotImplementedError

    def loss(self, nets: nn.ModuleDict, *drawn: Tensor) -> tuple[Tensor, Tensors]:
        """(scalar to minimise, scalars to log); deterministic, so testable and shardable."""
        raise NotImplementedError

    def on_step_end(self, nets: nn.ModuleDict, *drawn: Tensor) -> None:
        """Called after the updates of each step, without gradients, e.g. for EMA teachers."""
