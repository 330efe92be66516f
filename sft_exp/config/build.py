"""Builds an Experiment of typed parts from a plain config. Imports the parts, and with them
torch."""

import os
import re
from dataclasses import fields as fields_of
from functools import cache
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationValidationError, OmegaConfBaseException

from sft_exp.config import hydra_state
from sft_exp.config.args import did_you_mean
from sft_exp.config.dotted import leaves
from sft_exp.config.enums import with_members
from sft_exp.config.help_text import GROUPS
from sft_exp.config.moved import MEMBERS, current, updated
from sft_exp.config.reference import text_of
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
from sft_exp.errors import ConfigError, first_line

KEYS: dict[str, Any] = {  # key of the root -> its dataclass
    "protocol": Protocol,
    "pretrain": TrainConfig,
    "finetune": FinetuneConfig,
    "features": Features,
    "augment": AugmentConfig,
    "transfer": Transfer,
    "hardware": Hardware,
}
DATASETS = ("dataset", "pretrain_dataset")
# library -> the part that wraps its classes, and the part's group
ADOPTED = {"torchvision.datasets": ("torchvision_set", "dataset")}
RETIRED = {  # removed keys that old results may hold -> what replaces them
    "transfer.min_loaded": "weights are judged by layers now: transfer.allow=[conv1] names those that may be missing",
}

SECRET = re.compile(rf"oc\.env:\s*([^,}}]*(?:{SECRETS})[^,}}]*)", re.IGNORECASE)
SECRET_KEY = re.compile(
    r"(?:^|_)(?:secret|token|password|passwd|api_?key|access_?key|credentials?)$", re.IGNORECASE
)
ENVIRONMENT = "${oc.env:"
DATA = "SFT_EXP_DATA"  # variable that names the folder of data sets
DOWNLOADS = "data"  # the default root of public data sets
OURS = "SFT_EXP_"  # variables of this program hold paths, and their values are written to files
# an interpolation that names a key of the root or a variable of the environment
REFERENCE = re.compile(r"\$\{(?:(?:oc\.select:)?([a-z_]+)(?:\.\w+)*|oc\.env:\w+)(?:,[^${}]*)?\}")
# a variable of the environment whose value may have to be kept out of files
OTHERS_TEXT = re.compile(rf"\$\{{oc\.env:(?!{OURS})")
RESOLVERS = {"oc.env:": "sft_exp.env:", "oc.decode:": "sft_exp.decode:"}


class Value(NamedTuple):
    """A key of a composed config as plain data."""

    unresolved: Any
    resolved: Any
    depends_on: frozenset[str]  # keys


def plain(cfg: DictConfig, known: dict[str, Value] | None = None) -> dict[str, Any]:
    """One job's part of a composed config as plain data, resolved except for text from the
    environment.

    Such text stays an interpolation (`${oc.env:NAME}`), because this config is written to files and
    sent to trackers; `experiment` resolves it. The store's path is resolved, since other commands
    need it, and so are roots below the folder of data sets.

    Args:
        cfg: the config.
        known: the values of keys that are known before; others are added where it is clear what
            they depend on.
    """
    keys = [str(key) for key in cfg if key not in ("hydra", "study")]
    known = {} if known is None else known
    unresolved = {
        key: known[key].unresolved if key in known else unresolved_value(cfg, key) for key in keys
    }
    refuse_secrets(unresolved)
    values: Any = {}
    for key in keys:
        if key in known:
            values[key] = known[key].resolved
            continue
        values[key] = resolved_value(cfg, key)
        if (above := dependencies(key, unresolved)) is not None:
            known[key] = Value(unresolved[key], values[key], above)
    values |= {key: in_data_folder(values.get(key)) for key in DATASETS if values.get(key)}
    if not OTHERS_TEXT.search(str(unresolved)):
        return values
    hydra_state.register_resolver("sft_exp.env", environment_text)
    hydra_state.register_resolver("sft_exp.decode", decode_text)
    texts: Any = OmegaConf.to_container(OmegaConf.create(renamed(unresolved)), resolve=True)
    return {**withheld(values, texts), "store": values["store"]}


def resolved_value(cfg: DictConfig, key: str) -> Any:
    """The value of a top-level key as plain data."""
    try:
        return data(cfg[key])
    except InterpolationValidationError:
        # OmegaConf 2.4 refuses a reference to a value of another type, which `experiment` names
        untyped: Any = OmegaConf.create(OmegaConf.to_container(cfg))
        return data(untyped[key])


