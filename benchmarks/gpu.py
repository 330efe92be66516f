"""Training steps on this machine's device beside the textbook loop, Lightning and lightly: a table for docs/scale.md.

    python -m benchmarks gpu [--device cuda] [--minutes 10]

On a GPU the contracts come first: the tests that take `--device cuda`, for at most four tenths of the
minutes. Then "correct": loss and gradients of each row on the device against the CPU's, at the same
draws. Then every contender trains on the same synthetic images: images a second, share of what this
device reaches in a large product of matrices, peak memory, how often the host waits for the device in
a step, and kernels a step. On a CPU the rows are tiny and show that everything runs.
"""

import argparse
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import v2

from sft_exp.config.schema import OptimizerConfig
from sft_exp.core.device import place
from sft_exp.core.encoder import Encoder
from sft_exp.core.pretrainer import Pretrainer
from sft_exp.core.rng import stream
from sft_exp.core.types import Spec
from sft_exp.data.images import Images
from sft_exp.encoders.conv import Conv
from sft_exp.encoders.mlp import MLP
from sft_exp.encoders.resnet import ResNet
from sft_exp.encoders.vit import ViT
from sft_exp.pretrainers.ae import AE
from sft_exp.pretrainers.mae import MAE
from sft_exp.pretrainers.simclr import SimCLR
from sft_exp.schedules.piecewise_cosine import PiecewiseCosine
from sft_exp.training.context import set_cuda_arithmetic
from sft_exp.training.loop import Plan, autocast, train
from sft_exp.training.optim import optimizers_for

CPU = torch.device("cpu")
FAULTS = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, OSError, ImportError)
ROOT = Path(__file__).parent.parent
CONTRACTS = "test_device or restart or what_is_kept or learns or killed_at_a_step"
NEVER = 10**6  # more steps than any contender takes
# on a GPU and on a CPU: steps before the clock starts, and steps under the profiler
STEPS = {"cuda": (8, 4), "cpu": (2, 1)}
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize", "aten::_local_scalar_dense")
STUDY = (
    "study=label_efficiency study.pretrainers=[vae] study.labels=[10,100] study.seeds=2 draws=3"
    " study.long=false dataset=mnist encoder=conv features.maps=[code] pretrain.steps=1500"
    " pretrain.batch_size=256 task.augment=true finetune.steps=800 finetune.ema=0.99"
    " hardware.precision=bf16 tracker=none controls=[scratch,random_frozen,raw_svm]"
)


@dataclass
class Row:
    """A training that all contenders run."""

    name: str
    method: Pretrainer
    encoder: Encoder
    image: tuple[int, int, int]
    batch_size: int
    count: int  # images of the data set
    # textbook's (networks, the batch's views) -> loss
    loss: Callable[[nn.ModuleDict, tuple[Tensor, ...]], Tensor]
    views: int  # augmented views of an image, or 0 for the image as it is
    blur: float = 0.0
    epoch: int = 0  # images of an epoch, whose time is printed beside the images a second

    def networks(self, device: torch.device) -> nn.ModuleDict:
        torch.manual_seed(0)
        spec = Spec(self.image, ())
        return place(self.method.networks(self.encoder.build(self.image), spec), device)

    def pool(self) -> Images:
        rng = torch.Generator().manual_seed(0)
        x = torch.randint(256, (self.count, *self.image), dtype=torch.uint8, generator=rng)
        names = [f"{n}" for n in range(self.count)]
        return Images(x, torch.full((self.count,), -1), names)


@dataclass
class Measured:
    """What a contender showed."""

    images_per_second: float = 0.0
    flops_per_image: float = 0.0
    peak_bytes: int | None = None  # of the GPU's memory
    waits: float = 0.0  # in a step
    kernels: float = 0.0  # in a step; on a CPU operators of torch


