"""The charts of a comparison as Vega-Lite specifications, and the data that they show.

A chart reads one of two tables by its name: `jobs`, one record a job, or `curves`, one record a
training curve. compare.html gives them the rows that its table shows; a notebook gets them as SVG.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from math import isfinite, log
from pathlib import Path
from statistics import fmean
from typing import Any

from sft_exp.compare.comparison import Comparison, Job, Row, percent, ranges, show
from sft_exp.compare.findings import PROBLEM
from sft_exp.core.arms import MAIN, SCRATCH
from sft_exp.training import metrics_log
from sft_exp.verdict import interval

Spec = dict[str, Any]
RATES = 12  # largest number of learning rates in a heat map; more are not a grid
DEFAULT = 10  # rows whose curves are shown until some are chosen
NUMBERS = 500_000  # points of all curves on the page, about 8 bytes each
MOST, LEAST = 200, 20  # points of a curve that is thinned
PADDING = 0.05  # of a score, around the means of the label-efficiency curves
AXES = ("step", "epoch", "images")  # of training logs: not metrics
STAGES = ("finetune", "pretrain")  # which have curves
VAL, TEST = "validation score", "test score"  # columns of `jobs`, of the metric of the verdict
SCORE = "axis of the score"  # of parallel coordinates
PERCENT = (VAL, TEST, "gain")
# Every colour has a contrast of 3 or more to its background (WCAG 2.2, 1.4.11).
LINES = {
    "light": ["#0072b2", "#d55e00", "#008a64", "#c0579a", "#8f6600", "#2e86c1", "#6e6e6e", "#4b2e83", "#7a3b00", "#222222"],
    "dark": ["#56b4e9", "#e69f00", "#2bbe93", "#e58cc0", "#f0e442", "#8ab8ff", "#b5b5b5", "#b79ced", "#d98e5f", "#eeeeee"],
}  # fmt: skip
# part of the colour map plasma, from the smallest value to the largest
RAMP = {"light": [0.62, 0.0], "dark": [0.42, 1.0]}
INK = {"light": "#222222", "dark": "#e8e8e8"}
SOFT = {"light": "#666666", "dark": "#a4a4a4"}
LINE = {"light": "#dddddd", "dark": "#3c3f44"}
BACK = {"light": "#ffffff", "dark": "#17181b"}


@dataclass(frozen=True)
class Chart:
    name: str
    title: str
    caption: str
    spec: Spec


def theme(name: str) -> Spec:
    """Vega's config for a light or a dark page."""
    ink, soft, line, back = INK[name], SOFT[name], LINE[name], BACK[name]
    return {
        "background": back,
        "font": "system-ui, sans-serif",
        "view": {"stroke": None},
        "axis": {
            "labelColor": ink,
            "titleColor": ink,
            "domainColor": soft,
            "tickColor": soft,
            "gridColor": line,
            "labelFontSize": 11,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelOverlap": True,
        },
        "legend": {"labelColor": ink, "titleColor": ink, "labelFontSize": 11, "titleFontSize": 12},
        "text": {"color": ink, "fontSize": 11},
        "rule": {"color": soft},
        "style": {
            "cell-text": {"color": back, "fontSize": 11, "fontWeight": "bold"},
            "halo": {"color": back, "stroke": back, "strokeWidth": 4, "strokeJoin": "round"},
        },
        "range": {
            "category": LINES[name],
            "ramp": {"scheme": "plasma", "extent": RAMP[name]},
            "heatmap": {"scheme": "plasma", "extent": RAMP[name]},
        },
    }


def charts(comparison: Comparison) -> list[Chart]:
    """The charts for which the jobs have enough data."""
    makers = (curves, parallel, scatter, efficiency, heat)
    return [chart for make in makers if (chart := make(comparison))]


