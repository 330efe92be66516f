"""Every pretrainer trains an encoder with attention, whose kernels lack second derivatives on the CPU."""

import pytest

import sft_exp
from sft_exp.config.help_text import options

TINY = ("debug=tiny", "tracker=none", "report=false", "controls=[]", "draws=1", "monitors=false")
# they train nothing, need other data, or have an encoder of their own
ELSEWHERE = ("none", "checkpoint", "imagenet", "supervised", "kmeans", "pca")


@pytest.mark.parametrize(
    "pretrainer",
    [
        p if p == "wgan_gp" else pytest.param(p, marks=pytest.mark.slow)
        for p in options("pretrainer")
        if p not in ELSEWHERE
    ],
)
def test_a_vision_transformer_is_pretrained(pretrainer):
    result = sft_exp.run([*TINY, "encoder=vit", f"pretrainer={pretrainer}"], "run")
    assert 0 <= result["test"]["accuracy"] <= 1
