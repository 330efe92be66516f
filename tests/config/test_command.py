"""Commands that the program prints compose to the experiments that they stand for."""

import shlex
from pathlib import Path

import pytest

from sft_exp.config import compose, recipe

CASES = {
    "nothing": [],
    "an option that brings others": [
        "pretrainer=imagenet",
        "encoder=torchvision",
        "optim=sgd",
        "optim.lr=1e-5",
    ],
    "what a data set brings": [
        "dataset=image_folder",
        "dataset.root=/tmp",
        "pretrain_dataset=digits",
    ],
    "a default in place of what an option brings": [
        "dataset=image_folder",
        "dataset.root=/tmp",
        "augment=digits",
    ],
    "an experiment": ["experiment=fixmatch_mnist", "draws=3"],
    "words that a shell or Hydra would break": [
        r"name='it\'s: a, $test = {x}'",
        "store='with space/a'",
        "labels='5%'",
    ],
    "lists and nothing": [
        "encoder.hidden=[8,16]",
        "finetune.clip=null",
        "controls=[scratch]",
        "features.maps=[-1]",
    ],
    "decoded images in the store": ["dataset=image_folder", "dataset.root=/tmp", "store=elsewhere"],
    "decoded images elsewhere": ["dataset=image_folder", "dataset.root=/tmp", "dataset.cache=/tmp"],
    "a part with parts": ["task=multitask", "task.heads.mask=segment"],
}


@pytest.mark.parametrize("given", CASES.values(), ids=CASES)
@pytest.mark.sampled(2)
def test_overrides_and_experiment_compose_to_the_same_config(given, tmp_path):
    resolved, choices = compose.compose(given)
    words = shlex.split(recipe.command(recipe.overrides(resolved, choices)))
    assert words[:3] == ["python", "-m", "sft_exp"]
    again, options = compose.compose(words[3:])
    moved = {"store": str(Path(resolved["store"]).absolute())} if "store" in str(given) else {}
    data = resolved["dataset"]
    if moved and "cache" in data:
        data = {**data, "cache": moved["store"]}
    assert again == {**resolved, **moved, "dataset": data}
    own = [word for word in words if word.startswith("dataset.cache=")]
    assert own == [word for word in given if word.startswith("dataset.cache=")]
    assert options == {g: o for g, o in choices.items() if g != "experiment"}
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/mine.yaml").write_text(
        recipe.experiment(resolved, choices, "a test")
    )
    from_file, _ = compose.compose(
        [f"hydra.searchpath=[file://{tmp_path}/conf]", "experiment=mine"]
    )
    assert from_file == again
