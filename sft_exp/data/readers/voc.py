"""Where Pascal VOC's folder and its lists lie: what people call its root is VOC<year>, the VOCdevkit
around it, or the folder around that; the lists are in ImageSets/Main or ImageSets/Segmentation, or
in ImageSets itself."""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from sft_exp.data.readers.files import is_image
from sft_exp.data.readers.findings import some
from sft_exp.errors import DataError

LISTS = "ImageSets"
FLAG = re.compile(r"\s+(?:-1|0|1)$")  # behind a name: whether the image holds the list's class


def home(folder: Path, year: str | None, needs: tuple[str, ...], layout: str) -> Path:
    """The one folder at or below `folder` that has `needs[0]` in it, of this year if one is given.

    Raises DataError that lists the years which are there, or names what is missing.
    """
    there = [p for p in places(folder) if (p / needs[0]).is_dir()]
    found = [p for p in there if year is None or named(p) in (year, None)]
    if len(found) != 1:
        years = dict.fromkeys(named(p) or p.name for p in there)
        if not there:
            why = f"no {needs[0]} there. {layout}"
        elif not found:
            why = f"dataset.year={year} is not there; there: {', '.join(years)}"
        elif year is None and len(years) > 1:
            why = f"several years are there, name one of them: dataset.year={' or '.join(years)}"
        else:
            why = f"several folders fit, name one as dataset.root: {', '.join(map(str, found))}"
        raise DataError(f"dataset.root={folder}: {why}")
    for name in needs[1:]:
        if not (found[0] / name).is_dir():
            raise DataError(f"{found[0]}: no {name} there. {layout}")
    return found[0]


def places(folder: Path) -> tuple[Path, ...]:
    """The folders that may be VOC<year>."""
    return (folder, *sorted(folder.glob("VOC*")), *sorted(folder.glob("VOCdevkit/VOC*")))


def has_lists(folder: Path) -> bool:
    """Whether one of them has the lists of ImageSets."""
    return any((place / "ImageSets").is_dir() for place in places(folder))


def list_of(top: Path, kind: str, name: str) -> Path:
    """A list in ImageSets/<kind>, or directly in ImageSets; where neither is there, the former."""
    places = [top / LISTS / kind / f"{name}.txt", top / LISTS / f"{name}.txt"]
    return next((p for p in places if p.is_file()), places[0])


def names_in(file: Path, hint: str = "") -> list[str]:
    """The names in a list, without the folder and suffix that some programs write.

    DataError with the hint if the file cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        others = sorted(p.stem for p in file.parent.glob("*.txt"))
        there = f"; there: {some(others)}" if others else ""
        raise DataError(f"{file}: {error.strerror}{there}{hint}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: no text in UTF-8 ({error})") from error
    names = [line.strip() for line in lines if line.strip()]
    bare = [FLAG.sub("", name) for name in names]
    # names may end in a number, too, and are different without flags
    if all(map(FLAG.search, names)) and len({*bare}) == len({*names}):
        names = bare
    paths = [PurePosixPath(name.replace("\\", "/")) for name in names]
    return [path.stem if is_image(path.name) else path.name.removesuffix(".xml") for path in paths]


def unlisted(top: Path, kind: str, names: Iterable[str]) -> tuple[str, ...]:
    """A note on annotated images that are in none of the lists in ImageSets/<kind> and ImageSets."""
    files = [*(top / LISTS / kind).glob("*.txt"), *(top / LISTS).glob("*.txt")]
    listed = {name for file in files for name in names_in(file)}
    bare = sorted({*names} - listed)
    where = f"{LISTS}/{kind}" if (top / LISTS / kind).is_dir() else LISTS
    problem = f"annotated images are in no list of {where} and are left out"
    return (f"{len(bare):,} {problem}: {some(bare)}",) if bare else ()


def named(folder: Path) -> str | None:
    """The year in a folder's name, VOC2012 -> 2012; None for a folder of any other name."""
    rest = folder.resolve().name.removeprefix("VOC")
    return rest if rest.isdecimal() else None