@dataclass
class Meter:
    """Called after every step of a contender; true as long as it is to go on."""

    device: torch.device
    batch_size: int
    seconds: float  # of the timed part
    result: Measured = field(default_factory=Measured)
    modes: list[Any] = field(default_factory=list)  # the profiler, or torch's counter of FLOPs
    steps: int = 0
    started: float = 0.0
    end: int = 0  # the step at which the clock stopped

    def __call__(self) -> bool:
        self.steps += 1
        warmup, profiled = STEPS[self.device.type]
        if self.steps == warmup:
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            self.wait()
            self.started = time.perf_counter()
        elif self.steps > warmup and not self.end:
            # the host runs ahead of a GPU; without a look at it, it would run for too long
            if self.steps % 50 == 0:
                self.wait()
            if time.perf_counter() - self.started > self.seconds:
                self.stop_clock(self.steps - warmup)
                cuda = [ProfilerActivity.CUDA] if self.device.type == "cuda" else []
                self.enter(profile(activities=[ProfilerActivity.CPU, *cuda]))
        elif self.end and self.steps == self.end + profiled:
            self.wait()
            self.read_profile(self.leave(), profiled)
            self.enter(FlopCounterMode(display=False))
        elif self.end and self.steps > self.end + profiled:
            self.result.flops_per_image = self.leave().get_total_flops() / self.batch_size
            return False
        return True

    def stop_clock(self, steps: int) -> None:
        self.wait()
        passed, self.end = time.perf_counter() - self.started, self.steps
        self.result.images_per_second = steps * self.batch_size / passed
        if self.device.type == "cuda":
            self.result.peak_bytes = torch.cuda.max_memory_allocated()

    def enter(self, mode: Any) -> None:
        self.modes.append(mode)
        mode.__enter__()

    def leave(self) -> Any:
        mode = self.modes.pop()
        mode.__exit__(None, None, None)
        return mode

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def read_profile(self, profiler: Any, steps: int) -> None:
        events = profiler.events() or []
        on_gpu = [
            e
            for e in events
            if e.device_type == DeviceType.CUDA
            and not getattr(e, "is_user_annotation", False)
            and not e.name.startswith(("Memcpy", "Memset"))
        ]
        on_cpu = [e for e in events if e.name.startswith("aten::")]
        kernels = on_gpu if self.device.type == "cuda" else on_cpu
        # on a GPU `item` waits by a cudaStreamSynchronize, which would be counted twice
        waits = WAITS[:2] if self.device.type == "cuda" else WAITS[2:]
        self.result.kernels = len(kernels) / steps
        self.result.waits = sum(e.name in waits for e in events) / steps


# The rows


def textbook_ae(nets: nn.ModuleDict, views: tuple[Tensor, ...]) -> Tensor:
    (x,) = views
    return F.mse_loss(nets["decoder"](nets["encoder"](x)), x)


def textbook_simclr(nets: nn.ModuleDict, views: tuple[Tensor, ...]) -> Tensor:
    z = F.normalize(nets["projector"](nets["encoder"](torch.cat(views))), dim=1)
    similarity = z @ z.T / 0.5
    similarity.fill_diagonal_(-torch.inf)
    n = len(z) // 2
    positive = torch.arange(2 * n, device=z.device).roll(n)
    return F.cross_entropy(similarity, positive)


def textbook_mae(nets: nn.ModuleDict, views: tuple[Tensor, ...], patch: int) -> Tensor:
    (x,) = views
    side = x.shape[2] // patch
    ranks = torch.rand(len(x), side * side, device=x.device).argsort(1)
    mask = (ranks < 0.75 * side * side).float().unflatten(1, (1, side, side))
    mask = F.interpolate(mask, scale_factor=patch)
    error = (nets["decoder"](nets["encoder"](x * (1 - mask))) - x).square()
    return (error * mask).sum() / (mask.sum() * x.shape[1])


def rows(cuda: bool) -> list[Row]:
    """The rows; on a CPU a few examples of smaller images."""
    # on a CPU small enough for a minute in all
    batch, side, patch = (128, 224, 16) if cuda else (2, 48, 8)
    deep, deeper, blocks = (18, 50, 12) if cuda else (10, 10, 2)
    many, some, few = (60_000, 50_000, 1024) if cuda else (512, 32, 16)
    grey, small, photo = (1, 28, 28), (3, 32, 32), (3, side, side)
    ae = AE(reconstruction="mean_squared", output="relu")
    simclr, blurred = SimCLR(), SimCLR(views={"blur": 0.5})
    mae, vit = MAE(patch=patch, masked=0.75), ViT(patch, 384, blocks, 6)
    mae_loss = partial(textbook_mae, patch=patch)
    return [
        Row("textbook AE, 1x28x28", ae, MLP([400, 100]), grey, 128, many, textbook_ae, 0, epoch=60_000),
        Row("SimCLR, conv, 32 px", simclr, Conv(), small, 256 if cuda else 4, some, textbook_simclr, 2),
        Row(f"SimCLR, ResNet-{deep}, 32 px", simclr, ResNet(deep), small, 512 if cuda else 2, some, textbook_simclr, 2),
        Row(f"SimCLR, ResNet-{deeper}, {side} px", blurred, ResNet(deeper), photo, batch, few, textbook_simclr, 2, 0.5),
        Row(f"MAE, ViT, {blocks} x 384, patch {patch}, {side} px", mae, vit, photo, batch, few, mae_loss, 0),
    ]  # fmt: skip


