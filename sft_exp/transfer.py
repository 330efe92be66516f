"""Weights from a file into a network, counted: which tensors came, under which name, and which did not.

Weights that silently did not load are the classic way to compare nothing with nothing. So there is one way in, and it says
what it did; below a share of the network's numbers it refuses. Files are safetensors, or PyTorch's with `weights_only`: a
pickle that holds code is refused and not run. Names need not agree as a whole: a common prefix on either side (`module.`,
`encoder.backbone.`, `state_dict.`) is found by what fits best, and heads that the network does not have are left over.
"""

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import isqrt
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from torch import Tensor, nn

from sft_exp import durable
from sft_exp.errors import DataError, StorageError

Tensors = dict[str, Tensor]

TORCHVISION = "torchvision:"
OURS = ("encoder.safetensors", "model.safetensors")  # what a store folder of ours holds: of a pretraining, of a fine-tuning
NAMED = 6  # tensors that a message names
ANCHORS = 3  # of the network's largest tensors, that are looked for in the file to find how names differ
ARRIVED = ("loaded", "renamed", "resized")


@dataclass(frozen=True)
class Row:
    """What became of one tensor of the network."""

    tensor: str
    state: str  # loaded, renamed (found under another name), resized, skipped
    shape: list[int]
    source: str | None = None  # its name in the file
    why: str = ""  # it was skipped, or how it was resized


@dataclass(frozen=True)
class Report:
    """A transfer, tensor by tensor."""

    file: str
    rows: list[Row]
    unused: list[str]  # of the file

    def numbers(self, *states: str) -> int:
        return sum(size(row.shape) for row in self.rows if row.state in states)

    @property
    def fraction(self) -> float:
        """Share of the network's numbers that came from the file."""
        return self.numbers(*ARRIVED) / max(1, self.numbers(*ARRIVED, "skipped"))

    def json(self) -> dict[str, Any]:
        return {**asdict(self), "fraction": self.fraction}

    def table(self) -> str:
        """A few lines for people."""
        lines = [f"weights from {self.file}: {100 * self.fraction:.1f} % of the encoder's numbers"]
        for state in (*ARRIVED, "skipped"):
            rows = [row for row in self.rows if row.state == state]
            if rows:
                named = "" if state == "loaded" else f"  {listed([shown(row) for row in rows])}"
                lines.append(f"  {state:8} {len(rows):4} tensors {self.numbers(state):12,}{named}")
        if self.unused:
            lines.append(f"  {'unused':8} {len(self.unused):4} tensors of the file  {listed(self.unused)}")
        return "\n".join(lines)

    def check(self, least: float) -> None:
        """DataError that names the tensors if less than this share came."""
        if self.fraction < least:
            skipped = [shown(row) for row in self.rows if row.state == "skipped"]
            raise DataError(
                f"{self.file}: {100 * self.fraction:.1f} % of the encoder's numbers are in it, and "
                f"transfer.min_loaded={least:g} wants more. Skipped: {listed(skipped)}. "
                f"Unused of the file: {listed(self.unused) or 'none'}. Choose the encoder that the file is of"
            )


def locate(init: str) -> Path:
    """The file that `pretrainer.init` names: a file; a run folder or store folder of ours; `torchvision:resnet18`, downloaded
    unless it is there. DataError if there is none."""
    if init.startswith(TORCHVISION):
        return published(init.removeprefix(TORCHVISION))
    path = Path(init).expanduser()
    if (path / "results.json").is_file():  # a run: what its pretraining left, named from where the run was started
        folder = json.loads((path / "results.json").read_text())["stages"]["pretrain"].get("folder", "")
        starts = (Path(), *path.resolve().parents)
        path = next((start / folder for start in starts if folder and (start / folder).is_dir()), path)
    for name in OURS:
        if (path / name).is_file():
            return path / name
    if path.is_dir():
        raise DataError(f"pretrainer.init={init}: a folder with neither {' nor '.join(OURS)}; name a file of weights")
    if not path.is_file():
        raise DataError(f"pretrainer.init={init}: no such file")
    return path


def published(name: str) -> Path:
    """torchvision's weights by model (`resnet18`: its best) or by their own name (`ResNet50_Weights.IMAGENET1K_V1`)."""
    from torchvision.models import get_model_weights, get_weight

    try:
        weights: Any = get_weight(name) if "." in name else get_model_weights(name).DEFAULT
    except (ValueError, AttributeError) as error:
        raise DataError(f"pretrainer.init={TORCHVISION}{name}: torchvision has no such weights ({error})") from error
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not file.is_file():
        try:
            durable.folder(file.parent)
            torch.hub.download_url_to_file(weights.url, str(file), hash_prefix=file.stem.rpartition("-")[2])
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{weights.url} could not be downloaded ({error}); fetch it elsewhere and give pretrainer.init=<file>"
            ) from error
    return file


def read(file: Path, sha256: str | None = None) -> tuple[Tensors, str]:
    """(all tensors of a file by their dotted names, the SHA-256 of its content). DataError, also if it is not the one given."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}") from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, found):
        raise DataError(f"{file}: changed while the run used it; start again, so that what is trained from is what is recorded")
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
        raise DataError(f"{file}: neither safetensors nor a PyTorch file that can be read ({first})") from error
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
    for name, tensor in state.items():
        key = theirs + name.removeprefix(mine) if name.startswith(mine) else name
        found = source.get(key)
        if found is None:
            rows.append(Row(name, "skipped", list(tensor.shape), why="not in the file"))
            continue
        used.add(key)
        fits, how = fitted(name, found, tensor)
        if fits is None:
            rows.append(Row(name, "skipped", list(tensor.shape), key, how))
            continue
        state[name] = fits.to(tensor.dtype)
        rows.append(Row(name, "resized" if how else "loaded" if key == name else "renamed", list(tensor.shape), key, how))
    net.load_state_dict(state)
    return Report(str(file), rows, [key for key in source if key not in used])


def prefixes(state: Tensors, source: Tensors) -> tuple[str, str]:
    """(prefix of the file's names, prefix of the network's) without which most of the network's numbers are found."""
    largest = sorted(state, key=lambda name: -state[name].numel())[:ANCHORS]
    pairs = {("", "")} | {
        split(key, name) for name in largest for key, found in source.items() if found.shape == state[name].shape
    }

    def fit(pair: tuple[str, str]) -> tuple[int, int, str]:
        theirs, mine = pair
        at = [n for n in state if n.startswith(mine)]
        there = [n for n in at if (s := source.get(theirs + n.removeprefix(mine))) is not None and s.shape == state[n].shape]
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
        for first in (0, 1, 2, 5):  # tokens before the grid: none, class, class and distillation, class and registers
            sides = [isqrt(n - first) if n > first else 0 for n in (a[1], b[1])]
            if [s * s + first for s in sides] == [a[1], b[1]]:
                grid = found[:, first:].float().transpose(1, 2).unflatten(2, (sides[0], sides[0]))
                grid = F.interpolate(grid, (sides[1], sides[1]), mode="bicubic", antialias=True)
                return torch.cat([found[:, :first].float(), grid.flatten(2).transpose(1, 2)], 1), "positions interpolated"
    return None, f"{a} in the file"


def load_own(net: nn.Module, state: Tensors, file: Path) -> None:
    """Fill `net` with what our own store says belongs there: every tensor. StorageError names those that do not fit."""
    wanted = net.state_dict()
    wrong = [f"{n} is missing" for n in wanted if n not in state] + [f"{n} is not wanted" for n in state if n not in wanted]
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


def listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def size(shape: list[int]) -> int:
    return torch.Size(shape).numel()
