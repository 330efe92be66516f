"""Each loss on fixed numbers against its closed form, and one invariance of each method."""

from math import log, pi, sqrt

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from sft_exp.core.rng import stream
from sft_exp.core.types import Spec
from sft_exp.encoders.conv import Conv
from sft_exp.encoders.mlp import MLP
from sft_exp.errors import ConfigError
from sft_exp.losses import (
    Reconstruction,
    bernoulli,
    kl_to_standard_normal,
    log_bernoulli,
    log_gaussian,
    squared,
)
from sft_exp.models.backbones import LinearMap, PatchNet
from sft_exp.pretrainers.ae import AE
from sft_exp.pretrainers.bigan import BiGAN
from sft_exp.pretrainers.dae import DAE
from sft_exp.pretrainers.gan import GAN
from sft_exp.pretrainers.jigsaw import Jigsaw, far_apart, shuffled
from sft_exp.pretrainers.kmeans import KMeans
from sft_exp.pretrainers.mae import MAE
from sft_exp.pretrainers.pca import PCA
from sft_exp.pretrainers.rotation import Rotation
from sft_exp.pretrainers.supervised import Supervised
from sft_exp.pretrainers.vae import VAE
from sft_exp.pretrainers.wgan_gp import WGANGP

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
    close(
        bernoulli(H_BCHW, black_and_white),
        -Bernoulli(logits=H_BCHW).log_prob(black_and_white).sum((1, 2, 3)).mean(),
    )


def test_bernoulli_is_finite_however_sure_the_logits():
    assert bernoulli(
        torch.full((1, 1, 1, 2), 1e4), torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2)
    ) == pytest.approx(1e4)


def test_squared_is_a_unit_gaussians_likelihood_up_to_its_constant():
    constant = 0.5 * log(2 * pi) * np.prod(IMAGE)
    close(
        squared(H_BCHW, X_BCHW),
        -Normal(H_BCHW, 1).log_prob(X_BCHW).sum((1, 2, 3)).mean() - constant,
    )


@pytest.mark.parametrize("output", ["linear", "relu", "sigmoid"])
def test_the_textbooks_mean_is_the_sum_up_to_its_factor(output):
    """mean over all pixels of all images = 2 / (C H W) x half the sum over pixels, mean over images."""
    mean, half_sum = (
        Reconstruction(kind, output).error(H_BCHW, X_BCHW) for kind in ("mean_squared", "squared")
    )
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
        whole, a, b = (
            loss(H_BCHW, X_BCHW),
            loss(H_BCHW[:2], X_BCHW[:2]),
            loss(H_BCHW[2:], X_BCHW[2:]),
        )
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
    log_likelihood = (
        x_BCHW * (h := nets["decoder"](q.loc + q.scale * eps_BZ)) - nn.functional.softplus(h)
    ).sum((1, 2, 3))
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


def test_the_importance_weighted_bound_is_its_definition():
    """-log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x), by torch's distributions."""
    method = VAE(latent=3, samples=5)
    nets = networks(method)
    x_BCHW, eps_BKZ, beta = method.draw({"pool": {"x": X_BCHW}}, stream("draw"), 0.0)
    assert eps_BKZ.shape == (len(X_BCHW), 5, 3)
    loss, logged = method.loss(nets, x_BCHW, eps_BKZ, beta)
    mean_BZ, logvar_BZ = nets["posterior"](nets["encoder"](x_BCHW)).chunk(2, 1)
    q = Normal(mean_BZ, (logvar_BZ / 2).exp())
    log_w_KB = []
    for k in range(5):
        z_BZ = q.loc + q.scale * eps_BKZ[:, k]
        h_BCHW = nets["decoder"](z_BZ)
        pixels = (x_BCHW * h_BCHW - nn.functional.softplus(h_BCHW)).sum((1, 2, 3))
        log_w_KB.append(pixels + (Normal(0, 1).log_prob(z_BZ) - q.log_prob(z_BZ)).sum(1))
    log_w_KB = torch.stack(log_w_KB)
    close(loss, -(log_w_KB.exp().mean(0).log().mean()))
    close(logged["elbo"], -log_w_KB.mean())
    assert loss < logged["elbo"], "Jensen's inequality"


