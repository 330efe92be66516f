"""What to label next, and a page to label it with: `python -m sft_exp.label run=outputs/latest n=50`

Chooses typical and diverse images among those without a label, in the features that the run's pretraining learned, writes
chosen.csv and label.html, and serves the page on this machine: number keys label, `u` undoes, space skips. Each answer is in
labels.csv before it is acknowledged; the same command goes on where it stopped. Then labels.csv goes back into training.

    run=RUN                   folder of a finished run
    n=50                      images to choose
    label.strategy=typiclust  typiclust, coreset, margin or random
    seed=0                    of the strategy
    out=FOLDER                where the files go (default: outputs/labels/RUN-STRATEGY-N-SEED)
    serve=true                false: only write them; label.html opened as a file downloads labels.csv
    port=8765                 of the page's server; 0 = any free one
"""

import base64
import io
import json
import os
import shlex
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_exp import keys
from sft_exp.errors import DataError, Failure, require
from sft_exp.labelling import sheet
from sft_exp.labelling.sheet import Sheet

if TYPE_CHECKING:
    from torch import Tensor

    from sft_exp.data import Corpus, Dataset, Images
    from sft_exp.splits import Draw

STRATEGIES = ("typiclust", "coreset", "margin", "random")
POOL = 50_000  # images without a label that are looked at; of more, so many at random
SIDE = 480  # pixels of the longer side of a picture on the page


@dataclass
class Ask:
    run: str
    n: int = 50
    strategy: str = "typiclust"
    seed: int = 0
    out: str = ""
    serve: bool = True
    port: int = 8765

    def __post_init__(self):
        require(self.n > 0, "n", self.n, "above 0")
        require(self.strategy in STRATEGIES, "label.strategy", self.strategy, "typiclust, coreset, margin or random")
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        require(0 <= self.port < 65536, "port", self.port, "0 to 65535")

    @property
    def folder(self) -> Path:
        name = f"{Path(self.run).resolve().name}-{self.strategy}-{self.n}-{self.seed}"
        return Path(self.out).expanduser() if self.out else Path("outputs/labels") / name


def main(arguments: list[str] | None = None) -> int:
    try:
        ask = keys.parse(Ask, __doc__ or "", "label", arguments)
        if not (ask.folder / "sheet.json").exists():
            write(ask)
        tell(ask, sheet.load(ask.folder))
        if ask.serve:
            serve(ask)
    except Failure as error:
        print(f"sft_exp.label: {error}", file=sys.stderr)
        return error.code
    return 0


def write(ask: Ask) -> None:
    """Chooses, and writes the folder."""
    dataset, data, known, open_ = opened(ask.run)
    own = open_ is data.extra
    if open_ is None or len(open_) < ask.n:
        where = "dataset.unlabelled has" if own else "outside the run's labels there are"
        raise DataError(f"n={ask.n}: {where} {len(open_) if open_ else 0} images without a label")
    chosen = open_.at(choose(ask, known, open_))
    if own:
        made = table_of(dataset, data, known, chosen, ask.folder)
    else:
        rows = [[name, data.classes[y]] for name, y in zip(known.ids, known.y.tolist(), strict=True)]
        made = Sheet("labels", ["file", "label"], list(data.classes), chosen.ids, rows)
    made.why = f"{ask.n} of {len(open_):,} images without a label, chosen by {ask.strategy} in the features of {ask.run}"
    sheet.write(ask.folder, made, (picture(data, chosen, row) for row in range(len(chosen))))


def opened(run: str) -> tuple["Dataset", "Corpus", "Images", "Images | None"]:
    """(data set, what it holds, the images that a run had labels of, those it had none of).

    Where the labels are the user's own (labels=all), the others are those without any, which a table for `dataset.labels`
    adds; else they are the training images outside the first draw's budget, which a table for `labels` adds.
    """
    from sft_exp import api, splits
    from sft_exp.stages.context import corpus

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
    return data.train.at(torch.tensor([r for r, name in enumerate(data.train.ids) if name not in taken], dtype=torch.long))


def choose(ask: Ask, known: "Images", open_: "Images") -> "Tensor":
    """Rows of `open_`, the most wanted first."""
    import torch

    from sft_exp import api
    from sft_exp.core import stream
    from sft_exp.labelling import acquire

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


def table_of(dataset: "Dataset", data: "Corpus", known: "Images", chosen: "Images", folder: Path) -> Sheet:
    """A sheet whose labels.csv serves as `dataset.labels`: files relative to dataset.root, or else to the table."""
    if inside := [name for name in chosen.ids if name not in data.files]:
        raise DataError(f"{inside[0]}: only files of their own can be labelled; unpack the archive and name its folder")
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
    columns = ["file", "label", *([column] if column else []), *(["split"] if data.test is not None else [])]
    names = [place(name) for name in chosen.ids]
    return Sheet("dataset.labels", columns, list(data.classes), names, [[row[c] for c in columns] for row in rows])


def picture(data: "Corpus", images: "Images", row: int) -> str:
    """An image as a data URI: its file, made smaller, or what the data set holds if it has none or one of 16 bits."""
    from PIL import Image, ImageOps

    from sft_exp.data import formats

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


def tell(ask: Ask, made: Sheet) -> None:
    """What was chosen, what it may bring, and how it goes on."""
    from sft_exp import forecast

    done = len(made.answers((ask.folder / "labels.csv").read_text()))
    print(f"{made.why}; {done} have one by now.")
    curve = Path(ask.run) / "forecast.json"
    if curve.exists():
        print(forecast.words(json.loads(curve.read_text()), ask.n))
    else:
        print("What they would bring:", shlex.join(["python", "-m", "sft_exp.forecast", f"run={ask.run}", f"n={ask.n}"]))
    print(f"Train with them: {training(ask, made)}")


def training(ask: Ask, made: Sheet) -> str:
    """The run's own command with the new table of labels."""
    from sft_exp import recipe

    result = json.loads((Path(ask.run) / "results.json").read_text())
    replaced = (made.key, "labels_total") if made.key == "labels" else (made.key,)
    kept = [o for o in recipe.overrides(result["config"], result["choices"]) if o.partition("=")[0] not in replaced]
    return recipe.command([*kept, f"{made.key}={recipe.quoted(str((ask.folder / 'labels.csv').absolute()))}"])


def serve(ask: Ask) -> None:
    """Until Ctrl-C."""
    from sft_exp.labelling.desk import Desk

    with Desk(ask.folder, ask.port) as desk:
        print(f"Label at {desk.url} (Ctrl-C ends; the same command goes on)", flush=True)
        try:
            desk.serve_forever()
        except KeyboardInterrupt:
            print(f"{len(desk.answers)} of {len(desk.sheet.chosen)} labelled")


if __name__ == "__main__":
    sys.exit(main())
