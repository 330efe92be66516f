"""Forecast the accuracy with more labels, as an interval: `50 more labels: 88 to 92 %`.

Fine-tunes the run's experiment with a half, a quarter and an eighth of its labels (finished stages
come from the store) and extrapolates the learning curve. The interval is for one random set of
labels; labels that `sft_exp label` chooses may do better. Writes forecast.json into the run folder.

    sft_exp forecast outputs/latest n=50
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sft_exp.config import args
from sft_exp.errors import require
from sft_exp.store import atomic_io


@dataclass
class Arguments:
    positional: ClassVar[tuple[str, ...]] = ("run",)

    run: Path  # folder of a finished run with 3 draws or more
    n: int = 50  # additional labels

    def __post_init__(self):
        require(self.n > 0, "n", self.n, "above 0")


def main(arguments: list[str] | None = None) -> int:
    return args.run("forecast", __doc__ or "", Arguments, work, arguments)


def work(arguments: Arguments) -> None:
    from sft_exp.label.forecast import curve, words  # late: imports torch

    measured = curve(arguments.run)
    atomic_io.write_json(arguments.run / "forecast.json", measured)
    print(words(measured, arguments.n))


if __name__ == "__main__":
    sys.exit(main())
