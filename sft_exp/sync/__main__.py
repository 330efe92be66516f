"""Upload to Weights & Biases what it does not have: offline runs, and runs whose server stopped answering.

Wraps `wandb sync`: afterwards it adds what that cannot know, which run used which artifact, and
whatever W&B's own files have lost. The same command again uploads nothing twice.

    sft_exp sync
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from sft_exp.config import args
from sft_exp.errors import ConfigError
from sft_exp.progress import console


@dataclass
class Arguments:
    positional: ClassVar[tuple[str, ...]] = ("folders",)

    folders: list[Path] = field(default_factory=lambda: [Path("outputs")])  # searched for runs


def main(arguments: list[str] | None = None) -> int:
    return args.run("sync", __doc__ or "", Arguments, work, arguments)


def work(given: Arguments) -> int:
    from sft_exp.trackers import wandb  # late: imports torch

    if not wandb.has_key():
        print("sft_exp.sync: no key; `wandb login` first", file=sys.stderr)
        return ConfigError.code
    failed = 0
    for folder in wandb.pending(given.folders):
        try:
            said = wandb.sync(folder) or "has not ended: the command that began it continues it"
        except Exception as error:  # noqa: BLE001 - one run that cannot be uploaded leaves the others
            failed += 1
            said = f"failed, {type(error).__name__}: {wandb.first_line(error)}"
        console.print(f"{folder.name}: {said}", highlight=False, markup=False, soft_wrap=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