def data(value: Any) -> Any:
    """A node of a config as plain data, resolved; other values as they are."""
    if not OmegaConf.is_config(value):
        return value
    return OmegaConf.to_container(value, resolve=True, throw_on_missing=True)


def unresolved_value(cfg: DictConfig, key: str) -> Any:
    """The value of a key of the root as plain data, with its interpolations."""
    if OmegaConf.is_interpolation(cfg, key) or OmegaConf.is_missing(cfg, key):
        container: Any = OmegaConf.to_container(OmegaConf.masked_copy(cfg, key), resolve=False)
        return container[key]
    value = cfg[key]
    return OmegaConf.to_container(value, resolve=False) if OmegaConf.is_config(value) else value


def dependencies(key: str, unresolved: dict[str, Any]) -> frozenset[str] | None:
    """The keys of the root that the value of a key refers to, and itself; None where that is not
    obvious."""
    found, todo = {key}, [key]
    while todo:
        text = str(unresolved[todo.pop()])
        names = {name for name in REFERENCE.findall(text) if name}
        if text.count("${") != len(REFERENCE.findall(text)) or not names <= unresolved.keys():
            return None
        todo += names - found
        found |= names
    return frozenset(found)


def in_data_folder(dataset: Any) -> Any:
    """A data set's node with its root below the folder SFT_EXP_DATA, if that is given and the root is
    relative and does not exist here.

    Public data sets without a root lie in a folder of their own there, in lower case, or in the
    folder itself, into which they are downloaded.
    """
    folder, root = os.environ.get(DATA), dataset.get("root") if isinstance(dataset, dict) else None
    if not folder or not isinstance(root, str) or Path(root).expanduser().exists():
        return dataset
    home = Path(folder).expanduser()
    places = [home / root]
    if root == DOWNLOADS:
        places += [home / str(dataset.get("name") or DOWNLOADS).lower(), home]
    found = next((place for place in places if place.exists()), None)
    return dataset if found is None else {**dataset, "root": str(found)}


def resolved(config: dict[str, Any]) -> dict[str, Any]:
    """A plain config with the environment's values, except in the experiment's name, which titles
    show. ConfigError."""
    if ENVIRONMENT not in str(config):
        return config
    name = {k: v for k, v in config.items() if k == "name"}
    others = {k: v for k, v in config.items() if k != "name"}
    try:
        return {**OmegaConf.to_container(OmegaConf.create(others), resolve=True), **name}  # type: ignore[dict-item]
    except OmegaConfBaseException as error:
        raise ConfigError(
            str(error.full_key or ""),
            "from the environment",
            f"cannot be resolved: {first_line(error)}",
        ) from error


def environment_text(*words: Any) -> str:
    """A resolver in place of oc.env: returns the interpolation itself, or the value of this
    program's variables."""
    if str(words[0]).startswith(OURS):
        return str(os.environ.get(str(words[0]), words[1] if len(words) > 1 else ""))
    default = [w if w is None else "'" + str(w).replace("'", "\\'") + "'" for w in words[1:]]
    return ENVIRONMENT + ",".join([str(words[0]), *(d or "null" for d in default)]) + "}"


def decode_text(text: Any) -> Any:
    """A resolver in place of oc.decode that keeps the interpolation around text of the environment.

    Its result for other text is unused.
    """
    return f"${{oc.decode:{text}}}" if ENVIRONMENT in str(text) else text


def renamed(node: Any) -> Any:
    """The unresolved config with RESOLVERS in place of OmegaConf's own."""
    if isinstance(node, dict):
        return {key: renamed(value) for key, value in node.items()}
    if isinstance(node, list):
        return [renamed(value) for value in node]
    if isinstance(node, str):
        for before, after in RESOLVERS.items():
            node = node.replace(f"${{{before}", f"${{{after}")
    return node


def withheld(value: Any, text: Any) -> Any:
    """The resolved value, with the interpolation's text wherever it holds text of the environment.
    Numbers are kept."""
    if isinstance(value, dict) and isinstance(text, dict):
        return {key: withheld(value[key], text[key]) for key in value}
    if isinstance(value, list) and isinstance(text, list):
        return [withheld(v, t) for v, t in zip(value, text, strict=True)]
    secretive = isinstance(text, str) and ENVIRONMENT in text
    return text if secretive and isinstance(value, str | dict | list) else value


