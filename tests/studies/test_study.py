"""A study defines its sweep, and its sentences follow from the results of the jobs."""

import json
import re
import shlex
import shutil
import time
from dataclasses import replace
from functools import cache
from math import inf
from pathlib import Path
from types import SimpleNamespace

import hydra
import numpy as np
import pytest
from faults import cli, run
from PIL import Image
from result_stubs import stub

from sft_exp.compare.comparison import Job
from sft_exp.config import build, compose, hydra_state, register
from sft_exp.core.arms import MAIN, SCRATCH
from sft_exp.errors import ConfigError, DataError
from sft_exp.guidance import knowledge
from sft_exp.studies import choose
from sft_exp.studies.attribution import Attribution, changed
from sft_exp.studies.choose import Choose, distance
from sft_exp.studies.label_efficiency import (
    LabelEfficiency,
    arms_of,
    by_cell,
    comparisons_of,
    key,
    times,
)
from sft_exp.sweep import looks
from sft_exp.sweep.job_list import listed
from sft_exp.sweep.study import looks_in, setting_of
from sft_exp.sweep.timed import Pace, Trial, Trials
from sft_exp.training.context import corpus
from sft_exp.verdict import frozen
from sft_exp.verdict.sequential import ALPHAS, LOOKS, retake
from sft_exp.verdict.worth import Worth

TINY = [
    "pretrain.steps=2",
    "finetune.steps=2",
    "draws=2",
    "tracker=none",
    "controls=[scratch,raw_pixels]",
]


def started(*overrides: str, code: int = 0) -> str:
    left, said = run(cli, *overrides, seconds=1800)
    assert left == code, said
    return said


def test_a_study_is_a_multirun_that_ends_with_its_answer():
    study = [
        "study=label_efficiency",
        "study.pretrainers=[vae]",
        "study.labels=[1,10,1000]",
        "study.seeds=2",
    ]
    said = started(*study, *TINY)
    (folder,) = Path("outputs/multirun").iterdir()
    jobs = [json.loads(f.read_text()) for f in folder.glob("*/results.json")]
    grid = sorted(
        (j["choices"]["pretrainer"], j["config"]["labels"], j["config"]["seed"]) for j in jobs
    )
    assert grid == [("vae", n, s) for n in (1, 10) for s in (0, 1)]  # digits have no 1000 a class
    about = json.loads((folder / "study.json").read_text())
    assert [(c["pretrainer"], c["labels"]) for c in about["cells"]] == [("vae", "1"), ("vae", "10")]
    assert [c["level"] for c in about["cells"]] == pytest.approx([0.99, 0.96])
    for sentence in about["sentences"]:
        assert sentence in said
        assert sentence.replace("'", "&#x27;") in (folder / "study.html").read_text()
    assert (folder / "gain.png").read_bytes().startswith(b"\x89PNG")
    assert "4 of 4 jobs were done before" in started(*study, *TINY)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            ["pretrainer=[ae,vae]"],
            [
                "pretrainer=[ae,vae]: takes one",
                "study.pretrainers=[ae,vae]",
                "-m pretrainer=ae,vae",
            ],
        ),
        (["study=label_efficiency", "labels=5"], ["labels=5", "study.labels"]),
        (["study=attribution", "pretrainer=vae"], ["pretrainer=vae", "study.pretrainer"]),
        (["study=label_efficiency", "study.seeds=1"], ["study.seeds=1", "2 or more"]),
        (
            ["study=label_efficiency", "study.labels=[1000]"],
            ["study.labels=[1000]", "1 to 128 a class"],
        ),
        (["study=label_efficency"], ["did you mean study=label_efficiency?"]),
    ],
)
@pytest.mark.sampled(2)
def test_what_a_study_cannot_be_is_refused_before_anything_is_written(given, words):
    said = started(*given, code=2)
    assert not [w for w in words if w not in said], said
    assert not list(Path().iterdir())


