"""Every pretrainer trains an encoder with attention, whose kernels lack second derivatives on the CPU."""

import pytest

import sft_exp
from sft_exp.config.help_text import options
from sft_exp.errors import ConfigError

TINY = ("debug=tiny", "tracker=none", "report=false", "controls=[]", "draws=1", "monitors=false")
ELSEWHERE = ("none", "checkpoint", "imagenet", "supervised")  # train nothing, or need other data


@pytest.mark.parametrize(
    "pretrainer",
    [
        p if p == "wgan_gp" else pytest.param(p, marks=pytest.mark.slow)
        for p in options("pretrainer")
        if p not in ELSEWHERE
    ],
)
def test_a_vision_transformer_is_pretrained(pretrainer):
    try:
        result = sft_exp.run([*TINY, "encoder=vit", f"pretrainer={pretrainer}"], "run")
    except ConfigError as error:  # methods with an encoder of their own say so
        assert pretrainer != "wgan_gp", error
        assert error.key.startswith("encoder"), error
    else:
        assert 0 <= result["test"]["accuracy"] <= 1
