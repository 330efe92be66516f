"""Loads weights from a file into a network, and reports which tensors were loaded, under which
names.

Weights that silently fail to load make a comparison meaningless, so this is the only way to load
them. A transfer is judged by layers, because every image passes through all of them: a first
convolution has a ten-thousandth of a ResNet's parameters, but a random one spoils all features. A
layer that is not loaded completely is reported and refused, unless the user allows it. Files are
safetensors, or PyTorch's with `weights_only`: a pickle with code is refused and not run. A common
prefix of names on either side (`module.`, `encoder.backbone.`, `state_dict.`) is determined by the
best match, and heads that the network does not have stay unused.
"""

import hashlib
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from math import isqrt
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from torch import Tensor, nn

from sft_exp.errors import ConfigError, DataError, StorageError

Tensors = dict[str, Tensor]

# suffixes of buffers in our files that are not weights
NORMALISATION = ("normalise.mean", "normalise.std")
NAMED = 6  # tensors that a message names
ANCHORS = 3  # largest tensors of the network, by which prefixes are determined
ARRIVED = ("loaded", "renamed", "resized")


@dataclass(frozen=True)
class Row:
    """The transfer of one tensor of the network."""

    tensor: str
    layer: str
    state: str  # loaded, renamed (found under another name), resized, skipped
    shape: list[int]
    source: str | None = None  # its name in the file
    why: str = ""  # why it was skipped, or how it was resized
    learned: bool = True  # False for integers: counters and tables of indices


@dataclass(frozen=True)
class Report:
    """The transfer of all tensors."""

    file: str
    rows: list[Row]
    unused: list[str]  # tensors of the file
    beyond: dict[str, list[str]]  # layer of the network -> tensors that only the file has for it

    @property
    def layers(self) -> list[str]:
        """Names of the network's layers, in order."""
        return list(dict.fromkeys(row.layer for row in self.rows if row.learned))

    @property
    def missing(self) -> dict[str, str]:
        """The layers that were not loaded completely, with the reasons."""
        reasons: dict[str, list[str]] = defaultdict(list)
        for row in self.rows:
            if row.learned and row.state == "skipped":
                leaf = row.tensor.removeprefix(row.layer).removeprefix(".")
                reasons[row.layer].append(f"{leaf} {row.why}".strip())
        for layer, names in self.beyond.items():
            reasons[layer].append(f"{listed(names)} of the file is not in the encoder")
        return {layer: "; ".join(reasons[layer]) for layer in self.layers if layer in reasons}

    @property
    def resized(self) -> list[str]:
        return [f"{row.tensor} ({row.why})" for row in self.rows if row.state == "resized"]

    def numbers(self, state: str) -> int:
        return sum(size(row.shape) for row in self.rows if row.state == state)

    def summary(self) -> dict[str, Any]:
        """The entry of results.json: numbers of layers and loaded layers, names of missing layers
        and resized tensors."""
        layers, missing = len(self.layers), list(self.missing)
        return {
            "file": self.file,
            "layers": layers,
            "loaded": layers - len(missing),
            "missing": missing,
            "resized": self.resized,
        }

    def json(self) -> dict[str, Any]:
        return {**self.summary(), "rows": [asdict(row) for row in self.rows], "unused": self.unused}

    def table(self) -> str:
        """A table for the terminal; its first line is a complete sentence."""
        lines = [sentence(self.summary())]
        for state in (*ARRIVED, "skipped"):
            rows = [row for row in self.rows if row.state == state]
            if rows:
                named = "" if state == "loaded" else f"  {listed([shown(row) for row in rows])}"
                lines.append(f"  {state:8} {len(rows):4} tensors {self.numbers(state):12,}{named}")
        if self.unused:
            lines.append(
                f"  {'unused':8} {len(self.unused):4} tensors of the file  {listed(self.unused)}"
            )
        return "\n".join(lines)

    def check(self, allow: Sequence[str] = ()) -> None:
        """Refuse layers that were not loaded completely.

        Args:
            allow: exceptions, by a layer's path, a parent module's path, or a pattern
                (`layer4.*.bn1`).

        Raises:
            DataError: names the layers.
            ConfigError: `allow` names no layer of the encoder.
        """
        for pattern in allow:
            if not any(covers(pattern, layer) for layer in self.layers):
                valid = f"names no layer of the encoder; its layers are {listed(self.layers)}"
                raise ConfigError("transfer.allow", pattern, valid)
        missing, total = self.missing, len(self.layers)
        refused = [layer for layer in missing if not any(covers(p, layer) for p in allow)]
        if len(missing) == total:
            raise DataError(
                f"{self.file}: none of the encoder's {total} layers is in it whole. {self.reasons(list(missing))} "
                "Choose the encoder that the file is of"
            )
        if refused:
            raise DataError(
                f"{self.file}: {listed(refused)} did not come; {total - len(missing)} of {total} layers did. "
                f"{self.reasons(refused)} Choose the encoder that the file is of, or start there without "
                f"{'it' if len(refused) == 1 else 'them'}: 'transfer.allow=[{','.join(refused[:NAMED])}]'"
            )

    def reasons(self, layers: list[str]) -> str:
        why = "; ".join(f"{layer}: {self.missing[layer]}" for layer in layers[:NAMED])
        return f"{why}. Unused of the file: {listed(self.unused) or 'none'}."