def job(pretrainer, labels, seed, pretrained, scratch, floor=0.1):
    draws = {"pretrained": pretrained, "scratch": scratch, "raw_svm": [floor] * len(scratch)}
    data = {"labelled": 10 * labels, "classes": 10, "ratio": 0.0}
    settings = {"pretrainer": pretrainer, "labels": labels, "seed": seed, "dataset": "digits"}
    return Job("0", Path(), settings, {"state": "done"}, stub(draws=draws, data=data))


def concluded(jobs, **fields):
    return LabelEfficiency(**{"labels": [1, 10], "seeds": 3, **fields}).conclude(jobs)


def jobs(gain_at_1, gain_at_10, floor=0.1):
    wobble = [[0.001, -0.002, 0.0], [0.002, 0.0, -0.001], [-0.001, 0.001, 0.002]]
    return [
        job("vae", n, s, [base + g + w for w in wobble[s]], [base] * 3, floor)
        for n, base, g in ((1, 0.5, gain_at_1), (10, 0.8, gain_at_10))
        for s in range(3)
    ]


def test_the_primary_sentence_comes_first():
    found = concluded(jobs(0.1, 0.05))
    assert found.sentences[0].startswith(
        "vae, 10 labels a class (primary): Pretraining helped: +5.0 points of accuracy against"
    )
    assert found.sentences[1].startswith(
        "vae, 1 label a class: Pretraining helped: +10.0 points of accuracy against"
    )
    assert "too small to matter" in concluded(jobs(0.1, 0.0), archive="none").sentences[0]


def test_a_cell_that_does_not_beat_its_floors_failed_to_learn():
    assert not [n for n in concluded(jobs(0.1, 0.1)).notes if "Failed to learn" in n]
    assert (
        "Failed to learn (does not beat its best baseline): vae, 1 label a class."
        in concluded(jobs(0.1, 0.1, 0.7)).notes
    )


def test_worth_is_read_off_the_curve_from_scratch():
    """Half way up in the logarithm: sqrt(10) times the labels; past the end it is a bound."""
    found = concluded(jobs(0.15, 0.05))
    worth = found.facts["cells"][0]["worth"]
    assert worth["times"] == pytest.approx(10**0.5, rel=0.02)
    assert worth["low"] < worth["times"] < worth["high"]
    beyond = found.facts["cells"][1]["worth"]
    assert (beyond["beyond"], beyond["high"]) == (1, None), "JSON has no infinite numbers"
    assert times(Worth(**{**beyond, "high": inf})) == "at least 1x"
    assert "at least 1x" in [row[8] for row in found.table[1]]


def test_scratch_long_stands_at_the_primary_count_and_weights_bring_two_kinds_of_arms(
    digits, experiment
):
    study, base = (
        LabelEfficiency(labels=[1, 10], seeds=2, weights="w.safetensors"),
        experiment("study=label_efficiency"),
    )
    rows = study.jobs(digits, base)
    assert len(rows) == 2 * 2 * 3
    assert {o for row in rows for o in row if o.startswith("pretrainer=")} == {
        "pretrainer=vae",
        "pretrainer=checkpoint",
    }
    assert sum("pretrainer.init=w.safetensors" in row for row in rows) == 2 * 2 * 2
    long = [
        [o.partition("=")[2] for o in row if o.startswith("labels=")]
        for row in rows
        if "scratch_long" in row[-1]
    ]
    assert long == [["10"]] * 6
    assert not [
        row for row in LabelEfficiency(long=False).jobs(digits, base) if "scratch_long" in row[-1]
    ]


def test_a_jobs_own_keys_replace_those_of_the_command():
    assert listed([["a=1", "+b=2"]], [["b=3"], []]) == [["a=1", "b=3"], ["a=1", "+b=2"]]


@pytest.mark.parametrize(
    ("job", "left"),
    [
        (["encoder=pixels"], ["seed=1", "encoder=pixels"]),
        (["encoder=conv"], ["seed=1", "encoder.channels=[8,16]", "encoder=conv"]),
        (["optim=sgd"], ["seed=1", "encoder=conv", "encoder.channels=[8,16]", "optim=sgd"]),
    ],
)
def test_the_keys_of_an_option_go_with_it(job, left):
    """The folder of small images has a conv of two widths; some of a study's jobs have no widths."""
    common = ["seed=1", "encoder=conv", "encoder.channels=[8,16]"]
    assert listed([common], [job]) == [left]


