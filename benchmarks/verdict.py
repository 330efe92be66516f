"""The verdict's promise by simulation: false words, power and coverage, for every design that the program offers.

    python -m benchmarks.verdict              one or two minutes: six truths of each design
    python -m benchmarks.verdict --long       the tables of docs/verdict.md
    python -m benchmarks.verdict --real       reports resampled from 4,300 real trainings on digits; ten minutes
    python -m benchmarks.verdict --results    the committed studies judged again, without results of the same data set
    python -m benchmarks.verdict --freeze 1   write sft_exp/verdict/archive.json from docs/results

Simulated are scores around 93 % on 10,000 test images, whose seeds, draws and rest vary as the archive says or as a truth below
changes it. Every arm varies by itself; the pretrained arms of one label count share their scratch arm.
"""

import argparse
import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from sft_exp.verdict import archive, collapse, sequential, words
from sft_exp.verdict.design import Floats, mean_squares
from sft_exp.verdict.evidence import Evidence, Moments, weigh
from sft_exp.verdict.rule import (
    ALPHA,
    MARGIN,
    Comparison,
    Setting,
    decide,
    judge,
    primary_weights,
    printed_share,
)
from sft_exp.verdict.worth import worth

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
ACCURACY, TESTED = 0.93, 10_000
PRIOR = archive.frozen().prior
RATIO = 0.25  # of five folds


@dataclass(frozen=True)
class Truth:
    """How the simulated scores differ from what the archive expects. Factors multiply variances."""

    every: float = 1.0
    half: float = 1.0  # of every other pretrainer
    scratch: float = 1.0
    seed: float = 1.0
    labels: float = 1.0  # from this at the first label count down to its reciprocal at the last
    degrees: float | None = None  # of inverse chi-squared factors, one an arm and component
    noise: str = "normal"
    # whether a seed's part is the same at every label count, as pretrainings are
    shared: bool = False
    collapse: float = 0.0  # share of pretrained seeds that end 20 seed deviations below the others
    # whether the gain is that of the seeds that trained, and sentences are taken as about these
    only_trained: bool = False


TRUTHS = {
    "prior right": Truth(),
    "prior 10x low": Truth(every=10),
    "half of cells 10x": Truth(half=10),
    "scratch 10x": Truth(scratch=10),
    "seeds 25x": Truth(seed=25),
    "exponential": Truth(noise="exponential"),
    "a seed in ten collapses": Truth(collapse=0.1),
    "collapses, of the trained": Truth(collapse=0.1, only_trained=True),
    "label counts 10x to 0.1x": Truth(labels=10),
    "cells as in archive": Truth(degrees=2.0),
    "seeds shared, 25x": Truth(seed=25, shared=True),
    "Student's t of 3": Truth(noise="t"),
    "prior 10x high": Truth(every=0.1),
}
# truths whose coverage is told apart: no rule of few seeds holds there
HARD = {"seeds 25x", "seeds shared, 25x", "a seed in ten collapses"}
SHORT_TRUTHS = [
    "prior right",
    "prior 10x low",
    "half of cells 10x",
    "seeds 25x",
    "exponential",
    "collapses, of the trained",
]


@dataclass(frozen=True)
class Design:
    seeds: int
    draws: int
    ratio: float = 0.0

    def __str__(self) -> str:
        return f"{self.seeds}x{self.draws}" + (" folds" if self.ratio else "")


DESIGNS = [
    Design(1, 10),
    Design(3, 4),
    Design(3, 10),
    Design(4, 10),
    Design(5, 6),
    Design(3, 5, RATIO),
]
SENTENCES = {1: (1, 1), 6: (3, 2), 18: (1, 18), 36: (2, 18)}  # label counts x pretrainers
# a table's reports of so many sentences are its number of reports over this
SHARE = {1: 1, 6: 2, 18: 5, 36: 5}


