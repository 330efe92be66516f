"""The parameters of a sweep's next trial: a grid, or random ones."""

from __future__ import annotations

import itertools
import math
import random

from wandb_server.graphql import GraphQLError


def grid(params: dict) -> list[dict]:
    keys, lists = [], []
    for name, p in params.items():
        p = p if isinstance(p, dict) else {"value": p}
        keys.append(name)
        if "values" in p:
            lists.append(list(p["values"]))
        elif "parameters" in p:
            lists.append(grid(p["parameters"]))
        elif "value" in p:
            lists.append([p["value"]])
        elif (
            "min" in p
            and "max" in p
            and p.get("distribution") in ("int_uniform", "q_uniform", None)
        ):
            step = p.get("q", 1)
            n = math.floor((p["max"] - p["min"]) / step) + 1
            lists.append([p["min"] + k * step for k in range(n)])
        else:
            raise GraphQLError(f"grid sweep: parameter {name} has no values")
    return [dict(zip(keys, combo, strict=False)) for combo in itertools.product(*lists)]


def sample(params: dict, rng: random.Random) -> dict:
    out = {}
    for name, p in params.items():
        p = p if isinstance(p, dict) else {"value": p}
        dist = p.get("distribution", "")
        if "values" in p:
            out[name] = rng.choice(list(p["values"]))
        elif "parameters" in p:
            out[name] = sample(p["parameters"], rng)
        elif "value" in p:
            out[name] = p["value"]
        elif dist.startswith("log_uniform_values"):
            out[name] = math.exp(rng.uniform(math.log(p["min"]), math.log(p["max"])))
        elif dist.startswith("log_uniform"):
            out[name] = math.exp(rng.uniform(p["min"], p["max"]))
        elif dist == "normal":
            out[name] = rng.gauss(p.get("mu", 0), p.get("sigma", 1))
        elif isinstance(p.get("min"), int) and isinstance(p.get("max"), int):
            out[name] = rng.randint(p["min"], p["max"])
        else:
            out[name] = rng.uniform(p.get("min", 0), p.get("max", 1))
    return out
