"""Detection of diverged and collapsed trainings, on synthetic records and small runs."""

import json
from math import exp, log

import pytest
import torch
from torch import nn

from sft_exp import api
from sft_exp.check.__main__ import grade, merge
from sft_exp.compare import comparison
from sft_exp.core.arms import SCRATCH
from sft_exp.stages.outcome import class_facts, parameter_norm
from sft_exp.training import health
from sft_exp.verdict import Comparison

SMALL = (
    "labels=5", "draws=2", "val=none", "tracker=none", "report=false", "controls=[scratch]", "pretrain.steps=30",
    "finetune.steps=30", "encoder.hidden=[16,16]", "pretrainer=ae", "optim=gd",
)  # fmt: skip


def record(losses, accuracies=None, every=5):
    steps = [1, *range(every, every * len(losses), every)]
    rows = [{"step": step, "loss": loss} for step, loss in zip(steps, losses, strict=True)]
    return (
        [
            {**row, "accuracy": a}
            for row, a in zip(rows, accuracies or [None] * len(rows), strict=True)
        ]
        if accuracies
        else rows
    )


def falling(first=2.3, last=0.1, n=40, noise=0.0):
    jitter = (noise * torch.randn(n, generator=torch.Generator().manual_seed(0))).abs().tolist()
    return [last + (first - last) * exp(-8 * i / n) + e for i, e in enumerate(jitter)]


def predicted(counts, told, right, log_loss, norms=(10.0, 12.0)):
    """training.json of a model that says each class so often, of images that show each so often."""
    found = class_facts(
        torch.tensor(counts), torch.tensor(told), right * sum(counts), log_loss * sum(counts)
    )
    return {"norm": list(norms), **found}


EVEN = [10] * 10
SOUND = predicted(EVEN, EVEN, 1.0, 0.05)
# never predicted, and yet the log loss is below the entropy, 0.098
RARE = predicted([980, 20], [1000, 0], 0.98, 0.07)
RARE_OF_TEN = predicted([50] * 9 + [3], [50] * 9 + [0], 0.97, 0.1)
NUMBERS = {"norm": [10.0, 11.0]}


@pytest.mark.parametrize(
    ("rows", "outcome"),
    [
        pytest.param(record(falling()), SOUND, id="falls"),
        pytest.param(record(falling(noise=1.5)), SOUND, id="falls, very noisy"),
        pytest.param(
            record([0.05, 0.4, 0.1, 0.5] * 10),
            SOUND,
            id="above its start, a head fitted beforehand",
        ),
        pytest.param(record([120.0] * 40), SOUND, id="a flat loss with terms of its own"),
        pytest.param(record(falling()), RARE, id="a rare class of two"),
        pytest.param(record(falling()), RARE_OF_TEN, id="a rare class of ten"),
        pytest.param(record([2.5]), predicted(EVEN, [100] + [0] * 9, 0.1, 2.5), id="one step"),
        pytest.param(
            [{"step": 1, "loss": 2.4}, {"step": 2, "loss": 2.9}],
            {},
            id="two steps, of an older version",
        ),
        pytest.param(
            record(falling(7.0, 5.5)),
            predicted([1] * 1000, [2] * 340 + [0] * 660, 0.2, 5.5),
            id="many classes, early",
        ),
        pytest.param(record(falling(1.0, 0.2)), NUMBERS | {"r2": 0.8}, id="numbers"),
        pytest.param(record(falling(3.0, 1.2)), NUMBERS, id="boxes"),
        pytest.param(record(falling(-2.0, -4.0)), NUMBERS, id="several, with learnt weights"),
        pytest.param([], {}, id="solved in closed form"),
        pytest.param(record(falling()), predicted([7], [7], 1.0, 0.0), id="one class"),
        pytest.param(
            record(falling()),
            predicted(EVEN, EVEN, 1.0, 0.05, (0.01, 10.0)),
            id="long parameters that serve",
        ),
        pytest.param(record([1.0] + [1e9] * 39), SOUND, id="the best epoch was kept"),
    ],
)
def test_what_is_sound(rows, outcome):
    assert health.fault(rows, outcome) == ""