# The contenders: (row, device, precision, meter) -> None


def ours(row: Row, device: torch.device, precision: str, meter: Meter, compiled: bool = False) -> None:  # fmt: skip
    """This project's loop: images on the device as uint8, views drawn there."""
    nets = row.networks(device)
    phases = [(1.0, {name: 1.0 for name, p in nets.named_parameters() if p.requires_grad})]
    plan = Plan(NEVER, NEVER, row.batch_size, PiecewiseCosine(), phases, (0, "pretrain"),
                precision=precision, compile=compiled)  # fmt: skip
    adam = OptimizerConfig("torch.optim.Adam", {"lr": 1e-3})
    optimizers = optimizers_for(row.method, nets, adam, phases)
    for _ in train(row.method, nets, optimizers, {"pool": row.pool().to(device)}, plan, device):
        if not meter():
            return


class Pictures(Dataset):
    """Images one by one with transforms of torchvision, as textbooks load them."""

    def __init__(self, row: Row, transform: Callable[[Any], Any] | None = None):
        to_float = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
        augment = [
            v2.RandomResizedCrop(row.image[1:], (0.2, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
            v2.RandomGrayscale(0.2),
        ]
        if row.blur:
            augment.append(v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))], row.blur))
        self.views, own = row.views, v2.Compose([*(augment if row.views else ()), *to_float])
        self.transform = transform or own
        self.several = transform is not None  # it returns all views of an image
        self.raw = row.pool().raw
        self.count = row.count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, n: int) -> tuple[Tensor, ...]:
        image = v2.functional.to_pil_image(self.raw(n))
        if self.several:
            return tuple(self.transform(image)[:2])
        return tuple(self.transform(image) for _ in range(self.views or 1))


def loader(row: Row, device: torch.device, transform: Any = None) -> DataLoader:
    workers = min(12, os.cpu_count() or 1) if device.type == "cuda" else 0
    return DataLoader(
        Pictures(row, transform),
        batch_size=row.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )


def endless(batches: DataLoader, device: torch.device) -> Iterator[tuple[Tensor, ...]]:
    while True:
        for views in batches:
            yield tuple(x.to(device, non_blocking=True) for x in views)


def textbook(row: Row, device: torch.device, precision: str, meter: Meter) -> None:
    """The loop that textbooks write: a DataLoader with workers, autocast, Adam."""
    nets = row.networks(device)
    optimizer = torch.optim.Adam(nets.parameters(), lr=1e-3)
    for views in endless(loader(row, device), device):
        with autocast(device, precision):
            loss = row.loss(nets, views)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not meter():
            return


def lightning(row: Row, device: torch.device, precision: str, meter: Meter) -> None:
    """The same in a Trainer of Lightning."""
    pl = importlib.import_module("pytorch_lightning")

    class Module(pl.LightningModule):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.nets = row.networks(CPU)

        def training_step(self, views: Any, _: int) -> Tensor:
            return row.loss(self.nets, tuple(views))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

        def on_train_batch_end(self, *_: Any) -> None:
            if not meter():
                self.trainer.should_stop = True

    trainer = pl.Trainer(
        max_steps=NEVER,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), loader(row, device))


