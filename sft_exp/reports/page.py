"""A self-contained HTML page: the frame, tables and pictures."""

from base64 import b64encode
from collections.abc import Collection, Sequence
from html import escape
from pathlib import Path
from string import Template

from sft_exp.reports.drawing import Picture

PAGE = Path(__file__).with_name("page.html")
Grid = tuple[list[str], list[list[str]]]  # a table's head and its rows


def whole(title: str, body: str, kind: str = "") -> str:
    """A valid HTML 5 page without external files; `body` is HTML, `kind` its class."""
    return Template(PAGE.read_text()).substitute(title=escape(title), body=body, kind=kind)


def table(
    cells: Grid,
    numbers: Collection[str],
    sentences: Collection[str],
    kind: str = "",
    links: Sequence[str] = (),
) -> str:
    """A table as HTML.

    Args:
        cells: heads and rows, as text.
        numbers: heads of columns that are set to the right.
        sentences: heads of columns whose lines may break.
        kind: class of the table, for style and scripts.
        links: HTML for the first cell of each row, instead of its text.
    """
    head, body = cells
    after_number = [False, *(h in numbers for h in head)]  # text needs a gap after a number
    kinds = [
        ' class="number" style="white-space: nowrap"'
        if h in numbers
        else f' style="white-space: {"normal" if h in sentences else "nowrap"}; padding-left: {1 if gap else 0}rem"'
        for h, gap in zip(head, after_number, strict=False)
    ]

    def line(tag: str, row: Sequence[str]) -> str:
        cells = (f"<{tag}{k}>{escape(c)}</{tag}>" for k, c in zip(kinds, row, strict=True))
        return f"<tr>{''.join(cells)}</tr>"

    def linked(row: Sequence[str], first: str) -> str:
        return line("td", row).replace(f">{escape(row[0])}</td>", f">{first}</td>", 1)

    lines = "\n".join(
        linked(row, links[n]) if links else line("td", row) for n, row in enumerate(body)
    )
    opened = f'<table class="{kind}">' if kind else "<table>"
    return f'<div class="wide">{opened}<thead>{line("th", head)}</thead><tbody>\n{lines}\n</tbody></table></div>'


def pictures(drawn: Collection[Picture]) -> str:
    """The pictures side by side where there is room."""
    return "\n".join(['<div class="pictures">', *map(figure, drawn), "</div>"]) if drawn else ""


def figure(picture: Picture) -> str:
    source = f"data:image/png;base64,{b64encode(picture.png).decode()}"
    about = f"<figcaption><strong>{escape(picture.title)}.</strong> {escape(picture.caption)}</figcaption>"
    return f'<figure><img src="{source}" alt="{escape(picture.title)}">{about}</figure>'
