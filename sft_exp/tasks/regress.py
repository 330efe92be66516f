"""Regression of an image's numbers: a linear head on standardised features.

Loss: squared error or Huber's (Annals of Math. Statistics 35, 1964) of standardised numbers, a mean
over images and numbers.
"""

from dataclasses import dataclass, field, replace

from sft_exp.config.schema import AugmentConfig
from sft_exp.data.augment import view
from sft_exp.models.heads import regressor


@dataclass
class Regress(regressor.Numbers):
    """Regression with a linear head, by gradient or in closed form."""

    error: str = "mse"  # mse, or huber, which is less sensitive to outliers
    # start of the head: probe (ridge regression on frozen features) or random (PyTorch's default)
    head: str = "probe"
    ridge: float = 1e-2  # L2 weight of the probe
    # features to mean 0, sd 1: common (one scale for all; not for closed-form heads), each or none
    standardise: str = "common"
    augment: bool = False  # train on augmented views, drawn as the group `augment` says
    views: dict = field(default_factory=lambda: {})  # fields of the group `augment`

    def __post_init__(self):
        regressor.check(self)
        self.views = self.views if self.augment else {}
        self.how = AugmentConfig.of(self.views)

    def alters(self):
        return self.augment

    def unaltered(self):
        return replace(self, augment=False)

    def networks(self, encoder, spec):
        return regressor.networks(encoder, spec)

    def prepare(self, nets, data):
        regressor.prepare(self, nets, data)

    def draw(self, batch, rng, progress):
        x_BCHW = batch["labelled"]["x"]
        return view(x_BCHW, self.how, rng) if self.augment else x_BCHW, batch["labelled"]["value"]

    def loss(self, nets, x_BCHW, value_BK):
        units = nets["units"]
        predicted_BK = units.inverse(self.predict(nets, x_BCHW))
        true_BK = units.inverse(value_BK)
        mae = (predicted_BK - true_BK).abs().mean()
        return regressor.error(self, predicted_BK, true_BK), {"mae": mae}

    def predict(self, nets, x_BCHW):
        """-> numbers in their units [B, K]"""
        return nets["units"](regressor.predict_scaled(nets, x_BCHW))
