"""Optimizers from their configuration, one per objective, and the update of a step."""

from collections.abc import Callable
from importlib import import_module
from inspect import Parameter, signature
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sft_exp.config.schema import OptimizerConfig
from sft_exp.core.method import Method
from sft_exp.core.types import Rates
from sft_exp.errors import ConfigError

Phases = list[tuple[float, Rates]]  # (share of the steps, learning-rate factors by parameter)
Optimizers = dict[str, torch.optim.Optimizer]  # objective -> optimizer of its network
Scalers = dict[str, torch.amp.GradScaler]  # the same with precision=fp16, else empty


def update(
    optimizer: torch.optim.Optimizer,
    closure: Callable[[], Tensor],
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Take one step, or with a scaler none if a gradient is not finite.

    Between steps the weights are those to evaluate and save. Schedule-free optimizers compute
    gradients at other weights, between these and the last iterate (Defazio et al.,
    arXiv:2405.15682, equations 3 to 5).
    """
    if isinstance(optimizer, TwoWeights):
        optimizer.train()
    if scaler:
        closure()
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step(closure)  # type: ignore[arg-type]
    if isinstance(optimizer, TwoWeights):
        optimizer.eval()


@runtime_checkable
class TwoWeights(Protocol):
    """An optimizer that switches between weights to train and weights to evaluate."""

    def train(self) -> None: ...
    def eval(self) -> None: ...


def scalers_for(optimizers: Optimizers, precision: str, device: torch.device) -> Scalers:
    """Dynamic loss scaling for float16 (Micikevicius et al., arXiv:1710.03740, section 3.2).

    ConfigError for an optimizer that computes gradients several times a step, whose scales would
    differ.
    """
    if not precision.startswith("fp16"):
        return {}
    for optimizer in optimizers.values():
        closure = signature(optimizer.step).parameters.get("closure")
        if closure is not None and closure.default is Parameter.empty:
            raise ConfigError(
                "hardware.precision",
                "fp16",
                f"{type(optimizer).__name__} computes gradients several times a step, which loss"
                " scaling does not allow; take bf16 or fp32",
            )
    return {objective: torch.amp.GradScaler(device.type) for objective in optimizers}


def belongs(parameter: str, network: str) -> bool:
    return not network or parameter.startswith(f"{network}.")


def optimizers_for(
    method: Method, nets: nn.ModuleDict, target: OptimizerConfig, phases: Phases
) -> Optimizers:
    """One optimizer per objective, over all parameters of its network that any phase trains.

    Parameter groups have equal learning rates. An optimizer is not fused if a group changes from
    phase to phase: torch's fused SGD fails if some parameters of a group have a momentum buffer
    and others, which have just become trainable, have none.
    """
    rates: Rates = {}
    for _, phase in phases:
        for name, rate in phase.items():
            if rates.setdefault(name, rate) != rate:
                raise ConfigError(
                    "strategy",
                    type(method).__name__,
                    f"{name} has several rates; phases may only freeze and unfreeze it",
                )
    parameters = dict(nets.named_parameters())
    optimizers = {}
    for objective, (network, _) in method.objectives.items():
        groups: dict[float, list[Tensor]] = {}
        # rate -> for each phase, whether the parameters are trained; the patterns that occur
        spans: dict[float, set[tuple[bool, ...]]] = {}
        for name, rate in rates.items():
            if belongs(name, network):
                groups.setdefault(rate, []).append(parameters[name])
                spans.setdefault(rate, set()).add(tuple(name in phase for _, phase in phases))
        optimizers[objective] = build_optimizer(
            target,
            [{"params": p, "lr": target.options["lr"] * rate} for rate, p in groups.items()],
            fused=all(len(span) == 1 for span in spans.values()),
        )
    return optimizers


def build_optimizer(
    target: OptimizerConfig, groups: list[dict], fused: bool = True
) -> torch.optim.Optimizer:
    """The optimizer that `target` names; with `fused`, torch's fused kernels if it has them.

    ConfigError if the path cannot be imported or is no optimizer class, or if it refuses options.
    """
    module, _, name = target.path.rpartition(".")
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        extra = target.hints.get("extra")
        remedy = f'; pip install "sft_exp[{extra}]"' if extra else ""
        raise ConfigError(
            "_target_", target.path, f"cannot be imported ({error}){remedy}"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise ConfigError(
            "_target_", target.path, "must be a class derived from torch.optim.Optimizer"
        )
    options = dict(target.options)
    # not all fused kernels support DTensor
    sharded = any(hasattr(p, "full_tensor") for group in groups for p in group["params"])
    if (
        fused
        and "fused" in kind.__init__.__code__.co_varnames
        and not sharded
        and "fused" not in options
        and "foreach" not in options
    ):
        options["fused"] = True
    try:
        optimizer = kind(groups, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError("", target.options, f"{target.path} refuses these: {error}") from error
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    return optimizer
