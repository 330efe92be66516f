"""Hydra's side of the house: typed nodes of every part, and a composed config turned into an Experiment.

Nodes are read from the parts' source, so composing, `--help` and a typing error cost no `import torch`, and a broken
plugin breaks only itself.
"""

import ast
import os
import re
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import MISSING, field, make_dataclass
from dataclasses import fields as fields_of
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from omegaconf import DictConfig, OmegaConf
from omegaconf.basecontainer import BaseContainer

from sft_exp.errors import ConfigError
from sft_exp.experiment import Budget, Experiment, Features, Hardware, Protocol, Transfer, Tuning, Views, target

HERE = Path(__file__).parent
CONF = next(p for p in (HERE / "conf", HERE.parent / "conf") if (p / "config.yaml").is_file())  # in a wheel, in a checkout

FOLDERS = {  # group -> where its parts are, one dataclass a file
    "pretrainer": "pretrainers",
    "encoder": "encoders",
    "task": "tasks",
    "strategy": "strategies",
    "dataset": "datasets",
    "tracker": "trackers",
    "compress": "compressors",
    "export": "exporters",
}
KINDS = {  # group -> the class its parts derive from
    "pretrainer": "sft_exp.core.Pretrainer",
    "encoder": "sft_exp.core.Encoder",
    "task": "sft_exp.core.Task",
    "strategy": "sft_exp.core.Strategy",
    "dataset": "sft_exp.data.Dataset",
    "tracker": "sft_exp.track.Tracker",
    "compress": "sft_exp.core.Compressor",
    "export": "sft_exp.core.Exporter",
    "schedule": "sft_exp.schedule.Schedule",
    "pretrain_schedule": "sft_exp.schedule.Schedule",
}
KEYS: dict[str, Any] = {  # key of the root -> its dataclass
    "protocol": Protocol,
    "pretrain": Budget,
    "finetune": Tuning,
    "features": Features,
    "augment": Views,
    "transfer": Transfer,
    "hardware": Hardware,
}
ADOPTED = {"torchvision.datasets": ("torchvision_set", "dataset")}  # library -> our part that reads its classes, and its group
RETIRED = {  # keys that once were, and may stand in the results of old runs -> what to say instead
    "transfer.min_loaded": "weights are judged by layers now: transfer.allow=[conv1] names those that may be missing",
}
TYPES: dict[str, Any] = {t.__name__: t for t in (int, float, str, bool, list, dict, tuple)} | {"Any": Any}

SECRET = re.compile(r"oc\.env:\s*([^,}]*(?:SECRET|TOKEN|PASSW|API_?KEY|ACCESS_?KEY|PRIVATE|CREDENTIAL)[^,}]*)", re.IGNORECASE)
NULLABLE = ("pretrain_dataset", "study", "experiment", "debug")  # groups of which none is taken unless one is named

