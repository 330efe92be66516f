"""A sweep's table: grouped over seeds, and sorted and selected by validation scores."""

import csv
import json
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from urllib.parse import unquote

import pytest
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from result_stubs import record

import sft_exp
from sft_exp.compare import __main__ as compare_command
from sft_exp.compare import charts, comparison, findings, output
from sft_exp.compare import page as compare_page
from sft_exp.compare.comparison import Comparison, collect
from sft_exp.compare.output import finish
from sft_exp.verdict import interval

RATES = {"sgd": 0.01, "adam": 0.001}  # what the optimizer's YAML says
VOID = {"meta", "img", "br", "hr", "link", "input"}


def planned(pretrainer="ae", optim="adam", lr=None, seed=0, **more):
    """One entry of jobs.json; `more` are dotted keys with _ for the dot."""
    config = {
        "pretrainer": {
            "_target_": f"sft_exp.pretrainers.{pretrainer}",
            **({"beta": 1.0} if pretrainer == "vae" else {}),
        },
        "optim": {
            "_target_": f"torch.optim.{optim}",
            "lr": RATES[optim] if lr is None else lr,
            **({"betas": [0.9, 0.999]} if optim == "adam" else {}),
            "hints": {"search": {"lr": [RATES[optim]]}},
        },
        "pretrain_optim": {"_target_": "torch.optim.Adam", "lr": 0.001},
        "finetune": {"epochs": 60, "batch_size": 32},
        "pretrain": {"epochs": 300},
        "hardware": {"device": "auto", "precision": "fp32"},
        "tracker": {"_target_": "nowhere"},
        "store": "outputs/store",
        "seed": seed,
        "labels": 10,
        "choices": {},
    }
    for key, value in more.items():
        group, _, name = key.partition("__")
        if name:
            config[group][name] = value
        else:
            config[group] = value
    return {
        "overrides": [],
        "config": config,
        "choices": {"pretrainer": pretrainer, "optim": optim, "tracker": "none"},
    }


def results(job, val=0.8, test=0.7, scratch=None, word="helped", **more):
    """results.json of a job that is done."""
    found = record(
        test={"accuracy": test, "f1": test, "accuracy_sd": 0.02},
        val={} if val is None else {"accuracy": val, "accuracy_sd": 0.01},
        choices=job["choices"],
        config=job["config"],
    )
    if scratch is not None:
        found["controls"] = {"scratch": {"accuracy": scratch}}
        found["verdict"] = {"word": word, "difference": test - scratch, "low": 0.01, "high": 0.1}
    return record(**{**found, **more})


def sweep(folder, jobs, outcomes, listed=True):
    """A sweep's folder. An outcome is what `results` takes, a status, or None for a job that never began."""
    folder.mkdir(parents=True, exist_ok=True)
    if listed:
        (folder / "jobs.json").write_text(json.dumps(jobs))
    for n, outcome in outcomes.items():
        if outcome is None:
            continue
        here = folder / str(n)
        here.mkdir(exist_ok=True)
        status = (
            outcome
            if "state" in outcome
            else {"state": "done", "exit_code": 0, "started": time.ctime()}
        )
        (here / "status.json").write_text(json.dumps(status))
        if "state" not in outcome:
            (here / "results.json").write_text(json.dumps(results(jobs[n], **outcome)))
    return folder


@pytest.fixture
def grid(tmp_path):
    """2 pretrainers x 2 optimizers x 3 rates x 2 seeds; validation and test disagree about what is best."""
    jobs, outcomes = [], {}
    for n, (p, o, lr, seed) in enumerate(
        product(("ae", "vae"), ("sgd", "adam"), (0.01, 0.03, 0.1), (0, 1))
    ):
        jobs.append(planned(p, o, lr, seed))
        val = (
            0.6
            + 0.1 * (p == "vae")
            + {0.01: 0.0, 0.03: 0.05, 0.1: 0.1 if p == "ae" else 0.0}[lr]
            + 0.01 * (o == "sgd")
        )
        outcomes[n] = {"val": val + 0.02 * seed, "test": 1.2 - val, "scratch": 0.3}
    return sweep(tmp_path / "grid", jobs, outcomes)


def table(folder):
    head, body = Comparison(collect([folder])).table()
    return [dict(zip(head, row, strict=True)) for row in body]


