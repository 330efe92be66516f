"""Each formula on fixed numbers against its closed form, and one invariance of each method."""

from math import log, pi

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from sft_exp.core import Spec, stream
from sft_exp.encoders.conv import Conv
from sft_exp.encoders.mlp import MLP
from sft_exp.errors import ConfigError
from sft_exp.losses import Reconstruction, bernoulli, kl_to_standard_normal, squared
from sft_exp.nets import LinearMap
from sft_exp.pretrainers.ae import AE
from sft_exp.pretrainers.dae import DAE
from sft_exp.pretrainers.gan import GAN
from sft_exp.pretrainers.pca import PCA
from sft_exp.pretrainers.vae import VAE

IMAGE = (2, 4, 3)
SPEC = Spec(IMAGE, ("a", "b"))
X_BCHW = torch.rand(5, *IMAGE, generator=stream("x"))
H_BCHW = torch.randn(5, *IMAGE, generator=stream("h"))


def networks(method, encoder=None, image=IMAGE):
    torch.manual_seed(0)
    return method.networks((encoder or MLP([8, 6])).build(image), Spec(image, SPEC.classes))


def close(a, b):
    a, b = (float(torch.as_tensor(v).detach()) for v in (a, b))
    assert a == pytest.approx(b, rel=1e-5, abs=1e-6)


# Reconstruction


def test_bernoulli_is_the_negative_log_likelihood_in_nats_an_image():
    x, p = X_BCHW.double().numpy(), 1 / (1 + np.exp(-H_BCHW.double().numpy()))
    by_hand = -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum((1, 2, 3)).mean()
    close(bernoulli(H_BCHW, X_BCHW), by_hand)
    black_and_white = X_BCHW.round()
    close(bernoulli(H_BCHW, black_and_white), -Bernoulli(logits=H_BCHW).log_prob(black_and_white).sum((1, 2, 3)).mean())


def test_bernoulli_is_finite_however_sure_the_logits():
    assert bernoulli(torch.full((1, 1, 1, 2), 1e4), torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2)) == pytest.approx(1e4)


def test_squared_is_a_unit_gaussians_likelihood_up_to_its_constant():
    constant = 0.5 * log(2 * pi) * np.prod(IMAGE)
    close(squared(H_BCHW, X_BCHW), -Normal(H_BCHW, 1).log_prob(X_BCHW).sum((1, 2, 3)).mean() - constant)


@pytest.mark.parametrize("output", ["linear", "relu", "sigmoid"])
def test_the_textbooks_mean_is_the_sum_up_to_its_factor(output):
    """mean over all pixels of all images = 2 / (C H W) x half the sum over pixels, mean over images."""
    mean, half_sum = (Reconstruction(kind, output).error(H_BCHW, X_BCHW) for kind in ("mean_squared", "squared"))
    close(mean, half_sum * 2 / np.prod(IMAGE))
    h = H_BCHW.double().numpy()
    picture = {"linear": h, "relu": h.clip(0), "sigmoid": 1 / (1 + np.exp(-h))}[output]
    close(mean, ((picture - X_BCHW.double().numpy()) ** 2).mean())


def test_a_picture_is_what_the_error_compares():
    """Bernoulli's picture is its mean, the sigmoid of the logits; whatever the output, pixels stay in [0, 1]."""
    assert torch.equal(Reconstruction("bernoulli", "sigmoid").picture(H_BCHW), H_BCHW.sigmoid())
    assert torch.equal(Reconstruction("squared", "linear").picture(H_BCHW), H_BCHW.clamp(0, 1))


def test_bernoulli_wants_logits():
    with pytest.raises(ConfigError, match=r"output=relu.*sigmoid"):
        Reconstruction("bernoulli", "relu")


def test_losses_are_means_over_rows():
    """So a batch may be taken in pieces: the whole is the mean of its parts, weighted by rows."""
    for loss in (bernoulli, squared, kl_to_standard_normal):
        whole, a, b = loss(H_BCHW, X_BCHW), loss(H_BCHW[:2], X_BCHW[:2]), loss(H_BCHW[2:], X_BCHW[2:])
        close(whole, (2 * a + 3 * b) / 5)


# KL and the VAE


