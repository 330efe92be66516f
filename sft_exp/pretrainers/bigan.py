"""Bidirectional GAN. Donahue et al., arXiv:1605.09782; the same as ALI, Dumoulin et al., arXiv:1606.00704.

A discriminator is shown pairs, (x, E(x)) of an image and (G(z), z) of a code, and says which: E and G can only fool it by
becoming each other's inverse (theorem 2). Discriminator: -log D(x, E(x)) - log(1 - D(G(z), z)); encoder and generator
together, not saturating: -log(1 - D(x, E(x))) - log D(G(z), z) (section 3.4). Kept: the encoder; E's last layer, to the Z
latents, is linear and stays behind. Adam with beta1 = 0.5: pretrain_optim=adam_gan.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from sft_exp.core import Pretrainer
from sft_exp.errors import require
from sft_exp.nets import perceptron


@dataclass
class BiGAN(Pretrainer):
    objectives: ClassVar[dict[str, tuple[str, int]]] = {
        "discriminator_loss": ("discriminator", 1),
        "inverses_loss": ("inverses", 1),
    }
    keeps: ClassVar[str] = "inverses.encoder"
    per_row: ClassVar[bool] = False  # BatchNorm, where the encoder has it

    latent: int = 50  # Z
    hidden: int = 512  # units where the discriminator sees image and code together

    def __post_init__(self):
        require(self.latent > 0, "latent", self.latent, "above 0")
        require(self.hidden > 0, "hidden", self.hidden, "above 0")

    def networks(self, encoder, spec):
        generator, judge = encoder.mirror(self.latent), perceptron(encoder.width + self.latent, self.hidden, 1)
        return nn.ModuleDict(
            {
                "inverses": nn.ModuleDict(
                    {"encoder": encoder, "code": nn.Linear(encoder.width, self.latent), "generator": generator}
                ),
                "discriminator": nn.ModuleDict({"image": deepcopy(encoder), "pair": judge}),
            }
        )

    def draw(self, batch, rng, progress):
        x_BCHW = batch["pool"]["x"]
        return x_BCHW, rng.randn(len(x_BCHW), self.latent)

    def discriminator_loss(self, nets, x_BCHW, z_BZ):
        real_B, fake_B = self.judge(nets, x_BCHW, z_BZ)
        loss = F.softplus(-real_B).mean() + F.softplus(fake_B).mean()
        return loss, {"p_real": real_B.sigmoid().mean(), "p_fake": fake_B.sigmoid().mean()}

    def inverses_loss(self, nets, x_BCHW, z_BZ):
        real_B, fake_B = self.judge(nets, x_BCHW, z_BZ)
        return F.softplus(real_B).mean() + F.softplus(-fake_B).mean(), {}

    def judge(self, nets, x_BCHW, z_BZ):
        """-> logits that the pair is (x, E(x)): of (x, E(x)) [B], and of (G(z), z) [B]. Both pairs go through the
        discriminator's BatchNorm in one batch; apart, its statistics would tell them apart."""
        inverses, discriminator = nets["inverses"], nets["discriminator"]
        images = torch.cat([x_BCHW, self.generate(nets, z_BZ)])
        codes = torch.cat([inverses["code"](inverses["encoder"](x_BCHW)), z_BZ])
        return discriminator["pair"](torch.cat([discriminator["image"](images), codes], 1)).squeeze(1).chunk(2)

    def generate(self, nets, z_BZ):
        return nets["inverses"]["generator"](z_BZ).sigmoid()

    def show(self, nets, x_BCHW, rng):
        z_BZ = rng.randn(len(x_BCHW), self.latent)
        code_BZ = nets["inverses"]["code"](nets["inverses"]["encoder"](x_BCHW))
        return {"input": x_BCHW, "reconstruction": self.generate(nets, code_BZ), "sample": self.generate(nets, z_BZ)}
