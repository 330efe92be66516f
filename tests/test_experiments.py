"""Every option of the group `experiment` composes, and the published recipes run."""

import pytest

import sft_exp
from sft_exp.config import build, compose
from sft_exp.config.help_text import options


@pytest.mark.parametrize("name", options("experiment"))
def test_an_experiment_composes_to_a_valid_config(name):
    values, choices = compose.compose([f"experiment={name}"])
    assert build.experiment(values, choices).choices["experiment"] == name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fixmatch_cifar10_40", "fixmatch_cifar10_250", "simclr_cifar10"])
def test_a_published_recipe_runs_on_small_images(name):
    small = ["dataset=digits", "debug=tiny", "hardware=cpu", "hardware.precision=fp32"]
    result = sft_exp.run([f"experiment={name}", *small, "draws=1", "tracker=none", "labels=4"])
    assert 0.05 < result["test"]["accuracy"] <= 1