def sentence(summary: dict[str, Any]) -> str:
    """A summary as one sentence. Summaries of old runs hold a share of parameters and no layers."""
    if "layers" not in summary:
        return f"weights from {summary['file']}: {100 * summary['fraction']:.1f} % of the encoder's numbers"
    text = f"weights from {summary['file']}: {summary['loaded']} of {summary['layers']} layers"
    if summary["missing"]:
        text += f"; not {listed(summary['missing'])}"
    return text


def covers(pattern: str, layer: str) -> bool:
    return fnmatchcase(layer, pattern) or fnmatchcase(layer, f"{pattern}.*")


def read(file: Path, sha256: str | None = None) -> tuple[Tensors, str]:
    """(all tensors of a file by dotted name, the SHA-256 of its content).

    Raises:
        DataError: the file is unreadable, or has another SHA-256 than `sha256`.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}") from error
    digest = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, digest):
        problem = "changed while the run used it; start again, so that the record is right"
        raise DataError(f"{file}: {problem}")
    try:
        return from_bytes(content), digest
    except SafetensorError:
        pass  # the file may be PyTorch's
    try:
        tensors = dict(flat(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)))
    except UnpicklingError as error:
        raise DataError(
            f"{file}: holds more than tensors and plain values, perhaps code, and is not read; nothing of it was run. "
            "Whoever made it can write torch.save(model.state_dict(), file), or safetensors"
        ) from error
    except Exception as error:  # broken files make the reader raise various errors
        first = (str(error) or type(error).__name__).splitlines()[0]
        problem = f"neither safetensors nor a PyTorch file that can be read ({first})"
        raise DataError(f"{file}: {problem}") from error
    if not tensors:
        raise DataError(f"{file}: no tensor in it")
    return tensors, digest


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested dicts, by dotted name; other values are ignored."""
    if isinstance(value, Tensor):
        yield prefix, value.detach()
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{prefix}.{key}" if prefix else str(key))


def transfer(net: nn.Module, source: Tensors, file: Path | str) -> Report:
    """Load the matching tensors of `source` into `net`, and report on every tensor."""
    state, rows, used = net.state_dict(), [], set()
    file_prefix, net_prefix = prefixes(state, source)
    leaves = {path for path, module in net.named_modules() if not list(module.children())}
    for name, tensor in state.items():
        owner = name.rpartition(".")[0]
        layer = owner if owner in leaves and owner else name
        shape, learned = list(tensor.shape), tensor.is_floating_point()
        key = file_key(name, file_prefix, net_prefix)
        if key not in source:
            rows.append(Row(name, layer, "skipped", shape, None, "is not in the file", learned))
            continue
        used.add(key)
        value, how = fitted(name, source[key], tensor)
        if value is None:
            rows.append(Row(name, layer, "skipped", shape, key, how, learned))
            continue
        state[name] = value.to(tensor.dtype)
        outcome = "resized" if how else "loaded" if key == name else "renamed"
        rows.append(Row(name, layer, outcome, shape, key, how, learned))
    net.load_state_dict(state)
    unused = [key for key in source if key not in used and not key.endswith(NORMALISATION)]
    layers, beyond = {row.layer for row in rows}, defaultdict[str, list[str]](list)
    for key in unused:
        owner, _, leaf = (net_prefix + key.removeprefix(file_prefix)).rpartition(".")
        if key.startswith(file_prefix) and owner in layers and source[key].is_floating_point():
            beyond[owner].append(leaf)
    return Report(str(file), rows, unused, dict(beyond))


