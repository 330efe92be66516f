"""The base classes of compressors, which make a finished model smaller, and of exporters, which
write it to a file."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from sft_exp.core.task import Network
from sft_exp.core.types import Spec


@dataclass
class Distillation:
    """The settings with which a smaller encoder is trained to imitate the model (strategy=distill).

    The optimizer is Adam; its learning rate falls to 0 along half a cosine.
    """

    student: Any  # an encoder; None if the user named none
    temperature: float
    weight: float  # of the distillation loss; 1 - weight is that of the loss on labels
    steps: int
    lr: float
    batch_size: int


@dataclass
class Compressor:
    """Makes a finished model smaller or faster.

    The stage calls `alter`, trains if `training` has steps, calls `restore`, and passes the ONNX
    graph to `quantise`. Each compressor overrides one or two of these methods. A field `tolerance`
    is the largest loss of accuracy (a fraction); a larger one fails the run.
    """

    # follows channels from layer to layer, so that the head must read a single map
    follows_channels: ClassVar[bool] = False
    graph: ClassVar[bool] = False  # its result is an ONNX graph, not a torch network
    needs: ClassVar[tuple[str, ...]] = ()  # modules of the extra `export`, besides those of ONNX

    def variants(self, name: str) -> "dict[str, list[Compressor]]":
        """The resulting models: name -> compressors to apply in order. The first is exported."""
        return {name: [self]}

    def distillation(self) -> "Distillation | None":
        """The settings of a new network that replaces the model; None: the model itself is changed.

        A compressor with such a network must be the first in a chain.
        """
        return None

    def alter(self, network: Network, x_BCHW: Tensor) -> None:
        """Change the network in place, e.g. remove channels."""

    def training(self) -> tuple[int, float, int]:
        """(steps, learning rate, batch size) of training the altered network to imitate the
        original; 0 steps: no training."""
        return 0, 0.0, 0

    def restore(self, network: Network) -> None:
        """Remove what `alter` added for the training alone."""

    def quantise(self, source: Path, target: Path, calibration: Iterable[Tensor]) -> bool:
        """Quantise the ONNX graph `source` to integers and write it to `target`.

        `calibration` yields training images in [0, 1], [B, C, H, W] each. Returns whether a graph
        was written.
        """
        return False


@dataclass
class Finished:
    """A model to export: a network, an ONNX graph, or both."""

    spec: Spec
    network: Network | None
    graph: bytes | None
    description: str  # of the network's parts; the content of model.json


@dataclass
class Exporter:
    """A file format for models."""

    file: ClassVar[str] = ""  # the file's name; empty: nothing is exported
    # Python code that defines `classes` and `predict`: images, an array [B, ...] -> predictions
    # [B, Y]
    loader: ClassVar[str] = ""
    alone: ClassVar[bool] = True  # the file can be used without this package
    network: ClassVar[bool] = False  # needs a torch network, not an ONNX graph
    shared: ClassVar[bool] = False  # a folder for a model hub, which reads README.md with a header

    def write(self, model: Finished, folder: Path) -> None:
        """Write the file or files into the folder."""
        raise NotImplementedError

    def input(self, x_BCHW: Tensor) -> Tensor:
        """Convert uint8 images [B, C, H, W] to the input of the exported model."""
        return x_BCHW.float().div(255)
