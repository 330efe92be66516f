"""The training loop: its updates, its trainable parameters, and its lack of hidden state."""

import gc
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sft_exp.config.schema import OptimizerConfig
from sft_exp.core.method import Method
from sft_exp.core.rng import seed_of, stream
from sft_exp.core.types import Spec
from sft_exp.encoders.conv import Conv
from sft_exp.encoders.mlp import MLP
from sft_exp.encoders.resnet import ResNet
from sft_exp.encoders.vit import ViT
from sft_exp.errors import ConfigError, NonFiniteError
from sft_exp.pretrainers.ae import AE
from sft_exp.schedules.piecewise_cosine import PiecewiseCosine
from sft_exp.tasks.classify import Classify
from sft_exp.training import checkpoints
from sft_exp.training.loop import micro_batches, train
from sft_exp.training.optim import build_optimizer, optimizers_for

CPU = torch.device("cpu")
SPEC = Spec((1, 8, 8), tuple("0123456789"))
ADAM = OptimizerConfig("torch.optim.Adam", {"lr": 0.1})
SGD = OptimizerConfig("torch.optim.SGD", {"lr": 0.1})


@pytest.fixture
def images(digits):
    return digits.train.at(torch.arange(50))


def classifier(encoder=None):
    torch.manual_seed(0)
    return Classify().networks((encoder or MLP([16])).build(SPEC.image), SPEC)


def run(method, nets, images, plan, target=SGD, start=0, optimizers=None):
    """Every step, and the optimizers."""
    optimizers = optimizers or optimizers_for(method, nets, target, plan.phases)
    return list(
        train(method, nets, optimizers, dict.fromkeys(method.pools, images), plan, CPU, start)
    ), optimizers


def numbers(nets):
    return {name: p.detach().clone() for name, p in nets.named_parameters()}


def moved(before, nets):
    return {name for name, p in nets.named_parameters() if not torch.equal(before[name], p)}


# Gradient descent


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("micro_batch_size", [None, 50, 10, 7])
def test_gradient_descent_is_theta_minus_eta_times_the_gradient(
    images, plan, steps, micro_batch_size
):
    """The batch is the whole set; taken in pieces, also with a smaller last one, it is the same step."""
    nets, by_hand = classifier(), classifier()
    (batch,) = images.batches([torch.arange(50)], CPU)
    for _ in range(steps):
        by_hand.zero_grad()
        F.cross_entropy(Classify().predict(by_hand, batch["x"]), batch["y"]).backward()
        with torch.no_grad():
            for p in by_hand.parameters():
                p -= 0.1 * p.grad
    found, _ = run(
        Classify(),
        nets,
        images,
        plan(nets, steps, batch_size=50, micro_batch_size=micro_batch_size),
    )
    for a, b in zip(nets.parameters(), by_hand.parameters(), strict=True):
        assert (a - b).abs().max() < 1e-6
    assert len(found) == steps


def test_what_is_logged_of_pieces_is_the_whole_batchs(images, plan):
    """Not the last piece's."""
    found = [
        run(
            Classify(),
            nets := classifier(),
            images,
            plan(nets, 3, batch_size=50, micro_batch_size=p),
        )[0]
        for p in (None, 7)
    ]
    for whole, cut in zip(*found, strict=True):
        assert {k: v.item() for k, v in whole.metrics.items()} == pytest.approx(
            {k: v.item() for k, v in cut.metrics.items()}, abs=1e-6
        )


def test_pieces_are_all_rows_and_their_shares():
    drawn = torch.arange(10).float(), torch.arange(20).reshape(10, 2), torch.tensor(3.0)
    found = list(micro_batches(drawn, 4))
    assert [len(p[0]) for _, p, _ in found] == [4, 4, 2]
    assert [last for _, _, last in found] == [False, False, True]
    assert sum(share for share, _, _ in found) == pytest.approx(1)
    assert torch.equal(torch.cat([p[1] for _, p, _ in found]), drawn[1])
    assert all(p[2] is drawn[2] for _, p, _ in found)


