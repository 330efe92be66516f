"""The configs of a sweep's jobs, which mostly differ in values: groups are composed once per
choice.

Hydra builds the defaults list anew for each job, which takes most of the time, though it depends on
the chosen options alone.
"""

import copy
import re
from collections.abc import Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

# Interpolations in the name of a job's folder that do not depend on the job's values.
BY_NUMBER = {"${hydra:job.num}", "${hydra.job.num}", "${sweep_name:}"}


class Composer:
    """Gives the same configs as Hydra's `load_sweep_config` does."""

    def __init__(self, master: DictConfig):
        self.master = master
        self.loader: Any = GlobalHydra.instance().config_loader()
        self.parser = OverridesParser.create(config_loader=self.loader)
        self.bases: dict[tuple[str, ...], DictConfig] = {}

    def job(self, overrides: Sequence[str]) -> DictConfig:
        """The config of the job with these overrides; its values are unresolved."""
        parsed = self.parser.parse_overrides(list(overrides))
        if any(override.is_hydra_override() for override in parsed):
            return self.loader.load_sweep_config(self.master, list(overrides))
        cfg = copy.deepcopy(self.base(parsed))
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

    def base(self, parsed: Sequence[Override]) -> DictConfig:
        """The config of the options that the overrides take, without their values. It is shared."""
        groups = tuple(str(o.input_line) for o in parsed if self.chooses(o))
        if groups not in self.bases:
            self.bases[groups] = self.loader.load_sweep_config(self.master, list(groups))
        return self.bases[groups]

    def naming(self, overrides: Sequence[str]) -> DictConfig:
        """A config that gives the job's folder: without a copy where no value of the job names
        it."""
        parsed = self.parser.parse_overrides(list(overrides))
        base = self.base(parsed)
        sweep: Any = OmegaConf.to_container(base.hydra.sweep, resolve=False)
        named_by = set(re.findall(r"\$\{[^}]*\}", f"{sweep['dir']}{sweep['subdir']}"))
        return base if named_by <= BY_NUMBER else self.job(overrides)

    def chooses(self, override: Override) -> bool:
        """Whether the override takes an option of a group, and so belongs in the defaults list."""
        key = override.key_or_group
        return not isinstance(override.value(), dict) and self.loader.repository.group_exists(key)
