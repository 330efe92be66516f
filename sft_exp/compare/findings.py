"""What a sweep found, beside its table.

Which settings validation cannot tell from the best one, what each swept key changes, the gain over
scratch where scratch has its own best setting, and the gain that pretrainings with several seeds
have in common. All of it is paired by seed and labelled split,
which the jobs of a sweep share. Settings whose training diverged, as the verdict defines it, are
named and not compared.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sft_exp.compare.comparison import (
    IMAGES,
    Comparison,
    Job,
    Row,
    percent,
    ranges,
    show,
    without_empty,
)
from sft_exp.core.arms import MAIN, PIXELS, SCRATCH
from sft_exp.reports.page import Grid
from sft_exp.store.results import Results, is_proportion
from sft_exp.training import health
from sft_exp.verdict import WITHHELD, Setting, frozen, interval, judge, selection
from sft_exp.verdict import Comparison as Pair

# keys and groups that make validation scores of different problems
PROBLEM = (
    "dataset", IMAGES, "labels", "labels_total", "task", "val", "score", "protocol", "draws",
)  # fmt: skip
NEXT = 5  # settings that are shown behind the best one
ALPHA = 0.05
TIE = 1e-6  # scores that differ by less are equal up to rounding
NUMBERS = ("val", "behind", "difference", "pairs", "test", "scratch", "gain")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Section:
    """One thing that was found: sentences and a table, which may be empty."""

    title: str
    sentences: list[str]
    table: Grid = field(default_factory=lambda: ([], []))
    last: str = ""  # the sentence that the output ends with, if no other section has one


@dataclass(frozen=True)
class Paired:
    """Settings with the same seeds and labelled splits."""

    rows: list[Row]
    scores: Floats  # [k, S, D], validation
    left_out: int  # settings that lack one of the seeds

    @property
    def over(self) -> str:
        """`3 seeds and 10 labelled splits`"""
        _, seeds, splits = self.scores.shape
        words = [(seeds, "seed"), (splits, "labelled split")]
        return " and ".join(f"{n} {word}{'s' * (n > 1)}" for n, word in words)


def summary(comparison: Comparison) -> str:
    """How many jobs are done, which setting is best by validation, and how certain that is or what
    it gains."""
    last = [section.last for section in sections(comparison) if section.last]
    return " ".join([comparison.verdict(), *(last if len(last) == 1 else [])])


@lru_cache(maxsize=1)
def sections(comparison: Comparison) -> list[Section]:
    """What was found, for each problem (data set, labels, task, ...) of the sweep."""
    own = [k for k in comparison.keys if k.partition(".")[0] in PROBLEM]
    problems: dict[str, list[Row]] = {}
    for row in comparison.rows:
        if row.done:
            key = " ".join(f"{comparison.names[k]}={show(row.settings.get(k))}" for k in own)
            problems.setdefault(key, []).append(row)
    found: list[Section] = []
    for problem, done in problems.items():
        keys = [k for k in comparison.keys if k not in own]
        rows = [row for row in done if row.val is not None]
        sound = [row for row in rows if not row.diverged]
        titled = f" ({problem})" if problem else ""
        found += over_seeds(comparison, keys, done, titled)
        found += baselines(done, titled)
        if len(rows) < 2 or not keys:
            continue
        lost = [row for row in rows if row not in sound]
        paired = together(sound)
        found.append(best(comparison, keys, paired, lost, titled))
        if paired and len(paired.rows) > 1:
            found.append(effects(comparison, keys, paired, titled))
        found += gains(comparison, keys, rows, titled)
    return [section for section in found if section.sentences or section.table[1]]


def baselines(rows: Sequence[Row], titled: str) -> list[Section]:
    """How many settings are above the best of the baselines that see no network, on the test images."""
    reached: dict[str, list[float]] = {}
    for row in rows:
        for job in row.done:
            for arm in PIXELS & job.outcome.controls.keys():
                reached.setdefault(arm, []).append(job.outcome.controls[arm][job.score])
    tests = [row.test for row in rows if row.test is not None]
    if not reached or not tests:
        return []
    arm, score = max(((a, fmean(s)) for a, s in reached.items()), key=lambda pair: pair[1])
    above, n = sum(test > score for test in tests), len(tests)
    share = f"{above} of {n} settings {'is' if above == 1 else 'are'}" if above else "No setting is"
    text = f"The best baseline is {arm}, {percent(score)} %. {share} above it on the test images."
    return [Section(f"Baselines without a network{titled}", [text])]


def together(rows: Sequence[Row]) -> Paired | None:
    """The rows that have the seeds of the first one, which is the best, with their scores."""
    if not rows:
        return None
    seeds = sorted(by_seed(rows[0]))
    complete = [row for row in rows if {*seeds} <= by_seed(row).keys()]
    splits = [[validated(by_seed(row)[seed]) for seed in seeds] for row in complete]
    fewest = min(len(values) for row in splits for values in row)
    scores = np.array([[values[:fewest] for values in row] for row in splits], float)
    # scores that are equal up to rounding are tied
    return Paired(complete, scores.round(6), len(rows) - len(complete))


def by_seed(row: Row) -> dict[str, Job]:
    """The jobs that are done and validated."""
    return {repr(j.settings.get("seed")): j for j in row.done if j.val is not None}


def validated(job: Job) -> list[float]:
    """Validation scores by labelled split; of a run that does not name them, their mean."""
    return job.outcome.val_draws or [job.val or 0.0]


def named(comparison: Comparison, keys: Iterable[str], row: Row) -> str:
    """`optim=adam lr=0.01`"""
    return " ".join(
        f"{comparison.names[k]}={show(v)}" for k in keys if (v := row.settings.get(k)) is not None
    )


def best(
    comparison: Comparison,
    keys: list[str],
    paired: Paired | None,
    lost: list[Row],
    titled: str,
) -> Section:
    """How many settings validation cannot tell from the best one, and by how much it leads."""
    title = f"Best by validation{titled}"
    sentences = []
    if lost:
        jobs = ranges([job.name for row in lost for job in row.jobs])
        sentences.append(
            f"Diverged and not compared: {len(lost)} setting{'s' * (len(lost) > 1)} (jobs {jobs})."
        )
    if paired is None or len(paired.rows) < 2:
        return Section(title, sentences)
    if paired.left_out:
        sentences.append(
            f"{paired.left_out} settings lack seeds of the best one and are not compared."
        )
    k, seeds, splits = paired.scores.shape
    if seeds * splits == 1:
        top = paired.scores.max()
        ties = int((top - paired.scores < TIE).sum())
        tied = f"{ties} of {k} settings tie for the best by validation. " if ties > 1 else ""
        unknown = "Nothing is known of the noise between settings: each has one validation score."
        return Section(title, [*sentences, f"{tied}{unknown}"], last=f"{tied}{unknown}")
    proportion = proportions(paired.rows)
    picked = selection.pick(list(paired.scores), proportion=proportion)
    count = len(picked.contenders)
    sentences.append(
        f"{count} of {k} settings {'is' if count == 1 else 'are'} within noise of the best by "
        f"validation (the best included; 95 %, paired over {paired.over})."
    )
    if picked.optimism > 0:
        sentences.append(
            "The best one's validation score was chosen as the largest and is too high by about "
            f"{100 * picked.optimism:.1f} points (bootstrap of the choice); its test score is not."
        )
    if k > NEXT + 1:
        sentences.append(f"The table has the best {NEXT + 1} of them.")
    leader = paired.scores[picked.best]
    order = np.argsort(-paired.scores.mean((1, 2)), kind="stable")
    body = []
    for n in [picked.best, *(int(n) for n in order if n != picked.best)][: NEXT + 1]:
        row = paired.rows[n]
        cells = [show(row.settings.get(key)) for key in keys]
        cells.append(percent(float(paired.scores[n].mean())))
        if n == picked.best:
            cells += ["", "", "the best"]
        else:
            # one-sided at ALPHA / (k - 1), as in `selection.pick`
            mean, low, high = interval(leader - paired.scores[n], alpha=min(1, 2 * ALPHA / (k - 1)))
            cells += [percent(mean), between(low, high, proportion)]
            cells += ["within noise" if n in picked.contenders else "worse"]
        body.append(cells)
    head = [*(comparison.names[key] for key in keys), "val", "behind", "interval", ""]
    last = within_noise(count - 1, k - 1, len(lost) + paired.left_out)
    return Section(title, sentences, without_empty(head, body), last)


def within_noise(some: int, others: int, uncompared: int = 0) -> str:
    """`3 of the 26 others are within noise of it.`

    `uncompared` further settings are none of the others.
    """
    limit = " that could be compared" if uncompared else ""
    if others == 1:
        return f"The other one{limit} is {'' if some else 'not '}within noise of it."
    share = "None of the" if not some else "All" if some == others else f"{some} of the"
    return f"{share} {others} others{limit} {'is' if some < 2 else 'are'} within noise of it."


def between(low: float, high: float, proportion: bool) -> str:
    """An interval in points; empty without one, or of width 0, which proves nothing. Differences of
    proportions lie between -1 and 1, also where so few numbers are known that an interval does not."""
    if not np.isfinite([low, high]).all() or high - low < TIE:
        return ""
    if proportion:
        low, high = max(low, -1.0), min(high, 1.0)
    # one decimal would show an end beside zero as zero, and hide on which side it lies
    digits = 2 if any(0 < abs(100 * end) < 0.05 for end in (low, high)) else 1
    return f"{100 * low:+.{digits}f} to {100 * high:+.{digits}f}"


def proportions(rows: Iterable[Row]) -> bool:
    """Whether all scores are shares, from 0 to 1."""
    return all(is_proportion(job.score) for row in rows for job in row.done)


def effects(comparison: Comparison, keys: list[str], paired: Paired, titled: str) -> Section:
    """What each value of a key changes against the best setting's value, all else being equal.

    A pair are two settings that differ in the key alone; differences are averaged over pairs, and
    the interval is over seeds and labelled splits. The intervals of the table hold together.
    """
    leader = paired.rows[int(paired.scores.mean((1, 2)).argmax())]
    rows: list[tuple[str, str, str, int, Floats]] = []
    unpaired = []
    for key in keys:
        others = [k for k in keys if k != key]
        at: dict[str, dict[str, int]] = {}  # the other keys' values -> this one's -> setting
        for n, row in enumerate(paired.rows):
            block = repr([row.settings.get(k) for k in others])
            at.setdefault(block, {})[show(row.settings.get(key))] = n
        reference = show(leader.settings.get(key))
        values = dict.fromkeys(show(row.settings.get(key)) for row in paired.rows)
        before = len(rows)
        for value in values:
            pairs = [
                (b[value], b[reference]) for b in at.values() if {value, reference} <= b.keys()
            ]
            if value != reference and pairs:
                differences = [paired.scores[n] - paired.scores[m] for n, m in pairs]
                mean_SD = np.mean(differences, 0)
                rows.append((comparison.names[key], value, reference, len(pairs), mean_SD))
        if len(values) > 1 and len(rows) == before:
            unpaired.append(comparison.names[key])
    body = []
    for name, value, reference, count, difference_SD in rows:
        mean, low, high = interval(difference_SD, alpha=ALPHA / len(rows))
        body.append(
            [
                name,
                value or "null",
                reference or "null",
                percent(mean, "+"),
                between(low, high, proportions(paired.rows)),
                str(count),
            ]
        )
    sentences = []
    if rows:
        sentences.append(
            "Points of validation against the best setting's value, over pairs of settings that "
            f"differ in the key alone; intervals hold together at 95 %, over {paired.over}."
        )
    if unpaired:
        sentences.append(f"No two settings differ in {', '.join(unpaired)} alone.")
    head = ["key", "value", "against", "difference", "interval", "pairs"]
    return Section(f"Effect of each key{titled}", sentences, without_empty(head, body))


def gains(comparison: Comparison, keys: list[str], rows: list[Row], titled: str) -> list[Section]:
    """Each pretrainer at its best setting against scratch at scratch's own best setting.

    Both are chosen by validation. Scratch are the jobs with pretrainer=none: of the control arms
    of the others no validation is known. Rows that diverged count as searched, and are not chosen.
    """
    if "pretrainer" not in keys:
        return []
    chosen: dict[str, Row] = {}
    for row in (r for r in rows if not r.diverged):
        chosen.setdefault(str(row.settings.get("pretrainer")), row)
    scratch = chosen.pop("none", None)
    if not chosen:
        return []
    title = f"Gain over scratch at its own best setting{titled}"
    if scratch is None:
        why = (
            "Not known: with pretrainer=none in the sweep, each pretrainer's best setting is "
            "compared with scratch's own best one."
        )
        return [Section(title, [why])] if any(j.verdict for r in rows for j in r.done) else []
    others = [k for k in keys if k != "pretrainer"]
    searched = settings_searched(rows, others)
    of_scratch = searched["none"]
    sentences = []
    for name in [n for n in chosen if of_scratch == 1 < searched[n]]:
        del chosen[name]
        sentences.append(
            f"{name} is not compared: it is the best of {searched[name]} settings, scratch had one. "
            "Give pretrainer=none the same settings."
        )
    if not chosen:
        return [Section(title, sentences)]
    pairs, setting = {}, None
    for name, row in chosen.items():
        if pair := tested(row, scratch):
            pairs[name] = pair
            setting = setting_of(row.done[0].outcome, "scratch at its own best setting")
    if not pairs:
        return [Section(title, ["Not known: no seed is shared with pretrainer=none."])]
    if more := [f"{n} {searched[n]}" for n in pairs if searched[n] != of_scratch]:
        sentences.append(
            f"The searches were not equal: scratch had {of_scratch} settings, {', '.join(more)}."
        )
    data = scratch.done[0].outcome.data
    report = judge(pairs, setting, frozen(), [data.name] if data.name else [])
    body = []
    for name, verdict in report.verdicts.items():
        known = verdict.word != WITHHELD
        pair = pairs[name]
        body.append(
            [
                name,
                named(comparison, others, chosen[name]),
                percent(float(np.mean(pair.pretrained))),
                percent(float(np.mean(pair.scratch))),
                percent(verdict.difference, "+") if known else "",
                between(verdict.low, verdict.high, proportions(rows)) if known else "",
                verdict.word if known else verdict.text,
            ]
        )
    sentence = (
        f"Scratch at its best by validation: {named(comparison, others, scratch) or 'the only setting'}. "
        "Points of test, paired by seed and labelled split; test chooses nothing."
    )
    head = ["pretrainer", "best setting", "test", "scratch", "gain", "interval", "verdict"]
    return [Section(title, [sentence, *sentences], without_empty(head, body))]


def settings_searched(rows: list[Row], keys: list[str]) -> dict[str, int]:
    """Pretrainer -> the number of its settings that differ in what scratch has too.

    Settings of the pretraining alone do not count: scratch is the same in all of them.
    """
    shared = [k for k in keys if not k.startswith("pretrain")]
    found: dict[str, set[tuple[str, ...]]] = {}
    for row in rows:
        values = tuple(show(row.settings.get(key)) for key in shared)
        found.setdefault(str(row.settings.get("pretrainer")), set()).add(values)
    return {name: len(settings) for name, settings in found.items()}


def tested(row: Row, scratch: Row) -> Pair | None:
    """Test scores of two settings, paired by seed and split; None if they share no seed."""
    ours, theirs = by_seed(row), by_seed(scratch)
    seeds = sorted(ours.keys() & theirs.keys())
    jobs = [(ours[seed].outcome, theirs[seed].outcome) for seed in seeds]
    if not jobs:
        return None
    splits = min(len(result.draws.get(MAIN, [])) for pair in jobs for result in pair)
    if not splits:
        return None
    scores: Any = [[result.draws[MAIN][:splits] for result in pair] for pair in jobs]
    labels, data = str(row.settings.get("labels")), jobs[0][0].data
    pair = Pair(
        [ours for ours, _ in scores],
        [theirs for _, theirs in scores],
        all_labels=(labels == "all" or labels.endswith(".csv")) and data.ratio == 0,
    )
    faults = [
        [(of[seed].faults(MAIN) or [""] * splits)[:splits] for seed in seeds]
        for of in (ours, theirs)
    ]
    return health.noted(pair, *faults)


def over_seeds(
    comparison: Comparison, keys: list[str], rows: list[Row], titled: str
) -> list[Section]:
    """The gain of each setting that ran with several pretraining seeds, over scratch with the same
    settings. Nothing is chosen, and all verdicts hold together."""
    pairs = {named(comparison, keys, row): pair for row in rows if (pair := matched(row))}
    if not pairs:
        return []
    result = next(row for row in rows if matched(row)).done[0].outcome
    setting = setting_of(result, "the same model from scratch")
    report = judge(pairs, setting, frozen(), [result.data.name] if result.data.name else [])
    title = f"Gain over scratch, for other pretraining seeds and label sets{titled}"
    if len(pairs) == 1:
        (name, verdict), (pair,) = *report.verdicts.items(), pairs.values()
        over = f"over {len(pair.scratch)} seeds and {len(pair.scratch[0])} labelled splits"
        text = f"{verdict.text} It is judged {over}, crossed."
        return [Section(title, [f"{name}: {text}" if name else text], last=verdict.text)]
    body = []
    for name, verdict in report.verdicts.items():
        known = verdict.word != WITHHELD
        body.append(
            [
                name,
                str(len(pairs[name].scratch)),
                percent(float(np.mean(pairs[name].pretrained))),
                percent(float(np.mean(pairs[name].scratch))),
                percent(verdict.difference, "+") if known else "",
                between(verdict.low, verdict.high, proportions(rows)) if known else "",
                verdict.word if known else verdict.text,
            ]
        )
    sentence = "Against scratch with the same settings, crossed over seeds and labelled splits; all verdicts hold together."
    head = ["setting", "seeds", "test", "scratch", "gain", "interval", "verdict"]
    return [Section(title, [sentence], without_empty(head, body))]


def matched(row: Row) -> Pair | None:
    """Test scores of a setting and of its scratch arm by seed and labelled split; None unless several
    pretraining seeds have both."""
    if not row.judged_together:
        return None
    jobs = sorted(row.done, key=lambda job: repr(job.settings.get("seed")))
    draws = [job.outcome.draws for job in jobs]
    splits = min(len(of[arm]) for of in draws for arm in (MAIN, SCRATCH))
    labels, data = str(row.settings.get("labels")), jobs[0].outcome.data
    pair = Pair(
        [list(of[MAIN][:splits]) for of in draws],
        [list(of[SCRATCH][:splits]) for of in draws],
        all_labels=(labels == "all" or labels.endswith(".csv")) and data.ratio == 0,
    )
    faults = [[job.faults(arm)[:splits] for job in jobs] for arm in (MAIN, SCRATCH)]
    return health.noted(pair, *faults)


def setting_of(result: Results, against: str) -> Setting:
    """What the verdicts of a sweep have in common; `against` names the control in words."""
    return Setting(
        tested=result.data.test,
        ratio=result.data.ratio,
        score=result.score_name,
        against=against,
        proportion=is_proportion(result.score),
        points=True,
    )
