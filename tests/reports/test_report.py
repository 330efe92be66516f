"""The final report: true to results.json, readable offline, with a next command that runs."""

import shlex
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from math import exp
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from matplotlib import rc_context
from PIL import Image
from result_stubs import stub

from sft_exp import api
from sft_exp.config.compose import compose as composed
from sft_exp.core.arms import CONTROLS, MAIN
from sft_exp.core.task import Task
from sft_exp.execution.session import work
from sft_exp.jobs import prepare
from sft_exp.jobs.stage_requests import FUNCTIONS
from sft_exp.models import transfer
from sft_exp.reports import advice, confidence, inputs, page, plots, report
from sft_exp.reports.drawing import new_figure, png, style
from sft_exp.runs import results
from sft_exp.store.store import Result
from sft_exp.training import metrics_log
from sft_exp.training.metrics_log import converged
from sft_exp.verdict import Comparison, Setting, frozen, judge

SMALL = (
    "pretrainer=vae", "labels=4", "draws=2", "val=none", "tracker=none", "pretrain.steps=30",
    "finetune.steps=20",
)  # fmt: skip
VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source"}


@pytest.fixture(scope="module")
def done(tmp_path_factory, experiment):
    """A small finished run, asked for twice: the second time trains nothing."""
    folder = tmp_path_factory.mktemp("report")
    overrides = [*SMALL, f"store={folder / 'store'}"]
    values, _ = composed(overrides)
    command = ["python", "-m", "sft_exp", *overrides]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        work(
            prepare.prepare(experiment(*overrides, "report=false")),
            folder / "first",
            values,
            command,
        )
        job = prepare.prepare(experiment(*overrides))
        result = work(job, folder / "run", values, command)
        (logits,) = Path("store").glob("logits-*")
        found = report.classified(job, logits.absolute())
    return SimpleNamespace(
        job=job,
        result=result,
        found=found,
        folder=folder / "run",
        command=command,
        store=folder / "store",
    )


@pytest.fixture
def job(experiment):
    """Overrides -> a job that has not run."""
    return lambda *overrides: prepare.prepare(
        experiment("tracker=none", "controls=true", *overrides)
    )


class Page(HTMLParser):
    """Checks that tags close in order, and collects words, tags and what the page would load."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.loads, self.words = [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.loads += [
            value
            for name, value in attrs
            if name in ("src", "href", "srcset", "data", "action", "poster")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def result(pretrained, scratch, converged=True, labelled=100, **controls):
    """Results as far as advice reads them."""
    draws = {"pretrained": pretrained, "scratch": scratch}
    mean = sum(pretrained) / len(pretrained)
    return stub(
        test={"accuracy": mean},
        controls={arm: {"accuracy": score} for arm, score in {"raw_svm": 0.1, **controls}.items()},
        verdict=judge({"": Comparison([pretrained], [scratch])}, Setting(tested=500), frozen())
        .verdicts[""]
        .record(),
        stages={"pretrain": {}, "finetune": {"converged": converged}, "evaluate": {}},
        data={"labelled": labelled},
        draws=draws,
    )


HELPED = ([0.90, 0.91, 0.93], [0.80, 0.81, 0.82])
HURT = HELPED[::-1]
UNSURE = ([0.90, 0.91, 0.92, 0.88], [0.90, 0.90, 0.91, 0.89])  # +0.25 points, sd 0.96


# The page and its pictures


def test_every_picture_shows_something(done):
    files = sorted(done.folder.glob("*.png"))
    assert [f.stem for f in files] == [
        "accuracy",
        "calibration",
        "confusion",
        "examples",
        "features",
        "finetuning",
        "inputs",
        "mistakes",
        "monitors",
        "precision_recall",
        "pretraining",
    ]
    for file in files:
        with Image.open(file) as picture:
            picture.load()
            assert min(picture.size) > 200, file
            assert len(picture.convert("RGB").getcolors(2**24)) > 20, f"{file.name} is blank"


def test_the_page_is_whole_and_needs_nothing_else(done):
    text = (done.folder / "report.html").read_text()
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert page.seen.count("img") == 11
    assert all(load.startswith("data:image/png;base64,") for load in page.loads)
    assert "http" not in text.replace("http-equiv", "")
    assert "url(" not in text
    assert 'name="viewport"' in text


def test_the_page_says_the_verdict_before_the_numbers(done):
    words = Page((done.folder / "report.html").read_text()).words
    verdict = done.result.verdict.text
    assert verdict in words
    assert words.index(verdict) < words.index("accuracy")
    for said in (
        *CONTROLS,
        "labels=4",
        "draws=2",
        "val=none",
        done.result.data.manifest,
        str(torch.__version__),
    ):
        assert said in words, said
    assert shlex.join(done.command) in words
    assert f"{100 * done.result.test['accuracy']:.1f}" in words


def test_pictures_are_handed_on_by_title(done, tmp_path):
    """As a tracker logs them."""
    files = report.write(done.job, done.result, tmp_path, done.command, done.found)
    assert len(files) == 11
    assert all(title and file.exists() for title, file in files.items())


def test_private_images_stay_out_of_the_page(done):
    """As tracker.images=false keeps them from a tracker."""
    private = replace(done.job, experiment=replace(done.job.experiment, report_images=False))
    drawn = {p.name for p in plots.draw(private, done.result, done.found)}
    assert drawn == {
        "accuracy", "calibration", "confusion", "features", "finetuning", "monitors", "precision_recall", "pretraining",
    }  # fmt: skip
    every = plots.draw(done.job, done.result, done.found)
    assert {p.name for p in every if not p.photographs} == drawn


def test_a_long_title_is_not_clipped():
    """Names of classes are the user's."""
    classes = ["ginkgo biloba in autumn", "salix caprea, in flower"]
    with rc_context(style()):
        figure, axes = new_figure(3.3)
        axes.set_title(f"Most frequent confusion: 50 % of class {' taken for '.join(classes)}")
        png(figure)
        title = axes.set_title(axes.get_title("left"))
        assert title.get_window_extent().x1 <= figure.bbox.x1


