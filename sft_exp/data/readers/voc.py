"""Where Pascal VOC's folder lies: what people call its root is VOC<year>, the VOCdevkit around it,
or the folder around that."""

from pathlib import Path

from sft_exp.errors import DataError


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


def named(folder: Path) -> str | None:
    """The year in a folder's name, VOC2012 -> 2012; None for a folder of any other name."""
    rest = folder.resolve().name.removeprefix("VOC")
    return rest if rest.isdecimal() else None