def test_rows_are_settings_and_sorted_by_validation(grid):
    rows = table(grid)
    assert len(rows) == 12
    assert list(rows[0])[:4] == ["job", "pretrainer", "optim", "optim.lr"]
    assert "optim.betas" not in rows[0]  # comes with optim=adam
    assert "pretrainer._target_" not in rows[0]
    vals = [float(r["val"]) for r in rows]
    assert vals == sorted(vals, reverse=True)
    assert rows[0] == {
        "job": "14, 15", "pretrainer": "vae", "optim": "sgd", "optim.lr": "0.03", "seeds": "2", "val": "77.0", "± val": "1.4",
        "test": "44.0", "± test": "0.0", "gain": "+14.0", "verdict": "helped",
    }  # fmt: skip


def test_best_of_each_pretrainer_and_the_edge_of_its_grid(grid):
    head, body = Comparison(collect([grid])).chosen()
    assert [row[: head.index("val")] for row in body] == [
        ["vae", "sgd", "0.03"],
        ["ae", "sgd", "0.1"],
    ]
    assert [row[-1] for row in body] == ["", "edge of the grid: try 0.3"]


@pytest.mark.parametrize(
    ("end", "inner", "said"),
    [
        (0.1, 0.03, "0.3"),
        (0.001, 0.003, "0.0003"),
        (0.4, 0.2, "0.8"),
        (0.11, 0.1, "0.12"),
        (1, 0.1, "10"),
    ],
)
def test_the_next_rate_lies_outside(end, inner, said):
    assert comparison.beyond(end, inner) == said


def test_a_rate_that_failed_belongs_to_the_grid(tmp_path):
    jobs = [planned(lr=lr) for lr in (0.01, 0.1, 1.0)]
    failed = {"state": "failed", "exit_code": 4, "error": "loss is nan"}
    found = Comparison(
        collect([sweep(tmp_path / "s", jobs, {0: {"val": 0.5}, 1: {"val": 0.6}, 2: failed})])
    )
    assert found.edge(found.best[0]) == ""


def test_words_for_a_rate_have_no_edge(tmp_path):
    jobs = [planned(lr=lr) for lr in ("auto", "search", 0.1)]
    found = Comparison(
        collect([sweep(tmp_path / "s", jobs, {n: {"val": n / 10} for n in range(3)})])
    )
    assert [found.edge(r) for r in found.rows] == ["", "", ""]


def test_without_validation_nothing_is_chosen(tmp_path, capsys):
    jobs = [planned(lr=lr) for lr in (0.01, 0.1, 1.0)]
    folder = sweep(
        tmp_path / "s", jobs, {n: {"val": None, "test": t} for n, t in enumerate((0.1, 0.9, 0.5))}
    )
    assert [r["job"] for r in table(folder)] == ["0", "1", "2"]
    finish(folder)
    out = capsys.readouterr().out
    assert "nothing is chosen" in out
    assert "Best setting" not in out


def test_validation_outside_the_budget_is_named(tmp_path, grid):
    folder = sweep(tmp_path / "s", [planned(val=v) for v in ("cv", "full")], {0: {}, 1: {}})
    assert any("outside the budget" in note for note in Comparison(collect([folder])).notes())
    assert not any("outside the budget" in note for note in Comparison(collect([grid])).notes())


def test_test_accuracy_chooses_nothing(grid):
    """Order and choice stay whatever the test accuracies are."""
    before = (
        [(r["job"], r["val"]) for r in table(grid)],
        Comparison(collect([grid])).chosen()[1][0][0],
    )
    for n, file in enumerate(sorted(grid.glob("*/results.json"))):
        result = json.loads(file.read_text())
        result["test"]["accuracy"] = n * 7 % 10 / 10
        file.write_text(json.dumps(result))
    assert (
        [(r["job"], r["val"]) for r in table(grid)],
        Comparison(collect([grid])).chosen()[1][0][0],
    ) == before


def test_only_what_differs_is_a_column_and_names_mean_one_key(tmp_path):
    jobs = [
        planned("vae", pretrainer__beta=b, pretrain__epochs=e, hardware__device=d)
        for b, e, d in ((1, 5, "cpu"), (4, 9, "cuda"))
    ]
    rows = table(sweep(tmp_path / "s", jobs, {0: {}, 1: {}}))
    assert [k for k in rows[0] if k not in comparison.NUMBERS] == ["job", "beta", "pretrain.epochs"]