COLLAPSED = predicted(EVEN, [60, 40] + [0] * 8, 0.2, 2.2)
DEAD = predicted(EVEN, [100] + [0] * 9, 0.1, log(10))


@pytest.mark.parametrize(
    ("rows", "outcome", "said"),
    [
        (
            record([0.06, 0.04, 5.0] + [1.46e7] * 37),
            predicted(EVEN, EVEN, 0.1, 1.46e7),
            "diverged (loss 0.06 -> 1.46e+07)",
        ),
        (record([0.06, 0.04, 5.0] + [1.46e7] * 37), {}, "diverged (loss 0.06 -> 1.46e+07)"),
        (record([1e7] * 40), {}, "diverged (loss 1e+07 -> 1e+07)"),
        (record([2.3]), predicted(EVEN, EVEN, 0.1, 4.1e8), "diverged (loss 2.3 -> 4.1e+08)"),
        (record([2.0] + [30.0] * 39), NUMBERS, "diverged (loss 2 -> 30)"),
        (record([0.8] + [900.0] * 39), NUMBERS | {"r2": -900.0}, "diverged (loss 0.8 -> 900)"),
        (
            record([2.3] * 40),
            {**DEAD, "norm": [7.0, 5e4]},
            "diverged (norm of the parameters 7 -> 5e+04)",
        ),
        (
            record([0.1] + [1.87] * 39, [1.0] + [0.3] * 39),
            predicted(EVEN, EVEN, 0.34, 1.87),
            "100 -> 34 %",
        ),
        (
            record([0.1] + [1.87] * 39, [1.0] + [0.3] * 39),
            {},
            "collapsed (accuracy on training images 100 -> 30 %)",
        ),
        (
            record([2.3] * 40),
            COLLAPSED,
            "collapsed (2 of 10 classes are predicted for training images)",
        ),
        (record([0.7] * 40), predicted([50, 50], [100, 0], 0.5, 0.69), "collapsed (1 of 2 classes"),
        (
            record([2.3] * 40),
            predicted(EVEN, [20] * 5 + [0] * 5, 0.11, 2.3),
            "commonest class is 10 % of them",
        ),
        (record([1.0] * 40), NUMBERS | {"r2": -0.1}, "R2 -0.1 on training images"),
    ],
)
def test_what_failed_is_said_with_the_evidence(rows, outcome, said):
    assert said in health.fault(rows, outcome)


def test_an_arm_in_a_sentence_and_in_a_word():
    assert (health.said(["", ""]), health.state([]), health.said([])) == ("", "", "")
    mixed = ["", "collapsed (a)", "diverged (b)", "diverged (c)"]
    assert health.said(mixed) == "diverged in 2 and collapsed in 1 of 4 draws (b)"
    assert health.state(mixed) == "diverged"
    assert health.said(["collapsed (a)"]) == "collapsed (a)"


@pytest.mark.parametrize(
    ("pretrained", "scratch", "trained", "no_verdict"),
    [
        ([["", ""]] * 3, [["", ""]] * 3, None, False),  # found from the scores
        ([["", "collapsed (a)"], ["", ""], ["", ""]], [["", ""]] * 3, [False, True, True], False),
        ([["", ""]] * 3, [["", ""], ["", ""], ["collapsed (a)", ""]], [True, True, False], False),
        ([["", ""]] * 3, [["", ""], ["", ""], ["diverged (a)", ""]], [True] * 3, True),
        ([["diverged (a)", ""], ["", ""], ["", ""]], [["", ""]] * 3, [True] * 3, False),
        ([["", ""]], [["collapsed (a)", ""]], [True], True),
        ([["collapsed (a)", ""]], [["", ""]], [True], False),
        ([["collapsed (a)"], ["", ""]], [["", ""], ["collapsed (b)"]], [True, True], True),
    ],
)
def test_a_comparison_says_which_seeds_trained(pretrained, scratch, trained, no_verdict):
    noted = health.noted(Comparison([[0.9]], [[0.8]]), pretrained, scratch)
    assert noted.trained == trained
    assert bool(noted.scratch_failed) == no_verdict
    assert bool(noted.pretrained_failed) == any(map(any, pretrained))


