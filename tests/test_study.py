"""A study lays out its own sweep, and its sentences follow from what the sweep's jobs left."""

import json
import shlex
import shutil
import subprocess
from functools import cache
from math import inf
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_sweeps import command, environment

from sft_exp.compare.comparison import Job
from sft_exp.config import build, compose
from sft_exp.errors import ConfigError
from sft_exp.studies.attribution import Attribution, changed
from sft_exp.studies.choose import Choose, distance
from sft_exp.studies.label_efficiency import LabelEfficiency, times
from sft_exp.sweep.job_list import listed
from sft_exp.verdict.worth import Worth

TINY = [
    "pretrain.steps=2",
    "finetune.steps=2",
    "draws=2",
    "tracker=none",
    "controls=[scratch,raw_pixels]",
]


def started(*overrides: str, code: int = 0) -> str:
    done = subprocess.run(command(*overrides), env=environment(), capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


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
def test_what_a_study_cannot_be_is_refused_before_anything_is_written(given, words):
    said = started(*given, code=2)
    assert not [w for w in words if w not in said], said
    assert not list(Path().iterdir())


def job(pretrainer, labels, seed, pretrained, scratch, floor=0.1):
    draws = {"pretrained": pretrained, "scratch": scratch, "raw_svm": [floor] * len(scratch)}
    data = {"labelled": 10 * labels, "classes": 10, "ratio": 0.0}
    settings = {"pretrainer": pretrainer, "labels": labels, "seed": seed, "dataset": "digits"}
    return Job(
        "0", Path(), settings, {"state": "done"}, {"draws": draws, "data": data, "stages": {}}
    )


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
        "Failed to learn (does not beat its best floor): vae, 1 label a class."
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
    result = {"draws": {"pretrained": accuracies, **floors}, "config": {"name": name}, "stages": {}}
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


def finished(optim, strategy, steps, val, test):
    keys = {
        "pretrainer": "vae",
        "strategy": strategy,
        "optim": optim,
        "optim.lr": 0.1,
        "finetune.steps": steps,
    }
    config, choices = composed(f"optim={optim}", f"strategy={strategy}", f"finetune.steps={steps}")
    result = {
        "val": {"accuracy": val},
        "test": {"accuracy": test},
        "config": config,
        "choices": choices,
        "stages": {},
    }
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


def test_fields_that_cannot_be(compose):
    node = {"_target_": "sft_exp.studies.label_efficiency.LabelEfficiency", "labels": []}
    with pytest.raises(ConfigError, match=r"study.labels=\[\]"):
        build.part(node, "study", "sft_exp.sweep.study.Study")
