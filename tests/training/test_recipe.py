"""Parts of a fine-tuning recipe follow their papers, and have no effect where they are off."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from sft_exp.config.schema import OptimizerConfig
from sft_exp.core import arms
from sft_exp.core.rng import stream
from sft_exp.core.tracker import Tracker
from sft_exp.errors import ConfigError, Interrupted
from sft_exp.jobs import prepare
from sft_exp.jobs.stage_requests import function_of
from sft_exp.models.heads.classifier import balance
from sft_exp.stages import finetune
from sft_exp.tasks.classify import Classify, window
from sft_exp.training.context import Context, Stop
from sft_exp.training.loop import train
from sft_exp.training.optim import optimizers_for

CPU = torch.device("cpu")
SMALL = ("pretrainer=none", "encoder=conv", "encoder.channels=[4,8]", "encoder.code=16")


def batch_of(digits, rows):
    (batch,) = digits.train.batches([torch.arange(rows)], CPU)
    return {"labelled": batch}


def drawn(digits, rows=16, **fields):
    return Classify(**fields).draw(batch_of(digits, rows), stream(0, "draw"), 0.5)


@pytest.fixture
def tuning(experiment, tmp_path):
    """Overrides -> (request of the main arm's first draw, context)."""

    def made(*overrides):
        e = experiment(
            *SMALL, "controls=false", "draws=1", f"store={tmp_path / 'store'}", *overrides
        )
        return prepare.prepare(e).requests["finetune"][0], Context.on(e.hardware, Tracker())

    return made


def tuned(folder, request, ctx):
    """Weights, and rows of metrics."""
    folder.mkdir(exist_ok=True)
    function_of("finetune", request)(folder, request, ctx)
    return load_file(folder / "model.safetensors"), [
        json.loads(r) for r in (folder / "metrics.jsonl").read_text().splitlines()
    ]


def parts(request, ctx):
    draw = finetune.splits.make(ctx.corpus(request["dataset"]), request["labels"], request["draw"])
    return draw.labelled, draw.pool


# Images and labels that are mixed


@pytest.mark.parametrize("rows", [16, 7])
def test_mixup_mixes_an_image_and_its_neighbour_as_their_labels(digits, rows):
    x_BCHW, y_B, other_B, share_B = drawn(digits, rows, mixup=0.4)
    (batch,) = batch_of(digits, rows).values()
    pairs = [min(i ^ 1, rows - 1) for i in range(rows)]
    expected = (1 - share_B)[:, None, None, None] * batch["x"] + share_B[
        :, None, None, None
    ] * batch["x"][pairs]
    assert torch.allclose(x_BCHW, expected, atol=1e-6)
    assert torch.equal(y_B, batch["y"])
    assert torch.equal(other_B, batch["y"][pairs])
    assert len({*share_B.tolist()}) == rows
    assert 0 <= share_B.min() <= share_B.max() <= 1


def test_cutmix_takes_a_window_of_the_neighbour_and_counts_its_pixels(digits):
    x_BCHW, _, _, share_B = drawn(digits, cutmix=1.0)
    (batch,) = batch_of(digits, 16).values()
    other_BCHW = batch["x"][[i ^ 1 for i in range(16)]]
    assert ((x_BCHW == batch["x"]) | (x_BCHW == other_BCHW)).all()
    assert torch.equal(share_B * 64, (share_B * 64).round())
    taken_BHW = window(torch.Size((2000, 1, 16, 16)), torch.full((2000,), 0.25), stream("window"))
    assert taken_BHW.flatten(1).sum(1).max() == 64, (
        "a quarter of the image, where no border cuts it off"
    )
    sides = taken_BHW.any(1).sum(1), taken_BHW.any(2).sum(1)
    assert torch.equal(sides[0] * sides[1], taken_BHW.sum((1, 2))), "a rectangle"


def test_a_mixed_images_loss_is_the_mix_of_both_labels(digits):
    torch.manual_seed(0)
    x_BCHW, y_B, other_B, share_B = drawn(digits, mixup=1.0)
    nets = nn.ModuleDict(
        {"encoder": nn.Flatten(), "scale": nn.Identity(), "head": nn.Linear(64, 10)}
    )
    found, _ = Classify(mixup=1.0, smoothing=0.1).loss(nets, x_BCHW, y_B, other_B, share_B)
    target_BY = (1 - share_B[:, None]) * F.one_hot(y_B, 10) + share_B[:, None] * F.one_hot(
        other_B, 10
    )
    expected = F.cross_entropy(nets["head"](x_BCHW.flatten(1)), 0.9 * target_BY + 0.1 / 10)
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)


