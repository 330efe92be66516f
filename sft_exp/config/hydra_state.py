"""Hydra's global state and search path, in its versions 1.3 and 1.4."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import hydra
import omegaconf
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer

from sft_exp.config.sources import CONF, option_folders

PLUGGED = "plugins"  # Hydra's provider of the options in plug-in folders
# Hydra 1.4, which Python 3.14 needs, deprecates the argument; 1.3 warns where it is missing.
OLDER = hydra.__version__.startswith("1.3.")
VERSION_BASE = {"version_base": "1.3"} if OLDER else {}
# Hydra 1.4 wants it said that a config takes the place of one of its name.
REPLACE: dict[str, Any] = {} if OLDER else {"replace": True}


class PluggedOptions(SearchPathPlugin):
    """Makes Hydra find options in `conf` of the plug-in folders."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in option_folders():
            search_path.append(PLUGGED, str(folder))


@contextmanager
def alone() -> Iterator[None]:
    """Use a fresh global state of Hydra inside; afterwards restore the caller's singletons and
    resolvers."""
    singletons, resolvers = dict(Singleton._instances), dict(BaseContainer._resolvers)
    names = ("GlobalHydra", "HydraConfig", "JobRuntime", "VersionBase")
    for kind in [kind for kind in singletons if kind.__name__ in names]:
        del Singleton._instances[kind]
    try:
        yield
    finally:
        Singleton._instances.clear()
        Singleton._instances.update(singletons)
        BaseContainer._resolvers.clear()
        BaseContainer._resolvers.update(resolvers)


def searching() -> Any:
    """A context in which Hydra can compose: the current one, or a new one with conf/ alone."""
    if GlobalHydra.instance().is_initialized():
        return nullcontext()
    return initialized()


def initialized() -> Any:
    """A context in which Hydra composes from conf/."""
    return hydra.initialize_config_dir(str(CONF), **VERSION_BASE)


def register_resolver(name: str, function: Callable[..., Any], use_cache: bool = False) -> None:
    """Register a resolver of interpolations, in the place of one of the same name.

    OmegaConf 2.4 gives the function its older name again, and deprecates the newer one.
    """
    older = omegaconf.__version__.startswith("2.3.")
    register: Any = OmegaConf.register_new_resolver if older else OmegaConf.register_resolver
    register(name, function, use_cache=use_cache, replace=True)


def let_sweepers_be_filled_in() -> None:
    """Let a sweep's jobs be composed without the values that a study has given its sweeper.

    Hydra 1.4 compares the sweeper in a job's config with the one that runs, whose jobs a study lists
    as the sweep begins.
    """
    compared = "_ensure_sweep_config_controller_unchanged"
    if hasattr(ConfigLoaderImpl, compared):
        setattr(ConfigLoaderImpl, compared, staticmethod(lambda *_, **__: None))


def search_path() -> list[str]:
    """The override that adds the user's folders of options to the search path; [] without such
    folders."""
    if not GlobalHydra.instance().is_initialized():
        return []
    entries = GlobalHydra.instance().config_loader().get_search_path().get_path()
    users = [e.path for e in entries if e.provider not in ("hydra", "main", "schema", PLUGGED)]
    return [f"hydra.searchpath=[{','.join(users)}]"] if users else []
