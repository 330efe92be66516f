"""The contract of a pretrainer: a method that learns an encoder from images alone."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from sft_exp.core.method import Method
from sft_exp.core.rng import Stream
from sft_exp.core.types import Tensors


@dataclass
class Pretrainer(Method):
    """Learns an encoder from images alone."""

    # fields that cannot change a result: the file's content is hashed
    unhashed: ClassVar[tuple[str, ...]] = ("init",)
    pools: ClassVar[dict[str, int]] = {"pool": 1}
    # or "in closed form" (`prepare` alone), "from a file" (`init` alone), "nothing"
    trained_by: ClassVar[str] = "by gradient"
    # learns from the labels of another data set, the only ones it may see
    labelled: ClassVar[bool] = False
    has_likelihood: ClassVar[bool] = False  # `log_weights` estimates it
    encoder_path: ClassVar[str] = "encoder"  # path of the network that is handed on
    # which of its maps are fine-tuned, unless the user says otherwise;
    features: ClassVar[tuple[int, ...]] = (-1,)
    pool: ClassVar[str] = "avg"  # and how those with a height and a width are pooled: avg or max,
    grid: ClassVar[int] = 1  # to at most grid x grid

    # weights to start from: a file, a folder of ours, torchvision:resnet18
    init: str | None = field(default=None, kw_only=True)

    def observe(self, x_BCHW: Tensor, rng: Stream) -> Tensor:
        """What of the images is modelled: their grey levels, unless the method draws something from them."""
        return x_BCHW

    def log_weights(self, nets: nn.ModuleDict, x_BCHW: Tensor, samples: int, rng: Stream) -> Tensor:
        """log p(x, z) - log q(z | x) [samples, B], nats, of what was observed, z from q: their log-mean-exp bounds log p(x)."""
        raise NotImplementedError

    def show(self, nets: nn.ModuleDict, x_BCHW: Tensor, rng: Stream) -> Tensors:
        """Pictures for the report: name -> images [B, C, H, W] in [0, 1]; e.g. reconstructions, samples."""
        return {}
