"""The choice of the engine for a training."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from sft_exp.core.method import Method
from sft_exp.distributed.ddp import Replicated
from sft_exp.distributed.group import Group
from sft_exp.distributed.local import Engine, inside


def engine_for(
    kind: str,
    group: Group | None,
    method: Method,
    nets: nn.ModuleDict,
    plan: Any,
    data: Mapping[str, Any],
) -> Engine:
    """The engine of this kind (ddp or fsdp) over the group.

    If a batch cannot be divided, every process computes all of it, with the same result. An
    objective of a network inside another's (GradNorm's weights) computes gradients in its forward
    pass, for which FSDP2 does not keep parameters gathered; DDP is used instead.
    """
    options = (plan.penalty, plan.compile, plan.recompute)
    if group is None or not divisible(method, plan.batch_size, data, group.count):
        return Engine(method, nets, *options)
    nested = any(inside(method, network) for network, _ in method.objectives.values())
    if kind == "fsdp" and not nested:
        from sft_exp.distributed.fsdp import Sharded

        return Sharded(method, nets, group, plan.batch_size, *options)
    return Replicated(method, nets, group, plan.batch_size, *options)


def divisible(method: Method, batch_size: int, data: Mapping[str, Any], processes: int) -> bool:
    """Whether every process gets at least a pair of examples, and the same multiple of them from
    each pool."""
    counts = [min(len(data[pool]), batch_size * k) for pool, k in method.pools.items()]
    if not method.shared or any(n % batch_size for n in counts):
        return False
    return batch_size >= 2 * processes
