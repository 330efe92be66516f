"""Which pretrainer, strategy and optimizer for these labels?

Successive halving by validation within the label budget.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from sft_exp.compare.comparison import Job, collect, percent
from sft_exp.config import recipe
from sft_exp.core.arms import MAIN
from sft_exp.errors import require
from sft_exp.store.results import is_proportion
from sft_exp.sweep.study import Conclusion, Study, archive_of, cost, dataset_of
from sft_exp.verdict import selection

KEYS = ("pretrainer", "strategy", "optim", "optim.lr")
HEAD = [*KEYS, "steps", "val", "test"]


@dataclass
class Choose(Study):
    reserved_keys: ClassVar[dict[str, str]] = {
        "pretrainer": "study.pretrainers",
        "strategy": "study.strategies",
        "optim": "study.optims",
        "optim.lr": "study.rates",
    }

    # the control, the best of guidance.knowledge, and two that predict images
    pretrainers: list[str] = field(default_factory=lambda: ["none", "vicreg", "dae", "vae"])
    strategies: list[str] = field(default_factory=lambda: ["full", "linear"])
    optims: list[str] = field(default_factory=lambda: ["adam", "sgd"])
    # learning rates, the same for all; empty = each optimizer's own
    rates: list[float] = field(default_factory=lambda: [])
    # folder of the same grid run in full, to compare the pick with its best
    against: str | None = None

    def __post_init__(self):
        super().__post_init__()
        for name in ("pretrainers", "strategies", "optims"):
            require(bool(getattr(self, name)), name, getattr(self, name), "a list of options")
        require(all(r > 0 for r in self.rates), "rates", self.rates, "a list of numbers above 0")

    def grid(self):
        ranges: dict[str, list] = {
            "pretrainer": self.pretrainers,
            "strategy": self.strategies,
            "optim": self.optims,
            "optim.lr": self.rates,
        }
        return {key: ",".join(map(str, values)) for key, values in ranges.items() if values}

    def conclude(self, jobs, looks=()):
        order = sorted(jobs, key=lambda j: (-steps(j), -(j.val or 0.0)))
        best = order[0]
        picked = {key: best.settings[key] for key in KEYS}
        config, options = alone(best.outcome.config), best.outcome.choices
        command = recipe.command(recipe.overrides(config, options))
        sentences = [
            f"Take {' '.join(f'{k}={v}' for k, v in picked.items())}: validation {percent(best.val)} %."
        ]
        if others := self.contenders(jobs, best):
            sentences.append(others)
        if self.against:
            grid = collect([Path(self.against)])
            sentences.append(f"{distance(best, grid)} {share(jobs, grid)}")
        return Conclusion(
            f"Choice for {best.settings['dataset']}, labels={best.settings['labels']}",
            sentences,
            (
                HEAD,
                [
                    [
                        *(str(j.settings[k]) for k in KEYS),
                        str(steps(j)),
                        percent(j.val),
                        percent(j.test),
                    ]
                    for j in order
                ],
            ),
            ["optim.lr", "steps", "val", "test"],
            [
                "The choice is made by validation within the label budget; test is for reading, not "
                "for choosing.",
                f"Cost: {cost(jobs):.0f} s of computing.",
            ],
            facts={"best": picked, "val": best.val, "test": best.test, "run": command},
            files={
                "best.yaml": recipe.experiment(
                    config, options, f"Chosen by study=choose: {command}"
                )
            },
            command=command,
        )

    def contenders(self, jobs: list[Job], best: Job) -> str:
        """Which candidates are not told from the pick on the test images, among those of the last rung that holds several.
        Empty where no rung does. Test scores choose nothing here: the pick is made."""
        lengths = [steps(job) for job in jobs if job.outcome.draws.get(MAIN)]
        shared = [length for length in lengths if lengths.count(length) > 1]
        if not shared:
            return ""
        rung = [j for j in jobs if steps(j) == max(shared) and j.outcome.draws.get(MAIN)]
        archive = archive_of(self.archive)
        picked = selection.pick(
            [[job.outcome.draws[MAIN]] for job in rung],
            archive.leaving_out({dataset_of(rung)}).prior if archive else None,
            rung[0].outcome.data.test,
            is_proportion(rung[0].score),
        )
        level = [named(rung[index]) for index in picked.contenders]
        others = [name for name in level if name != named(best)]
        at = f"At {max(shared)} steps, where {len(rung)} candidates were compared, the test images"
        if named(best) not in level:
            return f"{at} show better ones: {'; '.join(others)}."
        if not others:
            return f"{at} show no other candidate that is within noise of it."
        return f"{at} show others within noise of the best: {'; '.join(others)}."


def named(job: Job) -> str:
    return " ".join(f"{key}={job.settings[key]}" for key in KEYS)


def steps(job: Job) -> int:
    return int(job.settings["finetune.steps"])


def alone(config: dict[str, Any]) -> dict[str, Any]:
    """The config of a single run that ends in the same numbers as a job of the last rung."""
    finetune = {**config["finetune"], "resume_from": None}
    length = finetune["epochs"] if finetune["steps"] is None else finetune["steps"]
    if finetune["schedule_length"] == length:
        finetune["schedule_length"] = None
    return {**config, "finetune": finetune}


def share(jobs: list[Job], grid: list[Job]) -> str:
    """The cost of the halving beside that of the full grid."""
    spent, full = cost(jobs), cost([j for j in grid if j.result])
    return (
        f"It cost {spent:.0f} s of computing, the full grid {full:.0f} s: {spent / full:.2f} of it."
    )


def distance(best: Job, grid: list[Job]) -> str:
    """How far the pick is behind the best of the full grid, by the grid's test scores."""
    same = [j for j in grid if j.result and all(j.settings[k] == best.settings[k] for k in KEYS)]
    reached = max((j for j in grid if j.result), key=lambda j: j.test or 0.0, default=None)
    if not same or reached is None:
        return "The full grid does not hold the pick, so its distance from the best is unknown."
    behind = (reached.test or 0.0) - (same[0].test or 0.0)
    settings = " ".join(f"{k}={reached.settings[k]}" for k in KEYS)
    return (
        f"In the full grid the pick is {100 * behind:.1f} points of test {same[0].score_name} behind "
        f"its best ({settings}, {percent(reached.test)} %)."
    )
