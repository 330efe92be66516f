"""A study in a given time: steps follow from the pace, and what does not fit is named."""

import json
import sys
import time

import pytest

from sft_exp.errors import ConfigError
from sft_exp.sweep import timed
from sft_exp.sweep.timed import Candidate, Pace, Schedule

CANDIDATES = [
    Candidate("vicreg", ["pretrainer=vicreg"], "vicreg", True),
    Candidate("scratch", ["pretrainer=none"], None, True),
    Candidate("svm", ["pretrainer=vicreg", "strategy=svm"], "vicreg", False),
    Candidate("spread", ["pretrainer=vicreg", "strategy=spread"], "vicreg", False),
    Candidate("dae", ["pretrainer=dae"], "dae", True),
]
SCORES = {"vicreg": 0.8, "scratch": 0.6, "svm": 0.9, "spread": 0.55, "dae": 0.7}


class Machine:
    """A machine whose clock advances by what each job is said to take."""

    def __init__(self, monkeypatch, pretrain=0.1, finetune=0.01, slower=1.0, workers=1):
        self.now, self.jobs, self.lines, self.workers = 0.0, [], [], workers
        self.pretrain, self.finetune, self.slower = pretrain, finetune, slower
        self.stored = set()
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def launch(self, overrides, number):
        assert number == len(self.jobs)
        self.jobs.append(overrides)
        values = dict(o.split("=") for o in overrides)
        name = next(c.name for c in CANDIDATES if set(c.overrides) == set(overrides) & ALL)
        key = (values["pretrainer"], values["pretrain.steps"])
        if tuple(overrides) in self.stored:
            return SCORES[name]
        if key not in self.stored and values["pretrainer"] != "none":
            self.now += self.slower * self.pretrain * int(values["pretrain.steps"])
        solved = timed.SOLVED if "strategy" in values else 1.0
        tuning = solved * self.finetune * int(values["finetune.steps"])
        fits = int(values["draws"]) * (6 if values["val"] == "cv" else 1)
        self.now += 2 + self.slower * tuning * max(fits / self.workers, 1)
        self.stored |= {key, tuple(overrides)}
        return SCORES[name] if values["val"] == "cv" else 0.99  # a test score

    def seconds_of(self, number):
        steps = timed.PILOT_STEPS
        return {
            "pretrain": self.pretrain * steps["pretrain"],
            "finetune": self.finetune * steps["finetune"],
        }

    def run(self, folder, minutes):
        schedule = Schedule(
            *(folder, minutes, CANDIDATES, self.launch, self.seconds_of, lambda: 100),
            *(self.lines.append, self.now, self.workers),
        )
        schedule.run()
        return timed.read(folder)


ALL = {o for c in CANDIDATES for o in c.overrides}


def test_steps_follow_from_minutes_and_pace_in_two_digits():
    steps = timed.steps_for(10, Pace(pretrain=0.15, finetune=0.015, other=3.0))
    # from scratch six trainings, as of a trial by five folds, have the time of the pretraining too
    assert steps == {"pretrain": 600, "finetune": 400, "scratch": 1400}  # 400 + 600 * 10 / 6
    most = {"pretrain": 2000, "finetune": 2000, "scratch": 2300}
    assert timed.steps_for(1000, Pace(0.001, 0.001, 3.0)) == most
    least = {"pretrain": 50, "finetune": 200, "scratch": 210}
    assert timed.steps_for(1, Pace(10.0, 10.0, 3.0)) == least


