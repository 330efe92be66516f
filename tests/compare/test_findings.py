"""What a sweep found: contenders, effects and gains, against numbers worked out here."""

import json
import re
from itertools import product

import numpy as np
import pytest
from test_compare import planned, results, sweep

from sft_exp.compare import findings
from sft_exp.compare.comparison import Comparison, collect
from sft_exp.compare.output import print_comparison
from sft_exp.core.arms import MAIN, SCRATCH
from sft_exp.verdict import Comparison as Pair
from sft_exp.verdict import frozen, interval, judge, selection

DIVERGED = "diverged (loss 2.3 -> 1e+07)"
SPLITS = 6


def scores(mean, noise, rng):
    """A score of each labelled split, paired: all share the noise of the split."""
    return [float(x) for x in np.clip(mean + noise + rng.normal(0, 0.003, SPLITS), 0, 1)]


@pytest.fixture
def made(tmp_path):
    """(settings, validation by split, test by split, faults) -> the sections of the sweep by title."""

    def make(entries, **more):
        jobs = [planned(**settings) for settings, *_ in entries]
        folder = sweep(tmp_path / "s", jobs, {})
        for n, (_, val, test, *faults) in enumerate(entries):
            record = results(jobs[n], val=float(np.mean(val)), test=float(np.mean(test)))
            record |= {"val_draws": list(val), "draws": {MAIN: list(test)}}
            record["faults"] = {MAIN: faults[0]} if faults else {}
            record |= more
            (folder / str(n)).mkdir(exist_ok=True)
            (folder / str(n) / "results.json").write_text(json.dumps(record))
            (folder / str(n) / "status.json").write_text('{"state": "done", "exit_code": 0}')
        comparison = Comparison(collect([folder]))
        return {s.title: s for s in findings.sections(comparison)}, comparison

    return make


def rows_of(section):
    head, body = section.table
    return [dict(zip(head, row, strict=True)) for row in body]