def refuse_secrets(node: Any, key: str = "") -> None:
    """ConfigError if a key or an environment variable is named like a secret: configs are written
    to files and sent to trackers."""
    if isinstance(node, dict | list):
        for name, value in node.items() if isinstance(node, dict) else enumerate(node):
            refuse_secrets(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, str) and (match := SECRET.search(node)):
        raise ConfigError(
            key,
            node,
            f"would write the secret {match[1].strip()} of the environment into the run's files",
        )
    elif isinstance(node, str) and SECRET_KEY.search(key.rpartition(".")[2]) and "${" not in node:
        raise ConfigError(key, "***", "would write a secret into the run's files")


def choices(cfg: DictConfig, hydra_node: Any = None) -> dict[str, str]:
    """The selected option of each configuration group."""
    options = (cfg.hydra if hydra_node is None else hydra_node).runtime.choices
    return {
        group: str(options[group]) for group in GROUPS if group != "study" and options.get(group)
    }


def study(cfg: DictConfig) -> Any:
    """The multirun's study, or None."""
    value = OmegaConf.to_container(cfg.study, resolve=True) if cfg.get("study") else None
    return part(value, "study", "sft_exp.sweep.study.Study") if value else None  # type: ignore[arg-type]


def experiment(config: dict[str, Any], choices: dict[str, str]) -> Experiment:
    """A plain config as an Experiment. ConfigError names the key, its value and what is valid."""
    values = updated(resolved(config))
    for key in RETIRED:
        node, _, word = key.rpartition(".")
        if word in values.get(node, {}):
            values[node] = {k: v for k, v in values[node].items() if k != word}
    plug(values.get("plugins"))
    for key, leaf in leaves(values).items():
        # a seed is hashed, and may have any size
        if type(leaf) is int and key != "seed" and not -(2**63) <= leaf < 2**63:
            raise ConfigError(key, leaf, "must be a whole number of at most 64 bits")
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
    require_container(list[Any], values.get("metrics"), "metrics")
    values["metrics"] = [metric(value) for value in values.get("metrics") or []]
    for key, kind in KEYS.items():
        if not isinstance(values[key], dict):
            names = ", ".join(f"{key}.{f.name}" for f in fields_of(kind))
            raise ConfigError(
                key, values[key], f"is a group of keys, and takes no value itself; valid: {names}"
            )
        for name, value in values[key].items():
            require_container(type_hints(kind).get(name, Any), value, f"{key}.{name}")
        try:
            values[key] = kind(**values[key])
        except ConfigError as error:
            raise error.under(key) from error
    values["choices"] = choices
    return Experiment(**values)


def part(value: dict[str, Any] | None, group: str, *kinds: str) -> Any:
    """The object that a node with `_target_` describes.

    Raises:
        ConfigError: the class cannot be imported, derives from none of `kinds`, or has no such
            field.
    """
    value = adopted(value)
    path = (value or {}).get("_target_")
    kind = " or ".join(kinds)
    if not isinstance(path, str):
        raise ConfigError(f"{group}._target_", path, f"must name a class derived from {kind}")
    if "." not in path:
        raise ConfigError(f"{group}._target_", path, "must be the path of a class, MODULE.CLASS")
    try:
        cls = locate(path)
    except (ImportError, AttributeError, ValueError, SyntaxError, NameError, TypeError) as error:
        why = f"{type(error).__name__}: {error}{place_of(error)}"
        raise ConfigError(f"{group}._target_", path, f"cannot be imported ({why})") from error
    if not (isinstance(cls, type) and any(issubclass(cls, locate(k)) for k in kinds)):
        raise ConfigError(f"{group}._target_", path, f"must be a class derived from {kind}")
    for old, new in MEMBERS.items():
        if any(old in vars(base) for base in cls.__mro__):
            raise ConfigError(f"{group}._target_", path, f"defines `{old}`, which is `{new}` now")
    options = {k: inner(v, f"{group}.{k}") for k, v in (value or {}).items() if k != "_target_"}
    for key, part_group in getattr(cls, "holds", {}).items():
        if key in options:
            options[key] = named(options[key], part_group, f"{group}.{key}")
    names = [f.name for f in fields_of(cls)]
    hints = type_hints(cls)
    for key, option in options.items():
        if key not in names:
            problem = f"no such field of {cls.__name__}{did_you_mean(key, names)}"
            raise ConfigError(f"{group}.{key}", option, problem)
        literals = get_args(hints[key])
        if get_origin(hints[key]) is Literal and option not in literals:
            raise ConfigError(
                f"{group}.{key}", option, f"must be {' or '.join(map(str, literals))}"
            )
        require_container(hints[key], option, f"{group}.{key}")
    try:
        return cls(**with_members(cls, options))
    except ConfigError as error:
        raise error.under(group) from error


