"""Compare the jobs of sweeps, or single runs."""

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sft_exp.compare.notebook import RichComparison


class Command(ModuleType):
    """A callable package: `sft_exp.compare("outputs/multirun/*")` is the command in Python."""

    def __call__(self, *runs: str | Path) -> "RichComparison":
        """See `compare.notebook.compare`."""
        from sft_exp.compare.notebook import compare

        return compare(runs)


sys.modules[__name__].__class__ = Command