def test_precision_differs_and_threads_do_not(tmp_path):
    jobs = [
        planned(hardware__precision=p, hardware__threads=t) for p, t in (("fp32", 1), ("bf16", 2))
    ]
    assert [
        k
        for k in table(sweep(tmp_path / "s", jobs, {0: {}, 1: {}}))[0]
        if k not in comparison.NUMBERS
    ] == ["job", "precision"]


def test_the_default_rate_of_each_optimizer_is_shown(tmp_path):
    rows = table(
        sweep(tmp_path / "s", [planned(optim="sgd"), planned(optim="adam")], {0: {}, 1: {}})
    )
    assert [r["optim.lr"] for r in rows] == ["0.01", "0.001"]


def test_spread_is_over_draws_where_there_is_one_seed(tmp_path):
    rows = table(sweep(tmp_path / "s", [planned(lr=lr) for lr in (0.1, 0.2)], {0: {}, 1: {}}))
    assert (rows[0]["± val"], rows[0]["± test"]) == ("1.0", "2.0")
    assert "seeds" not in rows[0]


def test_verdicts_of_seeds_without_scores_of_scratch_are_counted(tmp_path):
    words = ("helped", "hurt", "helped")
    outcomes = {n: {"scratch": 0.5, "word": w} for n, w in enumerate(words)}
    (row,) = table(sweep(tmp_path / "s", [planned(seed=s) for s in range(3)], outcomes))
    assert (row["job"], row["seeds"], row["verdict"]) == ("0-2", "3", "helped 2, hurt 1")


@pytest.mark.parametrize("listed", [True, False])
def test_failed_missing_and_torn_jobs(tmp_path, capsys, listed):
    jobs = [planned(lr=lr, seed=s) for lr in (0.1, 100.0) for s in (0, 1)] + [planned(lr=5.0)]
    failed = {"state": "failed", "exit_code": 4, "error": "NonFiniteError: loss is nan\nmore"}
    folder = sweep(
        tmp_path / "s", jobs, {0: {}, 1: failed, 2: {"state": "running"}, 3: {}, 4: None}, listed
    )
    (folder / "3" / "results.json").write_text('{"test": {"accu')
    (folder / "conf").mkdir()
    assert finish(folder) == (4 if listed else 3)
    out = capsys.readouterr().out
    assert f"1 of {5 if listed else 4} jobs done" in out
    line = next(line for line in out.splitlines() if "loss is nan" in line)
    assert "more" not in out
    assert line.split()[:1] == ["1"]
    if listed:
        assert "optim.lr=0.1 seed=1" in line
        assert "optim.lr=100 seed=0" in next(
            line for line in out.splitlines() if " running " in line and "=" in line
        )
        assert "never started" in out
    assert "damaged" in out
    (folder / "2" / "status.json").write_text('{"sta')
    (folder / "1" / "results.json").write_text(json.dumps(results(jobs[1])))  # of an earlier time
    assert [j.state for r in Comparison(collect([folder])).rows for j in r.done] == ["done"]
    assert finish(folder) == (4 if listed else 3)


def test_nothing_done_and_nothing_there(tmp_path, capsys):
    assert finish(sweep(tmp_path / "s", [planned(), planned(optim="sgd")], {})) == 2
    assert "0 of 2 jobs done" in capsys.readouterr().out
    assert finish(sweep(tmp_path / "t", [], {})) == 0


def test_jobs_that_were_not_listed_are_known_by_their_results_or_by_hydras_notes(tmp_path):
    jobs = [planned(lr=0.1), planned(lr=0.2)]
    folder = sweep(
        tmp_path / "s",
        jobs,
        {0: {}, 1: {"state": "failed", "exit_code": 1, "error": "x"}},
        listed=False,
    )
    notes = folder / "1" / ".hydra"
    notes.mkdir()
    (notes / "config.yaml").write_text(json.dumps(jobs[1]["config"] | {"labels": "${seed}"}))
    choices = {"pretrainer": "ae", "optim": "adam", "experiment": None}
    (notes / "hydra.yaml").write_text(json.dumps({"hydra": {"runtime": {"choices": choices}}}))
    found = Comparison(collect([folder]))
    assert found.what(found.undone[0]) == "optim.lr=0.2 labels=0"
    (notes / "config.yaml").write_text("{a: ${")
    assert Comparison(collect([folder])).undone[0].settings == {}


