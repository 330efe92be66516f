"""Hydra's flags in any order, and saved configs run again."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from sft_exp.config import build
from sft_exp.config.moved import renamed, updated
from sft_exp.errors import ConfigError

if TYPE_CHECKING:
    pass


VALUED = (  # flags of Hydra that a value follows
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
    "--experimental-rerun", "--info", "-i",
)  # fmt: skip


def flags_first(words: list[str]) -> list[str]:
    """Hydra's flags before the overrides: its parser takes no override behind a flag that follows one (hydra issue 3133)."""
    flags, overrides, rest = [], [], iter(words)
    for word in rest:
        if not word.startswith("-"):
            overrides.append(word)
            continue
        flags.append(word)
        if word in VALUED and (value := next(rest, None)) is not None:
            flags.append(value)
    return [*flags, *overrides]


def again(words: list[str]) -> list[str]:
    """`--config-path RUN/.hydra --config-name config`, Hydra's way to run a saved config again, or the same with --config-dir, as
    the overrides that the run was started with. ConfigError if these no longer compose to what was saved."""
    at = next(
        (
            n
            for n, w in enumerate(words[:-1])
            if w in ("--config-path", "-cp", "--config-dir", "-cd")
        ),
        None,
    )
    if at is None:
        return words
    folder = Path(words[at + 1])
    if not all((folder / f"{name}.yaml").is_file() for name in ("config", "hydra", "overrides")):
        if words[at] in ("--config-path", "-cp"):
            valid = "must be the .hydra folder of a run; options of your own come by --config-dir FOLDER"
            raise ConfigError(words[at], words[at + 1], valid)
        return words
    rest = [*words[:at], *words[at + 2 :]]
    for flag in ("--config-name", "-cn"):
        if flag in rest:
            place = rest.index(flag)
            del rest[place : place + 2]
    overrides = renamed([str(o) for o in OmegaConf.load(folder / "overrides.yaml")])
    same_as_saved(folder, overrides)
    if "auto" not in OmegaConf.load(folder / "config.yaml"):
        overrides.append("auto=false")  # the run was made before settings were chosen from images
    first = next(
        (
            n
            for n, w in enumerate(rest)
            if not w.startswith("-") and (n == 0 or rest[n - 1] not in VALUED)
        ),
        len(rest),
    )
    return [*rest[:first], *overrides, *rest[first:]]


def same_as_saved(folder: Path, overrides: list[str]) -> None:
    """ConfigError unless the overrides compose to the config that was saved: another version may have other defaults, and a saved
    file may have been edited."""
    from sft_exp.config import compose

    composed, _ = compose.compose(overrides)
    saved = updated(build.plain(OmegaConf.load(folder / "config.yaml")))  # type: ignore[arg-type]
    theirs, ours = (
        flat({k: v for k, v in c.items() if k not in ("choices", "auto")})
        for c in (saved, composed)
    )
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            valid = f"is what {folder}/config.yaml holds, but its overrides compose to {ours.get(key)}: give {key}=VALUE as well"
            raise ConfigError(
                key, theirs.get(key), f"{valid}, with python -m sft_exp {shlex.join(overrides)}"
            )


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of a container by dotted key."""
    if not isinstance(node, dict) or not node:
        return {prefix.rstrip("."): node}
    return {k: v for key, value in node.items() for k, v in flat(value, f"{prefix}{key}.").items()}
