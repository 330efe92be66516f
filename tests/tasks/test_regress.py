"""Numbers whose score is undefined: too few images to score, and predictions beyond float32."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import sft_exp
from sft_exp.errors import DataError, NonFiniteError
from sft_exp.jobs import prepare
from sft_exp.models.heads.regressor import Determination
from sft_exp.stages import validate

TINY = ("debug=tiny", "tracker=none", "draws=1", "dataset.size=8", "dataset.channels=1")


def options(folder, tested):
    """Overrides for a table of 20 images with numbers, of which the last `tested` are to test on."""
    folder.mkdir()
    rng, lines = np.random.default_rng(0), ["file,target,split"]
    for n in range(20):
        level = int(rng.integers(20, 235))
        Image.fromarray(np.full((8, 8), level, np.uint8)).save(folder / f"{n}.png")
        lines.append(f"{n}.png,{level},{'test' if n >= 20 - tested else 'train'}")
    (folder / "table.csv").write_text("\n".join(lines))
    table = f"dataset.table={folder / 'table.csv'}"
    return [*TINY, "dataset=number_table", table, "encoder=mlp", "controls=[scratch]"]


def test_one_test_image_is_refused_before_anything_runs(experiment, tmp_path):
    words = options(tmp_path / "one", 1)
    with pytest.raises(DataError, match="1 test image: R2 is defined for 2 or more"):
        prepare.prepare(experiment(*words, "labels=10"))


def test_as_many_are_held_out_as_the_score_needs(experiment, tmp_path):
    words = options(tmp_path / "five", 5)
    with pytest.raises(DataError, match="3 labelled images, and 4 are needed to hold some out"):
        prepare.prepare(experiment(*words, "labels=3", "val=holdout"))
    for val in ("holdout", "cv"):
        result = sft_exp.run([*words, "labels=5", f"val={val}", "report=false"], val)
        assert "r2" in result["val"]
    job = prepare.prepare(experiment(*words, "labels=5", "val=cv"))
    assert len(job.requests["validate"]) == 2
    assert not prepare.prepare(experiment(*words, "labels=3", "val=cv")).requests["validate"]


def test_a_score_is_averaged_over_the_folds_that_have_it(tmp_path):
    folds = [tmp_path / str(n) for n in range(3)]
    scores = ({"mae": 1.0, "r2": 0.5}, {"mae": 2.0}, {"mae": 3.0, "r2": 0.7})
    for folder, of_fold in zip(folds, scores, strict=True):
        folder.mkdir()
        (folder / "scores.json").write_text(json.dumps({"share": 0.25, "scores": of_fold}))
    (folds[0] / "scores.json").write_text(json.dumps({"share": 0.5, "scores": scores[0]}))
    averaged = validate.averaged(folds)
    assert averaged["mae"] == pytest.approx(0.5 + 0.5 + 0.75)
    assert averaged["r2"] == pytest.approx((0.5 * 0.5 + 0.25 * 0.7) / 0.75)


def test_predictions_whose_squares_overflow_are_a_training_that_diverged():
    metric = Determination()
    metric.update(torch.tensor([[1e25], [-1e25]]), torch.tensor([[1.0], [2.0]]))
    with pytest.raises(NonFiniteError, match="exceed float32"):
        metric.compute()
