"""Tables that fit the terminal: columns are rearranged and text wraps between words, numbers are
never cut."""

from collections.abc import Collection, Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from sft_exp.reports.page import Grid

WIDE, NARROW = 3, 2  # spaces between columns, one of them the box's


def fitted(
    grid: Grid,
    screen: Console,
    numbers: Collection[str],
    sentences: Collection[str] = (),
    settings: Collection[str] = (),
    optional: Sequence[str] = (),
) -> RenderableType:
    """The widest form of a table that the screen has room for.

    It tries in turn: every cell on one line; sentences over several lines; without the columns
    `optional`, whose names are then said below; the columns `settings` combined into one as
    `name=value`, which wraps between settings; several tables below each other, each with the first
    columns, which tell rows apart; each row as a list of `name value`.

    Args:
        grid: heads and rows of cells.
        screen: the console that sets the width.
        numbers: heads of right-aligned columns.
        sentences: heads of columns whose cells may wrap between words.
        settings: heads of columns that may be combined.
        optional: heads of columns that may be left out, the first one first.
    """
    for wrapping in ((), sentences):
        for gap in (WIDE, NARROW):
            if (result := table(grid, numbers, wrapping, screen.width, gap)) is not None:
                return result
    left_out: list[str] = []
    for name in (name for name in optional if name in grid[0]):
        left_out.append(name)
        shorter = without(grid, left_out)
        if (result := table(shorter, numbers, sentences, screen.width, NARROW)) is not None:
            return Group(result, Text(f"No room for {' and '.join(left_out)}.\n", style="dim"))
    if stackable := [name for name in grid[0] if name in settings]:
        together = stacked(grid, stackable)
        sentences = {*sentences, together[0][0]}
        for gap in (WIDE, NARROW):
            if (result := table(together, numbers, sentences, screen.width, gap)) is not None:
                return result
    return continued(grid, numbers, sentences, screen.width) or records(grid)


def continued(
    grid: Grid, numbers: Collection[str], sentences: Collection[str], width: int
) -> Group | None:
    """The grid as several tables with the columns that tell its rows apart in each; None if a
    column has no room beside these."""
    head, rows = grid
    size = next(
        (n for n in range(1, len(head)) if len({tuple(row[:n]) for row in rows}) == len(rows)), 1
    )
    tables: list[Table] = []
    shown: list[int] = []
    last: Table | None = None
    for column in range(size, len(head)):
        for columns in ([*shown, column], [column]):
            taken = [*range(size), *columns]
            part = [head[n] for n in taken], [[row[n] for n in taken] for row in rows]
            if (fits := table(part, numbers, sentences, width, NARROW)) is not None:
                break
            if columns == [column]:
                return None
            if last is not None:
                tables.append(last)
        shown, last = columns, fits
    return Group(*tables, *([last] if last is not None else []))


def without(grid: Grid, names: Collection[str]) -> Grid:
    """The grid without the named columns."""
    head, rows = grid
    kept = [n for n, name in enumerate(head) if name not in names]
    return [head[n] for n in kept], [[row[n] for n in kept] for row in rows]


def table(
    grid: Grid, numbers: Collection[str], sentences: Collection[str], width: int, gap: int
) -> Table | None:
    """The table with one column for each head, at most `width` wide; None if a word or number would
    be cut.

    Args:
        sentences: heads of columns whose cells may wrap between words.
        gap: spaces between two columns, WIDE or NARROW.
    """
    head, rows = grid
    columns = [[name, *(row[n] for row in rows)] for n, name in enumerate(head)]
    widest = [max(map(cell_len, cells)) for cells in columns]
    widths = [
        max((cell_len(word) for cell in cells for word in cell.split()), default=0)
        if name in sentences
        else natural
        for name, cells, natural in zip(head, columns, widest, strict=True)
    ]
    spare = width - sum(widths) - gap * len(head) - 1
    if spare < 0:
        return None
    result = Table(box=SIMPLE_HEAD, padding=(0, 1) if gap == WIDE else (0, 1, 0, 0))
    for name, least, natural in zip(head, widths, widest, strict=True):
        extra = min(spare, natural - least)
        spare -= extra
        result.add_column(
            Text(name),
            justify="right" if name in numbers else "left",
            no_wrap=name not in sentences,
            width=least + extra,
        )
    for row in rows:
        result.add_row(*map(Text, row))
    return result


def stacked(grid: Grid, names: Collection[str]) -> Grid:
    """The grid with the named columns as one, `name=value name=value`, in front."""
    head, rows = grid
    inside = [n for n, name in enumerate(head) if name in names]
    before = [n for n, name in enumerate(head) if name not in names]

    def setting(row: list[str]) -> str:
        return " ".join(f"{head[n]}={row[n]}" for n in inside if row[n])

    return (
        ["setting", *(head[n] for n in before)],
        [[setting(row), *(row[n] for n in before)] for row in rows],
    )


def records(grid: Grid) -> Group:
    """Each row as separate lines, for a screen too narrow for columns."""
    head, rows = grid
    blocks = [
        Text(
            "\n".join(
                f"{name} {cell}".strip() for name, cell in zip(head, row, strict=True) if cell
            )
        )
        for row in rows
    ]
    return Group(*(part for block in blocks for part in (block, Text())))
