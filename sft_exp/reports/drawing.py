"""The shared style of all pictures.

Matplotlib is imported inside functions and used through its object interface: no window, no global
state, no cost for `--help`.
"""

import io
import warnings
from dataclasses import dataclass
from typing import Any

INK, FAINT = "#222222", "#9a9a9a"
FONTS = (  # in order of preference; the later ones supply letters that DejaVu lacks
    "DejaVu Sans",
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "Hiragino Sans",
    "Arial Unicode MS",
)
STYLE: Any = {
    "figure.dpi": 160,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.h_pad": 0.1,
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called $a_
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.titley": 1.0,  # no picture has ticks above it; to look for them takes a third of the drawing
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
WIDTH = 5.8  # inches, of every picture
PALETTE = (  # the Okabe-Ito palette, safe for colour blindness, then darker colours
    "#0072B2", "#D55E00", "#009E73", "#C0579A", "#A87900", "#56B4E9", "#6E6E6E", "#4B2E83", "#7A3B00", "#222222",
)  # fmt: skip


@dataclass(frozen=True)
class Picture:
    name: str  # of its file, without the ending
    title: str
    caption: str  # how to read it
    png: bytes
    photographs: bool = False  # shows images of the data, whose colours a dark page must keep


def style() -> Any:
    """STYLE with the installed fonts among FONTS, since matplotlib warns of every missing one."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return {**STYLE, "font.family": [name for name in FONTS if name in installed]}


def new_figure(height: float, rows: int = 1) -> tuple[Any, Any]:
    """A figure of width `WIDTH` and its axes, or a list of axes for several rows."""
    from matplotlib.figure import Figure

    figure = Figure((WIDTH, height))
    axes = figure.subplots(rows, squeeze=False)[:, 0]
    return figure, axes[0] if rows == 1 else list(axes)


def png(figure: Any) -> bytes:
    """The figure as a PNG. Titles longer than its width take several lines; letters that no
    installed font has are drawn as boxes, without warnings."""
    for axes in figure.axes:
        if title := axes.get_title("left"):
            axes.set_title(title, wrap=True)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="png")
    return buffer.getvalue()
