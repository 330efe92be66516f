"""Sharpness-aware minimisation around any optimizer. Foret et al., arXiv:2010.01412, algorithm 1."""

from importlib import import_module
from typing import Any

import torch


class SAM(torch.optim.Optimizer):
    """Steps of `base` with the gradient found `rho` further up: each step computes two gradients.

    `base` names the class of the optimizer that steps; `options` are its own, beside the learning rate.
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
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"base={base} cannot be imported ({error})") from error
        if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
            raise ValueError(f"base={base} must be a class derived from torch.optim.Optimizer")
        super().__init__(params, {"lr": lr, "rho": rho})
        self.base = kind(self.param_groups, **{"lr": lr, **options})
        self.share()

    def share(self) -> None:
        """One state and one list of groups for both, also after a checkpoint was loaded into this one."""
        self.base.state = self.state
        self.base.param_groups = self.param_groups

    @torch.no_grad()
    def step(self, closure: Any) -> Any:  # type: ignore[override]
        self.share()
        again = torch.enable_grad()(closure)
        loss = again()
        moved = [
            (p, group["rho"])
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        norm = torch.stack([p.grad.norm() for p, _ in moved]).norm().clamp_min(1e-12)
        here = [p.clone() for p, _ in moved]
        for p, rho in moved:
            p.add_(p.grad * (rho / norm))
        again()
        for (p, _), start in zip(moved, here, strict=True):
            p.copy_(start)  # not p - e, which would not be the same bits
        self.base.step()
        return loss
