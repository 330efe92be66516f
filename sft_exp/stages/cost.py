"""How much arithmetic a request's network takes."""

import json
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from sft_exp.core.types import Spec
from sft_exp.stages import model
from sft_exp.store.requests import plain

# Floating-point operations of one image's forward pass. A step of a network below it takes one core
# tens of milliseconds: processes of one thread each share the cores better than threads of one.
SMALL = 10_000_000

# The same of a batch. A step of less takes a millisecond, which a second thread does not shorten.
TINY = 20_000_000
# A network of more operations than these takes longer steps, in proportion.
SHORTEST = 500_000

WHOLE = {"maps": [-1], "pool": "avg", "grid": 1}  # of a pretraining: up to the last map

_flops: dict[str, int] = {}  # of encoders that this process has counted, by their description


def is_small(request: dict[str, Any], spec: Spec) -> bool:
    """Whether one image takes the request's encoder at most `SMALL` operations."""
    return operations(request, spec) <= SMALL


def is_tiny(request: dict[str, Any], spec: Spec) -> bool:
    """Whether a step of the request's training takes its encoder at most `TINY` operations."""
    return operations(request, spec) * request["batch_size"] <= TINY


def operations(request: dict[str, Any], spec: Spec) -> int:
    """Floating-point operations of the forward pass of the request's encoder for one image."""
    encoder, features = request["encoder"], request.get("features", WHOLE)
    key = json.dumps([plain(encoder), plain(features), list(spec.image)], sort_keys=True)
    if key not in _flops:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            network = model.readout(encoder, features, spec).eval()
            with FlopCounterMode(display=False) as counter:
                network(torch.zeros(1, *spec.image))
        _flops[key] = counter.get_total_flops()
    return _flops[key]


def small_steps(request: dict[str, Any], spec: Spec) -> float:
    """The cost of a request's training, in steps of a small network; 0 if nothing is trained."""
    if not request["stop"]:
        return 0
    longer = operations(request, spec) / SHORTEST
    return request["stop"] * max(1.0, longer)