def test_the_most_confident_mistakes_are_mistakes(done, monkeypatch):
    shown = []
    monkeypatch.setattr(confidence, "mistakes", lambda *given: shown.append(given))
    plots.draw(done.job, done.result, done.found)
    ((test, rows, titles, wrong),) = shown
    first = done.job.results["evaluate"][done.job.arms[MAIN][0]].folder
    stored = transfer.read_own(first / "predictions.safetensors")
    correct = stored["predicted"].long() == test.y
    assert wrong == int((~correct).sum()) == round((1 - done.result.draws[MAIN][0]) * len(test))
    assert not correct[rows].any()
    ranked = [p for _, _, p in titles]
    assert ranked == sorted(ranked, reverse=True)
    assert ranked[0] == pytest.approx(float(stored["confidence"][~correct].max()), abs=1e-5)
    assert all(true != predicted for true, predicted, _ in titles)


def test_names_of_classes_are_never_markup(done):
    """A folder may be called anything."""
    names = (
        "$a_",
        "b$",
        "<i>",
        "&amp;",
        "{x}",
        "%s",
        "\\frac",
        "^",
        "a class with a long name",
        "j",
    )
    odd = replace(done.job, corpus=replace(done.job.corpus, classes=names))
    classes = [replace(c, name=n) for c, n in zip(done.found.classes, names, strict=True)]
    named = replace(done.found, classes=classes)
    drawn = plots.draw(odd, done.result, named)
    for picture in drawn:
        Image.open(BytesIO(picture.png)).load()
    body = report.body(odd, done.result, [*done.command, "name=<b>"], drawn, named)
    shown = Page(page.whole("<&>", body))
    assert "<i>" in shown.words
    assert "i" not in shown.seen


def test_a_range_test_is_shown_with_the_rate_it_found(done, tmp_path):
    (tmp_path / "lr.json").write_text(
        '{"lr": 0.001, "rates": [1e-4, 1e-3, 1e-2], "losses": [2.0, 1.5, 3.0]}'
    )
    found = replace(
        done.job, results={**done.job.results, "lr_find": [Result(tmp_path, False, 1.0)]}
    )
    assert [p.name for p in plots.draw(found, done.result)].count("lr_find") == 1