def test_mixup_and_cutmix_exclude_each_other():
    with pytest.raises(ConfigError, match=r"cutmix=1.0: must be 0 with mixup"):
        Classify(mixup=1.0, cutmix=1.0)


def test_what_is_off_draws_nothing_and_is_no_difference(digits):
    x_BCHW, y_B = drawn(digits)
    (batch,) = batch_of(digits, 16).values()
    assert torch.equal(x_BCHW, batch["x"])
    assert torch.equal(y_B, batch["y"])
    assert Classify(views={"rotate": 10.0}) == Classify()
    assert Classify().plain
    assert not any(
        Classify(**f).plain
        for f in ({"smoothing": 0.1}, {"balanced": True}, {"mixup": 1.0}, {"augment": True})
    )


def test_weights_of_classes_make_rare_ones_count_as_much():
    y_N = torch.tensor([0] * 6 + [1] * 3 + [3])
    weight_Y = balance(y_N, 5)
    assert torch.allclose(
        torch.stack([weight_Y[y_N][y_N == c].sum() for c in (0, 1, 3)]), torch.tensor(10 / 3)
    )
    assert weight_Y[[2, 4]].tolist() == [0, 0]
    assert weight_Y[y_N].mean().item() == pytest.approx(1)


def test_a_frozen_encoder_sees_augmented_images_and_stays_as_it_is(tuning, tmp_path):
    """Features of views cannot be stored; frozen is frozen all the same."""
    found = {}
    for augment in ("true", "false"):
        request, ctx = tuning(
            "strategy=linear", f"task.augment={augment}", "finetune.steps=6", "val=none"
        )
        _, data, plan, _ = finetune.ready(request, ctx, *parts(request, ctx), "all")
        assert data["labelled"].floats(torch.arange(2), CPU).dim() == (
            4 if augment == "true" else 2
        )
        assert bool(plan.eval_frozen) == (augment == "true")
        found[augment], _ = tuned(tmp_path / augment, request, ctx)
        initial = finetune.start(request, ctx).state_dict()
        frozen = [name for name in initial if name.startswith("encoder.")]
        assert len(frozen) > 8
        assert all(torch.equal(found[augment][name], initial[name]) for name in frozen)
    assert not torch.equal(found["true"]["head.weight"], found["false"]["head.weight"])


def test_heads_train_together_only_where_their_loss_is_plain(tuning):
    assert finetune.batch_key(tuning("strategy=linear", "val=none")[0])
    for more in (
        "task.smoothing=0.1",
        "task.mixup=1",
        "finetune.ema=0.9",
        "finetune.clip=1",
        "task=pseudo_label",
    ):
        assert finetune.batch_key(tuning("strategy=linear", "val=none", more)[0]) is None, more


# Gradients, mean weights, an early end


@pytest.mark.parametrize("clip", [0.1, 1e6])
def test_a_clipped_gradient_is_no_longer_than_it_may_be(digits, plan, clip):
    torch.manual_seed(0)
    nets = nn.ModuleDict(
        {"encoder": nn.Flatten(), "scale": nn.Identity(), "head": nn.Linear(64, 10)}
    )
    before = nets["head"].weight.detach().clone(), nets["head"].bias.detach().clone()
    told = plan(nets, 1, clip=clip)
    optimizers = optimizers_for(
        Classify(), nets, OptimizerConfig("torch.optim.SGD", {"lr": 1.0}), told.phases
    )
    next(train(Classify(), nets, optimizers, {"labelled": digits.train}, told, CPU))
    moved = (
        torch.cat([(before[0] - nets["head"].weight).flatten(), before[1] - nets["head"].bias])
        .norm()
        .item()
    )
    assert moved == pytest.approx(0.1, rel=1e-4) if clip == 0.1 else 0.1 < moved < 1e6


def test_mean_weights_are_an_exponential_mean():
    nets, mean = nn.Linear(1, 1, bias=False), None
    values = [3.0, 1.0, 4.0, 1.0, 5.0]
    expected = values[0]
    for done, value in enumerate(values, start=1):
        nets.weight.data.fill_(value)
        mean = finetune.averaged(mean, nets, 0.25, done)
        decay = min(0.25, done / (done + 10))
        expected = decay * expected + (1 - decay) * value if done > 1 else value
    assert mean["weight"].item() == pytest.approx(expected)


