"""Oxford-IIIT Pet (Parkhi et al., CVPR 2012) in its official layout.

    root/images/*.jpg
    root/annotations/{trimaps/*.png, trainval.txt, test.txt}

Each image has a breed, which task=classify learns, and a mask of pet, background and their border.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sft_exp.data.readers import masks
from sft_exp.data.readers.masks import Codes, Pair
from sft_exp.errors import DataError


@dataclass
class OxfordPets(masks.MaskSet):
    gives: ClassVar[tuple[str, ...]] = ("y", "mask")

    # folder of images/ and annotations/, or torchvision's folder around it
    root: str | None = None
    border: bool = False  # whether the border is a class of its own; otherwise it is ignored
    size: Any = 128  # pixels, or [rows, columns], of all images
    channels: int = 3  # 3 = colour, 1 = grey
    fit: str = "crop"  # how an image is brought to that size: crop (centre), stretch, letterbox
    # most pixels of a file that is decoded; null = Pillow's limit against decompression bombs
    most_pixels: int | None = None
    memory: float = 4.0  # GB of images and masks kept in memory; a larger set is decoded per batch
    workers: int = 2  # worker processes that decode images

    def load(self):
        top = self.folder("the folder that holds images/ and annotations/")
        candidates = (top, top / "oxford-iiit-pet")
        root = next((r for r in candidates if (r / "annotations").is_dir()), None)
        if root is None:
            raise DataError(f"dataset.root={top}: there is no {top / 'annotations'}")
        lines = [
            (split, *line)
            for name, split in (("trainval", "train"), ("test", "test"))
            for line in listed(root, name)
        ]
        breeds = {
            number: name.rpartition("_")[0].replace("_", " ").lower() for _, name, number in lines
        }
        class_of = {number: n for n, number in enumerate(sorted(breeds))}
        pairs = [
            Pair(
                name,
                split,
                root / "images" / f"{name}.jpg",
                root / "annotations" / "trimaps" / f"{name}.png",
                class_of[number],
            )
            for split, name, number in lines
        ]
        names = ("background", "pet", *(["border"] if self.border else []))
        codes = Codes({1: 1, 2: 0, 3: 2 if self.border else masks.IGNORE}, len(names))
        classes = tuple(breeds[number] for number in sorted(breeds))
        return masks.corpus(self, "OxfordPets", classes, pairs, codes, classes, {"mask": names})


def listed(root: Path, name: str) -> list[tuple[str, int]]:
    """Read a list as (image, number of its breed) per line `Abyssinian_100 1 1 1`."""
    file = root / "annotations" / f"{name}.txt"
    images = []
    try:
        lines = file.read_text().splitlines()
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from error
    for n, line in enumerate(lines, start=1):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        if len(words) < 2 or not words[1].isdecimal():
            raise DataError(f"{file}, line {n}: {line!r} is not `image breed species number`")
        images.append((words[0], int(words[1])))
    return images
