"""The order in which a training sees the examples, as a function of the step alone."""


import hashlib
import io
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from importlib import import_module
from itertools import repeat, tee
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sft_exp.core.types import Spec, Tensors
from sft_exp.core.rng import stream
from sft_exp.errors import DataError




def rows_of_step(n: int, size: int, step: int, *name: int | str) -> Tensor:
    """Rows of batch `step` of an endless shuffled walk over n rows; all n, in order, if `size` is as large."""
    if size >= n:
        return torch.arange(n)
    epoch, i = divmod(step, n // size)
    return order(n, *name, epoch)[i * size : (i + 1) * size]


@lru_cache(maxsize=8)
def order(n: int, *name: int | str) -> Tensor:
    return torch.randperm(n, generator=stream(*name, "order"))
