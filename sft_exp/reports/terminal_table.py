"""Tables that fit the terminal: columns are rearranged and text wraps between words, numbers are
never cut."""

from collections.abc import Collection

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from sft_exp.reports.page import Grid


def fitted(
    grid: Grid,
    screen: Console,
    numbers: Collection[str],
    sentences: Collection[str] = (),
    settings: Collection[str] = (),
) -> RenderableType:
    """The widest form of a table that the screen has room for.

    It tries in turn: every cell on one line except sentences; the columns `settings` combined into
    one as `name=value`, which wraps between settings; each row as a list of `name value`.

    Args:
        grid: heads and rows of cells.
        screen: the console that sets the width.
        numbers: heads of right-aligned columns.
        sentences: heads of columns whose cells may wrap between words.
        settings: heads of columns that may be combined.
    """
    if (result := table(grid, numbers, sentences, screen.width)) is not None:
        return result
    if stackable := [name for name in grid[0] if name in settings]:
        together = stacked(grid, stackable)
        sentences = {*sentences, together[0][0]}
        if (result := table(together, numbers, sentences, screen.width)) is not None:
            return result
    return records(grid)


def table(
    grid: Grid, numbers: Collection[str], sentences: Collection[str], width: int
) -> Table | None:
    """The table with one column for each head, at most `width` wide; None if a word or number would
    be cut."""
    head, rows = grid
    columns = [[name, *(row[n] for row in rows)] for n, name in enumerate(head)]
    widest = [max(map(cell_len, cells)) for cells in columns]
    widths = [
        max((cell_len(word) for cell in cells for word in cell.split()), default=0)
        if name in sentences
        else natural
        for name, cells, natural in zip(head, columns, widest, strict=True)
    ]
    spare = (
        width - sum(widths) - 3 * len(head) - 1
    )  # a column has two spaces of padding and a border
    if spare < 0:
        return None
    result = Table(box=SIMPLE_HEAD)
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
