"""Every option of these groups ends a whole run, report included, and its model answers."""

import pytest
import torch

import sft_exp
from sft_exp.config.help_text import options
from sft_exp.errors import ConfigError

GROUPS = ("task", "strategy", "pretrainer", "encoder", "schedule", "augment", "compress", "export")
DIGITS = ("dataset=digits", "encoder=conv")
PAIRS = ("dataset=digit_pairs", "labels=40", "pretrainer=none")
# what an option needs in the place of DIGITS
NEEDS = {
    "task=digit_pairs": PAIRS,
    "task=multitask": (*PAIRS, "task.heads={left: classify, mask: segment}"),
    "task=segment": PAIRS,
    "task=regress": PAIRS,
    "task=mean_teacher_numbers": PAIRS,
    # after two steps BatchNorm's statistics are not yet those of the images
    "task=m1_m2": (*DIGITS, "pretrain.steps=30"),
    "strategy=ridge": (*PAIRS, "task=regress"),
    "strategy=svr": (*PAIRS, "task=regress"),
    "pretrainer=kmeans": ("dataset=digits", "encoder=patches"),
    "pretrainer=pca": ("dataset=digits", "encoder=projection"),
    "pretrainer=wgan_gp": (*DIGITS, "encoder.norm=layer"),
    "encoder=colours": ("dataset=digits", "pretrainer=none"),
    "encoder=pixels": ("dataset=digits", "pretrainer=none"),
    "encoder=patches": ("dataset=digits", "pretrainer=kmeans"),
    "encoder=conv64": ("dataset=digits", "encoder.channels=[8,16]"),
    "encoder=conv320": ("dataset=digits", "encoder.channels=[8,16]"),
}
# run on files by tests/tasks, tests/models and tests/strategies
WITH_FILES = {
    "task=detect",
    "task=multilabel",
    "strategy=distill",
    "pretrainer=checkpoint",
    "pretrainer=imagenet",
    "pretrainer=supervised",
}
CHOSEN = [f"{group}={name}" for group in GROUPS for name in options(group)]
# a teacher that predicts, features without an encoder, no feature vectors, an SVM's votes
FIRST = ["task=mean_teacher", "strategy=spread", "task=segment", "strategy=svm"]


@pytest.mark.parametrize("option", FIRST + [o for o in CHOSEN if o not in {*FIRST, *WITH_FILES}])
@pytest.mark.sampled(len(FIRST))
def test_an_option_ends_a_whole_run_and_its_model_answers(option, tmp_path):
    words = [*NEEDS.get(option, DIGITS), option, "debug=tiny", "hardware.workers=1"]
    try:
        sft_exp.run(words, tmp_path / "run")
    except ConfigError as error:
        if "pip install" in str(error):
            pytest.skip(str(error))
        raise
    assert (tmp_path / "run" / "report.html").is_file()
    loaded = sft_exp.load(tmp_path / "run")
    model, x_BCHW = loaded.model, torch.rand(3, *loaded.model.spec.image)
    predicted = model.predict(x_BCHW)
    if model.task.predicts != "classes":
        return
    images = list((255 * x_BCHW).round().byte())
    assert len(loaded.classify(images)) == 3
    nets, f_BD = model.task.predicting(model.nets), loaded.embed(images)
    if {"scale", "head"} <= {*nets}:
        logits_BY = nets["head"](nets["scale"](f_BD))
        assert torch.allclose(logits_BY, model.predict(torch.stack(images) / 255), atol=1e-4)
        assert predicted.shape == logits_BY.shape
