"""Slow: what each joint-embedding method learns of MNIST in a few minutes beats every floor, on 10 labels a class."""

import pytest

METHODS = {  # pretrainer -> (error at most, advantage over the best floor at least)
    "simclr": (0.09, 0.08),
    "vicreg": (0.09, 0.08),
    "barlow_twins": (0.11, 0.06),
    "moco": (0.13, 0.05),
    "simsiam": (0.14, 0.04),
    "dino": (0.15, 0.03),
    "byol": (0.16, 0.02),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("floors")


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_features_beat_every_floor_on_mnist(store, shared_data, name):
    """Logistic regression on the frozen code, 3 label draws, one pretraining of 500 steps; the controls are computed once."""
    import sft_exp

    most, margin = METHODS[name]
    data = ["dataset=mnist", f"dataset.root={shared_data / 'mnist'}", "dataset.download=false", "encoder=conv"]
    budget = ["pretrain.steps=500", "pretrain.batch_size=256", "labels=10", "draws=3", "val=none", "strategy=logistic"]
    result = sft_exp.run([f"pretrainer={name}", *data, *budget, "tracker=none", f"store={store}"], store / name)
    floors = {arm: result["controls"][arm]["accuracy"] for arm in ("raw_pixels", "raw_svm", "pca_svm", "random_frozen")}
    assert 1 - result["test"]["accuracy"] <= most
    assert result["test"]["accuracy"] >= max(floors.values()) + margin, floors