def noise(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> Floats:
    if kind == "exponential":
        return rng.exponential(1, shape) - 1
    return rng.standard_t(3, shape) / 3**0.5 if kind == "t" else rng.standard_normal(shape)


@dataclass(frozen=True)
class Reports:
    """Simulated scores of R reports. The mean gain over all seeds is `effect`, over those that trained `trained`."""

    pretrained: Floats  # [R, L, P, S, D]
    scratch: Floats  # [R, L, 1, S, D]
    effect: Floats  # [L, P]
    trained: Floats  # [L, P]
    single: Floats  # [R, L, P]: the gain of these seeds, over other draws
    ratio: float

    @property
    def gains(self) -> Floats:
        """[R, m, S, D]"""
        g = self.pretrained - self.scratch
        return g.reshape(len(g), -1, *g.shape[-2:])

    @property
    def groups(self) -> list[int]:
        _, labels, pretrainers = self.pretrained.shape[:3]
        return [label for label in range(labels) for _ in range(pretrainers)]

    @property
    def weights(self) -> Floats:
        """The first label count is primary where there are more."""
        return np.array(primary_weights([g == 0 for g in self.groups]))


def simulate(
    rng: np.random.Generator,
    count: int,
    design: Design,
    shape: tuple[int, int],
    truth: Truth,
    effect: Floats | float = 0.0,
) -> Reports:
    labels, pretrainers = shape
    s, d = design.seeds, design.draws
    v = ACCURACY * (1 - ACCURACY)
    parts = np.array([v * PRIOR.seed, v * PRIOR.draw, v * PRIOR.rest]) ** 2 * [truth.seed, 1, 1]
    parts[2] += archive.FLIPS * v / TESTED  # of one arm: half of a gain's
    by_label = (
        np.geomspace(truth.labels, 1 / truth.labels, labels)
        if labels > 1
        else np.array([truth.labels])
    )

    def arms(number: int, factor: Floats | float) -> tuple[Floats, Floats]:
        variance = np.broadcast_to(
            (truth.every * np.asarray(factor) * by_label[:, None] * np.ones(number))[..., None]
            * parts,
            (count, labels, number, 3),
        )
        if truth.degrees:
            variance = variance * truth.degrees / rng.chisquare(truth.degrees, variance.shape)
        sd = np.sqrt(variance)[..., None, None]
        by_draw = noise(rng, truth.noise, (count, labels, number, 1, d))
        # folds share training images, and correlate by tested / all (Nadeau & Bengio 2003)
        if design.ratio:
            rho = design.ratio / (1 + design.ratio)
            by_draw = (1 - rho) ** 0.5 * by_draw + rho**0.5 * noise(
                rng, truth.noise, (count, labels, number, 1, 1)
            )
        by_seed = sd[..., 0, :, :] * noise(
            rng, truth.noise, (count, 1 if truth.shared else labels, number, s, 1)
        )
        rest = sd[..., 2, :, :] * noise(rng, truth.noise, (count, labels, number, s, d))
        return by_seed + sd[..., 1, :, :] * by_draw + rest, by_seed

    half = np.where(np.arange(pretrainers) % 2 == 0, truth.half, 1.0)
    pretrained, seeds_of = arms(pretrainers, half)
    scratch, scratch_seeds = arms(1, truth.scratch)
    depth = 20 * 2**0.5 * v * PRIOR.seed
    fell = depth * (rng.random((count, 1, pretrainers, s, 1)) < truth.collapse)
    e = np.broadcast_to(
        np.asarray(effect, float) - depth * truth.collapse * truth.only_trained,
        (labels, pretrainers),
    )
    trained = e + depth * truth.collapse
    single = (trained[:, :, None, None] + seeds_of - fell - scratch_seeds).mean((-1, -2))
    return Reports(
        ACCURACY + trained[..., None, None] + pretrained - fell,
        ACCURACY + scratch,
        e,
        trained,
        single,
        design.ratio,
    )


# Rules. Each answers with the words [R, m] and the printed intervals' half widths and middles.


@dataclass(frozen=True)
class Answer:
    word: NDArray[np.int64]  # [R, m], indices into words.WORDS
    mean: Floats
    half: Floats
    named: NDArray[np.bool_]  # whether the sentence says that seeds collapsed


def kept_seeds(reports: Reports) -> list[NDArray[np.bool_]]:
    """Of each of the m comparisons, which seeds trained [R, S]."""
    on = [collapse.trained(x, PRIOR, TESTED) for x in (reports.pretrained, reports.scratch)]
    both = on[0] & on[1]
    return list(np.moveaxis(both.reshape(len(both), -1, both.shape[-1]), 1, 0))


def evidence_of(
    reports: Reports,
    kept: list[NDArray[np.bool_]] | None,
    prior: archive.Prior | None = PRIOR,
    **more: Any,
) -> Evidence:
    """Of all comparisons, with what the archive expects of arms that score ACCURACY."""
    gains = reports.gains
    moments = Moments.of(list(np.moveaxis(gains, 1, 0)), kept)
    seeds, draws = (
        (moments.seeds, moments.draws) if kept else (moments.seeds[:1], moments.draws[:1])
    )
    expected = prior.expected(ACCURACY, ACCURACY, seeds, draws, TESTED) if prior else None
    if not kept:  # the same degrees in every report: one row of quantiles serves all
        moments = Moments(
            moments.mean, moments.squares, moments.degrees[:1], moments.seeds[:1], moments.draws[:1]
        )
    return weigh(moments, prior, expected, reports.groups, ratio=reports.ratio, **more)


def new_rule(
    reports: Reports, prior: archive.Prior | None = PRIOR, margin: float = MARGIN, **more: Any
) -> Answer:
    """The rule of sft_exp.verdict. Reports with a collapsed seed are judged by their own degrees of freedom."""
    count, m = len(reports.pretrained), len(reports.groups)
    kept = kept_seeds(reports)
    named = np.any(~np.stack(kept, 1), -1)  # [R, m]
    word, mean, half = np.zeros((count, m), int), np.zeros((count, m)), np.zeros((count, m))
    fell = np.any(named, -1)
    for some in (fell, ~fell):
        if some.any():
            part = Reports(
                reports.pretrained[some],
                reports.scratch[some],
                reports.effect,
                reports.trained,
                reports.single[some],
                reports.ratio,
            )
            evidence = evidence_of(
                part, [k[some] for k in kept] if some is fell else None, prior, **more
            )
            decision = decide(evidence, reports.weights, margin, ALPHA, largest=ALPHA)
            word[some], mean[some] = decision.word, evidence.mean
            half[some] = evidence.half(printed_share(evidence, decision, reports.weights))
    return Answer(word, mean, half, named)


def old_rule(reports: Reports) -> Answer:
    """Version 1.0 of the standard: Satterthwaite's degrees; the primary comparisons share 95 %, and all others 95 % if one of
    these spoke and else 99 % (a single label count: all share 95 %)."""
    gains = reports.gains
    s, d = gains.shape[-2:]
    squares, (free, *_) = mean_squares(gains)[0], mean_squares(gains)[1].reshape(-1, 3)
    mean = gains.mean((-1, -2))
    by_draws = 0.0
    if s == 1 or d == 1:
        total, degrees = squares[..., 1 if s == 1 else 0], np.full(mean.shape, max(s, d) - 1.0)
    else:
        both = squares[..., 0] + squares[..., 1] - squares[..., 2]
        most = squares[..., :2].max(-1)
        total = np.maximum(both, most)
        one = np.where(squares[..., 0] >= squares[..., 1], free[0], free[1])
        degrees = np.where(both > most, both**2 / (squares**2 / free).sum(-1), one)
        degrees = np.maximum(degrees, min(s, d) - 1)
        by_draws = reports.ratio * squares[..., 1] / s
    error = np.sqrt(total / (s * d) + (reports.ratio * total if s == 1 else by_draws))
    primary = np.array(reports.groups) == 0
    level = ALPHA / primary.sum()
    half = stdtrit(degrees, 1 - level / 2) * error
    if not primary.all():
        spoke = (np.abs(mean) > half)[:, primary].any(-1, keepdims=True)
        rest = np.where(spoke, 0.05, 0.01) / (~primary).sum()
        half = np.where(primary, half, stdtrit(degrees, 1 - rest / 2) * error)
    small = np.abs(mean) + half <= MARGIN
    word = np.where(
        small,
        words.SMALL,
        np.where(mean > half, words.HELPED, np.where(mean < -half, words.HURT, 0)),
    )
    return Answer(word, mean, half, np.zeros(mean.shape, bool))


def aim(reports: Reports, answer: Answer) -> Floats:
    """What each sentence [R, m] speaks of: the mean over all seeds, or where it says so over those that trained."""
    return np.where(answer.named, reports.trained.ravel(), reports.effect.ravel())


def false_words(answer: Answer, truth: Floats) -> NDArray[np.bool_]:
    """Reports [R] with a helped or hurt that is not so: the gain [R, m] is 0 or has the other sign."""
    helped, hurt = answer.word == words.HELPED, answer.word == words.HURT
    return np.any((helped & (truth <= 0)) | (hurt & (truth >= 0)), -1)


def covered(answer: Answer, truth: Floats) -> NDArray[np.bool_]:
    """Reports [R] all of whose printed intervals hold the truth."""
    return np.all(np.abs(answer.mean - truth) <= answer.half, -1)


def percent(x: NDArray[Any]) -> float:
    return 100 * float(np.mean(x))


# Tables


def row(*cells: object) -> None:
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def batches(count: int, design: Design, shape: tuple[int, int]) -> Iterator[int]:
    """Reports at a time, so that arrays stay below 50 MB."""
    most = max(1, 6_000_000 // (shape[0] * shape[1] * design.seeds * design.draws))
    yield from [most] * (count // most) + ([count % most] if count % most else [])


def measured(
    count: int, design: Design, sentences: int, truth: Truth, effect: Floats | float, seed: int
) -> dict[str, float]:
    """False reports, coverage, words and widths of the old and the new rule over `count` reports, in per cent."""
    shape, count = SENTENCES[sentences], count // SHARE[sentences]
    rng = np.random.default_rng(seed)
    sums: dict[str, float] = defaultdict(float)
    for some in batches(count, design, shape):
        reports = simulate(rng, some, design, shape, truth, effect)
        for name, answer in (("old", old_rule(reports)), ("new", new_rule(reports))):
            target = (
                np.broadcast_to(reports.trained.ravel(), answer.word.shape)
                if truth.only_trained
                else aim(reports, answer)
            )
            right = (answer.word == words.HELPED) & (target > 0)
            sums[f"false {name}"] += float(false_words(answer, target).sum())
            sums[f"covered {name}"] += float(covered(answer, target).sum())
            sums[f"found {name}"] += float(right.mean(-1).sum())
            sums[f"width {name}"] += float(np.minimum(answer.half, 1).mean(-1).sum())
    return {k: 100 * v / count for k, v in sums.items()}


def promise_table(count: int, truths: list[str], sentences: list[int]) -> None:
    """False reports where nothing is true, and where every other gain is +2 points."""
    print(
        "\nFalse reports in %, standard 1.0 -> this rule; nothing is true, in `mixed` every other gain is +2 points\n"
    )
    row(
        "design",
        "sentences",
        *truths,
        "mixed",
        "least joint coverage",
        "the same, seeds 25x or collapsing",
    )
    row(*["---"] * (len(truths) + 5))
    for design in DESIGNS:
        for n in sentences:
            cells = [measured(count, design, n, TRUTHS[t], 0.0, 1) for t in truths]
            told = [f"{c['false old']:.1f} -> {c['false new']:.1f}" for c in cells]
            if n > 1:
                labels, pretrainers = SENTENCES[n]
                half = np.broadcast_to(
                    np.where(np.arange(pretrainers) % 2 == 0, 0.02, 0.0), (labels, pretrainers)
                )
                mixed = [
                    measured(count, design, n, TRUTHS[t], half, 2)
                    for t in ("prior right", "cells as in archive")
                ]
                told.append(
                    f"{max(c['false old'] for c in mixed):.1f} -> {max(c['false new'] for c in mixed):.1f}"
                )
                cells += mixed
            else:
                told.append("")
            hard = [c["covered new"] for t, c in zip(truths, cells, strict=False) if t in HARD]
            easy = [
                c["covered new"]
                for t, c in zip([*truths, "", ""], cells, strict=False)
                if t not in HARD
            ]
            row(design, n, *told, f"{min(easy):.1f}", f"{min(hard):.1f}")


def power_table(count: int, sentences: list[int]) -> None:
    """Gains found where all are the same, and how wide the printed intervals are."""
    gains = (0.01, 0.02, 0.05)
    print(
        "\nGains found in %, standard 1.0 -> this rule; cells as in archive; half widths in points\n"
    )
    row("design", "sentences", *(f"+{100 * g:g}" for g in gains), "half width")
    row(*["---"] * 6)
    for design in DESIGNS:
        for n in sentences:
            cells = [measured(count, design, n, TRUTHS["cells as in archive"], g, 3) for g in gains]
            found = [f"{c['found old']:.0f} -> {c['found new']:.0f}" for c in cells]
            row(design, n, *found, f"{cells[0]['width old']:.2f} -> {cells[0]['width new']:.2f}")


# study -> its comparisons (label counts x pretrainers), the design that it had, and how many
# fine-tunings a pretraining may cost
STUDIES: dict[str, tuple[tuple[int, int], Design, tuple[int, ...]]] = {
    "label_efficiency, 3 label counts": ((3, 1), Design(5, 6), (2, 20, 50)),
    "label_efficiency, 9 label counts": ((9, 1), Design(5, 6), (2, 20, 50)),
    "label_efficiency, 2 pretrainers": ((3, 2), Design(5, 6), (2, 20, 50)),
    "public_to_own": ((1, 1), Design(3, 3), (2, 20)),
    "pretrainers": ((1, 18), Design(3, 3), (2, 20)),
    "attribution": ((1, 6), Design(3, 4), (0,)),  # long fine-tunings, one pretraining
}


def study_cost(shape: tuple[int, int], design: Design, pretraining: float) -> float:
    """Cost of a study in fine-tunings: pretrained arms share a pretraining over label counts, and the
    scratch arm of a label count."""
    labels, pretrainers = shape
    each = pretrainers * pretraining + labels * (pretrainers + 1) * design.draws
    return design.seeds * each


def designs_table(count: int) -> None:
    """Gains found by designs of equal cost, at the costs of the studies' designs up to now."""
    gains = (0.01, 0.02, 0.05)
    print(
        "\nGains found in % by designs of equal cost (a pretraining costs P fine-tunings; cells as in archive)\n"
    )
    row("study", "P", "cost", "design: +1, +2, +5")
    row(*["---"] * 4)
    for name, (shape, reference, costs) in STUDIES.items():
        for pretraining in costs:
            most = study_cost(shape, reference, pretraining)
            designs = {reference}
            for seeds in range(2, 9):
                affordable = [
                    Design(seeds, draws)
                    for draws in range(2, 25)
                    if study_cost(shape, Design(seeds, draws), pretraining) <= 1.02 * most
                ]
                designs |= set(affordable[-1:])
            told = []
            for design in sorted(designs, key=lambda d: (d.seeds, d.draws)):
                found = [power(count, design, shape, gain) for gain in gains]
                told.append(f"{design}: {', '.join(f'{f:.0f}' for f in found)}")
            row(name, pretraining, f"{most:.0f}", "; ".join(told))


def power(count: int, design: Design, shape: tuple[int, int], gain: float) -> float:
    """Gains found in %, where pretrainings are shared by the label counts."""
    truth = replace(TRUTHS["cells as in archive"], shared=True)
    count = max(1, count * 6 // (shape[0] * shape[1] + 5))  # about as many sentences each
    reports = simulate(np.random.default_rng(11), count, design, shape, truth, gain)
    return percent(new_rule(reports).word == words.HELPED)


CHOICES = (5, 12)  # candidates
FOLDS_NOISE = (
    0.02  # sd of a validation score on one labelled split, beside what it shares with test
)


def chosen_table(count: int) -> None:
    """A pick is the best of k candidates by validation on three labelled splits, or by test. No candidate gains anything."""
    print(
        "\nIntervals in % that hold the gain of a pick of k candidates: one pretraining seed, ten labelled splits\n"
    )
    row(
        "truth",
        "k",
        "validation: 95 %",
        "validation: 1 - 0.05 / k",
        "test: 95 %",
        "test: 1 - 0.05 / k",
    )
    row(*["---"] * 6)
    for name in ("prior right", "prior 10x low", "cells as in archive", "exponential"):
        for k in CHOICES:
            rng = np.random.default_rng(12)
            reports = simulate(rng, count, Design(1, 10), (1, k), TRUTHS[name])
            test = reports.pretrained[:, 0, :, 0]  # [R, k, D]
            noise_RK = FOLDS_NOISE / 3**0.5 * rng.standard_normal((count, k))
            cells = []
            for score in (test[..., :3].mean(-1) + noise_RK, test.mean(-1)):
                pick = score.argmax(1)[:, None, None, None, None]
                one = replace(
                    reports,
                    pretrained=np.take_along_axis(reports.pretrained, pick, 2),
                    effect=reports.effect[:, :1],
                    trained=reports.trained[:, :1],
                )
                evidence = evidence_of(one, None)
                cells += [
                    percent(np.abs(evidence.mean) <= evidence.half(np.array([a])))
                    for a in (ALPHA, ALPHA / k)
                ]
            row(name, k, *(f"{c:.1f}" for c in cells))


def best_against_best_table(count: int) -> None:
    """Pretrained and scratch each at the best of k settings by validation, on the labelled splits that judge them."""
    print(
        "\nBest of k settings against scratch's best of k, and against a single scratch: intervals in % that hold the gain\n"
    )
    row("truth", "design", "k", "best against best", "chosen by test", "test, single scratch")
    row(*["---"] * 6)
    for name in ("prior right", "prior 10x low", "cells as in archive", "exponential"):
        for design in (Design(3, 4), Design(3, 10)):
            for k in CHOICES:
                rng = np.random.default_rng(13)
                reports = simulate(rng, count, design, (1, 2 * k), TRUTHS[name])
                arms = np.split(reports.pretrained, 2, axis=2)  # k settings each, of the same truth
                cells = []
                for by_test, single in ((False, False), (True, False), (True, True)):
                    best = []
                    for arm in arms:
                        mean = arm[:, 0].mean((-1, -2))
                        runs = (design.seeds * design.draws) ** 0.5
                        seen = mean + (0 if by_test else FOLDS_NOISE / runs) * rng.standard_normal(
                            mean.shape
                        )
                        pick = seen.argmax(1)[:, None, None, None, None]
                        best.append(np.take_along_axis(arm, pick, 2))
                    one = replace(
                        reports,
                        pretrained=best[0],
                        scratch=arms[1][:, :, :1] if single else best[1],
                        effect=reports.effect[:, :1],
                        trained=reports.trained[:, :1],
                    )
                    cells.append(percent(covered(new_rule(one), np.zeros((1, 1)))))
                row(name, design, k, *(f"{c:.1f}" for c in cells))


def one_pretraining(count: int) -> None:
    """The two sentences of a run of one seed: is that about this pretraining right where it gained nothing?"""
    print(
        "\nOne pretraining, 10 draws: sentences about it that are false, in %, where it gained nothing itself\n"
    )
    row("truth", "standard 1.0", "this rule")
    row(*["---"] * 3)
    for name in ("prior right", "prior 10x low", "seeds 25x", "exponential", "cells as in archive"):
        reports = simulate(np.random.default_rng(4), count, Design(1, 10), (1, 1), TRUTHS[name])
        still = replace(reports, pretrained=reports.pretrained - reports.single[..., None, None])
        evidence = evidence_of(still, None, other_seeds=False)
        told = decide(evidence, still.weights, MARGIN, largest=ALPHA).word
        old = old_rule(still).word
        row(name, *(f"{percent((w == words.HELPED) | (w == words.HURT)):.1f}" for w in (old, told)))


def equivalence_table(count: int) -> None:
    """Too small to matter: false where the gain is the margin itself, found where it is 0."""
    print(
        "\nToo small to matter, in % of sentences, standard 1.0 -> this rule: at a gain of 0.5 points (false), and at 0\n"
    )
    row("design", "truth", "at 0.5", "at 0")
    row(*["---"] * 4)
    for design in (Design(3, 10), Design(5, 6), Design(8, 12)):
        for name in ("prior right", "prior 10x high", "seeds 25x"):
            cells = []
            for effect in (MARGIN, 0.0):
                reports = simulate(
                    np.random.default_rng(5), count, design, (1, 1), TRUTHS[name], effect
                )
                pair = [percent(rule(reports).word == words.SMALL) for rule in (old_rule, new_rule)]
                cells.append(f"{pair[0]:.1f} -> {pair[1]:.1f}")
            row(design, name, *cells)


def scale_free_table(count: int) -> None:
    """Scores that are not proportions: the prior gives ratios alone, at three scales of truth."""
    print(
        "\nScores in their own units (the archive gives ratios alone): false reports in %, and +2 points found\n"
    )
    row(
        "design", "sentences", *(t for t in SCALE_FREE), "+2 points, prior right", "without archive"
    )
    row(*["---"] * (len(SCALE_FREE) + 4))
    for design in DESIGNS[1:]:
        for n in (1, 6):
            cells = []
            for name in SCALE_FREE:
                reports = simulate(
                    np.random.default_rng(6), count, design, SENTENCES[n], TRUTHS[name]
                )
                answer = new_rule(reports, known_scale=False)
                cells.append(f"{percent(false_words(answer, aim(reports, answer))):.1f}")
            reports = simulate(
                np.random.default_rng(7), count, design, SENTENCES[n], TRUTHS["prior right"], 0.02
            )
            found = [
                percent(new_rule(reports, p, known_scale=False).word == words.HELPED)
                for p in (PRIOR, None)
            ]
            row(design, n, *cells, *(f"{x:.0f}" for x in found))


SCALE_FREE = [
    "prior right",
    "prior 10x low",
    "prior 10x high",
    "half of cells 10x",
    "seeds 25x",
    "exponential",
]


def sequential_table(count: int) -> None:
    """Looks at a growing study beside a fixed one of 5x6; a pretraining costs 20 fine-tunings."""
    print(
        "\nLooks at 2x4, 3x6, 4x8, 6x10, 8x12 beside a fixed 5x6 of standard 1.0 (cost 160; a pretraining is 20 fine-tunings)\n"
    )
    row(
        "truth",
        "gain",
        "sentences",
        "fixed: told",
        "false",
        "looks: told",
        "small",
        "false",
        "cost",
        "of all looks",
    )
    row(*["---"] * 10)
    cases = [("cells as in archive", g) for g in (0.2, 0.05, 0.02, 0.01, 0.0)]
    cases += [
        (t, 0.0) for t in ("prior right", "prior 10x low", "seeds 25x", "collapses, of the trained")
    ]
    for n, shape in ((1, (1, 1)), (4, (1, 4))):
        for name, effect in cases:
            seeds, draws = sequential.LOOKS[-1]
            reports = simulate(
                np.random.default_rng(8), count, Design(seeds, draws), shape, TRUTHS[name], effect
            )
            fixed = old_rule(cut(reports, 5, 6))
            truth = np.broadcast_to(
                (reports.trained if TRUTHS[name].only_trained else reports.effect).ravel(),
                fixed.word.shape,
            )
            word, cost = go_on(reports)
            answers = [fixed, Answer(word, fixed.mean, fixed.half, fixed.named)]
            told = [percent((a.word == words.HELPED) | (a.word == words.HURT)) for a in answers]
            wrong = [percent(false_words(a, truth)) for a in answers]
            row(
                name, f"+{100 * effect:g}", n, f"{told[0]:.1f}", f"{wrong[0]:.1f}", f"{told[1]:.1f}",
                f"{percent(word == words.SMALL):.1f}", f"{wrong[1]:.1f}", f"{cost.mean():.0f}", cost_of(seeds, draws),
            )  # fmt: skip


def cut(reports: Reports, seeds: int, draws: int) -> Reports:
    return replace(
        reports,
        **{arm: getattr(reports, arm)[..., :seeds, :draws] for arm in ("pretrained", "scratch")},
    )


def cost_of(seeds: int, draws: int) -> int:
    return 20 * seeds + 2 * seeds * draws


def go_on(reports: Reports) -> tuple[NDArray[np.int64], Floats]:
    """Words [R, m] after all looks, and the cost [R] of those taken."""
    shape = len(reports.pretrained), len(reports.groups)
    word, stopped, cost = (
        np.zeros(shape, int),
        np.zeros(shape, bool),
        np.zeros(len(reports.pretrained)),
    )
    for (seeds, draws), alpha in zip(sequential.LOOKS, sequential.ALPHAS, strict=True):
        going = ((word == words.CANNOT_TELL) & ~stopped).any(-1)
        if not going.any():
            break
        now = cut(reports, seeds, draws)
        now = replace(now, pretrained=now.pretrained[going], scratch=now.scratch[going])
        moments = Moments.of(list(np.moveaxis(now.gains, 1, 0)))
        moments = Moments(
            moments.mean, moments.squares, moments.degrees[:1], moments.seeds[:1], moments.draws[:1]
        )
        word[going], stopped[going] = sequential.step(
            word[going], stopped[going], evidence_of(now, None), moments, reports.weights, alpha
        )
        cost[going] = cost_of(seeds, draws)
    return word, cost


def worth_table(count: int) -> None:
    """`worth n times the labels`: coverage of the 95 % interval and its median width as a factor."""
    print(
        "\nWorth: coverage in % of the 95 % interval, and median upper over lower end; true worth 2.1 of 10 labels\n"
    )
    row("design", "draws of label counts", "standard 1.0", "this rule")
    row(*["---"] * 4)
    for seeds, draws in ((2, 3), (3, 4), (3, 10), (5, 6)):
        for name, shared in (("correlate 0.9", 0.9), ("do not correlate", 0.0)):
            row(f"{seeds}x{draws}", name, *worth_cells(count, seeds, draws, shared))


def worth_cells(count: int, seeds: int, draws: int, shared: float) -> list[str]:
    rng = np.random.default_rng(9)
    labels, means, main = (10.0, 100.0), (0.938, 0.975), 0.950
    true = (main - means[0]) / (means[1] - means[0]) * np.log(labels[1] / labels[0])

    def arm(mean: float, size: float, common: Floats) -> Floats:
        by_draw = 0.010 * (shared**0.5 * common + (1 - shared) ** 0.5 * rng.normal(size=(1, draws)))
        return mean + size * (
            0.002 * rng.normal(size=(seeds, 1)) + by_draw + 0.005 * rng.normal(size=(seeds, draws))
        )

    hits, n = [0, 0], 0
    widths: list[list[float]] = [[], []]
    for _ in range(count):
        common = rng.normal(size=(1, draws))
        low, pretrained, high = (
            arm(means[0], 1, common),
            arm(main, 0.8, common),
            arm(means[1], 0.4, rng.normal(size=(1, draws))),
        )
        if not low.mean() < pretrained.mean() < high.mean():
            continue
        n += 1
        scratch = dict(zip(labels, (low, high), strict=True))
        share = (pretrained.mean(1) - low.mean(1)) / (high.mean(1) - low.mean(1)) * np.log(10)
        reach = float(stdtrit(seeds - 1, 0.975)) * share.std(ddof=1) / seeds**0.5
        w = worth(pretrained, scratch, 10)
        found = [
            (float(share.mean() - reach), float(share.mean() + reach)),
            (log(max(w.low, 1e-9)), log(min(w.high, 1e9))),
        ]
        for i, (a, b) in enumerate(found):
            hits[i] += a <= true <= b
            widths[i].append(b - a)
    return [
        f"{100 * h / n:.1f} (x{np.exp(np.median(w)):.3g})"
        for h, w in zip(hits, widths, strict=True)
    ]


# Real scores

REAL = {  # solver, learning rate, labels a class
    "10 labels": ("adam", 0.01, 10),
    "2 labels": ("adam", 0.01, 2),
    "10 labels, a rate that often fails": ("sgd", 0.5, 10),
}
REAL_SEEDS, REAL_DRAWS, REAL_TRAIN, DIGITS = 60, 24, 1000, 1797


def real_scores(solver: str, rate: float, labels: int) -> Floats:
    """Test accuracies [seeds, draws] of a network of one hidden layer on digits, trained from each seed on each label draw."""
    from sklearn.datasets import load_digits
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    x, y = load_digits(return_X_y=True)
    x, y, x_test, y_test = x[:REAL_TRAIN] / 16, y[:REAL_TRAIN], x[REAL_TRAIN:] / 16, y[REAL_TRAIN:]
    scores = np.empty((REAL_SEEDS, REAL_DRAWS))
    for d in range(REAL_DRAWS):
        rng = np.random.default_rng(d)
        rows = np.concatenate(
            [rng.choice(np.flatnonzero(y == c), labels, replace=False) for c in range(10)]
        )
        for s in range(REAL_SEEDS):
            net = MLPClassifier(
                (64,),
                solver=solver,
                learning_rate_init=rate,
                nesterovs_momentum=False,
                max_iter=60,
                batch_size=20,
                random_state=s,
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                scores[s, d] = net.fit(x[rows], y[rows]).score(x_test, y_test)
    return scores


def real_table(count: int) -> None:
    """Every arm of a report is the same method from other seeds, so that no gain is true: which words are said all the same?"""
    tested = DIGITS - REAL_TRAIN
    pools = {name: real_scores(*how) for name, how in REAL.items()}
    print(
        "\nReal scores, no gain: false reports in %, standard 1.0 -> this rule (joint coverage); and +5 points found\n"
    )
    row("design", "sentences", *pools, *(f"+5 points, {name}" for name in pools))
    row(*["---"] * (2 + 2 * len(pools)))
    for design in (Design(3, 4), Design(3, 10), Design(4, 10), Design(5, 6)):
        for n in (1, 6):
            cells = [real_cells(pool, count, design, n, tested) for pool in pools.values()]
            row(design, n, *(c[0] for c in cells), *(c[1] for c in cells))


def real_cells(
    pool: Floats, count: int, design: Design, sentences: int, tested: int
) -> tuple[str, str]:
    rng = np.random.default_rng(10)
    false, found, held = np.zeros(2), np.zeros(2), 0
    for _ in range(count):
        seeds = rng.choice(REAL_SEEDS, (sentences + 1, design.seeds), replace=False)
        draws = rng.choice(REAL_DRAWS, design.draws, replace=False)
        control, *arms = (pool[np.ix_(s, draws)] for s in seeds)
        for effect in (0.0, 0.05):
            lower = control - effect  # a gain, without leaving 0 to 1 at the top
            comparisons = {n: Comparison(arm, np.maximum(lower, 0.0)) for n, arm in enumerate(arms)}
            report = judge(comparisons, Setting(tested=tested), archive.frozen(), ["digits"])
            old = old_words(np.stack([arm - lower for arm in arms]))
            words_said = [
                np.array([words.WORDS.index(v.word) for v in report.verdicts.values()]),
                old,
            ]
            for k, said in enumerate(reversed(words_said)):
                if effect:
                    found[k] += np.mean(said == words.HELPED)
                else:
                    false[k] += np.isin(said, (words.HELPED, words.HURT)).any()
            if not effect:
                held += all(v.low <= 0 <= v.high for v in report.verdicts.values())
    f, g = 100 * false / count, 100 * found / count
    return f"{f[0]:.1f} -> {f[1]:.1f} ({100 * held / count:.1f})", f"{g[0]:.0f} -> {g[1]:.0f}"


def old_words(gains: Floats) -> NDArray[np.int64]:
    """Words [m] of version 1.0 on gains [m, S, D] of one label count."""
    zeros = np.zeros((1, 1, *gains.shape[-2:]))
    nothing = np.zeros((1, len(gains)))
    return old_rule(
        Reports(gains[None, None], zeros[:, :, None], nothing, nothing, nothing[None], 0.0)
    ).word[0]


# The committed studies


def results() -> None:
    """Every sentence of docs/results judged again, with the archive that leaves out its data set, and without any."""
    total: Counter[str] = Counter()
    for path in sorted(RESULTS.glob("*/study.json")):
        study = json.loads(path.read_text())
        comparisons, old, tested = committed(study)
        dataset = archive.dataset_of(study)
        report = judge(comparisons, Setting(tested=tested), archive.frozen(), [dataset])
        without = judge(comparisons, Setting(tested=tested))
        print(f"\n{path.parent.name}: {'; '.join(report.notes)}\n")
        row(
            "sentence",
            "standard 1.0",
            "this rule",
            "without archive",
            "gain",
            "interval",
            "interval without",
        )
        row(*["---"] * 7)
        for key, v in report.verdicts.items():
            total[f"1.0: {old[key]}"] += 1
            total[f"this rule: {v.word}"] += 1
            total[f"no archive: {without.verdicts[key].word}"] += 1
            row(
                " ".join(key), old[key], v.word + "".join(f", seed {s} collapsed" for s in v.collapsed),
                without.verdicts[key].word,
                f"{100 * v.difference:+.2f}", f"{100 * v.low:+.2f} to {100 * v.high:+.2f}",
                f"{100 * v.alone[0]:+.2f} to {100 * v.alone[1]:+.2f}",
            )  # fmt: skip
    print("\n" + "\n".join(f"{k}: {n}" for k, n in sorted(total.items())))


def committed(
    study: dict[str, Any],
) -> tuple[dict[tuple[str, str], Comparison], dict[tuple[str, str], str], int]:
    """Comparisons of a study, the words it said, and the number of test images. Of label efficiency, gains are stored and the
    arms' means: arms of these gains and means are made up, half of each deviation in either, of which the rule uses no more."""
    if "cells" in study:
        cells = {(c["pretrainer"], c["labels"]): c for c in study["cells"]}
        weights = primary_weights([k[1] == study["primary"] for k in cells])
        made = {
            k: Comparison(c["pretrained"] + off, c["scratch"] - off, k[1], w)
            for (k, c), w in zip(cells.items(), weights, strict=True)
            for off in [(np.array(c["gains"]) - np.mean(c["gains"])) / 2]
        }
        tested = archive.count_tested(
            np.concatenate([np.ravel(c["gains"]) for c in cells.values()])
        )
        return made, {k: c["word"] for k, c in cells.items()}, tested
    arms = {(arm, group): pair for (group, arm), pair in archive.arms_of(study, fixed=True)}
    said = (
        {(k, ""): s["word"] for k, s in study["steps"].items()}
        if "steps" in study
        else {
            (p, use): g["word"]
            for p, of in study["pretrainers"].items()
            for use, g in of["gains"].items()
        }
    )
    made = {
        k: Comparison(arms[k][0], arms[k][1], k[1], all_labels=k[1].startswith("all")) for k in said
    }
    return (
        made,
        said,
        archive.count_tested(np.concatenate([np.ravel(x) for pair in arms.values() for x in pair])),
    )


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument(
        "--long", action="store_true", help="the tables of docs/verdict.md; half an hour"
    )
    options.add_argument(
        "--real", action="store_true", help="reports resampled from real trainings; ten minutes"
    )
    options.add_argument("--results", action="store_true", help="judge docs/results again")
    options.add_argument("--freeze", metavar="VERSION", help="write archive.json from docs/results")
    asked = options.parse_args()
    if asked.freeze:
        text = archive.freeze(asked.freeze, sorted(RESULTS.glob("*/study.json")))
        (ROOT / "sft_exp" / "verdict" / "archive.json").write_text(text, encoding="utf-8")
        return
    if asked.results:
        return results()
    if asked.real:
        return real_table(500)
    count = 3000 if asked.long else 400
    promise_table(
        count,
        list(TRUTHS) if asked.long else SHORT_TRUTHS,
        list(SENTENCES) if asked.long else [1, 6],
    )
    power_table(count, list(SENTENCES) if asked.long else [1, 6])
    designs_table(count)
    chosen_table(5 * count)
    best_against_best_table(count)
    one_pretraining(5 * count)
    equivalence_table(count)
    scale_free_table(count)
    sequential_table(count // 2)
    worth_table(count // 4)


if __name__ == "__main__":
    main()
