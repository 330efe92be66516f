"""study=pretrainers: its comparisons and their order."""

import pytest
from result_stubs import stub
from test_study import TINY, started

from sft_exp.compare.comparison import Job
from sft_exp.errors import ConfigError
from sft_exp.studies.pretrainers import Pretrainers

WOBBLE = [[0.001, -0.002, 0.0], [0.002, 0.0, -0.001], [-0.001, 0.001, 0.002]]


def jobs(tmp_path, gains, seeds=3, labels=(10, "all")):
    """Of every pretrainer, label count and strategy; pretraining seed n took 10 + n seconds."""
    return [
        Job(
            "0",
            tmp_path,
            {
                "pretrainer": name,
                "labels": n,
                "strategy": strategy,
                "seed": seed,
                "dataset": "mnist",
            },
            {"state": "done"},
            stub(
                data={"name": "mnist", "test": 10_000},
                draws={
                    "pretrained": [
                        0.7 + gain * (0.99 + 0.01 * seed) + w  # gains that are equal tell nothing
                        for w in (WOBBLE[seed] if n == 10 else WOBBLE[seed][:1])
                    ]
                },
                stages={"pretrain": {"folder": f"{name}-{seed}", "seconds": 10.0 + seed}}
                if gain
                else {},
            ),
        )
        for seed in range(seeds)
        for name, gain in gains.items()
        for n in labels
        for strategy in ("linear", "knn", "full")
    ]


def concluded(found, names, **fields):
    return Pretrainers(pretrainers=list(names), **fields).conclude(found)


def test_a_pretrainer_is_compared_with_none_on_the_same_seed_and_draw(tmp_path):
    found = concluded(
        jobs(tmp_path, {"none": 0.0, "ae": -0.1, "vicreg": 0.2}), ["none", "ae", "vicreg"]
    )
    head, rows = found.table
    assert [row[0] for row in rows] == ["vicreg", "none", "ae"]  # best first, by the first use
    of = dict(zip(head, rows[0], strict=True))
    assert (of["10: linear"], of["all: knn"], of["seconds"]) == ("90.0", "90.1", "11")
    # the wobble is both's, the spread the archive's
    assert of["gain, 10: full"] == "+20.0 (+19.4 to +20.6)"
    assert rows[1][7:] == ["", "", "", "", "3", ""]  # nothing that the control is compared with
    assert "linear, 10 labels a class: vicreg is best, 90.0 % (none: 70.0 %)." in found.sentences
    assert "full, all labels, against none: helped: vicreg; hurt: ae." in found.sentences
    # two pretrainers at two label counts
    assert any("The 4 intervals hold together" in note for note in found.notes)
    assert found.pictures[0].png.startswith(b"\x89PNG")


def test_a_pretrainer_that_is_not_done_everywhere_has_no_row(tmp_path):
    done = [
        j
        for j in jobs(tmp_path, {"none": 0.0, "ae": 0.1})
        if (j.settings["pretrainer"], j.settings["labels"]) != ("ae", 10)
    ]
    assert [row[0] for row in concluded(done, ["none", "ae"]).table[1]] == ["none"]


def test_seeds_that_are_not_done_yet_are_left_out_of_their_pretrainer_alone(tmp_path):
    gains = {"none": 0.0, "ae": 0.1, "vae": 0.1, "dae": 0.1}
    gone = {("ae", 2), ("dae", 1), ("dae", 2)}
    done = [
        j
        for j in jobs(tmp_path, gains, 3)
        if (j.settings["pretrainer"], j.settings["seed"]) not in gone
    ]
    found = concluded(done, gains)
    assert {name: of["seeds"] for name, of in found.facts["pretrainers"].items()} == {
        "none": 3,
        "ae": 2,
        "vae": 3,
    }  # dae has one
    assert any(note.startswith("2 to 3 seeds of pretraining") for note in found.notes)


def test_only_seeds_that_the_control_has_are_compared(tmp_path):
    done = [
        j
        for j in jobs(tmp_path, {"none": 0.0, "ae": 0.1})
        if (j.settings["pretrainer"], j.settings["seed"]) != ("none", 2)
    ]
    scores = concluded(done, ["none", "ae"]).facts["pretrainers"]["ae"]["scores"]
    assert {len(of) for of in scores.values()} == {2}


def test_every_value_brings_what_it_alone_needs():
    study = Pretrainers(
        pretrainers=["none", "pca"],
        seeds=2,
        recipes={"pca": ["encoder=projection"], "all": ["draws=1"]},
    )
    laid = study.jobs(None, None)
    assert len(laid) == 2 * 2 * 2 * 3
    assert laid[-1] == [
        "seed=1",
        "pretrainer=pca",
        "encoder=projection",
        "labels=all",
        "draws=1",
        "strategy=full",
    ]
    assert laid[0] == ["seed=0", "pretrainer=none", "labels=10", "strategy=linear"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pretrainers": ["ae"]}, "none"),
        ({"verdicts": ["lora"]}, "linear, knn, full"),
        ({"seeds": 1}, "2 or more"),
    ],
)
def test_what_it_cannot_be_is_refused(fields, words):
    with pytest.raises(ConfigError, match=words):
        Pretrainers(**fields)


@pytest.mark.slow
def test_one_command_makes_the_table():
    asked = [
        "study=pretrainers",
        "study.pretrainers=[none,pca,ae]",
        "study.labels=[5]",
        "study.strategies=[linear,full]",
    ]
    said = started(
        *asked, "study.seeds=2", "report=false", *(t for t in TINY if not t.startswith("controls"))
    )
    assert "12 of 12 jobs done" in said
    assert "full, 5 labels a class, against none: " in said
