"""32 learning rates of a linear head on 10,000 x 100 stored features, two epochs at batch 128: stacked, and one by one."""

from pathlib import Path

import torch
from torch import nn

from benchmarks.timing import interleaved, report
from sft_exp.config.schema import OptimizerConfig
from sft_exp.core.method import Method
from sft_exp.data.images import Images
from sft_exp.schedules.piecewise_cosine import PiecewiseCosine
from sft_exp.stages.stacked import stacked
from sft_exp.tasks.classify import Classify
from sft_exp.training.loop import Plan, train
from sft_exp.training.optim import optimizers_for

RATES = torch.logspace(-3, -1, 32).tolist()


def main(_: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    f_ND = torch.randn(10_000, 100)
    y_N = (f_ND @ torch.randn(100, 10)).argmax(1)
    images = Images(f_ND, y_N, [""] * len(y_N))
    plan = Plan(
        156,
        156,
        128,
        PiecewiseCosine(),
        [(1.0, {"head.weight": 1.0, "head.bias": 1.0})],
        (0, "bench"),
    )
    start, task = nn.Linear(100, 10), Classify()

    def alone(optim: OptimizerConfig, method: Method) -> None:
        for rate in RATES:
            nets = nn.ModuleDict(
                {"encoder": nn.Identity(), "scale": nn.Identity(), "head": nn.Linear(100, 10)}
            )
            nets["head"].load_state_dict(start.state_dict())
            optimizers = optimizers_for(
                method,
                nets,
                OptimizerConfig(optim.path, {**optim.options, "lr": rate}),
                plan.phases,
            )
            for _ in train(
                method, nets, optimizers, {"labelled": images}, plan, torch.device("cpu")
            ):
                pass

    for name in ("SGD", "Adam", "AdamW", "RMSprop"):
        optim = OptimizerConfig(f"torch.optim.{name}", {"lr": 1.0})
        parts = {
            f"{name}, stacked": lambda optim=optim: stacked(start, f_ND, y_N, optim, RATES, plan),
            f"{name}, one by one": lambda optim=optim: alone(optim, task),
        }
        report(interleaved(parts, rounds=3), f"{name}, stacked", "for all")
