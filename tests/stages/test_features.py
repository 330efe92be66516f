"""Slow: frozen features on MNIST or CIFAR-10 with three seeds (benchmarks/lessons.py)."""

import pytest

from benchmarks import lessons

MARGINS = {  # pretrainer -> advantage over the best floor at least
    **dict.fromkeys(("vicreg", "simclr", "barlow_twins", "simsiam", "dino", "moco", "byol"), 0.09),
    **dict.fromkeys(("mae", "rotation", "jigsaw", "kmeans"), 0.02),
    # labels spread over their features' graph, against the same on pixels
    **dict.fromkeys(("ae", "vae"), 0.02),
    **dict.fromkeys(("dae", "pca", "wgan_gp"), 0.0),
}
BELOW = ("gan", "bigan")  # a floor, at rest with so few labels


def test_every_pretrainer_is_above_its_floors_or_said_to_be_below():
    assert sorted([*MARGINS, *BELOW]) == sorted(lessons.RECIPES)
    (said,) = [
        p
        for p in (lessons.ROOT / "docs/choosing.md").read_text().split("\n\n")
        if "have not beaten their baselines" in p
    ]
    assert all(f"`{name}`" in said for name in BELOW)
    assert not any(f"`{name}`" in said for name in MARGINS)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("lessons")  # of all: the floors are the same


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", MARGINS)
def test_features_beat_every_floor(name, outputs, shared_data):
    row = lessons.measure(name, lessons.home(name), 3, shared_data, outputs)
    assert row.advantage >= MARGINS[name], row
