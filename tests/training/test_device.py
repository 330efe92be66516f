"""What a GPU needs, tested without one: no waiting inside a step, float16, channels-last order, words
for a memory that is full. With `--device cuda` the same steps also run there."""

import io
import json
import os
import subprocess
import sys
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import pytest
import ranked
import torch
from test_contract import (
    GRADIENT,
    SOLVING,
    annotated,
    bits,
    drawn_by,
    equal,
    every,
    features,
    fits,
    networks,
    part,
    supervised,
)
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import sft_exp
from benchmarks import gpu
from sft_exp.config import sources
from sft_exp.config.schema import Hardware, OptimizerConfig
from sft_exp.core.device import place
from sft_exp.core.rng import Stream, seed_of
from sft_exp.core.types import Spec
from sft_exp.encoders.conv import Conv
from sft_exp.encoders.mlp import MLP
from sft_exp.errors import ConfigError, DeviceMemoryError, NonFiniteError
from sft_exp.pretrainers.ae import AE
from sft_exp.pretrainers.simclr import SimCLR
from sft_exp.tasks.classify import Classify
from sft_exp.training import fit, loop
from sft_exp.training.context import Context, set_cuda_arithmetic
from sft_exp.training.optim import optimizers_for, scalers_for

CPU = torch.device("cpu")
SPEC = Spec((1, 8, 8), tuple("0123456789"))
ADAM = OptimizerConfig("torch.optim.Adam", {"lr": 1e-3})
# operators whose result the host reads: on a GPU it waits until the device has computed it
READING = {"_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2"}


class Reads(TorchDispatchMode):
    """The operators of READING that are called inside, and indexing by a mask, which is one."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = [i for i in args[1] if i is not None] if name.startswith("index") else []
        if name in READING or any(i.dtype == torch.bool for i in masks if hasattr(i, "dtype")):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


class Copies(TorchFunctionMode):
    """The calls inside that copy a Python number to a tensor's device, which waits, too."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name == "new_tensor" or (name in ("tensor", "as_tensor") and "device" in (kwargs or {})):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def waits(method, nets, images, plan, device, monkeypatch, count=3):
    """What makes the host wait in the steps after the first of a training, as on a GPU.

    On a GPU torch itself raises for what waits.
    """
    made = plan(place(nets, device), 100, stop=50)
    monkeypatch.setattr(loop.LossRecord, "__init__", on_a_gpu)
    optimizers = optimizers_for(method, nets, ADAM, made.phases)
    data = dict.fromkeys(method.pools, images.to(device))
    steps = loop.train(method, nets, optimizers, data, made, device)
    next(steps)  # the order of the epoch, and state that optimizers make in their first step
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        with Copies() as copies, Reads() as reads:
            for _ in range(count):
                next(steps)
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    return reads.names + copies.names


def on_a_gpu(self, device):
    self.every, self.losses = loop.CHECK_EVERY, []


@pytest.mark.parametrize("stem", GRADIENT)
def test_no_step_of_a_pretraining_waits_for_the_device(digits, plan, device, monkeypatch, stem):
    method, nets = next(networks(stem, e) for e in ("conv", "mlp", "vit") if fits(stem, e))
    assert waits(method, nets, digits.train, plan, device, monkeypatch) == []


@every("task")
def test_no_step_of_a_task_waits_for_the_device(plan, device, monkeypatch, stem):
    if stem in (waiting := {"detect": "torchvision's losses index by masks",
                            "m1_m2": "one_hot looks at its indices on a CPU, and only there",
                            "multitask": "GradNorm asks whether it knows its first losses"}):  # fmt: skip
        pytest.skip(waiting[stem])
    task, nets = supervised(stem)
    assert waits(task, nets, annotated(stem), plan, device, monkeypatch) == []


def test_the_counters_see_what_waits():
    with Reads() as reads, Copies() as copies:
        x = torch.tensor([1.0, -1.0], device="cpu")
        x[x > 0].sum().item()
    assert "_local_scalar_dense" in reads.names
    assert len(reads.names) > 1
    assert copies.names == ["tensor"]


# The same numbers as on the CPU


