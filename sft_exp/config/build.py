"""A plain config as an Experiment of typed parts. Imports the parts, and with them torch."""

import os
import re
from dataclasses import fields as fields_of
from importlib import import_module
from traceback import extract_tb
from typing import Any, Literal, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sft_exp.config.args import did_you_mean
from sft_exp.config.enums import with_members
from sft_exp.config.help_text import GROUPS
from sft_exp.config.moved import MEMBERS, current, updated
from sft_exp.config.register import plug
from sft_exp.config.schema import (
    AugmentConfig,
    Experiment,
    Features,
    FinetuneConfig,
    Hardware,
    Protocol,
    TrainConfig,
    Transfer,
    target,
)
from sft_exp.config.secret_names import SECRETS
from sft_exp.config.sources import FOLDERS, HERE, KINDS, LISTED, LISTED_KINDS, node, parts
from sft_exp.errors import ConfigError

KEYS: dict[str, Any] = {  # key of the root -> its dataclass
    "protocol": Protocol,
    "pretrain": TrainConfig,
    "finetune": FinetuneConfig,
    "features": Features,
    "augment": AugmentConfig,
    "transfer": Transfer,
    "hardware": Hardware,
}
# library -> our part that reads its classes, and its group
ADOPTED = {"torchvision.datasets": ("torchvision_set", "dataset")}
RETIRED = {  # keys that once were, and may stand in the results of old runs -> what to say instead
    "transfer.min_loaded": "weights are judged by layers now: transfer.allow=[conv1] names those that may be missing",
}

SECRET = re.compile(rf"oc\.env:\s*([^,}}]*(?:{SECRETS})[^,}}]*)", re.IGNORECASE)
SECRET_KEY = re.compile(
    r"(?:^|_)(?:secret|token|password|passwd|api_?key|access_?key|credentials?)$", re.IGNORECASE
)
ENVIRONMENT = "${oc.env:"
OURS = "SFT_EXP_"  # variables of this program: they name places, and their values are written
RESOLVERS = {"oc.env:": "sft_exp.env:", "oc.decode:": "sft_exp.decode:"}


def plain(cfg: DictConfig) -> dict[str, Any]:
    """One job's part of a composed config as plain data, resolved but for text that comes from the environment.

    Such text stays the interpolation that it is (`${oc.env:NAME}`), because this config is written to files and sent to
    trackers; `experiment` puts the values in. The store's path is resolved: other commands look there.
    """
    keys = [str(key) for key in cfg if key not in ("hydra", "study")]
    everything: Any = OmegaConf.to_container(cfg, resolve=False)
    unresolved = {key: everything[key] for key in keys}
    no_secrets(unresolved)
    values: Any = {
        key: OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
        if OmegaConf.is_config(value := cfg[key])
        else value
        for key in keys
    }
    if ENVIRONMENT not in str(unresolved):
        return values
    OmegaConf.register_new_resolver("sft_exp.env", environment_text, replace=True)
    OmegaConf.register_new_resolver("sft_exp.decode", decode_text, replace=True)
    texts: Any = OmegaConf.to_container(OmegaConf.create(renamed(unresolved)), resolve=True)
    return {**withheld(values, texts), "store": values["store"]}


def resolved(config: dict[str, Any]) -> dict[str, Any]:
    """A plain config with the environment's values put in, but for the experiment's name, which titles show. ConfigError."""
    if ENVIRONMENT not in str(config):
        return config
    named = {k: v for k, v in config.items() if k == "name"}
    others = {k: v for k, v in config.items() if k != "name"}
    try:
        return {**OmegaConf.to_container(OmegaConf.create(others), resolve=True), **named}  # type: ignore[dict-item]
    except OmegaConfBaseException as error:
        raise ConfigError(
            str(error.full_key or ""),
            "from the environment",
            f"cannot be resolved: {str(error).splitlines()[0]}",
        ) from error


def environment_text(*words: Any) -> str:
    """Stands for oc.env: the interpolation itself, or for variables of this program their value."""
    if str(words[0]).startswith(OURS):
        return str(os.environ.get(str(words[0]), words[1] if len(words) > 1 else ""))
    default = [w if w is None else "'" + str(w).replace("'", "\\'") + "'" for w in words[1:]]
    return ENVIRONMENT + ",".join([str(words[0]), *(d or "null" for d in default)]) + "}"


def decode_text(text: Any) -> Any:
    """Stands for oc.decode, and keeps it around text of the environment. What it makes of other text is not looked at."""
    return f"${{oc.decode:{text}}}" if ENVIRONMENT in str(text) else text


