"""Which engine a training gets."""

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
    """The engine of that kind (ddp or fsdp) over the group. A batch that cannot be shared out is computed whole by every
    process, each with the same result. An objective of a network inside another's (GradNorm's weights) takes gradients within
    its forward, for which FSDP2 does not keep parameters together: that is left to DDP."""
    options = (plan.penalty, plan.compile, plan.recompute)
    if group is None or not divisible(method, plan.batch_size, data, group.count):
        return Engine(method, nets, *options)
    if kind == "fsdp" and not any(
        inside(method, network) for network, _ in method.objectives.values()
    ):
        from sft_exp.distributed.fsdp import Sharded

        return Sharded(method, nets, group, plan.batch_size, *options)
    return Replicated(method, nets, group, plan.batch_size, *options)


def divisible(method: Method, batch_size: int, data: Mapping[str, Any], processes: int) -> bool:
    """Whether each process gets a pair of rows or more, and from each pool so many more."""
    rows = [min(len(data[pool]), batch_size * more) for pool, more in method.pools.items()]
    return method.shared and batch_size >= 2 * processes and all(n % batch_size == 0 for n in rows)
