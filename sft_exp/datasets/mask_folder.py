"""The user's own images with masks, called alike:

    root/images/a.jpg, root/masks/a.png                    folds take turns as test
    root/{train,val,test}/images/..., and masks/...        val is learnt from, too; other usual names of the three are understood

A mask has one whole number a pixel: 0, 1, ... in the order of `classes`, or what `values` says; and `ignore` where nothing is
annotated.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from sft_exp.data.readers import findings, masks
from sft_exp.data.readers.files import images_in
from sft_exp.data.readers.masks import Codes, Pair
from sft_exp.errors import DataError, listing, require

LAYOUTS = "Expected is root/images and root/masks with files called alike, or root/train and root/test with these two in each"


@dataclass
class MaskFolder(masks.MaskSet):
    unhashed: ClassVar[tuple[str, ...]] = ("root", "unlabelled", "most_pixels", "memory", "workers")

    root: str | None = None  # folder of images/ and masks/
    classes: list[str] = field(
        default_factory=lambda: ["background", "object"]
    )  # names of what a pixel may be
    values: list[int] = field(
        default_factory=lambda: []
    )  # value of each class in the masks, e.g. [0, 255]; none = 0, 1, ...
    ignore: int | None = (
        255  # value where nothing is annotated, unless it is a class's; null = there is none
    )
    unmasked: str = "refuse"  # images without a mask: refuse, or pool = pretrain on them
    unlabelled: str | None = None  # folder of more images to pretrain on
    group: str | None = (
        None  # never split: a regular expression whose one group is found in an image's name
    )
    size: Any = 256  # pixels, or [rows, columns], of all images
    channels: int = 3  # 3 = colour, 1 = grey
    fit: str = "crop"  # how an image becomes that size: crop (its middle), stretch, letterbox
    most_pixels: int | None = (
        None  # of an image that is decoded; null = Pillow's limit against decompression bombs
    )
    memory: float = 4.0  # GB of images and masks held; a larger set is decoded as it is used
    workers: int = 2  # processes that decode it

    def __post_init__(self):
        super().__post_init__()
        require(1 < len(self.classes) <= 255, "classes", self.classes, "two names or more")
        n, distinct = len(self.classes), len(set(self.values))
        require(
            not self.values or len(self.values) == distinct == n,
            "values",
            self.values,
            f"{n} different numbers, or none",
        )
        require(self.unmasked in ("refuse", "pool"), "unmasked", self.unmasked, "refuse or pool")
        ok = self.group is None or re.compile(self.group).groups == 1
        require(
            ok,
            "group",
            self.group,
            "a regular expression with one group, such as (p[0-9]+)_, or null",
        )

    def load(self):
        root = self.folder(f"the folder of your images. {LAYOUTS}")
        parts = self.parts(root) or [("train", root)]
        if missing := [
            folder
            for _, part in parts
            for folder in (part / "images", part / "masks")
            if not folder.is_dir()
        ]:
            raise DataError(f"dataset.root={root}: there is no {missing[0]}. {LAYOUTS}")
        pairs = [p for split, part in parts for p in self.inside(root, part, split)]
        if self.unlabelled:
            pool = Path(self.unlabelled).expanduser()
            if not (found := images_in(pool) if pool.is_dir() else []):
                raise DataError(f"dataset.unlabelled={pool}: no folder with images in it")
            pairs += [
                Pair(f"unlabelled/{p.relative_to(pool).as_posix()}", "pool", p) for p in found
            ]
        codes = Codes.plain(len(self.classes), self.ignore, self.values)
        name = root.resolve().name
        return masks.corpus(self, name, tuple(self.classes), pairs, codes)

    def parts(self, root: Path) -> list[tuple[str, Path]]:
        """(train or test, folder) of the folders named like splits, if any of them holds images."""
        folders = sorted(root.iterdir()) if root.is_dir() else []
        named = [
            (split, folder)
            for folder in folders
            if folder.is_dir() and (split := findings.split_named(folder.name))
        ]
        if not any((folder / "images").is_dir() for _, folder in named):
            return []
        order = sorted(named, key=lambda found: ("train", "val", "test").index(found[0]))
        return [("test" if split == "test" else "train", folder) for split, folder in order]

    def inside(self, root: Path, part: Path, split: str) -> list[Pair]:
        """The images of one part with their masks. DataError for what has no counterpart."""
        images = findings.by_stem(images_in(part / "images"), part / "images")
        found = findings.by_stem(images_in(part / "masks"), part / "masks")
        if alone := [str(found[stem]) for stem in found if stem not in images]:
            raise DataError(
                f"{len(alone)} masks have no image of their name in {part / 'images'}:{listing(alone)}"
            )
        bare = [stem for stem in images if stem not in found]
        if bare and self.unmasked == "refuse":
            names = [
                f"{images[stem]}: there is no mask {part / 'masks' / stem}.png" for stem in bare
            ]
            raise DataError(
                f"{len(bare)} images have no mask:{listing(names)}\ndataset.unmasked=pool pretrains on them"
            )
        if lossy := [str(p) for p in found.values() if p.suffix.lower() not in masks.MASKS]:
            raise DataError(
                f"masks must keep their values ({', '.join(masks.MASKS)}):{listing(lossy)}"
            )
        return [
            Pair(
                path.relative_to(root).as_posix(),
                split if stem in found else "pool",
                path,
                found.get(stem),
                group=self.group_in(path.name) if stem in found else None,
            )
            for stem, path in images.items()
        ]

    def group_in(self, name: str) -> str | None:
        if self.group is None:
            return None
        if not (match := re.search(self.group, name)):
            raise DataError(f"{name}: dataset.group={self.group} finds no group in this name")
        return match[1]
