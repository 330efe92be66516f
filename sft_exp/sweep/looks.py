"""The looks of a study that goes on until it is decided: `study.until=decided`.

The looks taken so far, with the alpha that each has spent, lie in the sweep's folder as looks.json. The same command again reads
them, so that no look is taken, and no alpha spent, twice.
"""

from collections.abc import Sequence
from pathlib import Path

from sft_exp.compare import comparison
from sft_exp.progress import console
from sft_exp.store import atomic_io
from sft_exp.sweep.study import LOOKS_FILE, Study, cost, looks_in, seconds_of
from sft_exp.verdict.sequential import LOOKS, Look


def take(study: Study, folder: Path, number: int) -> set[str]:
    """Look at the sweep's results for the `number`-th time (from 0), unless that was done before, and keep the look.

    Returns:
        The comparisons that go on.
    """
    history, jobs = looks_in(folder), comparison.collect([folder])
    done = [j for j in jobs if j.result]
    if number < len(history):
        return set(history[number].going)
    if len(done) < len(jobs) or not done:
        # failed jobs: a look at a part of the design would not be the one that was planned
        return set()
    look = study.look(done, history, LOOKS[number])
    history.append(look)
    atomic_io.write_json(folder / LOOKS_FILE, [h.record() for h in history])
    said = [f"{key}: {word}" for key, word in look.words.items() if word != "cannot tell"]
    stopped = [
        f"{key}: stopped, more runs would hardly tell" for key in sorted(map(str, look.hopeless))
    ]
    console.print(
        f"look {number + 1} of {len(LOOKS)} ({look.seeds} seeds, {look.draws} draws; "
        f"{100 * sum(h.alpha for h in history):.2g} of 5 % spent): "
        f"{'; '.join([*said, *stopped]) or 'nothing is decided yet'}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if look.going and study.budget and number + 1 < len(LOOKS) and over(study, done, history):
        console.print(
            f"study.budget={study.budget} is not enough for the next look", highlight=False
        )
        return set()
    return set(map(str, look.going))


def over(study: Study, jobs: list[comparison.Job], history: Sequence[Look]) -> bool:
    """Whether the next look would cost more than is left of the budget, if a run costs what one has cost so far."""
    spent, (seeds, draws) = cost(jobs), LOOKS[len(history)]
    last = history[-1]
    growth = seeds * draws / (last.seeds * last.draws)
    share = len(last.going) / len(last.words)
    return spent * (1 + share * (growth - 1)) > seconds_of(study.budget or "")
