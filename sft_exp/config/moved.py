"""Where classes have moved that files of earlier versions name by path.

Runs keep the paths of classes: `_target_` in results.json and .hydra/config.yaml, `is` in model.json and request.json.
A class that moves leaves a line here, and old runs stay readable.
"""

MOVED = {  # module or class in an earlier version -> where it is now
    "sft_exp.experiment": "sft_exp.config.schema",
    "sft_exp.sam": "sft_exp.training.sam",
    "sft_exp.schedule.Schedule": "sft_exp.schedules.piecewise_cosine.PiecewiseCosine",
}


def current(path: str) -> str:
    """The path of a class today: `sft_exp.sam.SAM` -> `sft_exp.training.sam.SAM`. Other paths are returned as they are."""
    module, _, name = path.rpartition(".")
    return MOVED.get(path) or f"{MOVED.get(module, module)}.{name}"
