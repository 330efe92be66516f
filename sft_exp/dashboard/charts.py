"""The charts of the W&B dashboard."""

import hashlib
import json
import sys
from contextlib import suppress
from typing import Any

from sft_exp.errors import first_line
from sft_exp.trackers import wandb

NAME = "sft_exp: did pretraining help?"
SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
TEST = {
    "field": "${field:y}",
    "type": "quantitative",
    "scale": {"zero": False},
    "axis": {"format": ".0%"},
}
HEAT = {  # validation scores, by which settings are chosen
    "$schema": SCHEMA,
    "data": {"name": "wandb"},
    "transform": [
        {
            "aggregate": [{"op": "mean", "field": "${field:z}", "as": "mean"}],
            "groupby": ["${field:x}", "${field:y}"],
        },
    ],
    "encoding": {
        "x": {
            "field": "${field:x}",
            "type": "ordinal",
            "title": "learning rate",
            "sort": "ascending",
        },
        "y": {"field": "${field:y}", "type": "nominal", "title": "optimizer"},
    },
    "layer": [
        {
            "mark": "rect",
            "encoding": {
                "color": {"field": "mean", "type": "quantitative", "title": "${string:z}"}
            },
        },
        {
            "mark": "text",
            "encoding": {"text": {"field": "mean", "type": "quantitative", "format": ".1%"}},
        },
    ],
}
CURVES = {
    "$schema": SCHEMA,
    "data": {"name": "wandb"},
    "encoding": {
        "x": {
            "field": "${field:x}",
            "type": "ordinal",
            "title": "labels a class",
            "sort": {"field": "${field:x}"},
        },
        "color": {"field": "${field:group}", "type": "nominal", "title": "pretrainer"},
    },
    "layer": [
        {
            "mark": {"type": "errorbar", "extent": "stderr"},
            "encoding": {"y": {**TEST, "title": "test score"}},
        },
        {"mark": {"type": "line", "point": True}, "encoding": {"y": {**TEST, "aggregate": "mean"}}},
    ],
}
CHARTS = {"heat": HEAT, "curves": CURVES}
TITLES = {"heat": "learning rate x optimizer", "curves": "label efficiency"}
COLUMNS = (
    "config:choices.value.pretrainer", "config:choices.value.encoder", "config:choices.value.strategy",
    "config:choices.value.optim", "config:optim.value.lr", "config:labels.value", "config:seed.value",
    "summary:val/score", "summary:val/accuracy", "summary:test/score", "summary:test/accuracy", "summary:gain_vs_scratch",
    "summary:verdict/text", "summary:pretrain/url",
)  # fmt: skip


def workspace(entity: str, project: str, charts: dict[str, str], sweep: str | None = None) -> Any:
    """The W&B workspace of a project, or of one sweep's runs; `charts` are the presets' ids by
    name. A chart without a preset is left out."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    def chart(name: str, strings: dict[str, str], **fields: str) -> list[Any]:
        if name not in charts:
            return []
        query = {"summaryTable": {"tableKey": wandb.TABLE}}
        return [
            wr.CustomChart(
                query=query, chart_name=charts[name], chart_fields=fields, chart_strings=strings
            )
        ]

    columns = [
        wr.Config(key)
        for key in ("choices.pretrainer", "choices.strategy", "choices.optim", "optim.lr", "labels")
    ]
    answers: list[Any] = [
        *chart("heat", {"z": "validation score"}, x="lr", y="optimizer", z="val_score"),
        wr.BarPlot(
            title="Gain over scratch by pretrainer",
            metrics=[wr.SummaryMetric("gain_vs_scratch")],
            groupby=wr.Config("choices.pretrainer"),
            groupby_aggfunc="mean",
            groupby_rangefunc="stderr",
        ),
        *chart("curves", {}, x="labels", y="test_score", group="pretrainer"),
        wr.ParallelCoordinatesPlot(
            title="Every setting",
            columns=[
                *(wr.ParallelCoordinatesPlotColumn(c, log=c.name == "optim.lr") for c in columns),
                wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric("val/score")),
            ],
        ),
    ]
    training: list[Any] = [
        wr.LinePlot(title="Pretraining", x="pretrain/step", y=["pretrain/loss"]),
        wr.LinePlot(
            title="Probe accuracy of the features",
            x="pretrain/images",
            y=["monitor/probe", "monitor/knn"],
        ),
        wr.LinePlot(
            title="Dimensions of the features used", x="pretrain/images", y=["monitor/rank"]
        ),
        wr.LinePlot(title="Fine-tuning", x="finetune/epoch", y=["finetune/loss"], log_y=True),
        wr.LinePlot(title="Validation", x="finetune/epoch", y=["val/accuracy"]),
    ]
    media = [
        "pictures/reconstruction",
        "pictures/sample",
        "pictures/Confusion matrix",
        "pictures/Features",
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"{NAME} {sweep}" if sweep else NAME,
        sections=[
            ws.Section(name="Answers", panels=answers, is_open=True),
            ws.Section(name="Training", panels=training, is_open=True),
            ws.Section(
                name="Pictures", panels=[wr.MediaBrowser(media_keys=[key]) for key in media]
            ),
        ],
        runset_settings=ws.RunsetSettings(
            filters=[expr.Metric("Group") == sweep] if sweep else [],
            pinned_columns=list(COLUMNS),
            order=[expr.Ordering(expr.Summary("val/score"), ascending=False)],
        ),
    )


def save(view: Any, user: str) -> bool:
    """Save a workspace in place of the one that the user saved under the same name before; returns
    whether there was one.

    W&B tells views apart by an internal name, random by default, which here is a hash of the user and
    the view's name. So a second call finds the first one's view, also from another machine.
    """
    from wandb_workspaces.workspaces import internal

    text = json.dumps([user, view.name])
    digest = hashlib.sha256(text.encode()).hexdigest()[:11]
    view._internal_name = internal._url_query_str_to_internal_name(digest)
    with suppress(ValueError):  # there is no such view, or no such project yet
        known = internal.get_view_dict(view.entity, view.project, digest)
        view._internal_id = known["id"]
    existed = bool(view._internal_id)
    view.save()
    return existed


def preset(api: Any, entity: str, name: str, spec: dict[str, Any]) -> str:
    """The id of a chart's preset; its name holds a hash, so views saved earlier keep their version
    of a changed chart."""
    name = f"sft_exp-{name}-{hashlib.sha256(json.dumps(spec).encode()).hexdigest()[:8]}"
    try:
        return api.create_custom_chart(
            entity=entity,
            name=name,
            display_name=name,
            spec_type="vega2",
            access="private",
            spec=spec,
        )
    except wandb.library().errors.Error as error:
        if "exist" not in str(error).lower():
            raise
        return f"{entity}/{name}"


def presets(api: Any, entity: str) -> dict[str, str]:
    """The ids of the charts' presets by name. A preset that the server refuses is reported on
    stderr and left out."""
    ids = {}
    for name, spec in CHARTS.items():
        try:
            ids[name] = preset(api, entity, name, spec)
        except Exception as error:  # noqa: BLE001 - after any error the other charts are still useful
            print(
                f"sft_exp dashboard: without the chart {TITLES[name]}: {first_line(error)}",
                file=sys.stderr,
            )
    return ids
