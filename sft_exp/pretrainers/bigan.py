"""Bidirectional GAN. Donahue et al., arXiv:1605.09782; the same as ALI, Dumoulin et al., arXiv:1606.00704.

A discriminator is shown pairs, (x, E(x)) of an image and (G(z), z) of a code, and says which: E and G can only fool it by
becoming each other's inverse (theorem 2). Discriminator: -log D(x, E(x)) - log(1 - D(G(z), z)); encoder and generator
together, not saturating: -log(1 - D(x, E(x))) - log D(G(z), z) (section 3.4). The discriminator is the encoder's architecture
without BatchNorm, and sees the images through noise (Sonderby et al., arXiv:1610.04490, section 3.2) and dropout, without which
it is soon right about every pair. Kept: the encoder; E's last layer, to the Z latents, is linear and stays behind. Adam with
beta1 = 0.5: pretrain_optim=adam_gan.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from sft_exp.core import Pretrainer
from sft_exp.errors import require


def plain(net: nn.Module) -> nn.Module:
    """Without BatchNorm, in place: its statistics would be of real and made images together."""
    for name, child in net.named_children():
        setattr(net, name, nn.Identity() if isinstance(child, nn.modules.batchnorm._BatchNorm) else plain(child))
    return net


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
    dropout: float = 0.5  # share of these units that are off, for each pair
    noise: float = 0.3  # standard deviation of what is added to the images that the discriminator sees

    def __post_init__(self):
        require(self.latent > 0, "latent", self.latent, "above 0")
        require(self.hidden > 0, "hidden", self.hidden, "above 0")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "from 0 to below 1")
        require(self.noise >= 0, "noise", self.noise, "0 or more")

    def networks(self, encoder, spec):
        both, verdict = nn.Linear(encoder.width + self.latent, self.hidden), nn.Linear(self.hidden, 1)
        return nn.ModuleDict(
            {
                "inverses": nn.ModuleDict(
                    {"encoder": encoder, "code": nn.Linear(encoder.width, self.latent), "generator": encoder.mirror(self.latent)}
                ),
                "discriminator": nn.ModuleDict({"image": plain(deepcopy(encoder)), "both": both, "verdict": verdict}),
            }
        )

    def draw(self, batch, rng, progress):
        x_BCHW = batch["pool"]["x"]
        b = len(x_BCHW)
        on_B2H = (rng.rand(b, 2, self.hidden) >= self.dropout) / (1 - self.dropout)
        return x_BCHW, rng.randn(b, self.latent), self.noise * rng.randn(b, 2, *x_BCHW.shape[1:]), on_B2H

    def discriminator_loss(self, nets, x_BCHW, z_BZ, noise_B2CHW, on_B2H):
        real_B, fake_B = self.judge(nets, x_BCHW, z_BZ, noise_B2CHW, on_B2H)
        loss = F.softplus(-real_B).mean() + F.softplus(fake_B).mean()
        return loss, {"p_real": real_B.sigmoid().mean(), "p_fake": fake_B.sigmoid().mean()}

    def inverses_loss(self, nets, x_BCHW, z_BZ, noise_B2CHW, on_B2H):
        real_B, fake_B = self.judge(nets, x_BCHW, z_BZ, noise_B2CHW, on_B2H)
        return F.softplus(real_B).mean() + F.softplus(-fake_B).mean(), {}

    def judge(self, nets, x_BCHW, z_BZ, noise_B2CHW, on_B2H):
        """-> logits that the pair is (x, E(x)): of (x, E(x)) [B], and of (G(z), z) [B]."""
        inverses, discriminator = nets["inverses"], nets["discriminator"]
        images = torch.cat([x_BCHW + noise_B2CHW[:, 0], self.generate(nets, z_BZ) + noise_B2CHW[:, 1]])
        codes = torch.cat([inverses["code"](inverses["encoder"](x_BCHW)), z_BZ])
        h_PH = discriminator["both"](torch.cat([discriminator["image"](images), codes], 1)).relu() * torch.cat(on_B2H.unbind(1))
        return discriminator["verdict"](h_PH).squeeze(1).chunk(2)

    def generate(self, nets, z_BZ):
        return nets["inverses"]["generator"](z_BZ).sigmoid()

    def show(self, nets, x_BCHW, rng):
        z_BZ = rng.randn(len(x_BCHW), self.latent)
        code_BZ = nets["inverses"]["code"](nets["inverses"]["encoder"](x_BCHW))
        return {"input": x_BCHW, "reconstruction": self.generate(nets, code_BZ), "sample": self.generate(nets, z_BZ)}
