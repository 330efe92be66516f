"""Heads on frozen features agree with scikit-learn's, also after saving and loading."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from torch import nn

from sft_exp.config.schema import OptimizerConfig
from sft_exp.core.rng import seed_of, stream
from sft_exp.core.types import Spec
from sft_exp.data.images import Images
from sft_exp.models.heads.fitted import SEARCH_ROWS, fit_linear, grid_fit
from sft_exp.models.layers import Standardise
from sft_exp.schedules.piecewise_cosine import PiecewiseCosine
from sft_exp.stages.stacked import STACKABLE, stacked
from sft_exp.strategies.logistic import Logistic
from sft_exp.strategies.svm import Svm
from sft_exp.tasks.classify import Classify
from sft_exp.training.loop import train
from sft_exp.training.optim import build_optimizer

SEED = seed_of("test")
SPEC = Spec((1, 8, 8), tuple("0123456789"))


@pytest.fixture(scope="module")
def pixels(digits):
    """(features [N, D], labels [N]) to fit on and to ask about; of the classes below some number."""

    def found(classes):
        f_ND, y_N = (
            digits.train.floats(torch.arange(len(digits.train)), torch.device("cpu")).flatten(1),
            digits.train.y,
        )
        f_ND, y_N = f_ND[y_N < classes], y_N[y_N < classes]
        return f_ND[:200], y_N[:200], f_ND[200:]

    return found


def shuffled(f_ND, y_N):
    """As `grid_fit` hands them to scikit-learn."""
    kept = torch.randperm(len(y_N), generator=torch.Generator().manual_seed(SEED))
    return f_ND[kept].numpy(), y_N[kept].numpy()


# fit_linear


def test_fit_linear_is_multinomial_logistic_regression(pixels):
    """mean cross-entropy + ridge |W|^2 is scikit-learn's objective with C = 1 / (2 ridge N)."""
    f_ND, y_N, f_BD = pixels(10)
    head = nn.Linear(64, 10)
    fit_linear(head, f_ND, y_N, 1e-2)
    theirs = LogisticRegression(C=1 / (2 * 1e-2 * len(y_N)), max_iter=5000, tol=1e-8).fit(
        f_ND.numpy(), y_N.numpy()
    )
    with torch.no_grad():
        assert head(f_BD).softmax(1).numpy() == pytest.approx(
            theirs.predict_proba(f_BD.numpy()), abs=2e-3
        )
    assert all(p.grad is None for p in head.parameters())


def test_fit_linear_forgets_where_the_head_began(pixels):
    f_ND, y_N, _ = pixels(10)
    heads = [nn.Linear(64, 10) for _ in range(2)]
    with torch.no_grad():  # as `prepare` is called
        for head in heads:
            fit_linear(head, f_ND, y_N, 1e-2)
    assert torch.equal(heads[0].weight, heads[1].weight)


# Solved heads


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_kernel_machine_is_scikit_learns(pixels, classes):
    """Its scores are `decision_function` of one-against-rest shape; its largest is `predict` where margins break ties."""
    f_ND, y_N, f_BD = pixels(classes)
    head = Svm(c=[10.0], gamma=[1.0]).fit_closed_form(
        f_ND, y_N, Spec(SPEC.image, SPEC.classes[:classes]), SEED
    )
    theirs = SVC(C=10.0, gamma=1 / (64 * f_ND.var().item()), break_ties=classes > 2).fit(
        *shuffled(f_ND, y_N)
    )
    scores = theirs.decision_function(f_BD.numpy())
    found = head(f_BD).numpy()
    if classes == 2:
        assert np.array_equal(np.argsort(found[:, 1]), np.argsort(scores))
        assert np.array_equal(np.argsort(found[:, 0]), np.argsort(-scores))
    else:
        assert found == pytest.approx(scores, abs=1e-4)
        assert np.array_equal(found.argmax(1), scores.argmax(1))
    assert np.array_equal(found.argmax(1), theirs.predict(f_BD.numpy()))


def test_the_kernel_machine_holds_far_from_the_origin(pixels):
    """Features need not be centred; and no number needs double precision, which some devices do not have."""
    f_ND, y_N, f_BD = (v if v.dtype == torch.int64 else v + 100 for v in pixels(10))
    head = Svm(c=[10.0], gamma=[1.0]).fit_closed_form(f_ND, y_N, SPEC, SEED)
    theirs = SVC(C=10.0, gamma=1 / (64 * f_ND.var().item())).fit(*shuffled(f_ND, y_N))
    assert head(f_BD).numpy() == pytest.approx(theirs.decision_function(f_BD.numpy()), abs=1e-4)
    assert torch.float64 not in {v.dtype for v in (head(f_BD), *head.state_dict().values())}


