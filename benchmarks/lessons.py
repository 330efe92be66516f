"""docs/pretrainers/<name>.md: what a pretrainer does, how it learns, what it makes of images, what its features are worth.

    python -m benchmarks.lessons                 # every pretrainer, on digits and MNIST (kmeans on CIFAR-10 too), three seeds
    python -m benchmarks.lessons dae --seeds 1   # one page, one seed

The text is the method's docstring and the comments of its fields; the rows are runs of the framework, so that a second call
trains nothing. Frozen features, 10 labels a class (CIFAR-10: 50), beside every baseline on the same label draws: under a logistic
regression, or with the labels spread over the graph of unlabelled images' features, and then beside the same on pixels.
"""

import argparse
import importlib
import inspect
import os
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

import sft_exp
from sft_exp.config import args, help_text
from sft_exp.core import arms
from sft_exp.core.pretrainer import Pretrainer
from sft_exp.store import atomic_io

ROOT = Path(__file__).parent.parent
NOT_MEASURED = {  # pretrainer -> why it has no row
    "none": "The control: nothing is learned.",
    "checkpoint": "What it is worth depends on the file.",
    "imagenet": "Needs torchvision's weights, which are downloaded.",
    "supervised": "Needs the labels of another data set.",
}
# as study=pretrainers
ALIKE = (
    "encoder=conv",
    "pretrain.steps=1000",
    "pretrain.batch_size=128",
    "hardware.precision=bf16",
)
RECIPES: dict[str, tuple[str, ...]] = {  # what each gets on MNIST
    **dict.fromkeys(("simclr", "moco", "byol", "simsiam", "barlow_twins", "vicreg", "dino"), ALIKE),
    **dict.fromkeys(("ae", "dae", "mae", "rotation", "jigsaw", "gan", "bigan"), ALIKE),
    "vae": (*ALIKE, "features.maps=[code]"),
    "wgan_gp": (*ALIKE, "encoder.norm=layer"),
    "pca": (),
    "kmeans": (),
}
# whose MNIST patches are mostly blank, so that CIFAR-10 is the set to judge it on
CIFAR = ("kmeans",)
SPREAD = ("ae", "dae", "vae", "pca")  # whose features are worth most as a graph


@dataclass
class Row:
    """One pretrainer on one data set, over some seeds: the mean accuracy and that of each floor."""

    dataset: str
    command: str
    accuracy: float
    floors: dict[str, float]
    seeds: int
    folder: Path  # of the first seed's run, where its pictures are

    @property
    def advantage(self) -> float:
        """Over the best floor."""
        return self.accuracy - max(self.floors.values())


def home(name: str) -> str:
    """The data set on which its test asks a method to beat its baselines."""
    return "cifar10" if name in CIFAR else "mnist"


def overrides(name: str, dataset: str, data: Path | None) -> list[str]:
    """What both a lesson and the test of its method run, but for the seed."""
    asked = [
        f"pretrainer={name}",
        f"strategy={'spread' if name in SPREAD else 'logistic'}",
        "val=none",
    ]
    if dataset == "digits":
        return [*asked, "labels=10", "draws=10"]
    if dataset == "cifar10":  # 12,000 of its images as JPEG files in a folder for each class
        images = ["dataset=image_folder", "dataset.size=32", f"dataset.root={data}/cifar10_jpeg12k"]
        return [*asked, "labels=50", "draws=3", "encoder=patches", *images]
    root = [f"dataset.root={data}/mnist", "dataset.download=false"] if data else []
    return [*asked, "labels=10", "draws=3", "dataset=mnist", *RECIPES[name], *root]


def measure(name: str, dataset: str, seeds: int, data: Path | None, outputs: Path) -> Row:
    """Runs what is missing."""
    asked = overrides(name, dataset, data)
    beside = (*arms.FLOORS, "raw_spread") if name in SPREAD else arms.FLOORS
    results = []
    for seed in range(seeds):
        folder = outputs / "lessons" / f"{name}-{dataset}-{seed}"
        rest = [
            f"controls=[{','.join(beside)}]",
            "tracker=none",
            "monitors=false",
            f"report={str(seed == 0).lower()}",
            f"store={outputs}/store",
        ]
        results.append(sft_exp.run([*asked, f"seed={seed}", *rest], folder))
    floors = {arm: fmean(r["controls"][arm]["accuracy"] for r in results) for arm in beside}
    root = {f"dataset.root={data}/cifar10_jpeg12k": "dataset.root=<folder>"}
    shown = " ".join(
        root.get(o, o)
        for o in asked
        if o in root or not o.startswith(("dataset.root", "dataset.download"))
    )
    accuracy = fmean(r["test"]["accuracy"] for r in results)
    return Row(
        dataset,
        f"python -m sft_exp {shown}",
        accuracy,
        floors,
        seeds,
        outputs / "lessons" / f"{name}-{dataset}-0",
    )