def test_a_key_of_an_option_that_the_command_does_not_name_stays():
    assert listed([["encoder.hidden=[8]"]], [["encoder=mlp"]]) == [
        ["encoder.hidden=[8]", "encoder=mlp"]
    ]


# Attribution

STEPS = {
    "network": ["pretrainer=none"],
    "augmentation": ["task.augment=true"],
    "semi": ["task=fixmatch"],
}


def test_each_arm_of_an_attribution_keeps_what_the_arms_before_it_changed(digits, experiment):
    rows = Attribution(steps=STEPS, seeds=2).jobs(digits, experiment())
    assert [row[3:] for row in rows[:3]] == [
        ["pretrainer=none"],
        ["pretrainer=none", "task.augment=true"],
        ["pretrainer=none", "task=fixmatch"],  # another task has no such key
    ]
    assert [row[0] for row in rows] == ["seed=0"] * 3 + ["seed=1"] * 3
    assert [row[2] for row in rows[:2]] == ["controls=[raw_pixels,pca_svm]", "controls=[]"]
    assert changed({"a.b": "1"}, ["a.b=2"]) == {"a.b": "2"}


def arm(name, seed, accuracies, **floors):
    result = stub(draws={"pretrained": accuracies, **floors}, config={"name": name})
    return Job(
        "0", Path(), {"seed": seed, "dataset": "digits", "labels": 10}, {"state": "done"}, result
    )


def test_steps_are_paired_and_judged_together():
    floors = {"raw_pixels": [0.5, 0.6, 0.7], "pca_svm": [0.52, 0.621, 0.72]}
    wobble = [[0.001, 0.0, -0.001], [0.0, 0.002, 0.0], [-0.001, 0.0, 0.001]]
    arms = []
    for s in range(3):
        network = [v + w for v, w in zip((0.6, 0.7, 0.8), wobble[s], strict=True)]
        arms += [
            arm("network", s, network, **floors),
            arm("augmentation", s, [v + 0.1 for v in network]),
        ]
        arms += [
            arm("semi", s, [v + 0.1 + w / 10 for v, w in zip(network, wobble[s - 1], strict=True)])
        ]
    found = Attribution(steps=STEPS, archive="none").conclude(arms)
    steps = found.facts["steps"]
    assert list(steps) == ["pca_svm", "network", "augmentation", "semi"]
    assert steps["augmentation"]["difference"] == pytest.approx(0.1)
    assert steps["network"]["word"] == "helped"
    assert steps["semi"]["word"] == "too small to matter"
    assert steps["semi"]["level"] == pytest.approx(1 - 0.05 / 4)
    assert found.sentences[0].startswith(
        "From 60.0 % (raw_pixels) to 80.0 % (semi); the largest step is"
    )
    assert found.pictures[0].png.startswith(b"\x89PNG")


