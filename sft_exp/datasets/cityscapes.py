"""Cityscapes (Cordts et al., arXiv:1604.01685) in its official layout, and anything laid out alike:

    root/leftImg8bit/{train,val,train_extra}/<city>/<name>_leftImg8bit.png
    root/gtFine/{train,val}/<city>/<name>_gtFine_labelIds.png

Masks hold label ids; the 19 classes of the benchmark are their train ids, by the official table; all others are not counted.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_exp.data.readers import masks
from sft_exp.data.readers.masks import Codes, Pair
from sft_exp.errors import DataError

UNKNOWN = 255  # train id of what is not counted; -1, the licence plates', is none either


@dataclass
class Cityscapes(masks.MaskSet):
    root: str | None = None  # folder of leftImg8bit/ and gtFine/
    size: Any = 256  # pixels, or [rows, columns], of all images; the originals have [1024, 2048]
    channels: int = 3  # 3 = colour, 1 = grey
    fit: str = "crop"  # how an image becomes that size: crop (its middle), stretch, letterbox
    # of an image that is decoded; null = Pillow's limit against decompression bombs
    most_pixels: int | None = None
    memory: float = 4.0  # GB of images and masks held; a larger set is decoded as it is used
    workers: int = 2  # processes that decode it

    def load(self):
        root = self.folder("the folder that holds leftImg8bit/ and gtFine/")
        pairs = [
            *self.inside(root, "train", "train"),
            *self.inside(root, "val", "test"),
            *self.inside(root, "train_extra", "pool"),
        ]
        classes, codes = table()
        return masks.corpus(self, "Cityscapes", classes, pairs, codes)

    def inside(self, root: Path, part: str, split: str) -> list[Pair]:
        """The images of one part with their masks, in the order of their names."""
        folder, found = root / "leftImg8bit" / part, []
        for image in sorted(folder.glob("*/*_leftImg8bit.png")):
            name = image.name.removesuffix("_leftImg8bit.png")
            mask = root / "gtFine" / part / image.parent.name / f"{name}_gtFine_labelIds.png"
            found.append(
                Pair(
                    f"{part}/{image.parent.name}/{name}",
                    split,
                    image,
                    None if split == "pool" else mask,
                )
            )
        if not found and split == "train":
            raise DataError(
                f"dataset.root={root}: there is no {folder}/<city>/<name>_leftImg8bit.png"
            )
        return found


def table() -> tuple[tuple[str, ...], Codes]:
    """(names of the train ids 0 to 18, what each label id means), from the official table that torchvision carries."""
    from torchvision.datasets import Cityscapes as Theirs

    counted = [c for c in Theirs.classes if 0 <= c.train_id < UNKNOWN]
    names = {c.train_id: c.name for c in counted}
    known = {
        c.id: c.train_id if c in counted else masks.IGNORE for c in Theirs.classes if c.id >= 0
    }
    return tuple(names[n] for n in range(len(names))), Codes(known, len(names))