def test_pieces_of_mean_squared_error_add_up(images, plan):
    """The textbook's loss is a mean over pixels as well: still a mean over rows."""
    found = []
    for micro_batch_size in (None, 7):
        torch.manual_seed(0)
        method = AE("mean_squared", "linear")
        nets = method.networks(MLP([16]).build(SPEC.image), SPEC)
        run(method, nets, images, plan(nets, 3, batch_size=50, micro_batch_size=micro_batch_size))
        found.append(numbers(nets))
    assert all(torch.allclose(found[0][k], found[1][k], atol=1e-6) for k in found[0])


# Randomness


@dataclass
class Noisy(Method):
    """Draws numbers, and drops out inside its own forward."""

    def networks(self, encoder, spec):
        return nn.ModuleDict(
            {"net": nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3))}
        )

    def draw(self, batch, rng, progress):
        x_BCHW = batch["labelled"]["x"]
        return x_BCHW, torch.randn(len(x_BCHW), 3, generator=rng), torch.tensor(progress)

    def loss(self, nets, x_BCHW, target_BZ, progress):
        value = (nets["net"](x_BCHW) - target_BZ).square().mean() * (1 + progress)
        return value, {"seen": x_BCHW.sum(), "drawn": target_BZ.sum(), "progress": progress}


def test_a_step_is_a_function_of_its_number(images, plan):
    """Batch, draws and dropout of step t do not depend on where the loop began."""
    nets = Noisy().networks(None, SPEC)
    half, rows = (
        nn.ModuleDict({"net": nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3))}),
        [],
    )
    steps = plan(nets, 10)
    optimizers = optimizers_for(Noisy(), nets, SGD, steps.phases)
    for step in train(Noisy(), nets, optimizers, {"labelled": images}, steps, CPU):
        rows.append({k: v.item() for k, v in step.metrics.items()})
        if step.done == 6:
            half.load_state_dict(nets.state_dict())
    torch.manual_seed(99)
    later, _ = run(Noisy(), half, images, steps, start=6)
    assert [{k: v.item() for k, v in s.metrics.items()} for s in later] == rows[6:]
    assert torch.equal(half["net"][2].weight, nets["net"][2].weight)
    assert [s.done for s in later] == [7, 8, 9, 10]
    assert [r["progress"] for r in rows] == pytest.approx([i / 10 for i in range(10)])
    assert len({r["drawn"] for r in rows}) == len({r["seen"] for r in rows}) == 10, (
        "and each step has its own"
    )


def test_stopping_early_is_the_start_of_the_longer_run(images, plan):
    """Schedules end at `steps`, wherever one stops: rungs of a search go on from each other."""
    short, long = classifier(), classifier()
    cosine = PiecewiseCosine([[0.0, 1.0], [1.0, 0.0]])
    _, optimizers = run(Classify(), short, images, plan(short, 10, stop=4, schedule=cosine))
    run(Classify(), short, images, plan(short, 10, schedule=cosine), start=4, optimizers=optimizers)
    run(Classify(), long, images, plan(long, 10, schedule=cosine))
    assert not moved(numbers(long), short)


def test_another_name_is_another_run(images, plan):
    found = []
    for name in ((0, "a"), (1, "a"), (0, "b"), (0, "a")):
        nets = classifier()
        found.append(
            [
                s.metrics["loss"].item()
                for s in run(Classify(), nets, images, plan(nets, 5, name=name))[0]
            ]
        )
    assert found[0] == found[3]
    assert found[0] != found[1]
    assert found[0] != found[2]


