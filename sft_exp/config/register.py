"""What Hydra is told of this program: the schema of every part, the resolvers, and the user's plug-in folders."""

import os
import sys
import time
import uuid
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sft_exp.config.help_text import options_help
from sft_exp.config.hydra_state import PluggedOptions, searching
from sft_exp.config.schema import AugmentConfig, Experiment, Hardware
from sft_exp.config.sources import (
    FOLDERS,
    HERE,
    LISTED,
    MIRRORED,
    _options,
    _plugged,
    node,
    open_ended,
    option_files,
    parts,
)
from sft_exp.errors import ConfigError

# of sweeps whose jobs are not known beforehand
_sweep_name = [f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{uuid.uuid4().hex[:4]}"]


def name_sweep(name: str) -> None:
    """Name the sweep's folder, before anything resolves it; Hydra hands resolved values on to the launchers' processes."""
    _sweep_name[0] = name


def register() -> None:
    """Tell Hydra of the root's schema, every part's, and our resolvers. Cheap: reads source, imports no part."""
    if (plugins := str(HERE / "plugins")) not in sys.path:
        sys.path.append(plugins)  # hydra_plugins is a namespace: ours is seen by this program alone
    store = ConfigStore.instance()
    store.store(name="experiment_schema", node=Experiment)
    store.store(group="schema", name="hardware", node=Hardware)
    store.store(group="schema", name="augment", node=AugmentConfig)
    for group, file, module in parts({**FOLDERS, "study": "studies"}):
        # a broken part breaks itself alone, when it is asked for
        with suppress(SyntaxError, ValueError, KeyError):
            store.store(
                group=f"schema/{group}", name=file.stem, node=open_ended(node(file, module), file)
            )
    for group, mirrored in MIRRORED.items():
        for name, file in option_files(mirrored).items():
            if name not in option_files(group):  # a YAML of its own has other defaults
                with suppress(YAMLError, OmegaConfBaseException):  # Hydra says what is wrong
                    store.store(group=group, name=name, node=mirror(mirrored, name, file))
    find_plugged_options()
    OmegaConf.register_new_resolver(
        "short_id", lambda: uuid.uuid4().hex[:4], use_cache=True, replace=True
    )
    OmegaConf.register_new_resolver(
        "sweep_name", lambda: _sweep_name[0], use_cache=True, replace=True
    )
    OmegaConf.register_new_resolver("plugins_path", plugins_path, replace=True)
    OmegaConf.register_new_resolver("dataset_option", dataset_option, replace=True)
    OmegaConf.register_new_resolver("options_help", options_help, replace=True)


def mirror(group: str, name: str, file: Path) -> dict[str, Any]:
    """The node of the pretraining's group that stands for `group=name`, whose YAML is `file`.

    Of a YAML that also sets keys outside of its group (`@package _global_`), such as the length of the trainings, only what
    it says of the group itself is taken.
    """
    if "@package _global_" not in file.read_text():
        return {"defaults": [{f"/{group}@_here_": name}]}
    content: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    schemas = [
        f"{entry.removesuffix(f'@{group}')}@_here_"
        for entry in content.get("defaults", [])
        if isinstance(entry, str) and entry.endswith(f"@{group}")
    ]
    return {"defaults": [*schemas, "_self_"], **(content.get(group) or {})}


@cache
def find_plugged_options() -> None:
    Plugins.instance().register(PluggedOptions)


def plugins_path() -> str:
    """PYTHONPATH for processes of launchers that unpickle a job before they import us."""
    return os.pathsep.join([str(HERE / "plugins"), *filter(None, [os.environ.get("PYTHONPATH")])])


def plug(folder: str | None) -> None:
    """Make the methods in a user's folder parts like ours: `folder/pretrainers/mine.py` is `schema/pretrainer/mine`, and the
    module `<folder's name>.pretrainers.mine`. ConfigError if it is no such folder. Imports none of them."""
    if not folder:
        return
    path = Path(folder).expanduser().resolve()
    if path in _plugged:
        return
    known = (*FOLDERS.values(), *LISTED.values(), "conf")
    if not any((path / inside).is_dir() for inside in known):
        raise ConfigError(
            "plugins", folder, f"must be a folder with one of {', '.join(known)} in it"
        )
    spec = find_spec(path.name) if path.name.isidentifier() else None
    if not path.name.isidentifier() or (
        spec and {Path(p).resolve() for p in spec.submodule_search_locations or [""]} != {path}
    ):
        raise ConfigError(
            "plugins",
            folder,
            f"its name becomes a package, and {path.name} is none or is taken; rename the folder",
        )
    sys.path.append(str(path.parent))
    _plugged.append(path)
    add_options(path / "conf")


def add_options(folder: Path) -> None:
    """Make the YAMLs in a user's folder options like ours: `folder/optim/mine.yaml` is `optim=mine`."""
    if folder.is_dir() and folder not in _options:
        _options.append(folder)
    register()


def config_dir_in(words: list[str]) -> str | None:
    """The value of Hydra's flag `--config-dir` among a command's words."""
    flags = ("--config-dir", "-cd")
    for word, after in zip(words, [*words[1:], ""], strict=True):
        flag, equals, value = word.partition("=")
        if flag in flags:
            return value if equals else after
    return None


def plugins_in(overrides: list[str]) -> str | None:
    """The value of `plugins=` among a command's words: parts must be known before anything is composed."""
    return next(
        (
            o.partition("=")[2].strip("'\"")
            for o in reversed(overrides)
            if o.lstrip("+").startswith("plugins=")
        ),
        None,
    )


def dataset_option(name: str | None) -> dict[str, Any] | None:
    """What `dataset=<name>` composes to, for those who name a second data set by a value."""
    if not name:
        return None
    with searching():
        return OmegaConf.to_container(hydra.compose("config", [f"dataset={name}"]).dataset)  # type: ignore[return-value]