@pytest.mark.slow
def test_choosing_halves_inside_the_budget_and_ends_with_a_recipe_that_can_be_run(
    tmp_path, monkeypatch
):
    """From another folder, where nothing is in the store, the printed command and best.yaml give the job's own numbers."""
    pictures(tmp_path / "a b/photos")
    given = [
        "study=choose",
        "study.pretrainers=[none,vae]",
        "study.optims=[adam]",
        "hydra.sweeper.least=3",
        "draws=2",
    ]
    given += [
        "dataset=image_folder",
        "dataset.root='a b/photos'",
        "labels=4",
        "encoder=conv",
        "encoder.channels=[8,8]",
    ]
    said = started(*given, "pretrain.steps=20", "tracker=none")
    (folder,) = Path("outputs/multirun").iterdir()
    jobs = [
        json.loads(f.read_text())["config"]["finetune"]["steps"]
        for f in folder.glob("*/results.json")
    ]
    assert sorted(jobs) == [3, 3, 3, 3, 9, 9, 27]
    about = json.loads((folder / "study.json").read_text())
    best = about["best"]
    assert f"Take pretrainer={best['pretrainer']} strategy={best['strategy']} optim=adam" in said
    (tmp_path / "mine/experiment").mkdir(parents=True)
    (tmp_path / "mine/experiment/best.yaml").write_text((folder / "best.yaml").read_text())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (line,) = [line for line in said.splitlines() if line.startswith("Run it: ")]
    program, *printed = shlex.split(line.removeprefix("Run it: "))
    assert program == "python"
    for words in (printed[2:], ["--config-dir", str(tmp_path / "mine"), "experiment=best"]):
        started(*words, "store=fresh", "report=false")
        result = json.loads(Path("outputs/latest/results.json").read_text())
        assert [result[split]["accuracy"] for split in ("val", "test")] == [
            about["val"],
            about["test"],
        ]
        shutil.rmtree("fresh")


def pictures(folder: Path) -> None:
    """Twenty small images of each of two classes that can be told apart."""
    rng = np.random.default_rng(0)
    for name, brightness in (("dark", 60), ("light", 180)):
        (folder / name).mkdir(parents=True)
        for n in range(20):
            pixels = rng.normal(brightness, 40, (16, 16)).clip(0, 255).astype("uint8")
            Image.fromarray(pixels).save(folder / name / f"{n}.png")


def test_a_budget_that_every_rung_sets_is_refused():
    for given in ("finetune.steps=50", "finetune.schedule_length=90"):
        said = started("study=choose", given, "tracker=none", code=2)
        assert given in said
        assert "hydra.sweeper.least" in said
    assert not list(Path().iterdir())


def finished(optim, strategy, steps, val, test, **more):
    keys = {
        "pretrainer": "vae",
        "strategy": strategy,
        "optim": optim,
        "optim.lr": 0.1,
        "finetune.steps": steps,
    }
    config, choices = composed(f"optim={optim}", f"strategy={strategy}", f"finetune.steps={steps}")
    scores = {"val": {"accuracy": val}, "test": {"accuracy": test}}
    result = stub(**scores, config=config, choices=choices, **more)
    return Job("0", Path(), {**keys, "dataset": "digits", "labels": 5}, {"state": "done"}, result)


@cache
def composed(*overrides):
    return compose.compose(list(overrides))


def test_the_pick_is_of_the_last_rung_and_its_distance_is_read_off_the_full_grid():
    rungs = [
        finished("adam", "full", 9, 0.8, 0.7),
        finished("sgd", "full", 3, 0.9, 0.9),
        finished("adam", "linear", 9, 0.7, 0.8),
    ]
    found = Choose().conclude(rungs)
    assert found.facts["best"] == {
        "pretrainer": "vae",
        "strategy": "full",
        "optim": "adam",
        "optim.lr": 0.1,
    }
    assert (
        "3.0 points of test accuracy behind its best (pretrainer=vae strategy=linear"
        in distance(
            rungs[0],
            [finished("adam", "full", 9, 0.8, 0.75), finished("adam", "linear", 9, 0.7, 0.78)],
        )
    )
    assert "does not hold the pick" in distance(rungs[0], [finished("sgd", "full", 9, 0.8, 0.75)])


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (([0.80, 0.82, 0.81], [0.81, 0.80, 0.82]), "others within noise of the best: pretrainer="),
        (([0.80, 0.82, 0.81], [0.20, 0.22, 0.21]), "no other candidate that is within noise"),
        (([0.20, 0.22, 0.21], [0.80, 0.82, 0.81]), "show better ones: pretrainer="),
    ],
)
def test_a_choice_says_which_candidates_of_its_last_shared_rung_are_as_good(scores, said):
    rung = [
        finished(optim, "full", 9, 0.8, 0.7, draws={MAIN: list(draws)})
        for optim, draws in zip(("adam", "sgd"), scores, strict=True)
    ]
    last = finished("adam", "full", 27, 0.8, 0.7, draws={MAIN: [0.9, 0.9, 0.9]})
    sentence = Choose().contenders([*rung, last], last)
    assert sentence.startswith("At 9 steps, where 2 candidates were compared")
    assert said in sentence
    assert Choose().contenders([last], last) == ""


