"""Inputs as people and programs leave them, and the data sets that read them."""

import json
from pathlib import Path

import pictures
from pictures import save
from PIL import Image

from sft_exp.datasets.image_folder import ImageFolder
from sft_exp.datasets.mask_folder import MaskFolder
from sft_exp.datasets.multilabel_table import MultilabelTable
from sft_exp.datasets.number_table import NumberTable

ROOT = Path("root")


def noise(number, size=(24, 24), mode="RGB"):
    return pictures.noise(number, size, mode)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def classes(root=ROOT, names="ab", first=0, count=4, make=noise, suffix="png"):
    for c, name in enumerate(names):
        for n in range(count):
            save(root / name / f"{n}.{suffix}", make(first + 100 * c + n))


def folder(root=ROOT, **options):
    return ImageFolder(root=str(root), **{"size": 16, "workers": 0, **options}).load()


def warnings(corpus):
    return "\n".join(corpus.report.get("warnings", []))


def tree(*paths, root=ROOT, count=3):
    for number, path in enumerate(paths):
        for n in range(count):
            save(root / path / f"{n}.png", noise(1000 * number + n))


def masks(root=ROOT, part="", make=None, count=4, size=(24, 24), first=0, suffix="png", **options):
    """Images and masks; `make` gives a mask's picture for its classes 0 and 1, as mode L."""
    for n in range(count):
        save(root / part / f"images/{n}.png", noise(first + n, size))
        mask = Image.new("L", size)
        mask.paste(1, (4 + n, 4, 16, 18))
        save(root / part / f"masks/{n}.{suffix}", make(mask, n) if make else mask, **options)


def segment(root=ROOT, **options):
    return MaskFolder(root=str(root), **{"size": 24, "workers": 0, **options}).load()


def table(rows, header="file,target", count=8, encoding="utf-8", images="im"):
    for n in range(count):
        save(Path(images, f"{n}.png"), noise(n))
    text = "\n".join([header, *(rows(n) if callable(rows) else rows[n] for n in range(count))])
    write(Path("t.csv"), text.encode(encoding))


def numbers(**options):
    return NumberTable(table="t.csv", root="im", **{"size": 16, **options}).load()


def sets(**options):
    return MultilabelTable(table="t.csv", root="im", **{"size": 16, "workers": 0, **options}).load()


def values(corpus):
    return corpus.train.target("value")[:, 0].tolist()


def hot(n):
    return f"{n % 2},{n // 2 % 2}"
