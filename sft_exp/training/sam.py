"""Sharpness-aware minimisation of any optimizer. Foret et al., arXiv:2010.01412, algorithm 1."""

from importlib import import_module
from typing import Any

import torch


class SAM(torch.optim.Optimizer):
    """Steps of the optimizer class `base`, with the gradient at a distance `rho` uphill.

    Each step computes two gradients. `options` are those of `base`, besides the learning rate.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        rho: float = 0.05,
        base: str = "torch.optim.SGD",
        **options: Any,
    ):
        if not rho >= 0:
            raise ValueError(f"rho must be 0 or more, not {rho}")
        module, _, name = base.rpartition(".")
        try:
            kind = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError, TypeError) as error:
            raise ValueError(f"base={base} cannot be imported ({error})") from error
        if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
            raise ValueError(f"base={base} must be a class derived from torch.optim.Optimizer")
        super().__init__(params, {"lr": lr, "rho": rho})
        self.base = kind(self.param_groups, **{"lr": lr, **options})
        self.share()

    def share(self) -> None:
        """Share state and parameter groups with the base, also after a checkpoint was loaded."""
        self.base.state = self.state
        self.base.param_groups = self.param_groups

    @torch.no_grad()
    def step(self, closure: Any) -> Any:  # type: ignore[override]
        self.share()
        compute_gradients = torch.enable_grad()(closure)
        loss = compute_gradients()
        trainable = [
            (p, group["rho"])
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        norm = torch.stack([p.grad.norm() for p, _ in trainable]).norm().clamp_min(1e-12)
        originals = [p.clone() for p, _ in trainable]
        for p, rho in trainable:
            p.add_(p.grad * (rho / norm))
        compute_gradients()
        for (p, _), original in zip(trainable, originals, strict=True):
            p.copy_(original)  # not p - e, which would not be the same bits
        self.base.step()
        return loss