def test_more_samples_tighten_the_bound_and_train_both_networks():
    bounds = []
    for samples in (1, 2, 50):
        method = VAE(latent=3, samples=samples)
        nets = networks(method)
        many = X_BCHW.repeat(200, 1, 1, 1)
        loss, _ = method.loss(nets, *method.draw({"pool": {"x": many}}, stream("draw"), 0.0))
        bounds.append(loss.item())
        loss.backward()
        assert all(p.grad.abs().sum() > 0 for p in nets.parameters())
    assert bounds[0] > bounds[1] > bounds[2]


def test_vae_without_kl_and_spread_is_an_autoencoder():
    """beta = 0 and variance 0: the code is the posterior's mean, and the loss the autoencoder's error."""
    method = VAE(latent=3, beta=0.0)
    nets = networks(method)
    with torch.no_grad():
        nets["posterior"].weight[3:] = 0
        nets["posterior"].bias[3:] = -200  # log-variance
    code = nn.Sequential(nets["encoder"], nn.Linear(6, 3))
    code[1].weight.data, code[1].bias.data = (
        nets["posterior"].weight[:3],
        nets["posterior"].bias[:3],
    )
    plain, _ = AE().loss({"encoder": code, "decoder": nets["decoder"]}, X_BCHW)
    close(method.loss(nets, *method.draw({"pool": {"x": X_BCHW}}, stream("draw"), 0.0))[0], plain)


def test_vaes_beta_rises_over_the_warmup():
    method = VAE(beta=4.0, warmup=0.5)
    betas = [
        method.draw({"pool": {"x": X_BCHW}}, stream("draw"), p)[2].item()
        for p in (0.0, 0.25, 0.5, 1.0)
    ]
    assert betas == [0.0, 2.0, 4.0, 4.0]


def test_vaes_gaussian_pixels_have_their_whole_density():
    """Constants too, so that nats of different sigma can be compared; at sigma = 1 the squared error up to its constant."""
    h_BCHW = H_BCHW.sigmoid()
    exact = Normal(h_BCHW, 0.3).log_prob(X_BCHW).sum((1, 2, 3))
    assert torch.allclose(log_gaussian(h_BCHW[None], X_BCHW, 0.3)[0], exact, rtol=1e-5)
    method = VAE(latent=3, likelihood="gaussian", sigma=0.3)
    nets = networks(method)
    loss, logged = method.loss(nets, *method.draw({"pool": {"x": X_BCHW}}, stream("draw"), 0.0))
    close(loss, logged["reconstruction"] + logged["kl"])
    close(
        -log_gaussian(h_BCHW[None], X_BCHW, 1.0).mean(),
        squared(h_BCHW, X_BCHW) + 0.5 * log(2 * pi) * np.prod(IMAGE),
    )


def test_vaes_importance_weights_give_the_likelihood():
    """log p(x) of a model of 16 pixels: by many draws from the prior, and by many from the posterior."""
    method = VAE(latent=2)
    nets = networks(method, MLP([4]), (1, 4, 4))
    x_BCHW = torch.rand(3, 1, 4, 4, generator=stream("x")).round()
    with torch.no_grad():
        z_KZ = torch.randn(50_000, 2, generator=stream("prior"))
        exact = log_bernoulli(
            nets["decoder"](z_KZ).unsqueeze(1).expand(-1, 3, -1, -1, -1), x_BCHW
        ).logsumexp(0) - log(len(z_KZ))
        weights_KB = method.log_weights(nets, x_BCHW, 20_000, stream("posterior"))
        assert weights_KB.shape == (20_000, 3)
        assert torch.allclose(weights_KB.logsumexp(0) - log(20_000), exact, atol=0.03)
        assert (weights_KB.mean(0) < exact).all(), "one sample gives the evidence lower bound"
        loss, _ = method.loss(nets, x_BCHW, torch.zeros(3, 2), torch.tensor(1.0))
    assert loss.isfinite()