def test_mean_weights_are_what_is_kept(tuning, tmp_path):
    """Other weights than the last ones, along the same path of training."""
    plain, rows = tuned(tmp_path / "plain", *tuning("finetune.steps=20", "val=none"))
    mean, same = tuned(
        tmp_path / "mean", *tuning("finetune.steps=20", "val=none", "finetune.ema=0.9")
    )
    assert rows == same
    assert not torch.equal(plain["head.weight"], mean["head.weight"])


def test_it_ends_after_so_many_looks_without_a_gain(tuning, tmp_path):
    """At a rate that changes nothing: a first look, then as many as patience has, of 20 in all."""
    request, ctx = tuning(
        "optim.lr=1e-12",
        "schedule=constant",
        "finetune.steps=40",
        "val=holdout",
        "finetune.patience=3",
    )
    best, rows = tuned(tmp_path / "early", request, ctx)
    assert rows[-1]["step"] == 8
    initial = finetune.start(request, ctx).state_dict()
    weights = [name for name in best if name.endswith("weight") and name.startswith("encoder.")]
    assert all(torch.allclose(best[name], initial[name], atol=1e-9) for name in weights)


def test_patience_needs_images_to_look_at(experiment):
    with pytest.raises(
        ConfigError, match=r"finetune.patience=3: must be null except with val=holdout or full"
    ):
        experiment("finetune.patience=3")


@pytest.mark.parametrize(
    "what",
    [
        "strategy=lora val=none finetune.ema=0.9",
        "strategy=gradual val=holdout finetune.patience=15 task.mixup=0.4",
        "task=fixmatch strategy=layerwise val=holdout finetune.ema=0.9",
        "strategy=l2sp val=none optim=sam optim.lr=0.01",
        "task=mean_teacher val=none finetune.clip=1",
        "task=fixmatch task.align=true val=none",
        "task=m1_m2 strategy=linear val=none",
    ],
)
@pytest.mark.sampled(3)
def test_stopped_and_started_again_it_ends_in_the_same_bits(tuning, tmp_path, monkeypatch, what):
    """Mean weights, best weights, patience, teachers and low-rank updates are in the checkpoint, or computed again."""
    request, ctx = tuning(*what.split(), "finetune.steps=24")
    expected = tuned(tmp_path / "whole", request, ctx)
    real = finetune.fit

    def stopping(*arguments):
        for step in real(*arguments):
            Stop.requested = step.done == 11
            yield step

    monkeypatch.setattr(finetune, "fit", stopping)
    with Stop.handle_signals(), pytest.raises(Interrupted):
        tuned(tmp_path / "cut", request, ctx)
    Stop.requested = False
    monkeypatch.setattr(finetune, "fit", real)
    found = tuned(tmp_path / "cut", request, ctx)
    assert found[0].keys() == expected[0].keys()
    assert all(torch.equal(found[0][name], expected[0][name]) for name in expected[0])
    assert found[1] == expected[1]


# Semi-supervised tasks in the line


@pytest.mark.parametrize("task", ["fixmatch", "mean_teacher", "pseudo_label", "m1_m2"])
def test_a_semi_supervised_task_is_given_the_pool_and_beside_it_labels_alone(
    experiment, tmp_path, task
):
    e = experiment(*SMALL, "draws=2", f"task={task}", "finetune.steps=3", f"store={tmp_path}")
    job = prepare.prepare(e)
    assert list(job.arms) == [arms.MAIN, *arms.CONTROLS, arms.LABELS_ONLY]
    for arm, places in job.arms.items():
        kinds = {type(job.requests["finetune"][i]["task"]) for i in places}
        assert kinds == {type(e.task) if arm in (arms.MAIN, arms.SCRATCH) else Classify}
    request, ctx = (
        job.requests["finetune"][job.arms[arms.MAIN][0]],
        Context.on(e.hardware, Tracker()),
    )
    labelled, pool = parts(request, ctx)
    _, data, _, _ = finetune.ready(request, ctx, labelled, pool, "all")
    assert data.keys() == {"labelled", "unlabelled"}
    assert not {*data["unlabelled"].ids} & {*labelled.ids}


def test_a_solved_head_has_no_use_for_unlabelled_images(experiment):
    with pytest.raises(ConfigError, match=r"task=fixmatch: needs a strategy that trains"):
        prepare.prepare(experiment("task=fixmatch", "strategy=svm"))
