"""Composes overrides into a plain config from Python."""

import re
from functools import cache
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import HydraException
from omegaconf import OmegaConf

from sft_exp.config import build, hydra_state, register
from sft_exp.config.args import did_you_mean
from sft_exp.config.build import choices
from sft_exp.config.help_text import GROUPS, options
from sft_exp.config.hydra_state import searching
from sft_exp.config.moved import renamed
from sft_exp.config.sources import CONF, option_folders
from sft_exp.config.weight_names import with_encoder
from sft_exp.errors import ConfigError

NAME_MAX = 255  # bytes of a file's name, on most file systems
STUDY = re.compile(r"^\s*- (override )?/study:", re.MULTILINE)  # in the defaults of an experiment
ASKING = {
    "--cfg", "-c", "--info", "-i", "--help", "-h", "--hydra-help", "--shell-completion", "-sc",
}  # fmt: skip


def compose(overrides: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Compose a user's overrides: (resolved config, selected option of each group)."""
    overrides = with_encoder(typed(overrides))
    with hydra_state.alone():
        register.register()
        register.plug(register.plugins_in(overrides))
        with hydra_state.initialized():
            cfg = hydra.compose("config", overrides=overrides, return_hydra_config=True)
        return build.plain(cfg), build.choices(cfg)


def typed(overrides: list[str]) -> list[str]:
    """The overrides that Hydra is given for those that a person wrote."""
    plain = without_nulls(overrides)
    require_options(plain)
    return with_trackers(with_minutes(plain))


def require_options(overrides: list[str]) -> None:
    """ConfigError if a group is given a number, a boolean or a dict, which Hydra reports as an error
    of its own, or a name that is too long for a file."""
    for override in overrides:
        key, _, value = override.partition("=")
        group = key.lstrip("+").partition("@")[0]
        if group in (*GROUPS, "plugins") and len(value) > NAME_MAX and value.isidentifier():
            problem = "is too long for the name of a file or an option"
            raise ConfigError(group, f"{value[:40]}...", problem)
        if group not in GROUPS:
            continue
        try:
            parsed: Any = OverridesParser.create().parse_override(override).value()
        except HydraException:  # Hydra reports it with the line of the grammar
            continue
        given = parsed.list if isinstance(parsed, ChoiceSweep) else [parsed]
        given = [one for each in given for one in (each if isinstance(each, list) else [each])]
        if any(isinstance(each, bool | int | float | dict | list) for each in given):
            raise ConfigError(group, value, f"is no option; valid: {', '.join(options(group))}")


def with_multirun(words: list[str]) -> list[str]:
    """A command that chooses a study, with the flag of a sweep.

    The options of the group set `hydra.mode`, which Hydra 1.4 takes from the command line alone.
    """
    flags = {word for word in words if word.startswith("-")}
    return words if flags & {"-m", "--multirun", *ASKING} or not study(words) else ["-m", *words]


def study(words: list[str]) -> bool:
    """Whether a command chooses a study, or an experiment that does."""
    pairs = (word.partition("=") for word in words if not word.startswith("-"))
    chosen = {key.lstrip("+"): value for key, _, value in pairs}
    if "study" in chosen:
        return chosen["study"] != "null"
    files = [
        folder / "experiment" / f"{chosen.get('experiment')}.yaml"
        for folder in (CONF, *option_folders())
    ]
    return any(STUDY.search(file.read_text()) for file in files if file.is_file())


def with_minutes(overrides: list[str]) -> list[str]:
    """The overrides of a study with `minutes=10` as `study.budget=10min`."""
    if not any(override.startswith("study=") for override in overrides):
        return overrides
    return [re.sub(r"^minutes=(.*)$", r"study.budget=\1min", o) for o in overrides]


def with_trackers(overrides: list[str]) -> list[str]:
    """Replace `tracker=[wandb,csv]` by one option that holds both, since Hydra would merge the two
    files into one node.

    Each tracker has a separate node, so `tracker.trackers.wandb.project=NAME` sets a key of one of
    them.

    Raises:
        ConfigError: a name in the list is no tracker, or occurs twice.
    """
    result: list[str] = []
    for override in overrides:
        key, _, value = override.partition("=")
        if key.lstrip("+") != "tracker" or not (value.startswith("[") and value.endswith("]")):
            result.append(override)
            continue
        names = [name.strip(" '\"") for name in value[1:-1].split(",")]
        valid = [name for name in options("tracker") if name != "several"]
        for name in names:
            if name not in valid:
                hint = did_you_mean(name, valid)
                message = f"{name!r} is no tracker{hint}; valid: {', '.join(valid)}"
                raise ConfigError("tracker", value, message)
        if len(set(names)) < len(names):
            raise ConfigError("tracker", value, "names a tracker twice")
        result.append("tracker=several")
        result += [f"+tracker@tracker.trackers.{name}={name}" for name in names]
    return result


# groups without an option by default
NULLABLE = ("pretrain_dataset", "study", "experiment", "debug")


def without_nulls(overrides: list[str]) -> list[str]:
    """Replace `tracker=null` and `~tracker` by `tracker=none`, likewise in other groups with an option
    `none`, and old keys by new ones.

    A null in a group without a default option removes that group's overrides.

    Raises:
        ConfigError: a null in any other group, which needs an option.
    """
    result: list[str] = []
    for override in renamed(overrides):
        key, equals, value = override.partition("=")
        if key.startswith("~") and key[1:] in GROUPS:  # Hydra's words for leaving a group out
            key, equals, value = key[1:], "=", "null"
        group = key.lstrip("+")
        values = value.split(",")
        if not equals or group not in GROUPS or not {"null", "None"} & set(values):
            result.append(override)
        elif "none" in options(group):
            names = ("none" if v in ("null", "None") else v for v in values)
            result.append(f"{key}={','.join(names)}")
        elif group in NULLABLE and len(values) == 1:
            result = [o for o in result if o.partition("=")[0].lstrip("+") != group]
        else:
            raise ConfigError(group, value, f"needs an option; valid: {', '.join(options(group))}")
    return result


def composed(overrides: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Compose overrides of Hydra: (config, selected option of each group); missing values stay
    `???`."""
    register.register()
    with searching():
        cfg = hydra.compose("config", overrides, return_hydra_config=True)
    job_keys = [key for key in cfg if key not in ("hydra", "study")]
    config: Any = OmegaConf.to_container(OmegaConf.masked_copy(cfg, job_keys), resolve=True)  # type: ignore[arg-type]
    return config, choices(cfg)


@cache
def default_choices() -> dict[str, str]:
    """The default option of each group that has one in conf/config.yaml."""
    root: Any = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    entries = (entry for entry in root["defaults"] if isinstance(entry, dict))
    return {group: str(option) for entry in entries for group, option in entry.items() if option}
