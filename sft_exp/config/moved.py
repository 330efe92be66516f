"""What files of earlier versions call by another name: classes by their path, and keys of the config.

Runs keep the paths of classes: `_target_` in results.json and .hydra/config.yaml, `is` in model.json and request.json.
A class that moves or is renamed leaves a line here, and so does a key: old runs stay readable.
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

KEYS = {  # key of the config in an earlier version -> its name now; the old one is read for one release
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

MEMBERS = {  # what parts of the user's own defined for an earlier version -> its name now
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
    """The path of a class today: `sft_exp.sam.SAM` -> `sft_exp.training.sam.SAM`. Other paths are returned as they are."""
    module, _, name = path.rpartition(".")
    path = MOVED.get(path) or f"{MOVED.get(module, module)}.{name}"
    return MOVED.get(path, path)


def renamed(overrides: Sequence[str]) -> list[str]:
    """The overrides with today's keys, `finetune.piece=8` as `finetune.micro_batch_size=8`; each old key is warned of on
    stderr. Prefixes of Hydra (`+`, `++`, `~`) stay."""
    words = []
    for word in overrides:
        key, equals, value = word.partition("=")
        name = key.lstrip("+~")
        if name in KEYS:
            print(
                f"{name} is called {KEYS[name]} now; the next version refuses it", file=sys.stderr
            )
            word = f"{key.removesuffix(name)}{KEYS[name]}{equals}{value}"
        words.append(word)
    return words


def updated(config: dict[str, Any]) -> dict[str, Any]:
    """A config that an earlier version may have saved, with today's keys; `config` stays as it is."""
    config = dict(config)
    for old, new in KEYS.items():
        (group, key), name = old.split("."), new.partition(".")[2]
        node = config.get(group)
        if isinstance(node, dict) and key in node:
            config[group] = {name if k == key else k: v for k, v in node.items()}
    return config
