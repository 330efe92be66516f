"""Read a sharded checkpoint without running code from it.

torch.distributed.checkpoint keeps its table of contents (`.metadata`) and every value that is no tensor as pickles, and loads
both with Python's own unpickler, which calls whatever a file names. Here the table may name that library's own records alone,
and values are read with `weights_only`.
"""

import io
from pathlib import Path
from pickle import Unpickler, UnpicklingError
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

from sft_exp.errors import StorageError, first_line

LIBRARY = "torch.distributed.checkpoint"
DTYPES = {str(t).removeprefix("torch.") for t in vars(torch).values() if isinstance(t, torch.dtype)}
PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
# What a table of contents may name, by module.
ALLOWED: dict[str, set[str]] = {
    f"{LIBRARY}.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    f"{LIBRARY}.filesystem": {"_StorageInfo"},
    "torch": {"Size", *DTYPES},
    "torch.serialization": {"_get_layout"},
    "collections": {"OrderedDict"},
    "pathlib": {*PATHS},
    "pathlib._local": {*PATHS},
}


class TableUnpickler(Unpickler):
    """Unpickles a checkpoint's table of contents. UnpicklingError for any other class or function."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in ALLOWED.get(module, ()):
            raise UnpicklingError(f"names {module}.{name}, which no checkpoint needs")
        return super().find_class(module, name)


class Reader(dcp.FileSystemReader):
    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The table of contents. UnpicklingError where it names other classes or files elsewhere."""
        with (Path(self.path) / ".metadata").open("rb") as file:
            table = TableUnpickler(file).load()
        if not isinstance(table, Metadata):
            raise UnpicklingError("is no table of contents")
        for entry in table.storage_data.values():
            if Path(entry.relative_path).name != str(entry.relative_path):
                raise UnpicklingError(f"names a file elsewhere: {entry.relative_path}")
        table.storage_meta = table.storage_meta or StorageMeta()
        table.storage_meta.load_id = self.load_id
        return table


class Planner(DefaultLoadPlanner):
    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Takes a value that is no tensor, once it has been read without running code."""
        harmless = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), harmless)
        harmless.seek(0)
        super().load_bytes(read_item, harmless)


def read(state: dict[str, Any], folder: Path) -> None:
    """Fill `state` from the checkpoint in `folder`. StorageError if it is none of ours."""
    reader = Reader(folder)
    try:
        # first by itself: torch would print a traceback and look for another
        reader.read_metadata()
        dcp.load(state, storage_reader=reader, planner=Planner())
    except CheckpointException as error:
        raise refused(folder, next(iter(error.failures.values()))[0]) from error
    except Exception as error:  # an unpickler raises whatever a damaged file leads it to
        raise refused(folder, error) from error


def refused(folder: Path, error: BaseException) -> StorageError:
    reason = first_line(error)
    return StorageError(
        f"{folder}: no checkpoint of ours ({reason}); remove it, and training starts over"
    )
