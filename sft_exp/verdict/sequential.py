"""Sequential looks at a growing study, with a false word in at most 5 % of reports in all.

Each look judges the runs so far by the rule of a single report at its own alpha. The alphas sum to
0.05, so that the promise holds by Boole's inequality, however the looks depend on each other: unlike
the boundaries of Pocock or O'Brien and Fleming it assumes nothing about information or increments. A
word is final. Later looks have more alpha, because early ones have too few degrees of freedom to use
it.

Holm's share of a comparison that *differs* passes to the others of the same look. That of one called
too small to matter, or stopped as hopeless, does not: it may still be a true null hypothesis.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from sft_exp.errors import ConfigError
from sft_exp.verdict.archive import Archive
from sft_exp.verdict.design import DRAW, SEED, Floats
from sft_exp.verdict.evidence import Evidence, Moments, forecast
from sft_exp.verdict.rule import MARGIN, Comparison, Report, Setting, judge, prepare
from sft_exp.verdict.words import CANNOT_TELL, HELPED, HURT, SMALL, WORDS, Verdict

LOOKS = ((2, 4), (3, 6), (4, 8), (6, 10), (8, 12))  # seeds and draws
ALPHAS = (0.005, 0.0075, 0.01, 0.0125, 0.015)
DRIFT = 1.0  # standard errors by which a mean may move before a comparison counts as hopeless
Key = str  # the name of a comparison


@dataclass(frozen=True)
class Look:
    """The outcome of one look, stored with a result: a rerun with more seeds is a further look."""

    seeds: int
    draws: int
    alpha: float  # spent by this look
    words: dict[Key, str]  # of all comparisons, those decided by earlier looks included
    going: frozenset[Key]  # comparisons that continue
    hopeless: frozenset[Key]  # comparisons stopped because the last look would hardly give a word

    def record(self) -> dict[str, Any]:
        """The look for a JSON file; the keys of comparisons must be texts."""
        return asdict(self) | {k: sorted(map(str, getattr(self, k))) for k in ("going", "hopeless")}

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> "Look":
        """The look that `record` wrote."""
        sets = {name: frozenset(record[name]) for name in ("going", "hopeless")}
        return cls(**{**record, **sets})


def spent(history: Sequence[Look]) -> float:
    """Alpha spent so far, of 0.05 in all."""
    return sum(look.alpha for look in history)


def next_design(history: Sequence[Look]) -> tuple[int, int] | None:
    """Seeds and draws of the next planned look; None after the last, or if no comparison goes on."""
    if history and not history[-1].going:
        return None
    done = (history[-1].seeds, history[-1].draws) if history else (0, 0)
    return next((plan for plan in LOOKS if plan[0] > done[0] or plan[1] > done[1]), None)


def alpha_of(history: Sequence[Look], seeds: int, draws: int) -> float:
    """Alpha of a look at these seeds and draws: the next of the plan.

    It is 0 if there are no new runs, or all alpha is spent.

    Raises:
        ConfigError: an earlier look had more seeds or draws.
    """
    if history:
        last = history[-1]
        if seeds < last.seeds or draws < last.draws:
            raise ConfigError(
                "look",
                f"{seeds}x{draws}",
                f"must hold the {last.seeds}x{last.draws} seeds and draws of the look before",
            )
        if (seeds, draws) == (last.seeds, last.draws):
            return 0.0
    used = sum(look.alpha > 0 for look in history)
    return ALPHAS[used] if used < len(ALPHAS) else 0.0


def step(
    word: np.ndarray,
    stopped: np.ndarray,
    evidence: Evidence,
    moments: Moments,
    weights: Floats,
    alpha: float,
    margin: float = MARGIN,
) -> tuple[np.ndarray, np.ndarray]:
    """One look at m comparisons of ... reports: the words [..., m] after it, and which comparisons
    are stopped as hopeless [..., m].

    Args:
        word: indices into WORDS before the look.
        stopped: comparisons that were stopped before.
    """
    open_ = (word == CANNOT_TELL) & ~stopped
    if alpha > 0:
        p = np.where(open_ & ~evidence.without_noise(), evidence.p_difference(alpha), 1.0)
        q = np.where(open_ & ~evidence.without_noise(), evidence.p_equivalence(margin, alpha), 1.0)
        differs = (word == HELPED) | (word == HURT)
        small = word == SMALL
        new_differs = holm_after(p, weights, alpha, differs)
        new_small = holm_after(q, weights, alpha, small)
        sign = np.where(evidence.mean > 0, HELPED, HURT)
        word = np.where(new_small, SMALL, np.where(new_differs, sign, word))
    (seeds, draws), share = LOOKS[-1], ALPHAS[-1] * weights / weights.sum()
    last = forecast(evidence, moments, seeds, draws).half(share)
    error = DRIFT * np.sqrt(
        np.maximum(evidence.variances[..., SEED] + evidence.variances[..., DRAW], 0)
    )
    mean = np.abs(evidence.mean)
    hopeless = (mean + error < last) & (mean - error + last > margin)
    return word, stopped | ((word == CANNOT_TELL) & hopeless)


def holm_after(p: Floats, weights: Floats, alpha: float, rejected: np.ndarray) -> np.ndarray:
    """Newly rejected hypotheses [..., m] of Holm's step-down test, given those already `rejected`."""
    done = np.zeros(p.shape, bool)
    while True:
        left = np.where(rejected | done, 0.0, weights).sum(-1, keepdims=True)
        new = ~rejected & ~done & (p <= alpha * weights / np.where(left > 0, left, 1.0))
        if not new.any():
            return done
        done |= new


