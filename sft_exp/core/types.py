"""The types that methods, data and networks share.

What differs between methods is *what is corrupted* and *what is predicted*: `draw` is the first and `loss` the second.
An autoencoder draws x, a denoising one (x, noisy x), a VAE (x, eps), a GAN (x, z), fine-tuning (x, y).

Shape legend, the same in every file:
    N examples in a data set    B examples in a batch    C H W image channels, rows, columns
    D feature width             Z latent width           Y classes                 M boxes or numbers of an image
"""

from dataclasses import dataclass, field

from torch import Tensor

Tensors = dict[str, Tensor]
# pool -> {"x": images in [0, 1] [B, C, H, W], "y": labels [B], "row": positions in the pool [B],
Batch = dict[str, Tensors]
#                                      and what else is annotated by name: "mask" [B, H, W], "boxes" [B, M, 4], "value" [B, M]}
# parameter name -> multiplier of the learning rate; a name left out is frozen
Rates = dict[str, float]
# map of an encoder -> names of the parameters it adds to the maps before it, from the input up
Layers = dict[str, list[str]]


@dataclass(frozen=True)
class Spec:
    """What a network must fit."""

    image: tuple[int, int, int]  # C, H, W
    # names of the Y classes, in the order of their labels; none where numbers are predicted
    classes: tuple[str, ...]
    # target -> its classes, where targets differ
    named: dict[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    # values of deep files that are black and white; None = each file by its own
    levels: tuple[int, int] | None = None

    def of(self, target: str) -> "Spec":
        """What a network of this target must fit."""
        return Spec(self.image, self.named.get(target, self.classes), levels=self.levels)
