"""Weights and activations as 8-bit integers, their ranges from training images: ONNX Runtime's static quantizer.

QDQ form, weights signed, symmetric and per channel, activations unsigned (Jacob et al., arXiv:1712.05877; Wu et al.,
arXiv:2004.09602, section 3): the form that CPUs with VNNI multiply four at a time.
"""

from dataclasses import dataclass
from typing import ClassVar

from sft_exp.core.deploy import Compressor
from sft_exp.errors import require
from sft_exp.models import graphs


@dataclass
class Int8(Compressor):
    graph: ClassVar[bool] = True
    unhashed: ClassVar[tuple[str, ...]] = ("tolerance",)

    tolerance: float | None = None  # accuracy (a fraction) that may be lost; more fails the run
    # of the activations: minmax, entropy, percentile (the last two cut outliers off)
    ranges: str = "minmax"

    def __post_init__(self):
        require(self.ranges in graphs.RANGES, "ranges", self.ranges, ", ".join(graphs.RANGES))

    def quantise(self, source, target, calibration):
        graphs.quantise_static(source, target, calibration, self.ranges)
        return True
