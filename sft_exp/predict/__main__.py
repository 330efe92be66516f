"""What a model that a run has left says of images: `python -m sft_exp.predict RUN FILES... > classes.csv`.

Writes `file,class,probability` for each image (an SVM has no probabilities), or with --format jsonl an object a line with
the probabilities of all classes. Models of other tasks write `file` and their numbers; or masks, or one COCO json of boxes, with
overlays, into the folder --out, in the images' own pixels. What cannot be read is named on stderr and left out; then the exit
code is 3.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sft_exp.errors import DataError, Failure
from sft_exp.predict.files import each, named, predict

if TYPE_CHECKING:
    pass


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sft_exp.predict", description=__doc__)
    parser.add_argument(
        "run",
        metavar="RUN",
        help="folder of a run (with results.json), a finetune-* folder of the store, an .onnx or .ort file",
    )
    parser.add_argument(
        "files",
        metavar="FILES",
        nargs="+",
        help="image files, folders of them, globs; - reads them from stdin",
    )
    parser.add_argument("--format", choices=("csv", "jsonl"), default="csv")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/predictions"), help="folder of masks and overlays"
    )
    parser.add_argument(
        "--scale",
        type=float,
        help="of images whose pixels are predicted, in windows of the model's size; default: fitted to it",
    )
    parser.add_argument(
        "--like", type=Path, help="of boxes: a COCO json; they are written as results with its ids"
    )
    args = parser.parse_args(arguments)
    from sft_exp.predict.inference import (  # after the arguments, so that --help does not wait for torch
        load,
        load_other,
    )

    try:
        entries, other = list(named(args.files, sys.stdin)), load_other(Path(args.run))
        if other is None:
            unread = predict(load(Path(args.run)), entries, sys.stdout, args.format)
        else:
            from sft_exp.predict.predictions import writer

            unread = each(writer(other, args.out, sys.stdout, args.scale, args.like), entries)
    except Failure as error:
        print(f"sft_exp.predict: {error}", file=sys.stderr)
        return error.code
    for line in unread:
        print(f"sft_exp.predict: {line}", file=sys.stderr)
    return DataError.code if unread else 0


if __name__ == "__main__":
    sys.exit(main())
