"""The contracts of every kind of part: all that a plug-in imports.

`from sft_exp.core import Pretrainer` works for every name below. Code of this package imports from the modules
themselves, so that a module depends on what it uses and on nothing else.
"""

from sft_exp.core.deploy import Compressor, Exporter, Finished
from sft_exp.core.encoder import Backbone, Encoder
from sft_exp.core.method import Method
from sft_exp.core.pretrainer import Pretrainer
from sft_exp.core.rng import Stream, seed_of, stream
from sft_exp.core.strategy import Strategy
from sft_exp.core.task import Network, Task
from sft_exp.core.tracker import Tracker
from sft_exp.core.types import Batch, Layers, Rates, Spec, Tensors

__all__ = [
    "Backbone",
    "Batch",
    "Compressor",
    "Encoder",
    "Exporter",
    "Finished",
    "Layers",
    "Method",
    "Network",
    "Pretrainer",
    "Rates",
    "Spec",
    "Strategy",
    "Stream",
    "Task",
    "Tensors",
    "Tracker",
    "seed_of",
    "stream",
]
