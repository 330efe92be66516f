"""Which images to label next: the pool without labels, its features, and the choice among them."""

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


STRATEGIES = ("typiclust", "coreset", "margin", "random")
POOL = 50_000  # images without a label that are looked at; of more, so many at random
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
    def folder(self) -> Path:
        name = f"{Path(self.run).resolve().name}-{self.strategy}-{self.n}-{self.seed}"
        return Path(self.out).expanduser() if self.out else Path("outputs/labels") / name


def opened(run: str) -> tuple["Dataset", "Corpus", "Images", "Images | None"]:
    """(data set, what it holds, the images that a run had labels of, those it had none of).

    Where the labels are the user's own (labels=all), the others are those without any, which a table for `dataset.labels`
    adds; else they are the training images outside the first draw's budget, which a table for `labels` adds.
    """
    from sft_exp import api
    from sft_exp.data import splits
    from sft_exp.training.context import corpus

    e = api.reopen(run)
    data, labels = corpus(e.dataset), splits.Labels.parse(e.labels, e.labels_total)
    if e.task.predicts != "classes":
        raise DataError(f"{run}: images get a class here, and its task predicts {e.task.predicts}")
    if labels == splits.Labels("all") and "labels" in {f.name for f in fields(e.dataset)}:
        return e.dataset, data, data.train, data.extra
    draw = splits.make(data, labels, 0)
    return e.dataset, data, draw.labelled, outside(data, draw)


def outside(data: "Corpus", draw: "Draw") -> "Images":
    """Training images that are neither labelled nor tested on."""
    import torch

    taken = {*draw.labelled.ids, *draw.test.ids}
    return data.train.at(
        torch.tensor(
            [r for r, name in enumerate(data.train.ids) if name not in taken], dtype=torch.long
        )
    )


def choose(ask: Ask, known: "Images", open_: "Images") -> "Tensor":
    """Rows of `open_`, the most wanted first."""
    import torch

    from sft_exp import api
    from sft_exp.core.rng import stream
    from sft_exp.label import acquire

    looked = torch.randperm(len(open_), generator=stream(ask.seed, "looked"))[:POOL].sort().values
    some = open_.at(looked)
    known_N = torch.arange(len(known) + len(some)) < len(known)
    if ask.strategy == "random":
        rows = acquire.random(known_N, ask.n, ask.seed)
    elif ask.strategy == "margin":
        model = api.load_model(ask.run)
        logits_NY = torch.cat([outputs(model.predict, known), outputs(model.predict, some)])
        rows = acquire.margin(logits_NY, known_N, ask.n)
    else:
        encoder = api.load_pretrained(ask.run)
        f_ND = acquire.directions(torch.cat([outputs(encoder, known), outputs(encoder, some)]))
        strategy = acquire.typiclust if ask.strategy == "typiclust" else acquire.coreset
        rows = strategy(f_ND, known_N, ask.n, ask.seed)
    return looked[rows - len(known)]


def outputs(function: Any, images: "Images") -> "Tensor":
    """What a network makes of the images, [N, ...]."""
    import torch

    from sft_exp.stages.model import at_once

    with torch.no_grad():
        rows = torch.arange(len(images)).split(at_once(images))
        return torch.cat([function(b["x"]) for b in images.batches(rows, torch.device("cpu"))])


def table_of(
    dataset: "Dataset", data: "Corpus", known: "Images", chosen: "Images", folder: Path
) -> Sheet:
    """A sheet whose labels.csv serves as `dataset.labels`: files relative to dataset.root, or else to the table."""
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
    columns = [
        "file",
        "label",
        *([column] if column else []),
        *(["split"] if data.test is not None else []),
    ]
    names = [place(name) for name in chosen.ids]
    return Sheet(
        "dataset.labels",
        columns,
        list(data.classes),
        names,
        [[row[c] for c in columns] for row in rows],
    )


def picture(data: "Corpus", images: "Images", row: int) -> str:
    """An image as a data URI: its file, made smaller, or what the data set holds if it has none or one of 16 bits."""
    from PIL import Image, ImageOps

    from sft_exp.data.decode import formats

    pixels = images.raw(row).permute(1, 2, 0).numpy()
    shown = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if file := data.files.get(images.ids[row]):
        with Image.open(file, formats=formats()) as whole:
            if not whole.mode.startswith("I"):
                shown = ImageOps.exif_transpose(whole).convert("RGB")
                shown.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    kind = "PNG" if max(shown.size) <= 100 else "JPEG"
    shown.save(buffer, kind, quality=90)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
