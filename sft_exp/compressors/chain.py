"""Several compressors one after the other, each on what the one before left."""

from dataclasses import dataclass, field
from typing import ClassVar

from sft_exp.core.deploy import Compressor
from sft_exp.errors import require


@dataclass
class Chain(Compressor):
    unhashed: ClassVar[tuple[str, ...]] = ("tolerance",)

    # accuracy (a fraction) that all of them together may lose; more fails the run
    tolerance: float | None = None
    parts: dict = field(default_factory=lambda: {})  # name -> compressor, in their order

    def __post_init__(self):
        found = list(self.parts.values())
        require(
            all(isinstance(p, Compressor) for p in found),
            "parts",
            self.parts,
            "options of the group compress",
        )
        require(
            not any(p.graph for p in found[:-1]),
            "parts",
            list(self.parts),
            "one into integers at most, and as the last",
        )

    def variants(self, name):
        return (
            {name: [step for key, part in self.parts.items() for step in part.variants(key)[key]]}
            if self.parts
            else {}
        )