def test_the_table_does_not_know_how_the_sweep_went(tmp_path, capsys):
    """Killed, continued, from the store, jobs finished in any order: the same words."""
    jobs = [planned(lr=lr, seed=s) for lr in (0.1, 0.2, 0.4) for s in (0, 1)]
    said = []
    for place, order in (("a", range(6)), ("b", (5, 3, 1, 0, 2, 4))):
        folder = tmp_path / place / "s"
        for n in order:
            stages = {"pretrain": {"folder": "x", "cached": place == "b", "seconds": n}}
            rounding = n * (1e-8 if place == "b" else -1e-8)  # of another number of threads
            sweep(folder, jobs, {n: {"val": 0.5 + rounding, "stages": stages}})
        finish(folder)
        said.append(capsys.readouterr().out.replace(str(folder), ""))
    assert said[0] == said[1]
    assert [r["job"] for r in table(folder)] == ["0, 1", "2, 3", "4, 5"]


def test_csv_has_every_job_and_every_digit(grid):
    finish(grid)
    rows = list(csv.DictReader((grid / "compare.csv").read_text().splitlines()))
    assert len(rows) == 24
    for n, row in enumerate(rows):
        result = json.loads((grid / str(n) / "results.json").read_text())
        assert int(row["job"]) == n
        assert float(row["val_accuracy"]) == result["val"]["accuracy"]
        assert float(row["test_f1"]) == result["test"]["f1"]
        assert float(row["optim.lr"]) == result["config"]["optim"]["lr"]
        assert float(row["gain"]) == result["verdict"]["difference"]
        assert row["seed"] == str(n % 2)


class Page(HTMLParser):
    """Checks that tags are closed in order, and keeps what refers to something outside."""

    def __init__(self):
        super().__init__()
        self.open, self.outside, self.links, self.text, self.data = [], [], [], "", {}

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.holds_data = dict(attrs).get("id") == "data"
        self.links += [v for k, v in attrs if k == "href"]
        self.outside += [v for k, v in attrs if k == "src" and not v.startswith("data:")]
        assert tag not in ("link", "iframe")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open[-1:] == ["script"] and self.holds_data:
            self.data = json.loads(data)


def parsed(folder):
    source = (folder / "compare.html").read_text()
    page = Page()
    page.feed(source)
    assert source.startswith("<!DOCTYPE html>")
    assert page.open == []
    assert page.outside == []
    assert all((folder / unquote(link)).is_file() for link in page.links)
    own = source.replace(charts.library(), "")
    assert not re.search(r"url\(|@import|https?://", re.sub(r"base64,[^\"]*", "", own))
    assert 'name="viewport"' in source
    return page


def give_curves(grid, stage, rows):
    """A training log for every job, in a folder of the store that they share."""
    folder = grid.parent / "outputs" / "store" / f"{stage}-0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    for file in grid.glob("*/results.json"):
        result = json.loads(file.read_text())
        about = {"folder": f"outputs/store/{folder.name}", "cached": True, "seconds": 1.0}
        result["stages"][stage] = about
        file.write_text(json.dumps(result))


def test_page_needs_nothing_else(grid):
    give_curves(grid, "finetune", [{"step": s, "loss": 2.0 / s} for s in range(1, 9)])
    give_curves(grid, "pretrain", [{"step": 1, "d_loss": 1e9, "g_loss": float("inf")}])
    assert finish(grid) == 0
    page = parsed(grid)
    assert list(page.data["specs"]) == ["curves", "parallel", "scatter", "heat"]
    assert page.data["curves"] == {
        "finetune-0123456789abcdef": {
            "finetune/loss": [[*range(1, 9)], [float(f"{2 / s:.6g}") for s in range(1, 9)]]
        },
        # what JSON cannot say is a gap in the line
        "pretrain-0123456789abcdef": {"pretrain/d_loss": [[1], [1e9]], "pretrain/g_loss": [[1], [None]]},
    }  # fmt: skip
    assert "edge of the grid: try 0.3" in page.text
    assert "24 of 24 jobs done" in page.text


