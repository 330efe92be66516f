"""How far the picks of `study=choose` in given minutes are behind the best candidate.

    python -m benchmarks regret FOLDER [SPLITS]

FOLDER is that of a finished study. Every candidate that it tried is run with the study's numbers of
steps on SPLITS labelled splits (default 5), with validation, in a table of all scores. The regret of
a split is the test score of the best candidate, less that of the one which validation on this split
alone prefers; test scores are means over all splits. Trainings of the study come from its store.
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean

from sft_exp.store import results
from sft_exp.sweep import timed
from sft_exp.sweep.job_list import listed
from sft_exp.sweep.sweeps import COMMON
from sft_exp.sweep.timed import preferred

STUDY = ("study=", "study.", "minutes=", "hydra.", "plan=", "report=", "tracker=")
TRIAL = ("draws=", "val=", "controls=")


def main(words: list[str]) -> None:
    folder, splits = Path(words[0]), int(words[1]) if words[1:] else 5
    trials = timed.read(folder)
    assert trials is not None
    common = json.loads((folder / COMMON).read_text())
    base = [word for word in common if not word.startswith(STUDY)]
    scores: dict[str, results.Results] = {}
    for number, trial in enumerate(trials.jobs):
        if trial.phase != "first":
            continue
        run = folder / "regret" / str(number)
        own = [word for word in trial.overrides if not word.startswith(TRIAL)]
        command = [
            *(sys.executable, "-m", "sft_exp", *listed([base], [own])[0]),
            *(f"draws={splits}", "val=cv", "controls=false", "tracker=none", "report=false"),
            f"hydra.run.dir={run}",
        ]
        subprocess.run(command, check=True, capture_output=True)
        scores[trial.name] = results.read(run)
    print(table(scores, trials.skipped), regret(scores), sep="\n\n")


def table(scores: dict[str, results.Results], skipped: dict[str, str]) -> str:
    """All candidates, the best on the test images first."""
    ranked = sorted(scores.items(), key=lambda pair: -fmean(pair[1].draws["pretrained"]))
    lines = ["| candidate | validation, each split | test, each split | test, mean |"]
    lines += ["| --- | --- | --- | ---: |"]
    for name, result in ranked:
        tested = result.draws["pretrained"]
        cells = [name, percents(result.val_draws), percents(tested), percents([fmean(tested)])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *(f"| {name} | not tried | | |" for name in skipped)])


def regret(scores: dict[str, results.Results]) -> str:
    means = {name: fmean(result.draws["pretrained"]) for name, result in scores.items()}
    splits = min(len(result.val_draws) for result in scores.values())
    frozen = [name for name, result in scores.items() if is_frozen(result)]
    images = next(iter(scores.values())).data.labelled
    picks = [
        preferred({name: result.val_draws[n] for name, result in scores.items()}, frozen, images)
        for n in range(splits)
    ]
    behind = [100 * (max(means.values()) - means[name]) for name in picks]
    pairs = ", ".join(f"{name} {points:.1f}" for name, points in zip(picks, behind, strict=True))
    return f"Regret of {splits} picks: {fmean(behind):.1f} points in the mean ({pairs})."


def is_frozen(result: results.Results) -> bool:
    """`Candidate.frozen` of a run."""
    return result.choices["strategy"] != "full" and result.choices["pretrainer"] not in (
        "none",
        "imagenet",
    )


def percents(shares: list[float]) -> str:
    return ", ".join(f"{100 * share:.1f}" for share in shares)