class DrawnOnCpu(Stream):
    """A stream that draws what it would on a CPU, for tensors on another device."""

    def __new__(cls, target, share=None):
        return super().__new__(cls, "cpu", share)

    def __init__(self, target, share=None):
        super().__init__("cpu", share)
        self.target = target

    def rand(self, *shape):
        return super().rand(*shape).to(self.target)

    def randn(self, *shape):
        return super().randn(*shape).to(self.target)

    def bernoulli(self, p):
        return super().bernoulli(p.cpu()).to(self.target)

    def beta(self, a, rows):
        return super().beta(a, rows).to(self.target)


def drawn_on_cpu(*name, device="cpu", share=None):
    result = DrawnOnCpu(device, share)
    result.manual_seed(seed_of(*name))
    return result


@pytest.fixture
def float64(monkeypatch):
    """In which a wrong kernel differs from rounding, which training multiplies in float32."""
    monkeypatch.setattr(loop, "stream", drawn_on_cpu)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def elsewhere(made, device):
    """The same training with its networks on the device; on a CPU in channels-last order."""
    method, nets, phases, penalty = deepcopy(made)
    if device.type == "cpu":
        nets.to(memory_format=torch.channels_last)
    return method, nets, phases, penalty


# every fourth comes first
CASES = [case for n in range(4) for case in sorted(ranked.cases())[n::4]]


@pytest.mark.sampled(12)
@pytest.mark.parametrize("case", CASES)
def test_a_device_trains_as_the_cpu_does(device, float64, case):
    """Every pretrainer, task and strategy: gradients of four steps at the same draws, and all
    parameters, statistics, queues and teachers after them."""
    torch.manual_seed(0)
    try:
        made = ranked.cases()[case]()
    except ConfigError as error:
        pytest.skip(str(error))
    gradients, end = ranked.trained(deepcopy(made), "local", None, ranked.images(), device=CPU)
    theirs, last = ranked.trained(
        elsewhere(made, device), "local", None, ranked.images(), device=device
    )
    last = {name: value.cpu() for name, value in last.items()}
    assert max(ranked.apart(a, b) for a, b in zip(gradients, theirs, strict=True)) < 1e-8
    assert ranked.apart(end, last) < 1e-8


LOOSE = {"muon": 0.05}  # orthogonalises in bfloat16, whatever its numbers are
OPTIMIZERS = sorted(file.stem for file in (sources.CONF / "optim").glob("*.yaml"))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("option", OPTIMIZERS)
def test_an_optimizer_steps_on_a_device_as_on_the_cpu(experiment, plan, device, float64, option):
    """Five steps in all numbers, and on the device the same bits as three, a checkpoint and two."""
    target = experiment(f"optim={option}").optim
    ends = []

    def run(nets, where, stop=5, start=0, saved=None):
        made = plan(place(nets, where), 5, stop=stop)
        optimizers = optimizers_for(Classify(), nets, target, made.phases)
        if saved:
            nets.load_state_dict(saved[0])
            optimizers["loss"].load_state_dict(saved[1])
        data = {"labelled": ranked.images().to(where)}
        for _ in loop.train(Classify(), nets, optimizers, data, made, where, start):
            pass
        return deepcopy((nets.state_dict(), optimizers["loss"].state_dict()))

    try:
        ends.append(run(classifier(), CPU)[0])
    except ConfigError as error:
        pytest.skip(str(error))
    whole, _ = run(classifier(), device)
    resumed, _ = run(classifier(), device, start=3, saved=run(classifier(), device, stop=3))
    assert equal(whole, resumed)
    whole = {name: value.cpu() for name, value in whole.items()}
    assert ranked.apart(ends[0], whole) < LOOSE.get(option, 1e-8)


@pytest.mark.parametrize("stem", SOLVING)
def test_a_closed_form_is_the_same_on_a_device(device, stem):
    if device.type == "cpu":
        pytest.skip("on a CPU it is the same call; --device cuda compares")
    strategy, (f_BD, y_B) = part("strategy", stem)(), features()
    on_cpu = strategy.fit_closed_form(f_BD, y_B, SPEC, seed=7)(f_BD)
    head = strategy.fit_closed_form(f_BD.to(device), y_B.to(device), SPEC, seed=7).to(device)
    agree = (head(f_BD.to(device)).cpu().argmax(1) == on_cpu.argmax(1)).float().mean()
    assert agree > 0.99


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_one_process_of_a_group_computes_what_none_does(device, tmp_path, engine):
    if device.type == "cpu":
        pytest.skip("test_ranks compares two processes on a CPU; --device cuda takes one and NCCL")
    alone = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    here = Path(__file__).parents[1]
    command = [sys.executable, *alone, str(here / "ranked.py"), str(tmp_path), engine]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=here.parent,
        env=os.environ | {"DEVICE": "cuda:0"},
    )
    assert done.returncode == 0, done.stderr
    found = {file.stem: json.loads(file.read_text()) for file in tmp_path.glob("*.json")}
    assert len(found) > 30
    faults = {name: f for name, f in found.items() if "skipped" not in f and
              not ("end" in f and max(f.values()) < 1e-8)}  # fmt: skip
    assert not faults


