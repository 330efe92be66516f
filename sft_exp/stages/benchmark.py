"""Benchmark of compressed variants: accuracy, size, memory and speed on one CPU thread.

Besides evaluate this is the only stage that reads test labels: the variants are finished, and
nothing downstream trains or selects. All variants run in ONNX Runtime. Their runs are interleaved,
so that other load on the machine affects all alike.
"""

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

from sft_exp.data import splits
from sft_exp.data.images import Images
from sft_exp.errors import StorageError
from sft_exp.models import graphs
from sft_exp.stages.compress import FACTS, GRAPH
from sft_exp.stages.model import BATCH
from sft_exp.store import atomic_io
from sft_exp.store.store import Request
from sft_exp.training.context import Context
from sft_exp.verdict import interval

MANY = 64  # images of the large batch
TURNS = {1: 300, MANY: 20}  # batch size -> timed runs of each variant
SECONDS, FEWEST = 20.0, 5  # a slow model is timed for 20 s, but at least 5 runs
CPU = torch.device("cpu")
MEMORY = """
import sys

import numpy
import onnxruntime


def peak():
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
    except OSError:  # not Linux
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


file, *shape = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
x = numpy.zeros([int(n) for n in shape], "float32")
before = peak()
session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
session.run(None, {"image": x})
print(peak() - before)
"""


def run(folder: Path, request: Request, ctx: Context) -> None:
    """bill.json: `images` tested, `machine`, `threads`, and `rows` by variant, the original first.

    Accuracies are fractions, times seconds, sizes and memory bytes; `difference` [mean, low, high]
    is paired over the test images.
    """
    test = splits.make(ctx.corpus(request["dataset"]), request["labels"], request["draw"]).test
    files = {name: variant / GRAPH for name, variant in request["forms"].items()}
    variants = {name: partial(graphs.infer, graphs.session(file)) for name, file in files.items()}
    classes = predicted(variants, test)
    speeds = measured(variants, test.floats(torch.arange(min(MANY, len(test))), CPU))
    original = next(iter(variants))
    correct = {name: (classes_N == test.y.cpu()).double() for name, classes_N in classes.items()}
    rows: list[dict[str, Any]] = []
    for name, file in files.items():
        facts = json.loads((file.parent / FACTS).read_text())
        rows.append(
            {
                "form": name,
                "accuracy": correct[name].mean().item(),
                "difference": list(interval([(correct[name] - correct[original]).tolist()])),
                "agreement": (classes[name] == classes[original]).double().mean().item(),
                "bytes": file.stat().st_size,
                **{k: v for k, v in facts.items() if k in ("parameters", "macs")},
                "memory": memory(file, test),
                **speeds[name],
            }
        )
    atomic_io.write_json(
        folder / "bill.json",
        {"images": len(test), "machine": machine(), "threads": 1, "rows": rows},
    )


def predicted(
    variants: Mapping[str, Callable[[Tensor], Tensor]], test: Images
) -> dict[str, Tensor]:
    """Each variant's predicted classes of all test images [N]."""
    batches: dict[str, list[Tensor]] = {name: [] for name in variants}
    for batch in test.batches(torch.arange(len(test)).split(BATCH), CPU):
        for name, variant in variants.items():
            batches[name].append(variant(batch["x"]).argmax(1))
    return {name: torch.cat(classes) for name, classes in batches.items()}


def measured(
    variants: Mapping[str, Callable[[Tensor], Tensor]], x_BCHW: Tensor
) -> dict[str, dict[str, float]]:
    """Latency of one image (p50, p95) and of the large batch in seconds, and images per second."""
    seconds: dict[str, dict[int, list[float]]] = {
        name: {size: [] for size in TURNS} for name in variants
    }
    for size, most in TURNS.items():
        x = x_BCHW.repeat(-(-size // len(x_BCHW)), 1, 1, 1)[:size].contiguous()
        for variant in variants.values():
            variant(x)  # warm-up: the first call allocates buffers
        names = list(variants)
        for turn in turns(most):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                started = time.perf_counter()
                variants[name](x)
                seconds[name][size].append(time.perf_counter() - started)
    return {
        name: {
            "latency_p50": median(times[1]),
            "latency_p95": quantiles(times[1], n=20)[-1],
            "latency_many": median(times[MANY]),
            "throughput": MANY / median(times[MANY]),
        }
        for name, times in seconds.items()
    }


def turns(most: int) -> Iterator[int]:
    """Numbers below `most`, ending early after SECONDS once there were FEWEST."""
    started = time.monotonic()
    for turn in range(most):
        if turn >= FEWEST and time.monotonic() - started > SECONDS:
            return
        yield turn


def memory(file: Path, test: Images) -> int:
    """Bytes that loading the graph and one large batch add to a new process's peak memory."""
    shape = [str(n) for n in (MANY, *test.raw(0).shape)]
    child = subprocess.run(  # noqa: S603 - our own code in our own interpreter
        [sys.executable, "-I", "-c", MEMORY, str(file.resolve()), *shape],
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        raise StorageError(
            f"{file}: a new process cannot run it: {child.stderr.strip().splitlines()[-1]}"
        )
    return int(child.stdout)


def machine() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
