"""How much arithmetic a request's network takes."""

import json
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from sft_exp.core.types import Spec
from sft_exp.stages import model
from sft_exp.store.requests import plain

SMALL = 1_000_000  # floating-point operations of one image's forward pass: an MLP on MNIST

_flops: dict[str, int] = {}  # of encoders that this process has counted, by their description


def is_small(request: dict[str, Any], spec: Spec) -> bool:
    """Whether one image takes the request's encoder at most `SMALL` operations.

    A batch of such images occupies one core for milliseconds, which several threads share badly.
    """
    encoder, features = request["encoder"], request["features"]
    key = json.dumps([plain(encoder), plain(features), list(spec.image)], sort_keys=True)
    if key not in _flops:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            network = model.readout(encoder, features, spec).eval()
            with FlopCounterMode(display=False) as counter:
                network(torch.zeros(1, *spec.image))
        _flops[key] = counter.get_total_flops()
    return _flops[key] <= SMALL
