"""Typed Hydra nodes made from the source of parts, so that composing needs no `import torch`."""

import ast
from collections.abc import Sequence
from dataclasses import field, make_dataclass
from dataclasses import fields as fields_of
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

HERE = Path(__file__).parents[1]  # the package
# in a wheel, or in a checkout
CONF = next(p for p in (HERE / "conf", HERE.parent / "conf") if (p / "config.yaml").is_file())

FOLDERS = {  # group -> folder of its parts, one dataclass per file
    "pretrainer": "pretrainers",
    "encoder": "encoders",
    "task": "tasks",
    "strategy": "strategies",
    "schedule": "schedules",
    "dataset": "datasets",
    "tracker": "trackers",
    "compress": "compressors",
    "export": "exporters",
}
LISTED = {"metric": "metrics"}  # likewise for parts in a list of names: metrics=[top_k]
KINDS = {  # group -> base class of its parts
    "pretrainer": "sft_exp.core.pretrainer.Pretrainer",
    "encoder": "sft_exp.core.encoder.Encoder",
    "task": "sft_exp.core.task.Task",
    "strategy": "sft_exp.core.strategy.Strategy",
    "dataset": "sft_exp.data.corpus.Dataset",
    "tracker": "sft_exp.core.tracker.Tracker",
    "compress": "sft_exp.core.deploy.Compressor",
    "export": "sft_exp.core.deploy.Exporter",
    "schedule": "sft_exp.core.schedule.Schedule",
    "pretrain_schedule": "sft_exp.core.schedule.Schedule",
}
STUDY = "sft_exp.sweep.study.Study"  # base class of studies
LISTED_KINDS = {"metric": "sft_exp.core.metric.Metric"}
TYPES: dict[str, Any] = {t.__name__: t for t in (int, float, str, bool, list, dict, tuple)} | {
    "Any": Any
}

MIRRORED = {  # group of pretraining -> group whose options it also has
    "pretrain_optim": "optim",
    "pretrain_schedule": "schedule",
    "pretrain_dataset": "dataset",
}

_plugged: list[Path] = []  # folders of the user's own parts
_options: list[Path] = []  # folders of the user's own options, beside conf/


def parts(folders: dict[str, str] = FOLDERS | LISTED) -> list[tuple[str, Path, str]]:
    """(group, file, module) of every part of this package and of the user's folders."""
    roots = [(HERE, HERE.name), *((folder, folder.name) for folder in _plugged)]
    return [
        (group, file, f"{package}.{folder}.{file.stem}")
        for root, package in roots
        for group, folder in folders.items()
        for file in sorted((root / folder).glob("*.py"))
        if file.stem != "__init__"
    ]


def plugged() -> list[Path]:
    """Folders of the user's own parts."""
    return list(_plugged)


def option_folders() -> list[Path]:
    """Folders of the user's own options: `conf` in plug-in folders, and that of `--config-dir`."""
    return list(_options)


def option_files(group: str) -> dict[str, Path]:
    """Option -> its YAML file, in conf/ or a folder of the user; conf/ comes first, as in Hydra."""
    return {
        file.stem: file
        for folder in (*reversed(_options), CONF)
        for file in sorted((folder / group).glob("*.yaml"))
    }


def node(file: Path, module: str) -> type:
    """The dataclass of a part as a typed Hydra node: its fields with defaults, and `_target_`.

    Raises SyntaxError, and ValueError for what cannot be read without importing the file.
    """
    body = ast.parse(file.read_text(), file.name).body
    classes = [
        statement
        for statement in body
        if isinstance(statement, ast.ClassDef)
        and any("dataclass" in ast.unparse(d) for d in statement.decorator_list)
    ]
    if len(classes) != 1:
        names = ", ".join(c.name for c in classes) or "none"
        raise ValueError(f"must hold one dataclass, the part, and holds {names}")
    kind = classes[0]
    entries: list[Any] = [("_target_", str, field(default=f"{module}.{kind.name}"))]
    for base in kind.bases:
        entries += inherited(ast.unparse(base), body)
    entries += own(kind, body)
    # a field that is declared again has its new default
    return make_dataclass(kind.name, list({entry[0]: entry for entry in entries}.values()))


def open_ended(kind: type, file: Path) -> Any:
    """The node, with dict fields that accept any key where the part declares so.

    Those are fields that hold parts (`holds`) or arguments of a library (`passes`):
    `task.heads.mask=segment`, `encoder.options={img_size: 32}`, `dataset.options.split=letters`.
    """
    declared = {
        ast.unparse(line.target): line.value
        for statement in ast.parse(file.read_text()).body
        if isinstance(statement, ast.ClassDef)
        for line in statement.body
        if isinstance(line, ast.AnnAssign)
    }
    names: list[str] = []
    for key in ("holds", "passes"):
        if value := declared.get(key):
            names += ast.literal_eval(value)
    if not names:
        return kind
    config = OmegaConf.structured(kind)
    for name in names:
        if OmegaConf.is_dict(config[name]):
            OmegaConf.set_struct(config[name], False)
    return config


