"""Several tasks on one encoder: `task.heads={left: classify, mask: segment}`, a head for each target of that name.

Their losses L_i are weighed in one of three ways:
    fixed        sum w_i L_i
    uncertainty  sum exp(-s_i) L_i + s_i / 2, s_i learned (Kendall et al., arXiv:1705.07115, equation 10; for numbers, whose error
                 is squared, exp(-s_i) / 2)
    gradnorm     sum w_i L_i, w_i moved towards equal rates of learning (Chen et al., arXiv:1711.02257, equation 2). Gradients
                 are taken at the maps that all heads read, not at the weights below them: no second way back through the encoder
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sft_exp.config.schema import AugmentConfig
from sft_exp.core.comm import now
from sft_exp.core.task import Task
from sft_exp.data.augment import view, view_with_mask
from sft_exp.errors import ConfigError, require
from sft_exp.models.ema import StateBuffer

WEIGHTINGS = ("fixed", "uncertainty", "gradnorm")


@dataclass
class MultiTask(Task):
    # fields with parts in them -> the group whose options they may name
    holds: ClassVar[dict[str, str]] = {"heads": "task"}
    predicts: ClassVar[str] = "several"
    score: ClassVar[str] = "mean"
    footing: ClassVar[str] = (
        "the mean is over the heads, each by its own score; alone_ is the same with that head only"
    )

    # target -> what is learnt of it: classify, segment, regress, ...
    heads: dict = field(default_factory=lambda: {})
    weighting: str = "fixed"  # fixed, uncertainty or gradnorm
    # of the heads, where they are fixed; 1 unless said here
    weights: dict = field(default_factory=lambda: {})
    alpha: float = 1.5  # how much gradnorm favours heads that lag behind
    # train on views of the images, masks moved with them, as the group `augment` draws them
    augment: bool = False
    views: dict = field(default_factory=lambda: {})  # fields of that group, whose option it takes

    def __post_init__(self):
        for name, task in self.heads.items():
            require(
                isinstance(task, Task),
                f"heads.{name}",
                task,
                "an option of task, e.g. classify or segment",
            )
            alone = not (
                task.alters()
                or "unlabelled" in task.pools
                or isinstance(task, MultiTask)
                or len(task.needs) > 1
            )
            valid = "a task of one target that leaves the images as they are; task.augment draws the views for all"
            require(alone, f"heads.{name}", type(task).__name__, valid)
        require(self.weighting in WEIGHTINGS, "weighting", self.weighting, ", ".join(WEIGHTINGS))
        ok = all(name in self.heads and w > 0 for name, w in self.weights.items())
        require(
            ok and (not self.weights or self.weighting == "fixed"),
            "weights",
            self.weights,
            "numbers above 0 by head, if fixed",
        )
        require(self.alpha >= 0, "alpha", self.alpha, "0 or more")
        self.views = self.views if self.augment else {}
        self.how = AugmentConfig(**self.views)

    @property
    def objectives(self):
        return {
            "loss": ("", 1),
            **({"balance": ("weights", 1)} if self.weighting == "gradnorm" else {}),
        }

    @property
    def per_row(self):
        return all(task.per_row for task in self.heads.values()) and self.weighting != "gradnorm"

    @property
    def needs(self):
        if not self.heads:
            raise ConfigError(
                "task.heads",
                self.heads,
                "must name a task for each target, e.g. {left: classify, mask: segment}",
            )
        return tuple(self.heads)

    @property
    def pooled(self):
        return all(task.pooled for task in self.heads.values())

    @property
    def columns(self):
        return {
            "mean": "mean",
            **{
                f"{h}/{task.score}": f"{h} {task.columns[task.score]}"
                for h, task in self.heads.items()
            },
        }

    def of(self, spec):
        return spec

    def alters(self):
        return self.augment

    def probed(self):
        return any(task.pooled for task in self.heads.values())

    def alone(self):
        return {
            name: replace(self, heads={name: task}, weighting="fixed", weights={})
            for name, task in self.heads.items()
        }

    def networks(self, encoder, spec):
        made = {
            name: task.networks(encoder, inner(spec, name, task))
            for name, task in self.heads.items()
        }
        heads = {
            name: nn.ModuleDict({k: net for k, net in nets.items() if k != "encoder"})
            for name, nets in made.items()
        }
        nets = nn.ModuleDict({"encoder": encoder, "heads": nn.ModuleDict(heads)})
        if self.weighting == "uncertainty":
            nets["weights"] = Numbers(torch.zeros(len(heads)))
        if self.weighting == "gradnorm":
            nets["weights"] = Numbers(torch.ones(len(heads)))
            # the losses of the first step; 0 before it
            nets["first"] = StateBuffer(torch.zeros(len(heads)))
        return nets

    def prepare(self, nets, data):
        for name, task in self.heads.items():
            if task.probed():
                task.prepare(
                    {**nets["heads"][name], "encoder": nets["encoder"]},
                    {**data, **renamed(data, name, task)},
                )

    def draw(self, batch, rng, progress):
        """-> (x, then the target of each head, in their order)"""
        found = batch["labelled"]
        x_BCHW, targets = found["x"], {name: found[name] for name in self.heads}
        masks = [name for name, task in self.heads.items() if task.predicts == "pixels"]
        if self.augment and masks:
            x_BCHW, seen_BMHW = view_with_mask(
                x_BCHW, torch.stack([targets[n] for n in masks], 1), self.how, rng
            )
            targets |= dict(zip(masks, seen_BMHW.unbind(1), strict=True))
        elif self.augment:
            x_BCHW = view(x_BCHW, self.how, rng)
        return x_BCHW, *targets.values()

    def loss(self, nets, x_BCHW, *targets):
        loss_T, shown = self.losses(nets, Shared(nets["encoder"], x_BCHW), targets)
        if self.weighting == "uncertainty":
            s_T, halves_T = nets["weights"].value, self.halves().to(loss_T)
            return ((-s_T).exp() * loss_T * halves_T + s_T / 2).sum(), shown
        if self.weighting == "gradnorm":
            return (nets["weights"].value.detach() * loss_T).sum(), shown
        return sum(
            self.weights.get(name, 1.0) * value
            for name, value in zip(self.heads, loss_T, strict=True)
        ), shown

    def losses(self, nets, shared, targets):
        """(each head's loss [T], what to log: the losses by head)"""
        found = {
            name: task.loss({**nets["heads"][name], "encoder": shared}, shared.x, target)[0]
            for (name, task), target in zip(self.heads.items(), targets, strict=True)
        }
        return torch.stack(list(found.values())), found

    def halves(self):
        return torch.tensor(
            [0.5 if task.predicts == "numbers" else 1.0 for task in self.heads.values()]
        )

    def balance(self, nets, x_BCHW, *targets):
        """GradNorm's loss of the weights: how far each weighted gradient is from the size it should have."""
        with torch.no_grad():
            shared = Shared(nets["encoder"], x_BCHW)
        with torch.enable_grad():
            shared.begin()
            loss_T, _ = self.losses(nets, shared, targets)
            square_T = torch.stack([square(loss, shared.leaves()) for loss in loss_T]).detach()
        # of all rows, wherever they are: each process's gradients are of its own mean
        ranks = now()
        norms_T = torch.tensordot(ranks.parts.to(square_T).square(), ranks.each(square_T), 1).sqrt()
        loss_T, first_T, w_T = (
            ranks.mean(loss_T.detach()),
            nets["first"].value,
            nets["weights"].value,
        )
        fall_T = (loss_T / first_T).where(first_T > 0, torch.ones_like(loss_T)).clamp_min(1e-8)
        size_T = w_T * norms_T
        wanted_T = (size_T.mean() * (fall_T / fall_T.mean()) ** self.alpha).detach()
        return (size_T - wanted_T).abs().sum(), {
            f"{name}_weight": w.detach() for name, w in zip(self.heads, w_T, strict=True)
        }

    def on_step_end(self, nets, x_BCHW, *targets):
        if self.weighting != "gradnorm":
            return
        if not nets["first"].value.any():
            nets["first"].value.copy_(
                now().mean(self.losses(nets, Shared(nets["encoder"], x_BCHW), targets)[0])
            )
        w_T = nets["weights"].value.clamp_min(1e-3)
        nets["weights"].value.copy_(w_T * len(w_T) / w_T.sum())

    def predict(self, nets, x_BCHW):
        """-> the heads' predictions by name"""
        shared = Shared(nets["encoder"], x_BCHW)
        return {
            name: task.predict({**nets["heads"][name], "encoder": shared}, shared.x)
            for name, task in self.heads.items()
        }

    def metrics(self, spec):
        found: dict[str, OfHead] = {}
        scores = []
        for name, task in self.heads.items():
            told = inner(spec, name, task)
            for metric, made in task.metrics(told).items():
                found[f"{name}/{metric}"] = OfHead(name, metric, made, task.of(told).classes)
            scores.append(found[f"{name}/{task.score}"])
        return nn.ModuleDict({"mean": Mean(scores), **found})

    def compared(self, predictions, batch):
        pairs = {
            n: t.compared(predictions[n], {**batch, **renamed(batch, n, t)})
            for n, t in self.heads.items()
        }
        return {n: told for n, (told, _) in pairs.items()}, {
            n: true for n, (_, true) in pairs.items()
        }

    def record(self, predictions, batch):
        kept = {
            n: t.record(predictions[n], {**batch, **renamed(batch, n, t)})
            for n, t in self.heads.items()
        }
        return {f"{n}/{k}": value for n, rows in kept.items() for k, value in rows.items()}

    def show(self, predictions, batch, spec):
        found: dict[str, Tensor] = {}
        for name, task in self.heads.items():
            shown = task.show(
                predictions[name], {**batch, **renamed(batch, name, task)}, inner(spec, name, task)
            )
            found |= {k if k == "image" else f"{name} {k}": x for k, x in shown.items()}
        return found


def inner(spec: Any, name: str, task: Task) -> Any:
    """What the task of this head knows as its data's spec: the head's classes, under the name that the task looks for."""
    told = spec.of(name)
    return replace(told, named=dict.fromkeys(task.needs, told.classes))


def renamed(found: dict[str, Tensor], name: str, task: Task) -> dict[str, Tensor]:
    """The head's target under the name that its task looks for."""
    return {need: found[name] for need in task.needs or ("y",) if name in found}


class Shared:
    """What the encoder makes of a batch, computed once for all heads; in the place of an encoder."""

    def __init__(self, encoder: Any, x_BCHW: Tensor):
        self.encoder, self.x = encoder, x_BCHW
        frozen = isinstance(encoder, nn.Identity)  # `x` are its features already
        self.found: dict[str, Tensor] = {"": x_BCHW} if frozen else dict(encoder.maps(x_BCHW))
        self.frozen = frozen

    def maps(self, x_BCHW: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield from self.found.items()

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        if self.frozen:
            return self.found[""]
        return torch.cat([self.encoder.read(name, m) for name, m in self.found.items()], dim=1)

    def begin(self) -> None:
        """Let gradients begin here."""
        self.found = {name: m.detach().requires_grad_() for name, m in self.found.items()}

    def leaves(self) -> list[Tensor]:
        return list(self.found.values())


def square(loss: Tensor, leaves: list[Tensor]) -> Tensor:
    """The squared norm of the loss's gradient at the leaves."""
    grads = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
    return torch.stack([g.square().sum() for g in grads if g is not None]).sum()


class Numbers(nn.Module):
    """Numbers that are learned, one a head."""

    def __init__(self, start_T: Tensor):
        super().__init__()
        self.value = nn.Parameter(start_T)


class OfHead(nn.Module):
    """A metric of one head among the predictions of all."""

    def __init__(self, head: str, name: str, metric: Any, classes: tuple[str, ...]):
        super().__init__()
        self.head, self.name, self.metric, self.classes = head, name, metric, classes

    def update(self, predicted: dict, true: dict) -> None:
        self.metric.update(predicted[self.head], true[self.head])

    def compute(self) -> Any:
        value = self.metric.compute()
        if isinstance(value, dict):
            return {f"{self.head}/{k}": v for k, v in value.items()}
        if value.dim() == 0:
            return value
        return {
            f"{self.head}/{self.name}/{c}": v for c, v in zip(self.classes, value, strict=False)
        }


class Mean(nn.Module):
    """The mean of what other metrics compute; it sees nothing itself."""

    def __init__(self, metrics: list[OfHead]):
        super().__init__()
        self.of = tuple(metrics)  # no list of modules: they are counted elsewhere

    def update(self, predicted: dict, true: dict) -> None:
        pass

    def compute(self) -> Tensor:
        return torch.stack([metric.compute().cpu() for metric in self.of]).mean()
