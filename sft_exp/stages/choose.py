"""Selection of the learning rate with the best cross-validation score inside the label budget."""

from pathlib import Path

from sft_exp.errors import DataError
from sft_exp.stages.validate import averaged
from sft_exp.store import atomic_io
from sft_exp.store.store import Request
from sft_exp.training.context import Context


def run(folder: Path, request: Request, ctx: Context) -> None:
    """lr.json: best rate, all scores, and whether it is at an edge. The smaller rate wins a tie."""
    trials, rates = [averaged(folds) for folds in request["trials"]], request["rates"]
    if any(request["score"] not in trial for trial in trials):
        raise DataError(
            "optim.lr=search needs at least two labels of each class, to hold one out;"
            " give optim.lr a number"
        )
    scores = [trial[request["score"]] for trial in trials]
    best, _ = max(sorted(zip(rates, scores, strict=True)), key=lambda pair: pair[1])
    edge = len(rates) > 1 and best in (min(rates), max(rates))
    atomic_io.write_json(
        folder / "lr.json", {"lr": best, "edge": edge, "rates": rates, request["score"]: scores}
    )