def test_kl_is_torchs():
    mean_BZ, logvar_BZ = torch.randn(2, 6, 4, generator=stream("posterior"))
    exact = kl_divergence(Normal(mean_BZ, (logvar_BZ / 2).exp()), Normal(0, 1)).sum(1).mean()
    close(kl_to_standard_normal(mean_BZ, logvar_BZ), exact)


def test_kl_is_zero_at_the_standard_normal_and_nowhere_else():
    zero = torch.zeros(3, 4)
    assert kl_to_standard_normal(zero, zero) == 0
    assert kl_to_standard_normal(zero + 0.1, zero) > 0
    assert kl_to_standard_normal(zero, zero - 0.1) > 0


def test_vaes_loss_is_the_negative_evidence_lower_bound():
    """E_q log p(x|z) + log p(z) - log q(z|x), at the drawn z for the first term and in closed form for the others."""
    method = VAE(latent=3)
    nets = networks(method)
    x_BCHW, eps_BZ, beta = method.draw({"pool": {"x": X_BCHW}}, stream("draw"), 0.0)
    loss, logged = method.loss(nets, x_BCHW, eps_BZ, beta)
    mean_BZ, logvar_BZ = nets["posterior"](nets["encoder"](x_BCHW)).chunk(2, 1)
    q = Normal(mean_BZ, (logvar_BZ / 2).exp())
    log_likelihood = (x_BCHW * (h := nets["decoder"](q.loc + q.scale * eps_BZ)) - nn.functional.softplus(h)).sum((1, 2, 3))
    close(loss, -(log_likelihood.mean() - kl_divergence(q, Normal(0, 1)).sum(1).mean()))
    close(loss, logged["reconstruction"] + logged["kl"])


def test_vaes_bound_holds():
    """-loss <= log p(x): the bound's mean over many draws lies below the importance-weighted estimate of log p(x)."""
    method = VAE(latent=2)
    nets = networks(method, MLP([4]), (1, 2, 2))
    x_BCHW = torch.rand(1, 1, 2, 2, generator=stream("x")).round()
    with torch.no_grad():
        z_KZ = torch.randn(20_000, 2, generator=stream("prior"))
        log_p = (-nn.functional.binary_cross_entropy_with_logits(
            nets["decoder"](z_KZ), x_BCHW.expand(20_000, -1, -1, -1), reduction="none"
        ).sum((1, 2, 3))).logsumexp(0) - log(20_000)  # fmt: skip
        many = x_BCHW.expand(20_000, -1, -1, -1)
        loss, _ = method.loss(nets, *method.draw({"pool": {"x": many}}, stream("draw"), 0.0))
    assert -loss < log_p


def test_vae_without_kl_and_spread_is_an_autoencoder():
    """beta = 0 and variance 0: the code is the posterior's mean, and the loss the autoencoder's error."""
    method = VAE(latent=3, beta=0.0)
    nets = networks(method)
    with torch.no_grad():
        nets["posterior"].weight[3:] = 0
        nets["posterior"].bias[3:] = -200  # log-variance
    code = nn.Sequential(nets["encoder"], nn.Linear(6, 3))
    code[1].weight.data, code[1].bias.data = nets["posterior"].weight[:3], nets["posterior"].bias[:3]
    plain, _ = AE().loss({"encoder": code, "decoder": nets["decoder"]}, X_BCHW)
    close(method.loss(nets, *method.draw({"pool": {"x": X_BCHW}}, stream("draw"), 0.0))[0], plain)


def test_vaes_beta_rises_over_the_warmup():
    method = VAE(beta=4.0, warmup=0.5)
    betas = [method.draw({"pool": {"x": X_BCHW}}, stream("draw"), p)[2].item() for p in (0.0, 0.25, 0.5, 1.0)]
    assert betas == [0.0, 2.0, 4.0, 4.0]


# Autoencoders


@pytest.mark.parametrize("kind", ["bernoulli", "squared", "mean_squared"])
@pytest.mark.parametrize("corruption", ["mask", "gaussian"])
def test_denoising_nothing_is_an_autoencoder(kind, corruption):
    plain, denoising = AE(kind), DAE(corruption, amount=0.0, reconstruction=kind)
    nets = networks(plain)
    drawn = denoising.draw({"pool": {"x": X_BCHW}}, stream("draw"), 0.0)
    assert plain.loss(nets, X_BCHW)[0] == denoising.loss(nets, *drawn)[0]