def graded(pretrainer, optim, steps, val, draws, **more):
    one = finished(optim, "full", steps, val, 0.7, draws={MAIN: draws, **more})
    return replace(one, settings={**one.settings, "pretrainer": pretrainer})


def test_a_pick_is_compared_with_scratch_at_its_own_best_at_a_level_that_allows_for_the_choice():
    """Best against best; the interval holds whichever of the 4 candidates was compared with which."""
    jobs = [
        graded("vae", "adam", 27, 0.95, [0.96, 0.96, 0.96]),
        graded("vae", "adam", 9, 0.9, [0.94, 0.95, 0.93]),
        graded("vae", "sgd", 9, 0.8, [0.84, 0.85, 0.83]),
        graded("none", "adam", 9, 0.5, [0.54, 0.55, 0.53]),
        graded("none", "sgd", 9, 0.7, [0.74, 0.75, 0.73]),
    ]
    found = Choose().conclude(jobs)
    assert found.sentences[1].startswith(
        "At 9 steps, the most that it and pretrainer=none reached: "
    )
    assert (
        "+20.0 points of accuracy against scratch at its own best (98.8 % interval"
        in (found.sentences[1])
    )
    assert any(
        "one of 4 that could have been compared with scratch" in note for note in found.notes
    )
    assert Choose().against_scratch(jobs, jobs[3]) is None
    assert Choose().against_scratch(jobs[:3], jobs[0]) is None


def test_in_given_minutes_the_verdict_on_the_pick_allows_for_the_choice():
    jobs, trials = timed_trials()
    gain = {"word": "helped", "difference": 0.1, "low": 0.0, "high": 0.2}
    arms = {MAIN: [0.8, 0.82, 0.81], SCRATCH: [0.7, 0.72, 0.71]}
    final = finished("adam", "full", 300, 0.0, 0.75, draws=arms, verdict=gain)
    more = [Trial("first", n, [], 9.0, 8.0, 0.9) for n in ("a", "b", "c")]
    trials = replace(
        trials, jobs=[*trials.jobs[:3], *more, Trial("final", "a", [], 9.0, 8.0, None)]
    )
    jobs = [
        *jobs[:3],
        *(replace(jobs[1], name=str(n)) for n in (3, 4, 5)),
        replace(final, name="6"),
    ]
    answer = Choose(budget="10min").conclude(jobs, (), trials)
    assert "(98.8 % interval" in answer.sentences[1]  # vicreg, a, b, c: 1 - 0.05 / 4
    assert answer.facts["verdict"]["level"] == pytest.approx(1 - 0.05 / 4)
    # beside a pick that is solved, scratch at its best is trained on the same labelled splits
    better = graded("none", "adam", 300, 0.0, [0.78, 0.8, 0.79])
    trials.jobs.append(Trial("scratch", "from scratch", [], 9.0, 8.0, None))
    answer = Choose(budget="10min").conclude([*jobs, replace(better, name="7")], (), trials)
    assert "+2.0 points of accuracy against scratch at its own best (" in answer.sentences[1]


def test_fields_that_cannot_be(compose):
    node = {"_target_": "sft_exp.studies.label_efficiency.LabelEfficiency", "labels": []}
    with pytest.raises(ConfigError, match=r"study.labels=\[\]"):
        build.part(node, "study", "sft_exp.sweep.study.Study")


# Going on until decided


def at_look(gains, seeds, draws, of=(1, 10)):
    """Jobs of one look: cells with these mean gains at 1 and 10 labels a class; scratch at 50 and 80 %."""
    wobble = 0.003 * np.random.default_rng(5).standard_normal((2, 8, 12))
    found = [
        job("vae", n, s, list(base + g + wobble[k, s, :draws]), [base] * draws)
        for k, (n, base, g) in enumerate(((1, 0.5, gains[0]), (10, 0.8, gains[1])))
        for s in range(seeds)
        if n in of
    ]
    for one in found:
        one.settings["draws"] = draws
    return found


