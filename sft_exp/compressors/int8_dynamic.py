"""Weights as 8-bit integers; activations are measured and rounded at each call, so nothing is calibrated.

ONNX Runtime's dynamic quantizer. It suits linear layers; its integer convolutions are slower than float ones.
"""

from dataclasses import dataclass
from typing import ClassVar

from sft_exp.core.deploy import Compressor
from sft_exp.models import graphs


@dataclass
class Int8Dynamic(Compressor):
    graph: ClassVar[bool] = True
    unhashed: ClassVar[tuple[str, ...]] = ("tolerance",)

    tolerance: float | None = None  # accuracy (a fraction) that may be lost; more fails the run

    def quantise(self, source, target, calibration):
        graphs.quantise_dynamic(source, target)
        return True
