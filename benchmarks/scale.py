"""The textbook autoencoder at batch 128 in float32 and bfloat16, each also compiled; then what two processes send each other."""

import os
import subprocess
import sys
import tempfile
from itertools import pairwise, product
from pathlib import Path
from statistics import median

import torch

from benchmarks.timing import interleaved
from sft_exp.config import build, compose
from sft_exp.jobs import prepare
from sft_exp.stages import pretrain
from sft_exp.training.context import Context

STEPS, BATCH, ROUNDS = 400, 128, 3


def main(root: Path) -> None:
    """Images a second, alternating, medians; bytes on the loopback device a step."""
    textbook = [
        "experiment=seed_autoencoder",
        f"pretrain.steps={STEPS}",
        "controls=false",
        "tracker=none",
        "monitors=false",
    ]
    parts = {}
    for precision, compiled in product(("fp32", "bf16"), (False, True)):
        hardware = [f"hardware.precision={precision}", f"hardware.compile={compiled}"]
        values, choices = compose.compose(
            [*textbook, *hardware, "dataset.download=false", f"dataset.root={root}"]
        )
        job = prepare.prepare(build.experiment(values, choices))
        request, ctx = (
            job.requests["pretrain"][0],
            Context.on(job.experiment.hardware, job.experiment.tracker),
        )

        def some(request=request, ctx=ctx) -> None:
            with tempfile.TemporaryDirectory() as folder:
                pretrain.run(Path(folder), request, ctx)

        parts[f"{precision}{', compiled' if compiled else ''}"] = some
    seconds = interleaved(parts, rounds=ROUNDS)
    print(f"  {torch.get_num_threads()} threads")
    for name, found in seconds.items():
        ratio = median(a / b for a, b in zip(seconds["fp32"], found, strict=True))
        print(
            f"  {name:20} {STEPS * BATCH / median(found):10,.0f} images/s   {ratio:.2f} times fp32"
        )
    sent(root)


def sent(root: Path) -> None:
    """Bytes over loopback a step of two processes, beside the bytes of the parameters. Linux."""
    widths = (784, 400, 100, 400, 784)
    parameters = sum(a * b + b for a, b in pairwise(widths))
    print(f"  {parameters:,} parameters, {4 * parameters / 1e6:.2f} MB")
    for engine in ("ddp", "fsdp"):
        counted = []
        for steps in (20, 220):
            before = loopback()
            run(root, engine, steps)
            counted.append(loopback() - before)
        step = (counted[1] - counted[0]) / 200
        print(
            f"  {engine:5} {step / 1e6:6.2f} MB a step between two processes, {step / (4 * parameters):.2f} times the parameters"
        )


def run(root: Path, engine: str, steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            "experiment=seed_autoencoder",
            f"pretrain.steps={steps}",
            "finetune.steps=2",
            "controls=false",
            "tracker=none",
        ]
        more = [
            "tracker=none",
            "monitors=false",
            "report=false",
            f"hardware={engine}",
            "hardware.processes=2",
            f"dataset.root={root}",
        ]
        command = [sys.executable, "-m", "sft_exp", *overrides, *more, "dataset.download=false"]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        subprocess.run(command, check=True, cwd=folder, capture_output=True, env=env)


def loopback() -> int:
    """Bytes that this machine has sent to itself."""
    (line,) = [
        line
        for line in Path("/proc/net/dev").read_text().splitlines()
        if line.strip().startswith("lo:")
    ]
    return int(line.split(":")[1].split()[0])
