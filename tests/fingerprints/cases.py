"""Which numbers make up the fingerprint of a part.

A fingerprint is {case: {moment: numbers}}: a case is a shape and a seed, a moment is `init`, `step 1`, ... in the order in which
they happen, so the first moment that differs is where a change took effect. No name of a module, a class, a function, a field or
a parameter is in it.
"""

import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import adapter

DIGESTS = Path(__file__).parent / "digests"
SEEDS = (0, 1)
IMAGES = ((1, 8, 8), (3, 12, 10))  # of pretrainers, strategies, and tasks on features
PICTURES = ((1, 16, 16), (3, 20, 18))  # of encoders
CANVASES = ((1, 32, 32), (3, 40, 36))  # of tasks on maps, and views
STEPS = 3
LARGE = 6_000_000  # parameters above which an encoder's shapes are kept, not its numbers
# Runs are float32, and their calibration errors and solved heads amplify rounding: 4e-4 was seen
# between processors with and without AVX-512, 1.4e-4 of principal components. A line search amplifies
# rounding, too.
TOLERANCE = {
    "run": 1e-3,
    "pretrainer/pca": 2e-4,
    "strategy": 1e-6,
    "strategy/ridge": 1e-5,  # without a solver
    "optim/lbfgs": 1e-5,
}
# heads that a solver finds in float32: where it stops depends on rounding (2e-4 seen with two
# threads)
SOLVED = 1e-3
CLOSE = 1e-7
SMALLEST = 1e-9  # numbers below it are rounding

Moments = dict[str, list[Any]]
Fingerprint = dict[str, Moments]


def size(tensors: Iterable[Tensor]) -> list[float]:
    """L1 and L2 norm of all numbers of these tensors together."""
    flat = [t.detach().double().flatten() for t in tensors if t.is_floating_point()]
    every = torch.cat(flat) if flat else torch.zeros(1, dtype=torch.float64)
    return [every.abs().sum().item(), every.norm().item()]


def weights(net: nn.Module) -> list[float]:
    """Norms of all parameters, running statistics and memories."""
    return size(net.state_dict().values())


