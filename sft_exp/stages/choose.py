"""Selection of the learning rate with the best cross-validation score inside the label budget."""

import json
from pathlib import Path

from sft_exp.errors import DataError
from sft_exp.store import atomic_io
from sft_exp.store.store import Request
from sft_exp.training.context import Context


def run(folder: Path, request: Request, ctx: Context) -> None:
    """lr.json: best rate, all scores, and whether it is at an edge. The smaller rate wins a tie."""
    scores = [
        json.loads((trial / "scores.json").read_text()).get(request["score"])
        for trial in request["trials"]
    ]
    if None in scores:
        raise DataError(
            "optim.lr=search needs at least two labels of each class, to hold one out;"
            " give optim.lr a number"
        )
    rates = request["rates"]
    best, _ = max(sorted(zip(rates, scores, strict=True)), key=lambda pair: pair[1])
    edge = len(rates) > 1 and best in (min(rates), max(rates))
    atomic_io.write_json(
        folder / "lr.json", {"lr": best, "edge": edge, "rates": rates, request["score"]: scores}
    )
