"""Writes docs/results.schema.json: `python -m tests.result_schema`."""

import json
from pathlib import Path

from sft_exp.store import results

if __name__ == "__main__":
    file = Path(__file__).parents[1] / "docs" / "results.schema.json"
    file.write_text(json.dumps(results.schema(), indent=1) + "\n")
