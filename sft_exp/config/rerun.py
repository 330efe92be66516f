"""Hydra's flags in any order, and running saved configs again."""

import shlex
from pathlib import Path

from omegaconf import OmegaConf

from sft_exp.config import build
from sft_exp.config.dotted import leaves
from sft_exp.config.grammar import VALUED
from sft_exp.config.moved import GONE, completed, current, renamed, updated
from sft_exp.errors import ConfigError, absent

# keys and groups whose new keys say nothing about the experiment
UNCOMPARED = ("hardware", "report", "report_images", "replace", "monitors", "store_max_gb")


def flags_first(words: list[str]) -> list[str]:
    """Move Hydra's flags before the overrides.

    Hydra's parser refuses overrides after a flag that follows other overrides (hydra issue 3133).
    """
    flags, overrides, rest = [], [], iter(words)
    for word in rest:
        if not word.startswith("-"):
            overrides.append(word)
            continue
        flags.append(word)
        if word in VALUED and (value := next(rest, None)) is not None:
            flags.append(value)
    return [*flags, *overrides]


def named(words: list[str]) -> list[str]:
    """`rerun RUN key=value` as the flags that name the run's saved config, for `again`.

    ConfigError if the folder holds none.
    """
    if words[:1] != ["rerun"]:
        return words
    word, *rest = words[1:] or [""]
    run = word.removeprefix("run=")
    saved = Path(run) / ".hydra"
    if not (saved / "config.yaml").is_file():
        valid = "must be the folder of a run, in which .hydra/config.yaml is: sft_exp rerun RUN"
        if run and not Path(run).exists():
            valid = absent(Path(run), "folder")
        elif (Path(run) / "jobs.json").is_file():
            valid = f"is a sweep, which its own command continues; one job is run again by its folder: {Path(run, '0')}"
        raise ConfigError("run", run, valid)
    return ["--config-path", str(saved), "--config-name", "config", *rest]


def again(words: list[str]) -> list[str]:
    """Replace a saved config among the arguments by the overrides of that run.

    Hydra's way to run a saved config again is `--config-path RUN/.hydra --config-name config`, or
    the same with `--config-dir`. ConfigError if the overrides no longer compose to it.
    """
    flags = ("--config-path", "-cp", "--config-dir", "-cd")
    at = next((n for n, word in enumerate(words[:-1]) if word in flags), None)
    if at is None:
        return words
    folder = Path(words[at + 1])
    if not all((folder / f"{name}.yaml").is_file() for name in ("config", "hydra", "overrides")):
        if words[at] in ("--config-path", "-cp"):
            valid = (
                "must be the .hydra folder of a run; "
                "use --config-dir FOLDER for options of your own"
            )
            raise ConfigError(words[at], words[at + 1], valid)
        return words
    rest = [*words[:at], *words[at + 2 :]]
    for flag in ("--config-name", "-cn"):
        if flag in rest:
            start = rest.index(flag)
            del rest[start : start + 2]
    overrides = renamed([str(o) for o in OmegaConf.load(folder / "overrides.yaml")])
    require_same_as_saved(folder, overrides)
    saved = OmegaConf.load(folder / "config.yaml")
    # of a run that was made before settings were chosen from images, and seeds from the cost
    before = {"auto": "auto=false", "seeds": "seeds=1"}
    overrides += [override for key, override in before.items() if key not in saved]
    # the saved overrides come before those of the command line, which change them
    is_override = [
        not word.startswith("-") and previous not in VALUED
        for previous, word in zip(["", *rest], rest, strict=False)
    ]
    first = is_override.index(True) if any(is_override) else len(rest)
    return [*rest[:first], *overrides, *rest[first:]]


def require_same_as_saved(folder: Path, overrides: list[str]) -> None:
    """ConfigError unless the overrides compose to the saved config.

    They may not, because defaults differ between versions, or because the file was edited.
    """
    from sft_exp.config import compose

    composed, _ = compose.compose(overrides)
    saved = updated(build.plain(OmegaConf.load(folder / "config.yaml")))  # type: ignore[arg-type]
    before, now = (
        leaves(
            {key: value for key, value in config.items() if key not in ("choices", "auto", "seeds")}
        )
        for config in (completed(saved, composed), composed)
    )
    again = f"python -m sft_exp {shlex.join(overrides)}"
    for key in sorted(before.keys() | now.keys()):
        then, value = before.get(key), now.get(key)
        if isinstance(then, str) and key.endswith("_target_"):
            then = current(then)
        of_one_version = key not in before or key not in now
        if of_one_version and (key.partition(".")[0] in UNCOMPARED or key in GONE):
            same = key not in GONE or GONE[key] == then
        else:
            same = then == value
        if same:
            continue
        if key not in before:
            text = f"is a key that {folder}/config.yaml, of another version, does not have; with it: {again}"
            raise ConfigError(key, value, text)
        remedy = f"add {key}=VALUE to {again}" if key in now else f"without it: {again}"
        text = f"is in {folder}/config.yaml, but its overrides compose to {value}: {remedy}"
        raise ConfigError(key, then, text)