def test_an_epoch_shows_every_image_once(images, plan):
    seen = []

    @dataclass
    class Watching(Classify):
        def draw(self, batch, rng, progress):
            seen.append(batch["labelled"]["row"])
            return super().draw(batch, rng, progress)

    nets = classifier()
    run(Watching(), nets, images, plan(nets, 10, batch_size=10))
    assert (
        sorted(torch.cat(seen[:5]).tolist())
        == sorted(torch.cat(seen[5:]).tolist())
        == list(range(50))
    )
    assert torch.cat(seen[:5]).tolist() != torch.cat(seen[5:]).tolist()


# Losses that are not numbers


@pytest.mark.parametrize("optimizer", [SGD, OptimizerConfig("torch.optim.Adam", {"lr": 0.1})])
def test_a_nan_stops_before_the_update(images, plan, optimizer):
    nets = classifier()
    images.x, images.rows = images.floats(torch.arange(50), CPU), None
    images.x[:] = torch.nan
    before = numbers(nets)
    with pytest.raises(NonFiniteError, match="loss is nan at step 0, accuracy 0"):
        run(Classify(), nets, images, plan(nets, 5), optimizer)
    assert not moved(before, nets)


def test_an_absurd_learning_rate_is_found_before_its_second_step(images, plan):
    nets, kept = classifier(), {}
    steps = plan(nets, 5)
    optimizers = optimizers_for(
        Classify(), nets, OptimizerConfig("torch.optim.SGD", {"lr": 1e30}), steps.phases
    )

    def go():
        for _ in train(Classify(), nets, optimizers, {"labelled": images}, steps, CPU):
            kept.update(numbers(nets))

    with pytest.raises(NonFiniteError, match=r"at step [12]\b.*before the update"):
        go()
    assert not moved(kept, nets)


# What moves, when, how fast


def test_the_schedule_multiplies_each_groups_rate(images, plan):
    nets = classifier()
    rates = {
        name: 0.5 if name.startswith("encoder.") else 1.0 for name, _ in nets.named_parameters()
    }
    cosine = PiecewiseCosine([[0.0, 0.2], [0.5, 1.0], [1.0, 0.0]])
    steps = plan(nets, 8, schedule=cosine, phases=[(1.0, rates)])
    optimizers = optimizers_for(Classify(), nets, SGD, steps.phases)
    found = [
        [g["lr"] for g in optimizers["loss"].param_groups]
        for _ in train(Classify(), nets, optimizers, {"labelled": images}, steps, CPU)
    ]
    assert found == [pytest.approx([0.05 * cosine(t / 8), 0.1 * cosine(t / 8)]) for t in range(8)]


def test_rates_are_shares_of_the_learning_rate(images, plan):
    nets = classifier()
    before, rates = (
        numbers(nets),
        {name: 0.25 for name, _ in nets.named_parameters()}
        | {"head.bias": 2.0, "head.weight": 1.0},
    )
    run(Classify(), nets, images, plan(nets, 1, phases=[(1.0, rates)]))
    for name, p in nets.named_parameters():
        assert torch.allclose(before[name] - p, 0.1 * rates[name] * p.grad, atol=1e-6)


@pytest.mark.parametrize(
    "optimizer", [SGD, OptimizerConfig("torch.optim.AdamW", {"lr": 0.1, "weight_decay": 0.5})]
)
def test_phases_switch_on_and_off_what_moves(images, plan, optimizer):
    """Frozen is frozen: no gradient, no momentum, no weight decay."""
    nets = classifier()
    every = {name: 1.0 for name, _ in nets.named_parameters()}
    head = {name: 1.0 for name in every if name.startswith("head.")}
    steps = plan(nets, 6, phases=[(1 / 3, head), (1 / 3, every), (1 / 3, head)])
    optimizers = optimizers_for(Classify(), nets, optimizer, steps.phases)
    found, before = [], numbers(nets)
    for _ in train(Classify(), nets, optimizers, {"labelled": images}, steps, CPU):
        found.append(moved(before, nets))
        before = numbers(nets)
    assert found == [{*head}, {*head}, {*every}, {*every}, {*head}, {*head}]


