"""The only file of the fingerprints that knows where the package keeps things: after a move or a renaming, edit this one.

Everything here takes and gives plain data, tensors, or objects that the other files hand back without looking inside. Names on
the left of this border are those of config groups, options and shapes; module paths, classes and methods of the package occur
below only.
"""

import ast
import copy
import inspect
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import hydra
import torch
from hydra.errors import HydraException
from omegaconf import OmegaConf
from torch import Tensor, nn

import sft_exp
from sft_exp.config import build, help_text, hydra_state, register, sources
from sft_exp.config.schema import OptimizerConfig
from sft_exp.config.schema import target as target_of
from sft_exp.core.rng import seed_global, seed_of, stream
from sft_exp.core.types import Spec
from sft_exp.data import augment as views
from sft_exp.data import splits
from sft_exp.data.corpus import Corpus
from sft_exp.data.images import Images
from sft_exp.data.order import rows_of_step
from sft_exp.errors import ConfigError, DataError
from sft_exp.models.feature_extractor import FeatureExtractor, layers
from sft_exp.schedules.piecewise_cosine import PiecewiseCosine
from sft_exp.stages import model as models
from sft_exp.stages.finetune import method_of, pull, trainable_phases
from sft_exp.training.loop import Plan, train
from sft_exp.training.optim import optimizers_for

CPU = torch.device("cpu")
CLASSES = ("a", "b", "c", "d")
Image = tuple[int, int, int]


@contextmanager
def exactly() -> Iterator[None]:
    """float64 and one thread for everything inside."""
    before, threads, state = (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.get_rng_state(),
    )
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        torch.set_num_threads(threads)
        torch.set_rng_state(state)


# Parts


@cache
def registered() -> None:
    register.register()


@cache
def options(group: str) -> tuple[str, ...]:
    """Options of a config group, by the names of its YAMLs."""
    return tuple(sorted(help_text.options(group)))


@cache
def node(group: str, option: str) -> Any:
    """What `group=option` puts into the config, resolved beside the defaults of all other groups."""
    registered()
    with hydra_state.initialized():
        try:
            cfg = hydra.compose(f"{group}/{option}")
        except HydraException:  # it overrides other groups
            cfg = hydra.compose("config", overrides=[f"{group}={option}"])
        defaults = {
            "augment": defaults_of("augment", "digits"),
            "task": defaults_of("task", "classify"),
        }
    return OmegaConf.to_container(OmegaConf.create({**defaults, group: cfg[group]}), resolve=True)[
        group
    ]


@cache
def defaults_of(group: str, option: str) -> Any:
    return OmegaConf.to_container(hydra.compose(f"{group}/{option}")[group], resolve=False)


def part(group: str, option: str, **changes: Any) -> Any:
    """The object that an option stands for; of an optimizer its class and settings."""
    values = {**node(group, option), **changes}
    if group == "optim":
        return target_of(values, group)
    if group == "augment":
        return build.KEYS["augment"](**values)
    return build.part(values, group, sources.KINDS[group])


def settings(part: Any) -> list[Any]:
    """Values of all fields, the parts inside it included, without their names."""
    if is_dataclass(part):
        return [settings(getattr(part, f.name)) for f in fields(part)]
    if isinstance(part, dict):
        return [settings(v) for v in part.values()]
    return [settings(v) for v in part] if isinstance(part, list | tuple) else part


def kind_of(part: Any) -> str:
    """How a pretrainer learns: by gradient, in closed form, from a file, nothing."""
    return part.trained_by


def closed_form(strategy: Any) -> bool:
    return strategy.closed_form


def starts_at_maps(task: Any) -> bool:
    return not task.pooled


def batches_everything(group: str, option: str) -> bool:
    """Whether an optimizer takes all examples at each step."""
    return node(group, option).get("batch_size") == "all"


def installed(optimizer: OptimizerConfig) -> bool:
    """Whether the library of an optimizer is installed."""
    return find_spec(optimizer.path.partition(".")[0]) is not None


def handed_on(pretrainer: Any) -> list[Any]:
    """Which features of a pretrained encoder are fine-tuned."""
    return [list(pretrainer.features), pretrainer.pool, pretrainer.grid]


# Data