@pytest.mark.parametrize("c", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("classes", [2, 10])
def test_the_logistic_head_gives_the_optimums_probabilities(pixels, classes, c):
    """Those of scikit-learn with a tolerance that is ten thousand times smaller."""
    f_ND, y_N, f_BD = pixels(classes)
    head = Logistic(c=[c]).fit_closed_form(
        f_ND, y_N, Spec(SPEC.image, SPEC.classes[:classes]), SEED
    )
    exact = LogisticRegression(C=c, solver="newton-cg", tol=1e-10, max_iter=5000)
    exact.fit(*shuffled(f_ND.double(), y_N))
    with torch.no_grad():
        assert head(f_BD).softmax(1).numpy() == pytest.approx(
            exact.predict_proba(f_BD.double().numpy()), abs=5e-4
        )


@pytest.mark.parametrize("strategy", [Logistic(c=[1.0]), Svm(c=[10.0], gamma=[1.0])])
@pytest.mark.parametrize("seen", [2, 7])
def test_classes_without_a_label_keep_their_places(pixels, strategy, seen):
    """Labels 0..seen-1 become 9, 8, ...: the head has ten rows and predicts what scikit-learn does, under those names."""
    f_ND, y_N, f_BD = pixels(seen)
    head, few = (
        strategy.fit_closed_form(f_ND, 9 - y_N, SPEC, SEED),
        Spec(SPEC.image, SPEC.classes[:seen]),
    )
    with torch.no_grad():
        logits_BY = head(f_BD)
        expected = strategy.fit_closed_form(f_ND, y_N, few, SEED)(f_BD).argmax(1)
    assert logits_BY.shape[1] == 10
    # the order of classes may turn a tie
    assert (9 - logits_BY.argmax(1) == expected).float().mean() > 0.99
    assert logits_BY.softmax(1)[:, : 10 - seen].max() < 1e-6


# grid_fit


def test_the_grids_best_by_folds_is_refitted_on_all_rows(pixels):
    f_ND, y_N, _ = pixels(10)
    fit = grid_fit(SVC(), {"C": [1e-4, 10.0], "gamma": [1e-6, 0.1]}, f_ND, y_N, SEED, 150)
    assert (fit.C, fit.gamma) == (10.0, 0.1)
    assert fit.shape_fit_[0] == 150


def test_one_label_a_class_takes_the_middle_of_the_grid(pixels):
    f_ND, y_N, _ = pixels(10)
    rows = torch.tensor([int((y_N == c).nonzero()[0]) for c in range(10)])
    fit = grid_fit(SVC(), {"C": [1.0, 2.0, 3.0]}, f_ND[rows], y_N[rows], SEED, 100)
    assert fit.C == 2.0
    assert (fit.predict(f_ND[rows].numpy()) == y_N[rows].numpy()).all()


def test_settings_are_chosen_on_some_rows_and_fitted_on_all():
    """The search would else cost minutes; whatever it looks at, the same seed looks at the same."""
    f_ND, y_N = (
        torch.randn(SEARCH_ROWS + 500, 3, generator=stream("f")),
        torch.arange(SEARCH_ROWS + 500) % 2,
    )
    a, b = (
        grid_fit(LogisticRegression(), {"C": [0.1, 1.0]}, f_ND, y_N, SEED, 10_000) for _ in range(2)
    )
    assert a.C == b.C
    assert np.array_equal(a.coef_, b.coef_)
    kept = torch.randperm(len(y_N), generator=torch.Generator().manual_seed(SEED))
    assert np.allclose(
        a.coef_, LogisticRegression(C=a.C).fit(f_ND[kept].numpy(), y_N[kept].numpy()).coef_
    )


# Heads of a sweep


@pytest.mark.parametrize("path", STACKABLE)
def test_heads_trained_together_are_those_trained_alone(pixels, plan, path):
    """A sweep over learning rates up to 0.1 on frozen features is one training."""
    f_ND, y_N, _ = pixels(10)
    rates, target = [1e-4, 1e-2, 0.1], OptimizerConfig(path, {"lr": 1.0, "weight_decay": 1e-3})
    torch.manual_seed(0)
    head = nn.Linear(64, 10)
    told = plan(
        nn.ModuleDict({"head": head}),
        20,
        batch_size=32,
        schedule=PiecewiseCosine([[0.0, 1.0], [1.0, 0.0]]),
    )
    together = stacked(head, f_ND, y_N, target, rates, told)
    for rate, (state, rows) in zip(rates, together, strict=True):
        alone = nn.Linear(64, 10)
        alone.load_state_dict(head.state_dict())
        nets = nn.ModuleDict({"encoder": nn.Identity(), "scale": Standardise(64), "head": alone})
        optimizer = build_optimizer(
            OptimizerConfig(path, {**target.options, "lr": rate}),
            [{"params": list(alone.parameters())}],
        )
        images = Images(f_ND, y_N, [str(n) for n in range(len(y_N))])
        *_, last = train(
            Classify(), nets, {"loss": optimizer}, {"labelled": images}, told, torch.device("cpu")
        )
        assert torch.allclose(state["weight"], alone.weight, atol=1e-5)
        assert torch.allclose(state["bias"], alone.bias, atol=1e-5)
        assert rows[-1] == pytest.approx(
            {"step": 20, **{k: v.item() for k, v in last.metrics.items()}}, abs=1e-5
        )
