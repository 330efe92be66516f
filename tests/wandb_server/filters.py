"""The filters of `wandb.Api().runs(filters=...)`."""

from __future__ import annotations

import re
from typing import Any


def lookup(run: dict, name: str) -> Any:
    """A field of a run by the name the public API's filters use."""
    plain = {
        "group": "group",
        "jobType": "job_type",
        "job_type": "job_type",
        "state": "state",
        "name": "run_id",
        "display_name": "display_name",
        "displayName": "display_name",
        "sweep": "sweep",
        "tags": "tags",
        "created_at": "created_at",
        "createdAt": "created_at",
        "heartbeat_at": "heartbeat_at",
    }
    if name in plain:
        return run[plain[name]]
    root, _, rest = name.partition(".")
    if root == "config":
        cur: Any = run["config_raw"]
    elif root in ("summary_metrics", "summaryMetrics", "summary"):
        cur = run["summary"]
    else:
        return None
    if isinstance(cur, dict) and rest in cur:  # keys with dots or slashes, e.g. val/acc
        return cur[rest]
    for part in rest.split("."):
        if not isinstance(cur, dict):
            return None
        if part in cur:
            cur = cur[part]
        elif "value" in cur and isinstance(cur["value"], dict) and part in cur["value"]:
            cur = cur["value"][part]
        else:
            return None
    if root == "config" and isinstance(cur, dict) and set(cur) <= {"value", "desc"}:
        cur = cur.get("value")
    return cur


def match(run: dict, flt: dict) -> bool:
    """The MongoDB-style filters of wandb.Api().runs(filters=...)."""
    for key, want in flt.items():
        if key == "$and":
            if not all(match(run, f) for f in want):
                return False
        elif key == "$or":
            if want and not any(match(run, f) for f in want):
                return False
        elif key == "$not":
            if match(run, want):
                return False
        else:
            have = lookup(run, key)
            if not isinstance(want, dict):
                want = {"$eq": want}
            for op, val in want.items():
                if isinstance(have, list) and op in ("$eq", "$ne"):
                    ok = (val in have or have == val) == (op == "$eq")
                elif op == "$eq":
                    ok = have == val
                elif op == "$ne":
                    ok = have != val
                elif op == "$in":
                    ok = any(h in val for h in have) if isinstance(have, list) else have in val
                elif op == "$nin":
                    ok = not (
                        any(h in val for h in have) if isinstance(have, list) else have in val
                    )
                elif op == "$exists":
                    ok = (have is not None) == bool(val)
                elif op == "$regex":
                    ok = have is not None and re.search(val, str(have)) is not None
                elif op in ("$gt", "$gte", "$lt", "$lte"):
                    ok = (
                        isinstance(have, (int, float, str))
                        and {
                            "$gt": have > val,
                            "$gte": have >= val,
                            "$lt": have < val,
                            "$lte": have <= val,
                        }[op]
                    )
                else:
                    ok = False
                if not ok:
                    return False
    return True