def renamed(node: Any) -> Any:
    """The unresolved config with our resolvers in the place of those that read the environment."""
    if isinstance(node, dict):
        return {key: renamed(value) for key, value in node.items()}
    if isinstance(node, list):
        return [renamed(value) for value in node]
    if isinstance(node, str):
        for before, after in RESOLVERS.items():
            node = node.replace(f"${{{before}", f"${{{after}")
    return node


def withheld(value: Any, text: Any) -> Any:
    """The value, with the text of its interpolation wherever it holds characters of the environment. Numbers are kept."""
    if isinstance(value, dict) and isinstance(text, dict):
        return {key: withheld(value[key], text[key]) for key in value}
    if isinstance(value, list) and isinstance(text, list):
        return [withheld(v, t) for v, t in zip(value, text, strict=True)]
    secretive = isinstance(text, str) and ENVIRONMENT in text
    return text if secretive and isinstance(value, str | dict | list) else value


def no_secrets(node: Any, key: str = "") -> None:
    """ConfigError for a secret in the config, by the name of its key or of the environment's variable: configs are written
    to files and sent to trackers."""
    if isinstance(node, dict | list):
        for name, value in node.items() if isinstance(node, dict) else enumerate(node):
            no_secrets(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, str) and (match := SECRET.search(node)):
        raise ConfigError(
            key,
            node,
            f"would write the secret {match[1].strip()} of the environment into the run's files",
        )
    elif isinstance(node, str) and SECRET_KEY.search(key.rpartition(".")[2]) and "${" not in node:
        raise ConfigError(key, "***", "would write a secret into the run's files")


def choices(cfg: DictConfig, hydra_node: Any = None) -> dict[str, str]:
    """The option taken in each of our groups."""
    taken = (cfg.hydra if hydra_node is None else hydra_node).runtime.choices
    return {group: str(taken[group]) for group in GROUPS if group != "study" and taken.get(group)}


def study(cfg: DictConfig) -> Any:
    """The study that the multirun is, or None."""
    found = OmegaConf.to_container(cfg.study, resolve=True) if cfg.get("study") else None
    return part(found, "study", "sft_exp.sweep.study.Study") if found else None  # type: ignore[arg-type]


def experiment(config: dict[str, Any], choices: dict[str, str]) -> Experiment:
    """A plain config as typed parts; imports them, and with them torch. ConfigError names key, value and what is valid."""
    values = updated(resolved(config))
    for key in RETIRED:
        node, _, word = key.rpartition(".")
        if word in values.get(node, {}):
            values[node] = {k: v for k, v in values[node].items() if k != word}
    plug(values.get("plugins"))
    known = [f.name for f in fields_of(Experiment)]
    for key in values:
        if key not in known:
            raise ConfigError(key, values[key], f"no such key{did_you_mean(key, known)}")
    for group, kind in KINDS.items():
        values[group] = part(values[group], group, kind)
    values["optim"] = target(values["optim"] or {}, "optim", ("auto", "search"))
    values["pretrain_optim"] = target(values["pretrain_optim"] or {}, "pretrain_optim")
    if values.get("pretrain_dataset") is not None:
        values["pretrain_dataset"] = part(
            values["pretrain_dataset"], "pretrain_dataset", KINDS["dataset"]
        )
    values["metrics"] = [metric(value) for value in values.get("metrics") or []]
    for key, made in KEYS.items():
        if not isinstance(values[key], dict):
            names = ", ".join(f"{key}.{f.name}" for f in fields_of(made))
            raise ConfigError(
                key, values[key], f"is a group of keys, and takes no value itself; valid: {names}"
            )
        try:
            values[key] = made(**values[key])
        except ConfigError as error:
            raise error.under(key) from error
    values["choices"] = choices
    return Experiment(**values)