def data(comparison: Comparison) -> dict[str, Any]:
    """What compare.html knows of the jobs: the tables `jobs` and `curves`, and the axes of scatter
    plots."""
    logs = trainings(comparison)
    count = sum(len(metrics) for metrics in logs.values())
    most = max(LEAST, min(MOST, NUMBERS // (2 * count))) if count else MOST
    return {
        "jobs": records(comparison),
        "curves": {
            folder.name: {
                name: thinned(steps, values, most) for name, (steps, values) in of.items()
            }
            for folder, of in logs.items()
        },
        "axes": (known := axes(comparison)),
        "colours": {name: coloured(axis) for name, axis in known.items()},
        "default": DEFAULT,
    }


def records(comparison: Comparison) -> list[dict[str, Any]]:
    """The table `jobs`: what compare.csv says of each job, its row, and its heights on the axes of
    parallel coordinates."""
    heights = {key: placed(comparison, key)[0] for key in settings(comparison)}
    placing = {axis(comparison, key): (key, at) for key, at in heights.items()}
    found = []
    for n, row in enumerate(comparison.rows):
        for job in row.jobs:
            record = comparison.record(job)
            record |= {VAL: job.val, TEST: job.test}
            record |= {
                "row": n,
                "diverged": row.diverged,
                "line": line_of(comparison, row),
                "what": comparison.what(job),
            }
            record |= {
                name: at.get(show(job.settings.get(key))) for name, (key, at) in placing.items()
            }
            record["curves"] = [f.name for stage in STAGES if (f := located(job, stage))]
            found.append(record)
    return found


def settings(comparison: Comparison) -> list[str]:
    """The keys in which the jobs differ."""
    return [*comparison.keys, *(["seed"] if comparison.seeds else [])]


def axis(comparison: Comparison, key: str) -> str:
    """The column of `jobs` with the heights on a setting's axis."""
    return f"axis {settings(comparison).index(key)}"


def line_of(comparison: Comparison, row: Row) -> str:
    """`14, 15: vae sgd 0.03`, the name of a row's curves."""
    values = " ".join(show(row.settings.get(key)) for key in comparison.keys)
    return f"{ranges([job.name for job in row.jobs])}: {values}".rstrip(": ")


# Curves


def trainings(comparison: Comparison) -> dict[Path, dict[str, tuple[list[int], list[float]]]]:
    """Folder of a stage -> metric -> (steps, values), of every job that is done."""
    return {folder: metrics(folder, stage) for folder, stage in logged(comparison).items()}


def logged(comparison: Comparison) -> dict[Path, str]:
    """Folders with a training log, and their stages. Jobs may share them."""
    return {
        folder: stage
        for row in comparison.rows
        for job in row.done
        for stage in STAGES
        if (folder := located(job, stage)) and (folder / "metrics.jsonl").exists()
    }


def metrics(folder: Path, stage: str) -> dict[str, tuple[list[int], list[float]]]:
    """`finetune/loss` -> (steps, values): the curves that a tracker shows of the folder."""
    rows = metrics_log.read_with_monitors(folder)
    names = dict.fromkeys(name for row in rows for name in row if name not in AXES)
    return {
        name if "/" in name else f"{stage}/{name}": metrics_log.column(rows, name) for name in names
    }


def thinned(steps: list[int], values: list[float], most: int) -> list[list[float | None]]:
    """[steps, values] of at most `most` points: means of neighbours, at the last one's step.

    JSON has no infinite numbers; they become null, a gap in the line.
    """
    size = -(-len(values) // most) if values else 1
    parts = [values[n : n + size] for n in range(0, len(values), size)]
    ends = [steps[min(n + size, len(steps)) - 1] for n in range(0, len(steps), size)]
    return [[*ends], [rounded(fmean(part)) for part in parts]]


def rounded(value: float) -> float | None:
    return float(f"{value:.6g}") if isfinite(value) else None


def located(job: Job, stage: str) -> Path | None:
    """A stage's folder, whose path in results.json is relative to the folder where the run started:
    the current one, or a parent of the run's."""
    done = job.result.stages.present().get(stage) if job.result else None
    if done is None or not done.folder:
        return None
    places = (root / done.folder for root in (Path(), *job.folder.parents))
    return next((place for place in places if place.is_dir()), None)


def curves(comparison: Comparison) -> Chart | None:
    if not logged(comparison):
        return None
    x = {"field": "step", "type": "quantitative", "title": "step", "axis": {"grid": False}}
    legend = {"orient": "bottom", "title": None, "labelLimit": 1000, "columns": 1}
    legend |= {"symbolOpacity": 1, "symbolStrokeWidth": 3}
    y = {"type": "quantitative", "title": "finetune/loss", "scale": {"zero": False}}
    tooltip = [{"field": field, "title": field} for field in ("line", "job", "step", "value")]
    spec = {
        "data": {"name": "curves"},
        "height": 300,
        "transform": [{"flatten": ["step", "value", "smooth"]}],
        "encoding": {
            "x": x,
            "color": {"field": "line", "type": "nominal", "sort": None, "legend": legend},
            "detail": {"field": "job"},
            "tooltip": tooltip,
        },
        "layer": [
            {
                "mark": {"type": "line", "strokeWidth": 1, "opacity": 0.3},
                "encoding": {"y": {**y, "field": "value"}},
            },
            {
                "mark": {"type": "line", "strokeWidth": 1.8},
                "encoding": {"y": {**y, "field": "smooth"}},
            },
        ],
    }
    caption = (
        f"Of the rows that are ticked in the table, or of its first {DEFAULT}; each seed has a line, "
        f"of its first labelled split. The thin line is what was logged (of longer curves means of "
        f"neighbours, at most {MOST} points), the thick one is smoothed: an exponential moving average."
    )
    return Chart("curves", "Learning curves", caption, spec)


# Parallel coordinates


def parallel(comparison: Comparison) -> Chart | None:
    """One line a job over the settings that differ and the validation score."""
    rows = [row for row in comparison.rows if not row.diverged]
    done = [j for row in rows for j in row.done if j.val is not None]
    keys = settings(comparison)
    if len(done) < 2 or not keys:
        return None
    ticks = [
        {"axis": axis(comparison, key), "height": height, "text": text}
        for key in keys
        for text, height in placed(comparison, key)[1]
    ]
    scores = [j.val for j in done if j.val is not None]
    low, high = min(scores), max(scores)
    span = high - low or 1.0
    ticks += [
        {"axis": SCORE, "height": at, "text": f"{100 * (low + at * span):.1f}"}
        for at in ((0.0, 0.25, 0.5, 0.75, 1.0) if high > low else (0.0,))
    ]
    names = {axis(comparison, key): comparison.names[key] for key in keys}
    names[SCORE] = "validation, %"
    labels = " : ".join(f"datum.value === {quoted(k)} ? {quoted(v)}" for k, v in names.items())
    x = {
        "field": "axis",
        "type": "ordinal",
        "sort": list(names),
        "scale": {"type": "point", "padding": 0.3},
        "axis": {
            "title": None,
            "orient": "top",
            "labelExpr": f"{labels} : ''",
            "labelAngle": -20,
            "labelAlign": "left",
            "labelOverlap": False,
            "domain": False,
            "ticks": False,
            "labelFontWeight": "bold",
            "labelPadding": 8,
            "grid": True,
        },
    }
    y = {"field": "height", "type": "quantitative", "axis": None, "scale": {"domain": [0, 1]}}
    text = {"type": "text", "align": "left", "dx": 4, "baseline": "middle"}
    over = {"type": "point", "fields": ["job"], "on": "pointerover", "clear": "pointerout"}
    marked = {
        "data": {"values": ticks},
        "encoding": {"x": x, "y": y, "text": {"field": "text"}},
    }
    spec = {
        "height": 320,
        "layer": [
            {
                "data": {"name": "jobs"},
                "params": [{"name": "over", "select": over}],
                "transform": [
                    {"filter": f"isValid(datum['{VAL}']) && !datum.diverged"},
                    {"calculate": f"(datum['{VAL}'] - {low!r}) / {span!r}", "as": SCORE},
                    {"fold": list(names), "as": ["axis", "height"]},
                ],
                "mark": {"type": "line", "strokeWidth": 1.6},
                "encoding": {
                    "x": x,
                    "y": y,
                    "detail": {"field": "job"},
                    "color": {
                        "field": VAL,
                        "type": "quantitative",
                        "title": None,
                        "scale": {"domain": [low, low + span]},
                        "legend": None,
                    },
                    "opacity": {"condition": {"param": "over", "value": 0.85}, "value": 0.08},
                    "tooltip": tooltip(),
                },
            },
            {**marked, "mark": {**text, "style": "halo"}},
            {**marked, "mark": text},
        ],
    }
    caption = (
        "One line a job: the settings that differ, and the validation score, which is also the colour. "
        "Point at a line to see its job. Diverged trainings are left out."
    )
    return Chart("parallel", "Parallel coordinates", caption, spec)


def placed(comparison: Comparison, key: str) -> tuple[dict[str, float], list[tuple[str, float]]]:
    """Heights in [0, 1] of a setting's values on their axis, by how they are shown, and its ticks.

    Numbers are placed to scale, on a logarithmic one if they span a decade; texts are evenly spaced.
    """
    values: list[Any] = [job.settings.get(key) for row in comparison.rows for job in row.jobs]
    if numeric(values):
        scaled = {v: log(v) if logarithmic(values) else float(v) for v in sorted(set(values))}
        at = {show(v): place for v, place in scaled.items()}
    else:
        shown = sorted({show(v) for v in values}, reverse=True)
        at = {text: float(n) for n, text in enumerate(shown)}
    low, high = min(at.values()), max(at.values())
    height = {text: (a - low) / (high - low) if high > low else 0.5 for text, a in at.items()}
    ticks = (
        list(height)
        if len(height) <= 12
        else [min(height, key=height.__getitem__), max(height, key=height.__getitem__)]
    )
    return height, [(text or "null", height[text]) for text in ticks]


def numeric(values: Iterable[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def logarithmic(values: Sequence[Any]) -> bool:
    return min(values) > 0 and max(values) / min(values) >= 10


# Scatter


def scatter(comparison: Comparison) -> Chart | None:
    """Any two keys; compare.html replaces the axes."""
    known = axes(comparison)
    done = [j for row in comparison.rows for j in row.done]
    if len(done) < 2:
        return None
    x = known[VAL] if comparison.validated else next(iter(known.values()))
    colour = known.get("pretrainer") or next(iter(known.values()))
    spec = {
        "data": {"name": "jobs"},
        "height": 300,
        "mark": {"type": "point", "filled": True, "size": 60, "opacity": 0.8},
        "encoding": {
            "x": x,
            "y": known[TEST],
            "color": coloured(colour),
            "href": {"field": "link"},
            "tooltip": tooltip(),
        },
    }
    caption = "A point is a job; a click opens its report or results. Choose settings by validation, not by test."
    return Chart("scatter", "Any two keys", caption, spec)


def coloured(axis: Spec) -> Spec:
    """An axis as a colour."""
    legend = {"orient": "bottom", "columns": 4, "labelLimit": 300}
    colour = {k: v for k, v in axis.items() if k != "axis"} | {"legend": legend}
    if "scale" in colour:  # a scale of colours has no room at its ends
        colour["scale"] = {k: v for k, v in colour["scale"].items() if k != "padding"}
    return colour


def axes(comparison: Comparison) -> dict[str, Spec]:
    """Key -> its encoding on an axis, of settings and of what was measured."""
    found = {}
    for key in settings(comparison):
        values = [j.settings.get(key) for r in comparison.rows for j in r.jobs]
        kind: Spec = {"type": "nominal"}
        if numeric(values):
            scale: Spec = {"type": "log"} if logarithmic(values) else {"zero": False}
            scale["padding"] = 10
            kind = {"type": "quantitative", "scale": scale}
        found[key] = {"field": escaped(key), "title": comparison.names[key], **kind}
    jobs = [comparison.record(j) | {VAL: j.val, TEST: j.test} for j in comparison.jobs]
    for name in dict.fromkeys([VAL, TEST, "gain", *comparison.measured]):
        if any(job[name] is not None for job in jobs):
            shown = {"axis": {"format": ".1%"}} if name in PERCENT else {}
            kind = {"type": "quantitative", "scale": {"zero": False, "padding": 10}, **shown}
            found[name] = {"field": escaped(name), "title": name, **kind}
    return found


def tooltip() -> list[Spec]:
    """What a job is, and its scores."""
    texts = [{"field": name, "type": "nominal"} for name in ("job", "what")]
    scores = [{"field": name, "type": "quantitative", "format": ".1%"} for name in PERCENT]
    return [*texts, *scores, {"field": "verdict", "type": "nominal"}]


def escaped(field: str) -> str:
    """A field's name as Vega reads it: a dot would mean a field of a field."""
    return field.replace("\\", "\\\\").replace(".", "\\.").replace("[", "\\[").replace("]", "\\]")


def quoted(text: str) -> str:
    """A string in a Vega expression."""
    return json.dumps(text)


# Label efficiency


def efficiency(comparison: Comparison) -> Chart | None:
    """Test score over the number of labels, with bands."""
    points = labelled(comparison)
    if len({p["labels"] for p in points}) < 2:
        return None
    means = [p["mean"] for p in points]
    counts = sorted({p["labels"] for p in points})
    room = max(PADDING, (max(means) - min(means)) / 4)
    domain = [max(0.0, min(means) - room), max(means) + room]
    if all(j.score == "accuracy" for r in comparison.rows for j in r.done):
        domain[1] = min(1.0, domain[1])
    x = {
        "field": "labels",
        "type": "quantitative",
        "title": "labelled images",
        "scale": {"type": "log", "nice": False} if logarithmic(counts) else {"zero": False},
        "axis": {"values": counts, "format": "d", "grid": False},
    }
    y = {
        "type": "quantitative",
        "title": f"test {comparison.score}",
        "scale": {"domain": domain},
        "axis": {"format": ".0%"},
    }
    told = [
        {"field": "arm", "type": "nominal"},
        {"field": "setting", "type": "nominal"},
        {"field": "labels", "type": "quantitative"},
        *({"field": f, "type": "quantitative", "format": ".1%"} for f in ("mean", "low", "high")),
    ]
    spec = {
        "data": {"values": points},
        "height": 300,
        "encoding": {
            "x": x,
            "color": {
                "field": "arm",
                "type": "nominal",
                "title": None,
                "legend": {"orient": "bottom"},
            },
            "tooltip": told,
        },
        "layer": [
            {
                "mark": {"type": "area", "opacity": 0.18, "clip": True, "tooltip": None},
                "encoding": {"y": {**y, "field": "low"}, "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "line", "point": {"size": 50}, "strokeWidth": 1.8},
                "encoding": {"y": {**y, "field": "mean"}},
            },
        ],
    }
    caption = (
        "Mean test score of each pretrainer at the setting that is its best by validation at that "
        "number of labels; the band is the 95 % interval over seeds and labelled splits, cut where "
        "it leaves the picture."
    )
    return Chart("efficiency", "Label efficiency", caption, spec)


def labelled(comparison: Comparison) -> list[dict[str, Any]]:
    """Arm, number of labelled images, mean test score and the ends of its interval."""
    own = [
        k for k in comparison.keys if k.partition(".")[0] in PROBLEM and not k.startswith("labels")
    ]
    chosen: dict[tuple[str, int], Row] = {}
    for row in comparison.rows:  # the best by validation comes first
        if row.done and not row.diverged:
            name = " ".join(show(row.settings.get(key)) for key in ("pretrainer", *own))
            chosen.setdefault((name, row.results[0].data.labelled), row)
    points = []
    for (name, labels), row in sorted(chosen.items()):
        points.append(point(comparison, name, labels, row, MAIN))
    if not any(name.split()[0] == "none" for name, _ in chosen if name):
        # the scratch arm of the first pretrainer
        first = next(iter(sorted(chosen)), ("", 0))[0]
        for (name, labels), row in sorted(chosen.items()):
            if name == first and all(SCRATCH in r.draws for r in row.results):
                points.append(
                    point(comparison, f"scratch, settings of {first}", labels, row, SCRATCH)
                )
    return [p for p in points if p]


def point(comparison: Comparison, name: str, labels: int, row: Row, arm: str) -> dict[str, Any]:
    splits = min(len(r.draws.get(arm, [])) for r in row.results)
    if not splits:
        return {}
    values = [r.draws[arm][:splits] for r in row.results]
    mean, low, high = interval(values, ratio=row.results[0].data.ratio)
    others = [k for k in comparison.keys if k != "pretrainer" and not k.startswith("labels")]
    setting = " ".join(f"{comparison.names[k]}={show(row.settings.get(k))}" for k in others)
    ends = {"low": low, "high": high} if isfinite(low) else {"low": mean, "high": mean}
    return {"arm": name, "labels": labels, "mean": mean, **ends, "setting": setting}


# Heat map


def heat(comparison: Comparison) -> Chart | None:
    """The validation score over learning rate and optimizer of each pretrainer."""
    rows = [
        r
        for r in comparison.rows
        if r.val is not None
        and "optim" in r.settings
        and isinstance(r.settings.get("optim.lr"), float | int)
    ]
    rates = sorted({r.settings["optim.lr"] for r in rows})
    if not 1 < len(rates) <= RATES:
        return None
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    several = len({r.settings.get("pretrainer") for r in rows}) > 1
    for row in rows:  # the best over all other settings comes first
        name = f"{row.settings.get('pretrainer')}, " if several else ""
        at = (f"{name}{row.settings['optim']}", show(row.settings["optim.lr"]))
        score = None if row.diverged else row.val
        text = "diverged" if row.diverged else percent(row.val)
        about = {"y": at[0], "x": at[1], "val": score, "text": text}
        cells.setdefault(at, {**about, "jobs": line_of(comparison, row)})
    x = {
        "field": "x",
        "type": "ordinal",
        "title": "learning rate",
        "sort": [show(rate) for rate in rates],
        "axis": {"labelAngle": 0},
    }
    spec = {
        "data": {"values": list(cells.values())},
        "height": {"step": 26},
        "encoding": {
            "x": x,
            "y": {"field": "y", "type": "nominal", "title": None},
            "tooltip": [
                {"field": "jobs", "type": "nominal"},
                {"field": "val", "type": "quantitative", "format": ".1%"},
            ],
        },
        "layer": [
            {
                "mark": "rect",
                "transform": [{"filter": "isValid(datum.val)"}],
                "encoding": {"color": {"field": "val", "type": "quantitative", "legend": None}},
            },
            {
                "mark": {"type": "text", "style": "cell-text"},
                "transform": [{"filter": "isValid(datum.val)"}],
                "encoding": {"text": {"field": "text"}},
            },
            {
                "mark": "text",
                "transform": [{"filter": "!isValid(datum.val)"}],
                "encoding": {"text": {"field": "text"}},
            },
        ],
    }
    caption = "Validation score in percent, mean over seeds; the best over all other settings."
    return Chart("heat", "Learning rate and optimizer", caption, spec)


# Output


@cache
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that needs no network."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace(
        "</script", "<\\/script"
    )


def svg(chart: Chart, tables: dict[str, Any], width: int) -> str:
    """The chart as a picture, for pages without scripts."""
    import vl_convert

    spec = {"width": width, **chart.spec, "datasets": tables, "config": theme("light")}
    return str(vl_convert.vegalite_to_svg(spec))


def shown_first(comparison: Comparison) -> dict[str, Any]:
    """The tables as they are before anything is chosen."""
    known = data(comparison)
    metric = first_metric(known["curves"])
    first = [r for r in known["jobs"] if r["row"] < DEFAULT]
    lines = [
        {"job": r["job"], "line": r["line"], "step": steps, "value": values, "smooth": values}
        for r in first
        for folder in r["curves"]
        if (pair := known["curves"].get(folder, {}).get(metric))
        for steps, values in [pair]
    ]
    return {"jobs": known["jobs"], "curves": lines}


def first_metric(curves: dict[str, dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for of in curves.values() for name in of))
    return "finetune/loss" if "finetune/loss" in names else next(iter(names), "")
