"""Go from a folder of images to a model and a page about it.

    sft_exp start photos minutes=10

Checks the images, finds in the minutes given what works best on them (`study=choose`), trains it,
and chooses the unlabelled images that are most worth labelling. OUT/start.html says what the images
are, what works and how certain that is, what to label next, and how to use the model. `photos`
holds a folder for each class, or what else `dataset=image_folder` reads. What to label next is
chosen from `unlabelled`, or without it and with a budget such as labels=10 from the images of
`photos` outside it. The same command again repeats nothing that is done.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from sft_exp.config import args
from sft_exp.errors import require


@dataclass
class Arguments:
    positional: ClassVar[tuple[str, ...]] = ("folder",)

    folder: Path  # of the labelled images
    unlabelled: list[Path] = field(default_factory=list)  # folders of images without labels
    minutes: float = 10.0  # for the comparison of methods and the final training
    labels: str = "all"  # label budget: all, or a number per class
    n: int = 20  # images to label next
    out: Path | None = None  # folder of the page; null = outputs/start/FOLDER
    plan: bool = False  # only check the images and list the methods that would be tried

    def __post_init__(self):
        require(self.minutes >= 1, "minutes", self.minutes, "1 or more")
        require(self.n > 0, "n", self.n, "above 0")


def main(arguments: list[str] | None = None) -> int:
    return args.run("start", __doc__ or "", Arguments, work, arguments)


def work(arguments: Arguments) -> int:
    from sft_exp.label import __main__ as label  # late, as --help needs none of it
    from sft_exp.label.selection import Ask, opened
    from sft_exp.start import summary
    from sft_exp.store import atomic_io

    out = arguments.out or Path("outputs/start") / arguments.folder.resolve().name
    code = summary.choose(
        arguments.folder,
        arguments.unlabelled,
        arguments.labels,
        arguments.minutes,
        out,
        arguments.plan,
    )
    if code or arguments.plan:
        return code
    run = summary.chosen(out)
    *_, pool = opened(str(run))
    to_label = out / "to_label" if pool is not None and len(pool) else None
    if to_label and pool is not None:
        n = min(arguments.n, len(pool))
        label.work(Ask(str(run), n=n, out=str(to_label), serve=False))
    page = out / "start.html"
    atomic_io.write(page, summary.page_of(run, out, to_label))
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
