"""Registers this program with Hydra: schemas of all parts, resolvers, and the user's plug-in
folders."""

import os
import sys
import time
import uuid
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sft_exp.config import hydra_state
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
from sft_exp.errors import ConfigError, absent

# the default name, for sweeps whose jobs are not known beforehand
_sweep_name = [f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{uuid.uuid4().hex[:4]}"]
_stored: list[Any] = []  # Hydra's store, and what its nodes were made from
unreadable: dict[str, str] = {}  # schema of a part whose file cannot be read -> the file, and why


def name_sweep(name: str) -> None:
    """Set the name of the sweep's folder, before it is resolved: Hydra passes resolved values to
    launchers."""
    _sweep_name[0] = name


def register() -> None:
    """Register the schemas of the root and of all parts, and our resolvers. It reads sources and
    imports no part."""
    if (plugins := str(HERE / "plugins")) not in sys.path:
        sys.path.append(plugins)  # hydra_plugins is a namespace package, extended for this process
    store = ConfigStore.instance()
    found = (parts({**FOLDERS, "study": "studies"}), mirrors())
    files = {file for _, file, *_ in found[0]} | {file for *_, file in found[1]}
    # to make the nodes takes most of a composition's time, and most processes compose many times
    if _stored != (state := [store, found, {file: file.read_bytes() for file in files}]):
        store_schemas(store, *found)
        _stored[:] = state
    find_plugged_options()
    cached = {"short_id": lambda: uuid.uuid4().hex[:4], "sweep_name": lambda: _sweep_name[0]}
    for name, resolver in cached.items():
        hydra_state.register_resolver(name, resolver, use_cache=True)
    for function in (plugins_path, dataset_option, options_help):
        hydra_state.register_resolver(function.__name__, function)


def mirrors() -> list[tuple[str, str, str, Path]]:
    """(group of the pretraining, group that it mirrors, option, file) of every mirrored option."""
    return [
        (group, mirrored, name, file)
        for group, mirrored in MIRRORED.items()
        for name, file in option_files(mirrored).items()
        if name not in option_files(group)  # else the group has its own YAML
    ]


def store_schemas(
    store: ConfigStore,
    found: list[tuple[str, Path, str]],
    mirrored: list[tuple[str, str, str, Path]],
) -> None:
    """Store the nodes of the root, of these parts and of these mirrored options."""
    store.store(name="experiment_schema", node=Experiment, **hydra_state.REPLACE)
    for name, kind in (("hardware", Hardware), ("augment", AugmentConfig)):
        store.store(group="schema", name=name, node=kind, **hydra_state.REPLACE)
    unreadable.clear()
    for group, file, module in found:
        options, name = options_of(store.repo["schema"], group), f"{file.stem}.yaml"
        options.pop(name, None)
        options.pending[name] = (schema, f"schema/{group}", file, module)
    for group, other, name, file in mirrored:
        options_of(store.repo, group).pending[f"{name}.yaml"] = (mirror, group, other, name, file)


class Options(dict):
    """A group of Hydra's store. A node is made when Hydra asks whether there is one: a command uses
    few of them, and to make all takes longer than to compose."""

    def __init__(self) -> None:
        super().__init__()
        self.pending: dict[str, tuple[Any, ...]] = {}  # name -> function that makes it, arguments

    def __contains__(self, name: object) -> bool:
        if isinstance(name, str) and name in self.pending:
            make, group, *arguments = self.pending.pop(name)
            made = make(group, *arguments)
            if made is not None:
                self[name] = ConfigNode(name, OmegaConf.structured(made), group, None, None)
        return super().__contains__(name)

    def keys(self) -> Any:
        """All names, those of faulty files excepted."""
        return [name for name in [*self, *self.pending] if name in self]

    def __deepcopy__(self, _: Any) -> "Options":
        """Itself: Hydra copies its store at each composition, and a node once more when it is used."""
        return self


def options_of(parent: dict[str, Any], group: str) -> Options:
    """The group below a group of Hydra's store; a new one if there is none."""
    if not isinstance(parent.get(group), Options):
        parent[group] = Options()
    return parent[group]


def schema(group: str, file: Path, module: str) -> Any:
    """The node of a part in `group`, `schema/encoder` for one; None for a faulty file."""
    try:
        return open_ended(node(file, module), file)
    except (SyntaxError, ValueError) as error:  # reported once the part is selected
        unreadable[f"{group}/{file.stem}"] = f"{file}: {error}"
        return None


def mirror(group: str, other: str, name: str, file: Path) -> dict[str, Any] | None:
    """The node of the pretraining's group that mirrors `other=name`, whose YAML is `file`; None for
    a faulty file, which Hydra reports.

    If the YAML also sets keys outside of its group (`@package _global_`), such as the length of the
    trainings, only the keys of the group itself are mirrored.
    """
    with suppress(YAMLError, OmegaConfBaseException):
        if "@package _global_" not in file.read_text():
            return {"defaults": [{f"/{other}@_here_": name}]}
        content: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        schemas = [
            f"{entry.removesuffix(f'@{other}')}@_here_"
            for entry in content.get("defaults", [])
            if isinstance(entry, str) and entry.endswith(f"@{other}")
        ]
        return {"defaults": [*schemas, "_self_"], **(content.get(other) or {})}
    return None


def find_plugged_options() -> None:
    """Register with Hydra's current plug-in instance; `hydra_state.alone` discards instances made
    inside of it."""
    Plugins.instance().register(PluggedOptions)


def plugins_path() -> str:
    """PYTHONPATH for processes of launchers, which unpickle a job before they import this
    package."""
    return os.pathsep.join([str(HERE / "plugins"), *filter(None, [os.environ.get("PYTHONPATH")])])


def plug(folder: str | None) -> None:
    """Add the parts of a user's folder, without importing them.

    `FOLDER/pretrainers/NAME.py` becomes `schema/pretrainer/NAME` and the module
    `FOLDER.pretrainers.NAME`.

    Raises:
        ConfigError: the folder holds no parts, or its name cannot be a package.
    """
    if not folder:
        return
    path = Path(folder).expanduser().resolve()
    if path in _plugged:
        return
    if not path.is_dir():
        raise ConfigError("plugins", folder, absent(Path(folder).expanduser(), "folder"))
    known = (*FOLDERS.values(), *LISTED.values(), "conf")
    if not any((path / inside).is_dir() for inside in known):
        problem = f"must be a folder with one of {', '.join(known)} in it"
        raise ConfigError("plugins", folder, problem)
    spec = find_spec(path.name) if path.name.isidentifier() else None
    places = spec.submodule_search_locations or [""] if spec else [str(path)]
    if not path.name.isidentifier() or {Path(place).resolve() for place in places} != {path}:
        name = path.name
        problem = f"its name becomes a package, and {name} is none or is taken; rename the folder"
        raise ConfigError("plugins", folder, problem)
    sys.path.append(str(path.parent))
    _plugged.append(path)
    add_options(path / "conf")


def add_options(folder: Path) -> None:
    """Add the options of a user's folder: `FOLDER/optim/NAME.yaml` becomes `optim=NAME`."""
    if folder.is_dir() and folder not in _options:
        _options.append(folder)
    register()


def config_dir_in(words: list[str]) -> str | None:
    """The value of Hydra's flag `--config-dir` among a command's words."""
    flags = ("--config-dir", "-cd")
    for place, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag in flags:
            return value if equals else "".join(words[place + 1 : place + 2])
    return None


def plugins_in(overrides: list[str]) -> str | None:
    """The value of `plugins=` among a command's words: parts must be known before composition."""
    values = [o.partition("=")[2] for o in overrides if o.lstrip("+").startswith("plugins=")]
    return values[-1].strip("'\"") if values else None


def dataset_option(name: str | None) -> dict[str, Any] | None:
    """The config that `dataset=NAME` composes to, for options that name a second data set."""
    if not name:
        return None
    with searching():
        return OmegaConf.to_container(hydra.compose("config", [f"dataset={name}"]).dataset)  # type: ignore[return-value]
