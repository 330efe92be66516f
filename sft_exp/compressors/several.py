"""Several compressors side by side, each on the original: one bill for all of them. Nothing is exported."""

from dataclasses import dataclass, field
from typing import ClassVar

from sft_exp.core.deploy import Compressor
from sft_exp.errors import require


@dataclass
class Several(Compressor):
    unhashed: ClassVar[tuple[str, ...]] = ("tolerance",)

    # accuracy (a fraction) that each of them may lose; more fails the run
    tolerance: float | None = None
    parts: dict = field(default_factory=lambda: {})  # name -> compressor

    def __post_init__(self):
        found = list(self.parts.values())
        require(
            all(isinstance(p, Compressor) for p in found),
            "parts",
            self.parts,
            "options of the group compress",
        )

    def variants(self, name):
        return {
            variant: steps
            for key, part in self.parts.items()
            for variant, steps in part.variants(key).items()
        }