def test_a_number_has_one_rate(plan):
    """Phases may start and stop it; another rate in a later phase would be silently ignored."""
    nets = classifier()
    with pytest.raises(ConfigError, match=r"strategy=Classify: head.bias has several rates"):
        optimizers_for(
            Classify(), nets, SGD, [(0.5, {"head.bias": 1.0}), (0.5, {"head.bias": 0.1})]
        )


def test_frozen_numbers_cost_no_gradient(images, plan):
    nets = classifier()
    run(Classify(), nets, images, plan(nets, 2, phases=[(1.0, {"head.bias": 1.0})]))
    assert [name for name, p in nets.named_parameters() if p.grad is not None] == ["head.bias"]


@dataclass
class Adversaries(Method):
    """Two objectives, the second every third step, on networks one of whose names begins like another's."""

    objectives: ClassVar[dict[str, tuple[str, int]]] = {
        "critic_loss": ("net", 1),
        "generator_loss": ("net_ema", 3),
    }

    def networks(self, encoder, spec):
        return nn.ModuleDict(
            {"net": nn.Linear(64, 1), "net_ema": nn.Linear(64, 1), "teacher": nn.Linear(64, 1)}
        )

    def draw(self, batch, rng, progress):
        return (batch["labelled"]["x"].flatten(1),)

    def critic_loss(self, nets, x_BD):
        return (nets["net"](x_BD) - nets["net_ema"](x_BD) + 1).square().mean(), {}

    def generator_loss(self, nets, x_BD):
        return (nets["net"](x_BD) + nets["net_ema"](x_BD)).square().mean(), {"shown": x_BD.mean()}

    def on_step_end(self, nets, x_BD):
        assert not torch.is_grad_enabled()
        nets["teacher"].weight.lerp_(nets["net"].weight, 0.5)


def test_objectives_move_their_networks_at_their_turns(images, plan):
    """The teacher moves after each step, by `on_step_end`; names that begin alike are told apart."""
    torch.manual_seed(0)
    nets = Adversaries().networks(None, SPEC)
    steps = plan(nets, 6)
    optimizers = optimizers_for(Adversaries(), nets, SGD, steps.phases)
    assert [sum(len(g["params"]) for g in o.param_groups) for o in optimizers.values()] == [2, 2]
    found, before = [], numbers(nets)
    for step in train(Adversaries(), nets, optimizers, {"labelled": images}, steps, CPU):
        found.append({name.partition(".")[0] for name in moved(before, nets)})
        assert step.metrics.keys() == {
            "critic_loss",
            *(("generator_loss", "shown") if step.done % 3 == 0 else ()),
        }
        before = numbers(nets)
    both, one = {"net", "net_ema", "teacher"}, {"net", "teacher"}
    assert found == [one, one, both, one, one, both]


@dataclass
class TwoPools(Method):
    pools: ClassVar[dict[str, int]] = {"labelled": 1, "unlabelled": 3}

    def networks(self, encoder, spec):
        return nn.ModuleDict({"net": nn.Linear(64, 1)})

    def draw(self, batch, rng, progress):
        return batch["labelled"]["x"].flatten(1), batch["unlabelled"]["x"].flatten(1)

    def loss(self, nets, x_BD, u_MD):
        counts = {"rows": torch.tensor(len(x_BD)), "others": torch.tensor(len(u_MD))}
        return nets["net"](x_BD).square().mean(), {**counts, "sum": u_MD.sum()}


def test_each_pool_is_walked_through_in_its_own_length(digits, images, plan):
    nets = TwoPools().networks(None, SPEC)
    steps = plan(nets, 30, batch_size=20)
    data = {"labelled": images, "unlabelled": digits.train.at(torch.arange(50, 500))}
    seen = list(
        train(
            TwoPools(), nets, optimizers_for(TwoPools(), nets, SGD, steps.phases), data, steps, CPU
        )
    )
    assert {(int(s.metrics["rows"]), int(s.metrics["others"])) for s in seen} == {(20, 60)}
    assert len({s.metrics["sum"].item() for s in seen}) == 30


