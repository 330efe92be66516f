"""The user's own images with masks, called alike:

    root/images/a.jpg, root/masks/a.png                    folds take turns as test
    root/{train,val,test}/images/..., and masks/...        val is learnt from, too; other usual names of the three are understood

A mask has one whole number a pixel: 0, 1, ... in the order of `classes`, or what `values` says; and `ignore` where nothing is
annotated. Or it has a colour a pixel, which `colours` names. With `pattern=*_mask` the mask of a.jpg is a_mask.png, in masks/ or
beside its image.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from sft_exp.data.readers import findings, masks
from sft_exp.data.readers.files import images_in, is_image, visible
from sft_exp.data.readers.masks import Codes, Pair
from sft_exp.errors import DataError, listing, require

LAYOUTS = (
    "Expected is root/images and root/masks with files called alike, or root/train and root/test with these two in each; with "
    "dataset.pattern=*_mask, where * stands for an image's name, masks may be named otherwise, and lie beside their images"
)

IGNORED = "ignore"  # in `colours`: where nothing is annotated


@dataclass
class MaskFolder(masks.MaskSet):
    unhashed: ClassVar[tuple[str, ...]] = ("root", "unlabelled", "most_pixels", "memory", "workers")

    root: str | None = None  # folder of images/ and masks/
    # names of what a pixel may be
    classes: list[str] = field(default_factory=lambda: ["background", "object"])
    # value of each class in the masks, e.g. [0, 255]; none = 0, 1, ...
    values: list[int] = field(default_factory=lambda: [])
    # of masks in colour: {background: [0,0,0], cell: [255,0,0], ignore: [255,255,255]}; names the
    # classes
    colours: Any = None
    pattern: str = "*"  # a mask's name without suffix, * standing for its image's: *_mask
    # value where nothing is annotated, unless it is a class's; null = there is none
    ignore: int | None = 255
    unmasked: str = "refuse"  # images without a mask: refuse, or pool = pretrain on them
    unlabelled: str | None = None  # folder of more images to pretrain on
    # never split: a regular expression whose one group is found in an image's name
    group: str | None = None
    size: Any = 256  # pixels, or [rows, columns], of all images
    channels: int = 3  # 3 = colour, 1 = grey
    fit: str = "crop"  # how an image becomes that size: crop (its middle), stretch, letterbox
    # of an image that is decoded; null = Pillow's limit against decompression bombs
    most_pixels: int | None = None
    memory: float = 4.0  # GB of images and masks held; a larger set is decoded as it is used
    workers: int = 2  # processes that decode it

    def __post_init__(self):
        super().__post_init__()
        self.of_colours()
        require(1 < len(self.classes) <= 255, "classes", self.classes, "two names or more")
        n, distinct = len(self.classes), len(set(self.values))
        require(
            not self.values or len(self.values) == distinct == n,
            "values",
            self.values,
            f"{n} different numbers, or none",
        )
        ok = self.pattern.count("*") == 1 and not set(self.pattern) & set("/\\\\")
        require(ok, "pattern", self.pattern, "a file name with one *, such as *_mask")
        require(self.unmasked in ("refuse", "pool"), "unmasked", self.unmasked, "refuse or pool")
        ok = self.group is None or re.compile(self.group).groups == 1
        require(
            ok,
            "group",
            self.group,
            "a regular expression with one group, such as (p[0-9]+)_, or null",
        )

    def of_colours(self) -> None:
        """Check `colours`, and take the classes from it."""
        self.unknown: list[int] | None = None  # the colour where nothing is annotated
        if self.colours is None:
            return
        valid = "red, green, blue from 0 to 255 by class, such as {background: [0,0,0], cell: [255,0,0]}"
        require(isinstance(self.colours, dict), "colours", self.colours, valid)
        for colour in self.colours.values():
            whole = isinstance(colour, list) and all(
                type(v) is int and 0 <= v <= 255 for v in colour
            )
            require(whole and len(colour) == 3, "colours", self.colours, valid)
        given = {str(name): colour for name, colour in self.colours.items()}
        distinct = len({tuple(colour) for colour in given.values()}) == len(given)
        require(distinct, "colours", self.colours, "different for each class")
        require(not self.values, "values", self.values, "none where dataset.colours is given")
        self.unknown = given.pop(IGNORED, None)
        names = list(given)
        same = self.classes in (names, ["background", "object"])
        require(same, "classes", self.classes, f"those of dataset.colours, {names}")
        self.classes, self.ordered = names, list(given.values())

    def load(self):
        root = self.folder(f"the folder of your images. {LAYOUTS}")
        parts = self.parts(root) or [("train", root)]
        if missing := [
            folder for _, part in parts for folder in self.places(part) if not folder.is_dir()
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
        codes = (
            Codes.colours(self.ordered, self.unknown)
            if self.colours
            else Codes.plain(len(self.classes), self.ignore, self.values, True)
        )
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
        if not any(
            (folder / "images").is_dir() or (self.pattern != "*" and holds_images(folder))
            for _, folder in named
        ):
            return []
        order = sorted(named, key=lambda found: ("train", "val", "test").index(found[0]))
        return [("test" if split == "test" else "train", folder) for split, folder in order]

    def places(self, part: Path) -> tuple[Path, Path]:
        """The folders of images and of masks: one folder where a pattern tells the masks from the images in it."""
        apart = part / "images", part / "masks"
        together = self.pattern != "*" and not any(place.is_dir() for place in apart)
        return (part, part) if together else apart

    def inside(self, root: Path, part: Path, split: str) -> list[Pair]:
        """The images of one part with their masks. DataError for what has no counterpart."""
        images_at, masks_at = self.places(part)
        start, _, end = self.pattern.partition("*")
        named = re.compile(f"{re.escape(start)}(.+){re.escape(end)}")
        every = images_in(masks_at)
        masked = [p for p in every if named.fullmatch(p.stem)] if images_at == masks_at else every
        images = findings.by_stem(
            (p for p in images_in(images_at) if p not in set(masked)), images_at
        )
        found, other = {}, []  # image's stem -> mask; masks that the pattern does not fit
        for stem, path in findings.by_stem(masked, masks_at).items():
            if match := named.fullmatch(Path(stem).name):
                found[(Path(stem).parent / match[1]).as_posix()] = path
            else:
                other.append(str(path))
        alone = other + [str(found[stem]) for stem in found if stem not in images]
        if alone:
            fits = guess(list(images), list(findings.by_stem(masked, masks_at)))
            hint = (
                f"\ndataset.pattern={fits} fits all images" if fits and fits != self.pattern else ""
            )
            raise DataError(
                f"{len(alone)} masks have no image of their name in {images_at}:{listing(alone)}{hint}"
            )
        bare = [stem for stem in images if stem not in found]
        if bare and self.unmasked == "refuse":
            names = [
                f"{images[stem]}: there is no mask {self.mask_of(masks_at / stem)}" for stem in bare
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

    def mask_of(self, stem: Path) -> Path:
        return stem.with_name(self.pattern.replace("*", stem.name) + ".png")

    def group_in(self, name: str) -> str | None:
        if self.group is None:
            return None
        if not (match := re.search(self.group, name)):
            raise DataError(f"{name}: dataset.group={self.group} finds no group in this name")
        return match[1]


def holds_images(folder: Path) -> bool:
    return any(is_image(p.name) and visible(p.name) for p in folder.iterdir() if p.is_file())


def guess(images: list[str], masks: list[str]) -> str | None:
    """The pattern by which every image finds a mask, if there is one. Both are paths without suffixes."""
    there = {Path(mask).name for mask in masks}
    if not images:
        return None
    names = [Path(image).name for image in images]
    for mask in sorted(there, key=len):
        if names[0] in mask:
            pattern = mask.replace(names[0], "*", 1)
            if all(pattern.replace("*", name) in there for name in names):
                return pattern
    return None
