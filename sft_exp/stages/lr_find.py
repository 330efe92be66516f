"""Learning-rate range test: Smith, arXiv:1506.01186, section 3.3. It trains a throwaway copy."""

from dataclasses import dataclass
from pathlib import Path

import torch

from sft_exp.data import splits
from sft_exp.errors import DataError, NonFiniteError
from sft_exp.stages import finetune
from sft_exp.stages.features import corpus_of
from sft_exp.store import atomic_io
from sft_exp.store.store import Request
from sft_exp.training.context import Context
from sft_exp.training.loop import train
from sft_exp.training.optim import optimizers_for

LEAST, MOST = 1e-6, 1.0  # range of learning rates
STEPS = 150
SMOOTH = 0.9  # decay of the EMA of the loss
WORSE = 3.0  # factor on the first loss at which the test stops
WINDOW = 10  # steps over which a decrease is measured


@dataclass(frozen=True)
class Ramp:
    """Schedule from the smallest rate to the largest in equal ratios."""

    def __call__(self, progress: float) -> float:
        return LEAST * (MOST / LEAST) ** progress


def run(folder: Path, request: Request, ctx: Context) -> None:
    """lr.json: `lr`, where the loss decreases fastest, and the curve (`rates`, `losses`)."""
    draw = splits.make(corpus_of(request, ctx), request["labels"], request["draw"])
    short = {**request, "steps": STEPS, "stop": STEPS, "schedule": Ramp()}
    model, data, plan, _ = finetune.ready(short, ctx, draw.labelled, draw.pool, fold="lr_find")
    optimizers = optimizers_for(request["task"], model.nets, request["optim"], plan.phases)
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    try:
        for step in train(
            request["task"], model.nets.train(), optimizers, data, plan, torch.device(ctx.device)
        ):
            step.check()
            mean = SMOOTH * mean + (1 - SMOOTH) * step.metrics["loss"].item()
            rates.append(Ramp()((step.done - 1) / STEPS))
            # bias correction for the start at 0, as in Adam
            losses.append(mean / (1 - SMOOTH**step.done))
            if losses[-1] > WORSE * losses[0]:
                break
    except NonFiniteError:
        pass  # the rate was too large, which is what the test explores
    best = steepest(rates, losses)
    atomic_io.write_json(folder / "lr.json", {"lr": best, "rates": rates, "losses": losses})


def steepest(rates: list[float], losses: list[float]) -> float:
    """The rate in the middle of the window of largest decrease; DataError if there is none."""
    falls = [losses[i] - losses[i + WINDOW] for i in range(len(losses) - WINDOW)]
    if not falls or max(falls) <= 0:
        raise DataError(
            "optim.lr=auto: the training loss decreases at no rate from 1e-6 to 1;"
            " give optim.lr a number"
        )
    return rates[falls.index(max(falls)) + WINDOW // 2]
