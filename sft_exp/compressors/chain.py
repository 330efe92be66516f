"""Several compressors in sequence, each applied to the result of the one before."""

from dataclasses import dataclass, field
from typing import ClassVar

from sft_exp.core.deploy import Compressor
from sft_exp.errors import require


@dataclass
class Chain(Compressor):
    unhashed: ClassVar[tuple[str, ...]] = ("tolerance",)

    # largest loss of accuracy (a fraction) of all of them together; more fails the run
    tolerance: float | None = None
    parts: dict = field(default_factory=lambda: {})  # name -> compressor, in order

    def __post_init__(self):
        compressors = list(self.parts.values())
        known = all(isinstance(c, Compressor) for c in compressors)
        require(known, "parts", self.parts, "options of the group compress")
        require(
            not any(c.graph for c in compressors[:-1]),
            "parts",
            list(self.parts),
            "compressors of which only the last one quantises to integers",
        )

    def variants(self, name):
        if not self.parts:
            return {}
        return {name: [s for key, part in self.parts.items() for s in part.variants(key)[key]]}
