"""Each strategy's trainable parameters and their rates; frozen parameters keep their bits."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier
from test_contract import part, parts
from torch import nn

from sft_exp.config.schema import OptimizerConfig
from sft_exp.core.encoder import Backbone, Encoder
from sft_exp.core.rng import stream
from sft_exp.core.types import Spec
from sft_exp.encoders.conv import Conv
from sft_exp.encoders.mlp import MLP
from sft_exp.encoders.pixels import Pixels
from sft_exp.encoders.resnet import ResNet
from sft_exp.encoders.vit import ViT
from sft_exp.errors import ConfigError
from sft_exp.models.ema import ema_update_all
from sft_exp.models.feature_extractor import FeatureExtractor, layers
from sft_exp.stages import finetune, model
from sft_exp.strategies import lora
from sft_exp.strategies.bitfit import BitFit
from sft_exp.strategies.full import Full
from sft_exp.strategies.gradual import Gradual
from sft_exp.strategies.knn import KNN
from sft_exp.strategies.l2sp import L2SP
from sft_exp.strategies.layerwise import Layerwise
from sft_exp.strategies.linear import Linear
from sft_exp.strategies.lora import LoRA
from sft_exp.strategies.lp_ft import LPFT
from sft_exp.strategies.partial import Partial
from sft_exp.strategies.spread import LabelSpreading
from sft_exp.tasks.classify import Classify
from sft_exp.training.loop import set_train_mode, train
from sft_exp.training.optim import optimizers_for

CPU = torch.device("cpu")
SPEC = Spec((1, 8, 8), tuple("0123456789"))
TRAINING = [s for s in parts("strategy") if not part("strategy", s).closed_form]
DECAYING = OptimizerConfig("torch.optim.AdamW", {"lr": 1e-2, "weight_decay": 0.5})


class Dropping(Backbone):
    """Two maps of a convolution, BatchNorm and dropout each, and a third that nothing here asks for."""

    width = 12

    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3)
        )
        self.two = nn.Sequential(
            nn.Flatten(), nn.Linear(72, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3)
        )
        self.three = nn.Linear(12, 5)

    def maps(self, x_BCHW):
        one = self.one(x_BCHW)
        yield "one", one
        two = self.two(one)
        yield "two", two
        yield "three", self.three(two)


class Droppy(Encoder):
    def build(self, image):
        return Dropping()


def networks(encoder, strategy, maps=(-1,)):
    torch.manual_seed(0)
    readout = FeatureExtractor(encoder.build(SPEC.image), maps, "avg", 1, SPEC.image)
    nets = Classify().networks(readout, SPEC)
    strategy.adapt(readout, stream("adapt"))
    return nets


def state(nets):
    return {name: v.clone() for name, v in nets.state_dict(keep_vars=False).items()}


@pytest.mark.parametrize(
    ("encoder", "maps"), [(Droppy(), (1,)), (Conv([8, 16], 16), (-1,)), (MLP([32, 16]), (-2,))]
)
@pytest.mark.parametrize("stem", TRAINING)
def test_what_is_frozen_is_frozen(digits, plan, stem, encoder, maps):
    """Through every phase: what the strategy moves moves, and of all else no byte does, statistics and decay included."""
    strategy = part("strategy", stem)()
    nets = networks(encoder, strategy, maps)
    phases = finetune.trainable_phases(strategy, nets, SPEC.image)
    images, steps = digits.train.at(torch.arange(64)), 8 * len(phases)
    told = plan(
        nets, steps, phases=[(1 / len(phases), rates) for _, rates in phases], eval_frozen="encoder"
    )
    optimizers = optimizers_for(Classify(), nets, DECAYING, told.phases)
    statistics = {
        name for name, _ in nets.named_buffers() if "running" in name or "tracked" in name
    }
    before, found = state(nets), []
    for step in train(Classify(), nets.train(), optimizers, {"labelled": images}, told, CPU):
        if step.done % 8 == 0:
            now = state(nets)
            found.append({name for name in now if not torch.equal(now[name], before[name])})
            before = now
    assert len(found) == len(phases)
    for changed, (_, rates) in zip(found, phases, strict=True):
        assert changed - statistics == rates.keys()
        for name in statistics:
            owner = name.rpartition(".")[0]
            assert (name in changed) == all(
                f"{owner}.{own}" in rates for own in ("weight", "bias")
            ), name


@pytest.mark.parametrize(
    "encoder", [Droppy(), Conv([8, 16], 16), ResNet(10)], ids=["batch and map", "conv", "resnet"]
)
def test_frozen_statistics_stay_while_the_parameters_train(digits, plan, encoder):
    """BatchNorm's running means and variances keep every byte; its weights move, as do all others."""
    nets = networks(encoder, Full())
    phases = finetune.trainable_phases(Full(), nets, SPEC.image)
    chosen = plan(nets, 4, phases=phases, eval_frozen="encoder", frozen_statistics=True)
    optimizers = optimizers_for(Classify(), nets, DECAYING, chosen.phases)
    images, before = digits.train.at(torch.arange(64)), state(nets)
    for _ in train(Classify(), nets.train(), optimizers, {"labelled": images}, chosen, CPU):
        pass
    after = state(nets)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == phases[0][1].keys()
    assert any("running_mean" in name for name in after)


