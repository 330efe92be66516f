"""Any nn.Module as an encoder: the part that `sft_exp.run(encoder=...)` makes of a module.

A module is described by plain fields: its architecture (the object without weights), the hash of
its weights, and its classes. A run with it is like any other: new weights, other arguments or an
edit of `forward` change the names of its results, and any process that can import the classes can
build the model from model.json.

The architecture is a pickle that may refer only to modules. It is read by torch's unpickler for
weights, which calls nothing else.
"""

import base64
import copy
import functools
import hashlib
import importlib
import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from sft_exp.core.encoder import Backbone, Encoder
from sft_exp.core.types import Tensors
from sft_exp.errors import ConfigError, DataError, first_line
from sft_exp.models.layers import upsampler
from sft_exp.store import atomic_io
from sft_exp.store.code_hash import by_path, library

FOLDER = "objects"  # in the store
CHANNELS = (32, 64, 128)  # of the decoder of a module without maps
FUNCTIONS = "torch.nn.functional"  # a module may hold functions of this module


@dataclass
class OwnModule(Encoder):
    """A user's module. All arms of a comparison start at its weights."""

    unhashed: ClassVar[tuple[str, ...]] = ("weights",)

    name: str = ""
    architecture: str = ""
    classes: list[str] = field(default_factory=list)  # whose source is hashed
    sha256: str = ""  # of the weights
    weights: str = ""  # file; empty in model.json, which has the trained weights beside it

    def build(self, image):
        net = with_empty_weights(unpickle_module(base64.b64decode(self.architecture)))
        if self.weights:
            net.load_state_dict(read_weights(self.weights, self.sha256))
        return net if isinstance(net, Backbone) else OutputMaps(image, net)


