"""Hydra's launcher on the jobs of one look of a study after the other, until every comparison is decided or hopeless.

Nobody chooses it by hand: `sft_exp/sweep/sweeps.py` puts it in the place of the basic sweeper where a study has looks.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from sft_exp.config import build
from sft_exp.sweep.job_list import listed


class UntilSweeper(Sweeper):
    def __init__(
        self,
        looks: Sequence[Sequence[Mapping[str, Any]]],
        params: Any,
        max_batch_size: int | None = None,
    ):
        """`looks`: of each look its jobs, {"key": the comparison they belong to, "overrides": [...]}."""
        self.looks = [[(j["key"], list(j["overrides"])) for j in look] for look in looks]
        self.params = dict(params or {})

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.study, self.folder = build.study(config), Path(config.hydra.sweep.dir)
        self.context = hydra_context
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run each look's jobs of the comparisons that go on, look at them, and stop when none goes on."""
        from sft_exp.sweep import looks  # late: imports the studies' results, and with them torch

        given = [*(f"{k}={v}" for k, v in self.params.items()), *arguments]
        parsed = OverridesParser.create(config_loader=self.context.config_loader)
        (batch,) = BasicSweeper.split_arguments(parsed.parse_overrides(given), None)
        going, number = {key for look in self.looks for key, _ in look}, 0
        for n, look in enumerate(self.looks):
            jobs = listed(batch, [overrides for key, overrides in look if key in going])
            self.launcher.launch(jobs, initial_job_idx=number)
            number += len(jobs)
            going = looks.take_look(self.study, self.folder, n)
            if not going:
                return