def look(
    history: Sequence[Look],
    keys: Sequence[Key],
    evidence: Evidence,
    moments: Moments,
    weights: Mapping[Key, float] | None = None,
    margin: float = MARGIN,
    keep_going: Collection[Key] = (),
    design: tuple[int, int] | None = None,
) -> Look:
    """Judge a study at its present size, given the looks before.

    Args:
        keys: names of the m comparisons, the same at every look.
        evidence: of the m comparisons, by `evidence.weigh`.
        keep_going: comparisons that are not stopped even if hopeless.
        design: seeds and draws of this look; by default the largest numbers of any comparison.
    """
    if history and set(history[-1].words) != set(keys):
        raise ConfigError(
            "look", sorted(map(str, keys)), "must hold the comparisons of the looks before"
        )
    seeds, draws = design or (int(moments.seeds.max()), int(moments.draws.max()))
    before = history[-1].words if history else dict.fromkeys(keys, "cannot tell")
    halted = history[-1].hopeless if history else frozenset()
    alpha = alpha_of(history, seeds, draws)
    word, stopped = step(
        np.array([WORDS.index(before[k]) for k in keys]),
        np.array([k in halted for k in keys]),
        evidence,
        moments,
        np.array([1.0 if weights is None else weights[k] for k in keys]),
        alpha,
        margin,
    )
    words = {k: WORDS[int(w)] for k, w in zip(keys, word, strict=True)}
    hopeless = frozenset(k for k, s in zip(keys, stopped, strict=True) if s and k not in keep_going)
    going = frozenset(k for k in keys if words[k] == "cannot tell" and k not in hopeless)
    end = next_design([Look(seeds, draws, alpha, words, going, hopeless)]) is None
    return Look(seeds, draws, alpha, words, frozenset() if end else going, hopeless)


def take(
    history: Sequence[Look],
    comparisons: Mapping[Key, Comparison],
    design: tuple[int, int],
    setting: Setting,
    archive: Archive | None,
    without: Collection[str] = (),
) -> Look:
    """The look at a study's comparisons at `design`, given the looks before.

    A comparison whose control failed to train takes no part: it keeps its word and does not go on.
    """
    archive = archive.leaving_out(without) if archive else None
    sound = {key: c for key, c in comparisons.items() if not c.scratch_failed}
    before = history[-1] if history else None
    earlier = [replace(h, words={k: h.words[k] for k in sound}) for h in history]
    failed = {
        k: before.words[k] if before else "cannot tell" for k in comparisons if k not in sound
    }
    if not sound:
        return Look(*design, 0.0, dict(failed), frozenset(), frozenset(failed))
    context = prepare(sound, setting, archive)
    weights = {key: c.weight for key, c in sound.items()}
    outcome = look(
        earlier,
        list(sound),
        context.evidence(context.prior),
        context.moments,
        weights,
        setting.margin,
        design=design,
    )
    return replace(outcome, words=outcome.words | failed)


def retake(
    history: Sequence[Look],
    comparisons: Mapping[Key, Comparison],
    setting: Setting,
    archive: Archive | None,
    without: Collection[str] = (),
) -> list[Look]:
    """The looks at the designs of `history`, taken again from the scores of the finished study."""
    retaken: list[Look] = []
    for past in history:
        at = {k: up_to(c, past.seeds, past.draws) for k, c in comparisons.items()}
        retaken.append(take(retaken, at, (past.seeds, past.draws), setting, archive, without))
    return retaken


def conclude(
    history: Sequence[Look],
    comparisons: Mapping[Key, Comparison],
    setting: Setting,
    archive: Archive | None,
    without: Collection[str] = (),
) -> Report[Key]:
    """The report after the last look.

    Each comparison has the word, the interval and the text of the look that decided it, or of the
    last one that it took part in, at that look's alpha: all intervals together hold at 1 - the alpha
    spent.
    """
    verdicts: dict[Key, Verdict] = {}
    report: Report[Key] | None = None
    for n, past in enumerate(history):
        words = {k: past.words[k] for k in comparisons}
        at = {k: up_to(c, past.seeds, past.draws) for k, c in comparisons.items()}
        report = judge(at, replace(setting, alpha=past.alpha), archive, without, words)
        open_before = history[n - 1].going if n else frozenset(comparisons)
        verdicts |= {k: report.verdicts[k] for k in comparisons if k in open_before}
    if report is None:
        raise ConfigError("looks", 0, "must be one or more")
    return replace(report, verdicts={k: verdicts[k] for k in comparisons})


def up_to(comparison: Comparison, seeds: int, draws: int) -> Comparison:
    """The comparison with at most so many seeds and draws."""
    arms = (
        [list(r[:draws]) for r in arm[:seeds]]
        for arm in (comparison.pretrained, comparison.scratch)
    )
    pretrained, scratch = arms
    trained = None if comparison.trained is None else comparison.trained[:seeds]
    return replace(comparison, pretrained=pretrained, scratch=scratch, trained=trained)
