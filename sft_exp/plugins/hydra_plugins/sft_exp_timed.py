"""Hydra's launcher on the jobs that a study in a given time chooses as it goes.

Nobody chooses it by hand: `sft_exp/sweep/sweeps.py` puts it in the place of the study's own sweeper where `study.budget`
is given.
"""

import time
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from sft_exp.errors import ConfigError
from sft_exp.progress import console
from sft_exp.sweep import timed
from sft_exp.sweep.job_list import listed


class TimedSweeper(Sweeper):
    def __init__(self, budget: str, candidates: Sequence[Mapping[str, Any]], params: Any):
        """`candidates`: the fields of `timed.Candidate` of each."""
        self.budget, self.params = budget, dict(params or {})
        self.candidates = [
            timed.Candidate(**{**c, "overrides": list(c["overrides"])}) for c in candidates
        ]

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.began, self.folder = time.monotonic(), Path(config.hydra.sweep.dir)
        self.context = hydra_context
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the study's phases.

        Raises:
            ConfigError: the command ranges over values of its own.
        """
        from sft_exp.execution import pool  # late, as the next: imports torch
        from sft_exp.store import results  # pydantic
        from sft_exp.sweep.study import seconds_of

        parsed = OverridesParser.create(config_loader=self.context.config_loader)
        given = [*(f"{k}={v}" for k, v in self.params.items()), *arguments]
        (batch,) = BasicSweeper.split_arguments(parsed.parse_overrides(given), None)
        if len(batch) > 1:
            valid = "chooses its jobs itself; give every other key one value"
            raise ConfigError("study.budget", self.budget, valid)
        returned: list[JobReturn] = []

        def launch(overrides: list[str], number: int) -> float | None:
            returned.extend(
                self.launcher.launch(listed(batch, [overrides]), initial_job_idx=number)
            )
            score = float(returned[-1].return_value)
            return None if isnan(score) else score

        def result(number: int) -> results.Results:
            hydra: Any = returned[number].hydra_cfg
            return results.read(Path(hydra.hydra.runtime.output_dir))

        def stage_seconds(number: int) -> dict[str, float]:
            stages = result(number).stages
            assert stages.pretrain is not None
            assert stages.finetune is not None
            return {"pretrain": stages.pretrain.seconds, "finetune": stages.finetune.seconds}

        def say(line: str) -> None:
            console.print(line, highlight=False, markup=False, soft_wrap=True)

        timed.Schedule(
            self.folder,
            seconds_of(self.budget) / 60,
            self.candidates,
            launch,
            stage_seconds,
            lambda: result(0).data.labelled,
            say,
            self.began,
            pool.cores(),
        ).run()