@pytest.mark.parametrize("stem", TRAINING)
def test_dropout_is_off_where_all_around_it_is_frozen(stem):
    strategy = part("strategy", stem)()
    nets = networks(Droppy(), strategy)
    for _, rates in finetune.trainable_phases(strategy, nets, SPEC.image):
        set_train_mode(nets, "encoder", rates)
        for block in ("one", "two"):
            moves = any(name.startswith(f"encoder.backbone.{block}.") for name in rates)
            assert nets.get_submodule(f"encoder.backbone.{block}")[-1].training == moves
        assert nets["head"].training


def test_layers_come_from_the_input_up_and_end_at_the_features():
    readout = FeatureExtractor(Dropping(), ["one", "two"], "avg", 1, SPEC.image)
    found = layers(readout, SPEC.image)
    assert found == {
        "one": ["one.0.weight", "one.0.bias", "one.1.weight", "one.1.bias"],
        "two": ["two.1.weight", "two.1.bias", "two.2.weight", "two.2.bias"],
    }
    assert layers(
        FeatureExtractor(Pixels().build(SPEC.image), [-1], "avg", 1, SPEC.image), SPEC.image
    ) == {"pixels": []}


ALL = ("a.weight", "a.bias", "b.weight", "b.bias")
NAMES = {"low": ["a.weight", "a.bias"], "pooled": [], "high": ["b.weight", "b.bias"]}


@pytest.mark.parametrize(
    ("strategy", "phases"),
    [
        (Full(), [(1, {"a.weight": 1, "a.bias": 1, "b.weight": 1, "b.bias": 1})]),
        (Linear(), [(1, {})]),
        (BitFit(), [(1, {"a.bias": 1, "b.bias": 1})]),
        (Partial("^b|bias"), [(1, {"a.bias": 1, "b.weight": 1, "b.bias": 1})]),
        (Layerwise(0.5), [(1, {"b.weight": 0.5, "b.bias": 0.5, "a.weight": 0.25, "a.bias": 0.25})]),
        (LPFT(0.4, 0.1), [(0.4, {}), (0.6, dict.fromkeys(ALL, 0.1))]),
        (
            Gradual(0.5),
            [
                (0.25, {}),
                (0.25, {"b.weight": 1, "b.bias": 1}),
                (0.5, dict.fromkeys(("a.weight", "a.bias", "b.weight", "b.bias"), 1)),
            ],
        ),
    ],
    ids=lambda v: type(v).__name__,
)
def test_rates_are_as_promised(strategy, phases):
    found = strategy.phases(NAMES)
    assert [rates for _, rates in found] == [rates for _, rates in phases]
    assert [share for share, _ in found] == pytest.approx([share for share, _ in phases])


def test_the_optimizer_gets_the_rates_that_the_strategy_names(plan):
    nets = networks(MLP([32, 16]), Layerwise(0.5))
    phases = finetune.trainable_phases(Layerwise(0.5), nets, SPEC.image)
    groups = optimizers_for(Classify(), nets, DECAYING, phases)["loss"].param_groups
    rate_of = {id(p): g["lr"] for g in groups for p in g["params"]}
    assert {name: rate_of[id(p)] for name, p in nets.named_parameters()} == pytest.approx(
        {
            name: 1e-2 * (0.25 if "layers.0" in name else 0.5 if "layers.1" in name else 1)
            for name, _ in nets.named_parameters()
        }
    )


@pytest.mark.parametrize("pattern", ["nothing like it", "("])
def test_a_pattern_that_moves_nothing_is_refused(pattern):
    with pytest.raises(ConfigError, match=r"trainable=.*(a.weight, a.bias|regular expression)"):
        Partial(pattern).phases(NAMES)


# LoRA


