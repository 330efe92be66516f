"""Weights from a file into a network, counted: which tensors came, under which name, and which did not.

Weights that silently did not load are the classic way to compare nothing with nothing. So there is one way in, and it says
what it did. A transfer is judged by layers, because every image passes through every one of them: a first convolution is a
ten-thousandth of a ResNet's numbers, and a random one spoils all that follows. A layer that did not come whole is named and
refused, unless the user allows it. Files are safetensors, or PyTorch's with `weights_only`: a pickle that holds code is
refused and not run. Names need not agree as a whole: a common prefix on either side (`module.`, `encoder.backbone.`,
`state_dict.`) is found by what fits best, and heads that the network does not have are left over.
"""

import hashlib
import io
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

# ends of names in our files: the encoder's own, and no weights
NORMALISATION = ("normalise.mean", "normalise.std")
NAMED = 6  # tensors that a message names
# of the network's largest tensors, that are looked for in the file to find how names differ
ANCHORS = 3
ARRIVED = ("loaded", "renamed", "resized")


@dataclass(frozen=True)
class Row:
    """What became of one tensor of the network."""

    tensor: str
    layer: str  # that it belongs to
    state: str  # loaded, renamed (found under another name), resized, skipped
    shape: list[int]
    source: str | None = None  # its name in the file
    why: str = ""  # it was skipped, or how it was resized
    # False of integers: counters and tables of indices, which the network sets itself
    learned: bool = True


@dataclass(frozen=True)
class Report:
    """A transfer, tensor by tensor."""

    file: str
    rows: list[Row]
    unused: list[str]  # of the file
    # layer of the network -> tensors that the file has for it and the network has not
    beyond: dict[str, list[str]]

    @property
    def layers(self) -> list[str]:
        """Names of the network's layers, in its order."""
        return list(dict.fromkeys(row.layer for row in self.rows if row.learned))

    @property
    def missing(self) -> dict[str, str]:
        """The layers that did not come whole, each with the reason."""
        found: dict[str, list[str]] = {}
        for row in self.rows:
            if row.learned and row.state == "skipped":
                leaf = row.tensor.removeprefix(row.layer).removeprefix(".")
                found.setdefault(row.layer, []).append(f"{leaf} {row.why}".strip())
        for layer, names in self.beyond.items():
            found.setdefault(layer, []).append(f"{listed(names)} of the file is not in the encoder")
        return {layer: "; ".join(found[layer]) for layer in self.layers if layer in found}

    @property
    def resized(self) -> list[str]:
        return [f"{row.tensor} ({row.why})" for row in self.rows if row.state == "resized"]

    def numbers(self, state: str) -> int:
        return sum(size(row.shape) for row in self.rows if row.state == state)

    def summary(self) -> dict[str, Any]:
        """What results.json says of it: `layers` that the encoder has, `loaded` ones, and the names of the `missing`."""
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
        """A few lines for people, the first one complete."""
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
        """DataError that names the layers that did not come whole, but for those that `allow` names by their path, the path of
        a module around them, or a pattern (`layer4.*.bn1`). ConfigError if it names none of the encoder's layers."""
        for pattern in allow:
            if not any(covers(pattern, layer) for layer in self.layers):
                valid = f"names no layer of the encoder; its layers are {listed(self.layers)}"
                raise ConfigError("transfer.allow", pattern, valid)
        missing, total = self.missing, len(self.layers)
        refused = [
            layer for layer in missing if not any(covers(pattern, layer) for pattern in allow)
        ]
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
    """A summary as one sentence. Of runs from before layers were counted, which have a share of numbers, it says that."""
    if "layers" not in summary:
        return f"weights from {summary['file']}: {100 * summary['fraction']:.1f} % of the encoder's numbers"
    text = f"weights from {summary['file']}: {summary['loaded']} of {summary['layers']} layers"
    if summary["missing"]:
        text += f"; not {listed(summary['missing'])}"
    return text


def covers(pattern: str, layer: str) -> bool:
    return fnmatchcase(layer, pattern) or fnmatchcase(layer, f"{pattern}.*")


def read(file: Path, sha256: str | None = None) -> tuple[Tensors, str]:
    """(all tensors of a file by their dotted names, the SHA-256 of its content). DataError, also if it is not the one given."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}") from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, found):
        raise DataError(
            f"{file}: changed while the run used it; start again, so that what is trained from is what is recorded"
        )
    try:
        return from_bytes(content), found
    except SafetensorError:
        pass  # then it is PyTorch's, or nothing
    try:
        tensors = dict(flat(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)))
    except UnpicklingError as error:
        raise DataError(
            f"{file}: holds more than tensors and plain values, perhaps code, and is not read; nothing of it was run. "
            "Whoever made it can write torch.save(model.state_dict(), file), or safetensors"
        ) from error
    except Exception as error:  # a broken file leads the reader to whatever it leads it to
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{file}: neither safetensors nor a PyTorch file that can be read ({first})"
        ) from error
    if not tensors:
        raise DataError(f"{file}: no tensor in it")
    return tensors, found


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested dicts, by dotted names; other values are nobody's weights."""
    if isinstance(value, Tensor):
        yield prefix, value.detach()
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{prefix}.{key}" if prefix else str(key))


