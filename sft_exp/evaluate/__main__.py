"""Score a finished run's model on new labelled images.

    sft_exp evaluate outputs/latest dataset.root=photos_of_2027

The images are read as the run's were, or by any other reader: dataset=mnist. If the data set has
test images, those are scored, otherwise all its labelled images. Without dataset= keys the run's
own test images are scored. Class names are matched by name; a class that the model does not know is
refused.

Of a classifier it writes evaluation.html (scores, a table of the classes, confusions, calibration
before and after temperature scaling, precision-recall curves, the most confident mistakes),
predictions.csv and evaluation.json; of other tasks their scores alone. Nothing is learnt from the
scored images: the temperature is fitted on labels that the run itself held out (val=holdout). Of a
run with several labelled splits, the first one's model is scored.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from sft_exp.config import args
from sft_exp.errors import require


@dataclass
class Arguments:
    positional: ClassVar[tuple[str, ...]] = ("run",)
    nested: ClassVar[tuple[str, ...]] = ("dataset",)

    run: Path  # folder of a finished run
    # the data set and its keys, as in a run: dataset=NAME dataset.KEY=VALUE
    dataset: list[str] = field(default_factory=list)
    # folder of the files; null = outputs/evaluations/RUN-DATASET-HASH
    out: Path | None = None
    mistakes: int = 12  # most confident mistakes that are shown
    images: bool = True  # show images on the page; false keeps private images out
    device: str = "auto"  # auto, cpu, cuda, cuda:1 or mps

    def __post_init__(self):
        require(self.mistakes >= 0, "mistakes", self.mistakes, "0 or more")


def main(arguments: list[str] | None = None) -> int:
    return args.run("evaluate", __doc__ or "", Arguments, work, arguments)


def work(arguments: Arguments) -> None:
    from sft_exp.evaluate import evaluation, page  # late: imports torch

    result = evaluation.evaluate(arguments.run, arguments.dataset, device=arguments.device)
    name = f"{arguments.run.resolve().name}-{result.data}-{result.manifest[:8]}"
    folder = arguments.out or Path("outputs/evaluations") / name
    page.write(result, folder, arguments.mistakes, arguments.images)
    print(page.text(result))
    print(folder / "evaluation.html")


if __name__ == "__main__":
    sys.exit(main())
