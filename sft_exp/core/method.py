"""The base class of training methods: hyperparameters, networks, random draws, and a pure loss."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from sft_exp.core.rng import Stream
from sft_exp.core.types import Batch, Spec, Tensors


@dataclass
class Method:
    """A training method.

    Its fields are hyperparameters (the typed config), and its functions are pure functions of
    networks and tensors. Every method defines `draw`, `networks` and `loss`; most need no `on_step_end` or `prepare`.
    """

    # name of a loss method -> (path of the network that it trains, "" for all; n, to take an
    # optimizer step in every n-th step of the training)
    objectives: ClassVar[dict[str, tuple[str, int]]] = {"loss": ("", 1)}
    # name of a pool of images -> how many examples a step takes from it, as a multiple of the
    # batch size
    pools: ClassVar[dict[str, int]] = {"labelled": 1}
    # whether the loss is a mean over examples, so that gradients of micro-batches add up
    per_row: ClassVar[bool] = True
    # whether processes may share a batch; False where a library's loss needs all of it at once
    shared: ClassVar[bool] = True

    def networks(self, encoder: nn.Module, spec: Spec) -> nn.ModuleDict:
        """Build all networks of the method, by name; the encoder is one of them.

        `spec` describes the images and targets.
        """
        raise NotImplementedError

    def prepare(self, nets: nn.ModuleDict, data: Tensors) -> None:
        """Compute closed forms before the first step, without gradients: a PCA, a head's initial
        weights.

        `data` has the pool's images, x [N, C, H, W]. For a task that starts at features it has f
        [N, D], y [N], the targets by name, and the pool's features, pool [N, D].
        """

    def draw(self, batch: Batch, rng: Stream, progress: float) -> tuple[Tensor, ...]:
        """Draw the tensors of one step, with all of its randomness, before any network runs.

        Each is [B or a multiple of B, ...] or 0-dim. `batch` has the tensors of each pool by name,
        and `progress` is the share of the schedule that is done, in [0, 1).
        """
        raise NotImplementedError

    def loss(self, nets: nn.ModuleDict, *drawn: Tensor) -> tuple[Tensor, Tensors]:
        """Compute (the scalar to minimise, scalars to log by name) from the result of `draw`.

        It draws no random numbers of its own, so that it can be tested, and split over processes.
        """
        raise NotImplementedError

    def on_step_end(self, nets: nn.ModuleDict, *drawn: Tensor) -> None:
        """Update state that has no gradients, such as an EMA teacher, after each step's updates."""
