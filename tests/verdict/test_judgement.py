"""The verdict's rule: intervals and tests against scipy and by hand, coverage by simulation."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import combinations, pairwise
from math import exp, log, sqrt
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks import verdict as benchmark
from sft_exp import verdict
from sft_exp.errors import ConfigError, DataError
from sft_exp.verdict import Comparison, Setting, Verdict, judge, primary_weights
from sft_exp.verdict import archive as archives
from sft_exp.verdict.collapse import trained
from sft_exp.verdict.design import grand_mean, half_width, mean_squares, p_value, weighted_holm
from sft_exp.verdict.evidence import Evidence, Moments, forecast, study_scale, weigh
from sft_exp.verdict.rule import prepare
from sft_exp.verdict.selection import pick
from sft_exp.verdict.sequential import (
    ALPHAS,
    LOOKS,
    Look,
    alpha_of,
    holm_after,
    look,
    next_design,
    spent,
)
from sft_exp.verdict.worth import worth

ROOT = Path(__file__).parents[2]
A = [0.81, 0.79, 0.84, 0.80, 0.83]
B = [0.78, 0.78, 0.79, 0.79, 0.77]
PRIOR = archives.frozen().prior
each = pytest.mark.parametrize


def one(pretrained, scratch, archive=None, setting=None, **more):
    """The verdict on a single comparison."""
    return judge(
        {"a": Comparison(pretrained, scratch, **more)}, setting or Setting(), archive
    ).verdicts["a"]


def scores(seed, seeds, draws, gain=0.0, sd=0.005, base=0.9):
    """Two arms around `base` whose gains vary by `sd` over seeds, draws and rest alike."""
    rng = np.random.default_rng(seed)
    scratch = base + 0.01 * rng.normal(size=(seeds, draws))
    parts = [rng.normal(size=shape) for shape in ((seeds, 1), (1, draws), (seeds, draws))]
    return scratch + gain + sd * sum(parts), scratch


# Intervals and tests


def test_one_seed_without_an_archive_is_the_paired_t_test_of_scipy():
    this = one([A], [B]).this
    theirs = stats.ttest_rel(A, B)
    interval = theirs.confidence_interval(0.95)
    assert (this.low, this.high) == pytest.approx((interval.low, interval.high))
    assert this.p == pytest.approx(theirs.pvalue, rel=1e-6)
    assert (this.word, this.level) == ("helped", pytest.approx(0.95))


@each("values", [[A], A, [[a] for a in A]], ids=["draws", "flat", "seeds"])
def test_the_interval_of_a_mean_is_students(values):
    theirs = stats.ttest_1samp(A, 0).confidence_interval(0.9)
    assert verdict.interval(values, alpha=0.1) == pytest.approx(
        (np.mean(A), theirs.low, theirs.high)
    )
    assert verdict.interval([[0.5]]) == (0.5, -np.inf, np.inf)
    crossed = np.add.outer(A, B)
    assert verdict.interval(crossed)[1] == pytest.approx(
        one(crossed, np.zeros((5, 5)), setting=Setting(proportion=False)).low
    )


def test_all_labels_leave_the_seeds_alone():
    verdict = one([[a] for a in A], [[b] for b in B], all_labels=True)
    interval = stats.ttest_rel(A, B).confidence_interval(0.95)
    assert (verdict.low, verdict.high) == pytest.approx((interval.low, interval.high))
    assert "one set of all labels" in verdict.covers


@each("archive", [None, archives.frozen()], ids=["alone", "archive"])
def test_one_seed_with_all_labels_is_judged_by_its_fine_tunings(archive):
    """Its draws are no label sets; without them the interval would have no width."""
    verdict = one([A], [B], archive, Setting(tested=1000), all_labels=True)
    of_draws = one([A], [B], archive, Setting(tested=1000))
    assert (verdict.this.low, verdict.this.high) == (of_draws.this.low, of_draws.this.high)
    assert verdict.low == of_draws.low < verdict.this.low
    assert verdict.text.endswith(" points for other fine-tuning runs with all labels.")


@each("archive", [None, archives.frozen()], ids=["alone", "archive"])
@each("all_labels", [False, True], ids=["draws", "all"])
@each("shape", [(1, 1), (1, 4), (3, 1), (3, 4)], ids=str)
def test_no_interval_has_width_zero(shape, all_labels, archive):
    """Gains may all be equal, by chance or because nothing was drawn; that is no certainty."""
    for pretrained, scratch in ((0.9, 0.8), (0.9, 0.9)):
        arms = np.full(shape, pretrained), np.full(shape, scratch)
        verdict = one(*arms, archive, Setting(tested=1000), all_labels=all_labels)
        assert verdict.word == "cannot tell"
        for v in filter(None, (verdict, verdict.this)):
            assert v.low < v.high
            assert v.alone[0] < v.alone[1]
            assert ("% interval" in v.text) == np.isfinite(v.low)


def test_folds_widen_the_interval_as_nadeau_and_bengio_ask():
    """Equation 5: s^2 (1/n + n_test/n_train), here 1/5 + 1/4 instead of 1/5."""
    gains = np.subtract(A, B)
    this = one([A], [B], setting=Setting(ratio=0.25)).this
    half = stats.t.ppf(0.975, 4) * sqrt(gains.var(ddof=1) * (1 / 5 + 1 / 4))
    assert (this.low, this.high) == pytest.approx((gains.mean() - half, gains.mean() + half))
    assert "other folds" in this.covers


def test_a_crossed_design_by_hand():
    """2 x 3: mean squares 1.5 of seeds (1 degree), 0.5 of draws (2 degrees), 0 of the rest."""
    gains = [[1.0, 2.0, 1.5], [0.0, 1.0, 0.5]]
    squares, degrees = mean_squares(gains)
    assert squares == pytest.approx([1.5, 0.5, 0.0])
    assert degrees.tolist() == [1, 2, 2]
    t = stats.t.ppf(0.975, [1, 2])
    assert half_width(squares / 6, degrees, 0.05) == pytest.approx(
        sqrt((t[0] ** 2 * 1.5 + t[1] ** 2 * 0.5) / 6)
    )


def test_the_rest_is_subtracted_with_the_smallest_quantile():
    t = stats.t.ppf(0.975, [2, 3, 6])
    assert half_width([2.0, 3.0, 1.0], [2, 3, 6], 0.05) == pytest.approx(
        sqrt(t[0] ** 2 * 2 + t[1] ** 2 * 3 - t[2] ** 2)
    )
    assert half_width([2.0, 0.1, 9.0], [2, 3, 6], 0.05) == pytest.approx(t[0] * sqrt(2)), (
        "never less than one factor alone"
    )


@each("shape", [(2, 3), (3, 3), (3, 10), (5, 6), (1, 10), (4, 1)], ids=str)
def test_p_values_invert_the_intervals(shape):
    gains = np.random.default_rng(1).normal(0.4, 1, (300, *shape))
    squares, degrees = mean_squares(gains)
    variances, mean = squares / np.prod(shape), grand_mean(gains)
    p = p_value(mean, variances, degrees)
    assert half_width(variances, degrees, p) == pytest.approx(np.abs(mean), rel=1e-6)
    for alpha in (0.001, 0.05, 0.3):
        assert ((p <= alpha) == (np.abs(mean) >= half_width(variances, degrees, alpha))).all()
        resolved = p_value(mean, variances, degrees, largest=alpha)
        assert np.allclose(resolved, np.where(p <= alpha, p, 1.0), rtol=1e-6)


def test_a_wider_level_is_never_narrower_and_a_shift_changes_nothing():
    gains = np.random.default_rng(2).normal(size=(200, 3, 4))
    squares, degrees = mean_squares(gains)
    halves = [half_width(squares, degrees, a) for a in (0.2, 0.05, 0.01, 0.001)]
    assert all((a < b).all() for a, b in pairwise(halves))
    assert np.allclose(mean_squares(gains + 7)[0], squares)
    assert np.allclose(mean_squares(gains[:, ::-1, ::-1])[0], squares)


def test_seeds_that_do_not_count_are_as_if_they_were_not_there():
    gains = np.random.default_rng(3).normal(size=(4, 5))
    kept = np.array([True, False, True, True])
    for with_mask, without in zip(
        mean_squares(gains, kept), mean_squares(gains[kept]), strict=True
    ):
        assert with_mask == pytest.approx(without)
    assert grand_mean(gains, kept) == pytest.approx(gains[kept].mean())


def test_equivalence_is_scipys_two_one_sided_tests():
    gains = np.array([[0.001, 0.002, -0.001, 0.0005, 0.0015, 0.0]])
    evidence = weigh(Moments.of([gains]), None, other_seeds=False)
    sides = (
        stats.ttest_1samp(gains[0], -0.005, alternative="greater"),
        stats.ttest_1samp(gains[0], 0.005, alternative="less"),
    )
    assert evidence.p_equivalence(0.005)[0] == pytest.approx(max(s.pvalue for s in sides), rel=1e-6)
    interval = stats.ttest_1samp(gains[0], 0).confidence_interval(0.90)
    inside = max(abs(interval.low), abs(interval.high))
    assert evidence.p_equivalence(inside)[0] == pytest.approx(0.05, rel=1e-6), (
        "at 0.05 it is the interval of 90 %"
    )
    assert evidence.p_equivalence(abs(gains.mean()) / 2)[0] == 1.0


@each("seed", range(3))
def test_weighted_holm_is_the_closed_test_by_bonferroni(seed):
    """A hypothesis is rejected if and only if the weighted Bonferroni test rejects every set that it is in."""
    rng = np.random.default_rng(seed)
    for _ in range(100):
        m = int(rng.integers(1, 6))
        p, w = rng.random(m) ** 4 * 0.2, rng.random(m) + 0.1
        sets = [s for k in range(1, m + 1) for s in combinations(range(m), k)]
        closed = [
            all(any(p[j] <= 0.05 * w[j] / w[list(s)].sum() for j in s) for s in sets if i in s)
            for i in range(m)
        ]
        assert weighted_holm(p, w)[0].tolist() == closed


def test_holm_by_hand():
    rejected, share = weighted_holm([0.01, 0.04, 0.03], [1, 1, 1])
    assert rejected.tolist() == [True, False, False]
    assert share == pytest.approx([0.05 / 3, 0.025, 0.025])
    assert weighted_holm([0.01, 0.02, 0.03], [1, 1, 1])[0].all()
    assert weighted_holm([0.039, 0.2, 0.049], [8, 1, 1])[0].tolist() == [True, False, False]
    assert primary_weights([True, True, False]) == pytest.approx([0.4, 0.4, 0.2])
    assert primary_weights([False, False]) == [1.0, 1.0]


def test_few_seeds_keep_their_wide_quantile_however_small_their_mean_square():
    """Satterthwaite's single t would take the draws' many degrees here."""
    degrees = np.array([1.0, 30.0, 30.0])
    small = half_width([0.3, 1.0, 0.1], degrees, 0.05)
    assert small > stats.t.ppf(0.975, 1) * sqrt(0.3)


# The archive


def test_the_expected_mean_squares_by_hand():
    prior = archives.Prior(seed=0.02, draw=0.05, rest=0.04, degrees=3)
    q2 = (0.9 * 0.1) ** 2 + (0.8 * 0.2) ** 2
    rest = q2 * 0.04**2 + 0.5 * (0.9 * 0.1 + 0.8 * 0.2) / 1000
    expected = [rest + 5 * q2 * 0.02**2, rest + 3 * q2 * 0.05**2, rest]
    assert prior.expected(0.9, 0.8, 3, 5, 1000) == pytest.approx(expected)
    assert prior.expected(0.9, 0.8, 3, 5, proportion=False)[2] == pytest.approx(0.04**2)


def archived_studies() -> list[Path]:
    """The committed studies that the archive was fitted to: it is frozen before later ones are computed."""
    groups = {r.group.split()[0] for r in archives.frozen().records}
    studies = sorted((ROOT / "docs" / "results").glob("*/study.json"))
    return [s for s in studies if s.parent.name in groups]


def test_the_frozen_archive_is_what_its_studies_give():
    stored = json.loads((ROOT / "sft_exp" / "verdict" / "archive.json").read_text())
    again = json.loads(archives.freeze(stored["version"], archived_studies()))
    assert again["records"] == stored["records"]
    for mine, theirs in zip(again["fits"], stored["fits"], strict=True):
        assert mine["without"] == theirs["without"]
        assert list(mine["prior"].values()) == pytest.approx(
            list(theirs["prior"].values()), rel=0.02
        )


@each("name", ["mnist", "MNIST", "blood_cells", "cifar10_jpeg12k"])
def test_the_archive_never_holds_results_of_the_set_it_judges(name):
    archive = archives.frozen().leaving_out([name])
    assert name.lower() not in archive.datasets
    assert archive.records
    assert archive.prior != PRIOR
    assert name.lower() in archive.describe()
    assert archive.prior == archives.fit(archive.records)


def test_a_set_that_the_archive_does_not_know_leaves_it_whole():
    assert archives.frozen().leaving_out(["pathmnist"]) == archives.frozen()
    with pytest.raises(DataError, match="archive=none"):
        archives.frozen().leaving_out(archives.frozen().datasets)


def test_the_fit_finds_the_spread_that_made_the_records():
    truth, rng = archives.Prior(0.02, 0.05, 0.045, 3.0), np.random.default_rng(4)
    records = []
    for n in range(400):
        r = archives.Record("set", str(n), "vae", 4, 6, (1.0, 1.0, 1.0), 0.92, 0.9, 5000)
        squares = archives.expected(truth, r) * stats.f.rvs(r.degrees, 6.0, random_state=rng)
        records.append(replace(r, squares=tuple(squares)))
    fitted = archives.fit(records)
    assert (fitted.seed, fitted.draw, fitted.rest) == pytest.approx((0.02, 0.05, 0.045), rel=0.2)
    assert fitted.degrees == archives.MOST_DEGREES, (
        "the true 6 degrees are more than is ever borrowed"
    )


def study_of(gains, name="vae"):
    cell = {"pretrainer": name, "labels": "10", "gains": gains, "pretrained": 0.92, "scratch": 0.9}
    return {"command": "python -m sft_exp study=label_efficiency dataset=kmnist", "cells": [cell]}


def test_a_laboratory_can_use_its_own_studies(tmp_path):
    rng = np.random.default_rng(5)
    for n in range(3):
        (tmp_path / f"study{n}").mkdir()
        (tmp_path / f"study{n}" / "study.json").write_text(
            json.dumps(study_of((rng.normal(0, 20, (3, 4)).round() / 2000).tolist()))
        )
    archive = archives.from_folder(tmp_path)
    assert len(archive.records) == 3
    assert archive.datasets == ["kmnist"]
    assert {r.tested for r in archive.records} == {2000}
    verdict = one(*scores(1, 3, 4, 0.02), archive)
    assert "Without the archive of earlier studies" in verdict.notes[0]
    with pytest.raises(DataError, match="archive=none"):
        judge({"a": Comparison(*scores(1, 3, 4))}, archive=archive, without=["kmnist"])


@each("text", ["", "{", '{"command": "x"}', '{"cells": [{}], "command": ""}', "[]"])
def test_an_unreadable_study_is_named(tmp_path, text):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(DataError, match=r"study\.json: cannot be read as a finished study"):
        archives.from_folder(tmp_path)


def test_an_empty_folder_is_no_archive(tmp_path):
    with pytest.raises(DataError, match="hold 0 comparisons"):
        archives.from_folder(tmp_path)


@each(
    ("command", "name"),
    [
        ("python -m sft_exp dataset=mnist dataset.root=data/mnist", "mnist"),
        ("python -m sft_exp dataset=image_folder dataset.root=data/blood_cells", "blood_cells"),
        ("python -m sft_exp study=attribution", "digits"),
        (
            "python -m sft_exp 'study.steps=[\"a=b\"]' dataset=voc_segmentation dataset.root=data",
            "voc_segmentation",
        ),
    ],
)
def test_a_data_set_has_its_own_name_or_its_folders(command, name):
    assert archives.dataset_of({"command": command}) == name


# The rule


def test_mean_squares_are_moderated_by_smyths_formula():
    gains, prior = (
        np.random.default_rng(6).normal(0, 0.01, (3, 4)),
        archives.Prior(0.02, 0.05, 0.045, 3.0),
    )
    expected = prior.expected(0.9, 0.88, 3, 4, 1000)[None]
    moments = Moments.of([gains] * 12)
    evidence = weigh(moments, prior, np.repeat(expected, 12, 0))
    squares, degrees = mean_squares(gains)
    moderated = (3 * evidence.scale[0] * expected[0] + degrees * squares) / (3 + degrees)
    assert evidence.variances[0] == pytest.approx(moderated / 12)
    assert evidence.degrees[0] == pytest.approx(degrees + 3)
    alone = weigh(Moments.of([gains]), prior, expected)
    assert alone.degrees[0] == pytest.approx(degrees + 1.2), "a report of one sentence borrows less"
    single = weigh(Moments.of([gains[:1]]), prior, prior.expected(0.9, 0.88, 1, 4, 1000)[None])
    assert single.degrees[0].tolist() == pytest.approx([3, 3 + 1.2, 3]), (
        "but for what it has not seen"
    )


def test_the_study_scale_is_raised_freely_and_lowered_slowly():
    f = np.array([[2.0, 9.0, 18.0]])
    expected = np.ones((1, 3))
    assert study_scale(np.full((1, 3), 50.0), f, expected).tolist() == [[50.0] * 3]
    low = study_scale(np.full((1, 3), 0.01), f, expected)
    assert low[0, 0] == pytest.approx((29 * 0.01 + 8) / (29 + 8))
    high_seeds = study_scale(np.array([[50.0, 1.0, 1.0]]), f, expected)[0]
    assert high_seeds[0] == 50
    assert 1 < high_seeds[2] < 50
    unknown = study_scale(np.full((1, 3), 1e-4), f, expected, known=False)
    assert unknown.tolist() == [[1e-4] * 3]


def test_a_label_count_that_varies_much_is_not_hidden_by_the_others():
    f = np.tile([2.0, 9.0, 18.0], (3, 1))
    squares = np.array([[10.0] * 3, [1.0] * 3, [0.1] * 3])
    scale = study_scale(squares, f, np.ones((3, 3)), ["1", "10", "100"])
    assert (scale[0] >= 10).all()
    assert (scale[0] > scale[1]).all()
    assert (scale[1] > scale[2]).all()


def test_one_wild_comparison_does_not_silence_all_others():
    f = np.tile([2.0, 9.0, 18.0], (5, 1))
    squares = np.ones((5, 3))
    squares[0] = 1000.0
    assert study_scale(squares, f, np.ones((5, 3))).max() == pytest.approx((4 + 3) / 5)


def test_the_report_says_what_was_borrowed_and_what_it_is_without():
    arms = scores(7, 3, 4, 0.02)
    report = judge({"a": Comparison(*arms)}, Setting(tested=1000), archives.frozen(), ["mnist"])
    alone = judge({"a": Comparison(*arms)}, Setting(tested=1000))
    mine, theirs = report.verdicts["a"], alone.verdicts["a"]
    assert mine.alone == pytest.approx((theirs.low, theirs.high))
    bounds = f"{100 * theirs.low:+.1f} to {100 * theirs.high:+.1f}"
    assert f"Without the archive of earlier studies: {bounds}." in mine.notes
    assert not [note for note in theirs.notes if "Without" in note]
    assert "without results of mnist" in report.notes[0]
    assert "No archive" in alone.notes[0]
    assert report.scale is not None


def test_without_the_archive_one_pretraining_has_an_interval_of_its_own_and_none_for_other_seeds():
    one_seed = {"a": Comparison(*scores(7, 1, 4, 0.02))}
    verdict = judge(one_seed, Setting(tested=1000), archives.frozen(), ["mnist"]).verdicts["a"]
    note = "Without the archive of earlier studies there is no interval for other seeds."
    assert note in verdict.notes
    assert np.isfinite(verdict.this.alone).all()


def test_the_words():
    assert one(*scores(1, 3, 6, 0.05)).word == "helped"
    hurt = one(*scores(1, 3, 6, -0.05))
    assert hurt.word == "hurt"
    assert hurt.text.startswith("Pretraining hurt: -")
    assert one(*scores(1, 3, 6, 0.0, 1e-4)).word == "too small to matter"
    silent = one(*scores(2, 3, 4, 0.003, 0.02))
    assert silent.word == "cannot tell"
    assert silent.text.startswith("Cannot tell whether pretraining helped")
    assert one(*scores(1, 4, 8, 0.002, 1e-5)).word == "too small to matter", (
        "real, and still too small to matter"
    )


@each("gain", [0.0, 0.25, -0.1])
@each("archive", [None, archives.frozen()], ids=["alone", "archive"])
@each("shape", [(1, 5), (3, 4), (4, 1)], ids=str)
def test_the_same_gain_everywhere_proves_nothing(gain, archive, shape):
    scratch = np.full(shape, 0.6)
    verdict = one(scratch + gain, scratch, archive)
    assert verdict.word == "cannot tell"
    assert verdict.this is None or verdict.this.word == "cannot tell"
    assert one([[0.9, 0.92]], [[0.88, 0.90]], archive).this.word == "cannot tell", (
        "rounding does not hide it"
    )


ARCHIVES = [None, archives.frozen()]


@each("archive", ARCHIVES, ids=["alone", "archive"])
@each("count", [1, 4])
@each("shape", [(1, 1), (1, 6), (3, 1), (3, 4), (6, 4)], ids=str)
@each("failed", [{}, {"pretrained_failed": "diverged"}, {"scratch_failed": "diverged"}], ids=str)
def test_a_text_has_at_most_two_sentences(archive, count, shape, failed):
    for gain, spread in ((0.0, 0.02), (0.0, 1e-5), (0.02, 0.002), (-0.02, 0.002)):
        comparisons = {
            n: Comparison(*scores(n, *shape, gain, spread), **failed) for n in range(count)
        }
        report = judge(comparisons, Setting(tested=1000), archive)
        for v in report.verdicts.values():
            assert v.text.startswith(verdict.SAYS[v.word])
            assert v.text.count(". ") <= 1
            assert v.text.endswith(".")
            assert "pretrained diverged" in v.text or "pretrained_failed" not in failed


def test_one_seed_says_two_sentences():
    pretrained, scratch = scores(8, 1, 10, 0.02, 0.003)
    verdict = one(pretrained, scratch, archives.frozen(), Setting(tested=1000))
    assert verdict.this.word == "helped"
    assert "this one pretraining" in verdict.this.covers
    assert "other pretraining seeds, whose spread is that of earlier studies" in verdict.covers
    own = f"{100 * verdict.this.low:+.1f} to {100 * verdict.this.high:+.1f} points"
    assert verdict.text.endswith(f" This one pretraining helped: {own} for other label sets.")
    assert "other pretraining seeds, whose spread is that of earlier studies" in verdict.text
    assert verdict.low < verdict.this.low < verdict.this.high < verdict.high
    alone = one(pretrained, scratch)
    assert (alone.word, alone.this.word) == ("cannot tell", "helped")
    assert alone.low == -np.inf
    assert "says nothing about other seeds" in alone.covers
    assert "one pretraining gives no interval for other seeds" in alone.text


@each("archive", [None, archives.frozen()], ids=["alone", "archive"])
def test_one_run_of_each_arm_has_no_interval(archive):
    verdict = one([[0.9]], [[0.5]], archive)
    assert (verdict.word, verdict.low) == ("cannot tell", -np.inf)
    assert "no interval" in verdict.text


def test_a_word_and_its_printed_interval_never_contradict_each_other():
    rng, told_wider = np.random.default_rng(9), 0
    for _ in range(60):
        comparisons = {
            n: Comparison(*scores(int(rng.integers(1e9)), 3, 4, 0.012 * n)) for n in range(4)
        }
        for v in judge(comparisons, Setting(tested=2000), archives.frozen()).verdicts.values():
            if v.word in ("helped", "hurt"):
                assert v.low > 0 or v.high < 0
            told_wider += v.level < 0.9875 - 1e-9
            assert ("the level it was judged at" in v.text) == (v.level < 0.9875 - 1e-9)
    assert told_wider, "some are told by Holm's test alone"


def test_scores_in_other_units_are_judged_alike_in_any_unit():
    pretrained, scratch = scores(10, 3, 5, 0.02)
    small, large = (
        one(
            k * pretrained,
            k * scratch,
            archives.frozen(),
            Setting(score="error", proportion=False, margin=0.005 * k),
        )
        for k in (1, 1000)
    )
    assert (large.low, large.high) == pytest.approx((1000 * small.low, 1000 * small.high))
    assert large.word == small.word == "helped"
    assert f"{large.difference:+.3g} of error against the same model from scratch" in large.text
    with pytest.raises(DataError, match="between 0 and 1"):
        one(1000 * pretrained, 1000 * scratch, archives.frozen())


@each(
    ("pretrained", "scratch", "message"),
    [
        ([[0.9, float("nan")]], [[0.8, 0.8]], "not finite"),
        ([[0.9, 0.9]], [[0.8, float("inf")]], "not finite"),
        ([[0.9, 0.9]], [[0.8]], "paired by seed and draw"),
        ([[0.9, 0.9], [0.9]], [[0.8, 0.8], [0.8]], "same number of draws"),
        ([0.9, 0.9], [0.8, 0.8], "paired by seed and draw"),
        ([], [], "paired by seed and draw"),
        ([["a"]], [[0.8]], "must be numbers"),
    ],
)
def test_scores_that_cannot_be_judged_are_refused(pretrained, scratch, message):
    with pytest.raises(DataError, match=message):
        one(pretrained, scratch)


def test_nothing_to_judge_is_refused():
    with pytest.raises(DataError, match="no comparison"):
        judge({})


def test_what_would_tell_tells():
    arms = scores(11, 3, 4, 0.006)
    verdict = one(*arms, archives.frozen(), Setting(tested=2000))
    assert verdict.word == "cannot tell"
    seeds, draws = verdict.needed
    assert any(f"{seeds} seeds and {draws} draws would be enough" in n for n in verdict.notes)
    moments = Moments.of([arms[0] - arms[1]])
    expected = PRIOR.expected(arms[0].mean(), arms[1].mean(), 3, 4, 2000)[None]
    evidence = weigh(moments, PRIOR, expected)
    assert forecast(evidence, moments, seeds, draws).half(0.05)[0] < abs(verdict.difference)
    assert forecast(evidence, moments, 3, 4).half(0.05)[0] == pytest.approx(
        evidence.half(0.05)[0], rel=0.25
    )


# Collapsed seeds


@each(
    ("arm", "seeds", "fallen"),
    [(0, 3, [1]), (0, 5, [0, 3]), (1, 4, [2]), (0, 6, [5])],
)
def test_collapsed_seeds_are_found_and_named(arm, seeds, fallen):
    arms = list(scores(12, seeds, 4, 0.03, 0.002))
    arms[arm] = arms[arm].copy()
    arms[arm][fallen] = 0.1
    verdict = one(*arms, archives.frozen(), Setting(tested=1000))
    assert verdict.collapsed == tuple(fallen)
    assert f"the {seeds - len(fallen)} of {seeds} seeds that trained" in verdict.covers
    assert f"{', '.join(map(str, fallen))} collapsed)" in verdict.covers
    kept = [s for s in range(seeds) if s not in fallen]
    rest = one(arms[0][kept], arms[1][kept], archives.frozen(), Setting(tested=1000))
    assert (verdict.low, verdict.high) == pytest.approx((rest.low, rest.high))


def test_training_itself_may_say_which_seeds_trained():
    arms = scores(12, 4, 4, 0.03, 0.002)
    told = one(*arms, archives.frozen(), Setting(tested=1000), trained=[True, False, True, True])
    assert told.collapsed == (1,)
    assert "the 3 of 4 seeds that trained" in told.covers
    for wrong in ([True], [False] * 4):
        with pytest.raises(DataError, match="a value for each of 4 seeds"):
            one(*arms, trained=wrong)


def test_of_two_seeds_nobody_can_say_which_collapsed():
    arms = list(scores(13, 2, 4, 0.03, 0.002))
    arms[0][1] = 0.1
    verdict = one(*arms, archives.frozen(), Setting(tested=1000))
    assert (verdict.collapsed, verdict.word) == ((), "cannot tell")


@each("truth", ["prior right", "prior 10x low", "exponential", "cells as in archive"])
def test_seeds_that_only_vary_are_not_called_collapsed(truth):
    design = benchmark.Design(4, 6)
    reports = benchmark.simulate(
        np.random.default_rng(14), 4000, design, (1, 1), benchmark.TRUTHS[truth]
    )
    called = (~trained(reports.pretrained, PRIOR, benchmark.TESTED)).any(-1).mean()
    assert called <= 0.012, "of arms; the prior 10x low is the worst"


# Worth


def test_worth_by_hand():
    """Scratch rises by 0.1 from 10 to 100 labels; the pretrained score lies half of the way."""
    scratch = {10: [[0.8, 0.8], [0.8, 0.8]], 100: [[0.9, 0.9], [0.9, 0.9]]}
    found = worth([[0.84, 0.85], [0.85, 0.86]], scratch, 10)
    assert found.times == pytest.approx(sqrt(10))
    slope = 0.1 / log(10)
    squares, degrees = mean_squares(np.array([[-0.01, 0.0], [0.0, 0.01]]) / slope)
    half = half_width(squares / 4, degrees, 0.05)
    assert (found.low, found.high) == pytest.approx((sqrt(10) * exp(-half), sqrt(10) * exp(half)))
    assert "times the labels" in str(found)


def test_the_derivatives_of_worth_are_those_of_the_curve():
    """Moving every score of one arm moves the logarithm as the delta method says."""
    rng = np.random.default_rng(15)
    arms = [m + 0.001 * rng.normal(size=(2, 3)) for m in (0.85, 0.8, 0.9)]

    def logarithm(p, a, b):
        return log(worth(p, {10: a, 100: b}, 10).times)

    share, slope = (
        (arms[0].mean() - arms[1].mean()) / (arms[2].mean() - arms[1].mean()),
        (arms[2].mean() - arms[1].mean()) / log(10),
    )
    for n, derivative in enumerate((1 / slope, -(1 - share) / slope, -share / slope)):
        moved = [a + 1e-6 * (n == k) for k, a in enumerate(arms)]
        assert (logarithm(*moved) - logarithm(*arms)) / 1e-6 == pytest.approx(derivative, rel=1e-3)


def test_worth_beyond_the_curve_is_a_bound():
    scratch = {10: [[0.8, 0.81]], 100: [[0.9, 0.91]]}
    above, below = worth([[0.95, 0.96]], scratch, 10), worth([[0.5, 0.6]], scratch, 100)
    assert (above.beyond, above.low, above.high) == (1, 10.0, np.inf)
    assert (below.beyond, below.low, below.high) == (-1, 0.0, pytest.approx(0.1))
    assert "more than 10 times" in str(above)
    assert "less than 0.1 times" in str(below)
    flat = worth([[0.8, 0.8]], {10: [[0.8, 0.8]], 100: [[0.8, 0.8]]}, 10)
    assert (flat.low, flat.high) == (0.0, np.inf)
    with pytest.raises(DataError, match="two label counts"):
        worth([[0.8]], {10: [[0.8]]}, 10)
    with pytest.raises(DataError, match="seeds and draws"):
        worth([[0.8, 0.8]], {10: [[0.8, 0.8, 0.8]], 100: [[0.9, 0.9]]}, 10)


def test_the_worth_interval_covers_where_draws_are_shared_by_all_seeds():
    old, new = benchmark.worth_cells(150, 5, 6, 0.0)
    assert float(new.split()[0]) >= 92 > 75 > float(old.split()[0])


# Picks


def settings(seed, count, gap=0.0):
    """Scores [3][6] of settings whose true means rise by `gap` from one to the next."""
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=(count, *shape)) for shape in ((3, 1), (1, 6), (3, 6))]
    return 0.9 + gap * np.arange(count)[:, None, None] + 0.004 * sum(parts)


def test_the_settings_that_may_be_best_hold_the_one_that_is():
    held = [7 in pick(settings(n, 8, 0.001)).contenders for n in range(150)]
    assert np.mean(held) >= 0.95
    assert pick(settings(0, 3, 0.2)).contenders == (2,)
    assert pick(settings(0, 5, 0.2), PRIOR, 1000, proportion=False).contenders == (4,)


def test_a_pick_knows_that_it_was_picked():
    """Of eight settings that are all alike the best score exceeds the truth; of one that leads clearly it does not."""
    excess, estimate = [], []
    for n in range(100):
        scores_of = settings(n, 8)
        found = pick(scores_of)
        excess.append(scores_of[found.best].mean() - 0.9)
        estimate.append(found.optimism)
    assert 0.5 * np.mean(excess) < np.mean(estimate) < 1.2 * np.mean(excess)
    assert pick(settings(1, 8, 0.2)).optimism < 0.1 * np.mean(excess)


def test_one_run_of_each_setting_tells_nothing():
    assert pick([[[0.9]], [[0.1]]]).contenders == (0, 1)
    assert pick([[[0.9, 0.8]]]).contenders == (0,)
    for wrong in ([[[0.9]], [[0.9, 0.8]]], [], [[[float("nan")]], [[0.8]]], [[0.9], [0.8]]):
        with pytest.raises(DataError):
            pick(wrong)


# Looks


def evidence_at(arms, seeds, draws):
    now = {n: Comparison(p[:seeds, :draws], s[:seeds, :draws]) for n, (p, s) in enumerate(arms)}
    context = prepare(now, Setting(tested=2000), archives.frozen())
    return context.evidence(PRIOR), context.moments


def test_looks_spend_five_per_cent_and_a_word_stands():
    assert sum(ALPHAS) == pytest.approx(0.05)
    arms = [scores(16, 8, 12, 0.08, 0.002, 0.8), scores(17, 8, 12, 0.008), scores(18, 8, 12, 0.0)]
    history, keys = [], ["large", "small", "none"]
    while design := next_design(history):
        history.append(look(history, keys, *evidence_at(arms, *design), keep_going=keys))
    assert [(h.seeds, h.draws) for h in history] == list(LOOKS)
    assert spent(history) == pytest.approx(0.05)
    assert history[0].words["large"] == "helped"
    assert history[-1].words["large"] == "helped"
    assert "large" not in history[0].going
    assert not history[-1].going
    again = look(history, keys, *evidence_at(arms, 8, 12))
    assert (again.alpha, again.words) == (0.0, history[-1].words), (
        "looking again without new runs spends nothing"
    )


def test_a_rerun_with_more_seeds_counts_as_a_look_and_deleted_ones_do_not_come_back():
    first = Look(3, 4, ALPHAS[0], {"a": "cannot tell"}, frozenset({"a"}), frozenset())
    assert alpha_of([], 3, 4) == ALPHAS[0]
    assert alpha_of([first], 5, 4) == ALPHAS[1]
    assert alpha_of([first], 3, 4) == 0.0
    spent_all = [replace(first, seeds=n, alpha=a) for n, a in enumerate(ALPHAS, 2)]
    assert alpha_of(spent_all, 20, 20) == 0.0
    with pytest.raises(ConfigError, match="must hold the 3x4"):
        alpha_of([first], 2, 4)
    with pytest.raises(ConfigError, match="must hold the comparisons"):
        look([first], ["b"], *evidence_at([scores(1, 3, 6)], 3, 6))
    assert next_design([replace(first, going=frozenset())]) is None


def test_after_all_alpha_is_spent_nothing_new_is_said():
    done = [
        Look(n, n, a, {"a": "cannot tell"}, frozenset({"a"}), frozenset())
        for n, a in enumerate(ALPHAS, 2)
    ]
    assert look(done, ["a"], *evidence_at([scores(16, 8, 12, 0.2, base=0.7)], 8, 12)).words == {
        "a": "cannot tell"
    }


def test_the_share_of_what_differs_passes_on_and_no_other():
    p, weights = np.array([1.0, 0.004, 0.5]), np.ones(3)
    assert holm_after(p, weights, 0.01, np.array([True, False, False]))[1]
    assert not holm_after(p, weights, 0.01, np.zeros(3, bool))[1], (
        "a stopped comparison keeps its share"
    )


def test_a_hopeless_comparison_is_stopped():
    gains = 0.002 + np.array([[0.05, 0.05, 0.04, 0.05], [-0.05, -0.05, -0.04, -0.05]])
    arms = [(0.9 + gains, np.full(gains.shape, 0.9))]
    found = look([], ["a"], *evidence_at(arms, 2, 4))
    assert found.hopeless == {"a"}
    assert not found.going
    assert next_design([found]) is None


@each("truth", ["prior right", "prior 10x low", "seeds 25x"])
def test_looks_hold_the_promise_together(truth):
    seeds, draws = LOOKS[-1]
    reports = benchmark.simulate(
        np.random.default_rng(20),
        400,
        benchmark.Design(seeds, draws),
        (1, 2),
        benchmark.TRUTHS[truth],
    )
    word, cost = benchmark.go_on(reports)
    assert np.isin(word, (1, 2)).any(-1).mean() <= 0.07
    assert cost.max() <= benchmark.cost_of(seeds, draws)


# The promise


@each(
    ("truth", "seeds", "draws", "sentences"),
    [
        ("prior right", 3, 10, 6),
        ("prior 10x low", 3, 4, 1),
        ("half of cells 10x", 3, 10, 18),
        ("scratch 10x", 4, 10, 6),
        ("seeds 25x", 5, 6, 6),
        ("exponential", 3, 10, 1),
        ("label counts 10x to 0.1x", 3, 10, 6),
        ("cells as in archive", 3, 4, 6),
        ("prior right", 1, 10, 6),
    ],
)
def test_a_report_says_a_false_word_in_at_most_five_per_cent(truth, seeds, draws, sentences):
    """600 reports with a fixed seed: 7 % are two standard errors above 5 %. The long form is benchmarks/verdict.py."""
    count = 600 * benchmark.SHARE[sentences] // (3 if sentences > 6 else 1)
    found = benchmark.measured(
        count, benchmark.Design(seeds, draws), sentences, benchmark.TRUTHS[truth], 0.0, 21
    )
    assert found["false new"] <= 7
    assert found["covered new"] >= 93


STATED = {  # percent of reports, in docs/verdict.md: where the promise is not kept
    ("seeds 25x", 1, 10): 40,
    ("seeds 25x", 3, 10): 8,
    ("seeds 25x", 4, 10): 6,
    ("collapses, of the trained", 1, 10): 25,
    ("seeds shared, 25x", 1, 10): 40,
    ("seeds shared, 25x", 3, 10): 8,
    ("seeds shared, 25x", 4, 10): 6,
}


@pytest.mark.slow
@each("sentences", [1, 6])
@each("design", benchmark.DESIGNS, ids=str)
def test_every_design_keeps_the_promise_or_its_number_is_stated(design, sentences):
    """3,000 and 1,500 reports of every truth: a rate of 5 % is measured as 6.2 % at most."""
    for name, truth in benchmark.TRUTHS.items():
        # the mean over seeds that collapse: no rule of few seeds knows it
        if name != "a seed in ten collapses":
            found = benchmark.measured(3000, design, sentences, truth, 0.0, 24)["false new"]
            assert found <= 1.25 * STATED.get((name, design.seeds, design.draws), 5), (name, found)


def test_large_gains_are_found_where_the_first_standard_was_mute():
    found = benchmark.measured(
        150 * 5, benchmark.Design(3, 4), 18, benchmark.TRUTHS["cells as in archive"], 0.05, 22
    )
    assert found["found new"] > 85
    assert found["found old"] < 70


def test_the_committed_studies_are_judged_again():
    """Of 56 sentences the first standard could not tell 44, with the data set itself left out of the archive now 26."""
    words = []
    for path in archived_studies():
        study = json.loads(path.read_text())
        comparisons, _, tested = benchmark.committed(study)
        report = judge(
            comparisons, Setting(tested=tested), archives.frozen(), [archives.dataset_of(study)]
        )
        words += [v.word for v in report.verdicts.values()]
    assert len(words) == 56
    assert words.count("cannot tell") <= 27


# The library


def test_the_library_is_light():
    """Neither torch nor Hydra is imported, and that within half a second of computing."""
    code = (
        "import time; t = time.process_time(); import sft_exp.verdict, sys; t = time.process_time() - t;"
        "print(t, *({m.partition('.')[0] for m in sys.modules} & {'torch', 'hydra', 'omegaconf', 'sklearn', 'matplotlib'}))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert out[1:] == []
    assert float(out[0]) < 0.5


def test_the_example_of_the_package_runs():
    pretrained, scratch = scores(23, 3, 4, 0.03)
    report = verdict.judge(
        {"vae": verdict.Comparison(pretrained, scratch)},
        verdict.Setting(tested=10_000),
        verdict.frozen(),
        without=["mnist"],
    )
    assert report.verdicts["vae"].text.startswith(verdict.SAYS[report.verdicts["vae"].word])


def test_evidence_without_any_spread_says_so():
    evidence = Evidence(
        np.zeros(2), np.array([[0.0, 0, 0], [0, 1e-9, 0]]), np.zeros((2, 3)), np.ones((2, 3))
    )
    assert evidence.without_noise().tolist() == [True, False]


# Arms that failed, and records


def test_a_comparison_whose_control_failed_gets_no_verdict_and_takes_no_part():
    """The others are judged as if it were not there: it is no sentence of the report."""
    sound = Comparison(*scores(21, 3, 4, 0.02))
    broken = Comparison(
        *scores(22, 3, 4, 0.5, base=0.1), scratch_failed="diverged in 2 of 12 draws (loss 1 -> 9)"
    )
    both = judge({"broken": broken, "sound": sound}, Setting(tested=2000), archives.frozen())
    alone = judge({"sound": sound}, Setting(tested=2000), archives.frozen())
    assert both.verdicts["sound"] == alone.verdicts["sound"]
    withheld = both.verdicts["broken"]
    assert (withheld.word, withheld.low, withheld.high) == ("no verdict", -np.inf, np.inf)
    assert withheld.text.startswith("No verdict: scratch diverged in 2 of 12 draws")
    assert list(both.verdicts) == ["broken", "sound"]
    none = judge({"broken": broken}, Setting(tested=2000), archives.frozen())
    assert none.verdicts["broken"].word == "no verdict"
    assert none.record()["scale"] is None


def test_a_pretrained_arm_that_failed_is_named():
    sound, failed = (
        one(*scores(23, 3, 4, 0.02), pretrained_failed=how)
        for how in ("", "collapsed in 1 of 12 draws")
    )
    assert failed.word == sound.word
    assert "pretrained collapsed in 1 of 12 draws, and counts as it is." in failed.text


@each("archive", [None, archives.frozen()], ids=["alone", "archive"])
@each("shape", [(1, 1), (1, 5), (3, 4)], ids=str)
def test_a_record_is_strict_json_and_is_read_back(archive, shape):
    verdict = one(*scores(24, *shape, 0.02), archive)
    text = json.dumps(verdict.record(), allow_nan=False)
    assert Verdict.read(json.loads(text)) == verdict
    if not np.isfinite(verdict.low):
        assert json.loads(text)["low"] is None