@pytest.mark.parametrize("encoder", [MLP([32, 16]), Conv([8, 16], 16)])
def test_lora_merged_is_lora_unmerged(digits, plan, encoder):
    """After training: the same predictions to 1e-6, under the names and in the shapes of the plain encoder."""
    strategy = LoRA(rank=3)
    nets, plain = networks(encoder, strategy), networks(encoder, Full())
    images = digits.train.at(torch.arange(64))
    told = plan(
        nets,
        20,
        phases=finetune.trainable_phases(strategy, nets, SPEC.image),
        eval_frozen="encoder",
    )
    x_BCHW, before = images.floats(torch.arange(64), CPU), state(plain)
    with torch.no_grad():
        assert torch.equal(nets.eval()["encoder"](x_BCHW), plain.eval()["encoder"](x_BCHW)), (
            "at first it changes nothing"
        )
    for _ in train(
        Classify(),
        nets.train(),
        optimizers_for(Classify(), nets, DECAYING, told.phases),
        {"labelled": images},
        told,
        CPU,
    ):
        pass
    with torch.no_grad():
        unmerged = Classify().predict(nets.eval(), x_BCHW)
        strategy.merge(nets["encoder"])
        merged = Classify().predict(nets, x_BCHW)
        assert (merged - unmerged).abs().max() < 1e-6
        plain.load_state_dict(nets.state_dict())
        assert torch.equal(Classify().predict(plain.eval(), x_BCHW), merged)
    for name, p in plain.named_parameters():
        if name.startswith("encoder.") and name.endswith("weight") and p.dim() > 1:
            update = (p.detach() - before[name]).flatten(1)
            assert 1 <= torch.linalg.matrix_rank(update, rtol=1e-3) <= 3, (
                "the update has the rank asked for"
            )


@pytest.mark.parametrize("encoder", [MLP([32, 16]), Conv([8, 64], 16), ViT(4, 16, 1, 2)])
def test_the_two_products_are_one_with_the_sum_of_the_weights(encoder, monkeypatch):
    """In outputs and gradients; and PyTorch's attention, which has no layers of its own, is adapted too."""
    nets = networks(encoder, LoRA())
    monkeypatch.setattr(lora, "separable", lambda layer: False)
    summed, x_BCHW = networks(encoder, LoRA()), torch.rand(3, *SPEC.image, generator=stream("x"))
    with torch.no_grad():
        for name, p in nets.named_parameters():
            if name.endswith(".up"):
                p.copy_(torch.randn(p.shape, generator=stream(name)))
    summed.load_state_dict(nets.state_dict())
    outputs = []
    for each in (nets, summed):
        with torch.no_grad():
            outputs.append(each.eval()["encoder"](x_BCHW))
        outputs.append(each["encoder"](x_BCHW))
        outputs[-1].square().sum().backward()
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0], rtol=1e-5, atol=1e-5)
    rates = finetune.trainable_phases(LoRA(), nets, SPEC.image)[0][1]
    trained = {name: p.grad for name, p in nets.named_parameters() if name in rates}
    adapted = [name for name in trained if name.endswith(".up")]
    assert len(adapted) == sum(
        len(lora.adapted(m)) for m in networks(encoder, Full())["encoder"].modules()
    )
    for name, p in summed.named_parameters():
        if name in trained and name.startswith("encoder."):
            torch.testing.assert_close(trained[name], p.grad, rtol=1e-4, atol=1e-5)