def examples(image: Image, count: int = 24, seed: int = 0) -> Images:
    """Images with all that a task may learn of them, made without a data set: smooth shapes on noise, float64 in [0, 1]."""
    rng = torch.Generator().manual_seed(1000 + seed)
    channels, height, width = image
    smooth = torch.rand(count, channels, 3, 3, generator=rng, dtype=torch.float64)
    x_NCHW = nn.functional.interpolate(smooth, (height, width), mode="bilinear", align_corners=True)
    x_NCHW = (
        0.8 * x_NCHW + 0.2 * torch.rand(x_NCHW.shape, generator=rng, dtype=torch.float64)
    ).clamp(0, 1)
    n = torch.arange(count)
    top, left = n % (height // 2), n % (width // 2)
    boxes = torch.stack(
        [left, top, left + width // 3 + n % 2 + 1, top + height // 3 + n % 3 + 1], 1
    )[:, None].double()
    targets = {
        "mask": (x_NCHW[:, 0] > 0.5).to(torch.uint8),
        "value": x_NCHW.mean((1, 2, 3))[:, None],
        "boxes": boxes,
        "labels": (n % 4)[:, None] + 1,
        "crowd": torch.zeros(count, 1, dtype=torch.uint8),
    }
    # class c where n has this bit; every sixteenth image has none of the classes
    targets["label_set"] = (n[:, None] >> torch.arange(4) & 1).to(torch.uint8)
    targets |= {"left": n % 4, "right": n // 4 % 4}
    return Images(x_NCHW, n % 4, [str(i) for i in n.tolist()], targets=targets)


def spec_of(image: Image) -> Spec:
    return Spec(
        image,
        CLASSES,
        {"mask": ("paper", "ink"), "value": ("ink",), "left": CLASSES, "right": CLASSES},
    )


def numbers_of(images: Images) -> tuple[Tensor, Tensor, Tensor]:
    """(images as vectors [N, C * H * W], classes [N], a number of each [N, 1])."""
    return images.x.flatten(1), images.y, images.target("value")


# Networks


def seeded(seed: int) -> None:
    seed_global(seed_of(seed, "fingerprint"), CPU)


def pretraining(method: Any, encoder: Any, image: Image, seed: int) -> nn.ModuleDict | None:
    """A pretrainer's networks as the seed starts them; None where it and the encoder do not fit together, or the image."""
    seeded(seed)
    try:
        return method.networks(encoder.build(image), spec_of(image))
    except ConfigError:
        return None


def supervised(task: Any, encoder: Any, image: Image, seed: int) -> nn.ModuleDict:
    """A task's networks as the seed starts them."""
    seeded(seed)
    spec = spec_of(image)
    return task.networks(
        FeatureExtractor(encoder.build(image), [-1] if task.pooled else ["dense"], "avg", 1, image),
        spec,
    )


def built(encoder: Any, image: Image, seed: int) -> nn.Module | None:
    """The encoder alone; None where it does not fit the image or its library is not installed."""
    seeded(seed)
    try:
        return encoder.build(image)
    except ConfigError:
        return None


def maps_of(backbone: nn.Module, x_BCHW: Tensor) -> list[Tensor]:
    return [m for _, m in backbone.maps(x_BCHW)]


def decoded(backbone: nn.Module, z_BD: Tensor, seed: int) -> Tensor | None:
    """What the encoder's decoder makes of a code; None where it has none."""
    seeded(seed)
    try:
        return backbone.decoder(z_BD.shape[1])(z_BD)
    except ConfigError:
        return None


def prepared(method: Any, nets: nn.ModuleDict, images: Images) -> None:
    """Closed forms before the first step: of a pretrainer on images, of a task on the features of a frozen encoder."""
    with torch.no_grad():
        if hasattr(method, "trained_by"):
            method.prepare(nets, {"x": images.x})
        elif method.probed():
            nets.eval()
            f_ND = nets["encoder"](images.x)
            targets = {name: images.target(name) for name in method.needs if name in images.targets}
            method.prepare(nets, {"f": f_ND, "y": images.y, **targets, "pool": f_ND})
        else:
            method.prepare(nets, {})


# Training


def slowest(method: Any) -> int:
    """Steps after which every objective has been followed once."""
    return max(every for _, every in method.objectives.values())


def steps(
    method: Any,
    nets: nn.ModuleDict,
    images: Images,
    optimizer: OptimizerConfig,
    seed: int,
    count: int,
    batch: int = 8,
    strategy: Any = None,
    schedule: Any = None,
    start: int = 0,
    state: dict[str, Any] | None = None,
    **plan: Any,
) -> Iterator[list[float]]:
    """Train with the loop of the package; after each step the values of all objectives and what they log, in their order.

    With a strategy its phases and its penalty apply, else everything moves. `state` is filled with the optimizers' state, and
    where it has some already, that is loaded first.
    """
    image = tuple(images.x.shape[1:])
    everything = {name: 1.0 for name, p in nets.named_parameters() if p.requires_grad}
    phases, eval_frozen, penalty = [(1.0, everything)], "", None
    if strategy is not None:
        encoder: Any = nets["encoder"]
        strategy.adapt(encoder, stream(seed, "adapt"))
        begun = {name: p.detach().clone() for name, p in encoder.named_parameters(prefix="encoder")}
        phases, eval_frozen = trainable_phases(strategy, nets, image), "encoder"
        penalty = partial(pull, strategy, begun)
    made = Plan(
        **{
            "steps": count, "stop": count, "batch_size": batch, "schedule": schedule or PiecewiseCosine(), "phases": phases,
            "name": (seed, "fingerprint"), "eval_frozen": eval_frozen, "penalty": penalty, **plan,
        }
    )  # fmt: skip
    optimizers = optimizers_for(method, nets, optimizer, phases)
    for name, saved in (state or {}).items():
        optimizers[name].load_state_dict(saved)
    for step in train(
        method, nets, optimizers, dict.fromkeys(method.pools, images), made, CPU, start
    ):
        yield [v.item() for v in step.metrics.values()]
    if state is not None:
        state.update({name: copy.deepcopy(o.state_dict()) for name, o in optimizers.items()})
    if strategy is not None:
        strategy.merge(nets["encoder"])


def with_teacher(strategy: Any, task: Any, encoder: Any, image: Image) -> Any:
    """The task as this strategy trains it, where that is not the task alone: a run's model is its teacher."""
    if not hasattr(strategy, "teacher"):
        return task
    nets = supervised(task, encoder, image, 7)
    with tempfile.TemporaryDirectory() as folder:
        parts = {"encoder": encoder, "task": task, "strategy": part("strategy", "full")}
        features = {"maps": [-1], "pool": "avg", "grid": 1}
        models.save(
            Path(folder), models.Model(task, nets, spec_of(image)), {**parts, "features": features}
        )
        strategy = replace(strategy, teacher=Path(folder))
        return method_of({"strategy": strategy, "task": task}, SimpleNamespace(device=CPU))


def shown(method: Any, nets: nn.ModuleDict, images: Images, seed: int) -> list[Tensor]:
    """A pretrainer's pictures, and the terms of its likelihood where it has one."""
    x_BCHW: Any = images.x[:5]
    with torch.no_grad():
        found = list(method.show(nets.eval(), x_BCHW, stream(seed, "show")).values())
        if method.has_likelihood:
            observed = method.observe(x_BCHW, stream(seed, "observe"))
            found.append(method.log_weights(nets, observed, 3, stream(seed, "likelihood")))
    return found


def predicted(task: Any, nets: nn.ModuleDict, images: Images) -> list[Tensor]:
    with torch.no_grad():
        found = task.predict(nets.eval(), images.x)
    return list(found.values()) if isinstance(found, dict) else [found]


def scores(task: Any, nets: nn.ModuleDict, images: Images) -> list[float]:
    """The task's metrics, in ascending order of their names."""
    found, _ = models.measure(
        models.Model(task, nets.eval(), spec_of(tuple(images.x.shape[1:]))), images, CPU
    )
    return [found[name] for name in sorted(found)]


def solved(strategy: Any, f_ND: Tensor, y_N: Tensor, image: Image, seed: int) -> Tensor:
    """What the head that a strategy solves says of the features it was fitted on."""
    spec, before = (
        spec_of(image) if not y_N.is_floating_point() else spec_of(image).of("value"),
        torch.get_default_dtype(),
    )
    torch.set_default_dtype(torch.float32)  # solvers are written for float32
    try:
        with torch.no_grad():
            y_N = y_N.float() if y_N.is_floating_point() else y_N
            return strategy.fit_closed_form(f_ND.float(), y_N, spec, seed)(f_ND.float())
    finally:
        torch.set_default_dtype(before)


def numbers_only(strategy: Any) -> bool:
    return "classes" not in strategy.closed_form_tasks


def asks_for_unlabelled(strategy: Any) -> bool:
    return strategy.unlabelled() > 0


def moves(strategy: Any, encoder: Any, image: Image) -> list[list[float]]:
    """Of each phase: its share of the steps, how many of the encoder's parameters move, and the sum of their rates."""
    backbone = encoder.build(image)
    strategy.adapt(backbone, stream(0, "adapt"))
    phases = strategy.phases(layers(FeatureExtractor(backbone, [-1], "avg", 1, image), image))
    sizes = {name: p.numel() for name, p in backbone.named_parameters()}
    return [
        [share, sum(sizes[n] for n in rates), sum(rates[n] * sizes[n] for n in rates)]
        for share, rates in phases
    ]


# Schedules, views, splits


def factor(schedule: Any, progress: float) -> float:
    return schedule(progress)


def view(how: Any, images: Images, seed: int) -> list[Tensor]:
    """A view of each image; one with its mask and one with its boxes, where the view moves these."""
    x: Any = images.x
    boxes = images.target("boxes"), images.target("labels")
    plain = views.view(x, how, stream(seed, "view"))
    if any("Augment" in node["_target_"] for node in how.transforms):
        return [plain.double()]  # torchvision's policies refuse masks and boxes
    masked = views.view_with_mask(x, images.target("mask"), how, stream(seed, "view"))
    boxed = views.view_with_boxes(x, *boxes, how, stream(seed, "view"))
    return [t.double() for t in (plain, *masked, *boxed)]


def corpus(tested: bool, grouped: bool, extra: bool) -> Corpus:
    """60 images of 4 classes of different sizes: with a test split or without, with groups, with unlabelled images."""
    y = torch.tensor([0] * 24 + [1] * 16 + [2] * 12 + [3] * 8)
    groups = [f"g{n // 3}" for n in range(60)] if grouped else None

    def some(prefix: str, labels: Tensor, of: list[str] | None = None) -> Images:
        x = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
        return Images(x, labels, [f"{prefix}{n}" for n in range(len(labels))], of)

    rest = some("e", torch.full((10,), -1)) if extra else None
    return Corpus(
        "fingerprint",
        CLASSES,
        some("", y, groups),
        some("t", y[::3]) if tested else None,
        rest,
        (1, 2, 2),
    )


def split(data: Corpus, labels: object, draw: int) -> dict[str, list[str]]:
    """Names of the images of a labelled split, of its test, of its pool and of its unlabelled images, in their order."""
    asked = splits.Labels.parse(labels, None)
    made = splits.make(data, asked, draw)
    rest = splits.rest(data, asked, draw)
    try:
        held = splits.fold(made.labelled, data.strata, 0)[1].tolist()
    except DataError:  # a class has a single group
        held = []
    return {
        "labelled": made.labelled.ids,
        "tested": made.test.ids,
        "pool": made.pool.ids,
        "unlabelled": rest.ids,
        "held out": [made.labelled.ids[r] for r in held],
        "others": splits.outside(data, made).ids,
    }


def order(n: int, size: int, step: int, seed: int) -> list[int]:
    """Rows of the batch of a step."""
    return rows_of_step(n, size, step, seed, "fingerprint", "pool").tolist()


def random_numbers(seed: int) -> list[Tensor]:
    """Each kind of draw of a named random stream."""
    rng = stream(seed, "fingerprint", 3)
    return [rng.rand(5), rng.randn(20), rng.bernoulli(torch.full((9,), 0.3)), rng.beta(0.4, 6)]


# Whole runs


def run(overrides: list[str], folder: Path) -> dict[str, Any]:
    """results.json of a run by the public door."""
    return sft_exp.run([*overrides, f"store={folder}/store"], folder / "run")


# Mutations


def mutants(part: Any) -> Iterator[tuple[str, Any]]:
    """The part with one of its constants changed: settings one by one, then constants in its class's source."""
    if isinstance(part, OptimizerConfig):
        for name in ("lr", "momentum", "weight_decay", "alpha"):
            if name in part.options:
                yield name, replace(part, options={**part.options, name: part.options[name] * 0.9})
        return
    for f in fields(part):
        for value in changed(getattr(part, f.name)):
            try:
                mutant = replace(part, **{f.name: value})
            except (ConfigError, TypeError):
                continue
            yield f"{f.name}={value}", mutant
    yield from rewritten(part)


def changed(value: Any) -> Iterator[Any]:
    """Other values near this one."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, max(1, value // 2))
    elif isinstance(value, float):
        yield from (value * 0.9, value + 0.1)
    elif isinstance(value, list):
        for n in reversed(range(len(value))):
            yield from ([*value[:n], other, *value[n + 1 :]] for other in changed(value[n]))


def rewritten(part: Any) -> Iterator[tuple[str, Any]]:
    """The part, made of a copy of its module in memory in which one number or one operator is another."""
    kind = type(part)
    module = sys.modules[kind.__module__]
    source = inspect.getsource(module)
    spots = [n for n in ast.walk(ast.parse(source)) if mutable(n)]
    for n, spot in enumerate(spots):
        tree = ast.parse(source)
        node = [m for m in ast.walk(tree) if mutable(m)][n]
        if isinstance(node, ast.Constant):
            node.value = node.value + 1 if isinstance(node.value, int) else node.value * 0.9
        else:
            node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        copied = ModuleType(module.__name__)
        copied.__file__ = module.__file__
        try:
            FunctionType(compile(tree, str(module.__file__), "exec"), copied.__dict__)()
            mutant = getattr(copied, kind.__name__)(
                **{f.name: getattr(part, f.name) for f in fields(part)}
            )
        except (ConfigError, TypeError, ValueError, AttributeError, IndexError):
            continue  # what cannot be made proves nothing
        yield f"line {spot.lineno}", mutant


def mutable(node: ast.AST) -> bool:
    number = isinstance(node, ast.Constant) and type(node.value) in (int, float)
    return number or (
        isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult)
    )
