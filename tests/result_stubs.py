"""Complete results of runs that never ran, with placeholders for irrelevant fields."""

from typing import Any

from sft_exp.store import results
from sft_exp.store.results import Results

STAGE = {"folder": "", "cached": False, "seconds": 0.0}
DATA = {
    "name": "digits",
    "manifest": "0" * 64,
    "test_manifest": "1" * 64,
    "copies": 0,
    "transductive": False,
    "train": 1000,
    "labelled": 100,
    "val": 0,
    "test": 500,
    "classes": 10,
    "strata": 10,
    "ratio": 0.0,
}
RECORD = {
    "version": results.VERSION,
    "score": "accuracy",
    "score_name": "accuracy",
    "test": {"accuracy": 0.5},
    "folders": {"data": "data-0", "test": "test-0", "arms": {}},
    **dict.fromkeys(("verdict", "judgement", "unlabelled", "likelihood", "benchmark")),
    **{name: {} for name in ("val", "controls", "heads", "stages", "data", "draws", "faults")},
    "choices": {},
    "config": {},
}


def record(**given: Any) -> dict[str, Any]:
    """The content of a results.json with these fields."""
    found = {**RECORD, **given}
    found["data"] = {**DATA, **found["data"]}
    found["stages"] = {name: {**STAGE, **stage} for name, stage in found["stages"].items()}
    return found


def stub(**given: Any) -> Results:
    """Typed results with these fields."""
    return results.parse(record(**given))
