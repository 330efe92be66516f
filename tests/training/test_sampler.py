"""Class-balanced sampling: how often classes are drawn into the batches of fine-tuning."""

from copy import deepcopy

import pytest
import torch
from test_contract import supervised

from sft_exp.config.schema import OptimizerConfig
from sft_exp.core.comm import share
from sft_exp.core.types import Spec
from sft_exp.data.images import Images
from sft_exp.data.order import sampled_rows
from sft_exp.errors import ConfigError
from sft_exp.jobs import prepare
from sft_exp.models.feature_extractor import Precomputed
from sft_exp.stages import finetune
from sft_exp.store.requests import plain
from sft_exp.tasks.classify import Classify
from sft_exp.training.loop import batches_of, train
from sft_exp.training.optim import optimizers_for

CPU = torch.device("cpu")
COUNTS = (1, 16, 81)  # images of the classes
UNEQUAL = torch.arange(3).repeat_interleave(torch.tensor(COUNTS))
TINY = ("encoder=mlp", "encoder.hidden=[8]", "draws=1", "val=none", "controls=[scratch]")


@pytest.mark.parametrize("exponent", [0.0, 0.5, 0.9, 1.0])
def test_a_class_is_drawn_by_the_power_of_its_frequency(exponent):
    """Equation 1 of arXiv:1910.09217, within five standard deviations of the mean of all draws."""
    drawn = torch.cat([sampled_rows(UNEQUAL, 50, exponent, step, 0) for step in range(400)])
    expected_Y = torch.tensor(COUNTS).double().pow(exponent)
    expected_Y /= expected_Y.sum()
    found_Y = torch.bincount(UNEQUAL[drawn], minlength=3) / len(drawn)
    deviation_Y = (expected_Y * (1 - expected_Y) / len(drawn)).sqrt()
    assert ((found_Y - expected_Y).abs() < 5 * deviation_Y).all()
    of_largest = torch.bincount(drawn, minlength=98)[17:]
    assert of_largest.min() > 0, "every image of a class is drawn"


def test_a_batch_is_a_function_of_name_and_step():
    there = [sampled_rows(UNEQUAL, 10, 0.0, t, 0, "pool").tolist() for t in range(5)]
    back = [sampled_rows(UNEQUAL, 10, 0.0, t, 0, "pool").tolist() for t in reversed(range(5))]
    assert there == back[::-1]
    assert len({tuple(rows) for rows in there}) == 5
    assert sampled_rows(UNEQUAL, 10, 0.0, 0, 1, "pool").tolist() != there[0]


def images():
    return Images(torch.zeros(98, 1, 8, 8, dtype=torch.uint8), UNEQUAL, [str(n) for n in range(98)])


def test_processes_share_a_sampled_batch(plan):
    """Two have between them the rows that one has, in its order."""
    how = plan(torch.nn.ModuleDict(), 4, sampling={"labelled": 0.0})
    args = (images(), "labelled", 10, how, range(4), CPU)
    whole = [batch["row"] for batch in batches_of(*args, None)]
    parts = [[b["row"] for b in batches_of(*args, share(10, rank, 2))] for rank in range(2)]
    for rows, *own in zip(whole, *parts, strict=True):
        assert torch.equal(rows, torch.cat(own))


def test_only_the_labelled_pool_is_sampled(plan):
    how = plan(torch.nn.ModuleDict(), 9, sampling={"labelled": 0.0})
    rows = torch.cat([b["row"] for b in batches_of(images(), "u", 10, how, range(9), CPU, None)])
    assert len(set(rows.tolist())) == 90, "the other is shuffled, each image once an epoch"