class OutputMaps(Backbone):
    """A backbone whose maps are the output of a module.

    An output tensor [B, D] is the map `code`, and [B, D, H, W] is `map`. The tensors of a dict are
    maps by name, those of a list are `map1`, `map2`, ...

    Raises:
        ConfigError: the module does not accept the images, or returns something else.
    """

    def __init__(self, image: tuple[int, int, int], net: nn.Module):
        super().__init__()
        self.image, self.net = image, net
        training = net.training
        try:
            with torch.no_grad():
                output = net.eval()(torch.zeros(2, *image))
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            valid = (
                f"does not take images {[2, *image]} (batch, channels, rows, columns): {error}; "
                "dataset.channels= and dataset.size= change what it is given"
            )
            raise ConfigError("", type(net).__name__, valid) from error
        net.train(training)
        maps = dict(named_maps(output))
        for name, m in maps.items() or [("its output", None)]:
            if not (isinstance(m, Tensor) and m.dim() in (2, 4) and len(m) == 2):
                shape = [*m.shape] if isinstance(m, Tensor) else type(m).__name__
                valid = f"must give features [B, D] or maps [B, D, H, W], and {name} is {shape}"
                raise ConfigError("", type(net).__name__, valid)
        self.shapes = [tuple(m.shape[1:]) for m in maps.values()]
        self.width = next(reversed(maps.values()))[0].numel()

    def maps(self, x_BCHW: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield from named_maps(self.net(x_BCHW))

    def decoder(self, width: int) -> nn.Module:
        """A decoder through the sizes of the module's maps; without maps it halves three times."""
        channels, sizes = [self.image[0]], [self.image[1:]]
        for depth, rows, columns in (shape for shape in self.shapes if len(shape) == 3):
            last_rows, last_columns = sizes[-1]
            smaller = (rows, columns) != (last_rows, last_columns)
            if rows <= last_rows and columns <= last_columns and smaller:
                channels.append(min(depth, 512))
                sizes.append((rows, columns))
        for depth in () if len(sizes) > 1 else CHANNELS:
            channels.append(depth)
            sizes.append((ceil(sizes[-1][0] / 2), ceil(sizes[-1][1] / 2)))
        return upsampler(width, channels, sizes)


def named_maps(output: Any) -> Iterator[tuple[str, Any]]:
    """A module's output as (name, map) pairs."""
    if isinstance(output, dict):
        yield from ((str(name), m) for name, m in output.items())
    elif isinstance(output, list | tuple):
        yield from ((f"map{n}", m) for n, m in enumerate(output, start=1))
    else:
        dense = isinstance(output, Tensor) and output.dim() == 4
        yield "map" if dense else "code", output


def describe(module: nn.Module, store: Path) -> dict[str, Any]:
    """The fields of the `OwnModule` of a module. Its weights are written into the store.

    Raises:
        ConfigError: the module cannot be built again from its classes, or their source cannot be
            hashed.
    """
    name = type(module).__name__
    classes = sorted({path for m in module.modules() if (path := import_path(type(m)))})
    content = zlib.compress(pickle_module(module))
    unpickle_module(content)
    try:
        weights = to_bytes({k: v.detach().cpu().clone() for k, v in module.state_dict().items()})
    except (ValueError, AttributeError) as error:
        raise ConfigError("encoder", name, f"has state that is not a tensor: {error}") from error
    sha256 = hashlib.sha256(weights).hexdigest()
    file = store / FOLDER / f"{sha256[:16]}.safetensors"
    if not file.exists():
        atomic_io.folder(file.parent)
        atomic_io.write(file, weights)
    return {
        "name": name,
        "architecture": base64.b64encode(content).decode(),
        "classes": classes,
        "sha256": sha256,
        "weights": str(file),
    }


def import_path(kind: type) -> str | None:
    """The path `package.module.Name` of a class that the user wrote; None for a library's class.

    ConfigError if other processes could not import it, or its source cannot be read.
    """
    path = f"{kind.__module__}.{kind.__qualname__}"
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        where = "in a function" if "<locals>" in kind.__qualname__ else "in the running program"
        raise ConfigError(
            "encoder",
            kind.__name__,
            f"is defined {where}, where its source cannot be hashed and `sft_exp predict` cannot"
            " find it. Write it to a file (in a notebook: begin its cell with"
            " `%%writefile my_net.py`) and import it:"
            f" `from my_net import {kind.__name__}`",
        )
    if library(kind.__module__):
        return None
    if by_path(path) is None or import_object(path) is not kind:
        raise ConfigError(
            "encoder",
            kind.__name__,
            f"has no source file that `import {kind.__module__}` finds; write it to one",
        )
    return path


def import_object(path: str) -> Any:
    """The object at `package.module.name`, or None; ImportError if there is no such module."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name, None)


def replace_tensors(module: nn.Module, substitute: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of the module with substituted parameters and buffers; shared ones stay shared."""
    tensors: dict[int, Any] = {}
    for tensor in module.state_dict(keep_vars=True).values():
        new = substitute(tensor.detach())
        parameter = isinstance(tensor, nn.Parameter)
        tensors[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if parameter else new
    return copy.deepcopy(module, tensors)


def pickle_module(module: nn.Module) -> bytes:
    """A module without its weights, in training mode, as the bytes of a pickle.

    Raises:
        ConfigError: the module cannot be pickled.
    """
    bare = replace_tensors(module, lambda tensor: tensor.to("meta")).train()
    for part in bare.modules():  # each process pickles a set in another order
        vars(part)["_non_persistent_buffers_set"] = sorted(part._non_persistent_buffers_set)
    file = io.BytesIO()
    try:
        torch.save(bare, file)
    except Exception as error:  # pickle raises exceptions of any kind
        valid = f"cannot be written: {error}. It may hold modules, tensors, numbers and strings"
        raise ConfigError("encoder", type(module).__name__, valid) from error
    return file.getvalue()


def unpickle_module(content: bytes) -> nn.Module:
    """The module that `pickle_module` wrote, without weights.

    Raises:
        DataError: its classes cannot be imported.
        ConfigError: it refers to anything but modules.
    """
    plain = zlib.decompress(content)
    names = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(plain))
    try:
        objects = {name: import_object(name) for name in names}
    except ImportError as error:
        raise DataError(
            f"the encoder of this model is a class of your own, and {error}: put the folder of its"
            " module on PYTHONPATH; an exported .onnx file needs no class"
        ) from error
    for name, value in objects.items():
        function = name.startswith(f"{FUNCTIONS}.")
        module = isinstance(value, type) and issubclass(value, nn.Module)
        if not (module or function or value is functools.partial):
            valid = (
                "is held by the module and cannot be built again from model.json;"
                " it may hold modules, tensors, numbers and strings"
            )
            raise ConfigError("encoder", name, valid)
    try:
        with torch.serialization.safe_globals(list(objects.values())):
            net = torch.load(io.BytesIO(plain), weights_only=True)
    except Exception as error:  # the unpickler raises exceptions of any kind
        valid = f"cannot be built again from its classes: {first_line(error)}"
        raise ConfigError("encoder", ", ".join(names), valid) from error
    for part in net.modules():
        vars(part)["_non_persistent_buffers_set"] = {*part._non_persistent_buffers_set}
    return net


def with_empty_weights(net: nn.Module) -> nn.Module:
    """The module with memory for its weights, which are NaN until they are loaded."""

    def empty(tensor: Tensor) -> Tensor:
        fill = float("nan") if tensor.is_floating_point() or tensor.is_complex() else 0
        return torch.full_like(tensor, fill, device="cpu")

    return replace_tensors(net, empty)


@lru_cache(maxsize=1)
def read_weights(file: str, sha256: str) -> Tensors:
    """The weights in a file, by name.

    Raises:
        DataError: the file is missing, or its content has another hash.
    """
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise DataError(
            f"{file}: the weights of the encoder are missing ({error.strerror})"
        ) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{file}: these are not the weights that the run started with")
    return from_bytes(content)