def test_vae_binarises_afresh_and_leaves_black_and_white_alone():
    method, grey = VAE(binarise=True), torch.full((500, 1, 4, 4), 0.3)
    first, second = (
        method.draw({"pool": {"x": grey}}, stream("draw", n), 0.0)[0] for n in range(2)
    )
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert first.mean() == pytest.approx(0.3, abs=0.02)
    assert not torch.equal(first, second)
    assert torch.equal(method.draw({"pool": {"x": first}}, stream("draw"), 0.0)[0], first)


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
    drawn = method.draw(
        {"pool": {"x": torch.rand(5, *image, generator=stream("x"))}}, stream("draw"), 0.0
    )
    return method, nets, drawn


@pytest.mark.parametrize("encoder", [MLP([8, 6]), Conv([4, 8], 6)])
def test_gans_two_losses_are_the_papers(encoder):
    """Discriminator -log D(x) - log(1 - D(G(z))); generator, not saturating, -log D(G(z)). D's batches are judged apart."""
    method, nets, (x_BCHW, z_BZ) = gan((1, 8, 8), encoder)
    judge = nets["discriminator"]

    def d(x):
        return judge["head"](judge["encoder"](x)).squeeze(1).sigmoid().double()

    fake_BCHW = nets["generator"](z_BZ).sigmoid()
    close(
        method.discriminator_loss(nets, x_BCHW, z_BZ)[0],
        (-d(x_BCHW).log()).mean() - (1 - d(fake_BCHW)).log().mean(),
    )
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


def test_gans_batchnorm_remembers_real_images_alone():
    """What is kept meets real images later; generated ones are normalised by their own batch and forgotten."""
    method, nets, (x_BCHW, z_BZ) = gan((1, 8, 8), Conv([4, 8], 6))
    judge = networks(method, Conv([4, 8], 6), (1, 8, 8))["discriminator"]["encoder"].train()
    judge(x_BCHW)
    method.discriminator_loss(nets, x_BCHW, z_BZ)
    method.generator_loss(nets, x_BCHW, z_BZ)
    seen = nets["discriminator"]["encoder"].state_dict()
    assert all(
        torch.equal(v, seen[k])
        for k, v in judge.state_dict().items()
        if "running" in k or "num_batches" in k
    )


# Wasserstein GAN


def linear_critic():
    """A critic w.x + b, whose slope is w wherever one looks."""
    method = WGANGP(latent=3, penalty=7.0)
    torch.manual_seed(0)
    nets = method.networks(LinearMap(IMAGE, 6), SPEC)
    drawn = method.draw({"pool": {"x": X_BCHW}}, stream("draw"), 0.0)
    critic = nets["critic"]
    return method, nets, drawn, (critic["head"].weight @ critic["encoder"].linear.weight).squeeze(0)


def test_wgans_critic_loss_is_algorithm_1():
    method, nets, (x_BCHW, z_BZ, share), slope = linear_critic()
    fake_BCHW = nets["generator"](z_BZ).sigmoid()
    fake, real = (x.flatten(1) @ slope for x in (fake_BCHW, x_BCHW))  # the bias cancels
    expected = fake.mean() - real.mean() + 7.0 * (slope.norm() - 1).square()
    loss, logged = method.critic_loss(nets, x_BCHW, z_BZ, share)
    close(loss, expected)
    close(logged["steepness"], slope.norm())
    close(
        method.generator_loss(nets, x_BCHW, z_BZ, share)[0], -method.score(nets, fake_BCHW).mean()
    )


def test_wgans_penalty_is_itself_differentiated():
    """d/dw 7 (||w|| - 1)^2 = 14 (||w|| - 1) w / ||w||, through the head."""
    method, nets, drawn, slope = linear_critic()
    plain = WGANGP(latent=3, penalty=0.0)
    head = nets["critic"]["head"].weight
    with_it, without = (
        torch.autograd.grad(m.critic_loss(nets, *drawn)[0], head)[0] for m in (method, plain)
    )
    (closed,) = torch.autograd.grad(7.0 * (slope.norm() - 1).square(), head)
    assert torch.allclose(with_it - without, closed, atol=1e-5)


