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
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import ClassVar, Literal

from sft_exp.config import args
from sft_exp.errors import ConfigError, DataError, require
from sft_exp.predict.files import files, for_each_image, named, predict

FOLDER = Path("outputs/predictions")  # of masks, boxes and overlays, unless `out` names another one
# what `Task.predicts` says -> the options that these predictions use beside `run`, `files` and `format`,
# which version 0.1 took for all
USED = {
    "classes": (),
    "label sets": (),
    "pixels": ("out", "scale"),
    "boxes": ("out", "like"),
    "several": ("out",),
    "numbers": (),
}


@dataclass
class Arguments:
    positional: ClassVar[tuple[str, ...]] = ("run", "files")

    run: Path  # folder of a run, finetune-* folder of the store, .onnx or .ort file
    files: list[str]  # image files, folders and globs; - reads names from stdin
    format: Literal["csv", "jsonl"] = "csv"  # of classifications
    # folder for masks, boxes and overlays; null = outputs/predictions
    out: Path | None = None
    # for masks: predict in windows at this scale; null = fit to the model
    scale: float | None = None
    like: Path | None = None  # for boxes: COCO json whose image ids are used

    def __post_init__(self):
        valid = self.scale is None or 0 < self.scale < inf
        require(valid, "scale", self.scale, "null, or above 0")


def main(arguments: list[str] | None = None) -> int:
    return args.run("predict", __doc__ or "", Arguments, work, arguments)


def work(options: Arguments) -> int:
    from sft_exp.predict.inference import Predictor, load  # late: imports torch

    entries, model = list(named(options.files, sys.stdin)), load(options.run)
    if isinstance(model, Predictor):
        require_used(options, "classes" if model.thresholds is None else "label sets")
        unread = predict(model, entries, sys.stdout, options.format)
    else:
        from sft_exp.predict.predictions import writer

        require_used(options, model.task.predicts)
        folder = options.out or FOLDER
        if "out" in USED.get(model.task.predicts, ()):
            require_apart(folder, files(entries))
        write = writer(model, folder, sys.stdout, options.scale, options.like)
        unread = for_each_image(write, entries, bool(model.spec.levels))
    for line in unread:
        print(f"sft_exp predict: {line}", file=sys.stderr)
    return DataError.code if unread else 0


def require_used(options: Arguments, predicts: str) -> None:
    """ConfigError for an option that predictions of this kind would not follow."""
    given = {
        "out": options.out,
        "scale": options.scale,
        "like": options.like,
    }
    for key, value in given.items():
        if value is None or key in USED.get(predicts, given):
            continue
        instead = (f"; {' and '.join(USED[predicts])} would have" if USED[predicts] else "") + (
            "" if "out" in USED[predicts] else ". They are written to stdout: > predictions.csv"
        )
        raise ConfigError(key, value, f"has no effect on predictions of {predicts}{instead}")


def require_apart(folder: Path, images: Iterable[Path]) -> None:
    """ConfigError if files of predictions could replace images, which are PNGs in their folder."""
    where = folder.resolve()
    for image in images:
        if image.suffix.lower() == ".png" and image.resolve().parent == where:
            raise ConfigError(
                "out",
                folder,
                f"holds {image.name}, which is to be predicted and which a file of its prediction"
                " could replace; name a folder without such PNGs",
            )


if __name__ == "__main__":
    sys.exit(main())
