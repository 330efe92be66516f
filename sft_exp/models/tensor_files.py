"""The tensors in a file of weights, by dotted name: safetensors, and what torch.save writes.

Nothing in a file runs. torch.load reads with `weights_only`, and objects of other classes (the
settings of a training, a whole model) become dicts of what they hold, or nothing: their classes are
not imported. Files of another kind, cut off, or put there in place of weights are named as what they
are, with what makes weights of them.
"""

import builtins
import hashlib
import io
import json
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from torch import Tensor

from sft_exp.errors import DataError, first_line

Tensors = dict[str, Tensor]

# modules that torch.compile, FSDP, DeepSpeed and checkpointing of activations put around others
WRAPPERS = {
    *("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"),
}
REWRITE = "torch.save(model.state_dict(), file) writes what can be read, as safetensors does"
CONVERT = (
    "take the publisher's weights for PyTorch (.pth, .bin or .safetensors), or convert these, "
    "as transformers does by from_tf and from_flax"
)
UNPACK = "unpack it, and name the file inside"
AGAIN = "download or copy it again"
MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # first bytes of torch.save before 1.6
# first bytes of files -> what they are, what helps
STARTS = {
    b"version https://git-lfs": (
        "a pointer of Git LFS in place of the weights",
        "`git lfs pull` in its repository downloads them",
    ),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file, as Keras writes", CONVERT),
    b"\x93NUMPY": ("a NumPy array", CONVERT),
    b"GGUF": ("a GGUF file", CONVERT),
    b"\x1f\x8b": ("compressed by gzip", UNPACK),
    b"BZh": ("compressed by bzip2", UNPACK),
    b"\xfd7zXZ\0": ("compressed by xz", UNPACK),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", UNPACK),
}
# ends of names in zip archives -> what they are
ARCHIVES = {
    ".npy": ("an archive of NumPy arrays", CONVERT),
    ".h5": ("a model of Keras", CONVERT),
    ".mlmodel": ("a model of Core ML", CONVERT),
    "archive_format": (
        "a program of torch.export",
        "torch.save(torch.export.load(file).state_dict, other) writes its weights",
    ),
}
NAMED = 4  # names that a message lists


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
    loaded: Any = None
    classes: list[str] = []
    try:
        loaded = from_bytes(content)
    except SafetensorError as error:
        if other := kind(content, file.suffix, str(error)):
            raise DataError(f"{file}: {'; '.join(other)}") from error
    except KeyError as error:  # a type of the format that its reader does not know
        problem = f"holds numbers of type {error}; save the weights before quantisation"
        raise DataError(f"{file}: {problem}") from error
    try:
        loaded = load(content, classes) if loaded is None else loaded
        tensors = unwrapped(dict(flat(loaded)))
    except UnpicklingError as error:
        raise DataError(
            f"{file}: holds more than tensors and plain values, perhaps code, and is not read; nothing of it was run. "
            "Whoever made it can write torch.save(model.state_dict(), file), or safetensors"
        ) from error
    except Exception as error:  # broken files make the reader raise various errors
        first = first_line(error).partition(". ")[0]
        problem = f"neither safetensors nor a PyTorch file that can be read ({first}); {AGAIN}"
        raise DataError(f"{file}: {problem}") from error
    if not tensors:
        raise DataError(f"{file}: no tensor in it{contents(loaded, classes)}; {REWRITE}")
    return tensors, digest


def contents(loaded: Any, classes: list[str]) -> str:
    """What a file without tensors holds, for a message."""
    keys = [str(key) for key in loaded] if isinstance(loaded, dict) else []
    parts = [f"it has {', '.join(keys[:NAMED])}"] if keys else []
    parts += [f"objects of {', '.join(sorted(classes)[:NAMED])}, which are not read"] * any(classes)
    return f" ({'; '.join(parts)})" if parts else ""


def kind(content: bytes, suffix: str, damage: str) -> tuple[str, str] | None:
    """(what a file is, what helps), of one that is not safetensors; None for what torch.load may read.

    `damage` is what the reader of safetensors says of it.
    """
    if not content:
        return "an empty file", AGAIN
    for start, known in STARTS.items():
        if content.startswith(start):
            return known
    if content[:4] == b"PK\x03\x04":
        return in_archive(content)
    if content[257:262] == b"ustar":
        return "a tar archive", UNPACK
    size = int.from_bytes(content[:8], "little")
    if content[8:9] == b"{" and size < 100_000_000:
        return f"safetensors, but damaged or cut off ({damage})", AGAIN
    if content[:1] == b"\x80" and not content.startswith(MAGIC):
        return "a pickle that torch.save did not write", REWRITE
    if suffix.lower() == ".onnx":
        return "an ONNX graph", CONVERT
    if text := as_text(content):
        return text
    if not content.startswith(MAGIC):
        return "neither safetensors nor a file of torch.save", CONVERT
    return None


