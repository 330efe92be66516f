"""The Composer's configs equal those of Hydra's full composition, whatever the overrides."""

import random

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from sft_exp.config import build, hydra_state, register, sources
from sft_exp.sweep.composition import Composer

GROUPS = {
    "pretrainer": ["none", "ae", "vae", "simclr", "mae"],
    "encoder": ["mlp", "conv", "vit"],
    "optim": ["sgd", "adam", "momentum"],
    "pretrain_dataset": ["webdataset"],
    "strategy": ["full", "linear", "lora"],
    "dataset": ["digits", "coco", "image_folder"],
    "hardware": ["cpu", "ddp"],
    "debug": ["tiny"],
    "experiment": ["fixmatch_mnist"],
}
VALUES = {
    "seed": ["0", "3"],
    "labels": ["5", "5%", "all"],
    "optim.lr": ["1e-2", "0.1"],
    "finetune.batch_size": ["8", "all"],
    "pretrain": ["{steps:3,clip:0.5}"],
    "metrics": ["[top_k]", "[{_target_:torchmetrics.CohenKappa,num_classes:10}]"],
    "+optim.weight_decay": ["0.01"],
    "++optim.betas": ["[0.8,0.9]"],
    "~monitors": [""],
    "name": ["'a, b'"],
    "store": ["'${oc.env:HOME}/store'"],
    "val": ["none", "cv"],
}


@pytest.fixture
def master():
    """The config of a multirun, as Hydra makes it."""
    with hydra_state.alone():
        register.register()
        with hydra.initialize_config_dir(str(sources.CONF), version_base="1.3"):
            yield GlobalHydra.instance().hydra.compose_config(
                "config",
                ["tracker=none", "hydra.job.config.override_dirname.exclude_keys=[seed]"],
                run_mode=RunMode.MULTIRUN,
            )


def chosen(rng: random.Random) -> list[str]:
    """Overrides in any order; about half of the groups have a job of their own."""
    pairs = [
        *((key, rng.choice(options)) for key, options in GROUPS.items() if rng.random() < 0.3),
        *((key, rng.choice(values)) for key, values in VALUES.items() if rng.random() < 0.4),
    ]
    rng.shuffle(pairs)
    return [f"{key}={value}" if value else key for key, value in pairs]


def composed(compose, overrides):
    """The unresolved config, the config as a job has it and its choices; or the error's text."""
    try:
        cfg = compose(overrides)
        return OmegaConf.to_container(cfg, resolve=False), cfg.hydra.job.override_dirname
    except HydraException as error:
        return str(error)


def test_random_overrides_compose_to_the_same_config(master):
    rng, composer, good = random.Random(0), Composer(master), 0
    for _ in range(20):
        overrides = chosen(rng)
        whole = composed(lambda o: composer.loader.load_sweep_config(master, o), overrides)
        assert composed(composer.job, overrides) == whole, overrides
        good += not isinstance(whole, str)
    assert good > 10, "most overrides are valid"


@pytest.mark.parametrize(
    "overrides",
    [["optim.nothing=1"], ["+seed=1"], ["~nothing"], ["optim=nothing"], ["nothing=1"]],
)
def test_a_slip_is_the_same_error(master, overrides):
    composer = Composer(master)
    whole = composed(lambda o: composer.loader.load_sweep_config(master, o), overrides)
    assert isinstance(whole, str)
    assert composed(composer.job, overrides) == whole


def test_jobs_do_not_share_values(master):
    composer = Composer(master)
    first = composer.job(["optim=sgd", "optim.lr=0.5", "+optim.weight_decay=1"])
    second = composer.job(["optim=sgd"])
    assert len(composer.bases) == 1
    assert first.optim.lr == 0.5
    assert second.optim.lr != 0.5
    assert "weight_decay" not in second.optim
    assert build.plain(first)["optim"]["weight_decay"] == 1


def test_a_value_in_the_name_of_the_folder_is_read_from_the_job(master):
    composer = Composer(master)
    by_number = composer.naming(["seed=4"])
    assert by_number is composer.naming(["seed=5"])
    OmegaConf.set_readonly(master.hydra, False)
    for base in composer.bases.values():
        base.hydra.sweep.subdir = "seed_${seed}"
    assert [composer.naming([f"seed={n}"]).hydra.sweep.subdir for n in (4, 5)] == [
        "seed_4",
        "seed_5",
    ]
