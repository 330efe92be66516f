"""Dynamic 8-bit quantisation by ONNX Runtime: the activations' ranges are measured at each call.

Nothing is calibrated. It suits linear layers; its integer convolutions are slower than float ones.
"""

from dataclasses import dataclass
from typing import ClassVar

from sft_exp.core.deploy import Compressor
from sft_exp.models import graphs


@dataclass
class Int8Dynamic(Compressor):
    graph: ClassVar[bool] = True
    unhashed: ClassVar[tuple[str, ...]] = ("tolerance",)

    tolerance: float | None = None  # largest loss of accuracy (a fraction); more fails the run

    def quantise(self, source, target, calibration):
        graphs.quantise_dynamic(source, target)
        return True
