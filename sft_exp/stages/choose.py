"""Of several settings tried inside the label budget, the one that did best there."""

import json
from pathlib import Path

from sft_exp.errors import DataError
from sft_exp.store import atomic_io
from sft_exp.store.store import Request
from sft_exp.training.context import Context


def run(folder: Path, request: Request, ctx: Context) -> None:
    """lr.json: the best rate, all scores, and whether it lies at the edge of those tried. The smaller rate wins a tie."""
    scores = [
        json.loads((trial / "scores.json").read_text()).get(request["score"])
        for trial in request["trials"]
    ]
    if None in scores:
        raise DataError(
            "optim.lr=search needs at least two labels of each class, to hold one out; give optim.lr a number"
        )
    rates = request["rates"]
    best = max(sorted(range(len(rates)), key=lambda i: rates[i]), key=lambda i: scores[i])
    edge = len(rates) > 1 and rates[best] in (min(rates), max(rates))
    atomic_io.write_json(
        folder / "lr.json",
        {"lr": rates[best], "edge": edge, "rates": rates, request["score"]: scores},
    )
