"""The configs of a sweep's jobs, which mostly differ in values: groups are composed once per
choice.

Hydra builds the defaults list anew for each job, which takes most of the time, though it depends on
the chosen options alone. A job's values are then applied to the config of its options, which is
copied only as far as they change it.
"""

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from sft_exp.config import build

# Interpolations in the name of a job's folder that do not depend on the job's values.
BY_NUMBER = {"${hydra:job.num}", "${hydra.job.num}", "${sweep_name:}"}


@dataclass
class Base:
    """The config of some options, without values of a job, and what jobs have in common by it."""

    cfg: DictConfig
    choices: dict[str, str]
    # key of the root -> its value, where it is clear what that depends on
    known: dict[str, build.Value] = field(default_factory=dict)
    hydra: Any = None  # Hydra's own node, as HydraConfig holds it

    @cached_property
    def names_hydra(self) -> bool:
        """Whether a value may depend on Hydra's own node, which differs between jobs."""
        container: Any = OmegaConf.to_container(self.cfg, resolve=False)
        return "hydra" in str({key: v for key, v in container.items() if key != "hydra"})

    @cached_property
    def by_number(self) -> bool:
        """Whether nothing but its number names the folder of a job."""
        sweep: Any = OmegaConf.to_container(self.cfg.hydra.sweep, resolve=False)
        return set(re.findall(r"\$\{[^}]*\}", f"{sweep['dir']}{sweep['subdir']}")) <= BY_NUMBER


class Composer:
    """Gives the same configs as Hydra's `load_sweep_config` does."""

    def __init__(self, master: DictConfig):
        self.master = master
        self.loader: Any = GlobalHydra.instance().config_loader()
        self.parser = OverridesParser.create(config_loader=self.loader)
        self.parsed: dict[str, Override] = {}
        self.groups: dict[str, bool] = {}  # key -> whether a group has this name
        self.bases: dict[tuple[str, ...], Base] = {}

    def job(self, overrides: Sequence[str]) -> DictConfig:
        """The config of the job with these overrides; its values are unresolved."""
        parsed = self.parse(overrides)
        if any(override.is_hydra_override() for override in parsed):
            return self.loader.load_sweep_config(self.master, list(overrides))
        cfg = copy.deepcopy(self.base(parsed).cfg)
        # A private function of Hydra's; tests compare the result with the full composition.
        ConfigLoaderImpl._apply_overrides_to_config([o for o in parsed if not self.chooses(o)], cfg)
        cfg.hydra.overrides.task = [o.input_line for o in parsed]
        # Hydra 1.3 sets it; from 1.4 on it is an interpolation that follows the overrides
        if not OmegaConf.is_interpolation(cfg.hydra.job, "override_dirname"):
            naming = cfg.hydra.job.config.override_dirname
            words = [str(o.input_line) for o in parsed if o.key_or_group not in naming.exclude_keys]
            dirname = naming.item_sep.join(sorted(words)).replace("=", naming.kv_sep)
            cfg.hydra.job.override_dirname = dirname
        return cfg

    def plain(self, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
        """The job's resolved config and choices: what `build` makes of `job`. Jobs share values."""
        parsed = self.parse(overrides)
        if any(override.is_hydra_override() for override in parsed):
            cfg = self.job(overrides)
            return build.plain(cfg), build.choices(cfg)
        base, values = self.base(parsed), [o for o in parsed if not self.chooses(o)]
        if base.names_hydra or not all(changes_one_key(base.cfg, override) for override in values):
            cfg = self.job(overrides)
            return build.plain(cfg), base.choices
        with changed(base.cfg, values) as keys:
            known = {k: v for k, v in base.known.items() if v.depends_on.isdisjoint(keys)}
            config = build.plain(base.cfg, known)
        base.known |= {k: v for k, v in known.items() if v.depends_on.isdisjoint(keys)}
        return config, base.choices

    def parse(self, overrides: Sequence[str]) -> list[Override]:
        """The overrides as Hydra reads them; jobs have most of them in common."""
        for word in overrides:
            if word not in self.parsed:
                (self.parsed[word],) = self.parser.parse_overrides([word])
        return [self.parsed[word] for word in overrides]

    def base(self, parsed: Sequence[Override]) -> Base:
        """The config of the options that the overrides take, without their values. It is shared."""
        groups = tuple(str(o.input_line) for o in parsed if self.chooses(o))
        if groups not in self.bases:
            cfg = self.loader.load_sweep_config(self.master, list(groups))
            self.bases[groups] = Base(cfg, build.choices(cfg))
        return self.bases[groups]

    def folder(self, overrides: Sequence[str], number: int) -> Path:
        """The folder that Hydra will give the job of this number, by `hydra.sweep.dir` and
        `hydra.sweep.subdir` as the job resolves them."""
        base = self.base(self.parse(overrides))
        cfg = base.cfg if base.by_number else self.job(overrides)
        instance = HydraConfig.instance()
        before = instance.cfg
        try:
            if base.hydra is None or not base.by_number:
                instance.set_config(cfg)  # `${hydra:job.num}` reads it, from a copy
                OmegaConf.set_readonly(cfg.hydra, False)  # as Hydra composed it
                base.hydra = instance.cfg
            instance.cfg = base.hydra
            for each in (cfg, base.hydra):
                with read_write(each.hydra), open_dict(each.hydra):
                    each.hydra.job.id, each.hydra.job.num = str(number), number
            return Path(cfg.hydra.sweep.dir) / cfg.hydra.sweep.subdir
        finally:
            instance.cfg = before

    def chooses(self, override: Override) -> bool:
        """Whether the override takes an option of a group, and so belongs in the defaults list."""
        key = override.key_or_group
        if key not in self.groups:
            self.groups[key] = self.loader.repository.group_exists(key)
        return self.groups[key] and not isinstance(override.value(), dict)


def changes_one_key(cfg: DictConfig, override: Override) -> bool:
    """Whether an override surely changes nothing but its own key of the root, and depends on nothing
    else.

    Others are an interpolation, a value below one, which changes what that refers to, and what may
    depend on Hydra's own node, which differs between jobs.
    """
    plain_key = re.fullmatch(r"[\w.]+", override.key_or_group)
    if not plain_key or re.search(r"\$\{|hydra", str(override.input_line)):
        return False
    *above, last = override.key_or_group.split(".")
    node: Any = cfg
    for name in above:
        if not OmegaConf.is_dict(node) or name not in node:
            return False
        if OmegaConf.is_interpolation(node, name):
            return False
        node = node[name]
    if not OmegaConf.is_dict(node):
        return False
    merged = isinstance(override.value(), dict | list) and last in node
    return not (merged and OmegaConf.is_interpolation(node, last))


@contextmanager
def changed(cfg: DictConfig, overrides: Sequence[Override]) -> Iterator[set[str]]:
    """Overrides that change one key each are applied inside, and undone; yields the keys."""
    keys = {override.key_or_group.partition(".")[0] for override in overrides}
    # OmegaConf has no way to put a node back; tests compare with the full composition
    nodes, cache = cfg.__dict__["_content"], OmegaConf.get_cache(cfg)
    copies = {name: copy.deepcopy(node) if name in keys else node for name, node in nodes.items()}
    cfg.__dict__["_content"] = copies
    OmegaConf.set_cache(cfg, cache)
    try:
        ConfigLoaderImpl._apply_overrides_to_config(list(overrides), cfg)
        yield keys
    finally:
        cfg.__dict__["_content"] = nodes
        OmegaConf.set_cache(cfg, cache)
