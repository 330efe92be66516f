"""An epoch of a linear head on stored features, against one of full fine-tuning: encoder=conv, 6,000 labelled MNIST images."""

import tempfile
from pathlib import Path

import torch

from benchmarks.timing import interleaved, report
from sft_exp.config import build, compose
from sft_exp.data import splits
from sft_exp.jobs import prepare
from sft_exp.stages import finetune
from sft_exp.training.context import Context
from sft_exp.training.loop import train
from sft_exp.training.optim import optimizers_for

LINEAR, FULL = "strategy=linear, an epoch", "strategy=full, an epoch"


def main(root: Path) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as store:
        parts = {}
        for name, strategy in ((LINEAR, "linear"), (FULL, "full")):
            overrides = [
                f"strategy={strategy}",
                "pretrainer=none",
                "encoder=conv",
                "dataset=mnist",
                f"dataset.root={root}",
            ]
            overrides += [
                "dataset.download=false",
                "labels=10%",
                "draws=1",
                "controls=false",
                "tracker=none",
                f"store={store}",
            ]
            overrides += ["finetune.epochs=1", "hardware=cpu", "hardware.threads=1"]
            job = prepare.prepare(build.experiment(*compose.compose(overrides)))
            request, ctx = (
                job.requests["finetune"][0],
                Context.on(job.experiment.hardware, job.experiment.tracker),
            )
            draw = splits.make(job.corpus, request["labels"], 0)

            def ready(request=request, ctx=ctx, draw=draw):
                return finetune.ready(request, ctx, draw.labelled, draw.pool, "all")

            made = ready()

            def epoch(request=request, ctx=ctx, made=made):
                model, data, plan, _ = made
                optimizers = optimizers_for(
                    request["task"], model.nets, request["optim"], plan.phases
                )
                for _ in train(
                    request["task"], model.nets.train(), optimizers, data, plan, ctx.device
                ):
                    pass

            parts[name] = epoch
            if strategy == "linear":
                parts["features and the head's start, once"] = ready
        report(interleaved(parts, rounds=3), LINEAR, "")