def test_a_run_without_pretraining_and_controls_has_its_report_too(experiment, tmp_path):
    overrides = [
        "pretrainer=none", "labels=2", "draws=1", "finetune.steps=2", "controls=false", "val=none",
        "tracker=none",
    ]  # fmt: skip
    values, _ = composed(overrides)
    found = work(
        prepare.prepare(experiment(*overrides)),
        tmp_path / "run",
        values,
        ["python", "-m", "sft_exp", *overrides],
    )
    assert found.verdict is None
    assert "No verdict" in Page((tmp_path / "run/report.html").read_text()).words


# The terminal


def test_the_terminal_has_table_verdict_and_what_to_do_next(done, capsys):
    report.show(done.job, done.result, done.folder, done.command)
    said = capsys.readouterr().out
    for arm, cells in report.rows(done.job, done.result):
        (line,) = [line for line in said.splitlines() if line.split()[:1] == [arm]]
        assert line.split()[1:] == cells
    stages = {r.folder for rows in done.job.results.values() for r in rows}
    assert done.result.verdict.text in said
    assert f"nothing was trained: all {len(stages)} stages were in the store" in said
    assert "Next: python -m sft_exp " in said
    assert str(done.folder) in said


def test_a_single_draw_has_no_spread():
    one = stub(test=dict.fromkeys((*Task.columns, "accuracy_sd"), 0.0), draws={MAIN: [0.0]})
    job = SimpleNamespace(experiment=SimpleNamespace(task=Task, metrics=[], score="accuracy"))
    assert report.rows(job, one) == [(MAIN, ["0.0", "-", "0.0", "0.0", "0.0"])]


def test_every_table_says_that_validation_saw_other_labels(done, job, capsys):
    full = replace(done.job, experiment=replace(done.job.experiment, val="full"))
    report.show(full, done.result, done.folder, done.command)
    assert "validation uses labels outside the budget" in capsys.readouterr().out
    assert (
        "validation uses labels outside the budget"
        in Page(report.body(full, done.result, done.command, [])).words
    )
    report.plan([job("val=full", "draws=1")])
    assert "validation uses labels outside the budget" in capsys.readouterr().out
    report.show(done.job, done.result, done.folder, done.command)
    assert "outside the budget" not in capsys.readouterr().out


def test_reused_pretraining_is_said(done):
    cached = {
        folder: [replace(r, cached=False) for r in rows]
        for folder, rows in done.job.results.items()
    }
    other = replace(done.job, results=cached)
    assert advice.reused(other, done.result) == "pretraining reused."
    stages = done.result.stages
    trained = replace(stages, pretrain=replace(stages.pretrain, cached=False))
    fresh = replace(done.result, stages=trained)
    assert advice.reused(other, fresh) == ""


# The plan


@pytest.mark.parametrize("kind", ["pixels", "boxes"])
def test_the_plans_picture_shows_the_targets(kind):
    """Masks and boxes change the picture of the same image."""
    x = torch.full((2, 3, 32, 32), 0.5)
    target = {"mask": torch.zeros(2, 32, 32, dtype=torch.long)}
    target["mask"][:, 8:24, 8:24] = 1
    if kind == "boxes":
        boxes = torch.tensor([[[8.0, 8.0, 24.0, 24.0]]] * 2)
        target = {"boxes": boxes, "labels": torch.ones(2, 1, dtype=torch.long)}
    shown = inputs.marked({"x": x, "y": torch.zeros(2), **target})
    assert shown.shape == x.shape
    assert not torch.equal(shown, x)


def planned(capsys, *jobs):
    """stage -> (requests, cached, to compute, time)"""
    report.plan(list(jobs))
    rows = (line.split(maxsplit=4) for line in capsys.readouterr().out.splitlines() if line.strip())
    return {
        row[0]: (*(int(n) for n in row[1:4]), row[4].strip())
        for row in rows
        if row[0] in FUNCTIONS and len(row) == 5 and all(n.isdigit() for n in row[1:4])
    }


def test_the_plan_of_an_empty_store_runs_nothing_and_writes_a_picture_alone(job, capsys):
    words = ("draws=2", "labels=2", "val=cv")
    found = planned(capsys, job(*words, "report_images=false"))
    assert found["finetune"] == (20, 0, 20, "unknown"), "six arms, and two with two further seeds"
    assert found["pretrain"] == (4, 0, 4, "unknown"), (
        "those of three seeds and the PCA of a control"
    )
    assert not list(Path.cwd().rglob("*"))
    report.plan([job(*words), job(*words, "seed=1")])
    said = capsys.readouterr().out
    assert "Images and targets as the network sees them: outputs/plan/inputs.png" in said
    assert [p for p in Path.cwd().rglob("*") if p.is_file()] == [
        Path.cwd() / "outputs" / "plan" / "inputs.png"
    ]
    with Image.open("outputs/plan/inputs.png") as picture:
        assert min(picture.size) > 200


