"""The Composer's configs equal those of Hydra's full composition, whatever the overrides."""

import json
import random
from functools import cache

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sft_exp.config import build, hydra_state, register
from sft_exp.errors import ConfigError
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
    "task.views.crop": ["[0.5,1]"],
    "augment.crop": ["[0.6,1]"],
    "augment": ["{flip:0.1}"],
    "hydra.verbose": ["true"],
}


@pytest.fixture(scope="module")
def master():
    """The config of a multirun, as Hydra makes it."""
    with hydra_state.alone():
        register.register()
        with hydra_state.initialized():
            yield GlobalHydra.instance().hydra.compose_config(
                "config",
                ["tracker=none", "hydra.job.config.override_dirname.exclude_keys=[seed]"],
                run_mode=RunMode.MULTIRUN,
            )


def taken(rng: random.Random) -> list[str]:
    """Options of some groups."""
    some = ((key, rng.choice(options)) for key, options in GROUPS.items() if rng.random() < 0.3)
    return [f"{key}={option}" for key, option in some]


def valued(rng: random.Random) -> list[str]:
    """Values of some keys."""
    some = ((key, rng.choice(values)) for key, values in VALUES.items() if rng.random() < 0.3)
    return [f"{key}={value}" if value else key for key, value in some]


def composed(compose, overrides):
    """The unresolved config, the config as a job has it and its choices; or the error's text."""
    try:
        cfg = compose(overrides)
        return OmegaConf.to_container(cfg, resolve=False), cfg.hydra.job.override_dirname
    except HydraException as error:
        return str(error)


def planned(plain):
    """The resolved config and the choices, in order, or the error's text."""
    try:
        config, choices = plain()
        return json.dumps(config), choices
    except (HydraException, OmegaConfBaseException, ConfigError) as error:
        return str(error)


@pytest.fixture(scope="module")
def whole(master):
    """Overrides -> the resolved config and the choices of Hydra's full composition, or the error's text."""

    @cache
    def by_hydra(words):
        def plain():
            cfg = Composer(master).loader.load_sweep_config(master, list(words))
            return build.plain(cfg), build.choices(cfg)

        return planned(plain)

    return by_hydra


@pytest.mark.parametrize("jobs", [6, pytest.param(150, marks=pytest.mark.slow)])
def test_random_overrides_compose_to_the_same_config(master, jobs):
    rng, composer, good = random.Random(jobs), Composer(master), 0
    groups = [taken(rng) for _ in range(jobs // 4)]
    for _ in range(jobs):
        overrides = [*rng.choice(groups), *valued(rng)]
        rng.shuffle(overrides)
        try:
            cfg = composer.loader.load_sweep_config(master, overrides)
        except HydraException as error:
            config = whole = str(error)
        else:
            config = composed(lambda _, whole=cfg: whole, overrides)
            whole = planned(lambda whole=cfg: (build.plain(whole), build.choices(whole)))
            good += 1
        assert composed(composer.job, overrides) == config, overrides
        for _ in range(2):  # with what the job before has left, and with what this one has
            assert planned(lambda words=overrides: composer.plain(words)) == whole, overrides
    assert good > jobs / 2, "most overrides are valid"


def test_a_plan_of_values_copies_nothing(master, monkeypatch):
    composer = Composer(master)
    composer.plain(["optim=sgd"])
    monkeypatch.setattr(composer, "job", None)
    plans = [composer.plain(["optim=sgd", f"optim.lr={rate}"])[0] for rate in (0.1, 0.2)]
    assert [plan["optim"]["lr"] for plan in plans] == [0.1, 0.2]
    assert composer.plain(["optim=sgd"])[0]["optim"]["lr"] not in (0.1, 0.2)


def test_a_name_of_the_yaml_files_may_be_that_of_the_job(master):
    composer = Composer(master)
    composer.base([]).cfg.name = "${hydra.job.override_dirname}"
    names = [composer.plain(["seed=1", f"labels={n}"])[0]["name"] for n in (4, 5)]
    assert names == ["labels=4", "labels=5"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["name='${hydra.job.override_dirname}'"],
        ["name='${name_of_job}'", "+name_of_job=x"],
        ["store='${oc.env:HOME}'", "seed=3"],
        ["task.views.flip=0.25"],
        ["augment.flip=0.25"],
        ["task.views={flip:0.25}"],
        ["optim.batch_size=7"],
        ["+optim.batch_size=7"],
        ["finetune.batch_size=7"],
        ["pretrain_dataset='${dataset}'", "dataset.size=9"],
        ["~monitors"],
        ["optim=sgd", "++optim.betas=[0.8,0.9]"],
        ["+tracker.trackers.more={}"],
        ["hydra.job.name=other", "seed=2"],
    ],
)
def test_references_between_keys_are_followed(master, whole, overrides):
    """A plan of the overrides alone, and after jobs whose values it must not see."""
    composer = Composer(master)
    for words in (["optim.lr=0.5", "augment.flip=0.9"], overrides, ["seed=1"]):
        plan = planned(lambda words=words: composer.plain(words))
        assert plan == whole(tuple(words)), words


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
    register.name_sweep("all")
    composer = Composer(master)
    names = [composer.folder([f"seed={n + 4}"], n) for n in (0, 1)]
    assert [str(name) for name in names] == ["outputs/multirun/all/0", "outputs/multirun/all/1"]
    assert HydraConfig.instance().cfg is None
    composer = Composer(master)
    base = composer.base([])
    base.cfg.hydra.sweep.subdir = "seed_${seed}_${hydra:job.num}"
    assert [composer.folder([f"seed={n + 4}"], n).name for n in (0, 1)] == ["seed_4_0", "seed_5_1"]