def test_a_model_that_a_device_trained_is_exported(device, tmp_path):
    """A whole run, whose export is checked against the model; and once more from what is stored."""
    if device.type == "cpu":
        pytest.skip("test_export does this on a CPU; --device cuda trains on a GPU")
    overrides = ["debug=tiny", "export=onnx", "encoder=conv", f"hardware.device={device}"]
    sft_exp.run([*overrides, f"store={tmp_path}/store"], tmp_path / "run")
    assert list(tmp_path.rglob("*.onnx"))


def test_a_device_whose_memory_is_full_says_so(digits, plan, device, tmp_path):
    if device.type == "cpu":
        pytest.skip("a CPU's memory is the machine's; the words are tested below")
    nets = place(AE().networks(MLP([16]).build(SPEC.image), SPEC), device)
    pool = digits.train.to(device)
    pool = pool.at(torch.arange(1000).repeat(300))
    made = plan(nets, 3, batch_size=300_000, name=(0, "pretrain"))
    torch.cuda.set_per_process_memory_fraction(1e-3)
    try:
        with pytest.raises(DeviceMemoryError, match=r"micro_batch_size=150000"):
            list(fit.fit(tmp_path, AE(), nets, ADAM, {"pool": pool}, made,
                         Context(Hardware(), device), "x"))  # fmt: skip
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


# A loss that is not finite


class Breaking(Classify):
    """Its loss is NaN from the step on at which a third of the training is over."""

    def draw(self, batch, rng, progress):
        x_BCHW, y_B = super().draw(batch, rng, progress)
        return (x_BCHW * torch.nan if progress >= 0.3 else x_BCHW), y_B


def classifier(size=8):
    torch.manual_seed(0)
    return Classify().networks(Conv([4, 8], 16).build((1, size, size)), SPEC)


@pytest.mark.parametrize("looked_at", [0, 4])
def test_a_look_at_the_losses_names_the_step_that_broke(digits, plan, monkeypatch, looked_at):
    """It comes after some more steps, at the end or before something is recorded."""
    monkeypatch.setattr(loop.LossRecord, "__init__", on_a_gpu)
    nets = classifier()
    made = plan(nets, 10)
    optimizers = optimizers_for(Breaking(), nets, ADAM, made.phases)
    steps = loop.train(Breaking(), nets, optimizers, {"labelled": digits.train}, made, CPU)
    last = [next(steps) for _ in range(looked_at or 9)][-1]
    words = r"^loss is nan at step 3, accuracy 0\.?\d*$"
    with pytest.raises(NonFiniteError, match=words):
        last.check() if looked_at else next(steps)


# float16


@pytest.fixture
def half(plan, digits):
    """-> (networks, what a checkpoint holds) after steps `start` to `stop` of 20 in float16."""

    def run(stop=20, start=0, saved=None, kind="Adam", seed=0):
        torch.manual_seed(seed)
        nets = AE().networks(MLP([16]).build(SPEC.image), SPEC)
        made = plan(nets, 20, stop=stop, precision="fp16", clip=1.0)
        target = OptimizerConfig(f"torch.optim.{kind}", {"lr": 1e-3})
        optimizers = optimizers_for(AE(), nets, target, made.phases)
        scalers = scalers_for(optimizers, "fp16", CPU)
        scalers["loss"]._growth_interval = 4
        if saved:
            nets.load_state_dict(saved["nets"])
            optimizers["loss"].load_state_dict(saved["optimizer"])
            scalers["loss"].load_state_dict(saved["scaler"])
        data = {"pool": digits.train}
        steps = loop.train(AE(), nets, optimizers, data, made, CPU, start, scalers=scalers)
        losses = [step.metrics["loss"].item() for step in steps]
        state = {
            "nets": nets.state_dict(),
            "optimizer": optimizers["loss"].state_dict(),
            "scaler": scalers["loss"].state_dict(),
        }
        return losses, state

    return run


