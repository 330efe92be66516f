"""The selection of images to label next: the unlabelled pool, its features, and the choice."""

import base64
import io
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sft_exp.errors import DataError, require
from sft_exp.label.sheet import Sheet

if TYPE_CHECKING:
    from torch import Tensor

    from sft_exp.data.corpus import Corpus, Dataset
    from sft_exp.data.images import Images
    from sft_exp.data.splits import Draw
    from sft_exp.label.tools import Guess


STRATEGIES = ("typiclust", "coreset", "margin", "random")
POOL = 50_000  # candidates at most; a larger pool is subsampled at random
SIDE = 480  # pixels of the longer side of a picture on the page


@dataclass
class Ask:
    positional: ClassVar[tuple[str, ...]] = ("run",)

    run: str  # folder of a finished run
    n: int = 50  # images to choose
    strategy: str = "typiclust"  # typiclust, coreset, margin or random
    seed: int = 0  # of the strategy
    out: str = ""  # folder of the files; default: outputs/labels/RUN-STRATEGY-N-SEED
    serve: bool = True  # false: only write them; label.html opened as a file downloads labels.csv
    port: int = 8765  # of the page's server; 0 = any free one
    answers: str = ""  # export of Label Studio or FiftyOne, whose labels go into labels.csv

    def __post_init__(self):
        require(self.n > 0, "n", self.n, "above 0")
        require(
            self.strategy in STRATEGIES,
            "label.strategy",
            self.strategy,
            "typiclust, coreset, margin or random",
        )
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        require(0 <= self.port < 65536, "port", self.port, "0 to 65535")

    @property
    def name(self) -> str:
        """What is asked for, in a word."""
        return f"{Path(self.run).resolve().name}-{self.strategy}-{self.n}-{self.seed}"

    @property
    def folder(self) -> Path:
        return Path(self.out).expanduser() if self.out else Path("outputs/labels") / self.name


def opened(run: str) -> tuple["Dataset", "Corpus", "Images", "Images | None"]:
    """(data set, its corpus, a run's labelled images, its unlabelled images).

    The unlabelled images are those without any label, and a table for `dataset.labels` adds labels
    to them. Where there are none and the labels are budgeted, they are the training images outside
    the first draw's budget, and a table for `labels` adds them.
    """
    from sft_exp import api
    from sft_exp.data import splits
    from sft_exp.training.context import corpus

    e = api.reopen(run)
    data, labels = corpus(e.dataset), splits.Labels.parse(e.labels, e.labels_total)
    if e.task.predicts != "classes":
        raise DataError(
            f"{run}: only classes can be labelled, and its task predicts {e.task.predicts}"
        )
    takes_labels = "labels" in {f.name for f in fields(e.dataset)}
    unlabelled = bool(data.extra and len(data.extra)) and not labels.table
    if takes_labels and (unlabelled or labels == splits.Labels("all")):
        return e.dataset, data, data.train, data.extra
    draw = splits.make(data, labels, 0)
    return e.dataset, data, draw.labelled, outside(data, draw)


def outside(data: "Corpus", draw: "Draw") -> "Images":
    """Training images that are neither labelled nor test images."""
    import torch

    excluded = {*draw.labelled.ids, *draw.test.ids}
    rows = [row for row, name in enumerate(data.train.ids) if name not in excluded]
    return data.train.at(torch.tensor(rows, dtype=torch.long))


def choose(ask: Ask, labelled: "Images", pool: "Images") -> "Tensor":
    """Rows of `pool` in order of preference."""
    import torch

    from sft_exp import api
    from sft_exp.core.rng import stream
    from sft_exp.label import acquire

    sample = torch.randperm(len(pool), generator=stream(ask.seed, "looked"))[:POOL].sort().values
    candidates = pool.at(sample)
    known_N = torch.arange(len(labelled) + len(candidates)) < len(labelled)
    if ask.strategy == "random":
        rows = acquire.random(known_N, ask.n, ask.seed)
    elif ask.strategy == "margin":
        model = api.load_model(ask.run)
        logits_NY = torch.cat([outputs(model.predict, x) for x in (labelled, candidates)])
        rows = acquire.margin(logits_NY, known_N, ask.n)
    else:
        encoder = api.load_pretrained(ask.run)
        f_ND = acquire.directions(torch.cat([outputs(encoder, x) for x in (labelled, candidates)]))
        strategy = acquire.typiclust if ask.strategy == "typiclust" else acquire.coreset
        rows = strategy(f_ND, known_N, ask.n, ask.seed)
    return sample[rows - len(labelled)]


def guessed(run: str, data: "Corpus", chosen: "Images") -> list["Guess"]:
    """The run's class for each image and its probability, None from an SVM."""
    from sft_exp import api

    model = api.load_model(run)
    logits_NY = outputs(model.predict, chosen)
    best_N = logits_NY.argmax(1).tolist()
    if not model.probabilistic:
        return [(data.classes[y], None) for y in best_N]
    p_N = logits_NY.softmax(1).max(1).values.tolist()
    return [(data.classes[y], round(p, 6)) for y, p in zip(best_N, p_N, strict=True)]


def outputs(function: Any, images: "Images") -> "Tensor":
    """A network's outputs for the images, [N, ...]."""
    import torch

    from sft_exp.stages.model import at_once

    with torch.no_grad():
        rows = torch.arange(len(images)).split(at_once(images))
        return torch.cat([function(b["x"]) for b in images.batches(rows, torch.device("cpu"))])


def table_of(
    dataset: "Dataset", data: "Corpus", known: "Images", chosen: "Images", folder: Path
) -> Sheet:
    """A sheet whose labels.csv serves as `dataset.labels`, with paths relative to dataset.root or
    else to the table."""
    if inside := [name for name in chosen.ids if name not in data.files]:
        raise DataError(
            f"{inside[0]}: only files of their own can be labelled; unpack the archive and name its folder"
        )
    root = Path(dataset.root).expanduser() if dataset.root else folder  # type: ignore[attr-defined]
    group = dataset.group or "group"  # type: ignore[attr-defined]
    column = group if known.groups and group.isidentifier() else None

    def place(name: str) -> str:
        return Path(os.path.relpath(data.files[name], root.absolute())).as_posix()

    rows = []
    for split, images in (("train", known), ("test", data.test)):
        if images is not None:
            for n, name in enumerate(images.ids):
                extra = {"split": split, column: images.groups[n] if images.groups else ""}
                rows.append({"file": place(name), "label": data.classes[images.y[n]], **extra})
    columns = ["file", "label"] + ([column] if column else [])
    columns += ["split"] if data.test is not None else []
    names = [place(name) for name in chosen.ids]
    cells = [[row[c] for c in columns] for row in rows]
    return Sheet("dataset.labels", columns, list(data.classes), names, cells)


def picture(data: "Corpus", images: "Images", row: int) -> str:
    """An image as a data URI: its file, reduced, or the decoded pixels if it has no file or one of
    16 bits."""
    from PIL import Image, ImageOps

    from sft_exp.data.decode import formats

    pixels = images.raw(row).permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if file := data.files.get(images.ids[row]):
        with Image.open(file, formats=formats()) as original:
            if not original.mode.startswith("I"):
                picture = ImageOps.exif_transpose(original).convert("RGB")
                picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    kind = "PNG" if max(picture.size) <= 100 else "JPEG"
    picture.save(buffer, kind, quality=90)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
