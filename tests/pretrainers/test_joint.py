"""Joint-embedding methods: losses against the authors' formulas, and each method's invariants."""

from copy import deepcopy
from itertools import product
from math import cos, exp, log, pi

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from sft_exp.core.rng import stream
from sft_exp.core.types import Spec
from sft_exp.encoders.mlp import MLP
from sft_exp.losses import barlow_twins, dino, info_nce, nt_xent, vicreg
from sft_exp.pretrainers.barlow_twins import BarlowTwins
from sft_exp.pretrainers.byol import BYOL
from sft_exp.pretrainers.dino import DINO
from sft_exp.pretrainers.moco import MoCo
from sft_exp.pretrainers.simclr import SimCLR
from sft_exp.pretrainers.simsiam import SimSiam
from sft_exp.pretrainers.vicreg import VICReg

A_BZ, B_BZ = torch.randn(2, 6, 4, generator=stream("a, b"))
X_BCHW = torch.rand(6, 1, 8, 8, generator=stream("x"))
SMALL = {"hidden": 16}
METHODS = [
    SimCLR(projection=8, **SMALL),
    MoCo(projection=8, queue=15, **SMALL),
    BYOL(projection=8, **SMALL),
    SimSiam(projection=8, bottleneck=4, **SMALL),
    BarlowTwins(projection=8, **SMALL),
    VICReg(projection=8, **SMALL),
    DINO(prototypes=12, bottleneck=8, local=1, **SMALL),
]
each = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
TEACHERS = [m for m in METHODS if isinstance(m, MoCo | BYOL | DINO)]


def networks(method):
    torch.manual_seed(0)
    return method.networks(MLP([16, 12]).build((1, 8, 8)), Spec((1, 8, 8), ("a", "b")))


def drawn_by(method, name="draw", progress=0.5):
    return method.draw({"pool": {"x": X_BCHW}}, stream(name), progress)


def lightly():
    return pytest.importorskip(
        "lightly.loss", reason="lightly, an independent check, is not installed"
    )


def close(a, b):
    a, b = (float(torch.as_tensor(v).detach()) for v in (a, b))
    assert a == pytest.approx(b, rel=1e-5, abs=1e-6)


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


# SimCLR


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent_is_equation_1(temperature):
    """l(i, j) = -log(exp(s_ij / t) / sum_{k != i} exp(s_ik / t)), averaged over both members of every pair."""
    z, n = torch.cat([A_BZ, B_BZ]), len(A_BZ)

    def s(i, k):
        return exp(float(cosine_similarity(z[i], z[k], dim=0)) / temperature)

    def l_of(i, j):
        return -log(s(i, j) / sum(s(i, k) for k in range(2 * n) if k != i))

    close(
        nt_xent(A_BZ, B_BZ, temperature),
        sum(l_of(k, k + n) + l_of(k + n, k) for k in range(n)) / (2 * n),
    )


def test_nt_xent_of_equal_views_of_orthogonal_images():
    """Every partner at cosine 1, everyone else at 0: -log(e^(1/t) / (e^(1/t) + 2 (B - 1)))."""
    z_BZ = torch.eye(5)
    close(nt_xent(z_BZ, 3 * z_BZ, 0.5), -log(exp(2) / (exp(2) + 8)))


def test_nt_xent_knows_neither_length_nor_order():
    turn = torch.randperm(6, generator=stream("order"))
    for a, b in product((A_BZ, 7 * A_BZ), (B_BZ, 0.1 * B_BZ)):
        close(nt_xent(a, b, 0.5), nt_xent(A_BZ, B_BZ, 0.5))
        close(nt_xent(b[turn], a[turn], 0.5), nt_xent(A_BZ, B_BZ, 0.5))


# MoCo


def test_info_nce_is_equation_1():
    """-log(exp(q k+ / t) / sum_{i = 0..K} exp(q k_i / t)), the partner among the K + 1, all of length 1."""
    others_KZ, t = torch.randn(9, 4, generator=stream("queue")), 0.2
    by_hand = []
    for q, k in zip(A_BZ, B_BZ, strict=True):
        found = [exp(cosine(q, o) / t) for o in (k, *others_KZ)]
        by_hand.append(-log(found[0] / sum(found)))
    close(info_nce(A_BZ, B_BZ, others_KZ, t), np.mean(by_hand))


def test_mocos_queue_holds_the_newest_keys():
    """First in, first out, whatever its size: after three batches of 6, a queue of 15 holds 6, 6 and 3 of the first."""
    method, keys = TEACHERS[0], []
    nets = networks(method)
    for n in range(3):
        a_BCHW, b_BCHW = drawn_by(method, f"step {n}")
        with torch.no_grad():
            keys.insert(0, normalize(deepcopy(nets["teacher"])(b_BCHW), dim=1))
            method.on_step_end(nets, a_BCHW, b_BCHW)
    assert torch.allclose(nets["queue"].value, torch.cat(keys)[:15], atol=1e-6)