def file_key(name: str, file_prefix: str, net_prefix: str) -> str:
    """The name in the file of a tensor of the network."""
    return file_prefix + name.removeprefix(net_prefix) if name.startswith(net_prefix) else name


def prefixes(state: Tensors, source: Tensors) -> tuple[str, str]:
    """(prefix of the file's names, prefix of the network's) with which most parameters match."""
    largest = sorted(state, key=lambda name: -state[name].numel())[:ANCHORS]
    pairs = {("", "")} | {
        split(key, name)
        for name in largest
        for key, tensor in source.items()
        if tensor.shape == state[name].shape
    }

    def cost(pair: tuple[str, str]) -> tuple[int, int, str]:
        file_prefix, net_prefix = pair
        keys = {n: file_key(n, *pair) for n in state if n.startswith(net_prefix)}
        matches = [n for n, key in keys.items() if key in source]
        fits = sum(state[n].numel() for n in matches if source[keys[n]].shape == state[n].shape)
        return -fits, len(file_prefix) + len(net_prefix), file_prefix

    return min(pairs, key=cost)


def split(key: str, name: str) -> tuple[str, str]:
    """The prefixes of two names before their common dotted suffix."""
    first, second = key.split("."), name.split(".")
    while first and second and first[-1] == second[-1]:
        first.pop()
        second.pop()
    return "".join(f"{word}." for word in first), "".join(f"{word}." for word in second)


def fitted(name: str, source: Tensor, target: Tensor) -> tuple[Tensor | None, str]:
    """(`source` in the shape of `target`, how it was resized), or (None, why it does not fit)."""
    a, b = list(source.shape), list(target.shape)
    if a == b:
        return source, ""
    if len(a) == len(b) == 4 and {a[1], b[1]} == {1, 3} and (a[0], a[2:]) == (b[0], b[2:]):
        if b[1] == 1:
            return source.sum(1, keepdim=True), "colour channels added"
        return source.repeat(1, 3, 1, 1) / 3, "grey as colour"
    if "pos" in name and len(a) == len(b) == 3 and a[0] == b[0] == 1 and a[2] == b[2]:
        # tokens before the grid: none, class, class and distillation, class and registers
        for first in (0, 1, 2, 5):
            sides = [isqrt(n - first) if n > first else 0 for n in (a[1], b[1])]
            if [s * s + first for s in sides] == [a[1], b[1]]:
                grid = source[:, first:].float().transpose(1, 2).unflatten(2, (sides[0], sides[0]))
                grid = F.interpolate(grid, (sides[1], sides[1]), mode="bicubic", antialias=True)
                tokens = [source[:, :first].float(), grid.flatten(2).transpose(1, 2)]
                return torch.cat(tokens, 1), "positions interpolated"
    return None, f"is {a} in the file and {b} in the encoder"


def load_own(net: nn.Module, state: Tensors, file: Path) -> None:
    """Load a state from our own store, which must match exactly. StorageError names the
    mismatches."""
    expected = net.state_dict()
    faults = [f"{n} is missing" for n in expected if n not in state]
    faults += [f"{n} is not wanted" for n in state if n not in expected]
    faults += [
        f"{n} {list(state[n].shape)} is not {list(tensor.shape)}"
        for n, tensor in expected.items()
        if n in state and state[n].shape != tensor.shape
    ]
    if faults:
        raise StorageError(f"{file}: {listed(faults)}; remove its folder, and it is made again")
    net.load_state_dict(state)


def read_own(file: Path) -> Tensors:
    try:
        return from_bytes(file.read_bytes())
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{file}: {error}") from error


def shown(row: Row) -> str:
    source = f" = {row.source}" if row.state == "renamed" else ""
    return f"{row.tensor}{source} {row.shape}{f' ({row.why})' if row.why else ''}"


def normalisation(source: Tensors) -> tuple[list[float], list[float]] | None:
    """(mean, std) with which an encoder of our files normalises images; None for other files."""
    ends = tuple(f".{end}" for end in NORMALISATION)
    mean, std = (
        next((t for name, t in source.items() if f".{name}".endswith(end)), None) for end in ends
    )
    if mean is None or std is None:
        return None
    # 0.485 is not 0.48500001 in a request
    digits = [[float(f"{v:.7g}") for v in t.flatten().tolist()] for t in (mean, std)]
    return digits[0], digits[1]


def listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def size(shape: list[int]) -> int:
    return torch.Size(shape).numel()
