"""The user's own images with masks of the same names:

    root/images/a.jpg, root/masks/a.png                folds of the images serve as test splits
    root/{train,val,test}/images/..., and masks/...    val is part of the training data
    root/images/{train,val,test}/..., and masks/{train,val,test}/...

Other usual names of the three splits and of the two folders are recognised, and names with such a
word (my_train). Without test, folds of train and val are tested. A mask has one integer per pixel: 0, 1, ... in
the order of `classes`, or those in `values`; pixels without annotation have the value `ignore`. Or
it has one colour per pixel, as listed in `colours`. With `pattern=*_mask` the mask of a.jpg is
a_mask.png, in masks/ or beside its image.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from sft_exp.data.readers import findings, masks
from sft_exp.data.readers.files import images_in, is_image, require_folder, same_text, visible
from sft_exp.data.readers.masks import Codes, Pair
from sft_exp.errors import DataError, listing, require, some

LAYOUTS = (
    "Expected is root/images and root/masks with files of the same names, or root/train and "
    "root/test with these two in each; with dataset.pattern=*_mask, where * stands for an image's "
    "name, masks may be named otherwise, and lie beside their images"
)

# usual names of the two folders, in any case
IMAGES = ("images", "image", "imgs", "img", "img_dir", "jpegimages")
MASKS = ("masks", "mask", "labels", "label", "ann_dir", "annotations", "segmentationclass", "gt")
IGNORED = "ignore"  # key in `colours` of the colour of pixels without annotation


@dataclass
class MaskFolder(masks.MaskSet):
    unhashed: ClassVar[tuple[str, ...]] = ("root", "unlabelled", "most_pixels", "memory", "workers")

    root: str | None = None  # folder of images/ and masks/
    # class names
    classes: list[str] = field(default_factory=lambda: ["background", "object"])
    # value of each class in the masks, e.g. [0, 255]; [] = 0, 1, ...
    values: list[int] = field(default_factory=lambda: [])
    # classes of colour masks: {background: [0,0,0], cell: [255,0,0], ignore: [255,255,255]}
    colours: Any = None
    pattern: str = "*"  # a mask's name without suffix, where * is its image's name: *_mask
    # value of pixels without annotation, unless it is a class's value; null = none
    ignore: int | None = 255
    unmasked: str = "refuse"  # images without a mask: refuse, or pool = pretrain on them
    unlabelled: str | None = None  # folder of more images to pretrain on
    # a regular expression for file names, whose one group names images that stay in one split
    group: str | None = None
    size: Any = 256  # pixels, or [rows, columns], of all images
    channels: int = 3  # 3 = colour, 1 = grey
    fit: str = "crop"  # how images are fitted to that size: crop (centre), stretch, letterbox
    # maximum number of pixels of a decoded file; null = Pillow's limit against decompression bombs
    most_pixels: int | None = None
    memory: float = 4.0  # GB of images and masks kept in memory; a larger set is decoded per batch
    workers: int = 2  # worker processes that decode images

    def __post_init__(self):
        super().__post_init__()
        self.check_colours()
        require(1 < len(self.classes) <= 255, "classes", self.classes, "two names or more")
        n, distinct = len(self.classes), len(set(self.values))
        ok = not self.values or len(self.values) == distinct == n
        require(ok, "values", self.values, f"{n} different numbers, or none")
        ok = self.pattern.count("*") == 1 and not set(self.pattern) & set("/\\\\")
        require(ok, "pattern", self.pattern, "a file name with one *, such as *_mask")
        require(self.unmasked in ("refuse", "pool"), "unmasked", self.unmasked, "refuse or pool")
        masks.require_group(self.group)

    def check_colours(self) -> None:
        """Check `colours`, and set the classes to its keys."""
        self.unknown: list[int] | None = None  # the colour of pixels without annotation
        if self.colours is None:
            return
        valid = (
            "red, green, blue from 0 to 255 by class, "
            "such as {background: [0,0,0], cell: [255,0,0]}"
        )
        require(isinstance(self.colours, dict), "colours", self.colours, valid)
        for colour in self.colours.values():
            triple = isinstance(colour, list) and len(colour) == 3
            ok = triple and all(type(v) is int and 0 <= v <= 255 for v in colour)
            require(ok, "colours", self.colours, valid)
        colour_of = {str(name): colour for name, colour in self.colours.items()}
        distinct = len({tuple(colour) for colour in colour_of.values()}) == len(colour_of)
        require(distinct, "colours", self.colours, "different for each class")
        require(not self.values, "values", self.values, "none where dataset.colours is given")
        self.unknown = colour_of.pop(IGNORED, None)
        names = list(colour_of)
        same = self.classes in (names, ["background", "object"])
        require(same, "classes", self.classes, f"those of dataset.colours, {names}")
        self.classes, self.ordered = names, list(colour_of.values())

    def load(self):
        root = self.folder(f"the folder of your images. {LAYOUTS}")
        parts, notes = self.parts(root)
        places = [(split, *self.places(part)) for split, part in parts]
        if not places:
            places, notes = self.split_below(*self.places(root))
        if len(places) < 2:
            notes += findings.check_split_lists(root)
        folders = [folder for _, images_at, masks_at in places for folder in (images_at, masks_at)]
        if missing := [folder for folder in folders if not folder.is_dir()]:
            below = [p for p in sorted(root.glob("*/")) if not parts and called(p, IMAGES).is_dir()]
            hint = (
                f" There is {called(below[0], IMAGES)}: is dataset.root too high?" if below else ""
            )
            raise DataError(f"dataset.root={root}: there is no {missing[0]}.{hint} {LAYOUTS}")
        pairs = [
            p
            for split, images_at, masks_at in places
            for p in self.inside(root, images_at, masks_at, split)
        ]
        if self.unlabelled:
            pool = Path(self.unlabelled).expanduser()
            require_folder(pool, "dataset.unlabelled")
            images = images_in(pool)
            if not images:
                raise DataError(f"dataset.unlabelled={pool}: no folder with images in it")
            pairs += [
                Pair(f"unlabelled/{p.relative_to(pool).as_posix()}", "pool", p) for p in images
            ]
        if self.colours:
            codes = Codes.colours(self.ordered, self.unknown)
        else:
            codes = Codes.plain(len(self.classes), self.ignore, self.values, True)
        name = root.resolve().name
        return masks.corpus(self, name, tuple(self.classes), pairs, codes, notes=notes)

    def parts(self, root: Path) -> tuple[list[tuple[str, Path]], list[str]]:
        """(train or test, folder) of the folders that are splits, and notes; [] if none of them has
        images."""
        folders = sorted(p for p in root.glob("*/") if visible(p.name))
        names = [folder.name for folder in folders]
        splits = findings.splits(names) or {
            name: split for name in names if (split := findings.split_named(name))
        }
        with_images = [
            folder
            for folder in folders
            if called(folder, IMAGES).is_dir() or (self.pattern != "*" and holds_images(folder))
        ]
        if not any(folder.name in splits for folder in with_images):
            return [], []
        rest = [f"{folder.name}/" for folder in with_images if folder.name not in splits]
        return ordered(root, splits), [*findings.check_split_names(splits), *unread(root, rest)]

    def places(self, part: Path) -> tuple[Path, Path]:
        """The folders (of images, of masks), the same if masks lie beside images by a pattern."""
        separate = called(part, IMAGES), called(part, MASKS)
        together = self.pattern != "*" and not any(folder.is_dir() for folder in separate)
        return (part, part) if together else separate

    def split_below(
        self, images_at: Path, masks_at: Path
    ) -> tuple[list[tuple[str, Path, Path]], list[str]]:
        """(train or test, folder of images, of masks), and notes: images/train, masks/train, ... if
        folders in that of the images are splits, one of them train; else all is train."""
        inside = sorted(p for p in images_at.glob("*/") if visible(p.name))
        splits = findings.splits([p.name for p in inside])
        if not splits:
            tests = [p.name for p in inside if findings.split_named(p.name) == "test"]
            problem = f"{some(tests)} in {images_at} is training data, as no folder is named train"
            return [("train", images_at, masks_at)], [problem] * bool(tests)
        rest = [f"{p.name}/" for p in inside if p.name not in splits]
        rest += sorted(p.name for p in images_at.iterdir() if p.is_file() and is_image(p.name))
        places = [(split, p, masks_at / p.name) for split, p in ordered(images_at, splits)]
        return places, [*findings.check_split_names(splits), *unread(images_at, rest)]

    def inside(self, root: Path, images_at: Path, masks_at: Path, split: str) -> list[Pair]:
        """The images of one split with their masks. DataError for files without a counterpart."""
        start, _, end = self.pattern.partition("*")
        named = re.compile(f"{re.escape(start)}(.+){re.escape(end)}")
        mask_files = images_in(masks_at)
        if images_at == masks_at:
            mask_files = [p for p in mask_files if named.fullmatch(p.stem)]
        excluded = set(mask_files)
        image_files = [p for p in images_in(images_at) if p not in excluded]
        images = findings.by_stem(image_files, images_at)
        mask_stems = findings.by_stem(mask_files, masks_at)
        mask_of, unmatched = {}, []  # image's stem -> mask; masks that the pattern does not fit
        alike: dict[str, list[str]] = {}  # stem without case and in one form of Unicode -> stems
        for stem in images:
            alike.setdefault(same_text(stem), []).append(stem)
        for stem, path in mask_stems.items():
            if match := named.fullmatch(Path(stem).name):
                image = (Path(stem).parent / match[1]).as_posix()
                candidates = [] if image in images else alike.get(same_text(image), [])
                candidates = [c for c in candidates if c not in mask_stems]
                mask_of[candidates[0] if len(candidates) == 1 else image] = path
            else:
                unmatched.append(str(path))
        unmatched += [str(mask) for stem, mask in mask_of.items() if stem not in images]
        if unmatched:
            pattern = guess(list(images), list(mask_stems))
            hint = ""
            if pattern and pattern != self.pattern:
                hint = f"\ndataset.pattern={pattern} fits all images"
            raise DataError(
                f"{len(unmatched)} masks have no image of their name in {images_at}:"
                f"{listing(unmatched)}{hint}"
            )
        bare = [stem for stem in images if stem not in mask_of]
        if bare and self.unmasked == "refuse":
            names = [
                f"{images[stem]}: there is no mask {self.expected_mask(masks_at / stem)}"
                for stem in bare
            ]
            raise DataError(
                f"{len(bare)} images have no mask:{listing(names)}\n"
                "dataset.unmasked=pool pretrains on them"
            )
        if lossy := [str(p) for p in mask_of.values() if p.suffix.lower() not in masks.MASKS]:
            raise DataError(
                f"masks must keep their values ({', '.join(masks.MASKS)}):{listing(lossy)}"
            )
        return [
            Pair(
                path.relative_to(root).as_posix(),
                split if stem in mask_of else "pool",
                path,
                mask_of.get(stem),
                group=masks.group_in(path.name, self.group) if stem in mask_of else None,
            )
            for stem, path in images.items()
        ]

    def expected_mask(self, stem: Path) -> Path:
        return stem.with_name(self.pattern.replace("*", stem.name) + ".png")


def called(part: Path, names: tuple[str, ...]) -> Path:
    """The folder in `part` with the first of these names that is there, in any case; else with the
    first name."""
    there = {p.name.casefold(): p for p in part.glob("*/")} if part.is_dir() else {}
    return next((there[name] for name in names if name in there), part / names[0])


def ordered(folder: Path, splits: dict[str, str]) -> list[tuple[str, Path]]:
    """(train or test, folder) of the folders' names, those of train first, then val and test."""
    names = sorted(splits, key=lambda name: ("train", "val", "test").index(splits[name]))
    return [("test" if splits[n] == "test" else "train", folder / n) for n in names]


def unread(folder: Path, rest: list[str]) -> list[str]:
    """A warning of images that are beside splits and in none of them."""
    if not rest:
        return []
    problem = f"images beside the splits in {folder} are not read ({some(rest)})"
    return [f"{problem}: move those that are meant into one of the splits"]


def holds_images(folder: Path) -> bool:
    return any(is_image(p.name) and visible(p.name) for p in folder.iterdir() if p.is_file())


def guess(images: list[str], masks: list[str]) -> str | None:
    """A pattern by which every image has a mask, or None. Both are paths without suffixes."""
    if not images:
        return None
    names = [Path(image).name for image in images]
    mask_names = {Path(mask).name for mask in masks}
    for mask in sorted(mask_names, key=len):
        if names[0] in mask:
            pattern = mask.replace(names[0], "*", 1)
            if all(pattern.replace("*", name) in mask_names for name in names):
                return pattern
    return None
