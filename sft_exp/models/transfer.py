"""Loads weights from a file into a network, and reports which tensors were loaded, under which
names.

Weights that silently fail to load make a comparison meaningless, so this is the only way to load
them. A transfer is judged by layers, because every image passes through all of them: a first
convolution has a ten-thousandth of a ResNet's parameters, but a random one spoils all features. A
layer that is not loaded completely is reported and refused, unless the user allows it, and so is a
layer that only the file has and that lies between the others: blocks of a deeper network, squeeze
and excitation. A common prefix of names on either side (`module.`, `encoder.backbone.`,
`state_dict.`) is determined by the best match, and heads that the network does not have stay unused.
Of several networks in a file that fit equally well, averaged ones come first and momentum encoders
last, and the report names the one that was taken.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from math import isqrt
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from sft_exp.errors import ConfigError, DataError, StorageError, some

Tensors = dict[str, Tensor]

# suffixes of buffers in our files that are not weights
NORMALISATION = ("normalise.mean", "normalise.std")
TOP = "the top level"
NAMED = 6  # tensors that a message names
ANCHORS = 3  # largest tensors of the network, by which prefixes are determined
ARRIVED = ("loaded", "renamed", "resized")
# words in the prefix of a network whose weights are averages kept for evaluation (DINO's teacher)
AVERAGED = {"averaged", "ema", "shadow", "swa", "teacher"}
# and of one that only makes targets for the other (MoCo's key encoder, BYOL's target network)
TARGETS = {"k", "key", "momentum", "target"}
NUMBERED = re.compile(r".*\d")  # names of blocks: 0, layer1, encoder_layer_3


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
    more: list[str] = field(default_factory=list)  # layers between these that only the file has
    prefix: str = ""  # of the file's names
    others: list[str] = field(default_factory=list)  # prefixes under which the layers are, too
    ambiguous: bool = False  # nothing says which of these is meant
    blank: bool = False  # all loaded weights are 0

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
            reasons[layer].append(f"{some(names, NAMED)} of the file is not in the encoder")
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
            "more": self.more,
            "prefix": self.prefix,
            "others": self.others,
        }

    def json(self) -> dict[str, Any]:
        return {**self.summary(), "rows": [asdict(row) for row in self.rows], "unused": self.unused}

    def table(self) -> str:
        """A table for the terminal; its first line is a complete sentence."""
        lines = [sentence(self.summary())]
        if others := [place for place in self.others if place]:
            lines.append(f"  transfer.prefix={others[0]} takes another network of the file")
        for state in (*ARRIVED, "skipped"):
            rows = [row for row in self.rows if row.state == state]
            if rows:
                named = (
                    "" if state == "loaded" else f"  {some([shown(row) for row in rows], NAMED)}"
                )
                lines.append(f"  {state:8} {len(rows):4} tensors {self.numbers(state):12,}{named}")
        if self.unused:
            lines.append(
                f"  {'unused':8} {len(self.unused):4} tensors of the file  {some(self.unused, NAMED)}"
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
            if not any(covers(pattern, layer) for layer in (*self.layers, *self.more)):
                valid = f"names no layer of the encoder; its layers are {some(self.layers, NAMED)}"
                raise ConfigError("transfer.allow", pattern, valid)
        missing, total = self.missing, len(self.layers)
        refused = [layer for layer in missing if not any(covers(p, layer) for p in allow)]
        if len(missing) == total:
            raise DataError(
                f"{self.file}: none of the encoder's {total} layers is in it whole. {self.reasons(list(missing))} "
                "Choose the encoder that the file is of"
            )
        if self.ambiguous:
            places = [self.prefix, *self.others]
            raise DataError(
                f"{self.file}: holds several networks that fit the encoder, with different numbers: "
                f"{some([place or TOP for place in places], NAMED)}. Name the one to start from: "
                f"transfer.prefix={next(filter(None, places))}"
            )
        if self.blank:
            raise DataError(
                f"{self.file}: all weights that fit the encoder are 0; save them again, from a trained network"
            )
        if refused:
            raise DataError(
                f"{self.file}: {some(refused, NAMED)} did not come; {total - len(missing)} of {total} layers did. "
                f"{self.reasons(refused)} Choose the encoder that the file is of, or start there without "
                f"{'it' if len(refused) == 1 else 'them'}: 'transfer.allow=[{','.join(refused[:NAMED])}]'"
            )
        if more := [path for path in self.more if not any(covers(p, path) for p in allow)]:
            raise DataError(
                f"{self.file}: its network has more layers between those of the encoder: {some(more, NAMED)}. "
                "Choose the encoder that the file is of, or start without them: "
                f"'transfer.allow=[{','.join(more[:NAMED])}]'"
            )

    def reasons(self, layers: list[str]) -> str:
        why = "; ".join(f"{layer}: {self.missing[layer]}" for layer in layers[:NAMED])
        return f"{why}. Unused of the file: {some(self.unused, NAMED) or 'none'}."


def sentence(summary: dict[str, Any]) -> str:
    """A summary as one sentence. Summaries of old runs hold a share of parameters and no layers."""
    if "layers" not in summary:
        return f"weights from {summary['file']}: {100 * summary['fraction']:.1f} % of the encoder's numbers"
    text = f"weights from {summary['file']}: {summary['loaded']} of {summary['layers']} layers"
    if summary["missing"]:
        text += f"; not {some(summary['missing'], NAMED)}"
    if summary.get("more"):
        text += f"; the file's network has more: {some(summary['more'], NAMED)}"
    if summary.get("others"):
        here, *there = [place or TOP for place in (summary["prefix"], *summary["others"])]
        text += f"; from {here} and not from {some(there, NAMED)}"
    return text


def covers(pattern: str, layer: str) -> bool:
    return fnmatchcase(layer, pattern) or fnmatchcase(layer, f"{pattern}.*")


def transfer(
    net: nn.Module, source: Tensors, file: Path | str, prefix: str | None = None
) -> Report:
    """Load the matching tensors of `source` into `net`, and report on every tensor.

    With `prefix` only names below it are looked at. ConfigError if there are none.
    """
    state, rows, used = net.state_dict(), [], set()
    source = renumbered(state, source)
    file_prefix, net_prefix, others = prefixes(state, source, prefix)
    leaves = {path for path, module in net.named_modules() if not list(module.children())}
    filled = list[bool]()  # of each matrix of weights, whether it holds more than 0
    for name, tensor in state.items():
        owner = name.rpartition(".")[0]
        layer = owner if owner in leaves and owner else name
        shape, learned = list(tensor.shape), tensor.is_floating_point()
        key = file_key(name, file_prefix, net_prefix)
        if key not in source:
            rows.append(Row(name, layer, "skipped", shape, None, "is not in the file", learned))
            continue
        used.add(key)
        why = unusable(source[key], learned)
        value, how = (None, why) if why else fitted(name, source[key], tensor)
        if value is None:
            rows.append(Row(name, layer, "skipped", shape, key, how, learned))
            continue
        state[name] = value.to(tensor.dtype)
        if learned and tensor.dim() > 1:
            filled.append(bool(value.any()))
        outcome = "resized" if how else "loaded" if key == name else "renamed"
        rows.append(Row(name, layer, outcome, shape, key, how, learned))
    net.load_state_dict(state)
    unused = [key for key in source if key not in used and not key.endswith(NORMALISATION)]
    floats = {
        net_prefix + key.removeprefix(file_prefix)
        for key in unused
        if key.startswith(file_prefix) and source[key].is_floating_point()
    }
    layers, beyond = {row.layer for row in rows}, defaultdict[str, list[str]](list)
    for name in sorted(floats):
        owner, _, leaf = name.rpartition(".")
        if owner in layers:
            beyond[owner].append(leaf)
    more = between(net, net_prefix, sorted(n for n in floats if n.rpartition(".")[0] not in layers))
    ours = standing(file_prefix)
    ambiguous = [other for other in others if standing(other) == ours and ours[1]]
    return Report(
        str(file),
        rows,
        unused,
        dict(beyond),
        more,
        file_prefix.rstrip("."),
        [other.rstrip(".") for other in others],
        prefix is None and bool(ambiguous),
        bool(filled) and not any(filled),
    )


def between(net: nn.Module, net_prefix: str, names: list[str]) -> list[str]:
    """Paths of layers that only the file has, inside of the network's blocks or in a row with them.

    Others, such as heads, follow on what the network has.
    """
    modules = {path: module for path, module in net.named_modules() if list(module.children())}
    root, found = net_prefix.rstrip("."), dict[str, None]()
    for name in names if modules else []:
        words = name.split(".")
        depth = next(d for d in range(len(words), -1, -1) if ".".join(words[:d]) in modules)
        parent, inside = ".".join(words[:depth]), words[depth:]
        within = parent.removeprefix(root).strip(".") if parent.startswith(root) else ""
        stem = inside[0].rstrip("0123456789")
        row = [n for n, _ in modules[parent].named_children() if NUMBERED.fullmatch(n)]
        in_a_row = inside[0] != stem and any(n.rstrip("0123456789") == stem for n in row)
        # `classifier.2` after a `classifier.0` is a head, and so is whatever follows on a Sequential
        in_a_row = in_a_row and len(inside) > 2 and bool(stem or within)
        if in_a_row or any(NUMBERED.fullmatch(word) for word in within.split(".")):
            found[f"{parent}.{inside[0]}".lstrip(".")] = None
    return list(found)


def renumbered(state: Tensors, source: Tensors) -> Tensors:
    """The file's tensors under the network's names, where the file has its parts in a row without names.

    nn.Sequential(*network.children()), as fastai and lightly build bodies, numbers the parts by
    their order: `4.0.conv1.weight` is `layer1.0.conv1.weight`. Every tensor of the network must be
    there in its shape, else names stay as they are.
    """
    prefix = ""
    while parts := list(dict.fromkeys(n.removeprefix(prefix).partition(".")[0] for n in state)):
        named = dict[str, str]()  # name in the file -> the network's
        if not any(part.isdecimal() for part in parts):
            for start in rows_of(source):
                named |= renumbered_row(state, source, start, prefix, parts)
        if named:
            return {named.get(name, name): tensor for name, tensor in source.items()}
        if len(parts) > 1 or f"{prefix}{parts[0]}" in state:
            break
        prefix += f"{parts[0]}."
    return source


def renumbered_row(
    state: Tensors, source: Tensors, start: str, prefix: str, parts: list[str]
) -> dict[str, str]:
    """Name in the file -> `start` and the network's name, of the tensors behind `start` and a number; {}
    if they are not the whole network."""
    below = [name for name in source if name.startswith(start)]
    numbers = sorted({int(word) for n in below if (word := first(n, start)).isdecimal()})
    part_of = dict(zip(map(str, numbers), parts, strict=False))
    named = {
        name: f"{start}{prefix}{part_of[word]}{name[len(start) + len(word) :]}"
        for name in below
        if (word := first(name, start)) in part_of
    }
    shapes = {new: source[old].shape for old, new in named.items()}
    whole = all(
        shapes.get(start + name) == tensor.shape
        for name, tensor in state.items()
        if tensor.is_floating_point()
    )
    return named if whole else {}


def rows_of(source: Tensors) -> list[str]:
    """Prefixes behind which the file's names go on with a number."""
    starts = dict[str, None]()
    for name in source:
        words = name.split(".")
        for n, word in enumerate(words[:-1]):
            if word.isdecimal():
                starts["".join(f"{w}." for w in words[:n])] = None
    return list(starts)


