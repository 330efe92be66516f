"""`study=choose` on five folders of images: the pick, its gain over scratch, its regret and its minutes.

    python -m benchmarks choose FOLDER                     all sets, ten minutes each, then the regret
    python -m benchmarks choose FOLDER digits minutes=4    one of them, in four

Data sets and studies are written into FOLDER, each study with a store of its own. The regret is that of
`python -m benchmarks regret`.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import regret
from benchmarks.results import cut_out
from sft_exp.compare.comparison import percent


def digits(target: Path, data: Path) -> None:
    """scikit-learn's digits of 8 x 8 pixels, their first 1,200 for training."""
    from PIL import Image
    from sklearn.datasets import load_digits

    source = load_digits()
    for n, (pixels, label) in enumerate(zip(source.images, source.target, strict=True)):
        save(Image.fromarray((pixels * 15.9).astype("uint8")), target, n < 1200, label, n)


def mnist(target: Path, data: Path) -> None:
    """The first 7,000 training and 3,000 test images of MNIST."""
    from torchvision.datasets import MNIST

    for train, images in ((True, 7000), (False, 3000)):
        source = MNIST(data / "mnist", train=train)
        for n in range(images):
            image, label = source[n]
            save(image, target, train, label, n)


def save(image, target: Path, train: bool, label: int, number: int) -> None:
    folder = target / ("train" if train else "test") / str(label)
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / f"{number}.png")


def cells(target: Path, data: Path) -> None:
    cut_out(data / "bccd", target)


# how a set is made (None: it lies in the folder of data) and its labels a class
SETS = {
    "sign_digits": (None, 10),
    "cifar10_jpeg12k": (None, 10),
    "cells": (cells, 10),
    "digits": (digits, 10),
    "mnist": (mnist, 20),
}


def main(words: list[str], data: Path) -> None:
    folder, *rest = words
    minutes = next((w for w in rest if w.startswith("minutes=")), "minutes=10")
    names = [word for word in rest if word in SETS] or list(SETS)
    studies = {name: study(Path(folder).resolve(), name, minutes, data) for name in names}
    print(
        "| images | pick | test | scratch | gain | minutes |\n| --- | --- | ---: | ---: | ---: | ---: |"
    )
    for name, (place, seconds) in studies.items():
        print(row(name, place, seconds))
    for name, (place, _) in studies.items():
        print(f"\n{name}\n")
        regret.main([str(place)])


def study(folder: Path, name: str, minutes: str, data: Path) -> tuple[Path, float]:
    """The folder of a finished study and the seconds that it took."""
    make, labels = SETS[name]
    root = folder / "data" / name if make else data / name
    if make and not root.exists():
        make(root, data)
    place = folder / f"{name}-{minutes.partition('=')[2]}"
    command = [
        *(sys.executable, "-m", "sft_exp", "study=choose", minutes, "dataset=image_folder"),
        *(f"dataset.root={root}", f"labels={labels}", f"hydra.sweep.dir={place}"),
        *(f"store={place}-store", "tracker=none"),
    ]
    began = time.monotonic()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.monotonic() - began
    place.with_suffix(".txt").write_text(done.stderr + done.stdout)
    return place, seconds


def row(name: str, place: Path, seconds: float) -> str:
    facts = json.loads((place / "study.json").read_text())
    verdict = facts["verdict"]
    gain = ""
    if verdict:
        gain, low, high = (f"{100 * verdict[key]:+.1f}" for key in ("difference", "low", "high"))
        gain = f"{gain} ({low} to {high}), {verdict['word']}"
    scratch = percent(facts["test"] - verdict["difference"]) if verdict else ""
    cells = [name, facts["best"], percent(facts["test"]), scratch, gain, f"{seconds / 60:.1f}"]
    return f"| {' | '.join(cells)} |"
