"""Hydra's basic sweeper, on the jobs that a study lists where there is one, and without a composition of its own.

Nobody chooses it by hand: `sft_exp/sweep/sweeps.py` puts it in the place of the basic one.
"""

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override

from sft_exp.sweep.job_list import listed


class ListedSweeper(BasicSweeper):
    def __init__(
        self, jobs: Sequence[Sequence[str]], params: Any, max_batch_size: int | None = None
    ):
        super().__init__(max_batch_size=max_batch_size, params=params)
        self.jobs = [list(job) for job in jobs]

    def split_arguments(  # type: ignore[override]
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        (given,) = super().split_arguments(overrides, None)
        return list(self.split_overrides_to_chunks(listed(given, self.jobs), max_batch_size))

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Nothing: `sweeps.begin` has composed and checked every job."""