def test_a_training_in_float16_continues_in_the_same_bits(half):
    whole, end = half()
    begun, saved = half(stop=9)
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    continued, resumed_end = half(start=9, saved=torch.load(file, weights_only=True), seed=1)
    assert begun + continued == whole
    assert equal(end["nets"], resumed_end["nets"])
    assert end["scaler"] == resumed_end["scaler"] != saved["scaler"]
    assert whole[-1] < whole[0]


def test_float16_scales_for_backward_alone(half, monkeypatch):
    """Gradients that are clipped and followed are those of the loss, whatever the scale."""
    monkeypatch.setattr(loop, "autocast", lambda *_: torch.autocast("cpu", enabled=False))
    _, scaled = half(stop=3)
    monkeypatch.setattr(loop, "scalers_for", lambda *_: {})
    monkeypatch.setattr(torch.amp.GradScaler, "scale", lambda self, value: value)
    monkeypatch.setattr(torch.amp.GradScaler, "unscale_", lambda self, optimizer: None)
    monkeypatch.setattr(torch.amp.GradScaler, "step", lambda self, optimizer: optimizer.step())
    monkeypatch.setattr(torch.amp.GradScaler, "update", lambda self: None)
    _, plain = half(stop=3)
    for name, value in plain["nets"].items():
        assert torch.allclose(value, scaled["nets"][name], atol=1e-6), name


def test_gradients_that_overflow_at_every_scale_are_said(half, monkeypatch):
    """Not one step would be taken, and the loss would stay as it is."""
    monkeypatch.setattr(loop, "MIN_SCALE", 1e9)
    with pytest.raises(NonFiniteError, match=r"gradients of loss are not finite .*bf16"):
        half()


@pytest.mark.parametrize("name", ["LBFGS"])
def test_float16_refuses_optimizers_of_several_gradients(half, name):
    with pytest.raises(ConfigError, match=r"hardware\.precision=fp16: LBFGS computes gradients"):
        half(kind=name)


def test_float16_is_refused_where_gradients_are_shared_out():
    with pytest.raises(ConfigError, match="fp32 or bf16 with engine=fsdp"):
        Hardware(precision="fp16", engine="fsdp")


def test_a_checkpoint_has_the_scale(digits, plan, tmp_path):
    """A training that stops early, and goes on by the files that it left."""
    ends = []
    for folder, stops in ((tmp_path / "a", (8,)), (tmp_path / "b", (5, 8))):
        for stop in stops:
            torch.manual_seed(0)
            nets = AE().networks(MLP([16]).build(SPEC.image), SPEC)
            made = plan(nets, 10, stop=stop, precision="fp16")
            context = Context(Hardware(device="cpu"), CPU)
            folder.mkdir(exist_ok=True)
            for _ in fit.fit(folder, AE(), nets, ADAM, {"pool": digits.train}, made, context, "x"):
                pass
        ends.append(bits(nets))
        checkpoint = torch.load(
            io.BytesIO((folder / "checkpoint.pt").read_bytes()), weights_only=True
        )
        assert checkpoint["scalers"]["loss"]["scale"] > 0
    assert equal(*ends)


# TF32


def test_only_tf32_that_is_off_is_part_of_a_request(experiment):
    assert experiment().hardware.numerics() == "fp32"
    assert experiment("hardware.precision=bf16").hardware.numerics() == "bf16"
    off = experiment("hardware.precision=bf16", "hardware.tf32=false").hardware.numerics()
    assert off == "bf16 without tf32"
    with loop.autocast(CPU, off):
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("on", [False, True])
def test_what_torch_compile_asks_about_tf32_has_an_answer(on):
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        set_cuda_arithmetic(on)
        assert torch.get_float32_matmul_precision() == ("high" if on else "highest")
        assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is on
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


# Channels-last order