def own(kind: ast.ClassDef, body: Sequence[ast.stmt] = ()) -> list[Any]:
    """The fields that the body of a class declares: (name, type, dataclass field)."""
    entries: list[Any] = []
    for line in kind.body:
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
            continue
        if "ClassVar" in ast.unparse(line.annotation):
            continue
        name = line.target.id
        try:
            entries.append((name, annotation(line.annotation, body), default(line.value, body)))
        except (KeyError, ValueError, TypeError) as error:
            types = f"{', '.join(TYPES)}, Literal or an Enum of this file"
            raise ValueError(
                f"line {line.lineno}: {ast.unparse(line)}: a field has a type made of {types}, "
                "and as its default a literal, a constant of this file or a member of its Enum"
            ) from error
    return entries


def inherited(base: str, body: list[ast.stmt]) -> list[Any]:
    """The fields inherited from another part (`class Mine(VAE)`), or from the parts' base class."""
    imports = [n for n in body if isinstance(n, ast.ImportFrom)]
    source = next(
        (n.module for n in imports if base in [a.asname or a.name for a in n.names]), None
    )
    for _, file, module in parts():
        if module == source:
            return [
                (f.name, f.type, field(default=f.default, default_factory=f.default_factory))
                for f in fields_of(node(file, module))
                if f.name != "_target_"
            ]
    return of_kind(base)


@cache
def of_kind(base: str) -> list[Any]:
    """The fields of the base class named `base` in sft_exp.core, or of studies' own; [] if there is
    no such class."""
    kinds = [*(kind for kind in KINDS.values() if kind.startswith("sft_exp.core.")), STUDY]
    paths = [kind for kind in kinds if kind.endswith(f".{base}")]
    if not paths:
        return []
    file = HERE.parent.joinpath(*paths[0].split(".")[:-1]).with_suffix(".py")
    return [
        f
        for c in ast.parse(file.read_text()).body
        if isinstance(c, ast.ClassDef) and c.name == base
        for f in own(c)
    ]


def is_enum(name: str, body: Sequence[ast.stmt]) -> bool:
    """Whether a name is an Enum of the file, whose members have the same names in configs."""
    return any(
        isinstance(c, ast.ClassDef)
        and c.name == name
        and any(ast.unparse(b).endswith(("Enum", "Flag")) for b in c.bases)
        for c in body
    )


def annotation(tree: ast.expr, body: Sequence[ast.stmt] = ()) -> Any:
    """A field's type from its source: int, list[int], `float | None`, ...; str for an Enum."""
    if isinstance(tree, ast.Name) and is_enum(tree.id, body):
        return str
    if isinstance(tree, ast.Constant) and tree.value is None:
        return None
    if isinstance(tree, ast.BinOp):
        return annotation(tree.left, body) | annotation(tree.right, body)
    if isinstance(tree, ast.Subscript) and ast.unparse(tree.value) in ("Literal", "typing.Literal"):
        values = ast.literal_eval(tree.slice)
        kinds = {type(value) for value in (values if isinstance(values, tuple) else (values,))}
        return kinds.pop() if len(kinds) == 1 else Any
    if isinstance(tree, ast.Subscript):
        inner = tree.slice.elts if isinstance(tree.slice, ast.Tuple) else [tree.slice]
        return TYPES[ast.unparse(tree.value)][tuple(annotation(t, body) for t in inner)]
    return TYPES[ast.unparse(tree)]


def default(tree: ast.expr | None, body: Sequence[ast.stmt] = ()) -> Any:
    """A dataclass field with the default in the source.

    That is a literal, also in `field(default=...)` or its `default_factory`, a constant of the
    module, or a member of an Enum.
    """
    if tree is None:
        return field()
    if isinstance(tree, ast.Name):  # a constant of the module
        constants = {
            ast.unparse(target): statement.value
            for statement in body
            if isinstance(statement, ast.Assign)
            for target in statement.targets
        }
        return default(constants[tree.id])
    if isinstance(tree, ast.Attribute) and is_enum(ast.unparse(tree.value), body):
        return field(default=tree.attr)
    if isinstance(tree, ast.Call):
        arguments = {k.arg: k.value for k in tree.keywords}
        if "default" in arguments:
            return default(arguments["default"], body)
        factory = arguments["default_factory"]
        value = ast.literal_eval(factory.body if isinstance(factory, ast.Lambda) else factory)
        return field(default_factory=lambda: value)
    return field(default=ast.literal_eval(tree))
