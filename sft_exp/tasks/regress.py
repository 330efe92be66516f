"""Numbers of an image: a linear head on standardised features. Loss: squared error or Huber's (Annals of Math. Statistics 35,
1964), of numbers on the scale of the labels' spread, a mean over images and numbers."""

from dataclasses import dataclass, field

from sft_exp.config.schema import AugmentConfig
from sft_exp.data.augment import view
from sft_exp.models.heads import regressor


@dataclass
class Regress(regressor.Numbers):
    error: str = "mse"  # mse, or huber, which an outlier moves less
    # where the head starts: probe (ridge regression on the frozen features), random (PyTorch's
    # default)
    head: str = "probe"
    ridge: float = 1e-2  # weight of the squared norm in that fit
    # features to mean 0, spread 1: common (one scale for all; not for solved heads), each, none
    standardise: str = "common"
    augment: bool = False  # train on views of the images, as the group `augment` draws them
    views: dict = field(default_factory=lambda: {})  # fields of that group, whose option it takes

    def __post_init__(self):
        regressor.check(self)
        self.views = self.views if self.augment else {}
        self.how = AugmentConfig(**self.views)

    def alters(self):
        return self.augment

    def networks(self, encoder, spec):
        return regressor.networks(encoder, spec)

    def prepare(self, nets, data):
        regressor.prepare(self, nets, data)

    def draw(self, batch, rng, progress):
        x_BCHW = batch["labelled"]["x"]
        return view(x_BCHW, self.how, rng) if self.augment else x_BCHW, batch["labelled"]["value"]

    def loss(self, nets, x_BCHW, value_BK):
        units = nets["units"]
        told_BK, true_BK = units.inverse(self.predict(nets, x_BCHW)), units.inverse(value_BK)
        return regressor.error(self, told_BK, true_BK), {"mae": (told_BK - true_BK).abs().mean()}

    def predict(self, nets, x_BCHW):
        """-> numbers in their units [B, K]"""
        return nets["units"](regressor.told(nets, x_BCHW))
