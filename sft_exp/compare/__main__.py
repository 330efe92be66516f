"""Compare the jobs of a sweep, of several, or single runs: `python -m sft_exp.compare outputs/multirun/<id>`.

Settings are sorted and chosen by validation. The test score stands beside them to be read: nothing here chooses by it.
What is shown depends on the jobs' results alone, so a sweep that was killed and went on shows what an undisturbed one does.
"""

import argparse
import sys
from pathlib import Path

from sft_exp.compare.comparison import Comparison, collect
from sft_exp.compare.output import tell, write
from sft_exp.errors import Failure


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sft_exp.compare", description=(__doc__ or "").partition("\n\n")[2]
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, help="sweep folders (outputs/multirun/<id>) or run folders"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="where compare.csv and compare.html go (default: the folder, if it is one)",
    )
    args = parser.parse_args()
    try:
        found = Comparison(collect(args.folders))
        out = args.out or (args.folders[0] if len(args.folders) == 1 else Path("outputs/compare"))
        write(found, out, ", ".join(f.resolve().name for f in args.folders))
    except Failure as error:
        print(f"sft_exp: {error}", file=sys.stderr)
        return error.code
    tell(found)
    print(out / "compare.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