def first(name: str, start: str) -> str:
    """The word of a name behind a prefix; "" for other names."""
    return name[len(start) :].partition(".")[0] if name.startswith(start) else ""


def file_key(name: str, file_prefix: str, net_prefix: str) -> str:
    """The name in the file of a tensor of the network."""
    return file_prefix + name.removeprefix(net_prefix) if name.startswith(net_prefix) else name


def prefixes(
    state: Tensors, source: Tensors, asked: str | None = None
) -> tuple[str, str, list[str]]:
    """(prefix of the file's names, prefix of the network's) with which most parameters match, and the
    other prefixes of the file with which as many match other numbers."""
    largest = sorted(state, key=lambda name: -state[name].numel())[:ANCHORS]
    pairs = {("", "")} | {
        split(key, name)
        for name in largest
        for key, tensor in source.items()
        if tensor.shape == state[name].shape
    }

    def matches(pair: tuple[str, str]) -> dict[str, str]:
        keys = {n: file_key(n, *pair) for n in state if n.startswith(pair[1])}
        return {n: k for n, k in keys.items() if k in source and source[k].shape == state[n].shape}

    numbers = {pair: sum(state[n].numel() for n in matches(pair)) for pair in pairs}
    half = sum(tensor.numel() for tensor in state.values()) / 2
    chosen = pairs
    if asked is not None:
        start = f"{asked.rstrip('.')}." if asked else ""
        there = sorted({pair[0].rstrip(".") for pair in pairs if numbers[pair] > half} - {""})
        chosen = {pair for pair in pairs if pair[0] == start}
        if not chosen:
            problem = "no layers of the encoder are there in the file"
            valid = f"; they are under {some(there, NAMED)}" if there else ""
            raise ConfigError("transfer.prefix", asked, problem + valid)
    ranked = sorted(
        pairs,
        key=lambda p: (-numbers[p], standing(p[0]), len(p[0]) + len(p[1]), p[0]),
    )
    taken = next(pair for pair in ranked if pair in chosen)
    mine = matches(taken)
    others = dict[str, None]()
    alike = [pair for pair in ranked if pair != taken and numbers[pair] == numbers[taken]]
    for pair in alike if numbers[taken] > half else []:
        theirs = matches(pair)
        if mine.keys() == theirs.keys() and any(
            not same(source[mine[n]], source[theirs[n]]) for n in mine
        ):
            others[pair[0]] = None
    return *taken, list(others)


