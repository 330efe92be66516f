"""Static 8-bit quantisation of weights and activations by ONNX Runtime, calibrated on training
images.

The graph is in QDQ form; weights are signed, symmetric and per channel, activations unsigned (Jacob
et al., arXiv:1712.05877; Wu et al., arXiv:2004.09602, section 3). CPUs with VNNI multiply four such
numbers at a time.
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

    tolerance: float | None = None  # largest loss of accuracy (a fraction); more fails the run
    # how the activations' ranges are chosen: minmax, entropy or percentile (these two clip
    # outliers)
    ranges: str = "minmax"

    def __post_init__(self):
        require(
            self.ranges in graphs.CALIBRATIONS,
            "ranges",
            self.ranges,
            ", ".join(graphs.CALIBRATIONS),
        )

    def quantise(self, source, target, calibration):
        graphs.quantise_static(source, target, calibration, self.ranges)
        return True