def test_the_numbers_of_the_charts_are_those_of_the_results(grid):
    (grid / "3/results.json").write_text("{")
    finish(grid)
    jobs = parsed(grid).data["jobs"]
    assert sorted(int(job["job"]) for job in jobs) == list(range(24))
    for job in jobs:
        if job["job"] == "3":
            assert job["state"] == "damaged"
            assert job["validation score"] is None
            continue
        result = json.loads((grid / job["job"] / "results.json").read_text())
        assert job["validation score"] == job["val_accuracy"] == result["val"]["accuracy"]
        assert job["test score"] == job["test_accuracy"] == result["test"]["accuracy"]
        assert job["test_f1"] == result["test"]["f1"]
        assert job["gain"] == result["verdict"]["difference"]
        assert job["optim.lr"] == result["config"]["optim"]["lr"]
        assert job["pretrainer"] == result["choices"]["pretrainer"]
        assert (grid / job["link"]).is_file()
    shown = Comparison(collect([grid]))
    for n, row in enumerate(shown.rows):
        assert [j["job"] for j in jobs if j["row"] == n] == [j.name for j in row.jobs]


def test_without_validation_and_pretrainers_a_rate_is_the_colour(tmp_path):
    jobs = [planned(lr=lr) for lr in (0.01, 0.001)]
    folder = sweep(tmp_path / "s", jobs, {n: {"val": None} for n in range(2)})
    found = Comparison(collect([folder]))
    (chart,) = charts.charts(found)
    assert "<svg" in charts.svg(chart, charts.shown_first(found), 640)


def test_long_curves_are_thinned_to_means():
    assert charts.thinned([*range(1, 8)], [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 2.0], 4) == [
        [2, 4, 6, 7],
        [2.0, 6.0, 10.0, 2.0],
    ]
    assert charts.thinned([5], [1.0], 4) == [[5], [1.0]]


def test_bands_of_label_efficiency_are_intervals_over_seeds_and_splits(tmp_path):
    jobs, outcomes = [], {}
    for n, (p, labels, lr, seed) in enumerate(
        product(("ae", "vae"), (5, 50), (0.1, 0.2), range(3))
    ):
        jobs.append(planned(p, lr=lr, seed=seed, labels=labels))
        val = 0.5 + 0.1 * (lr == 0.2)  # the better rate by validation is the worse one by test
        draws = [0.6 - 0.2 * (lr == 0.2) + 0.01 * seed + 0.03 * d for d in range(4)]
        outcomes[n] = {
            "val": val,
            "test": sum(draws) / 4,
            "draws": {"pretrained": draws, "scratch": [0.2] * 4},
            "data": {"labelled": 10 * labels},
        }
    found = Comparison(collect([sweep(tmp_path / "s", jobs, outcomes)]))
    points = charts.labelled(found)
    assert [(p["arm"], p["labels"]) for p in points] == [
        *product(("ae", "vae"), (50, 500)),
        ("scratch, settings of ae", 50),
        ("scratch, settings of ae", 500),
    ]
    values = [[0.4 + 0.01 * seed + 0.03 * d for d in range(4)] for seed in range(3)]
    for point in points[:4]:
        assert point["setting"] == "optim.lr=0.2"
        assert [point[k] for k in ("mean", "low", "high")] == pytest.approx(interval(values))
    assert charts.efficiency(found).spec["data"]["values"] == points


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_colour_of_a_line_can_be_told_from_the_page(theme):
    """A contrast of 3 (WCAG 2.2, 1.4.11), along the whole scale of parallel coordinates."""
    low, high = charts.RAMP[theme]
    scale = [colormaps["plasma"](low + share / 20 * (high - low)) for share in range(21)]
    back = luminance(to_rgb(charts.BACK[theme]))
    for colour in [*map(to_rgb, charts.LINES[theme]), *scale]:
        dark, light = sorted((luminance(colour), back))
        assert (light + 0.05) / (dark + 0.05) >= 3, colour


