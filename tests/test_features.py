"""What a pretrainer's frozen features are worth: more than every floor, on a set that it names, over three seeds."""

from statistics import fmean

import pytest

from sft_exp import pipeline
from sft_exp.stages.context import Context
from sft_exp.track import Tracker

SMALL = ["encoder=conv", "encoder.channels=[16,32,64]", "encoder.code=64"]
MARGINS = {  # pretrainer -> (options on MNIST with 10 labels a class, points above the best floor)
    "rotation": ([*SMALL, "pretrain.steps=400"], 1.0),
    "mae": ([*SMALL, "pretrain.steps=800"], 0.5),
}
FLOORS = ["random_frozen", "raw_pixels", "raw_svm", "pca_svm"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("pretrainer", MARGINS)
def test_features_beat_every_floor(experiment, shared_data, pretrainer):
    options, margin = MARGINS[pretrainer]
    found, floors = [], {}
    for seed in range(3):
        e = experiment(
            f"pretrainer={pretrainer}", *options, "dataset=mnist", f"dataset.root={shared_data / 'mnist'}", "strategy=logistic",
            "draws=5", "val=none", f"seed={seed}", f"controls=[{','.join(FLOORS)}]", "tracker=none",
        )  # fmt: skip
        job = pipeline.prepare(e)
        result = pipeline.run(job, Context.on(e.hardware, Tracker()))
        found.append(100 * result["test"]["accuracy"])
        for arm, scores in result["controls"].items():
            floors.setdefault(arm, []).append(100 * scores["accuracy"])
    best = max(fmean(scores) for scores in floors.values())
    assert fmean(found) > best + margin, (found, floors)
