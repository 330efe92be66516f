"""Write the predictions of a run's model for image files.

For each image a line `file,class,probability` is written to stdout (an SVM has no probabilities),
or with format=jsonl an object with the probabilities of all classes. For a run's folder the column
`unlike` says whether the image is unlike those that the model learnt from, by the distance of its
features to those of training images; a line on stderr counts these. Models of other tasks write
`file` and their numbers; or masks, or one COCO json of boxes, with overlays, into the folder `out`,
at the images' own size. An image that cannot be read is reported on stderr and left out, and the
exit code is 3.

    sft_exp predict outputs/latest photos/*.jpg > classes.csv
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from sft_exp.config import args
from sft_exp.errors import DataError
from sft_exp.predict.files import for_each_image, named, predict


@dataclass
class Arguments:
    positional: ClassVar[tuple[str, ...]] = ("run", "files")

    run: Path  # folder of a run, finetune-* folder of the store, .onnx or .ort file
    files: list[str]  # image files, folders and globs; - reads names from stdin
    format: Literal["csv", "jsonl"] = "csv"  # of classifications
    out: Path = Path("outputs/predictions")  # folder for masks, boxes and overlays
    # for masks: predict in windows at this scale; null = fit to the model
    scale: float | None = None
    like: Path | None = None  # for boxes: COCO json whose image ids are used


def main(arguments: list[str] | None = None) -> int:
    return args.run("predict", __doc__ or "", Arguments, work, arguments)


def work(options: Arguments) -> int:
    from sft_exp.predict.inference import Predictor, load  # late: imports torch

    entries, model = list(named(options.files, sys.stdin)), load(options.run)
    if isinstance(model, Predictor):
        unread = predict(model, entries, sys.stdout, options.format)
    else:
        from sft_exp.predict.predictions import writer

        write = writer(model, options.out, sys.stdout, options.scale, options.like)
        unread = for_each_image(write, entries)
    for line in unread:
        print(f"sft_exp predict: {line}", file=sys.stderr)
    return DataError.code if unread else 0


if __name__ == "__main__":
    sys.exit(main())
