"""What each form of a model costs and is worth, side by side on one CPU thread. Beside evaluate the only place that reads
test labels: the forms are finished, and nothing downstream trains or chooses.

All forms run in ONNX Runtime. Their turns are interleaved, so that whatever else the machine does hits all alike.
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
TURNS = {1: 300, MANY: 20}  # of each form, at these batch sizes
SECONDS, FEWEST = 20.0, 5  # a slow model's turns end after so long, but not before so many
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
onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"]).run(None, {"image": x})
print(peak() - before)
"""


def run(folder: Path, request: Request, ctx: Context) -> None:
    """bill.json: `images` tested, `machine`, and a row of `rows` for each form, the original first. Accuracies are fractions,
    times seconds, sizes and memory bytes; `difference` [mean, low, high] is paired over the test images."""
    test = splits.make(ctx.corpus(request["dataset"]), request["labels"], request["draw"]).test
    files = {name: variant / GRAPH for name, variant in request["forms"].items()}
    variants = {name: partial(graphs.run, graphs.session(file)) for name, file in files.items()}
    classes = predicted(variants, test)
    speeds = measured(variants, test.floats(torch.arange(min(MANY, len(test))), CPU))
    original = next(iter(variants))
    truth = {name: found == test.y.cpu() for name, found in classes.items()}
    rows: list[dict[str, Any]] = []
    for name, file in files.items():
        rows.append(
            {
                "form": name,
                "accuracy": truth[name].double().mean().item(),
                "difference": list(
                    interval([(truth[name].double() - truth[original].double()).tolist()])
                ),
                "agreement": (classes[name] == classes[original]).double().mean().item(),
                "bytes": file.stat().st_size,
                **{
                    k: v
                    for k, v in json.loads((file.parent / FACTS).read_text()).items()
                    if k in ("parameters", "macs")
                },
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
    """Each form's classes of all test images [N]."""
    found: dict[str, list[Tensor]] = {name: [] for name in variants}
    for batch in test.batches(torch.arange(len(test)).split(BATCH), CPU):
        for name, variant in variants.items():
            found[name].append(variant(batch["x"]).argmax(1))
    return {name: torch.cat(parts) for name, parts in found.items()}


def measured(
    variants: Mapping[str, Callable[[Tensor], Tensor]], x_BCHW: Tensor
) -> dict[str, dict[str, float]]:
    """form -> p50 and p95 of the seconds for one image, and images per second at the large batch."""
    taken: dict[str, dict[int, list[float]]] = {
        name: {size: [] for size in TURNS} for name in variants
    }
    for size, most in TURNS.items():
        x = x_BCHW.repeat(-(-size // len(x_BCHW)), 1, 1, 1)[:size].contiguous()
        for variant in variants.values():
            variant(x)  # the first call makes its buffers
        for turn in turns(most):
            names = list(variants)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                started = time.perf_counter()
                variants[name](x)
                taken[name][size].append(time.perf_counter() - started)
    return {
        name: {
            "latency_p50": median(times[1]),
            "latency_p95": quantiles(times[1], n=20)[-1],
            "latency_many": median(times[MANY]),
            "throughput": MANY / median(times[MANY]),
        }
        for name, times in taken.items()
    }


def turns(most: int) -> Iterator[int]:
    started = time.monotonic()
    for turn in range(most):
        if turn >= FEWEST and time.monotonic() - started > SECONDS:
            return
        yield turn


def memory(file: Path, test: Images) -> int:
    """Bytes that loading the form and one large batch add to the peak of a fresh process."""
    shape = [str(n) for n in (MANY, *test.raw(0).shape)]
    child = subprocess.run(  # noqa: S603 - our own text, this very Python
        [sys.executable, "-I", "-c", MEMORY, str(file.resolve()), *shape],
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        raise StorageError(
            f"{file}: cannot be run by a fresh process: {child.stderr.strip().splitlines()[-1]}"
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
