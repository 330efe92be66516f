"""What runs are expected to take, against what they took: `python -m benchmarks estimates`.

Each run is estimated on a fresh store, as `plan=true` does, and then run. Both are in seconds of CPU on one thread, which
other programs on the machine disturb little.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMON = ("tracker=none", "hardware.workers=1", "hardware=cpu")
RUNS = (
    ("dataset=digits",),
    ("dataset=digits", "pretrainer=vicreg", "encoder=conv", "draws=3"),
    ("dataset=digits", "pretrainer=simclr", "encoder=conv", "strategy=linear"),
    ("dataset=digits", "pretrainer=mae", "encoder=vit", "draws=2", "finetune.steps=200"),
    ("dataset=digits", "pretrainer=none", "encoder=conv", "task.augment=true", "draws=3"),
    ("dataset=digits", "task=mean_teacher", "encoder=conv", "draws=2"),
    ("dataset=digits", "val=cv", "labels=50", "draws=2"),
    ("dataset=digits", "strategy=svm", "pretrainer=byol", "pretrain.steps=300"),
    ("dataset=mnist", "encoder=conv", "pretrainer=vicreg", "pretrain.steps=100", "draws=2"),
    ("dataset=image_folder", "dataset.root=sign_digits", "labels=10", "pretrain.steps=60", "draws=1"),
)  # fmt: skip


def main(words: list[str], data: Path) -> None:
    if words:
        one(words)
        return
    where = {"dataset=mnist": f"dataset.root={data / 'mnist'}"}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    print("| run | expected | took | ratio |\n| --- | ---: | ---: | ---: |", flush=True)
    for run in RUNS:
        full = [w.replace("root=", f"root={data}/") for w in run]
        full += [f"{v}" for k, v in where.items() if k in run]
        with tempfile.TemporaryDirectory() as folder:
            full += [*COMMON, f"store={folder}/store"]
            estimating = [sys.executable, "-m", "benchmarks", "estimates", *full]
            said = subprocess.run(
                estimating, env=environment, check=True, stdout=subprocess.PIPE, text=True
            )
            expected = float(said.stdout.split()[-1])
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [sys.executable, "-m", "sft_exp", *full, f"hydra.run.dir={folder}/run"]
            subprocess.run(command, env=environment, check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        line = " ".join(run)
        print(f"| `{line}` | {expected:.0f} | {took:.0f} | {expected / took:.2f} |", flush=True)


def one(words: list[str]) -> None:
    """Print the seconds that a run is expected to take."""
    from sft_exp.config import build
    from sft_exp.config.compose import compose
    from sft_exp.core.tracker import Tracker
    from sft_exp.execution import pilot
    from sft_exp.guidance.image_defaults import with_defaults
    from sft_exp.jobs import prepare
    from sft_exp.training.context import Context

    job = prepare.prepare(build.experiment(*compose(with_defaults(words, silent=True))))
    ctx = Context.on(job.experiment.hardware, Tracker())
    time.perf_counter = time.process_time
    expected = pilot.estimate(job, ctx)
    print(expected.seconds, expected.unknown, expected.megabytes, file=sys.stderr)
    print(expected.together)
