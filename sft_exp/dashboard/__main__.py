"""The comparison view of a Weights & Biases project, as code: `python -m sft_exp.dashboard --project sft_exp`.

Each fine-tuning logs one row of a table `results`; the two charts that W&B has no panel for read those rows of all runs shown.
Needs `pip install "sft_exp[dashboard]"`.
"""

import argparse
import sys

from sft_exp.dashboard.charts import presets, workspace
from sft_exp.trackers import wandb


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sft_exp.dashboard", description=__doc__)
    parser.add_argument("--project", default="sft_exp")
    parser.add_argument("--entity", help="team or user; default: yours")
    args = parser.parse_args()
    try:
        api = wandb.library().Api()
        entity = args.entity or api.default_entity
        saved = workspace(entity, args.project, presets(api, entity)).save()
    except ImportError as error:
        print(f'sft_exp.dashboard: {error}; pip install "sft_exp[dashboard]"', file=sys.stderr)
        return 2
    except Exception as error:  # noqa: BLE001 - whatever the server says
        print(f"sft_exp.dashboard: {wandb.first_line(error)}", file=sys.stderr)
        return 1
    print(saved.url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