def test_wgans_critic_has_no_batchnorm():
    with pytest.raises(ConfigError, match=r"encoder.norm=batch"):
        WGANGP().networks(Conv([4, 8]).build((1, 8, 8)), SPEC)
    WGANGP().networks(Conv([4, 8], norm="layer").build((1, 8, 8)), SPEC)


# BiGAN


def test_bigans_losses_are_the_papers():
    """Discriminator -log D(x, E(x)) - log(1 - D(G(z), z)); the other two with the labels exchanged."""
    method = BiGAN(latent=3, noise=0.2, penalty=0.0)
    nets = networks(method)
    drawn = x_BCHW, z_BZ, noise_B2CHW = method.draw({"pool": {"x": X_BCHW}}, stream("draw"), 0.0)
    judge, inverses = nets["discriminator"], nets["inverses"]

    def d(x, z):
        return judge(torch.cat([x.flatten(1), z], 1)).squeeze(1).sigmoid().double()

    real = d(x_BCHW + noise_B2CHW[:, 0], inverses["code"](inverses["encoder"](x_BCHW)))
    fake = d(inverses["generator"](z_BZ).sigmoid() + noise_B2CHW[:, 1], z_BZ)
    close(method.discriminator_loss(nets, *drawn)[0], -real.log().mean() - (1 - fake).log().mean())
    close(method.inverses_loss(nets, *drawn)[0], -(1 - real).log().mean() - fake.log().mean())


def test_bigans_discriminator_pays_for_its_slope_at_real_pairs():
    """A discriminator whose logit is linear in image and code has the same slope everywhere: its weights."""
    method = BiGAN(latent=3, penalty=0.5)
    nets = networks(method)
    drawn = method.draw({"pool": {"x": X_BCHW}}, stream("draw"), 0.0)
    nets["discriminator"] = judge = nn.Linear(X_BCHW[0].numel() + 3, 1)
    slope = judge.weight.square().sum()
    loss, told = method.discriminator_loss(nets, *drawn)
    close(told["slope"], slope)
    close(loss - BiGAN(latent=3, penalty=0.0).discriminator_loss(nets, *drawn)[0], 0.25 * slope)
    (pull_1D,) = torch.autograd.grad(told["slope"], judge.weight)
    assert torch.allclose(pull_1D, 2 * judge.weight)  # so that training makes it flatter