def part(value: dict[str, Any] | None, group: str, *kinds: str) -> Any:
    """The object that a node with `_target_` describes, if it is a class of a kind that the group wants."""
    value = adopted(value)
    path = (value or {}).get("_target_")
    kind = " or ".join(kinds)
    if not isinstance(path, str):
        raise ConfigError(f"{group}._target_", path, f"must name a class derived from {kind}")
    try:
        found = locate(path)
    except (ImportError, AttributeError, ValueError, SyntaxError, NameError, TypeError) as error:
        why = f"{type(error).__name__}: {error}{place_of(error)}"
        raise ConfigError(f"{group}._target_", path, f"cannot be imported ({why})") from error
    if not (isinstance(found, type) and any(issubclass(found, locate(k)) for k in kinds)):
        raise ConfigError(f"{group}._target_", path, f"must be a class derived from {kind}")
    for old, new in MEMBERS.items():
        if any(old in vars(c) for c in found.__mro__):
            raise ConfigError(f"{group}._target_", path, f"defines `{old}`, which is `{new}` now")
    options = {k: inner(v, f"{group}.{k}") for k, v in (value or {}).items() if k != "_target_"}
    for key, of in getattr(found, "holds", {}).items():
        if key in options:
            options[key] = named(options[key], of, f"{group}.{key}")
    names = [f.name for f in fields_of(found)]
    for key in options:
        if key not in names:
            raise ConfigError(
                f"{group}.{key}",
                options[key],
                f"no such field of {found.__name__}{did_you_mean(key, names)}",
            )
    for key, hint in get_type_hints(found).items():
        if get_origin(hint) is Literal and options.get(key, get_args(hint)[0]) not in get_args(
            hint
        ):
            valid = f"must be {' or '.join(map(str, get_args(hint)))}"
            raise ConfigError(f"{group}.{key}", options[key], valid)
    try:
        return found(**with_members(found, options))
    except ConfigError as error:
        raise error.under(group) from error


def place_of(error: BaseException) -> str:
    """Where the user's code failed, if it did: the last line of the traceback outside of Python's own import."""
    frames = [f for f in extract_tb(error.__traceback__) if not f.filename.startswith("<")]
    ours = str(HERE / "config")
    own = [f for f in frames if not f.filename.startswith(ours) and "importlib" not in f.filename]
    return f", {own[-1].filename}, line {own[-1].lineno}" if own else ""


def adopted(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """A node that names a library's class, `torchvision.datasets.GTSRB`, as our part that reads it. Keys that are not fields of
    the part are the class's own arguments."""
    library, _, name = str((value or {}).get("_target_")).rpartition(".")
    if not value or library not in ADOPTED:
        return value
    stem, group = ADOPTED[library]
    made = node(HERE / FOLDERS[group] / f"{stem}.py", f"{HERE.name}.{FOLDERS[group]}.{stem}")
    known = {f.name: f.default for f in fields_of(made)}
    fields = {k: v for k, v in value.items() if k in known}
    options = {k: v for k, v in value.items() if k not in known}
    return {
        **fields,
        "_target_": known["_target_"],
        "name": name,
        "options": {**options, **fields.get("options", {})},
    }


def inner(value: Any, key: str) -> Any:
    """A field's value, with the parts that it holds: a node with `_target_`, or a dict of them."""
    if not isinstance(value, dict):
        return value
    if "_target_" in value:
        return part(value, key, *dict.fromkeys(KINDS.values()))
    return {k: inner(v, f"{key}.{k}") for k, v in value.items()}


def named(value: Any, group: str, key: str) -> Any:
    """A part of a group by the name of its file, with its defaults, or several in a dict; what is a part already stays."""
    known = {file.stem: (file, module) for g, file, module in parts() if g == group}

    def made(name: Any) -> Any:
        if not isinstance(name, str):
            return name
        if name not in known:
            raise ConfigError(
                key, value, f"{name!r} names no {group}{did_you_mean(name, list(known))}"
            )
        target = next(f.default for f in fields_of(node(*known[name])) if f.name == "_target_")
        return part({"_target_": target}, key, (KINDS | LISTED_KINDS)[group])

    return {k: made(v) for k, v in value.items()} if isinstance(value, dict) else made(value)


def metric(value: Any) -> Any:
    """An entry of `metrics` as a part: a name, or a node with `_target_`, ours or a class of torchmetrics. Another name may
    be a metric of the task, which is known later, and stays a name."""
    if isinstance(value, dict):
        target = str(value.get("_target_"))
        if not target.startswith("torchmetrics."):
            return part(value, "metrics", LISTED_KINDS["metric"])
        options = {k: inner(v, f"metrics.{k}") for k, v in value.items() if k != "_target_"}
        kind = f"{HERE.name}.{LISTED['metric']}.torchmetrics_class.TorchMetric"
        return part(
            {"_target_": kind, "path": target, "options": options},
            "metrics",
            LISTED_KINDS["metric"],
        )
    known = {file.stem for group, file, _ in parts() if group == "metric"}
    return named(value, "metric", "metrics") if value in known else value


def locate(path: str) -> Any:
    module, _, name = current(path).rpartition(".")
    return getattr(import_module(module), name)