def test_mocos_keys_are_no_business_of_the_gradient():
    method = TEACHERS[0]
    nets = networks(method)
    method.loss(nets, *drawn_by(method))[0].backward()
    assert all(p.grad is not None for p in nets["student"].parameters())
    assert all(p.grad is None for p in nets["teacher"].parameters())


# Teachers


@pytest.mark.parametrize("method", TEACHERS, ids=lambda m: type(m).__name__)
def test_a_teacher_follows_its_student_by_the_momentum(method):
    """teacher <- m teacher + (1 - m) student, for weights; nobody else is moved; they start equal and share nothing."""
    nets = networks(method)
    teacher, student = nets["teacher"], nets["student"]
    assert all(
        torch.equal(a, b) for a, b in zip(teacher.parameters(), student.parameters(), strict=True)
    )
    with torch.no_grad():
        for p in student.parameters():
            p += 1
        before, moved = deepcopy(teacher.state_dict()), deepcopy(student.state_dict())
        drawn = drawn_by(method, progress=0.0)
        method.on_step_end(nets, *drawn)
    for name, p in teacher.named_parameters():
        assert torch.allclose(
            p, method.momentum * before[name] + (1 - method.momentum) * moved[name], atol=1e-6
        ), name
    assert all(torch.equal(v, student.state_dict()[k]) for k, v in moved.items())


@pytest.mark.parametrize(
    "method", [m for m in TEACHERS if not isinstance(m, MoCo)], ids=lambda m: type(m).__name__
)
def test_the_momentum_rises_to_1_along_a_cosine(method):
    """BYOL, section 3.2: 1 - (1 - m) (cos(pi k / K) + 1) / 2."""
    for k in (0.0, 0.3, 0.5, 1.0):
        close(drawn_by(method, progress=k)[2], 1 - (1 - method.momentum) * (cos(pi * k) + 1) / 2)


# BYOL and SimSiam


def test_byols_loss_is_the_distance_of_unit_vectors():
    """|p / |p| - z / |z||^2 (equation 2), means over the batch, for both orders of the views."""
    method = next(m for m in METHODS if isinstance(m, BYOL))
    nets = networks(method)
    a_BCHW, b_BCHW, momentum = drawn_by(method)
    with torch.no_grad():
        p_MZ = normalize(nets["predictor"](nets["student"](torch.cat([a_BCHW, b_BCHW]))), dim=1)
        z_MZ = normalize(nets["teacher"](torch.cat([b_BCHW, a_BCHW])), dim=1)
        close(
            method.loss(nets, a_BCHW, b_BCHW, momentum)[0], 2 * (p_MZ - z_MZ).square().sum(1).mean()
        )


def test_simsiams_loss_is_equation_2():
    method = next(m for m in METHODS if isinstance(m, SimSiam))
    nets = networks(method)
    a_BCHW, b_BCHW = drawn_by(method)
    z_MZ = nets["projector"](nets["encoder"](torch.cat([a_BCHW, b_BCHW])))
    (za, zb), (pa, pb) = z_MZ.chunk(2), nets["predictor"](z_MZ).chunk(2)

    def d(p, z):
        return -np.mean([cosine(x, y) for x, y in zip(p.detach(), z.detach(), strict=True)])

    close(method.loss(nets, a_BCHW, b_BCHW)[0], d(pa, zb) / 2 + d(pb, za) / 2)


def test_simsiam_stops_the_gradient_at_what_is_predicted():
    """With a predictor that says what it is told, and equal views, the loss is at its least, and moves nothing."""
    method = next(m for m in METHODS if isinstance(m, SimSiam))
    nets = networks(method)
    nets["predictor"] = torch.nn.Identity()
    loss, logged = method.loss(nets, X_BCHW, X_BCHW)
    close(loss, -1)
    loss.backward()
    assert all(p.grad.abs().max() < 1e-5 for p in nets["encoder"].parameters())
    assert 0 < logged["spread"] < 1.5


# Barlow Twins and VICReg


@pytest.mark.parametrize("weight", [0.0, 0.005, 1.0])
def test_barlow_twins_is_equation_1(weight):
    c = np.array([[np.corrcoef(A_BZ[:, i], B_BZ[:, j])[0, 1] for j in range(4)] for i in range(4)])
    on, off = ((1 - np.diag(c)) ** 2).sum(), (c**2).sum() - (np.diag(c) ** 2).sum()
    close(barlow_twins(A_BZ, B_BZ, weight), on + weight * off)


def test_barlow_twins_knows_neither_scale_nor_offset():
    close(barlow_twins(3 * A_BZ + 1, 0.5 * B_BZ - 2, 0.01), barlow_twins(A_BZ, B_BZ, 0.01))


def test_vicreg_is_equations_1_to_5():
    a, b = A_BZ.numpy(), B_BZ.numpy()
    apart, short, together = vicreg(A_BZ, B_BZ)
    close(apart, ((a - b) ** 2).mean())
    close(short, sum(np.maximum(0, 1 - np.sqrt(z.var(0, ddof=1) + 1e-4)).mean() for z in (a, b)))
    off = [np.cov(z.T) - np.diag(np.diag(np.cov(z.T))) for z in (a, b)]
    close(together, sum((c**2).sum() / 4 for c in off))


