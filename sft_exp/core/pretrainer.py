"""The base class of pretrainers: methods that learn an encoder from images alone."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from sft_exp.core.method import Method
from sft_exp.core.rng import Stream
from sft_exp.core.types import Tensors


@dataclass
class Pretrainer(Method):
    """Learns an encoder from images alone."""

    # fields that are not hashed; of `init`, the file's content is
    unhashed: ClassVar[tuple[str, ...]] = ("init",)
    pools: ClassVar[dict[str, int]] = {"pool": 1}
    # "by gradient", "in closed form" (by `prepare`), "from a file" (by `init`), or "nothing"
    trained_by: ClassVar[str] = "by gradient"
    # uses the labels of another data set, never those of the run's own
    labelled: ClassVar[bool] = False
    has_likelihood: ClassVar[bool] = False  # defines `log_weights`, which estimates it
    encoder_path: ClassVar[str] = "encoder"  # path of the network that is fine-tuned
    # default indices of the maps that the head reads; those with height and width are pooled
    features: ClassVar[tuple[int, ...]] = (-1,)
    pool: ClassVar[str] = "avg"  # kind of pooling: avg or max
    grid: ClassVar[int] = 1  # pooled maps are at most grid x grid

    # weights to start from: a file, a run or store folder, or torchvision:resnet18
    init: str | None = field(default=None, kw_only=True)

    def observe(self, x_BCHW: Tensor, rng: Stream) -> Tensor:
        """The images that are modelled: grey levels, or binary samples of them."""
        return x_BCHW

    def log_weights(self, nets: nn.ModuleDict, x_BCHW: Tensor, samples: int, rng: Stream) -> Tensor:
        """Log importance weights log p(x, z) - log q(z | x) [samples, B], in nats, of observed
        images, with z drawn from q. Their log-mean-exp is a lower bound of log p(x)."""
        raise NotImplementedError

    def show(self, nets: nn.ModuleDict, x_BCHW: Tensor, rng: Stream) -> Tensors:
        """Pictures for the report, e.g. reconstructions: name -> images [B, C, H, W] in [0, 1]."""
        return {}