def test_a_study_goes_on_until_every_sentence_is_decided():
    """A large gain is told at the first look and its cell is not run again; the small one needs more."""
    study = LabelEfficiency(labels=[1, 10], until="decided")
    jobs = at_look((0.10, 0.004), *LOOKS[0])
    first = study.look(jobs, [], LOOKS[0])
    assert (first.words["vae, 1"], first.alpha) == ("helped", ALPHAS[0])
    assert first.going == {"vae, 10"}
    jobs += at_look((0.10, 0.004), *LOOKS[1], of=[10])
    second = study.look(jobs, [first], LOOKS[1])
    found = study.conclude(jobs, [first, second])
    cells = {c["labels"]: c for c in found.facts["cells"]}
    assert (cells["1"]["word"], cells["1"]["seeds"], cells["1"]["draws"]) == ("helped", 2, 4)
    assert (cells["10"]["seeds"], cells["10"]["draws"]) == LOOKS[1]
    assert 1 - cells["1"]["level"] <= ALPHAS[0]
    assert 1 - cells["10"]["level"] <= ALPHAS[1]
    assert [look["alpha"] for look in found.facts["looks"]] == list(ALPHAS[:2])
    assert any("1.2 of the 5 % are spent" in note for note in found.notes)
    named = {
        key(c): of
        for c, of in comparisons_of(arms_of(by_cell(jobs, each=True)), "10", False).items()
    }
    setting = setting_of(jobs, study.margin)
    assert retake([first, second], named, setting, frozen(), ["digits"]) == [first, second]


def test_looks_are_kept_and_none_is_taken_twice(tmp_path, monkeypatch):
    """What was spent stands in the folder; the same command again spends nothing."""
    study = LabelEfficiency(labels=[1, 10], until="decided", budget="1h")
    jobs = at_look((0.10, 0.004), *LOOKS[0])
    monkeypatch.setattr(looks.comparison, "collect", lambda folders: jobs)
    assert looks.take_look(study, tmp_path, 0) == {"vae, 10"}
    (first,) = looks_in(tmp_path)
    jobs += at_look((0.15, 0.15), *LOOKS[1])  # other results: an old look does not change
    assert looks.take_look(study, tmp_path, 0) == {"vae, 10"}
    assert looks_in(tmp_path) == [first]
    looks.take_look(study, tmp_path, 1)
    assert [look.alpha for look in looks_in(tmp_path)] == list(ALPHAS[:2])


def test_a_failed_job_or_an_empty_budget_ends_the_looks(tmp_path, monkeypatch):
    jobs = at_look((0.10, 0.004), *LOOKS[0])
    jobs = [
        replace(one, result=stub(draws=one.outcome.draws, stages={"validate": {"seconds": 40.0}}))
        for one in jobs
    ]
    monkeypatch.setattr(looks.comparison, "collect", lambda folders: jobs)
    short = LabelEfficiency(labels=[1, 10], until="decided", budget="50s")
    assert looks.take_look(short, tmp_path, 0) == set()
    assert len(looks_in(tmp_path)) == 1
    jobs.append(Job("9", Path(), {}, {"state": "failed"}, {}))
    assert looks.take_look(short, tmp_path, 1) == set()
    assert len(looks_in(tmp_path)) == 1, "a look at a part of the design was not planned"


@pytest.mark.parametrize("budget", ["30", "min", "1 h", "-3min", "3d"])
def test_a_budget_is_a_time(budget):
    with pytest.raises(ConfigError, match="30min"):
        LabelEfficiency(until="decided", budget=budget)