def test_dae_corrupts_what_goes_in_and_asks_for_what_was():
    x_BCHW = torch.rand(200, 1, 8, 8, generator=stream("x")) + 0.01
    clean, masked = DAE("mask", 0.3).draw({"pool": {"x": x_BCHW}}, stream("draw"), 0.0)
    assert torch.equal(clean, x_BCHW)
    assert torch.equal(masked[masked != 0], x_BCHW[masked != 0])
    assert (masked == 0).float().mean() == pytest.approx(0.3, abs=0.01)
    clean, noisy = DAE("gaussian", 0.3).draw({"pool": {"x": x_BCHW}}, stream("draw"), 0.0)
    assert torch.equal(clean, x_BCHW)
    assert (noisy - x_BCHW).std() == pytest.approx(0.3, rel=0.02)


def test_a_perfect_code_leaves_no_error():
    nets = {"encoder": nn.Identity(), "decoder": nn.Identity()}
    assert AE("mean_squared", "linear").loss(nets, X_BCHW)[0] == 0


# GAN


def gan(image=IMAGE, encoder=None):
    method = GAN(latent=3)
    nets = networks(method, encoder, image)
    drawn = method.draw({"pool": {"x": torch.rand(5, *image, generator=stream("x"))}}, stream("draw"), 0.0)
    return method, nets, drawn


@pytest.mark.parametrize("encoder", [MLP([8, 6]), Conv([4, 8], 6)])
def test_gans_two_losses_are_the_papers(encoder):
    """Discriminator -log D(x) - log(1 - D(G(z))); generator, not saturating, -log D(G(z)). D's batches are judged apart."""
    method, nets, (x_BCHW, z_BZ) = gan((1, 8, 8), encoder)
    d = lambda x: nets["discriminator"]["head"](nets["discriminator"]["encoder"](x)).squeeze(1).sigmoid().double()  # noqa: E731
    fake_BCHW = nets["generator"](z_BZ).sigmoid()
    close(method.discriminator_loss(nets, x_BCHW, z_BZ)[0], (-d(x_BCHW).log()).mean() - (1 - d(fake_BCHW)).log().mean())
    close(method.generator_loss(nets, x_BCHW, z_BZ)[0], -d(fake_BCHW).log().mean())


def test_an_undecided_discriminator_costs_log_4():
    """D = 1/2 everywhere, the game's equilibrium: log 4 for the discriminator (proposition 1), log 2 for the generator."""
    method, nets, drawn = gan()
    nn.init.zeros_(nets["discriminator"]["head"].weight)
    nn.init.zeros_(nets["discriminator"]["head"].bias)
    close(method.discriminator_loss(nets, *drawn)[0], log(4))
    close(method.generator_loss(nets, *drawn)[0], log(2))


def test_gans_losses_are_finite_however_sure_the_discriminator():
    method, nets, drawn = gan()
    nn.init.constant_(nets["discriminator"]["head"].bias, -1e4)
    assert method.generator_loss(nets, *drawn)[0].item() == pytest.approx(1e4, rel=1e-2)


# PCA


@pytest.mark.parametrize("rows", [200, 10])
def test_pcas_features_are_scikit_learns(rows):
    """Also with fewer images than components: what they do not span is zero."""
    from sklearn.decomposition import PCA as Theirs

    x_BCHW = torch.rand(rows, 1, 6, 6, generator=stream("pca"))
    nets = PCA().networks(LinearMap((1, 6, 6), 20), SPEC)
    with torch.no_grad():
        PCA().prepare(nets, {"x": x_BCHW})
        f_BD = nets["encoder"](x_BCHW)
    theirs = Theirs(min(20, rows), svd_solver="full").fit_transform(x_BCHW.flatten(1).numpy())
    assert f_BD[:, : min(20, rows)].numpy() == pytest.approx(theirs, abs=1e-4)
    assert not f_BD[:, min(20, rows) :].any()


def test_pca_fits_one_encoder():
    with pytest.raises(ConfigError, match="projection"):
        PCA().networks(MLP().build(IMAGE), SPEC)
