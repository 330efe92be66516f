"""Several pretraining seeds in one run: `seeds`."""

import json

import pytest
from yaml import safe_dump

import sft_exp
from sft_exp.check import artefacts
from sft_exp.check import runs as checker
from sft_exp.config import rerun
from sft_exp.core.arms import MAIN, SCRATCH
from sft_exp.errors import ConfigError
from sft_exp.jobs import prepare
from sft_exp.runs import run_metadata
from sft_exp.store import results as result_file
from sft_exp.sweep import sweeps

SMALL = (
    "pretrainer=ae", "labels=4", "draws=3", "tracker=none", "encoder.hidden=[16]",
    "pretrain.steps=60", "finetune.steps=40", "monitors=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of the seeds 5, 6 and 7, and one of the seed 6 alone, which finds its folders there."""
    folder = tmp_path_factory.mktemp("seeds")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        sft_exp.run([*SMALL, "seed=5", "seeds=3"], "several")
        sft_exp.run([*SMALL, "seed=6", "seeds=1"], "one")
        yield folder / "several", folder / "one"


@pytest.fixture
def there(runs, monkeypatch):
    """The first of these runs, in the folder in which it was made."""
    monkeypatch.chdir(runs[0].parent)
    return runs[0]


def test_the_verdict_covers_all_seeds_and_the_tables_are_of_the_first(runs):
    several, one = (result_file.read(folder) for folder in runs)
    assert (several.verdict.seeds, several.verdict.draws) == (3, 3)
    assert several.verdict.this is None, "that sentence is of runs with one seed"
    assert (
        several.verdict.covers
        == "The interval covers other pretraining seeds and other label sets."
    )
    assert (one.verdict.seeds, one.verdict.this.seeds) == (1, 1)
    assert list(several.other_seeds) == ["6", "7"]
    gains = [
        a - b
        for of in (several.draws, *(other.draws for other in several.other_seeds.values()))
        for a, b in zip(of[MAIN], of[SCRATCH], strict=True)
    ]
    assert several.verdict.difference == pytest.approx(sum(gains) / 9)
    assert several.test["accuracy"] == pytest.approx(sum(several.draws[MAIN]) / 3)


def test_a_further_seed_is_what_a_run_of_that_seed_is(runs):
    several, one = (result_file.read(folder) for folder in runs)
    assert several.other_seeds["6"].draws == {arm: one.draws[arm] for arm in (MAIN, SCRATCH)}
    assert one.stages.pretrain.cached
    assert one.stages.finetune.cached


def test_the_page_names_the_scores_of_each_seed(runs):
    page = (runs[0] / "report.html").read_text()
    assert "accuracy with pretraining seeds 5, 6 and 7: pretrained " in page
    assert "3 label draws, 3 pretraining seeds." in page
    assert "with pretraining seeds" not in (runs[1] / "report.html").read_text()


def test_a_tracker_has_the_scores_of_other_seeds_and_no_folders(runs):
    summary = run_metadata.summary(result_file.read(runs[0]), "")
    assert len(summary["other_seeds/6/draws/pretrained"]) == 3
    assert not [key for key in summary if "folders" in key]


def test_the_checker_computes_the_verdict_of_all_seeds_again(there):
    grades = {grade.point: grade for grade in checker.grade(artefacts.read(there))}
    assert [p for p, g in grades.items() if g.passed is False and p not in ("4.5", "5.2")] == []
    assert all(grades[point].passed for point in ("4.1", "6.2", "6.3", "7.1", "7.2", "8.1"))


@pytest.mark.parametrize(
    ("change", "point"),
    [
        (lambda r: r["other_seeds"]["7"]["draws"].update(pretrained=[0.99] * 3), "6.2"),
        (lambda r: r["other_seeds"].pop("7"), "6.3"),
        (lambda r: r["folders"]["other_seeds"].update({"9": r["folders"]["arms"]}), "8.1"),
        (lambda r: r["folders"]["other_seeds"]["6"]["scratch"].pop(), "6.3"),
        (lambda r: r["folders"]["other_seeds"]["6"]["scratch"].pop(), "7.1"),
        (lambda r: r["folders"]["other_seeds"].pop("7"), "7.1"),
    ],
)
def test_the_checker_finds_other_seeds_that_were_changed(there, change, point):
    run = artefacts.read(there)
    result = json.loads(json.dumps(run.result))
    change(result)
    copy = there.parent / "changed"
    copy.mkdir(exist_ok=True)
    (copy / "results.json").write_text(json.dumps(result))
    grades = {grade.point: grade for grade in checker.grade(artefacts.read(copy))}
    assert grades[point].passed is False


def seeds(experiment, *words):
    return prepare.prepare(experiment("tracker=none", "draws=2", "labels=2", *words))


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (("pretrain.steps=60",), 3),
        (("pretrain.steps=60", "seeds=1"), 1),
        (("pretrain.steps=60", "seeds=2"), 2),
        (("pretrain.steps=20000",), 1),
        (("pretrain.steps=20000", "seeds=2"), 2),
        (("pretrain.steps=60", "draws=1"), 1),
        (("pretrain.steps=60", "controls=false"), 1),
        (("pretrain.steps=60", "pretrainer=none"), 1),
        (("pretrainer=pca", "encoder=projection"), 1),
        (("pretrain.steps=60", "debug=tiny"), 1),
    ],
)
def test_auto_repeats_short_pretrainings_that_a_verdict_judges(experiment, words, number):
    job = seeds(experiment, *words)
    assert job.experiment.seeds == number
    assert list(job.other_seeds) == list(range(1, number))
    starts = {r["start"] for r in job.requests["finetune"] if r["start"] and r["optim"]}
    assert len(starts) == (0 if words[-1] == "pretrainer=none" else number) or "pca" in words[0]


def test_the_default_run_has_three_seeds_and_a_sweeps_job_one(experiment):
    from sft_exp.config.compose import composed

    config, choices = composed([])
    assert prepare.prepare(experiment("tracker=none")).experiment.seeds == 3
    assert config["seeds"] == "auto"
    assert sweeps.as_job(config, choices)["config"]["seeds"] == 1
    assert sweeps.as_job({**config, "seeds": 2}, choices)["config"]["seeds"] == 2


@pytest.mark.parametrize("words", [("controls=false",), ("pretrainer=none",)])
def test_several_seeds_without_the_arms_of_a_verdict_are_refused(experiment, words):
    with pytest.raises(ConfigError, match=r"seeds=2.*-m seed=0,1,2"):
        seeds(experiment, *words, "seeds=2")


@pytest.mark.parametrize("wrong", ["0", "-1", "some", "true", "1.5"])
def test_a_number_of_seeds_is_auto_or_above_0(experiment, wrong):
    with pytest.raises(ConfigError, match=r"seeds.*auto, or above 0"):
        experiment(f"seeds={wrong}")


def test_a_run_that_was_saved_without_the_key_is_repeated_with_one_seed(tmp_path):
    from sft_exp.config.compose import composed

    saved = tmp_path / ".hydra"
    saved.mkdir()
    config, _ = composed(list(SMALL))
    of = {"config": config, "overrides": list(SMALL), "hydra": {}}
    for name, content in of.items():
        (saved / f"{name}.yaml").write_text(safe_dump(content))
    assert "seeds=1" not in rerun.again(rerun.named(["rerun", str(tmp_path)]))
    del config["seeds"]
    (saved / "config.yaml").write_text(safe_dump(config))
    assert rerun.again(rerun.named(["rerun", str(tmp_path)])) == [*SMALL, "seeds=1"]