def page(name: str, rows: list[Row], pictures: list[tuple[str, str]]) -> str:
    """The lesson as Markdown. `pictures`: (caption, file beside the page)."""
    kind = kind_of(name)
    text = [
        f"# {name}",
        "",
        f"*{help_text.options('pretrainer')[name]}*",
        "",
        *quoted(inspect.getmodule(kind).__doc__),
    ]
    if settings := settings_of(kind):
        text += ["", "| field | default | |", "| --- | --- | --- |", *settings]
    text += ["", "## What its features are worth", ""]
    if not rows:
        text.append(NOT_MEASURED.get(name, "Not measured."))
    else:
        how = (
            "labels spread over the graph of frozen features"
            if name in SPREAD
            else "logistic regression on frozen features"
        )
        text += [
            f"Accuracy in %, {how}, 10 labels a class (CIFAR-10: 50); mean over seeds and label draws.",
            "",
        ]
        floors = rows[0].floors
        text += [
            f"| data | {name} | {' | '.join(floors)} | beats every baseline |",
            "| --- " * (len(floors) + 3) + "|",
        ]
        for r in rows:
            numbers = " | ".join(f"{100 * a:.1f}" for a in (r.accuracy, *r.floors.values()))
            verdict = f"{'yes' if r.advantage > 0 else 'no'}, {100 * r.advantage:+.1f}"
            text.append(
                f"| {r.dataset} ({r.seeds} {'seed' if r.seeds == 1 else 'seeds'}) | {numbers} | {verdict} |"
            )
        text += ["", *(f"    {r.command}" for r in rows)]
    for caption, file in pictures:
        text += ["", f"![{caption}]({file})"]
    return "\n".join([*text, "", "Made by `python -m benchmarks.lessons`.", ""])


def kind_of(name: str) -> type[Pretrainer]:
    """The class of an option of the group `pretrainer`."""
    module = "checkpoint" if name == "imagenet" else name
    found = vars(importlib.import_module(f"sft_exp.pretrainers.{module}")).values()
    (kind,) = [
        c
        for c in found
        if inspect.isclass(c) and issubclass(c, Pretrainer) and c.__module__.endswith(f".{module}")
    ]
    return kind


def quoted(docstring: str | None) -> list[str]:
    """A docstring's lines; what is indented there is code in Markdown too, if a line is free before it."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    text: list[str] = []
    for line in lines:
        if line.startswith("    ") and text and text[-1] and not text[-1].startswith("    "):
            text.append("")
        text.append(line)
    return text


def settings_of(kind: type[Pretrainer]) -> list[str]:
    """A row of a table for each field of the method's own."""
    comments = args.field_comments(Path(inspect.getfile(kind)), kind.__name__)
    rows = []
    for f in fields(kind):
        if f.name in comments:
            value: Any = (
                f.default
                if f.default is not inspect._empty and "MISSING" not in repr(f.default)
                else "as the group"
            )
            rows.append(f"| `{f.name}` | `{value}` | {comments[f.name].replace('|', '&#124;')} |")
    return rows


def write(name: str, rows: list[Row], docs: Path) -> None:
    """The page, and the pictures of the last data set's run beside it."""
    pictures = []
    for r in rows[-1:]:
        for file, caption in (
            ("pretraining", "Loss of the pretraining"),
            ("examples", "What it makes of images"),
        ):
            if (r.folder / f"{file}.png").exists():
                target = docs / "images" / f"{name}-{file}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(r.folder / f"{file}.png", target)
                pictures.append((f"{caption}, {r.dataset}", f"images/{target.name}"))
    atomic_io.write(docs / f"{name}.md", page(name, rows, pictures))


def index(lessons: dict[str, list[Row]], docs: Path) -> None:
    """All methods in one table, best first."""
    text = [
        "# Pretrainers",
        "",
        "Accuracy in % of frozen features, 10 labels a class: how each was run, and its baselines, are on its page.",
        "",
    ]
    text += ["| | digits | MNIST | over its best floor |", "| --- | --- | --- | --- |"]
    order = sorted(
        lessons,
        key=lambda n: -max((r.accuracy for r in lessons[n] if r.dataset == "mnist"), default=0),
    )
    for name in order:
        of = {r.dataset: r for r in lessons[name]}
        shown = [f"{100 * of[d].accuracy:.1f}" if d in of else "" for d in ("digits", "mnist")]
        judged = of.get(home(name))
        gain = (
            f"{100 * judged.advantage:+.1f}{' on CIFAR-10' if judged.dataset == 'cifar10' else ''}"
            if judged
            else ""
        )
        text.append(f"| [{name}]({name}.md) | {' | '.join(shown)} | {gain} |")
    atomic_io.write(
        docs / "README.md", "\n".join([*text, "", "Made by `python -m benchmarks.lessons`.", ""])
    )


def main(
    data: Path | None,
    outputs: Path,
    names: list[str] | None = None,
    seeds: int = 3,
    sets: tuple[str, ...] = (),
) -> None:
    """Measure and write; of no names all, and then the table of all."""
    docs, lessons = ROOT / "docs" / "pretrainers", dict[str, list[Row]]()
    (docs / "images").mkdir(parents=True, exist_ok=True)
    for name in names or help_text.options("pretrainer"):
        its = dict.fromkeys(("digits", "mnist", home(name))) if data else ("digits",)
        wanted = [d for d in its if not sets or d in sets]
        lessons[name] = (
            [measure(name, d, seeds, data, outputs) for d in wanted]
            if name not in NOT_MEASURED
            else []
        )
        write(name, lessons[name], docs)
        print(
            name,
            *(
                f"{r.dataset} {100 * r.accuracy:.1f} ({100 * r.advantage:+.1f})"
                for r in lessons[name]
            ),
            flush=True,
        )
    if not names:
        index(lessons, docs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="pretrainers; all, if none is named")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", nargs="*", default=[], choices=["digits", "mnist", "cifar10"])
    parser.add_argument("--outputs", type=Path, default=ROOT / "outputs")
    asked = parser.parse_args()
    folder = Path(os.environ.get("SFT_EXP_DATA", ROOT.parent / "shared" / "data"))
    main(
        folder if folder.is_dir() else None,
        asked.outputs,
        asked.names,
        asked.seeds,
        tuple(asked.sets),
    )
