"""How cost grows: with images, classes, labels, jobs and store folders.

    python -m benchmarks growth                 all of them
    python -m benchmarks growth folders jobs    some

Each size is measured in a process of its own: seconds of CPU, its child processes included, and the largest memory. Linux.
The slope is that of the logarithms between a size and the one before: 1 is in proportion, 0 does not grow.
"""

import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from math import log
from pathlib import Path

import torch

from sft_exp.data.corpus import Corpus, Dataset, fingerprint
from sft_exp.data.images import Images

PR_SET_CHILD_SUBREAPER = 36  # of linux/prctl.h
TINY = ("debug=tiny", "tracker=none", "controls=false", "draws=1", "val=none", "report=false")
MADE = ("dataset._target_=benchmarks.growth.Made", "pretrainer=ae", "encoder=mlp", "monitors=false")
STEPS = ("pretrain.steps=50", "pretrain.batch_size=128", "finetune.steps=50")


@dataclass
class Made(Dataset):
    """Random images of 8 x 8 pixels, each class about a mean of its own; 2,000 more to test on."""

    count: int = 1_000
    kinds: int = 10
    test: int = 2_000

    def load(self) -> Corpus:
        rng = torch.Generator().manual_seed(0)
        number = self.count + self.test
        y_N = torch.arange(number) % self.kinds
        mean_Y = torch.randint(40, 216, (self.kinds, 1, 8, 8), generator=rng)
        noise_N = torch.randint(-40, 40, (number, 1, 8, 8), generator=rng, dtype=torch.int16)
        x_N = (mean_Y[y_N] + noise_N).to(torch.uint8)
        ids = [f"{n:07d}" for n in range(number)]
        train = Images(x_N[: self.count], y_N[: self.count], ids[: self.count])
        test = Images(x_N[self.count :], y_N[self.count :], ids[self.count :])
        names = tuple(f"kind {n}" for n in range(self.kinds))
        marks = fingerprint(train), fingerprint(test)
        return Corpus(
            "made",
            names,
            train,
            test,
            image=(1, 8, 8),
            fingerprint=marks[0],
            test_fingerprint=marks[1],
        )


def made(images: int, classes: int) -> list[str]:
    return [*TINY, *MADE, *STEPS, f"+dataset.count={images}", f"+dataset.kinds={classes}"]


def run_with(*words: str) -> None:
    import sft_exp

    sft_exp.run([*words, "store=store"], Path("run"))


def plan(jobs: int) -> None:
    """The command itself, both of whose processes are this one's children."""
    choices = ["pretrainer=ae,vae", "encoder=mlp,conv"] if jobs > 1 else []
    seeds = max(1, jobs // 4)
    sweep = ["-m", "plan=true", "debug=tiny", "tracker=none", *choices, f"seed=range({seeds})"]
    command = [sys.executable, "-m", "sft_exp", *sweep]
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # the worker outlives its parent shortly
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with suppress(ChildProcessError):
        while True:
            os.wait()


def folders(count: int) -> tuple[Callable[[], object], ...]:
    """A store whose folders are chains of three, of which every second one belongs to a run."""
    from sft_exp.store import atomic_io, collect, listing

    store, names = Path("store"), [f"finetune-{n:016x}" for n in range(count)]
    for n, name in enumerate(names):
        (store / name).mkdir(parents=True)
        start = str(store / names[n - 1]) if n % 3 else None
        text = json.dumps({"start": start})
        (store / name / "request.json").write_text(text)
        seal = {"seconds": 1.0, "sha256": {"request.json": sha256(text.encode()).hexdigest()}}
        (store / name / atomic_io.SEAL).write_text(atomic_io.sealed(seal))
    for n in range(0, count, 200):
        run = Path("runs") / str(n)
        run.mkdir(parents=True)
        collect.refer(store, run, names[n : n + 100])
    return (
        lambda: collect.unreferenced(store, Path("runs")),
        lambda: [listing.measure(path) for path in listing.listed(store)],
    )


@dataclass(frozen=True)
class Growth:
    """What is measured at each size: a function that prepares it and returns what is timed."""

    what: tuple[str, ...]
    sizes: tuple[int, ...]
    ready: Callable[[int], tuple[Callable[[], object], ...]]


GROWTHS = {
    "images": Growth(
        ("a run of 50 + 50 steps on N images of 8 x 8 pixels, reading and hashing included",),
        (1_000, 10_000, 100_000, 1_000_000),
        lambda n: (lambda: run_with(*made(n, 10), "labels=5"),),
    ),
    "classes": Growth(
        ("the same with N classes, 20,000 images, 2 labels a class",),
        (2, 10, 100, 1_000),
        lambda n: (lambda: run_with(*made(20_000, n), "labels=2"),),
    ),
    "labels": Growth(
        ("the same with N labels a class, 40,000 images", "a logistic regression in its place"),
        (1, 10, 100, 1_000),
        lambda n: (
            lambda: run_with(*made(40_000, 10), f"labels={n}"),
            lambda: run_with(*made(40_000, 10), f"labels={n}", "strategy=logistic", "replace=true"),
        ),
    ),
    "jobs": Growth(
        ("`plan=true` of N jobs of four choices, both processes",),
        (1, 10, 100, 1_000),
        lambda n: (lambda: plan(n),),
    ),
    "folders": Growth(
        ("what `gc` would remove of N store folders", "the size and age of each of them"),
        (10, 100, 1_000, 10_000, 100_000),
        folders,
    ),
}


def main(words: list[str]) -> None:
    """Print the table, or measure one size: `growth KIND N`."""
    if len(words) == 2 and words[1].isdigit():
        print(json.dumps(measured(GROWTHS[words[0]].ready, int(words[1]))))
        return
    print("| what | N | CPU s | slope | MB |\n| --- | ---: | ---: | ---: | ---: |")
    for kind in words or GROWTHS:
        growth = GROWTHS[kind]
        found = [(size, *alone(kind, size)) for size in growth.sizes]
        for place, what in enumerate(growth.what):
            for number, (size, seconds, megabytes) in enumerate(found):
                slope, before = "", found[number - 1]
                if number:
                    ratio = max(seconds[place], 1e-3) / max(before[1][place], 1e-3)
                    slope = f"{log(ratio) / log(size / before[0]):.2f}"
                print(
                    f"| {what} | {size:,} | {seconds[place]:.2f} | {slope} | {megabytes:,.0f} |",
                    flush=True,
                )


def alone(kind: str, size: int) -> tuple[list[float], float]:
    """(CPU seconds of each thing, megabytes) of one size, in a process and a folder of its own."""
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "benchmarks", "growth", kind, str(size)]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        said = subprocess.run(
            command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
    seconds, megabytes = json.loads(said.stdout.splitlines()[-1])
    return seconds, megabytes


def measured(
    ready: Callable[[int], tuple[Callable[[], object], ...]], size: int
) -> tuple[list[float], float]:
    import sft_exp.jobs.prepare  # noqa: F401 - imports are not what grows

    seconds = []
    for part in ready(size):
        before = used()
        part()
        seconds.append(used() - before)
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return seconds, max(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1e3


def used() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