def transfer(net: nn.Module, source: Tensors, file: Path | str) -> Report:
    """Fill `net` with what fits it, and say tensor by tensor what did."""
    state, rows, used = net.state_dict(), [], set()
    theirs, mine = prefixes(state, source)
    leaves = {path for path, module in net.named_modules() if not list(module.children())}
    for name, tensor in state.items():
        owner = name.rpartition(".")[0]
        layer = owner if owner in leaves and owner else name
        shape, learned = list(tensor.shape), tensor.is_floating_point()
        key = theirs + name.removeprefix(mine) if name.startswith(mine) else name
        found = source.get(key)
        if found is None:
            rows.append(Row(name, layer, "skipped", shape, None, "is not in the file", learned))
            continue
        used.add(key)
        fits, how = fitted(name, found, tensor)
        if fits is None:
            rows.append(Row(name, layer, "skipped", shape, key, how, learned))
            continue
        state[name] = fits.to(tensor.dtype)
        became = "resized" if how else "loaded" if key == name else "renamed"
        rows.append(Row(name, layer, became, shape, key, how, learned))
    net.load_state_dict(state)
    unused = [key for key in source if key not in used and not key.endswith(NORMALISATION)]
    layers, beyond = {row.layer for row in rows}, dict[str, list[str]]()
    for key in unused:
        owner, _, leaf = (mine + key.removeprefix(theirs)).rpartition(".")
        if key.startswith(theirs) and owner in layers and source[key].is_floating_point():
            beyond.setdefault(owner, []).append(leaf)
    return Report(str(file), rows, unused, beyond)


def prefixes(state: Tensors, source: Tensors) -> tuple[str, str]:
    """(prefix of the file's names, prefix of the network's) without which most of the network's numbers are found."""
    largest = sorted(state, key=lambda name: -state[name].numel())[:ANCHORS]
    pairs = {("", "")} | {
        split(key, name)
        for name in largest
        for key, found in source.items()
        if found.shape == state[name].shape
    }

    def fit(pair: tuple[str, str]) -> tuple[int, int, str]:
        theirs, mine = pair
        at = [n for n in state if n.startswith(mine)]
        there = [
            n
            for n in at
            if (s := source.get(theirs + n.removeprefix(mine))) is not None
            and s.shape == state[n].shape
        ]
        return -sum(state[n].numel() for n in there), len(theirs) + len(mine), theirs

    return min(pairs, key=fit)


def split(key: str, name: str) -> tuple[str, str]:
    """What stands before the dotted ending that two names have in common."""
    theirs, mine = key.split("."), name.split(".")
    while theirs and mine and theirs[-1] == mine[-1]:
        theirs.pop()
        mine.pop()
    return "".join(f"{word}." for word in theirs), "".join(f"{word}." for word in mine)


def fitted(name: str, found: Tensor, wanted: Tensor) -> tuple[Tensor | None, str]:
    """(`found` in the wanted shape, how it was resized), or (None, why not)."""
    a, b = list(found.shape), list(wanted.shape)
    if a == b:
        return found, ""
    if len(a) == len(b) == 4 and {a[1], b[1]} == {1, 3} and (a[0], a[2:]) == (b[0], b[2:]):
        return (
            (found.sum(1, keepdim=True), "colour channels added")
            if b[1] == 1
            else (found.repeat(1, 3, 1, 1) / 3, "grey as colour")
        )
    if "pos" in name and len(a) == len(b) == 3 and a[0] == b[0] == 1 and a[2] == b[2]:
        # tokens before the grid: none, class, class and distillation, class and registers
        for first in (0, 1, 2, 5):
            sides = [isqrt(n - first) if n > first else 0 for n in (a[1], b[1])]
            if [s * s + first for s in sides] == [a[1], b[1]]:
                grid = found[:, first:].float().transpose(1, 2).unflatten(2, (sides[0], sides[0]))
                grid = F.interpolate(grid, (sides[1], sides[1]), mode="bicubic", antialias=True)
                return torch.cat(
                    [found[:, :first].float(), grid.flatten(2).transpose(1, 2)], 1
                ), "positions interpolated"
    return None, f"is {a} in the file and {b} in the encoder"


def load_own(net: nn.Module, state: Tensors, file: Path) -> None:
    """Fill `net` with what our own store says belongs there: every tensor. StorageError names those that do not fit."""
    wanted = net.state_dict()
    wrong = [f"{n} is missing" for n in wanted if n not in state] + [
        f"{n} is not wanted" for n in state if n not in wanted
    ]
    wrong += [
        f"{n} {list(state[n].shape)} is not {list(w.shape)}"
        for n, w in wanted.items()
        if n in state and state[n].shape != w.shape
    ]
    if wrong:
        raise StorageError(f"{file}: {listed(wrong)}; remove its folder, and it is made again")
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
    """(mean, std) that a file of ours says its encoder sees images by; None of any other file."""
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