def test_the_jobs_of_each_look(digits, experiment):
    study = LabelEfficiency(labels=[1, 10], until="decided", long=False)
    base = experiment("study=label_efficiency")
    assert study.jobs(digits, base) == []
    every = study.looks(digits, base)
    assert [len(look) for look in every] == [2 * seeds for seeds, _ in LOOKS]
    names, overrides = zip(*every[1], strict=True)
    assert set(names) == {"vae, 1", "vae, 10"}
    assert all(f"draws={LOOKS[1][1]}" in job for job in overrides)


@pytest.mark.slow
def test_a_study_until_decided_resumes_and_is_checked():
    """Real processes: it ends, a rerun takes no look again, the checker takes every look again."""
    study = ["study=label_efficiency", "study.pretrainers=[vae]", "study.labels=[1,10]"]
    given = [*study, "study.until=decided", "study.long=false", *TINY[:2], *TINY[3:]]
    said = started(*given)
    assert "look 1 of 5" in said
    (folder,) = Path("outputs/multirun").iterdir()
    taken = (folder / "looks.json").read_bytes()
    started(*given)
    assert (folder / "looks.json").read_bytes() == taken
    _, said = run(cli, "check", str(folder))
    assert "do not follow" not in said
    about = json.loads((folder / "study.json").read_text())
    about["looks"][0]["alpha"] = 0.001
    (folder / "study.json").write_text(json.dumps(about))
    _, said = run(cli, "check", str(folder))
    assert "look 1: its words or the alpha" in said


def test_choose_tries_the_method_that_leads_the_tables():
    assert knowledge.best_pretrainer() in Choose().pretrainers


def timed_trials() -> tuple[list[Job], Trials]:
    """Trials of three candidates: a pilot, two that were tried, one that was trained to its end."""
    names = ["vicreg, fine-tuned", "vicreg, fine-tuned", "from scratch", "from scratch"]
    phases = ["pilot", "first", "first", "final"]
    scores = [None, 0.7, 0.8, None]
    trials = Trials(
        10.0,
        {"pretrain": 600, "finetune": 300, "scratch": 1300},
        Pace(0.1, 0.01, 3.0),
        [
            Trial(phase, name, [], 9.0, 8.0, score)
            for phase, name, score in zip(phases, names, scores, strict=True)
        ],
        {"dae, fine-tuned": "needs about 90 s, 20 left"},
    )
    jobs = [
        replace(
            finished("adam", "full", 300, score or 0.0, 0.75, draws={MAIN: [0.75]}), name=str(n)
        )
        for n, score in enumerate(scores)
    ]
    return jobs, trials


def test_in_given_minutes_the_pick_is_the_candidate_that_was_trained_to_its_end():
    jobs, trials = timed_trials()
    answer = Choose(budget="10min").conclude(jobs, (), trials)
    assert answer.title.endswith("in 10 minutes")
    assert answer.sentences[0].startswith("Take from scratch: validation 80.0 %, test 75.0 %")
    assert "Not tried for want of time: dae, fine-tuned (needs about 90 s, 20 left)." in (
        answer.sentences
    )
    assert [row[1] for row in answer.table[1]] == ["first", "first", "final"]
    assert (
        "600 steps of pretraining and 300 of fine-tuning, training from scratch 1300"
        in (answer.notes[0])
    )
    assert answer.command == answer.facts["run"]
    with pytest.raises(DataError, match="no candidate was trained"):
        Choose(budget="10min").conclude(jobs[:3], (), replace(trials, jobs=trials.jobs[:3]))


@pytest.mark.parametrize(
    ("others", "ending"),
    [
        ([0.70, 0.72, 0.71], r"\(\+\d+\.\d to \+\d+\.\d\)\.$"),
        ([0.86, 0.84, 0.85], r"\(-\d+\.\d to \+\d+\.\d\): within noise\.$"),
        ([0.97, 0.98, 0.97], r"which is better; the choice may not use that\.$"),
    ],
)
def test_in_given_minutes_the_pick_is_compared_with_the_runner_up(others, ending):
    jobs, trials = timed_trials()
    scores = {"from scratch": [0.84, 0.86, 0.85], "vicreg, fine-tuned": others}
    for name, draws in scores.items():
        finalist = finished("adam", "full", 300, 0.8, 0.8, draws={MAIN: draws})
        jobs.append(replace(finalist, name=str(len(trials.jobs))))
        score = 0.9 if name == "from scratch" else 0.8
        trials.jobs.append(Trial("finalists", name, [], 9.0, 0.0, score))
    answer = Choose(budget="10min").conclude(jobs, (), trials)
    (lead,) = [s for s in answer.sentences if "from the runner-up, vicreg, fine-tuned" in s]
    assert lead.startswith("On the test images, over 3 labelled splits, it is ")
    assert re.search(ending, lead), lead
    assert "minutes=20 gives every candidate twice the steps" in answer.notes[-1]


