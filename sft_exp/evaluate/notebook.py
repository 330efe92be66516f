"""An evaluation for use from Python: notebooks show it like evaluation.html."""

from collections.abc import Sequence
from pathlib import Path

from sft_exp.evaluate import page
from sft_exp.evaluate.evaluation import Evaluation, evaluate

MISTAKES = 12  # most confident mistakes that are shown


class RichEvaluation(Evaluation):
    """An evaluation that a notebook shows."""

    def _repr_html_(self) -> str:
        return str(page.body(self, MISTAKES, images=True))


def rich(run: Path, dataset: Sequence[str]) -> RichEvaluation:
    """What `evaluate` returns, for a notebook."""
    return RichEvaluation(**vars(evaluate(run, dataset)))
