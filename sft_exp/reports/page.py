"""Self-contained HTML pages: the frame, tables and pictures, from Jinja templates.

Whatever is put into a template is text and is escaped; HTML are `Markup` objects, which only templates
make.
"""

from base64 import b64encode
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_exp.reports.drawing import Picture

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

ROOT = Path(__file__).parents[1]  # templates are named by their path below it
Grid = tuple[list[str], list[list[str]]]  # a table's head and its rows


@cache
def environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # late: --help does without

    made = Environment(
        loader=FileSystemLoader(ROOT),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"table": table, "pictures": pictures}
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return made


def part(template: str, **values: Any) -> "Markup":
    """A template, `reports/report.html`, filled in."""
    from markupsafe import Markup

    return Markup(environment().get_template(template).render(values))  # noqa: S704 - escaped there


def whole(title: str, body: "Markup", kind: str = "") -> str:
    """A valid HTML 5 page without external files; `kind` is its class."""
    return str(part("reports/page.html", title=title, body=body, kind=kind))


def table(
    cells: Grid,
    numbers: Collection[str],
    sentences: Collection[str] = (),
    kind: str = "",
    links: Sequence["Markup"] = (),
) -> "Markup":
    """A table as HTML.

    Args:
        cells: heads and rows, as text.
        numbers: heads of columns that are set to the right.
        sentences: heads of columns whose lines may break.
        kind: class of the table, for style and scripts.
        links: HTML for the first cell of each row, instead of its text.
    """
    from markupsafe import Markup

    head, rows = cells
    after_number = [False, *(name in numbers for name in head)]  # text needs a gap after a number
    columns = [
        Markup(' class="number" style="white-space: nowrap"')
        if name in numbers
        else Markup(' style="white-space: {}; padding-left: {}rem"').format(
            "normal" if name in sentences else "nowrap", 1 if gap else 0
        )
        for name, gap in zip(head, after_number, strict=False)
    ]
    return macro("table", head, rows, columns, kind, links)


def macro(name: str, *values: Any) -> "Markup":
    """A macro of parts.html, called."""
    return getattr(environment().get_template("reports/parts.html").module, name)(*values)


def pictures(drawn: Collection[Picture]) -> "Markup":
    """The pictures side by side where there is room."""
    from markupsafe import Markup

    figures = Markup("\n").join(map(figure, drawn))
    return Markup('<div class="pictures">\n{}\n</div>').format(figures) if drawn else Markup("")


def figure(picture: Picture) -> "Markup":
    source = f"data:image/png;base64,{b64encode(picture.png).decode()}"
    kind = "photographs" if picture.photographs else "drawing"
    return macro("figure", source, picture.title, picture.caption, kind)
