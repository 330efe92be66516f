"""What more labels would bring: `python -m sft_exp.forecast run=outputs/latest n=50` -> `50 more labels: 88 to 92 %`

Fine-tunes the run's experiment with a half, a quarter, an eighth of its labels (what is in the store is not computed again), and
carries the curve on. The interval is for one set of labels drawn at random; those that sft_exp.label chooses may do better.
Writes forecast.json into the run folder.

    run=RUN      folder of a finished run, of 3 draws or more
    n=50         labels more than it had
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from sft_exp.config import args
from sft_exp.errors import Failure, require
from sft_exp.label.forecast import curve, words
from sft_exp.store import atomic_io


@dataclass
class Ask:
    run: str
    n: int = 50

    def __post_init__(self):
        require(self.n > 0, "n", self.n, "above 0")


def main(arguments: list[str] | None = None) -> int:
    try:
        ask = args.parse(Ask, __doc__ or "", "forecast", arguments)
        found = curve(Path(ask.run))
        atomic_io.write_json(Path(ask.run) / "forecast.json", found)
        print(words(found, ask.n))
    except Failure as error:
        print(f"sft_exp.forecast: {error}", file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
