"""What the checks of many jobs share, and what they may not."""

import pytest

from sft_exp.errors import ConfigError
from sft_exp.jobs import checks, prepare
from sft_exp.stages import pretrain

TINY = ("debug=tiny", "pretrainer=ae", "draws=1", "controls=false")


def test_jobs_with_the_same_networks_build_them_once(experiment, monkeypatch):
    built, build = [], pretrain.build
    monkeypatch.setattr(checks, "_networks", set())
    monkeypatch.setattr(pretrain, "build", lambda r, data: built.append(r) or build(r, data))
    for seed, channels in ((0, "[4,8]"), (1, "[4,8]"), (2, "[4,4]"), (3, "[4,8]")):
        words = (f"seed={seed}", "encoder=conv", f"encoder.channels={channels}")
        prepare.prepare(experiment(*TINY, *words))
    prepare.prepare(experiment(*TINY, "encoder=mlp"))
    assert [type(r["encoder"]).__name__ for r in built] == ["Conv", "Conv", "MLP"]


def test_networks_that_cannot_be_built_are_refused_each_time(experiment):
    for seed in (0, 1):
        e = experiment(*TINY, f"seed={seed}", "encoder=pixels")
        with pytest.raises(ConfigError, match="has nothing to pretrain"):
            prepare.prepare(e)


@pytest.mark.parametrize("encoder", ["projection", "mlp", "pixels"])
def test_encoders_without_maps_are_refused_for_masks_before_anything_runs(experiment, encoder):
    words = ("debug=tiny", "dataset=digit_pairs", "labels=4", "task=segment", "pretrainer=none")
    with pytest.raises(ConfigError, match=rf"^encoder={encoder}: has no maps with rows"):
        prepare.prepare(experiment(*words, f"encoder={encoder}"))
    named = (f"encoder={encoder}", "features.maps=[-1]", "controls=false")
    with pytest.raises(ConfigError, match=r"^features\.maps=.*holds no map with rows"):
        prepare.prepare(experiment(*words, *named))