def test_the_norm_is_that_of_all_parameters():
    net = nn.Linear(2, 1)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[3.0, 0.0]]))
        net.bias.fill_(4.0)
    assert parameter_norm(net) == 5.0


# Runs


def run(folder, *overrides, name="run"):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return api.run([*SMALL, *overrides], name)


@pytest.fixture(scope="module")
def exploded(tmp_path_factory):
    """A rate at which scratch explodes."""
    folder = tmp_path_factory.mktemp("exploded")
    return folder / "run", run(folder, "optim.lr=30")


def test_a_scratch_that_explodes_gives_no_word(exploded):
    _, result = exploded
    assert all(fault.startswith(("diverged", "collapsed")) for fault in result["faults"][SCRATCH])
    assert len(result["faults"][SCRATCH]) == 2
    assert result["verdict"]["word"] == "no verdict"
    assert result["verdict"]["text"].startswith("No verdict: scratch ")
    assert "of 6 fine-tunings (" in result["verdict"]["text"], "of three pretraining seeds"
    assert [sorted(other["faults"]) for other in result["other_seeds"].values()] == [
        ["pretrained", SCRATCH]
    ] * 2
    assert "optim.lr=search" in result["verdict"]["text"]
    assert not result["stages"]["finetune"]["converged"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Arms without a fault."""
    folder = tmp_path_factory.mktemp("sound")
    return folder / "run", run(folder)


def test_a_scratch_that_trains_gets_its_word(sound):
    _, result = sound
    assert result["faults"] == {}
    assert result["verdict"]["word"] != "no verdict"


@pytest.mark.parametrize(
    "overrides", [["finetune.steps=1"], ["finetune.steps=2", "task.head=random"], ["optim=sgd"]]
)
@pytest.mark.sampled(1)
def test_short_runs_and_sound_ones_have_no_fault(tmp_path, overrides):
    assert run(tmp_path, *overrides)["faults"] == {}


def test_the_checker_fails_a_word_on_a_scratch_that_exploded(exploded):
    folder, result = exploded

    def point(number):
        return next(g for g in merge(grade([folder])) if g.point == number)

    assert point("4.6").passed
    assert point("7.2").passed
    stated = {**result["verdict"], "word": "helped", "text": "Pretraining helped: of course."}
    (folder / "results.json").write_text(json.dumps({**result, "verdict": stated}))
    try:
        assert point("4.6").passed is False
        assert "`helped` is stated, and scratch " in point("4.6").reason
    finally:
        (folder / "results.json").write_text(json.dumps(result))


def test_a_word_withheld_from_sound_arms_fails_too(sound):
    folder, result = sound
    stated = {**result["verdict"], "word": "no verdict", "text": "No verdict: scratch diverged."}
    (folder / "results.json").write_text(json.dumps({**result, "verdict": stated}))
    try:
        found = {g.point: g for g in merge(grade([folder]))}
        assert found["7.2"].passed is False
    finally:
        (folder / "results.json").write_text(json.dumps(result))


def test_a_folder_of_an_older_version_is_judged_by_its_record(exploded):
    folder, result = exploded
    for name in result["folders"]["arms"][SCRATCH]:
        store = folder.parent / "outputs/store"
        model = json.loads((store / name / "request.json").read_text())["model"]
        rows = [
            json.loads(line) for line in (store / model / "metrics.jsonl").read_text().splitlines()
        ]
        assert health.of(store / model)
        assert health.fault(rows, {})


def test_the_table_of_a_sweep_names_it_and_gives_no_gain(exploded):
    folder, _ = exploded
    found = comparison.Comparison(comparison.collect([folder]))
    head, (row,) = found.table()
    assert row[head.index("verdict")].startswith("scratch ")
    assert "gain" not in head
    assert "no gain and is left out" in " ".join(found.notes())
    assert ",helped" not in found.csv()
