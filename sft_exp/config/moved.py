"""Former names of classes, config keys and members of parts, so that old runs stay readable.

Runs store the paths of classes: `_target_` in results.json and .hydra/config.yaml, `is` in
model.json and request.json. A class or key that is moved or renamed needs an entry here.
"""

import sys
from collections.abc import Sequence
from typing import Any

MOVED = {  # module or class in an earlier version -> where it is now
    "sft_exp.experiment": "sft_exp.config.schema",
    "sft_exp.sam": "sft_exp.training.sam",
    "sft_exp.schedule.Schedule": "sft_exp.schedules.piecewise_cosine.PiecewiseCosine",
    "sft_exp.config.schema.Budget": "sft_exp.config.schema.TrainConfig",
    "sft_exp.config.schema.Tuning": "sft_exp.config.schema.FinetuneConfig",
    "sft_exp.config.schema.Target": "sft_exp.config.schema.OptimizerConfig",
    "sft_exp.config.schema.Views": "sft_exp.config.schema.AugmentConfig",
    "sft_exp.strategies.spread.Spread": "sft_exp.strategies.spread.LabelSpreading",
}

# key of the config in an earlier version -> its name now; the old one is read for one release
KEYS = {
    "pretrain.horizon": "pretrain.schedule_length",
    "pretrain.after": "pretrain.resume_from",
    "pretrain.piece": "pretrain.micro_batch_size",
    "finetune.horizon": "finetune.schedule_length",
    "finetune.after": "finetune.resume_from",
    "finetune.piece": "finetune.micro_batch_size",
    "hardware.accumulate": "hardware.gradient_accumulation_steps",
    "strategy.moves": "strategy.trainable",
    "study.floors": "study.baselines",
}

# Class -> fields that it did not have, with the values that models of that time were trained with,
# where these are no longer the defaults
ABSENT: dict[str, dict[str, Any]] = {
    "sft_exp.tasks.detect.Detect": {"groups": 16},
    "sft_exp.tasks.segment.Segment": {"groups": 1},
}

# key that an earlier version did not have -> the value with which a run is as it was then
ADDED: dict[str, Any] = {
    "score": "auto", "transforms": [], "fit": "crop", "sampler": "instance", "batchnorm": "train",
    "samples": 1, "pattern": "*", "file_column": "file", "metrics": [], "allow": [],
}  # fmt: skip
# dotted keys of earlier versions that are gone, with the value that changed nothing
GONE: dict[str, Any] = {"transfer.min_loaded": 0.95}

MEMBERS = {  # member of a user's part in an earlier version -> its name now
    "after": "on_step_end",
    "forms": "variants",
    "instead": "reserved_keys",
    "keeps": "encoder_path",
    "learns": "trained_by",
    "mirror": "decoder",
    "solvable": "closed_form_task",
    "solve": "fit_closed_form",
    "solved": "closed_form_tasks",
    "solves": "closed_form",
}


def current(path: str) -> str:
    """The present path of a class: `sft_exp.sam.SAM` -> `sft_exp.training.sam.SAM`. Other paths are
    unchanged."""
    module, _, name = path.rpartition(".")
    path = MOVED.get(path) or f"{MOVED.get(module, module)}.{name}"
    return MOVED.get(path, path)


def renamed(overrides: Sequence[str]) -> list[str]:
    """Replace old keys by new ones, `finetune.piece=8` by `finetune.micro_batch_size=8`, with a
    warning on stderr."""
    words = []
    for word in overrides:
        key, equals, value = word.partition("=")
        name = key.lstrip("+~")
        if name in KEYS:
            new = KEYS[name]
            print(f"{name} is called {new} now; the next version refuses it", file=sys.stderr)
            word = (
                f"{key.removesuffix(name)}{new}{equals}{value}"  # keeps Hydra's prefix +, ++ or ~
            )
        words.append(word)
    return words


def completed(saved: dict[str, Any], present: dict[str, Any]) -> dict[str, Any]:
    """A saved config with the keys of `ADDED` that it lacks, where the present one has their value."""
    filled = dict(saved)
    for key, value in present.items():
        if key not in saved and key in ADDED and value == ADDED[key]:
            filled[key] = value
        elif isinstance(value, dict) and isinstance(saved.get(key), dict):
            filled[key] = completed(saved[key], value)
    return filled


def updated(config: dict[str, Any]) -> dict[str, Any]:
    """A copy of a config, which an earlier version may have saved, with the present keys."""
    config = dict(config)
    for old, new in KEYS.items():
        (group, key), name = old.split("."), new.partition(".")[2]
        node = config.get(group)
        if isinstance(node, dict) and key in node:
            config[group] = {name if k == key else k: v for k, v in node.items()}
    return config