def luminance(rgb):
    """Relative luminance (WCAG 2.2)."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in rgb[:3]]
    return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_notebook_shows_the_charts_as_pictures(grid):
    give_curves(grid, "finetune", [{"step": s, "loss": 2.0 / s} for s in range(1, 9)])
    shown = sft_exp.compare(grid)._repr_html_()
    assert shown.count("<svg") == 4
    assert ">77.0<" in shown  # of the heat map, drawn without a script
    assert "<script" not in shown


def test_rows_link_to_the_reports_of_their_jobs(grid, tmp_path):
    """Of a job without a report to what there is; from wherever the page lies."""
    (grid / "14/report.html").write_text("")
    shown = Comparison(collect([grid]))
    assert compare_page.links(shown, grid)[0] == (
        '<a href="14/report.html">14</a>, <a href="15/results.json">15</a>'
    )
    odd = grid.rename(tmp_path / "a & b #1?")
    output.write(Comparison(collect([odd])), tmp_path / "else", "x")
    page = Page()
    page.feed((tmp_path / "else/compare.html").read_text())
    assert len(page.links) == 24
    assert all((tmp_path / "else" / unquote(link)).is_file() for link in page.links)


CELLS = ["9.5", "", "10.25", "-3", "1e-05", "100"]
NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="needs node on the PATH")
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (f"sorted({CELLS}, false)", [3, 4, 0, 2, 5, 1]),
        (f"sorted({CELLS}, true)", [5, 2, 0, 4, 3, 1]),
        ("sorted(['sgd', '', 'adam', 'adam'], false)", [2, 3, 0, 1]),
        ("sorted(['sgd', '', 'adam', 'adam'], true)", [0, 2, 3, 1]),
        ("sorted(['10, 11', '9', '2-4'], false)", [2, 1, 0]),
        ("sorted(['+1.0', '-2.0', ''], false)", [1, 0, 2]),
        ("['adam', 'ADAM sgd', 'optim=adam', 'val>70', 'val>=80.5', 'val<9', 'lr=0.010', 'gain>0'].map("
         "q => matches(['optim', 'lr', 'val', 'gain'], ['adam', '0.01', '80.5', ''], q))",
         [True, False, True, True, True, False, True, False]),
    ],
)  # fmt: skip
def test_the_table_sorts_numbers_as_numbers_with_missing_ones_last(script, expected):
    code = f"{compare_page.SCRIPTS[0].read_text()}\nconsole.log(JSON.stringify({script}))"
    out = subprocess.run([str(NODE), "-e", code], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) == expected


def test_page_escapes_and_shows_failures(tmp_path):
    jobs = [planned(labels="<b>&$x$"), planned(labels="5%")]
    failed = {"state": "failed", "exit_code": 3, "error": "<script>alert(1)</script> ${body}"}
    folder = sweep(tmp_path / "a<b", jobs, {0: failed, 1: {}})
    finish(folder)
    assert "<script>alert(1)</script> ${body}" in parsed(folder).text


def test_several_sweeps_and_runs(grid, tmp_path, capsys, monkeypatch):
    other = sweep(tmp_path / "other", [planned("none", "sgd", 0.5)], {0: {"val": 0.99}})
    run = sweep(tmp_path, [planned()] * 8, {7: {"val": 0.01}}, listed=False) / "7"
    monkeypatch.setattr(sys, "argv", ["compare", str(grid), str(other), str(run)])
    assert compare_command.main() == 0
    out = capsys.readouterr().out
    assert out.splitlines()[3].split()[:2] == ["other/0", "none"]
    assert "26 of 26 jobs done" in out
    assert (tmp_path / "outputs/compare/compare.html").exists()
    monkeypatch.setattr(sys, "argv", ["compare", str(grid), str(grid), "--out", "twice"])
    assert compare_command.main() == 0
    assert len(Comparison(collect([grid, grid])).rows) == 12  # the same jobs count once
    assert {len(r.jobs) for r in Comparison(collect([grid, grid])).rows} == {2}
    lost = sweep(tmp_path / "lost", [planned("none", "sgd", 0.5)], {0: None})
    assert [len(r.done) for r in Comparison(collect([other, lost])).rows] == [1]
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path / "nowhere")])
    assert compare_command.main() == 3


def other_images(test):
    return {"data": {"manifest": "2" * 64}, "val": test, "test": test}


def test_the_same_command_on_other_images_is_a_row_of_its_own(tmp_path):
    """Images were added to the folder between two runs: the second one counted as a copy."""
    before = sweep(tmp_path / "before", [planned()], {0: {"val": 0.5, "test": 0.5}})
    after = sweep(tmp_path / "after", [planned()], {0: other_images(0.9)})
    compared = Comparison(collect([before, after]))
    assert [row.test for row in compared.rows] == [0.9, 0.5]
    assert compared.keys == ["images"]
    assert [row.settings["images"] for row in compared.rows] == [
        "22222222+11111111",
        "00000000+11111111",
    ]
    assert "2 of 2 jobs done" in compared.verdict()


def test_settings_on_other_images_are_not_compared_with_each_other(tmp_path):
    """The better rate was only tried on more images."""
    rates = (0.01, 0.1)
    before = sweep(
        tmp_path / "before", [planned(lr=r) for r in rates], {0: {"val": 0.5}, 1: {"val": 0.4}}
    )
    after = sweep(tmp_path / "after", [planned(lr=1.0)], {0: other_images(0.9)})
    compared = Comparison(collect([before, after]))
    assert compared.keys == ["optim.lr", "images"]
    found = findings.sections(compared)
    assert found
    assert {s.title.partition("(")[2] for s in found} == {"images=00000000+11111111)"}


def test_images_that_the_data_set_names_need_no_column(tmp_path):
    jobs = [planned(dataset={"root": root}, seed=seed) for root in ("a", "b") for seed in (0, 1)]
    outcomes = {n: other_images(0.6) if n > 1 else {"test": 0.5} for n in range(4)}
    compared = Comparison(collect([sweep(tmp_path / "s", jobs, outcomes)]))
    assert compared.keys == ["dataset.root"]
    assert [len(row.jobs) for row in compared.rows] == [2, 2]


def test_jobs_that_other_code_computed_are_said_to_be_no_copies(tmp_path):
    """The second one was left out as a copy of the first, whatever its scores were."""
    jobs = [planned(seed=seed) for seed in (0, 1)]
    scores = {0: {"val": 0.5, "test": 0.5}, 1: {"val": 0.5, "test": 0.6}}
    before = sweep(tmp_path / "before", jobs, scores)
    copies = sweep(tmp_path / "copies", jobs, scores)
    after = sweep(tmp_path / "after", jobs, {**scores, 1: {"val": 0.9, "test": 0.9}})
    compared = Comparison(collect([before, copies, after]))
    (note,) = [note for note in compared.notes() if "other scores" in note]
    assert "jobs before/1 and after/1." in note
    assert [row.test for row in compared.rows] == [0.55]
    assert not Comparison(collect([before, copies])).unlike


def test_scores_of_several_kinds_have_no_best_one(tmp_path):
    classes = sweep(tmp_path / "classes", [planned()], {0: {"val": 0.5}})
    masks = planned(task={"name": "segment"})
    of_masks = {"score": "miou", "score_name": "mIoU", "test": 0.9}
    job = sweep(tmp_path / "masks", [masks], {0: {"val": 0.9}})
    found = json.loads((job / "0/results.json").read_text())
    found |= of_masks | {"test": {"miou": 0.9}, "val": {"miou": 0.9}}
    (job / "0/results.json").write_text(json.dumps(found))
    compared = Comparison(collect([classes, job]))
    assert compared.verdict() == "2 of 2 jobs done."
    assert compared.chosen()[1] == []
    assert any("no job is the best of all" in note for note in compared.notes())


def test_data_sets_are_not_ranked_against_each_other(tmp_path):
    jobs = [planned(dataset={"root": root}) for root in ("easy", "hard")]
    outcomes = {n: {"data": {"name": f"set {n}"}, "val": 0.9 - n / 2} for n in (0, 1)}
    compared = Comparison(collect([sweep(tmp_path / "s", jobs, outcomes)]))
    assert compared.verdict() == "2 of 2 jobs done."
    assert any("accuracy on set 0, accuracy on set 1 are" in note for note in compared.notes())


def test_a_comparison_imports_nothing_slow(tmp_path):
    jobs = [planned(o, lr=lr) for o in ("ae", "vae") for lr in (0.001, 0.01, 0.1, 1.0)]
    folder = sweep(tmp_path / "s", jobs, {n: {"val": n / 10} for n in range(8)})
    code = f"""
import sys
from pathlib import Path
from sft_exp.compare import output
output.finish(Path({str(folder)!r}))
slow = {{"torch", "sklearn", "scipy", "matplotlib", "wandb", "torchmetrics"}}
assert not slow & sys.modules.keys(), slow & sys.modules.keys()
"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=Path(comparison.__file__).parents[2]
    )
