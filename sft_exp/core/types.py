"""The types that methods, data and networks share.

Methods differ in *what is corrupted*, which `draw` defines, and in *what is predicted*, which
`loss` defines. An autoencoder draws x, a denoising one (x, noisy x), a VAE (x, eps), a GAN (x, z),
fine-tuning (x, y).

Shape legend, the same in every file:
    N examples in a data set    B examples in a batch    C H W image channels, rows, columns
    D feature width             Z latent width           Y classes
    M boxes or numbers of an image
"""

from dataclasses import dataclass, field

from torch import Tensor

Tensors = dict[str, Tensor]
# pool -> {"x": images in [0, 1] [B, C, H, W], "y": labels [B], "row": positions in the pool [B],
# and other targets by name: "mask" [B, H, W], "boxes" [B, M, 4], "value" [B, M]}
Batch = dict[str, Tensors]
LABEL_SET = "label_set"  # the target of an image that has several classes: zeros and ones [B, Y]
# parameter name -> factor of the learning rate; all other parameters are frozen
Rates = dict[str, float]
# map of an encoder -> names of the parameters between it and the map below, from the input up
Layers = dict[str, list[str]]


@dataclass(frozen=True)
class Spec:
    """The shapes that a network must fit."""

    image: tuple[int, int, int]  # C, H, W
    # names of the Y classes in the order of their labels; empty if numbers are predicted
    classes: tuple[str, ...]
    # target -> its classes, if targets have different ones
    named: dict[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    # values of black and white in files of more than 8 bits; None = those of each file
    levels: tuple[int, int] | None = None
    # how files of other proportions become images: crop, stretch or letterbox
    fit: str = "crop"

    def of(self, target: str) -> "Spec":
        """The spec of a network for this target."""
        return Spec(
            self.image, self.named.get(target, self.classes), levels=self.levels, fit=self.fit
        )
