"""Several tasks on one encoder: `task.heads={left: classify, mask: segment}`, a head per target.

The heads' losses L_i are weighted in one of three ways:
    fixed        sum w_i L_i
    uncertainty  sum exp(-s_i) L_i + s_i / 2 with learned s_i (Kendall et al., arXiv:1705.07115,
                 equation 10; exp(-s_i) / 2 for numbers, whose error is squared)
    gradnorm     sum w_i L_i with w_i trained for equal learning rates of the heads (Chen et al.,
                 arXiv:1711.02257, equation 2). Gradients are taken at the shared feature maps, not
                 at the weights below, which saves a second backward pass through the encoder
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sft_exp.config.schema import AugmentConfig
from sft_exp.core.comm import now
from sft_exp.core.device import to_device
from sft_exp.core.task import Task
from sft_exp.data.augment import view, view_with_mask
from sft_exp.errors import ConfigError, require
from sft_exp.models.ema import StateBuffer

WEIGHTINGS = ("fixed", "uncertainty", "gradnorm")


@dataclass
class MultiTask(Task):
    """Trains a head for each of several targets on one encoder."""

    # fields that hold parts -> configuration group of those parts
    holds: ClassVar[dict[str, str]] = {"heads": "task"}
    predicts: ClassVar[str] = "several"
    score: ClassVar[str] = "mean"
    footing: ClassVar[str] = (
        "the mean is over the heads, each by its own score; alone_ is the same with that head only"
    )

    # target -> its task: classify, segment, regress, ...
    heads: dict = field(default_factory=lambda: {})
    weighting: str = "fixed"  # fixed, uncertainty or gradnorm
    # target -> fixed weight of its head; 1 by default
    weights: dict = field(default_factory=lambda: {})
    alpha: float = 1.5  # how much gradnorm favours heads that lag behind
    # train on augmented views of images and masks, drawn as the group `augment` says
    augment: bool = False
    views: dict = field(default_factory=lambda: {})  # fields of the group `augment`

    def __post_init__(self):
        for name, task in self.heads.items():
            require(
                isinstance(task, Task),
                f"heads.{name}",
                task,
                "an option of task, e.g. classify or segment",
            )
            suitable = not (
                task.alters()
                or "unlabelled" in task.pools
                or isinstance(task, MultiTask)
                or len(task.needs) > 1
                or task.decides
            )
            valid = (
                "a task of one target, without thresholds, that leaves the images as they are;"
                " task.augment draws the views for all"
            )
            require(suitable, f"heads.{name}", type(task).__name__, valid)
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
        self.how = AugmentConfig.of(self.views)

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
        heads = {}
        for name, task in self.heads.items():
            task_nets = task.networks(encoder, spec_of_head(spec, name, task))
            heads[name] = nn.ModuleDict({k: n for k, n in task_nets.items() if k != "encoder"})
        nets = nn.ModuleDict({"encoder": encoder, "heads": nn.ModuleDict(heads)})
        if self.weighting == "uncertainty":
            nets["weights"] = HeadWeights(torch.zeros(len(heads)))
        if self.weighting == "gradnorm":
            nets["weights"] = HeadWeights(torch.ones(len(heads)))
            # losses of the first step; 0 before it
            nets["first"] = StateBuffer(torch.zeros(len(heads)))
        return nets

    def prepare(self, nets, data):
        for name, task in self.heads.items():
            if task.probed():
                task.prepare(
                    {**nets["heads"][name], "encoder": nets["encoder"]},
                    {**data, **own_target(data, name, task)},
                )

    def draw(self, batch, rng, progress):
        """-> (x, then the target of each head in their order)"""
        labelled = batch["labelled"]
        x_BCHW, targets = labelled["x"], {name: labelled[name] for name in self.heads}
        masks = [name for name, task in self.heads.items() if task.predicts == "pixels"]
        if self.augment and masks:
            x_BCHW, masks_BMHW = view_with_mask(
                x_BCHW, torch.stack([targets[n] for n in masks], 1), self.how, rng
            )
            targets |= dict(zip(masks, masks_BMHW.unbind(1), strict=True))
        elif self.augment:
            x_BCHW = view(x_BCHW, self.how, rng)
        return x_BCHW, *targets.values()

    def loss(self, nets, x_BCHW, *targets):
        loss_T, by_head = self.losses(nets, SharedEncoder(nets["encoder"], x_BCHW), targets)
        if self.weighting == "uncertainty":
            s_T, factors_T = nets["weights"].value, self.loss_factors().to(loss_T.dtype)
            factors_T = to_device(factors_T, loss_T.device)
            return ((-s_T).exp() * loss_T * factors_T + s_T / 2).sum(), by_head
        if self.weighting == "gradnorm":
            return (nets["weights"].value.detach() * loss_T).sum(), by_head
        return sum(
            self.weights.get(name, 1.0) * value
            for name, value in zip(self.heads, loss_T, strict=True)
        ), by_head

    def losses(self, nets, shared, targets):
        """-> (each head's loss [T], the same by name)"""
        by_head = {
            name: task.loss({**nets["heads"][name], "encoder": shared}, shared.x, target)[0]
            for (name, task), target in zip(self.heads.items(), targets, strict=True)
        }
        return torch.stack(list(by_head.values())), by_head

    def loss_factors(self):
        """The factor [T] of each head's loss in the weighting by uncertainty."""
        return torch.tensor(
            [0.5 if task.predicts == "numbers" else 1.0 for task in self.heads.values()]
        )

    def balance(self, nets, x_BCHW, *targets):
        """GradNorm's loss of the weights: the distance of weighted gradient norms from their targets."""
        with torch.no_grad():
            shared = SharedEncoder(nets["encoder"], x_BCHW)
        with torch.enable_grad():
            shared.detach()
            loss_T, _ = self.losses(nets, shared, targets)
            square_T = torch.stack(
                [gradient_square(loss, shared.leaves()) for loss in loss_T]
            ).detach()
        # norms over the whole batch: each process has the gradient of its own mean
        ranks = now()
        norms_T = torch.tensordot(ranks.parts.to(square_T).square(), ranks.each(square_T), 1).sqrt()
        loss_T = ranks.mean(loss_T.detach())
        first_T, w_T = nets["first"].value, nets["weights"].value
        ratio_T = (loss_T / first_T).where(first_T > 0, torch.ones_like(loss_T)).clamp_min(1e-8)
        weighted_T = w_T * norms_T
        target_T = (weighted_T.mean() * (ratio_T / ratio_T.mean()) ** self.alpha).detach()
        return (weighted_T - target_T).abs().sum(), {
            f"{name}_weight": w.detach() for name, w in zip(self.heads, w_T, strict=True)
        }

    def on_step_end(self, nets, x_BCHW, *targets):
        if self.weighting != "gradnorm":
            return
        if not nets["first"].value.any():
            loss_T, _ = self.losses(nets, SharedEncoder(nets["encoder"], x_BCHW), targets)
            nets["first"].value.copy_(now().mean(loss_T))
        w_T = nets["weights"].value.clamp_min(1e-3)
        nets["weights"].value.copy_(w_T * len(w_T) / w_T.sum())

    def predict(self, nets, x_BCHW):
        """-> the heads' predictions by name"""
        shared = SharedEncoder(nets["encoder"], x_BCHW)
        return {
            name: task.predict({**nets["heads"][name], "encoder": shared}, shared.x)
            for name, task in self.heads.items()
        }

    def metrics(self, spec):
        metrics: dict[str, HeadMetric] = {}
        scores = []
        for name, task in self.heads.items():
            head_spec = spec_of_head(spec, name, task)
            classes = task.of(head_spec).classes
            for key, metric in task.metrics(head_spec).items():
                metrics[f"{name}/{key}"] = HeadMetric(name, key, metric, classes)
            scores.append(metrics[f"{name}/{task.score}"])
        return nn.ModuleDict({"mean": Mean(scores), **metrics})

    def compared(self, predictions, batch):
        predicted, true = {}, {}
        for name, task in self.heads.items():
            predicted[name], true[name] = task.compared(
                predictions[name], {**batch, **own_target(batch, name, task)}
            )
        return predicted, true

    def record(self, predictions, batch):
        records: dict[str, Tensor] = {}
        for name, task in self.heads.items():
            record = task.record(predictions[name], {**batch, **own_target(batch, name, task)})
            records |= {f"{name}/{key}": value for key, value in record.items()}
        return records

    def show(self, predictions, batch, spec):
        pictures: dict[str, Tensor] = {}
        for name, task in self.heads.items():
            own = task.show(
                predictions[name],
                {**batch, **own_target(batch, name, task)},
                spec_of_head(spec, name, task),
            )
            pictures |= {k if k == "image" else f"{name} {k}": x for k, x in own.items()}
        return pictures


def spec_of_head(spec: Any, name: str, task: Task) -> Any:
    """The spec for a head's task: the head's classes, under the name of the target in that task."""
    head_spec = spec.of(name)
    return replace(head_spec, named=dict.fromkeys(task.needs, head_spec.classes))


def own_target(targets: dict[str, Tensor], name: str, task: Task) -> dict[str, Tensor]:
    """The target of a head, under the name that its task gives it."""
    return {need: targets[name] for need in task.needs or ("y",) if name in targets}


class SharedEncoder:
    """Replaces the encoder by its feature maps of one batch, computed once for all heads."""

    def __init__(self, encoder: Any, x_BCHW: Tensor):
        self.encoder, self.x = encoder, x_BCHW
        self.frozen = isinstance(encoder, nn.Identity)  # then `x` holds the features already
        self.computed = {"": x_BCHW} if self.frozen else dict(encoder.maps(x_BCHW))

    def maps(self, x_BCHW: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield from self.computed.items()

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        if self.frozen:
            return self.computed[""]
        return torch.cat(
            [self.encoder.pool_map(name, m) for name, m in self.computed.items()], dim=1
        )

    def detach(self) -> None:
        """Make the maps leaves of the graph, so that gradients with respect to them are available."""
        self.computed = {name: m.detach().requires_grad_() for name, m in self.computed.items()}

    def leaves(self) -> list[Tensor]:
        return list(self.computed.values())


def gradient_square(loss: Tensor, leaves: list[Tensor]) -> Tensor:
    """The squared norm of the loss's gradient at the leaves."""
    grads = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
    return torch.stack([g.square().sum() for g in grads if g is not None]).sum()


class HeadWeights(nn.Module):
    """Learned numbers from which the weights of the heads' losses follow, [T]."""

    def __init__(self, start_T: Tensor):
        super().__init__()
        self.value = nn.Parameter(start_T)


class HeadMetric(nn.Module):
    """A metric of one head, which is updated with the predictions of all heads."""

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
    """The mean of other metrics' values; it has no state of its own."""

    def __init__(self, metrics: list[HeadMetric]):
        super().__init__()
        self.of = tuple(metrics)  # no ModuleList: the modules are registered elsewhere

    def update(self, predicted: dict, true: dict) -> None:
        pass

    def compute(self) -> Tensor:
        return torch.stack([metric.compute().cpu() for metric in self.of]).mean()
