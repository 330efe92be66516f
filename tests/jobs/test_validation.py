"""The meaning of `val=auto`, and how its runs report it."""

import pytest

from sft_exp.jobs import prepare
from sft_exp.reports import report
from sft_exp.sweep import sweeps


@pytest.mark.parametrize(
    ("labels", "val"),
    [
        ("labels=10", "none"),
        ("labels=49", "none"),
        ("labels=50", "cv"),
        ("labels_total=400", "none"),
        ("labels_total=600", "cv"),
        ("labels=10%", "none"),
        ("labels=60%", "cv"),
        ("labels=all", "cv"),
    ],
)
def test_a_single_run_validates_from_fifty_labels_a_class(experiment, labels, val):
    job = prepare.prepare(experiment(labels, "pretrainer=none", "draws=2", "controls=false"))
    assert job.experiment.val == val
    assert len(job.requests["validate"]) == (10 if val == "cv" else 0)  # five folds of each split


@pytest.mark.parametrize("val", ["cv", "holdout", "none"])
def test_a_stated_validation_is_kept(experiment, val):
    for labels in ("labels=10", "labels=60"):
        e = experiment(labels, f"val={val}", "pretrainer=none", "draws=1", "controls=false")
        assert prepare.prepare(e).experiment.val == val


def test_sweeps_cross_validate_unless_a_job_says_otherwise(compose):
    for overrides, val in (((), "cv"), (("val=none",), "none"), (("dataset=coco",), "none")):
        cfg = compose(*overrides, "dataset.root=." if "dataset=coco" in overrides else "seed=0")
        assert sweeps.job_of(cfg)["config"]["val"] == val


def test_the_plan_of_few_labels_has_no_validation(experiment, capsys):
    few, many = (
        prepare.prepare(experiment(f"labels={n}", "pretrainer=none", "draws=1")) for n in (10, 50)
    )
    report.plan([few])
    assert "validate" not in capsys.readouterr().out
    report.plan([many])
    assert "validate" in capsys.readouterr().out