def test_a_layer_that_does_more_than_a_product_keeps_the_sum():
    """A subclass that standardises its weight, a grouped and a small convolution."""

    class Standardised(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(x, self.weight / self.weight.std(), self.bias)

    assert lora.separable(nn.Conv2d(256, 256, 3))
    assert not lora.separable(Standardised(256, 256, 3))
    assert not lora.separable(nn.Conv2d(256, 256, 3, groups=256))
    assert not lora.separable(nn.Conv2d(16, 16, 1))


def test_a_teacher_follows_the_value_of_an_adapted_weight():
    strategy = LoRA()
    nets, teacher = networks(MLP([32, 16]), strategy), networks(MLP([32, 16]), Full())
    nets["encoder"].backbone.layers[0].parametrizations.weight[0].up.data.fill_(0.1)
    ema_update_all(teacher["encoder"], nets["encoder"], 0.0)
    assert torch.equal(
        teacher["encoder"].backbone.layers[0].weight, nets["encoder"].backbone.layers[0].weight
    )


# L2-SP


def test_l2sp_pulls_the_encoder_to_its_start_and_the_head_to_zero():
    now = {"encoder.w": torch.tensor([3.0, 1.0]), "head.w": torch.tensor([2.0])}
    found = L2SP(alpha=0.5, beta=0.1).penalty(now, {"encoder.w": torch.tensor([1.0, 1.0])})
    assert found.item() == pytest.approx(0.25 * 4 + 0.05 * 4)


def test_a_penalty_is_part_of_the_loss(digits, plan):
    """Its gradient moves what it is of, and it is logged."""
    images, ends = digits.train.at(torch.arange(64)), []
    for alpha in (0.0, 100.0):
        strategy = L2SP(alpha=alpha, beta=0.0)
        nets = networks(MLP([32, 16]), strategy)
        start = {
            name: p.detach().clone()
            for name, p in nets["encoder"].named_parameters(prefix="encoder")
        }

        def penalty(nets, strategy=strategy, start=start):
            return finetune.pull(strategy, start, nets)

        told = plan(nets, 30, eval_frozen="encoder", penalty=penalty)
        optimizers = optimizers_for(
            Classify(), nets, OptimizerConfig("torch.optim.Adam", {"lr": 1e-3}), told.phases
        )
        *_, last = train(Classify(), nets.train(), optimizers, {"labelled": images}, told, CPU)
        assert last.metrics["penalty"] >= 0
        ends.append(
            sum(
                (p - start[n]).square().sum().item()
                for n, p in nets.named_parameters()
                if n in start
            )
        )
    assert ends[1] < ends[0] / 10


# kNN


@pytest.mark.parametrize(("metric", "theirs"), [("euclidean", "euclidean"), ("cosine", "cosine")])
def test_neighbours_vote_as_scikit_learns(digits, metric, theirs):
    f_ND, y_N = digits.train.floats(torch.arange(400), CPU).flatten(1), digits.train.y[:400]
    head = KNN(k=[5], metric=metric).fit_closed_form(f_ND[:300], y_N[:300], SPEC, seed=0)
    expected = (
        KNeighborsClassifier(5, metric=theirs)
        .fit(f_ND[:300].numpy(), y_N[:300].numpy())
        .predict_proba(f_ND[300:].numpy())
    )
    assert head(f_ND[300:]).softmax(1).numpy() == pytest.approx(expected, abs=1e-6)


def test_neighbours_are_no_more_than_there_are():
    f_ND, y_N = torch.rand(3, 4, generator=stream("few")), torch.tensor([0, 1, 2])
    head = KNN(k=[20]).fit_closed_form(f_ND, y_N, SPEC, seed=0)
    assert head(f_ND).argmax(1).tolist() == [0, 1, 2]


# Labels spread over a graph


def solution(f_ND, y_N, k, alpha):
    """Zhou et al.'s closed form, with a dense matrix: class shares [N, Y]."""
    n = len(f_ND)
    d_NN = torch.cdist(f_ND, f_ND)
    order = d_NN.fill_diagonal_(torch.inf).argsort(1)[:, :k]
    scale_N = d_NN.gather(1, order)[:, -1]
    w_NN = torch.zeros(n, n)
    for i in range(n):
        for j in order[i].tolist():
            w_NN[i, j] += torch.exp(-(d_NN[i, j] ** 2) / (scale_N[i] * scale_N[j])) / 2
    w_NN = w_NN + w_NN.T
    d_N = w_NN.sum(1)
    s_NN = w_NN / (d_N[:, None] * d_N).sqrt()
    start_NY = F.one_hot(y_N.clamp_min(0), 10).float() * (y_N >= 0)[:, None]
    share_NY = torch.linalg.solve(torch.eye(n) - alpha * s_NN, start_NY)
    share_NY = share_NY / share_NY.sum(0).clamp_min(1e-6)
    return share_NY / share_NY.sum(1, keepdim=True).clamp_min(1e-12)


def test_labels_spread_to_where_zhous_closed_form_has_them(digits):
    f_ND, y_N = (
        F.normalize(digits.train.floats(torch.arange(200), CPU).flatten(1)),
        digits.train.y[:200].clone(),
    )
    y_N[40:] = -1
    head = LabelSpreading(k=5, alpha=0.8, turns=200).fit_closed_form(f_ND, y_N, SPEC, seed=0)
    place = torch.cdist(f_ND, head.f_ND).argmin(1)
    assert head.share_NY[place].numpy() == pytest.approx(
        solution(f_ND, y_N, 5, 0.8).numpy(), abs=1e-4
    )


@pytest.mark.parametrize(
    "strategy", [KNN(k=[5]), KNN(k=[3], metric="euclidean"), LabelSpreading(k=4)]
)
def test_a_head_that_was_solved_is_traced_for_batches_of_any_size(strategy):
    """An export of it ended as a bug: a number in a buffer, and a loop over the batch, cannot be traced."""
    f_BD, y_B = torch.rand(60, 16, generator=stream("traced")), torch.arange(60) % 10
    y_B[40:] = -1 if isinstance(strategy, LabelSpreading) else y_B[40:]
    fitted = strategy.fit_closed_form(f_BD, y_B, SPEC, seed=0)
    loaded = strategy.head({name: value.shape for name, value in fitted.state_dict().items()}, SPEC)
    loaded.load_state_dict(fitted.state_dict())
    for head in (fitted, loaded):
        batch = torch.export.Dim("batch")
        traced = torch.export.export(
            head.eval(), (f_BD[:2],), dynamic_shapes=({0: batch},)
        ).module()
        for size in (1, 3, 60):
            torch.testing.assert_close(traced(f_BD[:size]), head(f_BD[:size]))


def test_unlabelled_images_help_and_those_tested_are_not_among_them(experiment, tmp_path):
    from sft_exp.core.tracker import Tracker
    from sft_exp.jobs import prepare
    from sft_exp.runs import pipeline
    from sft_exp.training.context import Context

    few = [
        "pretrainer=none", "draws=1", "labels=2", "val=none", "finetune.steps=1", "strategy=linear",
    ]  # fmt: skip
    e = experiment(*few, "controls=[raw_knn,raw_spread]", f"store={tmp_path}")
    job = prepare.prepare(e)
    result = pipeline.run(job, Context.on(e.hardware, Tracker()))
    assert result.controls["raw_spread"]["accuracy"] > result.controls["raw_knn"]["accuracy"] + 0.05
    net = model.load(job.results["finetune"][job.arms["raw_spread"][0]].folder)
    tested = F.normalize(job.corpus.test.floats(torch.arange(500), CPU).flatten(1))
    assert torch.cdist(tested, net.nets["head"].f_ND).min() > 1e-3


@pytest.mark.parametrize("strategy", ["logistic", "svm", "knn"])
def test_features_are_standardised_each_before_a_head_is_solved(experiment, tmp_path, strategy):
    """The head is fitted on, and later given, features of mean 0 and spread 1; by default on the features as they are."""
    from sft_exp.core.tracker import Tracker
    from sft_exp.jobs import prepare
    from sft_exp.training.context import Context

    asked = [
        f"strategy={strategy}",
        "encoder=pixels",
        "pretrainer=none",
        "draws=1",
        "controls=false",
        "val=none",
    ]
    heads = {}
    for how in ("each", "common", "none"):
        e = experiment(*asked, f"task.standardise={how}", f"store={tmp_path}")
        job = prepare.prepare(e)
        finetune.run(
            tmp_path / how, {**job.requests["finetune"][0]}, Context.on(e.hardware, Tracker())
        )
        heads[how] = model.load(tmp_path / how)
    scale = heads["each"].nets["scale"]
    f_ND = job.corpus.train.floats(torch.arange(len(job.corpus.train)), CPU).flatten(1)
    alive_D = f_ND.std(0) > 0.05
    assert ((scale(f_ND).std(0)[alive_D] - 1).abs() < 0.1).all()
    x_BCHW = job.corpus.test.floats(torch.arange(200), CPU)
    told = {how: found.predict(x_BCHW) for how, found in heads.items()}
    assert torch.equal(told["common"], told["none"])
    assert not torch.allclose(told["each"], told["none"])
    assert (told["each"].argmax(1) == job.corpus.test.y[:200]).float().mean() > 0.7


# The table


def test_the_table_counts_every_parameter_once(experiment, tmp_path):
    from sft_exp.jobs import prepare
    from sft_exp.reports import report

    job = prepare.prepare(
        experiment("strategy=gradual", "pretrainer=none", "controls=false", f"store={tmp_path}")
    )
    table, rows = report.movements(job)
    request = job.requests["finetune"][0]
    nets = request["task"].networks(
        model.readout(request["encoder"], request["features"], job.corpus.spec), job.corpus.spec
    )
    assert sum(r["parameters"] for r in rows) == sum(p.numel() for p in nets.parameters())
    assert [(r["group"], r["rates"]) for r in rows] == [
        ("layer1", [None, None, 1.0]),
        ("layer2", [None, 1.0, 1.0]),
        ("head", [1.0, 1.0, 1.0]),
    ]
    assert table.row_count == 3
    assert list(table.columns[2].cells) == ["frozen", "frozen", "0.001"]
