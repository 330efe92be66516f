"""Remove what no run refers to (in work)."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from sft_exp import durable


def refer(store: Path, run: Path, folders: Iterable[str]) -> None:
    """Declare which store folders a run uses, before they exist."""
    name = hashlib.sha256(str(run.absolute()).encode()).hexdigest()[:16]
    durable.write_json(store / "roots" / f"{name}.json", {"run": str(run.absolute()), "folders": sorted(set(folders))})
