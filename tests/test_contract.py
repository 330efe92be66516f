"""Every part fulfils its contract. Parts are discovered, so that new files are tested at once."""

import inspect
import io
from copy import deepcopy
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from math import isfinite

import pytest
import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from sft_exp.config import build, help_text, sources
from sft_exp.config.schema import OptimizerConfig
from sft_exp.core.device import place
from sft_exp.core.pretrainer import Pretrainer
from sft_exp.core.rng import stream
from sft_exp.core.types import Spec
from sft_exp.data.images import Images
from sft_exp.errors import ConfigError
from sft_exp.models.feature_extractor import FeatureExtractor, layers
from sft_exp.schedules.piecewise_cosine import PiecewiseCosine
from sft_exp.stages.model import Model, measure, named
from sft_exp.training.loop import set_requires_grad, train
from sft_exp.training.optim import optimizers_for

CPU = torch.device("cpu")
MODULES = {(group, file.stem): (module, file) for group, file, module in sources.parts()}
FILES = list(MODULES)
SMALLER = {"resnet": {"depth": 10}}  # what makes training it in a test fast
SIZES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 9, 13)]
DIGITS = Spec((1, 8, 8), tuple("0123456789"))


def part(group, stem):
    """The one dataclass in a part's file."""
    module = import_module(MODULES[group, stem][0])
    (kind,) = [
        v
        for v in vars(module).values()
        if isinstance(v, type) and is_dataclass(v) and v.__module__ == module.__name__
    ]
    return kind


def parts(group):
    return [stem for g, stem in FILES if g == group]


def every(group, *also):
    return pytest.mark.parametrize(("stem", *also) if also else "stem", parts(group))


def networks(pretrainer, encoder, image=DIGITS.image, seed=0):
    """A pretrainer with its networks."""
    torch.manual_seed(seed)
    method = part("pretrainer", pretrainer)()
    backbone = part("encoder", encoder)(**SMALLER.get(encoder, {})).build(image)
    return method, method.networks(backbone, Spec(image, DIGITS.classes))


@cache
def built(encoder):
    """An encoder for the digits, where its weights do not matter and nobody changes it; None without the optional library it
    is made of."""
    try:
        return part("encoder", encoder)(**SMALLER.get(encoder, {})).build(DIGITS.image)
    except ConfigError:
        return None


@cache
def fits(pretrainer, encoder):
    """Whether the two do not say that they do not fit."""
    try:
        part("pretrainer", pretrainer)().networks(deepcopy(built(encoder)), DIGITS)
    except ConfigError:
        return False
    return True


GRADIENT = [
    stem for stem in parts("pretrainer") if part("pretrainer", stem).trained_by == "by gradient"
]
CLOSED = [
    stem for stem in parts("pretrainer") if part("pretrainer", stem).trained_by == "in closed form"
]
SOLVING = [
    stem
    for stem in parts("strategy")
    if part("strategy", stem).closed_form and "classes" in part("strategy", stem).closed_form_tasks
]


# how many parameters an encoder has
SIZE = {
    e: None if built(e) is None else sum(p.numel() for p in built(e).parameters())
    for e in parts("encoder")
}
# what has something to learn
ENCODERS = [e for e in ("mlp", "conv", *sorted({*SIZE} - {"mlp", "conv"})) if SIZE[e]]
# all would take an hour
PAIRS = [(p, e) for p in GRADIENT for e in [e for e in ENCODERS if fits(p, e)][:2]]
PAIRS += [
    (next(p for p in GRADIENT if fits(p, e)), e)
    for e in ENCODERS
    if e not in {taken for _, taken in PAIRS}
]
every_encoder = pytest.mark.parametrize(
    "stem",
    [
        pytest.param(
            e, marks=pytest.mark.skipif(SIZE[e] is None, reason="its library is not installed")
        )
        for e in SIZE
    ],
)
# encoders that are slow to train, and others' to test
BORROWED = ("torchvision_model", "timm_model", "resnet")
pairs = pytest.mark.parametrize(
    ("pretrainer", "encoder"),
    [pytest.param(p, e, marks=[pytest.mark.slow] if e in BORROWED else []) for p, e in PAIRS],
)