def test_a_restart_draws_the_same_batches(plan):
    def trained(nets, start, stop):
        how = plan(nets, 8, stop=stop, sampling={"labelled": 0.0})
        optimizers = optimizers_for(
            task, nets, OptimizerConfig("torch.optim.SGD", {"lr": 0.1}), how.phases
        )
        for _ in train(task, nets, optimizers, {"labelled": images()}, how, CPU, start):
            pass
        return nets

    task, nets = supervised("classify")
    whole = trained(deepcopy(nets), 0, 8)
    resumed = trained(trained(deepcopy(nets), 0, 3), 3, 8)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def requests(experiment, *words):
    job = prepare.prepare(experiment(*TINY, "pretrainer=none", *words))
    return {arm: job.requests["finetune"][rows[0]] for arm, rows in job.arms.items()}


@pytest.mark.parametrize(("word", "exponent"), [("class", 0.0), ("sqrt", 0.5), ("0.25", 0.25)])
def test_every_arm_that_trains_by_gradient_is_sampled(experiment, word, exponent):
    asked = requests(
        experiment, f"finetune.sampler={word}", "controls=[scratch,random_frozen,raw_pixels]"
    )
    assert asked.pop("raw_pixels").get("sampler") is None, (
        "its head is fitted to all labels at once"
    )
    assert {r["sampler"] for r in asked.values()} == {exponent}
    assert all(finetune.batch_key(r) is None for r in asked.values())


@pytest.mark.parametrize("word", ["instance", "1", "1.0"])
def test_the_default_asks_for_nothing_new(experiment, word):
    usual, named = requests(experiment), requests(experiment, f"finetune.sampler={word}")
    assert plain(usual) == plain(named)
    assert all("sampler" not in r for r in usual.values())


@pytest.mark.parametrize("word", ["balanced", "-0.1", "1.5", "true", "null"])
def test_what_is_no_sampler_is_refused(experiment, word):
    with pytest.raises(
        ConfigError, match=r"finetune.sampler=.*: must be instance, sqrt, class, or"
    ):
        experiment(f"finetune.sampler={word}")


@pytest.mark.parametrize(
    ("task", "predicts"),
    [("segment", "pixels"), ("digit_pairs", "several")],
)
def test_a_task_without_a_class_for_each_image_refuses_it(experiment, task, predicts):
    words = ("dataset=digit_pairs", f"task={task}", "finetune.sampler=class", "pretrainer=none")
    with pytest.raises(
        ConfigError, match=f"balances classes of images, and {task} predicts {predicts}"
    ):
        prepare.prepare(experiment(*words))


def test_a_rare_class_is_found_more_often(plan):
    """Classes that overlap, 190 images to 10: drawn equally often, the rare one has its recall back."""

    def recalls(exponent):
        task = Classify(head="random")
        torch.manual_seed(0)
        nets = task.networks(Precomputed(8), Spec((1, 8, 8), ("common", "rare")))
        how = plan(nets, 400, sampling={} if exponent == 1 else {"labelled": exponent})
        adam = OptimizerConfig("torch.optim.Adam", {"lr": 1e-2})
        optimizers = optimizers_for(task, nets, adam, how.phases)
        for _ in train(task, nets, optimizers, {"labelled": overlapping(190, 10)}, how, CPU):
            pass
        fresh = overlapping(2_000, 2_000)
        right_N = nets["head"](fresh.x).argmax(1) == fresh.y
        return [right_N[fresh.y == c].float().mean().item() for c in (0, 1)]

    (common, rare), (balanced, found) = recalls(1), recalls(0.0)
    assert common > 0.97
    assert rare < 0.35
    assert found > rare + 0.3
    assert (balanced + found) / 2 > (common + rare) / 2 + 0.1


def overlapping(common, rare):
    """Features of two normal classes whose means are 1.6 standard deviations apart."""
    y_N = torch.arange(2).repeat_interleave(torch.tensor([common, rare]))
    f_ND = torch.randn(len(y_N), 8, generator=torch.Generator().manual_seed(common))
    f_ND[:, 0] += 1.6 * y_N
    return Images(f_ND, y_N, [str(n) for n in range(len(y_N))])
