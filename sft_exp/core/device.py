"""Moving numbers and networks to the device that computes, without making the host wait."""

from typing import TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """`x` on the device. A copy to a GPU goes through pinned memory: the host does not wait."""
    if device.type == "cuda" and x.device.type == "cpu":
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


def place(nets: Net, device: torch.device) -> Net:
    """The networks on the device, in place; on a GPU with convolutions in channels-last order,
    which its matrix units read without a transposition. Values and shapes stay as they are."""
    if device.type == "cuda":
        return nets.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return nets.to(device)
