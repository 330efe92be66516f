"""Give Weights & Biases what it does not have: runs that were offline, or whose server stopped answering.

`python -m sft_exp.sync` looks below outputs/, and wraps `wandb sync`: afterwards what that cannot know is added, which run used
which artifact, and whatever W&B's own files have lost. The same command again uploads nothing twice.
"""

import argparse
import sys
from pathlib import Path

from sft_exp.progress import console
from sft_exp.trackers import wandb


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sft_exp.sync", description=__doc__)
    parser.add_argument(
        "folders", nargs="*", type=Path, default=[Path("outputs")], help="where runs are looked for"
    )
    args = parser.parse_args()
    if not wandb.has_key():
        print("sft_exp.sync: no key; `wandb login` first", file=sys.stderr)
        return 2
    failed = 0
    for folder in wandb.pending(args.folders):
        try:
            said = wandb.sync(folder) or "has not ended: the command that began it continues it"
        except Exception as error:  # noqa: BLE001 - one run that cannot be uploaded leaves the others
            failed += 1
            said = f"failed, {type(error).__name__}: {wandb.first_line(error)}"
        console.print(f"{folder.name}: {said}", highlight=False, markup=False, soft_wrap=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
