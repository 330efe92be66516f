"""The likelihood of test images: the estimate, its conventions, and the methods that have one."""

import json

import pytest
import torch

from sft_exp.core.tracker import Tracker
from sft_exp.datasets.torchvision_set import TorchvisionSet
from sft_exp.errors import ConfigError
from sft_exp.jobs import prepare
from sft_exp.pretrainers.vae import VAE
from sft_exp.reports import advice
from sft_exp.runs import pipeline
from sft_exp.stages import likelihood
from sft_exp.training.context import Context

TINY = ("debug=tiny", "controls=false", "val=none")


def test_a_run_reports_it_with_its_convention(experiment):
    """More samples tighten the bound; the pretraining is shared, and repeating the command computes nothing."""
    found = []
    for samples in (1, 20):
        job = prepare.prepare(
            experiment(*TINY, f"nll_samples={samples}", "pretrainer.binarise=true")
        )
        result = pipeline.run(job, Context.on(job.experiment.hardware, Tracker()))
        found.append(result.likelihood)
        assert result.stages.pretrain.cached == (samples == 20)
    assert found[0].nll == pytest.approx(-found[0].elbo)
    assert found[1].nll < -found[1].elbo
    assert found[1].images == 500
    assert "dynamic binarisation" in advice.generated(result)
    assert "20 importance samples" in advice.generated(result)
    (request,) = job.requests["likelihood"]
    assert (
        json.loads((job.results["likelihood"][0].folder / "request.json").read_text())["samples"]
        == request["samples"]
        == 20
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["pretrainer=ae", "nll_samples=5"], "nll_samples=5: must be 0: AE has no likelihood"),
        (
            ["pretrainer=none", "nll_samples=5"],
            "nll_samples=5: must be 0: Nothing has no likelihood",
        ),
    ],
)
def test_methods_without_one_are_not_asked(experiment, options, text):
    with pytest.raises(ConfigError, match=text):
        prepare.prepare(experiment(*TINY, *options))


def test_conventions_are_told_apart():
    grey, black = torch.full((2, 1, 4, 4), 0.4), torch.ones(2, 1, 4, 4)
    assert "dynamic" in likelihood.convention(VAE(binarise=True), grey)
    assert "fixed" in likelihood.convention(VAE(binarise=True), black)
    assert "fixed" in likelihood.convention(VAE(), black)
    assert likelihood.convention(VAE(), grey) == "grey levels"


def test_fixed_binarisation_is_the_data_sets_and_always_the_same(shared_data):
    data = TorchvisionSet(root=str(shared_data / "mnist"), download=False, binarise=True)
    first, again = data.load(), data.load()
    assert first.fingerprint == again.fingerprint
    assert first.train.x[:1000].unique().tolist() == [0, 255]
    grey = TorchvisionSet(root=str(shared_data / "mnist"), download=False).load()
    assert first.test.x.float().mean().item() == pytest.approx(
        grey.test.x.float().mean().item(), rel=2e-3
    )
    assert not first.train.x[grey.train.x == 0].any()
    assert (first.train.x[grey.train.x == 255] == 255).all()
