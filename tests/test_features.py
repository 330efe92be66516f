"""Slow: what frozen features are worth on MNIST, 10 labels a class, three seeds: the lessons of benchmarks/lessons.py."""

import pytest

from benchmarks import lessons

MARGINS = {  # pretrainer -> advantage over the best floor at least
    **dict.fromkeys(("vicreg", "simclr", "barlow_twins", "simsiam", "dino", "moco", "byol"), 0.09),
    **dict.fromkeys(("mae", "rotation"), 0.02),
}
BELOW = ("ae", "dae", "vae", "gan", "wgan_gp", "bigan", "pca", "kmeans")  # a floor, at rest with so few labels


def test_every_pretrainer_is_above_its_floors_or_said_to_be_below():
    assert sorted([*MARGINS, *BELOW]) == sorted(lessons.RECIPES)
    (said,) = [p for p in (lessons.ROOT / "README.md").read_text().split("\n\n") if "have not beaten their floors" in p]
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
