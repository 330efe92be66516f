"""The contracts of what makes a finished model smaller (Compressor) and of what writes it to a file (Exporter)."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from sft_exp.core.task import Network
from sft_exp.core.types import Spec


@dataclass
class Distillation:
    """A smaller encoder, fine-tuned to imitate the model (strategy=distill) with Adam, half a cosine down to 0."""

    student: Any  # an encoder; None where the user has named none
    temperature: float
    weight: float  # of imitating; the rest is the labels'
    steps: int
    lr: float
    batch_size: int


@dataclass
class Compressor:
    """How a finished model becomes smaller or faster. The stage calls `alter`, trains if there are steps, calls `restore`,
    and hands the ONNX graph to `quantise`; each compressor has something to say to one or two of them.

    A field `tolerance` is the accuracy (a fraction) that may be lost: more fails the run.
    """

    # from layer to layer, so that the head must read one map
    follows_channels: ClassVar[bool] = False
    graph: ClassVar[bool] = False  # what it leaves is an ONNX graph alone, and no torch network

    def variants(self, name: str) -> "dict[str, list[Compressor]]":
        """What comes of it: name -> the steps that lead there. The first one is what is exported."""
        return {name: [self]}

    def distillation(self) -> "Distillation | None":
        """The new network that takes the model's place, where there is one; such a compressor comes first."""
        return None

    def alter(self, network: Network, x_BCHW: Tensor) -> None:
        """Change the network in place, e.g. take channels out of it."""

    def training(self) -> tuple[int, float, int]:
        """(steps, learning rate, batch size) in which the altered network is trained to imitate the original; 0 steps: not."""
        return 0, 0.0, 0

    def restore(self, network: Network) -> None:
        """Take away what only that training needed."""

    def quantise(self, source: Path, target: Path, calibration: Iterable[Tensor]) -> bool:
        """Write the ONNX graph `source` as one of small integers to `target`; False if there is nothing to write.
        `calibration` are training images in [0, 1], [B, C, H, W] each."""
        return False


@dataclass
class Finished:
    """A model to export: as a network, as an ONNX graph, or as both."""

    spec: Spec
    network: Network | None
    graph: bytes | None
    description: str  # of the network's parts: the content of model.json


@dataclass
class Exporter:
    """A file format in which a model leaves this project."""

    file: ClassVar[str] = ""  # its name; empty: nothing is exported
    # Python that defines `predict`: images as an array [B, ...] -> predictions [B, Y]; and
    # `classes`
    loader: ClassVar[str] = ""
    alone: ClassVar[bool] = True  # the file needs nothing of this package
    network: ClassVar[bool] = False  # it is made from a torch network, not from an ONNX graph

    def write(self, model: Finished, folder: Path) -> None:
        """The file, or files, into the folder."""
        raise NotImplementedError

    def input(self, x_BCHW: Tensor) -> Tensor:
        """uint8 images [B, C, H, W] as the file wants them."""
        return x_BCHW.float().div(255)