def lightly(row: Row, device: torch.device, precision: str, meter: Meter) -> None:
    """lightly's transform, projection head and loss, in the loop of its documentation."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform

    encoder: Any = row.networks(device)["encoder"]
    head = SimCLRProjectionHead(encoder.width, 512, 128).to(device)
    criterion = NTXentLoss(temperature=0.5)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=1e-3)
    transform = SimCLRTransform(input_size=row.image[1], gaussian_blur=row.blur)
    for first, second in endless(loader(row, device, transform), device):
        with autocast(device, precision):
            loss = criterion(head(encoder(first)), head(encoder(second)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if not meter():
            return


def contenders(row: Row) -> dict[str, tuple[str, Callable[..., None]]]:
    """Name -> (the package that it needs, the contender)."""
    chosen: dict[str, tuple[str, Callable[..., None]]] = {
        "sft_exp": ("sft_exp", ours),
        "textbook loop": ("torch", textbook),
        "Lightning": ("pytorch_lightning", lightning),
    }
    if isinstance(row.method, SimCLR):
        chosen["lightly"] = ("lightly", lightly)
    chosen["sft_exp, compiled"] = ("sft_exp", partial(ours, compiled=True))
    return chosen


# The device


def product_flops(device: torch.device, precision: str, tf32: bool) -> float:
    """FLOP/s that a large product of square matrices reaches."""
    n = 8192 if device.type == "cuda" else 1024
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    if device.type == "cuda":
        set_cuda_arithmetic(tf32)
    a, b = (torch.randn(n, n, device=device, dtype=kind) for _ in range(2))
    best = 0.0
    for _ in range(6):
        started = time.perf_counter()
        for _ in range(count := 10 if device.type == "cuda" else 1):
            a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, count * 2 * n**3 / (time.perf_counter() - started))
    return best


def correct(row: Row, device: torch.device) -> str:
    """Loss in float32 without TF32, and gradients in float64, at the same draws, against the CPU's.

    Where the device is the CPU, against its channels-last order.
    """
    if device.type == "cuda":
        set_cuda_arithmetic(False)
    (batch,) = row.pool().batches([torch.arange(8)], CPU)
    drawn = row.method.draw({"pool": batch}, stream(0, "correct"), 0.0)
    nets = row.networks(CPU)
    losses: list[float] = []
    gradients: list[Tensor] = []
    for kind in (torch.float32, torch.float64):
        on_cpu = deepcopy(nets).to(kind)
        other = place(deepcopy(on_cpu), device)
        if device.type == "cpu":
            other = other.to(memory_format=torch.channels_last)
        for these in (on_cpu, other):
            where = next(these.parameters()).device
            moved = [(d.to(kind) if d.is_floating_point() else d).to(where) for d in drawn]
            loss, _ = row.method.loss(these, *moved)
            losses.append(loss.item())
            if kind == torch.float64:
                loss.backward()
                every = [p.grad.cpu().flatten() for p in these.parameters() if p.grad is not None]
                gradients.append(torch.cat(every))
    first, second = losses[:2]
    apart = abs(first - second) / abs(first)
    exact = float((gradients[0] - gradients[1]).norm() / gradients[0].norm())
    word = "yes" if apart < 1e-4 and exact < 1e-6 else "NO"
    return f"{first:.6g} | {second:.6g} | {apart:.1e} | {exact:.1e} | {word}"


# The table


def line(name: str, row: Row, found: Measured, roof: float, precision: str) -> str:
    speed = found.images_per_second
    share = f"{100 * speed * found.flops_per_image / roof:.1f} %" if found.flops_per_image else "-"
    memory = "-" if found.peak_bytes is None else f"{found.peak_bytes / 2**30:.2f} GiB"
    epoch = f" ({row.epoch / speed:.2f} s an epoch)" if row.epoch else ""
    return (
        f"| {row.name} | {name} | {precision} | {speed:,.0f}{epoch} | {share} | {memory}"
        f" | {found.waits:.2f} | {found.kernels:.0f} |"
    )


def installed(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True


def measure(
    run: Callable[..., None], row: Row, device: torch.device, precision: str, seconds: float
) -> Measured | str:
    """What the contender showed, or the words for why it did not."""
    meter = Meter(device, row.batch_size, seconds)
    if device.type == "cuda":
        set_cuda_arithmetic(True)
    try:
        run(row, device, precision, meter)
    except torch.OutOfMemoryError:
        return "out of memory"
    except FAULTS as error:  # a row that fails must not cost the others their sitting
        return f"failed: {type(error).__name__}: {str(error).splitlines()[0][:90]}"
    finally:
        while meter.modes:
            meter.leave()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return meter.result


def contracts(seconds: float) -> str:
    """The end of what the tests with `--device cuda` say: every part trains as on the CPU, resumes
    to the bit, waits for nothing; kill -9, DDP and FSDP with one process, export, a full memory."""
    tests = [str(ROOT / "tests" / f"test_{name}.py") for name in ("device", "contract", "resume")]
    command = [sys.executable, "-m", "pytest", *tests, "--device", "cuda", "-k", CONTRACTS,
               "-p", "no:cacheprovider", "--timeout", "120"]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as said:  # what was said before the time was up counts, too
        process = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, cwd=ROOT, env=environment
        )
        try:
            process.wait(seconds)
            end = ""
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # pytest then tells what it has
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            end = f"\nstopped after {seconds:.0f} s; the command without a limit: {' '.join(command[1:])}"
        said.seek(0)
        lines = said.read().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return "\n".join([*failed[:40], *lines[-1:]]) + end


def study(data: Path, device: torch.device, seconds: float) -> str:
    """The wall time of a label-efficiency study on MNIST, or why there is none."""
    if not (data / "mnist").is_dir():
        return f"not measured: no MNIST below {data} (SFT_EXP_DATA)"
    if device.type == "cpu":
        return "not measured on a CPU"
    with tempfile.TemporaryDirectory() as folder:
        where = [f"dataset.root={data / 'mnist'}", "dataset.download=false", f"store={folder}/store",
                 f"hydra.sweep.dir={folder}/sweep", "hardware=cuda"]  # fmt: skip
        command = [sys.executable, "-m", "sft_exp", *STUDY.split(), *where]
        started = time.perf_counter()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"not finished in {seconds:.0f} s"
        if done.returncode:
            return f"ended with {done.returncode}: {done.stderr.strip().splitlines()[-1][:200]}"
    return f"{time.perf_counter() - started:.0f} s, two seeds, three labelled splits: `{STUDY}`"


def main(arguments: list[str], data: Path) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--minutes", type=float, default=10.0, help="when to stop, about")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    options = parser.parse_args(arguments)
    device, start = torch.device(options.device), time.perf_counter()
    cuda = device.type == "cuda"
    if cuda and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; --device cpu shows that everything runs")
    end = start + 60 * options.minutes
    warnings.filterwarnings("ignore")  # Lightning's advice, and operations without repeatable bits
    chosen = [row for row in rows(cuda) if options.only in row.name]
    card = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    precision = "bf16" if cuda else "fp32"
    roof = {p: product_flops(device, p, tf32=True) for p in ("bf16", "fp32")}
    print(f"\n### {card}, torch {torch.__version__}" + (f", CUDA {torch.version.cuda}" if cuda else ""))  # fmt: skip
    print(f"\nA large product of matrices reaches {roof['bf16'] / 1e12:.4g} TFLOP/s in bf16 and"
          f" {roof['fp32'] / 1e12:.4g} in fp32{' (TF32)' if cuda else ''}; the roof is that of the row's precision.")  # fmt: skip
    if cuda and not options.only:
        print(f"\nContracts:\n\n```text\n{contracts(24 * options.minutes)}\n```", flush=True)
    print(
        "\n| row | loss on the CPU | on the device | apart | gradients in float64 apart | correct |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for row in chosen:
        small = replace(row, count=16)
        print(f"| {row.name} | {correct(small, device)} |", flush=True)
    print("\n| row | loop | precision | images/s | share of the roof | peak memory | host waits a step"
          f" | {'kernels' if cuda else 'operators'} a step |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    # compiled loops come last, because compiling takes longest and may use up the time
    every = [(row, name, *of) for row in chosen for name, of in contenders(row).items()]
    every.sort(key=lambda one: "compiled" in one[1])
    if not cuda:
        every = [one for one in every if "compiled" not in one[1]]
    study_seconds = 90.0 if cuda else 0.0
    left = end - time.perf_counter() - study_seconds
    seconds = min(8.0, left / (4 * len(every))) if cuda else 0.1
    for row, name, package, run in every:
        if time.perf_counter() + 4 * seconds > end - study_seconds:
            found: Measured | str = "not measured: the time is up"
        elif not installed(package):
            found = "not installed"
        else:
            found = measure(run, row, device, precision, seconds)
        if isinstance(found, str):
            print(f"| {row.name} | {name} | {precision} | {found} | | | | |", flush=True)
        else:
            print(line(name, row, found, roof[precision], precision), flush=True)
    left = end - time.perf_counter()
    print(f"\nThe MNIST label-efficiency study: {study(data, device, max(30.0, left))}")
    print(f"\n{time.perf_counter() - start:.0f} s in all.")
