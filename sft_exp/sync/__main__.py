"""Upload runs to Weights & Biases: offline runs, and runs whose connection failed.

Wraps `wandb sync` and then adds what that lacks: which run used which artifact, and data missing
from W&B's own files. Repeating the command uploads nothing twice.

    sft_exp sync
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from sft_exp.config import args
from sft_exp.errors import ConfigError, DataError, StorageError, absent, first_line
from sft_exp.progress import console


@dataclass
class Arguments:
    positional: ClassVar[tuple[str, ...]] = ("folders",)

    folders: list[Path] = field(default_factory=lambda: [Path("outputs")])  # searched for runs


def main(arguments: list[str] | None = None) -> int:
    return args.run("sync", __doc__ or "", Arguments, work, arguments)


def work(arguments: Arguments) -> int:
    from sft_exp.trackers import wandb  # late: imports torch

    if not wandb.has_key():
        print("sft_exp sync: no key; `wandb login` first", file=sys.stderr)
        return ConfigError.code
    for folder in arguments.folders:
        if not folder.is_dir():
            raise DataError(f"{folder}: {absent(folder, 'folder')}")
    failed = 0
    for folder in wandb.pending(arguments.folders):
        try:
            state = wandb.sync(folder) or "has not ended: the command that began it continues it"
        except Exception as error:  # noqa: BLE001 - the other runs are still uploaded
            failed += 1
            state = f"failed, {type(error).__name__}: {first_line(error)}"
        console.message(f"{folder.name}: {state}")
    return StorageError.code if failed else 0


if __name__ == "__main__":
    sys.exit(main())
