"""Multi-task learning and regression: losses of the papers, and numbers of single heads."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sft_exp
from sft_exp.core.rng import stream
from sft_exp.core.types import Spec
from sft_exp.datasets.digit_pairs import DigitPairs
from sft_exp.datasets.number_table import NumberTable
from sft_exp.encoders.conv import Conv
from sft_exp.errors import ConfigError, DataError
from sft_exp.jobs import prepare
from sft_exp.models.feature_extractor import FeatureExtractor
from sft_exp.predict import __main__ as predict_command
from sft_exp.stages import model as models
from sft_exp.strategies.ridge import Ridge
from sft_exp.strategies.svr import Svr
from sft_exp.tasks.classify import Classify
from sft_exp.tasks.multitask import MultiTask, SharedEncoder
from sft_exp.tasks.regress import Regress
from sft_exp.tasks.segment import Segment

CPU = torch.device("cpu")
HEADS = {"left": Classify(), "mask": Segment(width=8), "value": Regress()}


@pytest.fixture(scope="module")
def pairs():
    return DigitPairs(train=60, test=20).load()


def made(pairs, **options):
    torch.manual_seed(0)
    task = MultiTask(**{"heads": HEADS, **options})
    encoder = FeatureExtractor(
        Conv(channels=[8, 16], norm="layer").build(pairs.image), ["dense"], "avg", 2, pairs.image
    )
    return task, task.networks(encoder, pairs.spec)


def batch_of(pairs, n=12):
    (batch,) = pairs.train.batches([torch.arange(n)], CPU)
    return {"labelled": batch}


def test_the_composite_is_what_it_says(pairs):
    for n in range(0, 60, 7):
        x_HW, mask_HW = pairs.train.raw(n)[0], pairs.train.target("mask")[n]
        assert ((x_HW >= 96) == (mask_HW == 1)).all()
        assert x_HW[:, :10].any()
        assert x_HW[:, 10:].any()
    left_N, right_N = pairs.train.target("left"), pairs.train.target("right")
    assert torch.equal(pairs.train.target("value")[:, 0], (left_N + right_N).float())
    assert pairs.spec.of("left").classes == tuple("0123456789")
    again = DigitPairs(train=60, test=20).load()
    assert (again.fingerprint, again.test_fingerprint) == (
        pairs.fingerprint,
        pairs.test_fingerprint,
    )


def test_a_head_among_others_says_what_it_says_alone(pairs):
    """The encoder runs once for all heads; each gets what it would have got by itself."""
    task, nets = made(pairs)
    batch = batch_of(pairs)["labelled"]
    nets.eval()
    told = task.predict(nets, batch["x"])
    for name, sub in HEADS.items():
        alone = {**nets["heads"][name], "encoder": nets["encoder"]}
        assert torch.allclose(sub.predict(alone, batch["x"]), told[name], atol=1e-6)
    drawn = task.draw({"labelled": batch}, stream("draw"), 0.5)
    _, losses = task.loss(nets, *drawn)
    for (name, sub), target in zip(HEADS.items(), drawn[1:], strict=True):
        alone = {**nets["heads"][name], "encoder": nets["encoder"]}
        assert sub.loss(alone, drawn[0], target)[0].item() == pytest.approx(
            losses[name].item(), rel=1e-5
        )


def test_the_weightings_are_their_formulas(pairs):
    drawn = made(pairs)[0].draw(batch_of(pairs), stream("draw"), 0.5)
    task, nets = made(pairs, weights={"left": 2.0, "mask": 0.5})
    total, parts = task.loss(nets, *drawn)
    assert total.item() == pytest.approx(
        (2 * parts["left"] + 0.5 * parts["mask"] + parts["value"]).item()
    )

    task, nets = made(pairs, weighting="uncertainty")
    s_T = torch.tensor([0.3, -0.2, 0.7])
    nets["weights"].value.data.copy_(s_T)
    total, parts = task.loss(nets, *drawn)
    by_hand = sum(
        (-s).exp() * h * parts[n] + s / 2 for s, h, n in zip(s_T, (1, 1, 0.5), HEADS, strict=True)
    )
    assert total.item() == pytest.approx(by_hand.item())
    total.backward()
    expected = [
        -(-s).exp() * h * parts[n].detach() + 0.5
        for s, h, n in zip(s_T, (1, 1, 0.5), HEADS, strict=True)
    ]
    assert nets["weights"].value.grad.tolist() == pytest.approx(
        [v.item() for v in expected], rel=1e-4
    )


def test_gradnorm_moves_weights_towards_equal_gradients(pairs):
    """Equation 2: the head with the largest weighted gradient, all learning alike, loses weight."""
    task, nets = made(pairs, weighting="gradnorm")
    drawn = task.draw(batch_of(pairs), stream("draw"), 0.5)
    total, parts = task.loss(nets, *drawn)
    assert total.item() == pytest.approx(sum(p.item() for p in parts.values()))
    total.backward()
    assert nets["weights"].value.grad is None, "the weights do not follow the sum of the losses"
    value, shown = task.balance(nets, *drawn)
    value.backward()
    shared = SharedEncoder(nets["encoder"], drawn[0])
    shared.detach()
    losses_T, _ = task.losses(nets, shared, drawn[1:])
    leaves = shared.leaves()
    grads = [
        torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True) for loss in losses_T
    ]
    norms = [torch.cat([g.flatten() for g in found if g is not None]).norm() for found in grads]
    norms_T = torch.stack(norms)
    assert value.item() == pytest.approx((norms_T - norms_T.mean()).abs().sum().item(), rel=1e-5)
    assert torch.equal(nets["weights"].value.grad.sign(), (norms_T - norms_T.mean()).sign())
    assert set(shown) == {f"{name}_weight" for name in HEADS}
    with torch.no_grad():
        task.on_step_end(nets, *drawn)
        assert torch.allclose(nets["first"].value, losses_T)
        nets["weights"].value.copy_(torch.tensor([4.0, 1.0, 1.0]))
        task.on_step_end(nets, *drawn)
    assert nets["weights"].value.tolist() == pytest.approx([2.0, 0.5, 0.5])
    assert torch.allclose(nets["first"].value, losses_T)


def test_the_metrics_of_a_head_are_its_own(pairs):
    task, nets = made(pairs)
    model = models.Model(task, nets.eval(), pairs.spec)
    scores, kept = models.measure(model, pairs.test, CPU)
    assert {"left/accuracy", "mask/miou", "mask/iou/ink", "value/r2", "mean"} <= set(scores)
    assert scores["mean"] == pytest.approx(
        (scores["left/accuracy"] + scores["mask/miou"] + scores["value/r2"]) / 3, rel=1e-5
    )
    right = (kept["left/predicted"].long() == pairs.test.target("left")).float().mean().item()
    assert scores["left/accuracy"] == pytest.approx(right)
    assert list(task.columns.values()) == ["mean", "left accuracy", "mask mIoU", "value R2"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"heads": {"left": "svm"}}, "heads.left=svm: must be an option of task"),
        ({"heads": {"left": Classify(mixup=0.2)}}, "leaves the images as they are"),
        ({"heads": HEADS, "weights": {"other": 1.0}}, "weights"),
        ({"heads": HEADS, "weights": {"left": 1.0}, "weighting": "gradnorm"}, "if fixed"),
        ({"heads": HEADS, "weighting": "equal"}, "fixed, uncertainty, gradnorm"),
    ],
)
def test_what_cannot_be_is_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        MultiTask(**options)


def test_heads_are_named_by_options(experiment):
    e = experiment(
        "dataset=digit_pairs",
        "task=multitask",
        "task.heads.left=classify",
        "task.heads.value=regress",
        "pretrainer=none",
    )
    assert e.task.heads == {"left": Classify(), "value": Regress()}
    assert e.task.pooled
    with pytest.raises(ConfigError, match="names no task; did you mean classify"):
        experiment("dataset=digit_pairs", "task=multitask", "task.heads={left: clasify}")
    with pytest.raises(ConfigError, match="must name a task for each target"):
        prepare.prepare(experiment("dataset=digit_pairs", "task=multitask", "pretrainer=none"))
    with pytest.raises(ConfigError, match="learns from middle"):
        prepare.prepare(
            experiment(
                "dataset=digit_pairs",
                "task=multitask",
                "task.heads={middle: classify}",
                "pretrainer=none",
            )
        )


SMALL = [
    "pretrainer=ae", "draws=2", "seeds=1", "pretrain.steps=2", "finetune.steps=8", "val=none",
    "tracker=none", "report=false", "labels=20",
]  # fmt: skip


@pytest.mark.parametrize(
    "weighting", ["gradnorm", pytest.param("uncertainty", marks=pytest.mark.slow)]
)
def test_the_whole_line_with_each_head_alone(weighting, tmp_path, capsys):
    sizes = ["dataset.train=60", "dataset.test=30", "encoder.channels=[8,16]"]
    result = sft_exp.run(
        [*SMALL, "dataset=digit_pairs", *sizes, f"task.weighting={weighting}"], "run"
    )
    assert result["score"] == "mean"
    assert set(result["controls"]) == {
        "scratch",
        "random_frozen",
        "alone_left",
        "alone_right",
        "alone_mask",
    }
    assert set(result["heads"]) == {"left", "right", "mask"}
    assert "together" in result["heads"]["left"]["text"]
    assert set(result["controls"]["alone_left"]) & {"left/accuracy", "right/accuracy"} == {
        "left/accuracy"
    }
    Image.fromarray(np.zeros((32, 48), np.uint8)).save("a.png")
    assert predict_command.main(["run", "a.png", "--out", "told"]) == 0
    head, row = read(capsys)
    assert head == ["file", "left", "right", "mask"]
    assert row[3] == "told/a-mask.png"
    assert Path(row[3]).exists()


def test_a_pretrainers_objective_is_learnt_beside_the_labels():
    """The arms differ in one thing: labels_only starts from the same weights and learns the labels alone."""
    options = [
        "task=joint",
        "task.objective=dae",
        "task.weight=0.01",
        "labels=10",
        "finetune.steps=120",
    ]
    result = sft_exp.run([*SMALL, "pretrainer=none", *options], "run")
    assert result["score"] == "accuracy"
    assert set(result["controls"]) == {
        "scratch",
        "labels_only",
        "random_frozen",
        "raw_pixels",
        "raw_svm",
        "pca_svm",
    }
    assert result["test"]["accuracy"] > 0.75
    gain = np.mean(result["draws"]["pretrained"]) - np.mean(result["draws"]["labels_only"])
    assert result["unlabelled"]["difference"] == pytest.approx(gain)
    assert f"with the labels alone, {100 * gain:+.1f} points" in result["unlabelled"]["text"]
    assert result["draws"]["pretrained"] != result["draws"]["labels_only"]
    nothing = sft_exp.run([*SMALL, "pretrainer=none", *options, "task.weight=0"], "weightless")
    assert nothing["draws"]["pretrained"] == nothing["draws"]["labels_only"], (
        "an objective of no weight changes nothing"
    )


def read(capsys):
    return list(csv.reader(io.StringIO(capsys.readouterr().out)))[-2:]


# Numbers


def test_the_start_of_a_regression_is_a_ridge_regression(pairs):
    """Told of features that determine the numbers, it starts at the answer, in their units."""
    torch.manual_seed(0)
    encoder = FeatureExtractor(
        Conv(channels=[8, 16]).build(pairs.image), [-1], "avg", 1, pairs.image
    )
    task = Regress(ridge=1e-9)
    nets = task.networks(encoder, Spec(pairs.image, ("a", "b")))
    f_ND = torch.randn(400, encoder.width, generator=stream("f"))
    value_NK = 50 + 1000 * f_ND[:, :2] - 300 * f_ND[:, 2:3]
    task.prepare(nets, {"f": f_ND, "y": torch.zeros(400), "value": value_NK, "pool": f_ND})
    told = nets["units"](nets["head"](nets["scale"](f_ND)))
    assert torch.allclose(told, value_NK, rtol=1e-3, atol=2.0)
    with torch.no_grad():
        nets["encoder"] = torch.nn.Identity()
        loss, _ = task.loss(nets, f_ND, value_NK)
    assert loss.item() < 1e-5


def test_huber_is_less_moved_by_an_outlier():
    class Told(Regress):
        def predict(self, nets, x):
            return x

    from sft_exp.models.heads.regressor import Units

    nets, told, true = (
        {"units": Units(1)},
        torch.tensor([[0.0], [0.5]]),
        torch.tensor([[10.0], [0.0]]),
    )
    assert Told().loss(nets, told, true)[0].item() == pytest.approx((100 + 0.25) / 2)
    assert Told(error="huber").loss(nets, told, true)[0].item() == pytest.approx(
        (10 - 0.5 + 0.5 * 0.25) / 2
    )


@pytest.mark.parametrize("strategy", [Ridge(), Svr()])
def test_solved_regressions_are_scikit_learns(strategy):
    f_BD = torch.randn(120, 5, generator=stream("f"))
    y_BK = torch.stack([3 * f_BD[:, 0] + 100, (f_BD[:, 1] * 2).sin() * 7], 1)
    head, again = (
        strategy.fit_closed_form(f_BD, y_BK, Spec((1, 1, 5), ("a", "b")), 3) for _ in range(2)
    )
    with torch.no_grad():
        assert torch.equal(head(f_BD), again(f_BD))
        empty = strategy.head(
            {k: v.shape for k, v in head.state_dict().items()}, Spec((1, 1, 5), ("a", "b"))
        )
        empty.load_state_dict(head.state_dict())
        assert torch.equal(head(f_BD), empty(f_BD))
        assert (head(f_BD)[:, 0] - y_BK[:, 0]).abs().mean() < 0.5
    if isinstance(strategy, Svr):
        from sklearn.svm import SVR

        scale, y = 1 / (5 * f_BD.var().item()), y_BK[:, 1]
        t = ((y - y.mean()) / y.std()).numpy()
        kept = torch.randperm(120, generator=torch.Generator().manual_seed(3))
        fits = [
            SVR(gamma=scale, C=c, epsilon=0.1).fit(f_BD[kept].numpy(), t[kept]) for c in strategy.c
        ]
        theirs = [
            torch.from_numpy(fit.predict(f_BD.numpy())).float() * y.std() + y.mean() for fit in fits
        ]
        assert min((head(f_BD)[:, 1] - told).abs().max().item() for told in theirs) < 1e-2


def table(folder, n=40):
    """Grey squares, and how bright they are in percent."""
    rng, lines = np.random.default_rng(0), ["file,target,split,group"]
    for k in range(n):
        level = int(rng.integers(20, 235))
        pixels = np.clip(level + rng.normal(0, 10, (12, 12)), 0, 255).astype(np.uint8)
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{k:02d}.png")
        lines.append(f"{k:02d}.png,{level / 2.55:.2f},{'test' if k % 4 == 0 else 'train'},")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


def test_numbers_go_through_the_whole_line(tmp_path, capsys):
    file = table(tmp_path / "squares")
    options = [
        "dataset=number_table",
        f"dataset.table={file}",
        "dataset.size=12",
        "dataset.channels=1",
        "encoder=mlp",
    ]
    result = sft_exp.run([*SMALL, *options, "val=cv", "report=true"], "run")
    assert result["score"] == "r2"
    assert set(result["controls"]) == {
        "scratch",
        "random_frozen",
        "raw_pixels",
        "raw_svm",
        "pca_svm",
    }
    assert result["controls"]["raw_pixels"]["r2"] > 0.9
    assert result["controls"]["raw_pixels"]["mae"] < 8
    assert "r2" in result["val"]
    capsys.readouterr()
    assert predict_command.main(["run", str(tmp_path / "squares" / "00.png")]) == 0
    head, row = read(capsys)
    assert head == ["file", "target"]
    assert float(row[1]) == float(row[1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("00.png,", "no.png,"), "line 2: there is no file 'no.png'"),
        (("01.png,", "00.png,"), "line 3: 00.png has two rows"),
        ((",test,", ",other,"), "line 2: split is 'other'; valid: train, val, test"),
        (("file,target", "file,height"), "no column target; its first line has file,height"),
        (("01.png,", "01.png,much"), "line 3: target is 'much"),
    ],
)
def test_a_wrong_table_is_named(tmp_path, change, said):
    file = table(tmp_path / "squares", 6)
    file.write_text(file.read_text().replace(*change, 1))
    with pytest.raises(DataError, match=said):
        NumberTable(table=str(file), size=8).load()


def test_broken_images_and_flat_numbers_are_named(tmp_path):
    file = table(tmp_path / "squares", 6)
    whole = (file.parent / "03.png").read_bytes()
    (file.parent / "03.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"03\.png: is empty"):
        NumberTable(table=str(file), size=8).load()
    (file.parent / "03.png").write_bytes(whole)
    lines = file.read_text().splitlines()
    file.write_text(
        "\n".join([lines[0], *(f"{line.split(',')[0]},5,train," for line in lines[1:])])
    )
    with pytest.raises(DataError, match="is the same in all training rows"):
        NumberTable(table=str(file), size=8).load()
