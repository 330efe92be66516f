"""The base classes of every kind of part: everything that a plug-in imports.

`from sft_exp.core import Pretrainer` works for every name in `__all__`. The package itself imports
from the modules, so that each module depends only on what it uses, and modules that need no torch
do not import it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sft_exp.core.deploy import Compressor, Exporter, Finished
    from sft_exp.core.encoder import Backbone, Encoder
    from sft_exp.core.method import Method
    from sft_exp.core.metric import Metric
    from sft_exp.core.pretrainer import Pretrainer
    from sft_exp.core.rng import Stream, seed_of, stream
    from sft_exp.core.schedule import Schedule
    from sft_exp.core.strategy import Strategy
    from sft_exp.core.task import Network, Task
    from sft_exp.core.tracker import Tracker
    from sft_exp.core.types import Batch, Layers, Rates, Spec, Tensors

__all__ = [
    "Backbone", "Batch", "Compressor", "Encoder", "Exporter", "Finished", "Layers", "Method",
    "Metric", "Network", "Pretrainer", "Rates", "Schedule", "Spec", "Strategy", "Stream", "Task",
    "Tensors", "Tracker", "seed_of", "stream",
]  # fmt: skip
MODULES = {
    "deploy": ("Compressor", "Exporter", "Finished"),
    "encoder": ("Backbone", "Encoder"),
    "method": ("Method",),
    "metric": ("Metric",),
    "pretrainer": ("Pretrainer",),
    "rng": ("Stream", "seed_of", "stream"),
    "schedule": ("Schedule",),
    "strategy": ("Strategy",),
    "task": ("Network", "Task"),
    "tracker": ("Tracker",),
    "types": ("Batch", "Layers", "Rates", "Spec", "Tensors"),
}


def __getattr__(name: str) -> Any:
    for module, names in MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
