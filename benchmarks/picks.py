"""Whether the interval of a pick holds: 50 picks of `study=choose`'s candidates on the digits.

    python -m benchmarks picks FOLDER

Every candidate but FixMatch is run with ten pretraining seeds on 15 labelled splits. A pick is made for each
seed and each three of the splits as the study makes it: by cross-validation on these splits. Its gain over the
candidate from scratch is judged as the study judges it, and compared with the gain of the same candidate over
all seeds and splits. Runs that are in FOLDER already are not repeated.
"""

from pathlib import Path
from statistics import fmean

import sft_exp
from sft_exp.config import build, compose
from sft_exp.core.arms import MAIN
from sft_exp.jobs import prepare
from sft_exp.store.results import Results
from sft_exp.studies.choose import FROM_SCRATCH, Choose
from sft_exp.sweep.timed import Candidate, cross_validated, limits, preferred
from sft_exp.verdict import Comparison, Setting, judge
from sft_exp.verdict.archive import frozen
from sft_exp.verdict.rule import ALPHA

SEEDS, SPLITS, DRAWS = 10, 15, 3
STEPS = {"pretrain": 300, "finetune": 100, "scratch": 250}
BASE = ["dataset=digits", "labels=10", "tracker=none", "report=false", "seeds=1"]


def main(words: list[str]) -> None:
    folder = Path(words[0]).resolve()
    values, choices = compose.compose(BASE)
    job = prepare.prepare(build.experiment(values, choices))
    study = Choose(budget="10min")
    candidates = [
        c for c in study.candidates(job.corpus, job.experiment) if "FixMatch" not in c.name
    ]
    results = [
        {candidate.name: run(candidate, seed, folder) for candidate in candidates}
        for seed in range(SEEDS)
    ]
    means = {
        c.name: fmean(fmean(result[c.name].draws[MAIN]) for result in results) for c in candidates
    }
    for name, mean in sorted(means.items(), key=lambda pair: -pair[1]):
        print(f"{100 * mean:5.1f}  {name}")
    frozen_ones = [candidate.name for candidate in candidates if candidate.frozen]
    picks, held, words_said = [], [], []
    for result in results:
        for first in range(0, SPLITS, DRAWS):
            part = slice(first, first + DRAWS)
            scores = {n: fmean(result[n].val_draws[part]) for n in result}
            name = preferred(scores, frozen_ones, result[FROM_SCRATCH].data.labelled)
            picks.append(name)
            if name == FROM_SCRATCH:  # which is compared with nothing
                continue
            verdict = judged(result[name], result[FROM_SCRATCH], part, len(candidates) - 1)
            held.append(verdict.low <= means[name] - means[FROM_SCRATCH] <= verdict.high)
            words_said.append(verdict.word)
    for name in means:
        print(f"{picks.count(name):3} picks of {name}")
    regrets = [100 * (max(means.values()) - means[name]) for name in picks]
    print(
        f"{sum(held)} of {len(held)} intervals hold; regret {fmean(regrets):.1f} points in the mean"
    )
    print(", ".join(f"{word} {words_said.count(word)}" for word in dict.fromkeys(words_said)))


def run(candidate: Candidate, seed: int, folder: Path) -> Results:
    steps = STEPS["scratch" if candidate.from_scratch else "finetune"]
    words = [
        *BASE,
        *candidate.overrides,
        *cross_validated(SPLITS),
        *limits(STEPS["pretrain"], steps),
        f"seed={seed}",
        f"store={folder}/store",
    ]
    place = folder / candidate.name.replace(", ", "-").replace(" ", "_") / str(seed)
    return sft_exp.run(words, place).result


def judged(pick: Results, scratch: Results, part: slice, choices: int):
    comparison = Comparison([pick.draws[MAIN][part]], [scratch.draws[MAIN][part]])
    setting = Setting(tested=pick.data.test, ratio=pick.data.ratio, alpha=ALPHA / choices)
    return judge({MAIN: comparison}, setting, frozen(), ["digits"]).verdicts[MAIN]