@pytest.mark.parametrize("stem", [s for s in GRADIENT if fits(s, "conv")])
def test_the_order_of_channels_changes_rounding_alone(digits, stem):
    method, nets = networks(stem, "conv")
    other = deepcopy(nets).to(memory_format=torch.channels_last)
    drawn = drawn_by(method, digits.train)
    for objective in method.objectives:
        values = []
        for these in (nets, other):
            value, _ = getattr(method, objective)(these, *drawn)
            value.backward()
            values.append(value.item())
        assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_a_gpu_gets_channels_last_order(monkeypatch):
    nets, asked = classifier(), []
    monkeypatch.setattr(nn.ModuleDict, "to", lambda self, *a, **k: asked.append((a, k)))
    place(nets, torch.device("cuda"))
    place(nets, CPU)
    assert asked[0] == ((torch.device("cuda"),), {"memory_format": torch.channels_last})
    assert asked[1] == ((CPU,), {})


# A memory that is full


@pytest.mark.parametrize(
    ("method", "encoder", "changes", "words"),
    [
        (AE(), MLP([16]), {}, r"pretrain\.micro_batch_size=8 may fit"),
        (AE(), MLP([16]), {"micro_batch_size": 4}, r"4 are computed at once; .*batch_size=2"),
        (SimCLR(), MLP([16]), {}, r"pretrain\.batch_size=8 may fit, but changes"),
    ],
)
def test_a_full_memory_names_what_may_fit(digits, plan, tmp_path, method, encoder, changes, words, monkeypatch):  # fmt: skip
    nets = method.networks(encoder.build(SPEC.image), SPEC)
    made = plan(nets, 3, name=(0, "pretrain"), **changes)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(type(method), "loss", full)
    context = Context(Hardware(device="cpu"), CPU)
    with pytest.raises(DeviceMemoryError, match=rf"pretrain X: .*batch of 16 .*{words}") as error:
        list(fit.fit(tmp_path, method, nets, ADAM, {"pool": digits.train}, made, context, "pretrain X"))  # fmt: skip
    assert error.value.code == 5


def test_an_allocation_that_the_machine_refuses_is_a_full_memory(digits, plan, tmp_path, monkeypatch):  # fmt: skip
    """PyTorch raises RuntimeError on the CPU, which was reported as a bug."""
    nets = AE().networks(MLP([16]).build(SPEC.image), SPEC)
    monkeypatch.setattr(AE, "loss", lambda *_: torch.zeros(10**15))
    context, made = Context(Hardware(device="cpu"), CPU), plan(nets, 3, name=(0, "pretrain"))
    with pytest.raises(DeviceMemoryError, match=r"micro_batch_size=8 may fit"):
        list(fit.fit(tmp_path, AE(), nets, ADAM, {"pool": digits.train}, made, context, "X"))


# The benchmark


profiled = pytest.mark.skipif(
    torch.__version__ < "2.11",
    reason='PyTorch 2.10 ends a profile of a training with "Can\'t disable Kineto profiler"',
)


@profiled
def test_the_benchmark_counts_the_same_work_for_both_loops():
    """FLOPs of the textbook autoencoder: forward, and backward without the images' gradient."""
    (row,) = [row for row in gpu.rows(cuda=False) if "AE, 1x28" in row.name]
    assert gpu.correct(row, CPU).endswith("yes")
    widths = (784, 400, 100, 400, 784)
    products = sum(a * b for a, b in pairwise(widths))
    for run in (gpu.ours, gpu.textbook):
        found = gpu.measure(run, row, CPU, "fp32", 0.05)
        assert found.flops_per_image == 2 * (3 * products - 784 * 400)
        assert found.images_per_second > 0
        assert found.kernels > 50
    assert "| 1,000 (60.00 s an epoch) | 50.0 % |" in gpu.line(
        "x", row, gpu.Measured(1000.0, 5.0), 10_000.0, "fp32"
    )


@profiled
def test_a_contender_that_fails_costs_no_other_its_time():
    def broken(row, device, precision, meter):
        while meter():
            assert torch.utils._python_dispatch._get_current_dispatch_mode() is None, "profiled"

    def full(*_):
        raise torch.OutOfMemoryError

    (row,) = [row for row in gpu.rows(cuda=False) if "AE, 1x28" in row.name]
    with pytest.raises(AssertionError):
        gpu.measure(broken, row, CPU, "fp32", 0.0)
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    assert gpu.measure(full, row, CPU, "fp32", 0.0) == "out of memory"