# Precision


def test_bf16_keeps_the_numbers_and_the_loss_in_fp32(images, plan):
    found = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        method = AE()
        nets = method.networks(Conv([8, 16], 16).build(SPEC.image), SPEC)
        steps, _ = run(
            method,
            nets,
            images,
            plan(nets, 10, precision=precision),
            OptimizerConfig("torch.optim.Adam", {"lr": 1e-3}),
        )
        assert {p.dtype for p in nets.parameters()} == {torch.float32}
        found.append([s.metrics["loss"].item() for s in steps])
    assert found[1] == pytest.approx(found[0], rel=0.01)
    assert found[1] != found[0]


# Optimizers


PARAMETER = nn.Parameter(torch.zeros(2, 2))


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "torch.load",
        "builtins.print",
        "torch.nn.Linear",
        "torch.optim.lr_scheduler.StepLR",
        "sft_exp.models.backbones.LinearMap",
    ],
)
def test_only_optimizers_are_built(path):
    """And nothing else is called to find out what it is."""
    with pytest.raises(ConfigError, match=r"must be a class derived from torch.optim.Optimizer"):
        build_optimizer(OptimizerConfig(path, {"lr": 0.1}), [{"params": [PARAMETER]}])


@pytest.mark.parametrize("path", ["torch.optim.Adamm", "nowhere.Adam", "Adam", "", "torch.optim."])
def test_an_optimizer_that_is_not_there_is_named(path):
    with pytest.raises(ConfigError, match=r"_target_=.*cannot be imported"):
        build_optimizer(OptimizerConfig(path, {"lr": 0.1}), [{"params": [PARAMETER]}])


@pytest.mark.parametrize(
    "options", [{"betas": 3}, {"beta": 0.9}, {"weight_decay": -1}, {"fused": True, "foreach": True}]
)
def test_options_an_optimizer_refuses_are_passed_on_in_its_words(options):
    with pytest.raises(ConfigError, match=r"torch.optim.Adam refuses these: "):
        build_optimizer(
            OptimizerConfig("torch.optim.Adam", {"lr": 0.1, **options}), [{"params": [PARAMETER]}]
        )


