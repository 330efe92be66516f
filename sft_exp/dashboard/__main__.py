"""Make the comparison view of a Weights & Biases project.

Each fine-tuning logs one row of a table `results`; two charts for which W&B has no panel read those
rows of all visible runs. A second call replaces the view that you saved before. Needs
`pip install "sft_exp[dashboard]"`.

    sft_exp dashboard project=sft_exp sweep=c958db87b2
"""

import sys
from dataclasses import dataclass

from sft_exp.config import args
from sft_exp.errors import ConfigError, StorageError, first_line


@dataclass
class Arguments:
    project: str = "sft_exp"  # the project's name
    entity: str | None = None  # team or user; null = yours
    # the view's runs: the name of a sweep (its folder's, or tracker.group); null = all of the project
    sweep: str | None = None


def main(arguments: list[str] | None = None) -> int:
    return args.run("dashboard", __doc__ or "", Arguments, work, arguments)


def work(arguments: Arguments) -> int:
    from sft_exp.trackers import wandb  # late: imports torch

    if not wandb.has_key():
        print("sft_exp dashboard: no key; `wandb login` first", file=sys.stderr)
        return ConfigError.code
    try:
        from sft_exp.dashboard.charts import presets, save, workspace

        api = wandb.library().Api()
        entity = arguments.entity or api.default_entity
        made = presets(api, entity)
        view = workspace(entity, arguments.project, made, arguments.sweep)
        replaced = save(view, api.viewer.username)
    except ImportError as error:
        print(f'sft_exp dashboard: {error}; pip install "sft_exp[dashboard]"', file=sys.stderr)
        return ConfigError.code
    except Exception as error:  # noqa: BLE001 - any answer of the server
        print(f"sft_exp dashboard: {first_line(error)}", file=sys.stderr)
        return StorageError.code
    if replaced:
        print(f"sft_exp dashboard: replaced your earlier view {view.name!r}", file=sys.stderr)
    print(view.url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
