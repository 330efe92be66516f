"""Every optimizer option learns and resumes, and our own optimizers follow their papers."""

from copy import deepcopy
from dataclasses import replace
from importlib import import_module

import pytest
import torch

from sft_exp.config import help_text
from sft_exp.config.schema import OptimizerConfig
from sft_exp.core.types import Spec
from sft_exp.encoders.conv import Conv
from sft_exp.errors import ConfigError
from sft_exp.tasks.classify import Classify
from sft_exp.training.loop import train
from sft_exp.training.optim import build_optimizer, optimizers_for
from sft_exp.training.sam import SAM

CPU = torch.device("cpu")
SPEC = Spec((1, 8, 8), tuple("0123456789"))


@pytest.fixture
def target(experiment):
    """Option -> its optimizer; skips where its library is not there."""

    def found(option):
        chosen = experiment(f"optim={option}").optim
        try:
            import_module(chosen.path.rpartition(".")[0])
        except ImportError:
            pytest.skip(f"optim={option} needs the extra {chosen.hints['extra']}")
        return chosen

    return found


def networks():
    torch.manual_seed(0)
    return Classify().networks(Conv([4, 8], 16).build(SPEC.image), SPEC)


def run(target, images, plan, steps, start=0, saved=None, stop=None):
    nets = networks()
    told = plan(nets, steps, stop=stop or steps)
    optimizers = optimizers_for(Classify(), nets, target, told.phases)
    if saved:
        nets.load_state_dict(saved[0])
        optimizers["loss"].load_state_dict(saved[1])
    losses = [
        s.metrics["loss"].item()
        for s in train(Classify(), nets, optimizers, {"labelled": images}, told, CPU, start)
    ]
    return losses, nets, deepcopy((nets.state_dict(), optimizers["loss"].state_dict()))


@pytest.mark.parametrize("option", help_text.options("optim"))
def test_it_learns_and_restarts_in_the_same_bits(digits, target, plan, option):
    images, chosen = digits.train.at(torch.arange(64)), target(option)
    losses, nets, _ = run(chosen, images, plan, 10)
    # L-BFGS fits each batch to its end: how far depends on rounding, but not to chance
    assert sum(losses[-4:]) < max(sum(losses[:4]), 4.0 if option == "lbfgs" else 0.0)
    begun, _, saved = run(chosen, images, plan, 10, stop=4)
    ended, again, _ = run(chosen, images, plan, 10, start=4, saved=saved)
    assert begun + ended == losses
    assert all(
        torch.equal(a, b)
        for a, b in zip(nets.state_dict().values(), again.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("option", help_text.options("optim"))
def test_layers_may_join_at_their_own_phase(digits, target, plan, option):
    """As in gradual unfreezing: the parameters of a later phase have no state yet when it begins."""
    images, nets = digits.train.at(torch.arange(64)), networks()
    names = list(dict(nets.named_parameters()))
    head, last = [n for n in names if n.startswith("head")], names[-4:]
    phases = [(0.4, dict.fromkeys(chosen, 1.0)) for chosen in (head, last)]
    phases.append((0.2, dict.fromkeys(names, 1.0)))
    told = replace(plan(nets, 10), phases=phases)
    optimizers = optimizers_for(Classify(), nets, target(option), phases)
    before = deepcopy(nets.state_dict())
    steps = list(train(Classify(), nets, optimizers, {"labelled": images}, told, CPU, 0))
    assert len(steps) == 10
    moved = {n for n, p in nets.named_parameters() if not torch.equal(p, before[n])}
    assert moved == set(names)


def test_an_optimizer_of_a_library_that_is_not_there_names_the_extra():
    with pytest.raises(
        ConfigError, match=r'cannot be imported .*; pip install "sft_exp\[optimizers\]"'
    ):
        build_optimizer(
            OptimizerConfig("nowhere.optim.Lion", {"lr": 1e-3}, {"extra": "optimizers"}), []
        )


def test_sam_steps_with_the_gradient_from_further_up():
    """f = (1, 9) w^2 / 2: the gradient at w + rho g / |g|, taken from w."""
    scale, start = torch.tensor([1.0, 9.0]), torch.tensor([1.0, 1.0])
    w = torch.nn.Parameter(start.clone())
    optimizer = SAM([w], lr=0.1, rho=0.5)

    def closure():
        optimizer.zero_grad()
        loss = 0.5 * (scale * w.square()).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(5.0)
    gradient = scale * start
    higher = start + 0.5 * gradient / gradient.norm()
    assert torch.allclose(w, start - 0.1 * scale * higher)


def test_sam_without_a_radius_is_its_base(digits, plan):
    """In its weights; BatchNorm's statistics count both passes."""
    images = digits.train.at(torch.arange(64))
    ours = run(
        OptimizerConfig("sft_exp.training.sam.SAM", {"lr": 0.05, "rho": 0.0, "momentum": 0.9}),
        images,
        plan,
        8,
    )[1]
    plain = run(
        OptimizerConfig("torch.optim.SGD", {"lr": 0.05, "momentum": 0.9, "foreach": False}),
        images,
        plan,
        8,
    )[1]
    for (name, a), (_, b) in zip(ours.named_parameters(), plain.named_parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name


@pytest.mark.parametrize(
    "base", ["os.system", "torch.nn.Linear", "nowhere.Adam", "torch.optim.Nothing", "Adam"]
)
def test_sam_takes_only_optimizers(base):
    with pytest.raises(ConfigError, match=r"SAM refuses these: base="):
        build_optimizer(
            OptimizerConfig("sft_exp.training.sam.SAM", {"lr": 0.1, "base": base}),
            [{"params": [torch.nn.Parameter(torch.zeros(2))]}],
        )


def test_between_steps_a_schedule_free_optimizer_holds_the_weights_to_keep(digits, target, plan):
    """What is scored and saved is the mean x of the iterates, not the y at which gradients are taken."""
    nets, images = networks(), digits.train.at(torch.arange(64))
    told = plan(nets, 10)
    optimizers = optimizers_for(Classify(), nets, target("schedule_free"), told.phases)
    for _ in train(Classify(), nets, optimizers, {"labelled": images}, told, CPU):
        assert not optimizers["loss"].param_groups[0]["train_mode"]
    kept = nets["head"].weight.detach().clone()
    optimizers["loss"].train()
    assert not torch.equal(kept, nets["head"].weight)
