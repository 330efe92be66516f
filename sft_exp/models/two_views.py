"""What joint-embedding pretrainers share: a step that draws two augmented views of each image."""

from torch import Tensor, nn

from sft_exp.config.schema import AugmentConfig
from sft_exp.core.rng import Stream
from sft_exp.core.types import Batch, Tensors
from sft_exp.data.augment import view


class TwoViews:
    """Mixin of pretrainers that have a field `views`: the arguments of AugmentConfig."""

    views: dict

    def __post_init__(self) -> None:
        self.augmentation = AugmentConfig.of(self.views)

    def two_views(self, x_BCHW: Tensor, rng: Stream) -> tuple[Tensor, Tensor]:
        """Two independent views of each image, [B, C, H, W] each."""
        return view(x_BCHW, self.augmentation, rng), view(x_BCHW, self.augmentation, rng)

    def draw(self, batch: Batch, rng: Stream, progress: float) -> tuple[Tensor, ...]:
        return self.two_views(batch["pool"]["x"], rng)

    def show(self, nets: nn.ModuleDict, x_BCHW: Tensor, rng: Stream) -> Tensors:
        first_BCHW, second_BCHW = self.two_views(x_BCHW, rng)
        return {"input": x_BCHW, "view": first_BCHW, "another view": second_BCHW}