def test_a_third_partys_optimizer_works_by_its_path(tmp_path, monkeypatch, images, plan):
    (tmp_path / "their_optimizers.py").write_text(
        "import torch\n\n\nclass SignSGD(torch.optim.Optimizer):\n"
        "    def __init__(self, params, lr):\n        super().__init__(params, {'lr': lr})\n\n"
        "    def step(self, closure):\n"
        "        loss = closure()\n"
        "        with torch.no_grad():\n"
        "            for group in self.param_groups:\n"
        "                for p in group['params']:\n"
        "                    p -= group['lr'] * p.grad.sign()\n"
        "        return loss\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    nets = classifier()
    before = numbers(nets)
    found, _ = run(
        Classify(),
        nets,
        images,
        plan(nets, 1),
        OptimizerConfig("their_optimizers.SignSGD", {"lr": 0.01}),
    )
    assert all(
        torch.allclose((before[n] - p).abs(), 0.01 * (p.grad != 0), atol=1e-6)
        for n, p in nets.named_parameters()
    )
    assert found[0].metrics["loss"].isfinite()


def test_lbfgs_evaluates_its_closure_on_the_whole_set(images, plan):
    """Few steps of it reach what gradient descent does not in as many."""
    found = []
    for target in (SGD, OptimizerConfig("torch.optim.LBFGS", {"lr": 1.0})):
        nets = classifier()
        found.append(
            run(Classify(), nets, images, plan(nets, 5, batch_size=50), target)[0][-1]
            .metrics["loss"]
            .item()
        )
    assert found[1] < 0.05 < 1 < found[0]


def test_lbfgs_refuses_several_rates():
    nets = classifier()
    with pytest.raises(ConfigError, match=r"LBFGS refuses these: .*parameter"):
        optimizers_for(
            Classify(),
            nets,
            OptimizerConfig("torch.optim.LBFGS", {"lr": 1.0}),
            [(1.0, {"head.bias": 1.0, "head.weight": 0.5})],
        )


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_fused_kernels_compute_what_the_plain_ones_do(images, plan, name):
    found = []
    for extra in ({}, {"foreach": False}):
        nets = classifier()
        _, optimizers = run(
            Classify(),
            nets,
            images,
            plan(nets, 5),
            OptimizerConfig(f"torch.optim.{name}", {"lr": 1e-2, **extra}),
        )
        assert optimizers["loss"].defaults["fused"] is (None if extra else True)
        found.append(numbers(nets))
    assert all(torch.allclose(found[0][k], found[1][k], atol=1e-5) for k in found[0])


def test_streams_are_named_by_value():
    """The same name is the same stream on every machine; neighbours and re-ordered names are others."""
    assert seed_of(0, "draw", 7) == 2215774998242444354
    first = {
        torch.rand(1, generator=stream(*name)).item()
        for name in [(0, "a"), ("a", 0), (0, "b"), (1, "a"), (0, "a", 0)]
    }
    assert len(first) == 5


@pytest.mark.parametrize("encoder", [Conv([4, 8], 16), ResNet(10), ViT(4, 16, 2, 2)], ids=repr)
def test_recomputed_blocks_change_no_bit(images, plan, encoder):
    """Weights, BatchNorm's statistics and their counters included."""
    ended = []
    for recompute in (False, True):
        nets = classifier(encoder)
        steps, _ = run(Classify(), nets, images, plan(nets, 3, recompute=recompute))
        assert len(steps) == 3
        ended.append(nets.state_dict())
    assert all(torch.equal(ended[0][name], ended[1][name]) for name in ended[0])


# Memory


@pytest.mark.parametrize("keeps", [False, True])
def test_a_long_training_leaves_no_objects_behind(images, plan, keeps):
    """The number of live objects is the same after many epochs as after a few. A loop that keeps each
    step's loss, and with it the graph, is noticed."""
    nets, kept, counts = classifier(), [], {}
    epochs = plan(nets, 120)
    optimizers = optimizers_for(Classify(), nets, SGD, epochs.phases)
    data = dict.fromkeys(Classify().pools, images)
    for step in train(Classify(), nets, optimizers, data, epochs, CPU):
        if keeps:
            kept.append(nets["head"](torch.rand(4, nets["head"].in_features)).sum())
        if step.done in (20, 120):
            gc.collect()
            counts[step.done] = len(gc.get_objects())
    grown = counts[120] - counts[20]
    assert (grown > 90) == keeps, counts


@pytest.mark.parametrize(("share", "warned"), [(0.8, True), (1.2, False)])
def test_too_little_space_for_two_checkpoints_is_warned_of(
    share, warned, monkeypatch, tmp_path, capsys
):
    nets = classifier(MLP([512, 512]))
    optimizers = optimizers_for(Classify(), nets, ADAM, [(1.0, dict.fromkeys(numbers(nets), 1.0))])
    for p in nets.parameters():
        p.grad = torch.ones_like(p)
    next(iter(optimizers.values())).step()
    state = {"nets": nets.state_dict(), "optimizer": next(iter(optimizers.values())).state_dict()}
    free = round(share * 2 * len(checkpoints.to_bytes(state)))
    usage = SimpleNamespace(free=free)
    monkeypatch.setattr("sft_exp.store.atomic_io.shutil.disk_usage", lambda path: usage)
    checkpoints.warn_of_little_space(tmp_path / "work", SimpleNamespace(nets=nets))
    assert (f"{free:,} bytes are free" in capsys.readouterr().err) == warned
