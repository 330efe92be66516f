"""Sweeps: their jobs are composed, checked, run by a worker process, and compared."""

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sft_exp.compare.notebook import RichComparison


class Command(ModuleType):
    """Makes this package callable: `sft_exp.sweep(["optim.lr=0.1,0.01"])` is `sft_exp -m` from
    Python."""

    def __call__(self, overrides: list[str], folder: str | Path | None = None) -> "RichComparison":
        """See `sweep.process.sweep`."""
        from sft_exp.sweep.process import sweep

        return sweep(overrides, folder)


sys.modules[__name__].__class__ = Command