def in_archive(content: bytes) -> tuple[str, str] | None:
    """`kind` of a zip archive; None for torch.save's."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError):
        return f"cut off or damaged, at {len(content):,} bytes", AGAIN
    ends = {name.partition("/")[2] for name in names}
    if "data.pkl" in ends:
        if "constants.pkl" in ends:
            return "a TorchScript archive", (
                "torch.save(torch.jit.load(file).state_dict(), other) writes its weights"
            )
        return None
    for end, what in ARCHIVES.items():
        if any(name.endswith(end) for name in names):
            return what
    return f"a zip archive of {', '.join(names[:NAMED]) or 'nothing'}", UNPACK


def as_text(content: bytes) -> tuple[str, str] | None:
    """`kind` of a text; None for other files."""
    start = content[:1000]
    if any(byte < 9 for byte in start):
        return None
    text = start.decode(errors="ignore").strip()
    if text.startswith("<"):
        return "a web page in place of the weights", f"{AGAIN}, by the address of the file itself"
    if text.startswith("{"):
        try:
            index = json.loads(content)
        except ValueError:
            index = {}
        if isinstance(index, dict) and isinstance(named := index.get("weight_map"), dict):
            files = sorted({str(file) for file in named.values()})
            several = f"an index of weights in {len(files)} files ({', '.join(files[:NAMED])})"
            return several, f"save them in one: {REWRITE}"
    if text and (text.isprintable() or "\n" in text):
        return f"a text in place of the weights ({text.splitlines()[0][:60]!r})", AGAIN
    return None


class Unread:
    """Stands for an object that a call makes, such as a path: nothing of it is kept."""

    def __setstate__(self, state: object) -> None:
        pass


class Called(type):
    """Its classes, when called, give an `Unread`."""

    def __call__(cls, *_: object) -> Any:
        return Unread()


class StandIn(metaclass=Called):
    """Stands for a class or function that a file names and that is not imported.

    The reader makes instances by `__new__`, and fills in their attributes or items: they are dicts.
    """

    def __new__(cls, *_: object) -> Any:
        return OrderedDict()


def load(content: bytes, classes: list[str]) -> Any:
    """What torch.save wrote, with stand-ins for objects of other classes, whose names are appended to
    `classes`.

    Raises:
        UnpicklingError: it would call a function of Python's own, or a module that torch refuses.
    """
    if zipfile.is_zipfile(io.BytesIO(content)):
        classes += torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(content))
    for name in classes:
        module, _, attribute = name.rpartition(".")
        own = getattr(builtins, attribute, None) if module in ("builtins", "") else None
        if own is not None and not isinstance(own, type):
            raise UnpicklingError(f"a call of {attribute}")
    standing: list[Any] = [(StandIn, name) for name in classes]
    with torch.serialization.safe_globals([*standing, Unread]):
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested dicts, lists and modules, by dotted name; other values are ignored."""
    if isinstance(value, Tensor):
        yield prefix, value.detach()
    elif isinstance(value, dict | list | tuple):
        inner = items_of(value) if isinstance(value, dict) else dict(enumerate(value))
        for key, part in inner.items():
            yield from flat(part, f"{prefix}.{key}" if prefix else str(key))


def items_of(value: dict) -> dict:
    """A dict; that which stands for a module as its state: parameters, saved buffers and modules in it."""
    attributes = getattr(value, "__dict__", {})
    if "_parameters" not in attributes:
        return value if value else settings_of(attributes)
    unsaved = attributes.get("_non_persistent_buffers_set") or ()
    buffers = {k: v for k, v in (attributes.get("_buffers") or {}).items() if k not in unsaved}
    return {**attributes["_parameters"], **buffers, **(attributes.get("_modules") or {})}


def settings_of(attributes: dict) -> dict:
    """The attributes of any other object, without those of PyTorch's own."""
    return {name: part for name, part in attributes.items() if name != "_metadata"}


def unwrapped(tensors: Tensors) -> Tensors:
    """The tensors under the names that they have without `WRAPPERS`, if these differ."""
    names = {
        name: ".".join(word for word in name.split(".") if word not in WRAPPERS) for name in tensors
    }
    if len(set(names.values())) < len(names):
        return tensors
    return {names[name]: tensor for name, tensor in tensors.items()}