@pytest.fixture
def grid():
    """3 optimizers x 3 rates: two settings are close to the best, the others far below."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.02, SPLITS)
    entries = []
    for optim, lr in product(("sgd", "adam"), (0.01, 0.03, 0.1)):
        mean = 0.8 + 0.1 * (optim == "adam") - 0.05 * (lr == 0.1) - 0.001 * (lr == 0.03)
        val = scores(mean, noise, rng)
        entries.append(({"optim": optim, "lr": lr}, val, scores(mean - 0.05, noise, rng)))
    return entries


def test_settings_within_noise_of_the_best_are_those_of_the_verdicts_choice(made, grid):
    sections, comparison = made(grid)
    best = sections["Best by validation"]
    assert findings.summary(comparison).endswith("1 of the 5 others is within noise of it.")
    picked = selection.pick([[val] for _, val, _ in grid])
    assert len(picked.contenders) == 2
    assert best.sentences[0].startswith("2 of 6 settings are within noise of the best")
    assert "1 seed and 6 labelled splits" in best.sentences[0]
    rows = rows_of(best)
    assert [row[""] for row in rows] == ["the best", "within noise", *["worse"] * 4]
    leader = grid[picked.best][1]
    for row in rows[1:]:
        (val,) = [
            val
            for s, val, _ in grid
            if (s["optim"], f"{s['lr']:g}") == (row["optim"], row["optim.lr"])
        ]
        mean, low, high = interval([np.subtract(leader, val)], alpha=2 * 0.05 / 5)
        assert row["behind"] == f"{100 * mean:.1f}"
        assert row["interval"] == f"{100 * low:+.1f} to {100 * high:+.1f}"
        assert (low > 0) == (row[""] == "worse")


@pytest.mark.parametrize(
    ("some", "others", "said"),
    [
        (0, 26, "None of the 26 others is within"),
        (3, 26, "3 of the 26 others are within"),
        (26, 26, "All 26 others are within"),
        (1, 1, "The other one is within"),
        (0, 1, "The other one is not within"),
    ],
)
def test_how_many_are_within_noise_in_words(some, others, said):
    assert findings.within_noise(some, others).startswith(said)


def test_settings_that_were_not_compared_are_none_of_the_others():
    said = findings.within_noise(24, 24, uncompared=2)
    assert said == "All 24 others that could be compared are within noise of it."
    said = findings.within_noise(0, 1, uncompared=1)
    assert said == "The other one that could be compared is not within noise of it."


def test_differences_of_shares_end_at_100_points():
    """An interval over two numbers may be wider than what is possible."""
    assert findings.between(-2.26, 2.105, proportion=True) == "-100.0 to +100.0"
    assert findings.between(-2.26, 0.5, proportion=False) == "-226.0 to +50.0"


def test_the_optimism_of_a_choice_is_named(made):
    rng = np.random.default_rng(1)
    entries = [
        ({"lr": lr}, list(rng.uniform(0.6, 0.9, SPLITS)), [0.7] * SPLITS)
        for lr in (0.001, 0.003, 0.01, 0.03, 0.1)
    ]
    (sentence,) = [s for s in made(entries)[0]["Best by validation"].sentences if "too high" in s]
    said = float(re.search(r"by about ([\d.]+) points", sentence)[1])
    picked = selection.pick([[val] for _, val, _ in entries])
    assert said == pytest.approx(100 * picked.optimism, abs=0.05)
    assert said > 0.5


def test_effects_are_means_of_paired_differences(made, grid):
    effects = rows_of(made(grid)[0]["Effect of each key"])
    by_key = {(row["key"], row["value"]): row for row in effects}
    assert by_key.keys() == {("optim", "sgd"), ("optim.lr", "0.03"), ("optim.lr", "0.1")}
    val = {(s["optim"], s["lr"]): np.array(v) for s, v, _ in grid}
    difference = np.mean([val["sgd", lr] - val["adam", lr] for lr in (0.01, 0.03, 0.1)], 0)
    mean, low, high = interval([difference], alpha=0.05 / 3)
    row = by_key["optim", "sgd"]
    assert (row["against"], row["pairs"]) == ("adam", "3")
    assert row["difference"] == f"{100 * mean:+.1f}"
    assert row["interval"] == f"{100 * low:+.1f} to {100 * high:+.1f}"


def test_a_diverged_setting_is_named_and_not_compared(made, grid):
    """Even if its validation score is the highest."""
    settings, _, test = grid[5]
    worst = (settings, [0.99] * SPLITS, test, [DIVERGED, *[""] * (SPLITS - 1)])
    sections, comparison = made([*grid[:5], worst])
    assert (
        "Diverged and not compared: 1 setting (jobs 5)." in sections["Best by validation"].sentences
    )
    assert "of 5 settings" in " ".join(sections["Best by validation"].sentences)
    assert all(
        row["optim.lr"] != "0.1" or row["optim"] != "adam"
        for row in rows_of(sections["Best by validation"])
    )
    assert "99" not in comparison.verdict()
    pairs = {(r["key"], r["value"]): r["pairs"] for r in rows_of(sections["Effect of each key"])}
    assert pairs["optim", "sgd"] == "2"


@pytest.fixture
def pretrainers():
    """Scratch is best at lr 0.01 and diverges at 0.1, where the autoencoder is best."""
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 0.01, SPLITS)
    means = {("none", 0.01): 0.75, ("none", 0.1): 0.2, ("ae", 0.01): 0.7, ("ae", 0.1): 0.78}
    entries = []
    for (pretrainer, lr), mean in means.items():
        test = scores(mean, noise, rng)
        faults = [[DIVERGED] * SPLITS] if (pretrainer, lr) == ("none", 0.1) else []
        settings = {"pretrainer": pretrainer, "lr": lr, "optim": "sgd"}
        entries.append((settings, scores(mean, noise, rng), test, *faults))
    return entries


def test_gains_are_against_scratch_at_its_own_best_setting(made, pretrainers):
    section = made(pretrainers)[0]["Gain over scratch at its own best setting"]
    (row,) = rows_of(section)
    test = {(s["pretrainer"], s["lr"]): np.array(t) for s, _, t, *_ in pretrainers}
    gain = float((test["ae", 0.1] - test["none", 0.01]).mean())
    assert row["pretrainer"] == "ae"
    assert row["gain"] == f"{100 * gain:+.1f}"
    assert abs(gain - 0.03) < 0.01  # and not the 58 points against the setting that breaks scratch
    assert "lr=0.01" in section.sentences[0]


def test_the_best_of_several_settings_is_not_compared_with_a_single_scratch(made, pretrainers):
    title = "Gain over scratch at its own best setting"
    single = [
        entry for entry in pretrainers if (entry[0]["pretrainer"], entry[0]["lr"]) != ("none", 0.1)
    ]
    section = made(single)[0][title]
    assert section.table is None or not rows_of(section)
    assert section.sentences == [
        "ae is not compared: it is the best of 2 settings, scratch had one. Give pretrainer=none "
        "the same settings."
    ]


def test_gains_after_unequal_searches_say_so(made, pretrainers):
    settings, *scored = next(entry for entry in pretrainers if entry[0]["pretrainer"] == "ae")
    more = [*pretrainers, ({**settings, "lr": 0.03}, *scored)]
    section = made(more)[0]["Gain over scratch at its own best setting"]
    assert "The searches were not equal: scratch had 2 settings, ae 3." in section.sentences
    assert rows_of(section)


def test_a_scratch_that_failed_everywhere_gives_no_gain(made, pretrainers):
    entries = [
        (*entry[:3], [DIVERGED] * SPLITS) if entry[0]["pretrainer"] == "none" else entry
        for entry in pretrainers
    ]
    sections, _ = made(entries)
    assert "Gain over scratch at its own best setting" not in sections or not rows_of(
        sections["Gain over scratch at its own best setting"]
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([[0.9], [0.9], [0.3]], "2 of 3 settings tie for the best by validation. Nothing is known"),
        ([[0.9], [0.8]], "Nothing is known of the noise between settings"),
    ],
)
def test_of_single_scores_only_ties_are_said(made, values, said):
    entries = [({"lr": n + 1}, val, val) for n, val in enumerate(values)]
    sections, comparison = made(entries)
    assert sections["Best by validation"].sentences[-1].startswith(said)
    assert said in findings.summary(comparison)
    assert not sections["Best by validation"].table[1]
    assert "interval" not in sections["Effect of each key"].table[0]
    assert "± val" not in comparison.table()[0]


@pytest.fixture
def seeds(tmp_path):
    """(settings, scores of the pretrained arm and of scratch by split) -> the sweep's comparison."""

    def make(entries, **more):
        jobs = [planned(**settings) for settings, *_ in entries]
        folder = sweep(tmp_path / "s", jobs, {})
        for n, (_, pretrained, scratch) in enumerate(entries):
            means = {"test": float(np.mean(pretrained)), "scratch": float(np.mean(scratch))}
            record = results(jobs[n], val=None, word="cannot tell", **means)
            record |= {"draws": {MAIN: pretrained, SCRATCH: scratch}}
            (folder / str(n)).mkdir(exist_ok=True)
            (folder / str(n) / "results.json").write_text(json.dumps(record))
            (folder / str(n) / "status.json").write_text('{"state": "done", "exit_code": 0}')
        return Comparison(collect([folder]))

    return make


