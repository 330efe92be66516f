"""Cityscapes (Cordts et al., arXiv:1604.01685), or any data set in the same layout:

    root/leftImg8bit/{train,val,train_extra}/<city>/<name>_leftImg8bit.png
    root/gtFine/{train,val}/<city>/<name>_gtFine_labelIds.png

Masks hold label ids. The benchmark's 19 classes are the train ids of the official table; all other
labels are ignored.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_exp.data.readers import masks
from sft_exp.data.readers.masks import Codes, Pair
from sft_exp.errors import DataError

UNKNOWN = 255  # train id of ignored labels; -1, that of licence plates, is ignored, too


@dataclass
class Cityscapes(masks.MaskSet):
    root: str | None = None  # folder of leftImg8bit/ and gtFine/
    size: Any = 256  # pixels, or [rows, columns], of all images; the originals are [1024, 2048]
    channels: int = 3  # 3 = colour, 1 = grey
    fit: str = "crop"  # how an image is brought to that size: crop (centre), stretch, letterbox
    # most pixels of a file that is decoded; null = Pillow's limit against decompression bombs
    most_pixels: int | None = None
    memory: float = 4.0  # GB of images and masks kept in memory; a larger set is decoded per batch
    workers: int = 2  # worker processes that decode images

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
        folder = root / "leftImg8bit" / part
        pairs = []
        for image in sorted(folder.glob("*/*_leftImg8bit.png")):
            name = image.name.removesuffix("_leftImg8bit.png")
            mask = root / "gtFine" / part / image.parent.name / f"{name}_gtFine_labelIds.png"
            image_id = f"{part}/{image.parent.name}/{name}"
            pairs.append(Pair(image_id, split, image, None if split == "pool" else mask))
        if not pairs and split == "train":
            raise DataError(
                f"dataset.root={root}: there is no {folder}/<city>/<name>_leftImg8bit.png"
            )
        return pairs


def table() -> tuple[tuple[str, ...], Codes]:
    """(class names of the train ids 0 to 18, class of each label id), by torchvision's table."""
    from torchvision.datasets import Cityscapes as Official

    counted = [c for c in Official.classes if 0 <= c.train_id < UNKNOWN]
    names = {c.train_id: c.name for c in counted}
    class_of = {
        c.id: c.train_id if c in counted else masks.IGNORE for c in Official.classes if c.id >= 0
    }
    return tuple(names[n] for n in range(len(names))), Codes(class_of, len(names))
