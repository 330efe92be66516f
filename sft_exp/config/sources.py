"""Parts read from their source: typed Hydra nodes without importing a part, so composing costs no `import torch`."""

import ast
from collections.abc import Sequence
from dataclasses import field, make_dataclass
from dataclasses import fields as fields_of
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

HERE = Path(__file__).parents[1]  # the package
# in a wheel, in a checkout
CONF = next(p for p in (HERE / "conf", HERE.parent / "conf") if (p / "config.yaml").is_file())

FOLDERS = {  # group -> where its parts are, one dataclass a file
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
LISTED = {"metric": "metrics"}  # the same for parts that a list of names takes: metrics=[top_k]
KINDS = {  # group -> the class its parts derive from
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
LISTED_KINDS = {"metric": "sft_exp.core.metric.Metric"}
TYPES: dict[str, Any] = {t.__name__: t for t in (int, float, str, bool, list, dict, tuple)} | {
    "Any": Any
}

MIRRORED = {  # group of the pretraining -> group whose options it has
    "pretrain_optim": "optim",
    "pretrain_schedule": "schedule",
    "pretrain_dataset": "dataset",
}

_plugged: list[Path] = []  # folders of the user's own parts
_options: list[Path] = []  # folders of the user's own options, besides conf/


def parts(folders: dict[str, str] = FOLDERS | LISTED) -> list[tuple[str, Path, str]]:
    """Every part's (group, file, module): ours, and those of the folders plugged in."""
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
    """Folders of the user's own options: `conf` in plug-in folders, and what `--config-dir` names."""
    return list(_options)


def option_files(group: str) -> dict[str, Path]:
    """Option -> its YAML file, in conf/ and in the user's folders; conf/ comes first, as Hydra has it."""
    return {
        file.stem: file
        for folder in (*reversed(_options), CONF)
        for file in sorted((folder / group).glob("*.yaml"))
    }


def node(file: Path, module: str) -> type:
    """The dataclass in a part's file as a typed Hydra node: its fields with their literal defaults, and where to find it."""
    body = ast.parse(file.read_text()).body
    (kind,) = [
        c
        for c in body
        if isinstance(c, ast.ClassDef)
        and any("dataclass" in ast.unparse(d) for d in c.decorator_list)
    ]
    target: Any = ("_target_", str, field(default=f"{module}.{kind.name}"))
    found = [
        target,
        *(f for base in kind.bases for f in inherited(ast.unparse(base), body)),
        *own(kind, body),
    ]
    # a field given anew has its new default
    return make_dataclass(kind.name, list({f[0]: f for f in found}.values()))


def open_ended(kind: type, file: Path) -> Any:
    """The node, where fields hold parts (`holds`) or a library's arguments (`passes`) open for names that nobody foresaw:
    `task.heads.mask=segment`, `encoder.options={img_size: 32}`, `dataset.options.split=letters`."""
    lines = (
        line
        for c in ast.parse(file.read_text()).body
        if isinstance(c, ast.ClassDef)
        for line in c.body
    )
    declared = {
        ast.unparse(line.target): line.value for line in lines if isinstance(line, ast.AnnAssign)
    }
    names = [
        name
        for key in ("holds", "passes")
        if (value := declared.get(key))
        for name in ast.literal_eval(value)
    ]
    if not names:
        return kind
    made = OmegaConf.structured(kind)
    for name in names:
        if OmegaConf.is_dict(made[name]):
            OmegaConf.set_struct(made[name], False)
    return made


def own(kind: ast.ClassDef, body: Sequence[ast.stmt] = ()) -> list[Any]:
    """The fields that a class's body declares: (name, type, dataclass field)."""
    lines = [
        line
        for line in kind.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    ]
    return [
        (line.target.id, annotation(line.annotation), default(line.value, body))  # type: ignore[union-attr]
        for line in lines
        if "ClassVar" not in ast.unparse(line.annotation)
    ]


def inherited(base: str, body: list[ast.stmt]) -> list[Any]:
    """The fields that a part has from its base: those of the other part that it builds on, `class Mine(VAE)`, or those that every
    part of its kind has."""
    source = next(
        (
            n.module
            for n in body
            if isinstance(n, ast.ImportFrom) and base in [a.asname or a.name for a in n.names]
        ),
        None,
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
    """The fields of a contract: of the class named `base` in its module of core."""
    path = next(
        (p for p in KINDS.values() if p.startswith("sft_exp.core.") and p.endswith(f".{base}")),
        None,
    )
    if path is None:
        return []
    file = HERE.parent.joinpath(*path.split(".")[:-1]).with_suffix(".py")
    return [
        f
        for c in ast.parse(file.read_text()).body
        if isinstance(c, ast.ClassDef) and c.name == base
        for f in own(c)
    ]


def annotation(tree: ast.expr) -> Any:
    """A field's type from its source: int, list[int], dict, `float | None`, ..."""
    if isinstance(tree, ast.Constant) and tree.value is None:
        return None
    if isinstance(tree, ast.BinOp):
        return annotation(tree.left) | annotation(tree.right)
    if isinstance(tree, ast.Subscript) and ast.unparse(tree.value) in ("Literal", "typing.Literal"):
        given = ast.literal_eval(tree.slice)
        kinds = {type(value) for value in (given if isinstance(given, tuple) else (given,))}
        return kinds.pop() if len(kinds) == 1 else Any
    if isinstance(tree, ast.Subscript):
        inner = tree.slice.elts if isinstance(tree.slice, ast.Tuple) else [tree.slice]
        return TYPES[ast.unparse(tree.value)][tuple(annotation(t) for t in inner)]
    return TYPES[ast.unparse(tree)]


def default(tree: ast.expr | None, body: Sequence[ast.stmt] = ()) -> Any:
    """A dataclass field with the literal that the source gives, itself or in `field(default=...)` or its `default_factory`."""
    if tree is None:
        return field()
    if isinstance(tree, ast.Name):  # a constant of the module
        known = {
            n: s for s in body if isinstance(s, ast.Assign) for n in map(ast.unparse, s.targets)
        }
        return default(known[tree.id].value)
    if isinstance(tree, ast.Call):
        given = {k.arg: k.value for k in tree.keywords}
        if "default" in given:
            return field(default=ast.literal_eval(given["default"]))
        factory = given["default_factory"]
        value = ast.literal_eval(factory.body if isinstance(factory, ast.Lambda) else factory)
        return field(default_factory=lambda: value)
    return field(default=ast.literal_eval(tree))