def arms(rng, gain):
    """Scores of a seed's pretrained arm and of scratch."""
    noise = rng.normal(0, 0.02, SPLITS)
    return scores(0.8 + gain, noise, rng), scores(0.8, noise, rng)


def test_seeds_of_a_setting_are_judged_together(seeds):
    rng = np.random.default_rng(0)
    of = [arms(rng, 0.05) for _ in range(4)]
    comparison = seeds([({"seed": s}, *pair) for s, pair in enumerate(of)])
    (section,) = findings.sections(comparison)
    pair = {"": Pair([a for a, _ in of], [b for _, b in of])}
    result = comparison.jobs[0].outcome
    setting = findings.setting_of(result, "the same model from scratch")
    verdict = judge(pair, setting, frozen(), [result.data.name]).verdicts[""]
    assert verdict.word == "helped"
    assert section.sentences == [
        f"{verdict.text} It is judged over 4 seeds and {SPLITS} labelled splits, crossed."
    ]
    assert findings.summary(comparison).endswith(verdict.text)
    assert "verdict" not in comparison.table()[0], "the word of a single seed would mislead"


def test_settings_with_several_seeds_are_judged_together(seeds):
    rng = np.random.default_rng(0)
    entries = [
        ({"seed": s, "lr": lr}, *arms(rng, gain))
        for lr, gain in ((0.1, 0.08), (0.2, 0.0))
        for s in range(3)
    ]
    (section,) = findings.sections(seeds([*entries, ({"seed": 0, "lr": 0.3}, *arms(rng, 0.1))]))
    helped, nothing = rows_of(section)
    assert (helped["setting"], helped["seeds"]) == ("optim.lr=0.1", "3")
    assert (helped["verdict"], nothing["verdict"]) == ("helped", "cannot tell")
    assert "all verdicts hold together" in section.sentences[0]