def test_the_plan_counts_what_is_there_and_scales_what_it_took(done, experiment, capsys):
    before = {p: p.stat().st_mtime_ns for p in done.store.rglob("*")}
    same = planned(capsys, done.job)
    assert {row[2] for row in same.values()} == {0}

    longer = prepare.prepare(
        experiment(*SMALL, f"store={done.store}", "finetune.steps=2000", "draws=3")
    )
    found = planned(capsys, done.job, longer)
    assert found["pretrain"][:3] == (4, 4, 0), "three seeds, and principal components"
    assert found["finetune"][:3] == (20 + 18 - 6, 20, 12), (
        "two of the three draws of the heads in closed form are shared"
    )
    number, unit = found["finetune"][3].split()
    assert (float(number), unit) > (0, "s"), "a hundred times the steps"
    assert {p: p.stat().st_mtime_ns for p in done.store.rglob("*")} == before


def test_a_stage_unlike_all_before_takes_nobody_knows_how_long(done, experiment, capsys):
    other = prepare.prepare(experiment(*SMALL, f"store={done.store}", "encoder=conv"))
    found = planned(capsys, other)
    assert found["pretrain"][2:] == (3, "unknown")
    assert found["finetune"][3].endswith("unknown")


# The next command

# What the table of knowledge has nothing to add to; the last word makes it so.
KNOWN_BEST = ("pretrainer=vicreg", "encoder=conv", "task.augment=true", "strategy=lp_ft")
CASES = {
    "it still falls": ((), result(*HELPED, converged=False), {"finetune.steps": "360"}),
    "it still falls, whatever its length was said to be": (
        ("finetune.epochs=5", "finetune.schedule_length=10"),
        result(*HELPED, converged=False),
        {"finetune.steps": "200", "finetune.epochs": None, "finetune.schedule_length": None},
    ),
    "nothing was pretrained": (("pretrainer=none",), result(*UNSURE), {"pretrainer": "vicreg"}),
    "a floor is better, and the images are not augmented": (
        ("encoder.hidden=[50,20]",),
        result(*HELPED, pca_svm=0.95),
        {"task.augment": "true", "encoder.hidden": "[50,20]"},
    ),
    "a floor is better than an autoencoder of vectors": (
        ("task.augment=true", "encoder.hidden=[50,20]"),
        result(*HELPED, pca_svm=0.95),
        {"pretrainer": "vicreg", "encoder": "conv", "encoder.hidden": None},
    ),
    "a floor is better than the convolutional encoder": (
        ("encoder=conv", "pretrainer=dae", "task.augment=true"),
        result(*HELPED, raw_pixels=0.95),
        {"encoder": "conv", "pretrainer": "vicreg"},
    ),
    "a floor is better than principal components": (
        ("pretrainer=pca", "encoder=projection", "task.augment=true"),
        result(*HELPED, raw_svm=0.95),
        {"encoder": "conv", "pretrainer": "vicreg"},
    ),
    "it hurt": (
        ("pretrainer=vae", "pretrainer.beta=2", "task.augment=true"),
        result(*HURT),
        {"pretrainer": "vicreg", "pretrainer.beta": None},
    ),
    "it helped, and other settings are known to be better": (
        (*KNOWN_BEST[:-1],),
        result(*HELPED),
        {"task": "fixmatch", "task.augment": None, "task.labelled": "strong"},
    ),
    "a floor is better, and nothing better is known": (
        ("seeds=1", *KNOWN_BEST),
        result(*HELPED, pca_svm=0.95),
        {"seeds": "3"},
    ),
    "one draw": (("draws=1",), result([0.9], [0.8]), {"draws": "10"}),
    "too few draws": (("draws=4",), result(*UNSURE), {"draws": "32"}),
    "too small a difference": (
        ("labels=8", *KNOWN_BEST),
        result([0.9, 0.8], [0.9, 0.8]),
        {"labels": "4"},
    ),
    "it helped": (("labels=8", *KNOWN_BEST), result(*HELPED), {"labels": "4"}),
    "it helped with a share": (
        ("labels=20%", *KNOWN_BEST),
        result(*HELPED, labelled=259),
        {"labels": "10%"},
    ),
    "it helped with all": (
        ("labels=all", *KNOWN_BEST),
        result(*HELPED, labelled=1297),
        {"labels": "50%"},
    ),
    "it helped with a total": (
        ("labels_total=50", *KNOWN_BEST),
        result(*HELPED, labelled=50),
        {"labels_total": "25"},
    ),
    "it helped with the fewest": (
        ("labels=1", "seed=3", "seeds=1", *KNOWN_BEST),
        result(*HELPED, labelled=10),
        {"labels": "1", "seed": "3", "seeds": "3"},
    ),
    "it helped with the fewest in total": (
        ("labels_total=15", "seeds=3", *KNOWN_BEST),
        result(*HELPED, labelled=15),
        {"seeds": "5"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_next_command_answers_the_open_question_and_composes(case, job, experiment):
    overrides, found, expected = CASES[case]
    given = ["python", "-m", "sft_exp", "hydra.run.dir=mine", *overrides]
    line, why = advice.next_command(job(*overrides), found, given)
    assert why
    assert shlex.split(line)[:3] == given[:3]
    following = shlex.split(line)[3:]
    said = dict(o.split("=", 1) for o in following)
    assert {key: said.get(key) for key in expected} == expected
    assert "hydra.run.dir" not in said, "that folder is taken"
    assert len(said) == len(following), "no key twice"
    prepare.prepare(experiment(*following))


def test_without_controls_the_next_command_asks_for_them(job):
    line, _ = advice.next_command(
        job("controls=false"), replace(result(*HELPED), verdict=None), ["sft_exp", "controls=false"]
    )
    assert line == "sft_exp controls=true"


def test_draws_that_would_tell_are_those_of_the_verdict(job):
    found = result(*UNSURE)
    changes, why = advice.next_change(
        job("draws=4"), replace(found, verdict=replace(found.verdict, needed=[7, 28]))
    )
    assert changes == {"draws": 28}
    assert "28 draws with 7 seeds would tell +0.3 points" in why


# What must be known beside the verdict


def test_semi_supervised_training_below_its_labels_alone_is_said():
    below = result([0.44], [0.4], labels_only=0.66, raw_spread=0.5, scratch_long=0.9)
    assert list(advice.floors(below)) == ["labels_only", "raw_spread"]


@pytest.mark.parametrize(
    ("precision", "recall", "said"), [(0.87, 0.44, True), (0.8, 0.79, False), (None, None, False)]
)
def test_predictions_of_few_classes_are_said(precision, recall, said):
    scores = {"precision": precision, "recall": recall}
    test = {"accuracy": 0.44, **{k: v for k, v in scores.items() if v is not None}}
    assert bool(advice.uneven(stub(test=test))) is said


@pytest.mark.parametrize(("tested", "said"), [(0.02, True), (0.11, True), (0.25, False)])
def test_an_accuracy_of_guessing_is_said(done, tested, said):
    test = {**done.result.test, "accuracy": tested}
    notes = advice.notes(done.job, replace(done.result, test=test))
    assert any("not above that of guessing" in note for note in notes) is said


def test_floors_are_named_best_first():
    found = result([0.9], [0.5], raw_svm=0.91, pca_svm=0.93, raw_pixels=0.89, random_frozen=0.9)
    assert list(advice.floors(found)) == ["pca_svm", "raw_svm", "random_frozen"]


def test_a_result_below_a_floor_says_so(done):
    low = replace(done.result, controls={"raw_svm": {"accuracy": 0.999}})
    assert any("does not beat raw_svm (99.9 %)" in note for note in advice.notes(done.job, low))
    high = replace(done.result, controls={"raw_svm": {"accuracy": 0.001}})
    assert not any("does not beat" in note for note in advice.notes(done.job, high))


def test_a_gain_over_a_scratch_arm_below_the_pixels_is_said(done):
    verdict = replace(done.result.verdict, word="helped")
    arms = {"pretrained": [0.7, 0.8], "scratch": [0.4, 0.5], "raw_svm": [0.5, 0.6]}
    found = advice.notes(done.job, replace(done.result, verdict=verdict, draws=arms))
    (note,) = [note for note in found if "The control is weak" in note]
    assert "from scratch, 45.0 %, the network is below raw_svm (55.0 %) in each" in note
    for word, pixels in (("helped", [0.5, 0.45]), ("cannot tell", [0.5, 0.6])):
        other = {"verdict": replace(verdict, word=word), "draws": {**arms, "raw_svm": pixels}}
        assert not any("weak" in n for n in advice.notes(done.job, replace(done.result, **other)))


def test_a_loss_that_still_falls_is_said(done, monkeypatch):
    stages = done.result.stages
    falling = replace(stages, finetune=replace(stages.finetune, converged=False))
    monkeypatch.setattr(results, "falling", lambda job: ["scratch"])
    assert any(
        "not converged" in note and "scratch" in note
        for note in advice.notes(done.job, replace(done.result, stages=falling))
    )
    assert isinstance(done.result.stages.finetune.converged, bool)


def decay(constants, floor=0.2, noise=0.0, n=200, seed=0):
    """A loss that falls through so many time constants to its floor."""
    rng = torch.Generator().manual_seed(seed)
    jitter = (noise * torch.randn(n, generator=rng)).tolist()
    return [floor + 2 * exp(-constants * i / n) + e for i, e in enumerate(jitter)]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        pytest.param([decay(12)], True, id="long since flat"),
        pytest.param([decay(3)], False, id="under way"),
        pytest.param([decay(0.01)], False, id="hardly begun"),
        pytest.param([decay(12, noise=0.3)], True, id="flat and noisy"),
        pytest.param([decay(0, noise=0.3)], True, id="nothing but noise"),
        pytest.param(
            [decay(3, noise=0.3, seed=s) for s in range(10)],
            False,
            id="under way in ten noisy draws",
        ),
        pytest.param(
            [[1 / (i + 1) ** 2 for i in range(200)]],
            True,
            id="learnt by heart, and falling for ever",
        ),
        pytest.param([[float(i) for i in range(200)]], False, id="rising"),
        pytest.param([[1e7] * 200], False, id="flat where it exploded to"),
        pytest.param([[0.06, 0.04, 5.0, 1e3] + [1e5] * 100], False, id="flat after it exploded"),
        pytest.param([decay(12), [2.3] + [40.0] * 199], False, id="one of two draws exploded"),
        pytest.param([[0.02] + [0.3] * 199], True, id="above its start, and still small"),
        pytest.param([decay(12, n=50), decay(12, n=60)], True, id="draws of different length"),
        pytest.param([[2.0, 1.9]], False, id="two steps show nothing"),
        pytest.param([[], []], True, id="solved in closed form"),
    ],
)
def test_converged(losses, expected):
    assert converged(losses) is expected


def test_converged_holds_for_rates_that_anneal():
    """A cosine schedule makes any loss flatten; one that fell in proportion to the rates is still told from one at its floor."""
    from math import pi, sin

    n = 200
    # the sum of the rates so far
    walked = [i / n / 2 + sin(pi * i / n) / (2 * pi) for i in range(n)]
    assert not converged([[2 - w for w in walked]])
    assert converged([[0.2 + 2 * exp(-40 * w) for w in walked]])


@pytest.mark.parametrize("steps", [7, 3])
@pytest.mark.sampled(1)
def test_a_generator_that_moves_every_fifth_step_is_drawn_if_it_moved(tmp_path, monkeypatch, steps):
    monkeypatch.chdir(tmp_path)
    small = [
        "encoder=conv", "encoder.norm=layer", "encoder.channels=[4,8]", "encoder.code=8",
        "controls=false", "draws=1",
    ]  # fmt: skip
    budget = [
        f"pretrain.steps={steps}",
        "finetune.steps=2",
        "monitors=false",
        "val=none",
        "report=true",
        "tracker=none",
    ]
    result = api.run(["pretrainer=wgan_gp", *small, *budget], tmp_path / "run")
    rows = metrics_log.read(Path(result["stages"]["pretrain"]["folder"]))
    assert [r["step"] for r in rows if "generator_loss" in r] == ([5] if steps == 7 else [])
    assert (tmp_path / "run" / "pretraining.png").exists()