_plugged: list[Path] = []  # folders of the user's own parts
_sweep_name = [f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{uuid.uuid4().hex[:4]}"]  # of sweeps whose jobs are not known beforehand


def name_sweep(name: str) -> None:
    """Name the sweep's folder, before anything resolves it; Hydra hands resolved values on to the launchers' processes."""
    _sweep_name[0] = name


def register() -> None:
    """Tell Hydra of the root's schema, every part's, and our resolvers. Cheap: reads source, imports no part."""
    if (plugins := str(HERE / "plugins")) not in sys.path:
        sys.path.append(plugins)  # hydra_plugins is a namespace: ours is seen by this program alone
    store = ConfigStore.instance()
    store.store(name="experiment_schema", node=Experiment)
    store.store(group="schema", name="schedule", node=node(HERE / "schedule.py", "sft_exp.schedule"))
    store.store(group="schema", name="hardware", node=Hardware)
    store.store(group="schema", name="augment", node=Views)
    for group, file, module in parts({**FOLDERS, "study": "studies"}):
        with suppress(SyntaxError, ValueError, KeyError):  # a broken part breaks itself alone, when it is asked for
            store.store(group=f"schema/{group}", name=file.stem, node=open_ended(node(file, module), file))
    OmegaConf.register_new_resolver("short_id", lambda: uuid.uuid4().hex[:4], use_cache=True, replace=True)
    OmegaConf.register_new_resolver("sweep_name", lambda: _sweep_name[0], use_cache=True, replace=True)
    OmegaConf.register_new_resolver("plugins_path", plugins_path, replace=True)
    OmegaConf.register_new_resolver("dataset_option", dataset_option, replace=True)
    OmegaConf.register_new_resolver("options_help", options_help, replace=True)


@contextmanager
def alone() -> Iterator[None]:
    """Inside, Hydra's global state is ours; afterwards that of the program which called us is as it was: its GlobalHydra,
    HydraConfig, job runtime and version base, and its resolvers."""
    kept, resolvers = dict(Singleton._instances), dict(BaseContainer._resolvers)
    for kind in [k for k in kept if k.__name__ in ("GlobalHydra", "HydraConfig", "JobRuntime", "VersionBase")]:
        del Singleton._instances[kind]
    try:
        yield
    finally:
        Singleton._instances.clear()
        Singleton._instances.update(kept)
        BaseContainer._resolvers.clear()
        BaseContainer._resolvers.update(resolvers)


def without_nulls(overrides: list[str]) -> list[str]:
    """The overrides with `tracker=null` as `tracker=none`, and likewise in other groups that have an option of that name; a group
    of which none is taken by default is left at that. ConfigError for the others, which need an option."""
    made: list[str] = []
    for override in overrides:
        key, equals, value = override.partition("=")
        group = key.lstrip("+")
        values = value.split(",")
        if not equals or group not in GROUPS or not {"null", "None"} & set(values):
            made.append(override)
        elif "none" in options(group):
            made.append(f"{key}={','.join('none' if v in ('null', 'None') else v for v in values)}")
        elif group in NULLABLE and len(values) == 1:
            made = [o for o in made if o.partition("=")[0].lstrip("+") != group]
        else:
            raise ConfigError(group, value, f"needs an option; valid: {', '.join(options(group))}")
    return made


def plugins_path() -> str:
    """PYTHONPATH for processes of launchers that unpickle a job before they import us."""
    return os.pathsep.join([str(HERE / "plugins"), *filter(None, [os.environ.get("PYTHONPATH")])])


def parts(folders: dict[str, str] = FOLDERS) -> list[tuple[str, Path, str]]:
    """Every part's (group, file, module): ours, and those of the folders plugged in."""
    roots = [(HERE, HERE.name), *((folder, folder.name) for folder in _plugged)]
    return [
        (group, file, f"{package}.{folder}.{file.stem}")
        for root, package in roots
        for group, folder in folders.items()
        for file in sorted((root / folder).glob("*.py"))
        if file.stem != "__init__"
    ]


def plug(folder: str | None) -> None:
    """Make the methods in a user's folder parts like ours: `folder/pretrainers/mine.py` is `schema/pretrainer/mine`, and the
    module `<folder's name>.pretrainers.mine`. ConfigError if it is no such folder. Imports none of them."""
    if not folder:
        return
    path = Path(folder).expanduser().resolve()
    if path in _plugged:
        return
    if not any((path / inside).is_dir() for inside in FOLDERS.values()):
        raise ConfigError("plugins", folder, f"must be a folder with one of {', '.join(FOLDERS.values())} in it")
    spec = find_spec(path.name) if path.name.isidentifier() else None
    if not path.name.isidentifier() or (spec and {Path(p).resolve() for p in spec.submodule_search_locations or [""]} != {path}):
        raise ConfigError(
            "plugins", folder, f"its name becomes a package, and {path.name} is none or is taken; rename the folder"
        )
    sys.path.append(str(path.parent))
    _plugged.append(path)
    register()


def plugged() -> list[Path]:
    """Folders of the user's own parts."""
    return list(_plugged)


def plugins_in(overrides: list[str]) -> str | None:
    """The value of `plugins=` among a command's words: parts must be known before anything is composed."""
    return next((o.partition("=")[2].strip("'\"") for o in reversed(overrides) if o.lstrip("+").startswith("plugins=")), None)


def dataset_option(name: str | None) -> dict[str, Any] | None:
    """What `dataset=<name>` composes to, for those who name a second data set by a value."""
    if not name:
        return None
    with searching():
        return OmegaConf.to_container(hydra.compose("config", [f"dataset={name}"]).dataset)  # type: ignore[return-value]


def searching() -> Any:
    """A context in which Hydra composes: the one that it is in already, or with our own conf/ alone."""
    begun = GlobalHydra.instance().is_initialized()
    return nullcontext() if begun else hydra.initialize_config_dir(str(CONF), version_base="1.3")


def composed(overrides: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """(config, option taken in each group) that the overrides stand for; `???` where a value is missing."""
    register()
    with searching():
        cfg = hydra.compose("config", overrides, return_hydra_config=True)
    ours = OmegaConf.masked_copy(cfg, [k for k in cfg if k not in ("hydra", "study")])  # type: ignore[misc]
    found: Any = OmegaConf.to_container(ours, resolve=True)
    return found, choices(cfg)


def search_path() -> list[str]:
    """The override that adds the user's own folders of options to the search path; none where there are no such folders."""
    if not GlobalHydra.instance().is_initialized():
        return []
    entries = GlobalHydra.instance().config_loader().get_search_path().get_path()
    users = [e.path for e in entries if e.provider not in ("hydra", "main", "schema")]
    return [f"hydra.searchpath=[{','.join(users)}]"] if users else []


def node(file: Path, module: str) -> type:
    """The dataclass in a part's file as a typed Hydra node: its fields with their literal defaults, and where to find it."""
    body = ast.parse(file.read_text()).body
    (kind,) = [c for c in body if isinstance(c, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in c.decorator_list)]
    target: Any = ("_target_", str, field(default=f"{module}.{kind.name}"))
    found = [target, *(f for base in kind.bases for f in inherited(ast.unparse(base), body)), *own(kind)]
    return make_dataclass(kind.name, list({f[0]: f for f in found}.values()))  # a field given anew has its new default


def open_ended(kind: type, file: Path) -> Any:
    """The node, where fields hold parts (`holds`) or a library's arguments (`passes`) open for names that nobody foresaw:
    `task.heads.mask=segment`, `encoder.options={img_size: 32}`, `dataset.options.split=letters`."""
    lines = (line for c in ast.parse(file.read_text()).body if isinstance(c, ast.ClassDef) for line in c.body)
    declared = {ast.unparse(line.target): line.value for line in lines if isinstance(line, ast.AnnAssign)}
    names = [name for key in ("holds", "passes") if (value := declared.get(key)) for name in ast.literal_eval(value)]
    if not names:
        return kind
    made = OmegaConf.structured(kind)
    for name in names:
        if OmegaConf.is_dict(made[name]):
            OmegaConf.set_struct(made[name], False)
    return made


def own(kind: ast.ClassDef) -> list[Any]:
    """The fields that a class's body declares: (name, type, dataclass field)."""
    lines = [line for line in kind.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)]
    return [
        (line.target.id, annotation(line.annotation), default(line.value))  # type: ignore[union-attr]
        for line in lines
        if "ClassVar" not in ast.unparse(line.annotation)
    ]


def inherited(base: str, body: list[ast.stmt]) -> list[Any]:
    """The fields that a part has from its base: those of the other part that it builds on, `class Mine(VAE)`, or those that every
    part of its kind has."""
    source = next(
        (n.module for n in body if isinstance(n, ast.ImportFrom) and base in [a.asname or a.name for a in n.names]), None
    )
    if found := next(((file, module) for _, file, module in parts() if module == source), None):
        return [
            (f.name, f.type, field(default=f.default, default_factory=f.default_factory))
            for f in fields_of(node(*found))
            if f.name != "_target_"
        ]
    return of_kind(base)


@cache
def of_kind(base: str) -> list[Any]:
    """The fields of a class of core.py."""
    file = HERE / "core.py"
    return [f for c in ast.parse(file.read_text()).body if isinstance(c, ast.ClassDef) and c.name == base for f in own(c)]


def annotation(tree: ast.expr) -> Any:
    """A field's type from its source: int, list[int], dict, `float | None`, ..."""
    if isinstance(tree, ast.Constant) and tree.value is None:
        return None
    if isinstance(tree, ast.BinOp):
        return annotation(tree.left) | annotation(tree.right)
    if isinstance(tree, ast.Subscript):
        inner = tree.slice.elts if isinstance(tree.slice, ast.Tuple) else [tree.slice]
        return TYPES[ast.unparse(tree.value)][tuple(annotation(t) for t in inner)]
    return TYPES[ast.unparse(tree)]


def default(tree: ast.expr | None) -> Any:
    """A dataclass field with the literal that the source gives, itself or in `field(default=...)` or its `default_factory`."""
    if tree is None:
        return field()
    if isinstance(tree, ast.Call):
        given = {k.arg: k.value for k in tree.keywords}
        if "default" in given:
            return field(default=ast.literal_eval(given["default"]))
        factory = given["default_factory"]
        value = ast.literal_eval(factory.body if isinstance(factory, ast.Lambda) else factory)
        return field(default_factory=lambda: value)
    return field(default=ast.literal_eval(tree))


def plain(cfg: DictConfig) -> dict[str, Any]:
    """One job's part of a composed config, resolved, as plain data."""
    ours = OmegaConf.masked_copy(cfg, [k for k in cfg if k not in ("hydra", "study")])  # type: ignore[misc]
    no_secrets(OmegaConf.to_container(ours, resolve=False))
    return OmegaConf.to_container(ours, resolve=True, throw_on_missing=True)  # type: ignore[return-value]


def no_secrets(node: Any, key: str = "") -> None:
    """ConfigError for a value that reads a secret of the environment: values are written to results.json and report.html."""
    if isinstance(node, dict | list):
        for name, value in node.items() if isinstance(node, dict) else enumerate(node):
            no_secrets(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, str) and (found := SECRET.search(node)):
        raise ConfigError(key, node, f"would write the secret {found[1].strip()} of the environment into the run's files")


def choices(cfg: DictConfig, hydra_node: Any = None) -> dict[str, str]:
    """The option taken in each of our groups."""
    taken = (cfg.hydra if hydra_node is None else hydra_node).runtime.choices
    return {group: str(taken[group]) for group in GROUPS if group != "study" and taken.get(group)}


@cache
def default_choices() -> dict[str, str]:
    """The option that conf/config.yaml takes in each group, where it takes one."""
    listed: Any = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    return {group: str(v) for d in listed["defaults"] if isinstance(d, dict) for group, v in d.items() if v}


def study(cfg: DictConfig) -> Any:
    """The study that the multirun is, or None."""
    found = OmegaConf.to_container(cfg.study, resolve=True) if cfg.get("study") else None
    return part(found, "study", "sft_exp.study.Study") if found else None  # type: ignore[arg-type]


def experiment(config: dict[str, Any], choices: dict[str, str]) -> Experiment:
    """A plain config as typed parts; imports them, and with them torch. ConfigError names key, value and what is valid."""
    values = dict(config)
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
        values["pretrain_dataset"] = part(values["pretrain_dataset"], "pretrain_dataset", KINDS["dataset"])
    for key, made in KEYS.items():
        if not isinstance(values[key], dict):
            names = ", ".join(f"{key}.{f.name}" for f in fields_of(made))
            raise ConfigError(key, values[key], f"is a group of keys, and takes no value itself; valid: {names}")
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
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{group}._target_", path, f"cannot be imported ({error})") from error
    if not (isinstance(found, type) and any(issubclass(found, locate(k)) for k in kinds)):
        raise ConfigError(f"{group}._target_", path, f"must be a class derived from {kind}")
    options = {k: inner(v, f"{group}.{k}") for k, v in (value or {}).items() if k != "_target_"}
    for key, of in getattr(found, "holds", {}).items():
        if key in options:
            options[key] = named(options[key], of, f"{group}.{key}")
    names = [f.name for f in fields_of(found)]
    for key in options:
        if key not in names:
            raise ConfigError(f"{group}.{key}", options[key], f"no such field of {found.__name__}{did_you_mean(key, names)}")
    try:
        return found(**options)
    except ConfigError as error:
        raise error.under(group) from error


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
    return {**fields, "_target_": known["_target_"], "name": name, "options": {**options, **fields.get("options", {})}}


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
            raise ConfigError(key, value, f"{name!r} names no {group}{did_you_mean(name, list(known))}")
        target = next(f.default for f in fields_of(node(*known[name])) if f.name == "_target_")
        return part({"_target_": target}, key, KINDS[group])

    return {k: made(v) for k, v in value.items()} if isinstance(value, dict) else made(value)


def locate(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def did_you_mean(word: str, known: list[str]) -> str:
    """`; did you mean x?` for a close name, else the valid ones."""
    close = get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; valid: {', '.join(known)}"


def options(group: str) -> dict[str, str]:
    """Option -> its one-line description: the first comment of its YAML."""
    return {f.stem: first_comment(f) for f in sorted((CONF / group).glob("*.yaml"))}


def first_comment(file: Path) -> str:
    lines = (line for line in file.read_text().splitlines() if line.startswith("#") and "@package" not in line)
    return next(lines, "").removeprefix("#").strip()


GROUPS = (
    "pretrainer", "encoder", "task", "strategy", "optim", "schedule", "dataset", "augment", "hardware", "tracker",
    "compress", "export", "pretrain_optim", "pretrain_schedule", "pretrain_dataset", "study", "experiment", "debug",
)  # fmt: skip


def options_help() -> str:
    """The text of --help: every group with its options, every key of the contract with its meaning."""
    text = [
        "Pretrain without labels, fine-tune with few, and say whether it helped.",
        "",
        "  python -m sft_exp pretrainer=vae optim=adam",
        "  python -m sft_exp -m pretrainer=ae,vae optim=sgd,adam optim.lr=1e-2,1e-3",
        "",
        "Groups (group=option)",
    ]
    for group in GROUPS:
        text.append(f"\n  {group}")
        text += [f"    {name:16} {what}" for name, what in options(group).items()]
    text += ["", "Keys (key=value)", ""]
    comments = field_comments(HERE / "experiment.py", "Experiment")
    for f in fields_of(Experiment):
        if f.name not in GROUPS and f.name in comments:
            value = f.default if f.default is not MISSING else ""
            text.append(f"    {f.name + '=' + str(value):24} {comments[f.name]}")
    text += [
        "",
        "Keys inside a group: --cfg job, or --cfg job --package optim. Flags of Hydra: --hydra-help.",
        'Tab completion: eval "$(sft_exp -sc install=bash)"',
    ]
    return "\n".join(text).replace("$", "$$")


def field_comments(file: Path, name: str) -> dict[str, str]:
    """field -> the comment behind it in the source."""
    lines = file.read_text().splitlines()
    (kind,) = [c for c in ast.parse("\n".join(lines)).body if isinstance(c, ast.ClassDef) and c.name == name]
    found = {}
    for line in kind.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and "  # " in (text := lines[line.lineno - 1]):
            found[line.target.id] = text.split("  # ", 1)[1]
    return found