def test_vicreg_punishes_a_collapse():
    """A constant is close to itself; what it lacks is variance, all of it."""
    constant = torch.ones(6, 4)
    apart, short, together = vicreg(constant, constant)
    close(apart, 0)
    close(short, 2 * (1 - 0.01))
    close(together, 0)


# DINO


def test_dinos_loss_is_equation_1_centred_and_sharpened():
    """-P_t log P_s, P_t = softmax((t - c) / t_t), P_s = softmax(s / t_s)."""
    s, t, c = (
        A_BZ.double().numpy(),
        B_BZ.double().numpy(),
        torch.randn(4, generator=stream("c")).double().numpy(),
    )
    p_t, p_s = np.exp((t - c) / 0.5), np.exp(s / 0.1)
    p_t, p_s = p_t / p_t.sum(1, keepdims=True), p_s / p_s.sum(1, keepdims=True)
    close(dino(A_BZ, B_BZ, torch.from_numpy(c), 0.1, 0.5), -(p_t * np.log(p_s)).sum(1).mean())


def test_dinos_student_sees_all_views_and_its_teacher_the_whole_ones():
    """Two whole views and a small one: the four pairs of different views of equation 3."""
    method = METHODS[-1]
    nets = networks(method)
    a_BCHW, b_BCHW, momentum, local_BCHW = drawn_by(method)
    with torch.no_grad():
        t_a, t_b = nets["teacher"](torch.cat([a_BCHW, b_BCHW])).chunk(2)
        s_a, s_b, s_l = nets["student"](torch.cat([a_BCHW, b_BCHW, local_BCHW])).chunk(3)
        pairs = [(s_b, t_a), (s_l, t_a), (s_a, t_b), (s_l, t_b)]
        temperatures = method.student_temperature, method.teacher_temperature
        by_hand = sum(dino(s, t, torch.zeros(12), *temperatures) for s, t in pairs) / 4
        close(method.loss(nets, a_BCHW, b_BCHW, momentum, local_BCHW)[0], by_hand)


def test_dinos_centre_follows_the_teachers_mean():
    method = METHODS[-1]
    nets = networks(method)
    drawn = drawn_by(method)
    with torch.no_grad():
        mean_K = deepcopy(nets["teacher"])(torch.cat(drawn[:2])).mean(0)
        method.on_step_end(nets, *drawn)
    assert torch.allclose(nets["centre"].value, 0.1 * mean_K, atol=1e-6)


# All of them


@each
def test_views_come_in_no_order(method):
    """Exchanging the two views of every image changes no symmetric loss; MoCo's asks with one and answers with the other."""
    if isinstance(method, MoCo):
        pytest.skip("MoCo's loss is not symmetric")
    nets = networks(method)
    a_BCHW, b_BCHW, *rest = drawn_by(method)
    close(method.loss(nets, a_BCHW, b_BCHW, *rest)[0], method.loss(nets, b_BCHW, a_BCHW, *rest)[0])


@each
def test_a_method_takes_the_views_of_the_experiment(method):
    still = {"crop": [1.0, 1.0], "ratio": 1.0, "flip": 0.0, "jitter": 0.0, "grey": 0.0}
    a_BCHW, b_BCHW, *_ = drawn_by(type(method)(views=still))
    assert torch.equal(a_BCHW, X_BCHW)
    assert torch.equal(b_BCHW, X_BCHW)
    a_BCHW, b_BCHW, *_ = drawn_by(method)
    assert not torch.equal(a_BCHW, b_BCHW)


# An independent check


@pytest.mark.parametrize("name", ["simclr", "barlow_twins", "vicreg", "dino"])
def test_losses_are_lightlys(name):
    theirs = lightly()
    # lightly, as the authors' code, halves the variance term
    centre_K, halved = (torch.zeros(4), torch.tensor([25.0, 12.5, 1.0]))
    ours, other = {
        "simclr": lambda: (nt_xent(A_BZ, B_BZ, 0.5), theirs.NTXentLoss(0.5)(A_BZ, B_BZ)),
        "barlow_twins": lambda: (
            barlow_twins(A_BZ, B_BZ, 0.01),
            theirs.BarlowTwinsLoss(0.01)(A_BZ, B_BZ),
        ),
        "vicreg": lambda: (
            (halved * torch.stack(vicreg(A_BZ, B_BZ))).sum(),
            theirs.VICRegLoss(25.0, 25.0, 1.0)(A_BZ, B_BZ),
        ),
        "dino": lambda: (
            (dino(A_BZ, B_BZ, centre_K, 0.1, 0.04) + dino(B_BZ, A_BZ, centre_K, 0.1, 0.04)) / 2,
            theirs.DINOLoss(4)([A_BZ, B_BZ], [A_BZ, B_BZ]),
        ),
    }[name]()
    assert float(ours) == pytest.approx(float(other), rel=1e-4)
