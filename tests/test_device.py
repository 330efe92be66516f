"""What a GPU needs, tested without one: no waiting inside a step, float16, channels-last order, words
for a memory that is full. With `--device cuda` the same steps also run there."""

import io
from copy import deepcopy

import pytest
import torch
from test_contract import (
    GRADIENT,
    annotated,
    bits,
    drawn_by,
    equal,
    every,
    networks,
    supervised,
)
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sft_exp.config.schema import Hardware, OptimizerConfig
from sft_exp.core.device import place
from sft_exp.core.types import Spec
from sft_exp.encoders.conv import Conv
from sft_exp.encoders.mlp import MLP
from sft_exp.errors import ConfigError, DeviceMemoryError, NonFiniteError
from sft_exp.pretrainers.ae import AE
from sft_exp.pretrainers.simclr import SimCLR
from sft_exp.tasks.classify import Classify
from sft_exp.training import fit, loop
from sft_exp.training.context import Context
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


def waits(method, nets, images, plan, monkeypatch, count=3):
    """What makes the host wait in the steps after the first of a training, as on a GPU."""
    made = plan(nets, 100, stop=50)
    monkeypatch.setattr(loop.LossRecord, "__init__", on_a_gpu)
    optimizers = optimizers_for(method, nets, ADAM, made.phases)
    steps = loop.train(method, nets, optimizers, dict.fromkeys(method.pools, images), made, CPU)
    next(steps)  # the order of the epoch, and state that optimizers make in their first step
    with Copies() as copies, Reads() as reads:
        for _ in range(count):
            next(steps)
    return reads.names + copies.names


def on_a_gpu(self, device):
    self.every, self.losses = loop.CHECK_EVERY, []


@pytest.mark.parametrize("stem", GRADIENT)
def test_no_step_of_a_pretraining_waits_for_the_device(digits, plan, monkeypatch, stem):
    method, nets = networks(stem, "conv") or networks(stem, "mlp") or networks(stem, "vit")
    assert waits(method, nets, digits.train, plan, monkeypatch) == []


@every("task")
def test_no_step_of_a_task_waits_for_the_device(plan, monkeypatch, stem):
    if stem in (waiting := {"detect": "torchvision's losses index by masks",
                            "m1_m2": "one_hot looks at its indices on a CPU, and only there",
                            "multitask": "GradNorm asks whether it knows its first losses"}):  # fmt: skip
        pytest.skip(waiting[stem])
    task, nets = supervised(stem)
    assert waits(task, nets, annotated(stem), plan, monkeypatch) == []


def test_the_counters_see_what_waits():
    with Reads() as reads, Copies() as copies:
        x = torch.tensor([1.0, -1.0], device="cpu")
        x[x > 0].sum().item()
    assert "_local_scalar_dense" in reads.names
    assert len(reads.names) > 1
    assert copies.names == ["tensor"]


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
        last.refresh() if looked_at else next(steps)


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
    monkeypatch.setattr(loop, "LEAST_SCALE", 1e9)
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


# Channels-last order


@pytest.mark.parametrize("stem", [s for s in GRADIENT if networks(s, "conv")])
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