def short(value: Any) -> Any:
    """Nine significant digits of every float."""
    if isinstance(value, list):
        return [short(v) for v in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


def sgd() -> Any:
    """Adam divides by the gradient's size, and makes noise of a gradient that is zero but for rounding."""
    return adapter.part("optim", "sgd", lr=1e-4)


@cache
def small(name: str) -> Any:
    """Encoders that are quick to train."""
    return {
        "mlp": lambda: adapter.part("encoder", "mlp", hidden=[12, 6]),
        "conv": lambda: adapter.part("encoder", "conv", channels=[4, 6], code=8),
        "vit": lambda: adapter.part("encoder", "vit", width=8, depth=2, heads=2),
        "patches": lambda: adapter.part("encoder", "patches", count=8),
        "projection": lambda: adapter.part("encoder", "projection"),
    }[name]()


def trained(moments: Moments, method: Any, nets: nn.ModuleDict, images: Any, **how: Any) -> None:
    """Add a moment for each step: values of the objectives and what they log, then the norms of all weights."""
    count = how.pop("count", max(STEPS, adapter.slowest(method)))
    done = how.get("start", 0)
    for n, values in enumerate(
        adapter.steps(method, nets, images, how.pop("optimizer", sgd()), count=count, **how),
        done + 1,
    ):
        moments[f"step {n}"] = [*values, *weights(nets)]


def cases(
    images: Iterable[tuple[int, int, int]],
    of: Callable[[tuple[int, int, int], int], Moments | None],
) -> Fingerprint:
    """`of` each shape with a seed of its own; those that the part refuses are left out."""
    pairs = zip(images, SEEDS, strict=True)
    named = {f"{'x'.join(map(str, image))}, seed {seed}": of(image, seed) for image, seed in pairs}
    return {
        case: {k: short(v) for k, v in moments.items()}
        for case, moments in named.items()
        if moments is not None
    }


def pretrainer(part: Any, option: str) -> Fingerprint:
    def of(image: tuple[int, int, int], seed: int) -> Moments | None:
        if adapter.kind_of(part) == "nothing":
            return {}
        fitting = (
            (e, adapter.pretraining(part, small(e), image, seed))
            for e in ("mlp", "conv", "vit", "patches", "projection")
        )
        name, nets = next(((e, nets) for e, nets in fitting if nets is not None), ("", None))
        if nets is None:
            return None
        moments: Moments = {
            "encoder": [name],
            "handed on": adapter.handed_on(part),
            "init": weights(nets),
        }
        images = adapter.examples(image, 24, seed)
        if adapter.kind_of(part) == "in closed form":
            adapter.prepared(part, nets, images)
            moments["closed form"] = weights(nets)
        if adapter.kind_of(part) == "by gradient":
            trained(moments, part, nets, images, seed=seed)
        moments["pictures"] = [
            v for t in adapter.shown(part, nets, images, seed) for v in size([t])
        ]
        return moments

    return cases(IMAGES, of)


def encoder(part: Any, option: str) -> Fingerprint:
    def of(image: tuple[int, int, int], seed: int) -> Moments | None:
        net = adapter.built(part, image, seed)
        if net is None:
            return None
        count = sum(p.numel() for p in net.parameters())
        shapes = [list(v.shape) for v in net.state_dict().values()]
        if count > LARGE:
            return {"parameters": [count, len(shapes), sum(sum(s) for s in shapes)]}
        x_BCHW = adapter.examples(image, 6, seed).x
        moments = {"init": [count, *weights(net)]}
        with torch.no_grad():
            for mode in (True, False):
                maps = adapter.maps_of(net.train(mode), x_BCHW)
                moments["training" if mode else "inference"] = [
                    v for m in maps for v in (list(m.shape), *size([m]))
                ]
            drawn = adapter.decoded(net, maps[-1].flatten(1), seed)
        return {**moments, "decoder": [] if drawn is None else size([drawn])}

    return cases(PICTURES, of)


def heads() -> dict[str, Any]:
    return {
        target: adapter.part("task", option)
        for target, option in {"y": "classify", "mask": "segment", "value": "regress"}.items()
    }


TASKS: dict[
    str, Callable[[], dict[str, Any]]
] = {  # settings of options that have no defaults to run with
    "multitask": lambda: {"heads": heads(), "weighting": "gradnorm"},
}


STEEP = ("m1_m2",)  # tasks whose first gradients are too large for SGD


def task(part: Any, option: str) -> Fingerprint:
    def of(image: tuple[int, int, int], seed: int) -> Moments | None:
        images, moments = adapter.examples(image, 24, seed), Moments()
        nets = adapter.supervised(part, small("conv"), image, seed)
        adapter.prepared(part, nets, images)
        moments["init"] = weights(nets)
        trained(
            moments,
            part,
            nets,
            images,
            seed=seed,
            optimizer=adapter.part("optim", "adam") if option in STEEP else sgd(),
        )
        moments["predictions"] = [
            v for t in adapter.predicted(part, nets, images) for v in size([t])
        ]
        moments["scores"] = adapter.scores(part, nets, images)
        return moments

    return cases(CANVASES if adapter.starts_at_maps(part) else IMAGES, of)


def strategy(part: Any, option: str) -> Fingerprint:
    def solved(image: tuple[int, int, int], seed: int) -> Moments:
        f_ND, y_N, value_N1 = adapter.numbers_of(adapter.examples(image, 48, seed))
        if adapter.asks_for_unlabelled(part):
            y_N = torch.cat([y_N[:24], torch.full((24,), -1)])
        return {
            "head": size(
                [
                    adapter.solved(
                        part, f_ND, value_N1 if adapter.numbers_only(part) else y_N, image, seed
                    )
                ]
            )
        }

    def learnt(image: tuple[int, int, int], seed: int) -> Moments:
        moments, images = Moments(), adapter.examples(image, 24, seed)
        chosen = adapter.part("task", "classify")
        nets = adapter.supervised(chosen, small("conv"), image, seed)
        adapter.prepared(chosen, nets, images)
        moments["moves"] = adapter.moves(part, small("conv"), image)
        method = adapter.with_teacher(part, chosen, small("conv"), image)
        trained(moments, method, nets, images, seed=seed, strategy=part, count=8)
        moments["merged"] = weights(nets)
        return moments

    return cases(IMAGES, solved if adapter.closed_form(part) else learnt)


def optim(part: Any, option: str) -> Fingerprint:
    def of(image: tuple[int, int, int], seed: int) -> Moments | None:
        if not adapter.installed(part):
            return None
        moments, images, chosen = (
            Moments(),
            adapter.examples(image, 24, seed),
            adapter.part("task", "classify", head="random"),
        )
        nets = adapter.supervised(chosen, small("mlp"), image, seed)
        batch = 24 if adapter.batches_everything("optim", option) else 8
        trained(moments, chosen, nets, images, seed=seed, optimizer=part, batch=batch, count=4)
        return moments

    return cases(IMAGES, of)


def schedule(part: Any, option: str) -> Fingerprint:
    def of(image: tuple[int, int, int], seed: int) -> Moments:
        moments: Moments = {"factors": [adapter.factor(part, n / 20) for n in range(21)]}
        chosen, images = (
            adapter.part("task", "classify", head="random"),
            adapter.examples(image, 24, seed),
        )
        trained(
            moments,
            chosen,
            adapter.supervised(chosen, small("mlp"), image, seed),
            images,
            seed=seed,
            schedule=part,
            count=6,
        )
        return moments

    return cases(IMAGES, of)


def augment(part: Any, option: str) -> Fingerprint:
    def of(image: tuple[int, int, int], seed: int) -> Moments:
        views = adapter.view(part, adapter.examples(image, 12, seed), seed)
        return {name: [v for x in t for v in size([x])[:1]] for name, t in zip(
            ("view", "with a mask", "its mask", "with boxes", "its boxes", "their labels"), views, strict=False)}  # fmt: skip

    return cases(CANVASES, of)


def split(part: Any, option: str) -> Fingerprint:
    tested, grouped, extra = (name in option for name in ("tested", "grouped", "extra"))
    data = adapter.corpus(tested, grouped, extra)
    wanted: tuple[object, ...] = (2, 4, "20%") if tested else (2, 3)
    return {
        f"labels {labels}, draw {draw}": dict(adapter.split(data, labels, draw))
        for labels in wanted
        for draw in (0, 1, 6)
    }


def order(part: Any, option: str) -> Fingerprint:
    return {
        f"{n} examples in batches of {batch}, seed {seed}": {
            f"step {step}": adapter.order(n, batch, step, seed) for step in (0, 1, 2, 3, 7)
        }
        for n, batch in ((10, 4), (12, 5))
        for seed in SEEDS
    }


def stream(part: Any, option: str) -> Fingerprint:
    kinds = ("uniform", "normal", "bernoulli", "beta")
    return {
        f"seed {seed}": {
            k: short(t.tolist()) for k, t in zip(kinds, adapter.random_numbers(seed), strict=True)
        }
        for seed in SEEDS
    }


def loop(part: Any, option: str) -> Fingerprint:
    """Settings of the training loop: what they do to a classifier with BatchNorm, on both shapes and seeds."""
    plans: dict[str, dict[str, Any]] = {
        "plain": {},
        "micro_batches": {"micro_batch_size": 3},
        "accumulate": {"gradient_accumulation_steps": 2},
        "clip": {"clip": 0.05},
        "class_balanced": {"sampling": {"labelled": 0.0}},
        "stop_early": {"stop": 3},
        "resume": {"stop": 3},
    }

    def of(image: tuple[int, int, int], seed: int) -> Moments:
        moments, images, chosen = (
            Moments(),
            adapter.examples(image, 24, seed),
            adapter.part("task", "classify", head="random"),
        )
        nets, state = adapter.supervised(chosen, small("conv"), image, seed), dict[str, Any]()
        how = {"seed": seed, "count": 6, "schedule": adapter.part("schedule", "cosine")}
        trained(moments, chosen, nets, images, state=state, **how, **plans[option])
        if option == "resume":
            other = adapter.supervised(chosen, small("conv"), image, seed + 5)
            other.load_state_dict(nets.state_dict())
            trained(moments, chosen, other, images, start=3, state=state, **how)
        return moments

    return cases(IMAGES, of)


RUNS = {  # option -> overrides: whole runs by the public door, in float32
    "cv": ["pretrainer=ae", "strategy=linear", "val=cv"],
    "holdout": [
        "pretrainer=none",
        "val=holdout",
        "finetune.ema=0.9",
        "finetune.steps=20",
        "finetune.patience=3",
    ],
    "full": [
        "pretrainer=pca",
        "encoder=projection",
        "encoder.width=5",
        "val=full",
        "optim=momentum",
    ],
}
RUN = ["tracker=none", "hardware=cpu", "report=false", "monitors=false", "labels=4", "draws=1", "pretrain.steps=3",
       "finetune.steps=5", "controls=[scratch]"]  # fmt: skip


def run(part: Any, option: str) -> Fingerprint:
    import tempfile

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    hidden = [] if "encoder=projection" in RUNS[option] else ["encoder.hidden=[8]"]
    found = {}
    try:
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as folder:
                overrides = [*RUN, *hidden, *RUNS[option], f"seed={seed}"]
                result = adapter.run(overrides, Path(folder))
            moments = {
                "validation": [v for _, v in sorted(result["val"].items())],
                "test": [v for _, v in sorted(result["test"].items())],
                "scratch": [v for _, v in sorted(result["controls"].get("scratch", {}).items())],
            }
            found[f"digits, seed {seed}"] = {k: short(v) for k, v in moments.items()}
    finally:
        torch.set_default_dtype(before)
    return found


KINDS: dict[
    str, Callable[[Any, str], Fingerprint]
] = {  # config groups, whose options are discovered
    "pretrainer": pretrainer,
    "encoder": encoder,
    "task": task,
    "strategy": strategy,
    "optim": optim,
    "schedule": schedule,
    "augment": augment,
}
SPINE: dict[
    str, tuple[Callable[[Any, str], Fingerprint], tuple[str, ...]]
] = {  # what is no part: name -> its variants
    "stream": (stream, ("all",)),
    "order": (order, ("all",)),
    "split": (split, ("tested", "tested_extra", "folds", "folds_grouped", "folds_extra")),
    "loop": (
        loop,
        ("plain", "micro_batches", "accumulate", "clip", "class_balanced", "stop_early", "resume"),
    ),
    "run": (run, tuple(RUNS)),
}


def names() -> list[tuple[str, str]]:
    """Every fingerprint there should be, as (group, option)."""
    parts = [(group, option) for group in KINDS for option in adapter.options(group)]
    return parts + [(group, option) for group, (_, options) in SPINE.items() for option in options]


def part_of(group: str, option: str) -> Any:
    return adapter.part(
        group, option, **TASKS[option]() if group == "task" and option in TASKS else {}
    )


def fingerprint(group: str, option: str, part: Any = None) -> Fingerprint:
    """Of an option, or of `part` in its place."""
    with adapter.exactly():
        if group in SPINE:
            return SPINE[group][0](None, option)
        return KINDS[group](part_of(group, option) if part is None else part, option)


def tolerance(group: str, option: str) -> float:
    if f"{group}/{option}" in TOLERANCE:
        return TOLERANCE[f"{group}/{option}"]
    if group == "strategy" and adapter.closed_form(part_of(group, option)):
        return SOLVED
    return TOLERANCE.get(group, CLOSE)


def stored(group: str) -> dict[str, Fingerprint]:
    file = DIGESTS / f"{group}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def difference(expected: Fingerprint, found: Fingerprint, tolerance: float = CLOSE) -> str | None:
    """The first moment that differs, with both; None if none does."""
    for case in expected:
        if case not in found:
            return f"{case}: is refused now"
        for moment, numbers in expected[case].items():
            now = found[case].get(moment)
            if not alike(numbers, now, tolerance):
                return f"{case}: {moment} differs first: {numbers} before, {now} now"
        if extra := found[case].keys() - expected[case].keys():
            return f"{case}: {sorted(extra)[0]} is new"
    if extra := found.keys() - expected.keys():
        return f"{sorted(extra)[0]}: is new"
    return None


def alike(a: Any, b: Any, tolerance: float) -> bool:
    """Floats to the tolerance, everything else exactly."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(alike(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) or isinstance(b, float):
        return (
            isinstance(a, int | float)
            and isinstance(b, int | float)
            and abs(a - b) <= max(SMALLEST, tolerance * abs(a))
        )
    return a == b
