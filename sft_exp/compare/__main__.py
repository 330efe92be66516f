"""Compare the jobs of one or several sweeps, or single runs.

Settings are sorted and chosen by validation, never by the test score, which is shown beside it. The
comparison depends on the jobs' results alone, so a sweep that was killed and continued gives the
same as an undisturbed one.

    sft_exp compare outputs/multirun/*
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sft_exp.config import args


@dataclass
class Arguments:
    positional: ClassVar[tuple[str, ...]] = ("run",)

    run: list[Path]  # sweep folders (outputs/multirun/ID) or run folders
    out: Path | None = None  # folder of compare.csv and compare.html; null = RUN if it is one


def main(arguments: list[str] | None = None) -> int:
    return args.run("compare", __doc__ or "", Arguments, work, arguments)


def work(arguments: Arguments) -> None:
    from sft_exp.compare.comparison import Comparison, collect  # late: imports torch
    from sft_exp.compare.output import print_comparison, write

    folders = arguments.run
    comparison = Comparison(collect(folders))
    out = arguments.out or (folders[0] if len(folders) == 1 else Path("outputs/compare"))
    write(comparison, out, ", ".join(folder.resolve().name for folder in folders))
    print_comparison(comparison)
    print(out / "compare.html")


if __name__ == "__main__":
    sys.exit(main())
