"""Write what the model of a run predicts for image files.

One line `file,class,probability` for each image on stdout (an SVM has no probabilities), or with
format=jsonl one object with the probabilities of all classes. Models of other tasks write `file` and
their numbers; or masks, or one COCO json of boxes, with overlays, into the folder `out`, at the images'
own size. An image that cannot be read is named on stderr and left out; then the exit code is 3.

    sft_exp predict outputs/latest photos/*.jpg > classes.csv
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from sft_exp.config import args
from sft_exp.errors import DataError
from sft_exp.predict.files import each, named, predict


@dataclass
class Arguments:
    positional: ClassVar[tuple[str, ...]] = ("run", "files")

    run: Path  # folder of a run, finetune-* folder of the store, .onnx or .ort file
    files: list[str]  # image files, folders and globs; - reads names from stdin
    format: Literal["csv", "jsonl"] = "csv"  # of models that give each image a class
    out: Path = Path("outputs/predictions")  # folder for masks, boxes and overlays
    # of masks: predict in windows at this scale; null = fit to the model
    scale: float | None = None
    like: Path | None = None  # of boxes: COCO json whose image ids the results take


def main(arguments: list[str] | None = None) -> int:
    return args.run("predict", __doc__ or "", Arguments, work, arguments)


def work(given: Arguments) -> int:
    from sft_exp.predict.inference import load, load_other  # late: imports torch

    entries, other = list(named(given.files, sys.stdin)), load_other(given.run)
    if other is None:
        unread = predict(load(given.run), entries, sys.stdout, given.format)
    else:
        from sft_exp.predict.predictions import writer

        unread = each(writer(other, given.out, sys.stdout, given.scale, given.like), entries)
    for line in unread:
        print(f"sft_exp.predict: {line}", file=sys.stderr)
    return DataError.code if unread else 0


if __name__ == "__main__":
    sys.exit(main())
