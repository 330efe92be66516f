"""`hydra/sweeper=halving`: all candidates on a small budget, the best third go on with three times as much, and so on.

Jamieson & Talwalkar, arXiv:1502.07943. Continuing is cheap, because a longer budget with the same horizon starts from the
checkpoint of the shorter one, and ends in the bits of the undisturbed long run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, isnan
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class HalvingConf:
    _target_: str = "hydra_plugins.sft_exp_halving.HalvingSweeper"
    # the key that a rung sets: finetune.steps, finetune.epochs or pretrain.epochs
    budget: str = "finetune.steps"
    least: int = 100  # of it, in the first rung
    factor: int = 3  # times as much in each rung after it, for one candidate in so many
    params: Any = field(default_factory=dict)  # as Hydra's basic sweeper: key -> what is swept


ConfigStore.instance().store(
    group="hydra/sweeper", name="halving", node=HalvingConf, provider="sft_exp"
)


class HalvingSweeper(Sweeper):
    def __init__(self, budget: str, least: int, factor: int, params: Any):
        self.budget, self.least, self.factor, self.params = (
            budget,
            least,
            factor,
            dict(params or {}),
        )

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.config, self.context = config, hydra_context
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[str]:
        """Runs the rungs; gives the overrides of the one that is left. A failed job counts as the worst."""
        given = [*(f"{k}={v}" for k, v in self.params.items()), *arguments]
        overrides = OverridesParser.create(
            config_loader=self.context.config_loader
        ).parse_overrides(given)
        (candidates,) = BasicSweeper.split_arguments(overrides, None)
        left, rungs = list(candidates), self.rungs(len(candidates))
        schedule_length, number = rungs[-1], 0
        for rung, budget in enumerate(rungs):
            jobs = [
                [*c, *self.limits(budget, schedule_length, rungs[rung - 1] if rung else None)]
                for c in left
            ]
            scores = [
                float(r.return_value) for r in self.launcher.launch(jobs, initial_job_idx=number)
            ]
            number += len(jobs)
            order = sorted(
                range(len(left)),
                key=lambda i: (isnan(scores[i]), -scores[i] if not isnan(scores[i]) else 0.0),
            )
            left = [left[i] for i in order[: max(1, ceil(len(left) / self.factor))]]
        return list(left[0])

    def rungs(self, candidates: int) -> list[int]:
        """Budgets of the rungs: as many as it takes until one candidate is left."""
        budgets = [self.least]
        while candidates > 1:
            candidates = ceil(candidates / self.factor)
            budgets.append(budgets[-1] * self.factor)
        return budgets

    def limits(self, budget: int, schedule_length: int, before: int | None) -> Sequence[str]:
        stage = self.budget.partition(".")[0]
        going_on = [] if before is None else [f"{stage}.resume_from={before}"]
        return [f"{self.budget}={budget}", f"{stage}.schedule_length={schedule_length}", *going_on]
