"""Several compressors side by side, each applied to the original; nothing is exported."""

from dataclasses import dataclass, field
from typing import ClassVar

from sft_exp.core.deploy import Compressor
from sft_exp.errors import require


@dataclass
class Several(Compressor):
    unhashed: ClassVar[tuple[str, ...]] = ("tolerance",)

    # largest loss of accuracy (a fraction) of each of them; more fails the run
    tolerance: float | None = None
    parts: dict = field(default_factory=lambda: {})  # name -> compressor

    def __post_init__(self):
        known = all(isinstance(c, Compressor) for c in self.parts.values())
        require(known, "parts", self.parts, "options of the group compress")

    def variants(self, name):
        return {
            variant: steps
            for key, part in self.parts.items()
            for variant, steps in part.variants(key).items()
        }
