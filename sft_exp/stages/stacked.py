"""Training of many linear heads on the same frozen features at once."""

from dataclasses import replace
from math import isfinite

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sft_exp.config.schema import OptimizerConfig
from sft_exp.core.device import to_device
from sft_exp.core.types import Tensors
from sft_exp.data.order import rows_of_step
from sft_exp.errors import NonFiniteError
from sft_exp.training.loop import CHECK_EVERY, Plan
from sft_exp.training.optim import build_optimizer

# optimizers whose step is the learning rate times a direction
STACKABLE = tuple(f"torch.optim.{n}" for n in ("SGD", "Adam", "AdamW", "RMSprop"))


def stackable(optim: OptimizerConfig) -> bool:
    """Whether the step is the learning rate times a direction, and the rate is a number."""
    return optim.path in STACKABLE and isinstance(optim.options["lr"], float)


def stacked(
    head: nn.Linear,
    f_ND: Tensor,
    y_N: Tensor,
    optim: OptimizerConfig,
    rates: list[float],
    plan: Plan,
) -> list[tuple[Tensors, list[dict[str, float]]]]:
    """K linear heads that differ in the learning rate -> (weights, metric rows) of each.

    One torch optimizer with learning rate 1 updates the stacked weights [K, Y, D]; each head then
    takes its share of that step: p <- p + lr_k * step. For rates up to 0.1 this equals the
    optimizer at lr_k up to rounding.
    """
    k, rows = len(rates), []
    lr_K = torch.tensor(rates, device=f_ND.device)
    w_KYD = head.weight.detach().expand(k, -1, -1).clone()
    b_KY = head.bias.detach().expand(k, -1).clone()
    optimizer = build_optimizer(
        replace(optim, options={**optim.options, "lr": 1.0}), [{"params": [w_KYD, b_KY]}]
    )
    every = max(1, plan.steps // 200)
    check_every = 1 if f_ND.device.type == "cpu" else CHECK_EVERY
    unchecked: list[Tensor] = []  # losses since the last look at them, which waits for the device
    for step in range(plan.stop):
        r_B = rows_of_step(len(y_N), plan.batch_size, step, *plan.name, "labelled")
        r_B = to_device(r_B, f_ND.device)
        w, b = w_KYD.detach().requires_grad_(), b_KY.detach().requires_grad_()
        logits_BKY = F.linear(f_ND[r_B], w.flatten(0, 1), b.flatten()).unflatten(1, (k, -1))
        loss_BK = F.cross_entropy(
            logits_BKY.flatten(0, 1), y_N[r_B].repeat_interleave(k), reduction="none"
        ).unflatten(0, (-1, k))
        loss_K = loss_BK.mean(0)
        unchecked.append(loss_K.detach())
        if (step + 1) % check_every == 0 or step + 1 == plan.stop:
            check(unchecked, step + 1 - len(unchecked), rates)
            unchecked = []
        w_KYD.grad, b_KY.grad = torch.autograd.grad(loss_K.sum(), (w, b))
        before = w_KYD.clone(), b_KY.clone()
        optimizer.step()
        share_K = lr_K * plan.schedule(step / plan.steps)
        w_KYD.copy_(torch.lerp(before[0], w_KYD, share_K[:, None, None]))
        b_KY.copy_(torch.lerp(before[1], b_KY, share_K[:, None]))
        if (step + 1) % every == 0 or step + 1 in (1, plan.stop):
            accuracy_K = (logits_BKY.argmax(2) == y_N[r_B, None]).float().mean(0)
            rows.append((step + 1, accuracy_K.tolist(), loss_K.tolist()))
    if not (w_KYD.isfinite().all() and b_KY.isfinite().all()):
        raise NonFiniteError(
            f"weights of a head are not finite after step {plan.stop}: learning rates {rates}"
        )
    return [
        (
            {"weight": w_KYD[i].clone(), "bias": b_KY[i].clone()},
            [{"step": s, "accuracy": round(a[i], 6), "loss": round(v[i], 6)} for s, a, v in rows],
        )
        for i in range(k)
    ]


def check(losses: list[Tensor], first: int, rates: list[float]) -> None:
    """NonFiniteError for the first of these losses [K], of steps from `first`, that is not finite."""
    for step, loss_K in enumerate(torch.stack(losses).tolist(), first):
        if not all(map(isfinite, loss_K)):
            raise NonFiniteError(
                f"loss of a head is not finite at step {step}:"
                f" learning rates {rates}, losses {loss_K}"
            )