def test_the_best_by_validation_is_trained_to_the_end_within_the_minutes(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, workers=3)
    trials = machine.run(tmp_path, 10)
    assert machine.now <= 600
    assert not trials.skipped
    # two of those fine-tuned by gradient, and all others, on the same labelled splits
    finalists = [t for t in trials.jobs if t.phase == "finalists"]
    assert [t.name for t in finalists] == ["vicreg", "dae", "svm", "spread"]
    assert all("draws=3" in t.overrides for t in finalists)
    final, scratch = trials.jobs[-2:]
    assert (final.phase, final.name) == ("final", "svm")
    assert {"draws=10", "controls=true"} <= set(final.overrides)
    # its own scratch arm has no gradient settings, so that scratch at its best is trained beside it
    assert (scratch.phase, scratch.name) == ("scratch", "scratch")
    assert {"draws=10", "controls=false", "val=none"} <= set(scratch.overrides)
    untold = [t.score for t in trials.jobs if t.phase in ("pilot", "final", "scratch")]
    assert untold == [None, None, None]
    # what counts has the same numbers of steps, but scratch has those instead of the pretraining
    assert len({o for t in trials.jobs[1:] for o in t.overrides if "pretrain.steps" in o}) == 1
    trained = {t.name: o for t in trials.jobs[1:] for o in t.overrides if "finetune.steps" in o}
    assert trained == {
        "vicreg": "finetune.steps=600",
        "svm": "finetune.steps=600",
        "spread": "finetune.steps=600",
        "dae": "finetune.steps=600",
        "scratch": "finetune.steps=2100",
    }


def test_trying_scratch_takes_as_long_as_trying_a_pretraining(tmp_path, monkeypatch):
    trials = Machine(monkeypatch).run(tmp_path, 10)
    seconds = {t.name: t.seconds for t in trials.jobs if t.phase == "first"}
    assert seconds["scratch"] == pytest.approx(seconds["vicreg"], rel=0.05)


def test_scratch_that_was_not_tried_is_still_compared_with_the_pick(tmp_path, monkeypatch):
    """Its validation takes six trainings for a labelled split, the comparison one."""
    machine = Machine(monkeypatch, slower=1.5)
    trials = machine.run(tmp_path, 8)
    assert machine.now <= 480
    assert "scratch" in trials.skipped
    final, scratch = trials.jobs[-2:]
    assert (scratch.phase, scratch.score) == ("scratch", None)
    splits = [o for o in final.overrides if o.startswith("draws=")]
    assert {*splits, "val=none", "controls=false"} <= set(scratch.overrides)


def test_a_comparison_that_does_not_fit_is_named_and_stays_left_out(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, slower=2.5)
    trials = machine.run(tmp_path, 3)
    assert timed.COMPARISON in trials.skipped
    assert any(timed.COMPARISON in line for line in machine.lines)
    jobs = len(trials.jobs)
    machine.jobs, machine.slower = [], 0.01
    assert len(machine.run(tmp_path, 3).jobs) == jobs


def test_a_slow_solved_head_says_nothing_of_the_time_of_trainings(tmp_path, monkeypatch):
    """Label propagation on the pixels of photographs, the first that is tried."""
    pixels = Candidate("svm", ["pretrainer=vicreg", "strategy=svm"], None, False)
    monkeypatch.setattr(sys.modules[__name__], "CANDIDATES", [pixels, *CANDIDATES[:2]])
    machine = Machine(monkeypatch, workers=2)
    monkeypatch.setattr(timed, "SOLVED", 0.02)
    launch = machine.launch

    def slow(overrides, number):
        machine.now += 15 if "strategy=svm" in overrides else 0
        return launch(overrides, number)

    machine.launch = slow
    trials = machine.run(tmp_path, 10)
    assert not trials.skipped
    assert machine.now <= 600


def test_on_more_cores_more_is_tried_and_the_pick_has_more_labelled_splits(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, workers=4)
    trials = machine.run(tmp_path, 10)
    assert machine.now <= 600
    assert not trials.skipped
    assert "draws=10" in trials.done("final", "svm").overrides


@pytest.mark.parametrize(("minutes", "slower"), [(4, 1.0), (6, 1.0), (10, 1.6)])
def test_what_does_not_fit_is_named_and_the_end_is_in_time(tmp_path, monkeypatch, minutes, slower):
    machine = Machine(monkeypatch, slower=slower)
    trials = machine.run(tmp_path, minutes)
    assert machine.now <= 60 * minutes
    assert trials.done("final", trials.jobs[-1].name if slower > 1 else trials.jobs[-2].name)
    if slower > 1:
        assert list(trials.skipped) == ["scratch", "dae", timed.COMPARISON]
        assert any(line.startswith("not tried: dae (needs about") for line in machine.lines)