def require_container(hint: Any, value: Any, key: str) -> None:
    """ConfigError for a single value where the hint says list or dict.

    OmegaConf checks what a value is, but not what `${another.key}` stands for.
    """
    kinds = {get_origin(h) or h for h in (get_args(hint) if is_union(hint) else [hint])}
    if kinds - {NoneType} <= {list, dict} and not (value is None or isinstance(value, list | dict)):
        valid = "must be a list" if list in kinds else "is a group of keys"
        raise ConfigError(key, value, valid)


def is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


@cache
def type_hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def place_of(error: BaseException) -> str:
    """`, FILE, line N` of the user's code that failed, by the last frame outside of this package
    and importlib; or ""."""
    frames = [f for f in extract_tb(error.__traceback__) if not f.filename.startswith("<")]
    ours = str(HERE / "config")
    users = [f for f in frames if not f.filename.startswith(ours) and "importlib" not in f.filename]
    return f", {users[-1].filename}, line {users[-1].lineno}" if users else ""


def adopted(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """Replace a node of a library's class, `torchvision.datasets.GTSRB`, by one of the part that
    wraps it.

    Keys that are not fields of the part are arguments of the library's class.
    """
    library, _, name = str((value or {}).get("_target_")).rpartition(".")
    if not value or library not in ADOPTED:
        return value
    stem, group = ADOPTED[library]
    wrapper = node(HERE / FOLDERS[group] / f"{stem}.py", f"{HERE.name}.{FOLDERS[group]}.{stem}")
    defaults = {f.name: f.default for f in fields_of(wrapper)}
    fields = {k: v for k, v in value.items() if k in defaults}
    options = {k: v for k, v in value.items() if k not in defaults} | fields.get("options", {})
    return {**fields, "_target_": defaults["_target_"], "name": name, "options": options}


def inner(value: Any, key: str) -> Any:
    """A field's value with its nodes built: a node with `_target_`, or a dict of them."""
    if not isinstance(value, dict):
        return value
    if "_target_" in value:
        return part(value, key, *dict.fromkeys(KINDS.values()))
    return {k: inner(v, f"{key}.{k}") for k, v in value.items()}


def named(value: Any, group: str, key: str) -> Any:
    """The part of a group with this file name and default options, or a dict of such parts; other
    values are kept."""
    files = {file.stem: (file, module) for g, file, module in parts() if g == group}

    def build(name: Any) -> Any:
        if not isinstance(name, str):
            return name
        if name not in files:
            raise ConfigError(
                key, value, f"{name!r} names no {group}{did_you_mean(name, list(files))}"
            )
        return part({"_target_": target_of(*files[name])}, key, (KINDS | LISTED_KINDS)[group])

    return {k: build(v) for k, v in value.items()} if isinstance(value, dict) else build(value)


def target_of(file: Path, module: str) -> str:
    """The `_target_` of the part in a file."""
    return next(str(f.default) for f in fields_of(node(file, module)) if f.name == "_target_")


def metric(value: Any) -> Any:
    """An entry of `metrics` as a part: a name, or a node with `_target_`, which may be a class of
    torchmetrics.

    Another name may be a metric of the task, which is unknown here, and stays a name.
    """
    files = {file.stem: (file, module) for group, file, module in parts() if group == "metric"}
    if isinstance(value, dict):
        target = str(value.get("_target_"))
        meant = next((name for name in (target, *value) if name in files), None)
        if meant or "_target_" not in value:
            path = target_of(*files[meant]) if meant else "MODULE.CLASS"
            options = next((v for v in value.values() if isinstance(v, dict)), value)
            given = {k: v for k, v in options.items() if k not in ("_target_", meant)}
            form = "".join(f", {k}: {text_of(v)}" for k, v in (given or {"KEY": "VALUE"}).items())
            valid = f"a metric with keys of its own is written {{_target_: {path}{form}}}"
            raise ConfigError("metrics", text_of([value]), valid)
        if target.startswith("torchmetrics."):
            options = {k: inner(v, f"metrics.{k}") for k, v in value.items() if k != "_target_"}
            wrapper = f"{HERE.name}.{LISTED['metric']}.torchmetrics_class.TorchMetric"
            value = {"_target_": wrapper, "path": target, "options": options}
        return part(value, "metrics", LISTED_KINDS["metric"])
    if not isinstance(value, str):
        raise ConfigError("metrics", value, "must be names of metrics, or nodes with _target_")
    return named(value, "metric", "metrics") if value in files else value


def locate(path: str) -> Any:
    module, _, name = current(path).rpartition(".")
    return getattr(import_module(module), name)