def test_seeds_of_a_study_are_judged_by_the_study_alone(seeds):
    rng = np.random.default_rng(0)
    comparison = seeds([({"seed": s}, *arms(rng, 0.05)) for s in range(4)])
    folder = comparison.jobs[0].folder.parent
    (folder / "common.json").write_text('["draws=6", "study=label_efficiency"]')
    comparison = Comparison(collect([folder]))
    assert findings.sections(comparison) == []
    assert "verdict" not in comparison.table()[0]


def test_a_failed_scratch_gives_seeds_no_verdict(seeds):
    rng = np.random.default_rng(0)
    comparison = seeds([({"seed": s}, *arms(rng, 0.3)) for s in range(3)])
    for job in comparison.jobs:
        job.outcome.faults[SCRATCH] = [DIVERGED] * SPLITS
    (section,) = findings.sections(comparison)
    assert "helped" not in section.sentences[0]
    assert "diverged" in section.sentences[0]


def test_problems_are_not_compared_with_each_other(made, grid):
    """Ten labels a class are no better setting than two."""
    entries = [({**s, "labels": labels}, v, t) for labels in (2, 10) for s, v, t in grid[:3]]
    titles = made(entries)[0].keys()
    assert {t for t in titles if t.startswith("Best")} == {
        "Best by validation (labels=2)",
        "Best by validation (labels=10)",
    }


def test_the_terminal_shows_what_was_found(made, grid, capsys):
    _, comparison = made(grid)
    print_comparison(comparison)
    out = capsys.readouterr().out
    assert "2 of 6 settings are within noise of the best" in out
    assert "Effect of each key" in out


@pytest.mark.parametrize(
    ("baseline", "said"),
    [(0.99, "No setting is"), (0.0, "6 of 6 settings are"), (0.845, "2 of 6 settings are")],
)
def test_the_best_baseline_without_a_network_is_named(made, grid, baseline, said):
    controls = {"pca_svm": {"accuracy": baseline}, "random_frozen": {"accuracy": 1.0}}
    section = made(grid, controls=controls)[0]["Baselines without a network"]
    assert section.sentences == [
        f"The best baseline is pca_svm, {100 * baseline:.1f} %. {said} above it on the test images."
    ]
    assert "Baselines without a network" not in made(grid, controls={})[0]


def test_an_end_of_an_interval_beside_zero_keeps_its_sign():
    assert findings.between(0.0003, 0.016, True) == "+0.03 to +1.60"
    assert findings.between(-0.004, 0.016, True) == "-0.4 to +1.6"
