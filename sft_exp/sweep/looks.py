"""The looks of a study that goes on until it is decided: `study.until=decided`.

looks.json in the sweep's folder records the looks taken so far and the alpha that each spent. The
same command reads it again, so that no look is taken, and no alpha spent, twice.
"""

from collections.abc import Sequence
from pathlib import Path

from sft_exp.compare import comparison
from sft_exp.progress import console
from sft_exp.store import atomic_io
from sft_exp.sweep.study import LOOKS_FILE, Study, cost, looks_in, seconds_of
from sft_exp.verdict.sequential import LOOKS, Look


def take_look(study: Study, folder: Path, number: int) -> set[str]:
    """Take look `number` (from 0) at a sweep's results and record it, unless it was taken before.

    Returns:
        The comparisons that are not decided yet, for which the next look's jobs run.
    """
    history, jobs = looks_in(folder), comparison.collect([folder])
    done = [j for j in jobs if j.result]
    if number < len(history):
        return set(history[number].going)
    if len(done) < len(jobs) or not done:
        # with failed jobs the look would not be at the planned design
        return set()
    look = study.look(done, history, LOOKS[number])
    history.append(look)
    atomic_io.write_json(folder / LOOKS_FILE, [h.record() for h in history])
    decided = [f"{key}: {word}" for key, word in look.words.items() if word != "cannot tell"]
    stopped = [
        f"{key}: stopped, more runs would hardly be enough to tell"
        for key in sorted(map(str, look.hopeless))
    ]
    console.message(
        f"look {number + 1} of {len(LOOKS)} ({look.seeds} seeds, {look.draws} draws; "
        f"{100 * sum(h.alpha for h in history):.2g} of 5 % spent): "
        f"{'; '.join([*decided, *stopped]) or 'nothing is decided yet'}"
    )
    if (
        look.going
        and study.budget
        and number + 1 < len(LOOKS)
        and exceeds_budget(study, done, history)
    ):
        console.message(f"study.budget={study.budget} is not enough for the next look")
        return set()
    return set(map(str, look.going))


def exceeds_budget(study: Study, jobs: list[comparison.Job], history: Sequence[Look]) -> bool:
    """Whether the next look would exceed the budget, at the average cost of a run so far."""
    spent, (seeds, draws) = cost(jobs), LOOKS[len(history)]
    last = history[-1]
    growth = seeds * draws / (last.seeds * last.draws)
    share = len(last.going) / len(last.words)
    return spent * (1 + share * (growth - 1)) > seconds_of(study.budget or "")