def test_the_same_command_repeats_the_trials_however_long_they_take(tmp_path, monkeypatch):
    first = Machine(monkeypatch)
    trials = first.run(tmp_path, 10)
    again = Machine(monkeypatch, pretrain=5.0, finetune=1.0)
    assert again.run(tmp_path, 10) == trials
    assert again.jobs == first.jobs


def test_an_interrupted_study_goes_on_with_the_time_that_is_left(tmp_path, monkeypatch):
    first = Machine(monkeypatch)
    launch, first.launch = first.launch, None

    def interrupted(overrides, number):
        if number == 2:
            raise KeyboardInterrupt
        return launch(overrides, number)

    first.launch = interrupted
    with pytest.raises(KeyboardInterrupt):
        first.run(tmp_path, 10)
    spent, first.launch = first.now, launch
    stored = len(first.jobs)
    first.jobs = []
    trials = first.run(tmp_path, 10)
    assert stored == 2
    assert spent > 100
    assert first.now <= 600
    assert trials.jobs[-2].phase == "final"


def test_a_pick_that_is_fine_tuned_is_compared_with_scratch_of_its_own_steps(tmp_path, monkeypatch):
    monkeypatch.setitem(SCORES, "svm", 0.5)
    *_, final, scratch = Machine(monkeypatch).run(tmp_path, 10).jobs
    assert (final.phase, final.name) == ("final", "vicreg")
    assert (scratch.phase, scratch.name) == ("scratch", "scratch")


def test_scratch_as_the_pick_is_not_trained_twice(tmp_path, monkeypatch):
    monkeypatch.setitem(SCORES, "scratch", 0.95)
    trials = Machine(monkeypatch).run(tmp_path, 10)
    assert (trials.jobs[-1].phase, trials.jobs[-1].name) == ("final", "scratch")


def test_a_record_of_the_version_without_steps_from_scratch_is_read(tmp_path, monkeypatch):
    trials = Machine(monkeypatch).run(tmp_path, 10)
    record = json.loads((tmp_path / timed.TRIALS_FILE).read_text())
    del record["steps"]["scratch"]
    (tmp_path / timed.TRIALS_FILE).write_text(json.dumps(record))
    read = timed.read(tmp_path)
    assert read.steps["scratch"] == trials.steps["finetune"]
    assert read.jobs == trials.jobs


def test_minutes_that_are_too_few_are_refused_with_a_number_that_is_enough(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, pretrain=2.0)
    with pytest.raises(ConfigError, match=r"must be about \d+min on this machine"):
        machine.run(tmp_path, 1)


# accuracies of a validation of 100 images: what leads, what is frozen there, and the choice
@pytest.mark.parametrize(
    ("scores", "choice"),
    [
        ({"spread": 0.99, "vicreg": 0.95, "fixmatch": 0.98}, "fixmatch"),
        ({"spread": 0.99, "svm": 0.985, "scratch": 0.9}, "spread"),  # further behind
        ({"svm": 0.33, "vicreg": 0.30, "scratch": 0.25}, "vicreg"),
        ({"svm": 0.87, "vicreg": 0.70}, "svm"),
        ({"vicreg": 0.8, "svm": 0.799}, "vicreg"),
        ({"spread": 0.9, "vicreg": 0.9}, "vicreg"),
        ({"spread": 1.0, "vicreg": 1.0}, "vicreg"),
        ({"spread": 0.6, "svm": 0.5}, "spread"),
    ],
)
def test_frozen_features_lead_by_more_than_noise_or_are_not_taken(scores, choice):
    assert timed.preferred(scores, ("svm", "spread"), 100) == choice


def test_with_more_labels_a_smaller_lead_counts():
    scores = {"spread": 0.93, "scratch": 0.91}
    assert timed.preferred(scores, ("spread",), 100) == "scratch"
    assert timed.preferred(scores, ("spread",), 10_000) == "spread"