def batch_of(method, images, rows=16):
    (batch,) = images.batches([torch.arange(rows)], CPU)
    return {
        pool: {k: v.repeat_interleave(m, 0) for k, v in batch.items()}
        for pool, m in method.pools.items()
    }


def drawn_by(method, images, name="draw"):
    return method.draw(batch_of(method, images), stream(0, name), 0.5)


def bits(nets):
    return {k: v.clone() for k, v in nets.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# Every part


@pytest.mark.parametrize(("group", "stem"), FILES)
def test_builds_from_its_defaults(group, stem):
    kind = part(group, stem)
    assert issubclass(kind, build.locate((sources.KINDS | sources.LISTED_KINDS)[group]))
    assert kind() == kind()


@pytest.mark.parametrize(("group", "stem"), [f for f in FILES if f[0] in sources.FOLDERS])
def test_has_a_yaml_with_a_one_line_description(group, stem):
    file = MODULES[group, stem][1]
    folder = (sources.CONF if sources.HERE in file.parents else file.parents[1] / "conf") / group
    ours = [f for f in folder.glob("*.yaml") if f"/schema/{group}/{stem}@" in f.read_text()]
    assert ours, f"no YAML in {folder} uses {stem}.py"
    for file in ours:
        assert 10 < len(help_text.first_comment(file)) < 120, file


@pytest.mark.parametrize(("group", "stem"), FILES)
def test_its_config_is_read_from_its_source(group, stem):
    """Names, defaults and types that Hydra sees without importing the part are those of the part."""
    kind = part(group, stem)
    seen = sources.node(MODULES[group, stem][1], kind.__module__)
    target, *rest = fields(seen)
    assert target.default == f"{kind.__module__}.{kind.__name__}"
    assert [f.name for f in rest] == [f.name for f in fields(kind)]
    assert kind(**{f.name: getattr(seen(), f.name) for f in rest}) == kind()
    assert {f.name: f.type for f in rest} == {f.name: f.type for f in fields(kind)}


# Pretrainers


@pytest.mark.parametrize("stem", parts("pretrainer"))
def test_a_pretrainers_option_brings_an_encoder_it_fits(experiment, stem):
    e = experiment(f"pretrainer={stem}")
    backbone = e.encoder.build(DIGITS.image)
    if e.pretrainer.trained_by != "nothing":
        nets = e.pretrainer.networks(backbone, DIGITS)
        assert nets.get_submodule(e.pretrainer.encoder_path) is backbone


@pairs
def test_all_randomness_of_a_step_is_in_its_draw(digits, pretrainer, encoder):
    """The same stream gives the same draws; neither draw nor loss touches the global stream, or what it is given."""
    method, nets = networks(pretrainer, encoder)
    batch, state = batch_of(method, digits.train), torch.get_rng_state()
    before = deepcopy(batch)
    first, again = (method.draw(batch, stream(0, "draw"), 0.5) for _ in range(2))
    assert len(first) == len(again)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(d.dim() == 0 or len(d) % 16 == 0 for d in first), (
        "each [B or a multiple of B, ...] or 0-dim"
    )
    for objective in method.objectives:
        (a, logged), (b, _) = (getattr(method, objective)(nets, *first) for _ in range(2))
        assert a.dim() == 0
        assert a.isfinite()
        assert a.item() == b.item()
        assert all(v.dim() == 0 for v in logged.values())
    assert torch.equal(state, torch.get_rng_state())
    assert all(equal(before[pool], batch[pool]) for pool in batch)


@pairs
def test_each_objective_reaches_its_network_and_no_other(digits, pretrainer, encoder):
    method, nets = networks(pretrainer, encoder)
    kept = {
        f"{method.encoder_path}.{name}"
        for name, _ in nets.get_submodule(method.encoder_path).named_parameters()
    }
    everything, reached = (
        {name: 1.0 for name, p in nets.named_parameters() if p.requires_grad},
        set(),
    )
    for objective, (network, often) in method.objectives.items():
        assert often >= 1
        own = nets.get_submodule(network) if network else nets
        nets.zero_grad(set_to_none=True)
        set_requires_grad(nets, everything, network)
        getattr(method, objective)(nets, *drawn_by(method, digits.train))[0].backward()
        touched = {
            id(p) for p in nets.parameters() if p.grad is not None and p.grad.abs().sum() > 0
        }
        assert touched, f"{objective} moves nothing"
        assert touched <= {id(p) for p in own.parameters()}
        reached |= {name for name, p in nets.named_parameters() if p.grad is not None}
    assert kept, "the kept network has no parameters"
    assert kept & everything.keys() <= reached, "what is kept is not all learned"


@pairs
def test_each_objective_falls_when_it_alone_is_followed(digits, pretrainer, encoder):
    """On one fixed draw; adversaries would each undo what the other gained."""
    method, nets = networks(pretrainer, encoder)
    drawn, free = (
        drawn_by(method, digits.train),
        [name for name, p in nets.named_parameters() if p.requires_grad],
    )
    for objective, (network, _) in method.objectives.items():
        set_requires_grad(nets, dict.fromkeys(free, 1.0), network)
        optimizer = torch.optim.Adam([p for p in nets.parameters() if p.requires_grad], 3e-3)
        values = []
        for _ in range(25):
            optimizer.zero_grad()
            value, _ = getattr(method, objective)(nets, *drawn)
            value.backward()
            optimizer.step()
            values.append(value.item())
        assert values[-1] < values[0], objective


@pytest.fixture
def training(plan, device):
    """Runs the loop; gives what it yields, and what a checkpoint holds."""

    def run(method, nets, images, target, stop=20, start=0, saved=None, steps=20):
        images, nets = images.to(device), place(nets, device)
        told = plan(
            nets, steps, stop=min(stop, steps), schedule=PiecewiseCosine([[0.0, 1.0], [1.0, 0.0]])
        )
        optimizers = optimizers_for(method, nets, target, told.phases)
        if saved:
            nets.load_state_dict(saved["nets"])
            for objective, state in saved["optimizers"].items():
                optimizers[objective].load_state_dict(state)
        done = train(
            method, nets, optimizers, dict.fromkeys(method.pools, images), told, device, start
        )
        found = [{k: v.item() for k, v in step.metrics.items()} for step in done]
        return found, {
            "nets": nets.state_dict(),
            "optimizers": {o: opt.state_dict() for o, opt in optimizers.items()},
        }

    return run


@pairs
def test_what_is_kept_moves(digits, training, pretrainer, encoder):
    """By gradient, or as a teacher that follows what does. (A bias may cancel, as in a linear critic.)"""
    method, nets = networks(pretrainer, encoder)
    kept = nets.get_submodule(method.encoder_path)
    before = bits(kept)
    training(method, nets, digits.train, OptimizerConfig("torch.optim.Adam", {"lr": 1e-3}), stop=3)
    assert not [
        name
        for name, p in kept.named_parameters()
        if p.dim() > 1 and torch.equal(before[name], p.cpu())
    ]


@pytest.mark.parametrize(
    ("pretrainer", "encoder", "optimizer"),
    [
        pytest.param(
            p,
            e,
            o,
            marks=[pytest.mark.slow]
            if e in BORROWED or (o == "SGD" and p not in GRADIENT[:2])
            else [],
        )
        for p, e in PAIRS
        for o in ("SGD", "Adam")
        if e in ENCODERS[:2] or o == "Adam"
    ],
)
def test_a_restart_from_a_checkpoint_ends_in_the_same_bits(
    digits, training, pretrainer, encoder, optimizer
):
    """Networks, optimizers and one integer are all there is to save: 10 steps = 4 steps, restart, 6 steps."""
    target = OptimizerConfig(
        f"torch.optim.{optimizer}",
        {"lr": 1e-3, **({"momentum": 0.9} if optimizer == "SGD" else {})},
    )
    method, nets = networks(pretrainer, encoder)
    whole, _ = training(method, nets, digits.train, target, steps=10)
    expected = bits(nets)

    method, nets = networks(pretrainer, encoder)
    begun, state = training(method, nets, digits.train, target, stop=4, steps=10)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    method, nets = networks(pretrainer, encoder, seed=1)
    saved = torch.load(file, weights_only=True)
    ended, _ = training(method, nets, digits.train, target, start=4, saved=saved, steps=10)
    assert equal(bits(nets), expected)
    assert begun + ended == whole


@pytest.mark.parametrize("image", [(1, 8, 8), (3, 9, 13)])
@pairs
def test_shows_pictures_of_the_images_size(pretrainer, encoder, image):
    method, nets = networks(pretrainer, encoder, image)
    if type(method).show is Pretrainer.show:
        pytest.skip("it has no pictures")
    x_BCHW = torch.rand(5, *image, generator=stream("pictures"))
    with torch.no_grad():
        shown, again = (method.show(nets.eval(), x_BCHW, stream("show")) for _ in range(2))
    assert shown
    assert equal(shown, again)
    for picture_BCHW in shown.values():
        assert picture_BCHW.shape == x_BCHW.shape
        assert 0 <= picture_BCHW.min() <= picture_BCHW.max() <= 1


@pytest.mark.parametrize("stem", CLOSED)
def test_a_closed_form_sets_the_whole_encoder(digits, experiment, stem):
    """The result depends on the images alone, not on the weights it began with."""
    e = experiment(f"pretrainer={stem}")
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        nets = e.pretrainer.networks(e.encoder.build(digits.image), digits.spec)
        with torch.no_grad():
            e.pretrainer.prepare(nets, {"x": digits.train.floats(torch.arange(300), CPU)})
        found.append(bits(nets.get_submodule(e.pretrainer.encoder_path)))
    assert equal(*found)


# Encoders


@pytest.mark.parametrize("image", SIZES)
@every_encoder
def test_an_encoder_names_its_maps_in_order(stem, image):
    backbone, x_BCHW = (
        part("encoder", stem)().build(image),
        torch.rand(2, *image, generator=stream("maps")),
    )
    maps = list(backbone.maps(x_BCHW))
    assert len({name for name, _ in maps}) == len(maps) > 0
    assert all(isinstance(name, str) and m.dim() in (2, 4) and len(m) == 2 for name, m in maps)
    assert inspect.isgenerator(backbone.maps(x_BCHW)), "maps are computed as they are asked for"
    code_BD = backbone.eval()(x_BCHW)
    assert code_BD.shape == (2, backbone.width)
    assert torch.equal(code_BD, list(backbone.maps(x_BCHW))[-1][1].flatten(1))


@pytest.mark.parametrize("image", SIZES)
@every_encoder
def test_an_encoders_mirror_draws_images(stem, image):
    backbone = part("encoder", stem)().build(image)
    try:
        mirror = backbone.decoder(7)
    except ConfigError:
        pytest.skip("says that it has no mirror")
    assert mirror(torch.randn(2, 7, generator=stream("mirror"))).shape == (2, *image)


@pytest.mark.parametrize("size", range(1, 9))
@every_encoder
def test_an_encoder_works_or_refuses_small_images(stem, size):
    """No size passes the check and fails in the first step."""
    try:
        backbone = part("encoder", stem)().build((1, size, size))
        mirror = backbone.decoder(backbone.width)
    except ConfigError:
        return
    assert mirror(backbone.train()(torch.rand(2, 1, size, size))).shape == (2, 1, size, size)


# Tasks


HEADS = {
    "y": part("task", "classify")(),
    "mask": part("task", "segment")(),
    "value": part("task", "regress")(),
}
WITH = {  # what an option of a task cannot do without
    "multitask": {"heads": HEADS, "weighting": "gradnorm"},
    "joint": {"task": part("task", "classify")(), "objective": part("pretrainer", "ae")()},
}
LARGER = 4  # times the digits, where maps have rows and columns of their own


def specimen(stem):
    return part("task", stem)(**WITH.get(stem, {}))


@cache
def annotated(stem):
    """64 digits with all that a task may learn of them: ink, a box around it, how much there is."""
    from sft_exp.datasets.digits import Digits

    images = Digits().load().train.at(torch.arange(64))
    x_NCHW = images.floats(torch.arange(64), CPU).mul(255).to(torch.uint8)
    if not specimen(stem).pooled:
        x_NCHW = x_NCHW.repeat_interleave(LARGER, 2).repeat_interleave(LARGER, 3)
    ink_NHW = x_NCHW[:, 0] > 96
    sides = [[i.any(1 - d).nonzero()[[0, -1], 0] for d in (1, 0)] for i in ink_NHW]  # columns, rows
    boxes = torch.tensor(
        [[[x[0], y[0], x[1] + 1, y[1] + 1]] for x, y in sides], dtype=torch.float32
    )
    targets = {
        "mask": ink_NHW.to(torch.uint8),
        "value": ink_NHW.float().mean((1, 2))[:, None],
        "boxes": boxes,
        "labels": images.y[:, None] + 1,
        "crowd": torch.zeros(64, 1, dtype=torch.uint8),
        # the numbers from 1 to 10 that divide the digit
        "label_set": (images.y[:, None] % torch.arange(1, 11) == 0).to(torch.uint8),
    }
    return Images(x_NCHW, images.y, images.ids, targets=targets)


def told(stem):
    image = tuple(annotated(stem).raw(0).shape)
    return Spec(image, DIGITS.classes, {"mask": ("paper", "ink"), "value": ("ink",)})


def supervised(stem):
    torch.manual_seed(0)
    task, spec = specimen(stem), told(stem)
    encoder = part("encoder", "conv")().build(spec.image)
    return task, task.networks(
        FeatureExtractor(encoder, [-1] if task.pooled else ["dense"], "avg", 1, spec.image), spec
    )


def flat(predictions):
    """What a task predicts as tensors by name."""
    return predictions if isinstance(predictions, dict) else {"": predictions}


@every("task")
def test_a_task_learns_what_it_is_shown(training, stem):
    """Loss without randomness, gradients in every network, and a loss that falls on labels it has seen."""
    task, nets = supervised(stem)
    images = annotated(stem)
    target = OptimizerConfig("torch.optim.Adam", {"lr": 1e-3})
    found, _ = training(task, nets, images, target)
    idle = {n for n, p in nets.named_parameters() if p.requires_grad and p.grad is None}
    assert not {n for n in idle if not n.startswith("encoder.")}, (
        "of the encoder, what no map asked for needs may rest"
    )
    again, _ = training(*supervised(stem), images, target, stop=5)
    assert found[:5] == again
    # other terms may rise as their weights do
    of_labels = "labels" if "labels" in found[0] else next(iter(task.objectives))
    assert found[-1][of_labels] < found[0][of_labels]


@every("task")
def test_a_task_predicts_and_is_measured_in_pieces(stem):
    task, nets = supervised(stem)
    images, model = annotated(stem), Model(task, nets.eval(), told(stem))
    batches = list(images.batches(torch.arange(30).split(7), CPU))
    (batch,) = images.batches([torch.arange(30)], CPU)
    with torch.no_grad():
        whole, pieces = (
            task.predict(nets, batch["x"]),
            [flat(task.predict(nets, b["x"])) for b in batches],
        )
    for name, found in flat(whole).items():
        assert torch.allclose(found, torch.cat([p[name] for p in pieces]), atol=1e-4)
    one, many = task.metrics(told(stem)), task.metrics(told(stem))
    for metrics, seen in (
        (one, [(whole, batch)]),
        (many, [(task.predict(nets, b["x"]), b) for b in batches]),
    ):
        for metric in metrics.values():
            for predictions, b in seen:
                metric.update(*task.compared(predictions, b))
    for name in one:
        found, again = (named(name, of[name].compute(), task.of(told(stem))) for of in (one, many))
        assert found == pytest.approx(again, abs=1e-4)
        assert all(v <= 1 for k, v in found.items() if k == task.score)
    scores, kept = measure(model, images.at(torch.arange(30)), CPU)
    assert task.score in scores
    assert set(task.columns) <= set(scores) | {f"{task.score}_sd"}
    assert next(iter(task.columns)) == task.score
    assert all(len(rows) == 30 for rows in kept.values())
    shown = task.show(whole, batch, told(stem))
    assert all(x.shape[:2] == (30, 3) and 0 <= x.min() <= x.max() <= 1 for x in shown.values())


@every("task")
def test_a_tasks_randomness_is_in_its_draw_and_it_reads_no_label_of_the_pool(stem):
    """The same stream, the same draws, from images alone where nothing is labelled; what it is given stays as it is."""
    task, nets = supervised(stem)
    batch, state = batch_of(task, annotated(stem)), torch.get_rng_state()
    before = deepcopy(batch)
    first = task.draw(batch, stream(0, "draw"), 0.5)
    assert all(equal(before[pool], batch[pool]) for pool in batch)
    if "unlabelled" in batch:
        batch["unlabelled"]["y"] = torch.full_like(batch["unlabelled"]["y"], -1)
    again = task.draw(batch, stream(0, "draw"), 0.5)
    assert "unlabelled" in task.pools or len(first) == task.drawn()
    assert "unlabelled" not in task.supervised().pools
    assert len(first) == len(again)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(d.dim() == 0 or len(d) % 16 == 0 for d in first), (
        "each [B or a multiple of B, ...] or 0-dim"
    )
    for objective in task.objectives:
        values = [getattr(task, objective)(nets, *first)[0].item() for _ in range(2)]
        assert values[0] == values[1]
    assert torch.equal(state, torch.get_rng_state())
    assert task.alters() or torch.equal(first[0], batch["labelled"]["x"])


@every("task")
def test_a_task_restarts_from_a_checkpoint_in_the_same_bits(training, stem):
    images, target = annotated(stem), OptimizerConfig("torch.optim.Adam", {"lr": 1e-3})
    task, nets = supervised(stem)
    whole, _ = training(task, nets, images, target, steps=8)
    task, half = supervised(stem)
    begun, state = training(task, half, images, target, stop=3, steps=8)
    saved = deepcopy(state)
    task, other = supervised(stem)
    ended, _ = training(task, other, images, target, start=3, saved=saved, steps=8)
    assert begun + ended == whole
    assert equal(bits(nets), bits(other))


# Strategies


@pytest.mark.parametrize("encoder", [e for e in SIZE if SIZE[e] is not None])
@every("strategy")
def test_a_strategys_phases_name_the_encoders_numbers(stem, encoder):
    strategy, backbone = part("strategy", stem)(), deepcopy(built(encoder))
    strategy.adapt(backbone, stream("adapt"))
    names = {name for name, _ in backbone.named_parameters()}
    readout = FeatureExtractor(backbone, [-1], "avg", 1, DIGITS.image)
    phases = strategy.phases(layers(readout, DIGITS.image))
    assert sum(share for share, _ in phases) == pytest.approx(1)
    for share, rates in phases:
        assert share > 0
        assert rates.keys() <= names
        assert all(rate >= 0 for rate in rates.values())


@cache
def features(missing=None):
    """Features and labels of 200 digits, without those of one class."""
    from sft_exp.datasets.digits import Digits

    images = Digits().load().train
    rows = torch.arange(len(images))[images.y != (-1 if missing is None else missing)][:200]
    return images.floats(rows, CPU).flatten(1), images.y[rows]


@pytest.mark.parametrize("missing", [None, 3])
@pytest.mark.parametrize("stem", SOLVING)
def test_a_solved_head_is_its_numbers(stem, missing):
    """Solved twice it is the same; saved and loaded it says the same; a class without a label is never predicted."""
    strategy, (f_BD, y_B) = part("strategy", stem)(), features(missing)
    head, again = (strategy.fit_closed_form(f_BD, y_B, DIGITS, seed=7) for _ in range(2))
    with torch.no_grad():
        logits_BY = head(f_BD)
        assert torch.equal(logits_BY, again(f_BD))
        state = from_bytes(to_bytes({k: v.contiguous() for k, v in head.state_dict().items()}))
        empty = strategy.head({k: v.shape for k, v in state.items()}, DIGITS)
        empty.load_state_dict(state)
        assert torch.equal(logits_BY, empty(f_BD))
    assert logits_BY.shape == (200, 10)
    assert (logits_BY.argmax(1) == y_B).float().mean() > 0.95
    assert missing not in logits_BY.argmax(1).tolist()


# Data sets


@every("dataset")
def test_a_data_sets_corpus_is_whole(stem):
    """What loads without files is checked whole; the others are in test_data and beside their own readers."""
    dataset = part("dataset", stem)()
    if "root" in {f.name for f in fields(dataset)}:
        assert {"root"} <= set(dataset.unhashed), "where the files lie cannot change a result"
        return
    corpus, again = dataset.load(), dataset.load()
    assert corpus.fingerprint == again.fingerprint
    assert len(corpus.fingerprint) == 64
    splits = [s for s in (corpus.train, corpus.test, corpus.extra) if s is not None]
    ids = [i for s in splits for i in s.ids]
    assert len(ids) == len(set(ids))
    for images in splits:
        assert isinstance(images, Images)
        assert len(images) == len(images.ids) == len(images.floats(torch.arange(len(images)), CPU))
        assert tuple(images.raw(0).shape) == corpus.image
        assert images.raw(0).dtype == torch.uint8
    assert set(corpus.train.y.tolist()) == set(range(len(corpus.strata)))
    for name in part("dataset", stem).gives:
        assert name in corpus.train.targets if name != "y" else corpus.labelled


# Schedules


@every("schedule")
def test_a_schedule_is_a_pure_function_of_progress(stem):
    schedule, again = part("schedule", stem)(), part("schedule", stem)()
    factors = [schedule(n / 100) for n in range(100)]
    assert all(isfinite(f) and f >= 0 for f in factors)
    assert factors[::-1] == [again(n / 100) for n in reversed(range(100))]
    assert factors[0] > 0, "a training of one step must do something"


# Metrics


@every("metric")
def test_a_metric_is_of_all_images_however_they_come(stem):
    metric = part("metric", stem)()
    assert metric.key.isidentifier()
    if "classes" not in metric.predicts:
        return
    rng = torch.Generator().manual_seed(0)
    logits, y = torch.randn(60, 10, generator=rng), torch.arange(60) % 10
    whole, pieces, right = (metric.build(DIGITS) for _ in range(3))
    whole.update(logits, y)
    for rows in torch.arange(60).split(7):
        pieces.update(logits[rows], y[rows])
    found = named(metric.key, whole.compute(), DIGITS)
    assert found
    assert found == pytest.approx(named(metric.key, pieces.compute(), DIGITS), abs=1e-5)
    right.update(torch.eye(10)[y] * 20, y)
    assert found != named(metric.key, right.compute(), DIGITS), "it sees the predictions"
