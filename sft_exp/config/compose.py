"""Overrides composed to a plain config, from Python."""

import re
from functools import cache
from typing import Any

import hydra
from omegaconf import OmegaConf

from sft_exp.config import build, hydra_state, register, sources
from sft_exp.config.args import did_you_mean
from sft_exp.config.build import choices
from sft_exp.config.help_text import GROUPS, options
from sft_exp.config.hydra_state import searching
from sft_exp.config.moved import renamed
from sft_exp.config.sources import CONF
from sft_exp.config.weight_names import with_encoder
from sft_exp.errors import ConfigError


def compose(overrides: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """(resolved config, option taken in each group) that these overrides stand for."""
    given = with_encoder(typed(overrides))
    with hydra_state.alone():
        register.register()
        register.plug(register.plugins_in(given))
        with hydra.initialize_config_dir(str(sources.CONF), version_base="1.3"):
            cfg = hydra.compose("config", overrides=given, return_hydra_config=True)
        return build.plain(cfg), build.choices(cfg)


def typed(overrides: list[str]) -> list[str]:
    """The overrides that Hydra is given for those that a person wrote."""
    return with_trackers(with_minutes(without_nulls(overrides)))


def with_minutes(overrides: list[str]) -> list[str]:
    """The overrides of a study with `minutes=10` as `study.budget=10min`."""
    if not any(override.startswith("study=") for override in overrides):
        return overrides
    return [re.sub(r"^minutes=(.*)$", r"study.budget=\1min", o) for o in overrides]


def with_trackers(overrides: list[str]) -> list[str]:
    """The overrides with `tracker=[wandb,csv]` as one option that holds both. Hydra would merge the two files into one node.

    Each is a node of its own, so `tracker.trackers.wandb.project=mine` sets a key of one of them.

    Raises:
        ConfigError: a name in the list is no tracker, or stands there twice.
    """
    made: list[str] = []
    for override in overrides:
        key, _, value = override.partition("=")
        if key.lstrip("+") != "tracker" or not (value.startswith("[") and value.endswith("]")):
            made.append(override)
            continue
        names = [name.strip(" '\"") for name in value[1:-1].split(",")]
        valid = [name for name in options("tracker") if name != "several"]
        for name in names:
            if name not in valid:
                hint = did_you_mean(name, valid)
                said = f"{name!r} is no tracker{hint}; valid: {', '.join(valid)}"
                raise ConfigError("tracker", value, said)
        if len(set(names)) < len(names):
            raise ConfigError("tracker", value, "names a tracker twice")
        made.append("tracker=several")
        made += [f"+tracker@tracker.trackers.{name}={name}" for name in names]
    return made


# groups of which none is taken unless one is named
NULLABLE = ("pretrain_dataset", "study", "experiment", "debug")


def without_nulls(overrides: list[str]) -> list[str]:
    """The overrides with `tracker=null` as `tracker=none`, and likewise in other groups that have an option of that name; a group
    of which none is taken by default is left at that. Keys of an earlier version are
    given today's names. ConfigError for the others, which need an option."""
    made: list[str] = []
    for override in renamed(overrides):
        key, equals, value = override.partition("=")
        group = key.lstrip("+")
        values = value.split(",")
        if not equals or group not in GROUPS or not {"null", "None"} & set(values):
            made.append(override)
        elif "none" in options(group):
            made.append(f"{key}={','.join('none' if v in ('null', 'None') else v for v in values)}")
        elif group in NULLABLE and len(values) == 1:
            made = [o for o in made if o.partition("=")[0].lstrip("+") != group]
        else:
            raise ConfigError(group, value, f"needs an option; valid: {', '.join(options(group))}")
    return made


def composed(overrides: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """(config, option taken in each group) that the overrides stand for; `???` where a value is missing."""
    register.register()
    with searching():
        cfg = hydra.compose("config", overrides, return_hydra_config=True)
    ours = OmegaConf.masked_copy(cfg, [k for k in cfg if k not in ("hydra", "study")])  # type: ignore[misc]
    found: Any = OmegaConf.to_container(ours, resolve=True)
    return found, choices(cfg)


@cache
def default_choices() -> dict[str, str]:
    """The option that conf/config.yaml takes in each group, where it takes one."""
    listed: Any = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    return {
        group: str(v)
        for d in listed["defaults"]
        if isinstance(d, dict)
        for group, v in d.items()
        if v
    }