def test_in_given_minutes_a_study_names_its_candidates_and_takes_no_grid(monkeypatch):
    values, choices = compose.compose(["dataset=digits", "encoder=conv"])
    base = build.experiment(values, choices)
    images = corpus(base.dataset)
    candidates = Choose(budget="10min").candidates(images, base)
    assert Choose(budget="10min").grid() == {}
    assert Choose().candidates(images, base) == []
    assert candidates[0].name == "label propagation on pixels", "what costs seconds comes first"
    assert "strategy.rows=6000" in candidates[0].overrides
    assert next(c for c in candidates if c.gradient).pretraining == knowledge.best_pretrainer()
    assert "vicreg, fine-tuned by FixMatch" in [c.name for c in candidates]
    base = build.experiment(*compose.compose(["dataset=digits", "encoder=conv", "labels=all"]))
    everything = [c.name for c in Choose(budget="10min").candidates(images, base)]
    assert "vicreg, fine-tuned by FixMatch" not in everything, "no image is left without a label"
    assert len({c.name for c in candidates}) == len(candidates)
    monkeypatch.setattr(choose, "PUBLIC_PACKAGES", ())  # as if they were installed
    larger = SimpleNamespace(spec=SimpleNamespace(image=(3, 64, 64)))
    pixels, *others = Choose(budget="10min").candidates(larger, base)
    assert "strategy.rows=1104" in pixels.overrides, "seconds, whatever the images' size"
    public = [c for c in others if "public" in c.name]
    assert [c.pretrain_steps for c in public] == [None, choose.CONTINUED_STEPS]
    for candidate in [*candidates, *public]:
        compose.compose(["dataset=digits", *candidate.overrides])


@pytest.mark.slow
def test_a_study_in_given_minutes_ends_with_a_command_that_gives_its_numbers(tmp_path):
    pictures(tmp_path / "photos")
    given = ["study=choose", "minutes=4", "dataset=image_folder", "dataset.root=photos"]
    said = started(*given, "labels=4", "tracker=none")
    (folder,) = Path("outputs/multirun").iterdir()
    about = json.loads((folder / "study.json").read_text())
    assert about["best"] in said
    (line,) = [line for line in said.splitlines() if line.startswith("Run it: ")]
    started(*shlex.split(line.removeprefix("Run it: "))[3:], "store=fresh", "report=false")
    result = json.loads(Path("outputs/latest/results.json").read_text())
    assert result["test"]["accuracy"] == about["test"]
    # the same command takes nothing anew
    began = time.monotonic()
    assert about["best"] in started(*given, "labels=4", "tracker=none")
    assert time.monotonic() - began < 60


def test_keys_that_the_minutes_decide_are_refused():
    said = started("study=choose", "minutes=4", "finetune.steps=50", "tracker=none", code=2)
    assert "finetune.steps=50: is what the study ranges over; give it study.budget" in said


@pytest.mark.parametrize(
    "name", ["attribution", "choose", "label_efficiency", "pretrainers", "public_to_own"]
)
def test_the_keys_that_all_studies_have_can_be_set(name):
    given = [f"study={name}", "study.budget=2min", "study.archive=none"]
    with hydra_state.alone():
        register.register()
        with hydra_state.initialized():
            cfg = hydra.compose("config", given, return_hydra_config=True)
        assert (cfg.study.budget, cfg.study.archive) == ("2min", "none")
