"""Make the comparison view of a Weights & Biases project.

Each fine-tuning logs one row of a table `results`; the two charts that W&B has no panel for read those
rows of all runs shown. Needs `pip install "sft_exp[dashboard]"`.

    sft_exp dashboard project=sft_exp
"""

import sys
from dataclasses import dataclass

from sft_exp.config import args
from sft_exp.errors import ConfigError


@dataclass
class Arguments:
    project: str = "sft_exp"  # the project's name
    entity: str | None = None  # team or user; null = yours


def main(arguments: list[str] | None = None) -> int:
    return args.run("dashboard", __doc__ or "", Arguments, work, arguments)


def work(given: Arguments) -> int:
    from sft_exp.trackers import wandb  # late: imports torch

    try:
        from sft_exp.dashboard.charts import presets, workspace

        api = wandb.library().Api()
        entity = given.entity or api.default_entity
        saved = workspace(entity, given.project, presets(api, entity)).save()
    except ImportError as error:
        print(f'sft_exp.dashboard: {error}; pip install "sft_exp[dashboard]"', file=sys.stderr)
        return ConfigError.code
    except Exception as error:  # noqa: BLE001 - whatever the server says
        print(f"sft_exp.dashboard: {wandb.first_line(error)}", file=sys.stderr)
        return 1
    print(saved.url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