def test_bigan_cannot_tell_pairs_of_exact_inverses_apart():
    """If images are G(z) and E inverts G, both kinds of pairs are the same, and the optimal discriminator says 1/2."""
    method = BiGAN(latent=3)
    nets = networks(method)
    z_BZ = torch.randn(5, 3, generator=stream("z"))
    nets["inverses"]["encoder"], nets["inverses"]["generator"] = (
        nn.Flatten(),
        nn.Unflatten(1, (1, 1, 3)),
    )
    nets["inverses"]["code"] = Inverted()
    real, fake = method.pairs(nets, method.generate(nets, z_BZ), z_BZ, torch.zeros(5, 2, 1, 1, 3))
    for a, b in zip(real, fake, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


class Inverted(nn.Module):
    """What a sigmoid was made of."""

    def forward(self, p):
        return torch.logit(p)


# Masked autoencoder


def mae(image=(2, 9, 6), **fields):
    method = MAE(patch=3, masked=0.5, **fields)
    x_BCHW = torch.rand(5, *image, generator=stream("x"))
    return method, *method.draw({"pool": {"x": x_BCHW}}, stream("draw"), 0.0)


def test_mae_masks_whole_patches_as_many_in_each_image():
    _, _, gone = mae()
    patches = gone[:, 0].unflatten(1, (3, 3)).unflatten(3, (2, 3)).float().mean((2, 4))
    assert set(patches.unique().tolist()) == {0.0, 1.0}
    assert patches.sum((1, 2)).tolist() == [3.0] * 5
    assert not torch.equal(gone[0], gone[1])


def test_maes_loss_is_the_squared_error_of_what_was_masked():
    """By hand; what the decoder says of pixels that were seen does not matter, and masked ones are not seen."""
    method, x_BCHW, gone = mae()
    h_BCHW = torch.randn(5, 2, 9, 6, generator=stream("h"))
    where = gone.expand_as(x_BCHW).numpy()
    expected = np.mean(
        [
            ((h - x)[w] ** 2).mean()
            for h, x, w in zip(h_BCHW.numpy(), x_BCHW.numpy(), where, strict=True)
        ]
    )
    for h in (h_BCHW, h_BCHW.where(gone, torch.tensor(9.0))):
        nets = {"encoder": nn.Identity(), "decoder": lambda x, h=h: h}
        close(method.loss(nets, x_BCHW, gone)[0], expected)
    shown = []
    method.loss({"encoder": shown.append, "decoder": lambda code: h_BCHW}, x_BCHW, gone)
    assert not shown[0][gone.expand_as(x_BCHW)].any()


def test_maes_normalised_target_is_each_patchs_own():
    """Mean 0 and variance 1 over a patch's pixels and channels; also where a border cuts patches."""
    method, x_BCHW, _ = mae(normalise=True)
    patch = method.normalised(x_BCHW)[0, :, 3:6, 0:3]
    assert patch.mean() == pytest.approx(0, abs=1e-4)
    assert patch.var(unbiased=False) == pytest.approx(1, abs=1e-3)
    method, x_BCHW, _ = mae((1, 8, 7), normalise=True)
    assert method.normalised(x_BCHW)[0, :, 6:8, 6:7].var(unbiased=False) == pytest.approx(
        1, abs=1e-2
    )


# Rotation


def test_rotation_asks_for_every_turn_of_every_image_once():
    x_BCHW = torch.rand(3, 2, 4, 4, generator=stream("x"))
    turned, turn = Rotation().draw({"pool": {"x": x_BCHW}}, stream("draw"), 0.0)
    assert turn.tolist() == [0, 1, 2, 3] * 3
    assert all(
        torch.equal(turned[4 * n + q].rot90(-q, (1, 2)), x_BCHW[n])
        for n in range(3)
        for q in range(4)
    )
    _, two = Rotation().draw({"pool": {"x": X_BCHW}}, stream("draw"), 0.0)
    assert two.tolist() == [0, 1] * 5, "an image that is not square has two turns"


# Jigsaw


def test_tiles_lie_in_the_order_that_is_asked_for():
    x_BCHW = torch.rand(2, 2, 5, 4, generator=stream("x"))
    order_BT = torch.tensor([[0, 1, 2, 3], [2, 0, 3, 1]])
    same, other = shuffled(x_BCHW, order_BT, torch.zeros(2, 4, 2), side=2, gap=0.0)
    assert torch.equal(same[:, :4], x_BCHW[0, :, :4]), (
        "the first is as it was, but for the row below that is left over"
    )
    assert not same[:, 4:].any()
    assert torch.equal(other[:, :2, :2], x_BCHW[1, :, 2:4, :2])
    assert torch.equal(other[:, :2, 2:], x_BCHW[1, :, :2, :2])
    assert torch.equal(other[:, 2:4, :2], x_BCHW[1, :, 2:4, 2:])
    assert torch.equal(other[:, 2:4, 2:], x_BCHW[1, :, :2, 2:])


def test_of_a_tile_what_lies_at_its_place_is_seen():
    x_BCHW = torch.rand(1, 1, 12, 9, generator=stream("x"))
    place_BT2 = torch.zeros(1, 9, 2)
    # of the two places along 4 pixels the last, of the two along 3 the second
    place_BT2[0, 4] = torch.tensor([0.99, 0.5])
    seen = shuffled(x_BCHW, torch.arange(9)[None], place_BT2, side=3, gap=0.4)[0, 0]
    assert torch.equal(seen[0:3, 0:2], x_BCHW[0, 0, 0:3, 0:2])
    assert torch.equal(seen[4:7, 3:5], x_BCHW[0, 0, 5:8, 4:6])
    assert not seen[3::4].any()
    assert not seen[:, 2::3].any()


def test_orders_are_far_apart():
    """Nine orders of nine tiles can differ in all places, and do."""
    orders = torch.tensor(far_apart(9, 9))
    differing = (orders[:, None] != orders).sum(2)
    assert torch.equal(differing, 9 - 9 * torch.eye(9, dtype=torch.int64))
    assert len(set(far_apart(4, 24))) == 24
    assert len(set(far_apart(9, 100))) == 100


@pytest.mark.parametrize(
    ("method", "answers"), [(Rotation(), 2), (Jigsaw(), 24), (Supervised(), len(SPEC.classes))]
)
def test_not_knowing_costs_the_logarithm_of_the_number_of_answers(method, answers):
    nets = networks(method)
    nn.init.zeros_(nets["head"].weight)
    nn.init.zeros_(nets["head"].bias)
    y_B = torch.arange(5) % len(SPEC.classes)
    close(
        method.loss(nets, *method.draw({"pool": {"x": X_BCHW, "y": y_B}}, stream("draw"), 0.0))[0],
        log(answers),
    )


# K-means


def test_patch_features_are_the_papers():
    """Coates, Lee & Ng: contrast, whitening, max(0, mean distance - distance), means over quarters; patch by patch."""
    torch.manual_seed(0)
    net = PatchNet((2, 5, 6), patch=2, count=3, stride=1)
    net.whitening.copy_(torch.randn(8, 8))
    net.shift.copy_(torch.randn(8))
    x = torch.rand(2, 5, 6, generator=stream("x"))
    expected = torch.zeros(3, 4, 5)
    for r in range(4):
        for c in range(5):
            p = x[:, r : r + 2, c : c + 2].flatten()
            p = (p - p.mean()) / sqrt(p.var() + 10 / 255**2)
            d = ((p - net.shift) @ net.whitening - net.centroids).norm(dim=1)
            expected[:, r, c] = (d.mean() - d).clamp_min(0)
    (_, triangle), (_, quadrants) = net.maps(x[None])
    assert torch.allclose(triangle[0], expected, atol=1e-4)
    assert torch.allclose(
        quadrants.view(3, 2, 2)[:, 0, 0], expected[:, :2, :3].mean((1, 2)), atol=1e-4
    )
    assert quadrants.shape == (1, net.width) == (1, 12)


def test_kmeans_whitens_and_finds_the_clusters():
    """Whitened patches are uncorrelated with variance 1 (of what epsilon leaves); images of two kinds of patches have two
    centroids that matter, and a patch is nearest to its own kind's."""
    method = KMeans(patches=2000, epsilon=1e-6)
    nets = method.networks(PatchNet((1, 6, 6), patch=3, count=8, stride=3), SPEC)
    x_BCHW = torch.rand(600, 1, 6, 6, generator=stream("x"))
    with torch.no_grad():
        method.prepare(nets, {"x": x_BCHW})
        white_NP = nets["encoder"].whiten(nets["encoder"].patches(x_BCHW)).flatten(0, 1)
        covariance = torch.cov(white_NP.T)
    values = torch.linalg.eigvalsh(covariance)
    assert values[0] < 1e-2, "brightness was taken out of each patch: one direction is empty"
    assert torch.allclose(values[1:], torch.ones(8), atol=0.25)
    inertia = torch.cdist(white_NP, nets["encoder"].centroids).min(1).values.square().mean()
    assert inertia < 0.8 * white_NP.square().sum(1).mean()


def test_kmeans_fits_one_encoder():
    with pytest.raises(ConfigError, match="patches"):
        KMeans().networks(MLP().build(IMAGE), SPEC)


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