def standing(prefix: str) -> tuple[int, bool]:
    """The place of a network among several in a file that fit, by the words of its prefix; those at
    the top level come before those below."""
    words = set(re.split(r"[._]", prefix))
    return (0 if words & AVERAGED else 2 if words & TARGETS else 1), bool(prefix)


def same(a: Tensor, b: Tensor) -> bool:
    plain = a.layout == b.layout == torch.strided and not (a.is_quantized or b.is_quantized)
    return a is b or (plain and not (a.is_meta or b.is_meta) and torch.equal(a, b))


def split(key: str, name: str) -> tuple[str, str]:
    """The prefixes of two names before their common dotted suffix."""
    first, second = key.split("."), name.split(".")
    while first and second and first[-1] == second[-1]:
        first.pop()
        second.pop()
    return "".join(f"{word}." for word in first), "".join(f"{word}." for word in second)


def unusable(tensor: Tensor, learned: bool) -> str:
    """Why a tensor holds no numbers that can be loaded, or, if `learned`, no weights; "" if it does."""
    if tensor.is_quantized or (learned and tensor.dtype.itemsize == 1):
        return "is quantised in the file; save the weights before quantisation"
    if tensor.layout != torch.strided:
        return "is sparse in the file; save it by .to_dense()"
    if tensor.is_meta:
        return "has a shape in the file and no numbers (device meta)"
    if not learned:
        return ""
    if not tensor.is_floating_point():
        return f"is {str(tensor.dtype).removeprefix('torch.')} in the file and not floating point"
    if not tensor.isfinite().all():
        return "has numbers in the file that are not finite (NaN or infinite)"
    return ""


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
            if min(sides) and [s * s + first for s in sides] == [a[1], b[1]]:
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
        raise StorageError(
            f"{file}: {some(faults, NAMED)}; remove its folder, and it is made again"
        )
    net.load_state_dict(state)


def own_content(net: nn.Module) -> bytes:
    """All tensors of a network as the content of a file that `read_own` reads."""
    return to_bytes({name: t.contiguous().cpu() for name, t in net.state_dict().items()})


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


def size(shape: list[int]) -> int:
    return torch.Size(shape).numel()
