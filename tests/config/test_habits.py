"""Features of Hydra's documentation work here, or are refused with the alternative."""

import json
import os
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from faults import ENVIRONMENT, TINY, cli, run
from PIL import Image

import sft_exp
from sft_exp import api
from sft_exp.config import build, compose, help_text, hydra_state, register
from sft_exp.config.rerun import flags_first
from sft_exp.errors import ConfigError
from sft_exp.failures import not_swept, translated, unquoted
from sft_exp.jobs import prepare


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (["tracker=null"], ["tracker=none"]),
        (["export=null", "compress=None"], ["export=none", "compress=none"]),
        (["tracker=null,wandb"], ["tracker=none,wandb"]),
        (["debug=tiny", "seed=1", "debug=null"], ["seed=1"]),
        (["pretrain_dataset=null"], []),
        (["~tracker", "~export=safetensors"], ["tracker=none", "export=none"]),
        (["debug=tiny", "~debug"], []),
        (["~tracker.project"], ["~tracker.project"]),
        (["pretrain.steps=null", "tracker=none"], ["pretrain.steps=null", "tracker=none"]),
    ],
)
def test_null_means_none(typed, read):
    assert compose.without_nulls(typed) == read


@pytest.mark.parametrize("group", ["optim", "dataset", "task"])
def test_a_group_that_needs_an_option_says_which(group):
    with pytest.raises(
        ConfigError,
        match=f"{group}=null: needs an option; valid: .*{help_text.options(group).popitem()[0]}",
    ):
        compose.without_nulls([f"{group}=null"])


@pytest.mark.parametrize(
    "value", ["true", "1", "1.5", "{a: 1}", "nan", "conv,true", "[[1]]", "[1]"]
)
def test_what_cannot_name_an_option_is_refused_with_those_that_exist(value):
    """Hydra raises a ValueError of its own for these."""
    with pytest.raises(
        ConfigError, match=f"encoder={re.escape(value)}: is no option; valid: .*conv"
    ):
        compose.compose([f"encoder={value}"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["features=${seed}"],
            "features=0: is a group of keys, and takes no value itself; valid: features.maps",
        ),
        (["augment.sigma=${seed}"], "augment.sigma=0: must be a list"),
        (["task.views=${seed}"], "task.views=0: is a group of keys"),
        (
            ["pretrainer=simclr", "pretrainer.views.sigma=${seed}"],
            "sigma=0: must be [minimum, maximum]",
        ),
        (["features.maps=${seed}"], "features.maps=0: must be a list"),
        (["metrics=${seed}"], "metrics=0: must be a list"),
        (["metrics=[[1]]"], "metrics=[1]: must be names of metrics"),
        (["controls=nan"], "controls=nan: must be true, false, or a list"),
        (["name='${oc.env:SECRET_TOKEN}'"], "would write the secret SECRET_TOKEN"),
        (["name='${oc.env:WANDB_API_KEY,none}'"], "would write the secret WANDB_API_KEY"),
        (
            ["encoder.hidden='${oc.decode:${oc.env:DB_PASSWORD}}'"],
            "would write the secret DB_PASSWORD",
        ),
    ],
)
def test_a_slip_is_a_configuration_error(overrides, words, monkeypatch):
    for name in ("SECRET_TOKEN", "WANDB_API_KEY", "DB_PASSWORD"):
        monkeypatch.setenv(name, "[8]")
    with pytest.raises(ConfigError) as told:
        build.experiment(*compose.compose(overrides))
    assert words in str(told.value)
    assert "[8]" not in str(told.value)


@pytest.mark.parametrize("key", ["strategy", "pretrain_schedule", "plugins", "+experiment"])
def test_a_value_longer_than_a_file_s_name_is_refused(key):
    words = [f"{key}={'a' * 5000}"]
    problem = "too long for the name of a file or an option"
    with pytest.raises(ConfigError, match=problem), translated(words):
        build.experiment(*compose.compose(words))


WRITTEN = {  # what is typed -> (key, what is written, what the experiment has)
    "dataset.root='${oc.env:MY_PLACE}'": ("dataset.root", "${oc.env:MY_PLACE}", "hush"),
    "dataset.root='${oc.env:MY_PLACE}/sub'": ("dataset.root", "${oc.env:MY_PLACE}/sub", "hush/sub"),
    "dataset.root='${oc.env:UNSET,${oc.env:MY_PLACE}}'": (
        "dataset.root",
        "${oc.env:UNSET,'${oc.env:MY_PLACE}'}",
        "hush",
    ),
    "dataset.root='${dataset.labels}' dataset.labels='${oc.env:MY_PLACE}'": (
        "dataset.root",
        "${oc.env:MY_PLACE}",
        "hush",
    ),
    "tracker.tags='${oc.decode:${oc.env:MY_LIST}}'": (
        "tracker.tags",
        "${oc.decode:${oc.env:MY_LIST}}",
        ["hush", "loud"],
    ),
    "dataset.size='${oc.decode:${oc.env:MY_SIZE}}'": ("dataset.size", 48, 48),
    "dataset.root='${oc.env:SFT_EXP_DATA}/sub'": ("dataset.root", "data/sub", "data/sub"),
    "dataset.root='${oc.env:UNSET,here}'": ("dataset.root", "${oc.env:UNSET,'here'}", "here"),
}


@pytest.mark.parametrize("typed", WRITTEN)
def test_text_of_the_environment_is_used_and_not_written(typed, monkeypatch):
    key, written, used = WRITTEN[typed]
    given = {"MY_PLACE": "hush", "MY_LIST": "[hush,loud]", "MY_SIZE": "48", "SFT_EXP_DATA": "data"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    config, _ = compose.compose(["dataset=image_folder", *typed.split(" ")])
    group, name = key.split(".")
    assert config[group][name] == written
    assert "hush" not in str(config)
    assert build.resolved(config)[group][name] == used


def test_a_variable_that_is_gone_is_named(monkeypatch):
    monkeypatch.setenv("MY_PLACE", "hush")
    config, taken = compose.compose(["dataset=image_folder", "dataset.root='${oc.env:MY_PLACE}'"])
    monkeypatch.delenv("MY_PLACE")
    with pytest.raises(ConfigError, match=r"dataset\.root=.*MY_PLACE"):
        build.experiment(config, taken)


@pytest.mark.parametrize(
    "typed",
    [
        "+dataset.options.api_key=hush",
        "+dataset.options.token=hush",
        "+dataset.options.db_password=hush",
    ],
)
def test_a_secret_in_a_config_is_refused(typed):
    with pytest.raises(ConfigError, match="would write a secret") as refused:
        compose.compose(["dataset=torchvision", typed])
    assert "hush" not in str(refused.value)


def set_variable(name, value):
    os.environ[name] = value


def test_no_file_of_a_run_holds_text_of_the_environment(tmp_path, monkeypatch):
    """Of the run folder and of the store, whatever their format; from the command line, as Hydra writes files there too."""
    text = "hushhushhush"
    command = ["debug=tiny", "controls=false", "tracker=none"]
    command += [
        "export=safetensors",
        "name='${oc.env:MY_NAME}'",
        "store=store",
        "hydra.run.dir=run",
    ]
    code, said = run(cli, *command, prepare=partial(set_variable, "MY_NAME", text))
    assert code == 0, said
    files = [f for f in tmp_path.rglob("*") if f.is_file()]
    assert {"results.json", "report.html", "config.yaml"} <= {f.name for f in files}
    assert not [f for f in files if text.encode() in f.read_bytes()]
    assert text not in said


def test_the_environment_names_the_store(monkeypatch):
    monkeypatch.setenv("SFT_EXP_STORE", "elsewhere")
    assert compose.compose([])[0]["store"] == "elsewhere"
    assert compose.compose(["store=here"])[0]["store"] == "here"


def roots(*words):
    values = compose.compose(list(words))[0]
    return [values[key]["root"] for key in ("dataset", "pretrain_dataset") if values[key]]


def test_the_environment_names_the_folder_of_data_sets(monkeypatch, tmp_path):
    assert roots("dataset=mnist") == ["data"]
    for folder in ("sets/mnist", "sets/mine", "here"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setenv("SFT_EXP_DATA", str(tmp_path / "sets"))
    assert roots("dataset=mnist") == [str(tmp_path / "sets" / "mnist")]
    assert roots("dataset=cifar10") == [str(tmp_path / "sets")]
    own = roots("dataset=image_folder", "dataset.root=mine", "auto=false")
    assert own == [str(tmp_path / "sets" / "mine")]
    assert roots("dataset=image_folder", "dataset.root=here", "auto=false") == ["here"]
    assert roots("dataset=image_folder", "dataset.root=nowhere", "auto=false") == ["nowhere"]
    assert roots("dataset=mnist", f"dataset.root={tmp_path}") == [str(tmp_path)]
    words = ["dataset=mnist", "pretrain_dataset=webdataset", "pretrain_dataset.root=mine"]
    assert roots(*words) == [str(tmp_path / "sets" / name) for name in ("mnist", "mine")]


def small_set(folder):
    for c in ("a", "b"):
        for n in range(6):
            (folder / c).mkdir(parents=True, exist_ok=True)
            pixels = bytes((7 * n + 90 * (c == "b") + i) % 256 for i in range(256))
            Image.frombytes("L", (16, 16), pixels).save(folder / c / f"{n}.png")


@pytest.mark.slow
def test_both_folders_of_the_environment_in_a_run_a_sweep_and_from_python(monkeypatch, tmp_path):
    small_set(tmp_path / "sets" / "mine")
    monkeypatch.setenv("SFT_EXP_DATA", str(tmp_path / "sets"))
    monkeypatch.setenv("SFT_EXP_STORE", str(tmp_path / "kept"))
    words = [word for word in TINY if not word.startswith(("store=", "dataset"))]
    words += ["dataset=image_folder", "dataset.root=mine", "labels=2", "draws=1", "pretrainer=none"]
    words += ["encoder=mlp", "controls=false", "tracker=none"]
    result = api.run(words, "python")
    for more in (["hydra.run.dir=run"], ["-m", "seed=0,1", "hydra.sweep.dir=sweep"]):
        code, said = run(cli, *words, *more)
        assert code == 0, said
    for folder in ("run", "sweep/0"):
        same = json.loads((tmp_path / folder / "results.json").read_text())
        assert same["folders"] == result["folders"]
    assert (tmp_path / "kept" / result["folders"]["data"]).is_dir()


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("a=1 -m b=2", "-m a=1 b=2"),
        ("a=1 b=2 --multirun", "--multirun a=1 b=2"),
        ("a=1 --config-dir mine b=2 --cfg job c=3", "--config-dir mine --cfg job a=1 b=2 c=3"),
        ("-m a=1", "-m a=1"),
        ("~a --config-dir=mine +b=-1", "--config-dir=mine ~a +b=-1"),
    ],
)
def test_flags_may_stand_anywhere(typed, read):
    assert " ".join(flags_first(typed.split())) == read


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("dataset.root=/t/my photos, v=2 (final)", "'dataset.root=\"/t/my photos, v=2 (final)\"'"),
        (
            "pretrainer.init=epoch=9-step=90.safetensors",
            "'pretrainer.init=\"epoch=9-step=90.safetensors\"'",
        ),
        ("dataset.root=/t/photos, new", "'dataset.root=\"/t/photos, new\"'"),
        ('name=a "b"=c', '\'name="a \\"b\\"=c"\''),
    ],
)
def test_a_value_that_must_be_quoted_is_shown_quoted(typed, shown):
    (said,) = unquoted(["seed=1", typed, "labels=5%", "optim.lr=1e-3"])
    assert said.startswith(f"{typed}: ")
    assert said.endswith(shown)
    from hydra.core.override_parser.overrides_parser import OverridesParser

    key, _, value = typed.partition("=")
    (word,) = shlex.split(shown)
    parsed = OverridesParser.create().parse_override(word)
    assert (parsed.key_or_group, parsed.value()) == (key, value)


def test_several_values_without_the_flag_of_a_sweep_are_answered_with_the_flag():
    words = ["pretrainer=ae,vae", "optim=sgd,adam", "optim.lr=1e-2,1e-3", "labels=5"]
    (said,) = not_swept(words)
    assert said.startswith("pretrainer=ae,vae optim=sgd,adam optim.lr=1e-2,1e-3: several values")
    assert said.endswith(f": sft_exp -m {' '.join(words)}")
    assert not unquoted(words)
    assert not not_swept(["-m", *words])


@pytest.mark.parametrize(
    ("typed", "readings"),
    [
        (
            ["dataset=image_folder", "dataset.unlabelled=a,b"],
            ["'dataset.unlabelled=[a,b]'", "'dataset.unlabelled=\"a,b\"'"],
        ),
        (["metrics=auroc,top_k"], ["'metrics=[auroc,top_k]'"]),
        (["seed=range(0,3)"], []),
    ],
)
def test_other_readings_of_several_values_are_named_where_there_are_any(typed, readings):
    said = "\n".join(not_swept(typed))
    assert "-m" in said
    assert all(reading in said for reading in readings)
    assert ("one value" in said) == bool(readings)


def test_a_key_of_an_option_that_another_choice_replaced_is_explained():
    with pytest.raises(ConfigError) as error:
        api.run(["debug=tiny", "tracker.mode=offline"])
    said = str(error.value)
    assert "tracker=none, which debug=tiny chooses, has no key mode; tracker=wandb has it" in said
    assert "Nowhere" not in said
    with pytest.raises(ConfigError, match=r"pretrainer=ae has no key beta; pretrainer=.* has it"):
        api.run(["pretrainer=ae", "pretrainer.beta=2"])


def test_a_program_that_calls_us_keeps_its_own_hydra(tmp_path):
    from hydra import compose as compose_theirs
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.utils import JobRuntime
    from omegaconf import OmegaConf

    (tmp_path / "own.yaml").write_text("a: 1\n")
    hydra_state.register_resolver("short_id", lambda: "mine")
    try:
        with initialize_config_dir(str(tmp_path), job_name="theirs", **hydra_state.VERSION_BASE):
            before, job = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
            compose.compose(["seed=3"])
            with pytest.raises(Exception, match="optm"):
                compose.compose(["optm=adam"])
            assert GlobalHydra.instance().hydra is before
            assert HydraConfig.instance().cfg is job
            assert JobRuntime.instance().get("name") == "theirs"
            assert OmegaConf.create({"x": "${short_id:}"}).x == "mine"
            assert compose_theirs("own", overrides=["a=2"]).a == 2
    finally:
        OmegaConf.clear_resolver("short_id")
        register.register()


def test_a_saved_config_is_run_again():
    """`--config-path RUN/.hydra --config-name config`, and an edited one is not passed over."""
    given = (*TINY, "report=false", "labels=3", "optim.lr=0.02", "hydra.run.dir=first")
    code, said = run(cli, *given)
    assert code == 0, said
    shown = run(cli, "--config-dir", "first/.hydra", "--config-name", "config", "--cfg", "job")[1]
    assert "labels: 3\n" in shown
    assert "  lr: 0.02\n" in shown
    code, said = run(
        cli, "--config-path", "first/.hydra", "--config-name", "config", "hydra.run.dir=second"
    )
    assert code == 0, said
    words = ("rerun", "first", "metrics=[balanced_accuracy]", "hydra.run.dir=fourth")
    code, said = run(cli, *words)
    assert code == 0, said
    runs = [api.reopen(f) for f in ("first", "second", "fourth")]
    assert [r.labels for r in runs] == [3, 3, 3]
    assert "balanced_accuracy" in json.loads(Path("fourth/results.json").read_text())["test"]
    Path("swept").mkdir()
    Path("swept/jobs.json").write_text("[]")
    for word, words in (
        ("firs", "run=firs: no such folder; did you mean first?"),
        ("run=swept", "run=swept: is a sweep, which its own command continues"),
        (".", "run=.: must be the folder of a run"),
    ):
        code, said = run(cli, "rerun", word)
        assert code == 2
        assert words in said
    file = Path("first/.hydra/config.yaml")
    file.write_text(file.read_text().replace("labels: 3", "labels: 4"))
    code, said = run(
        cli, "--config-path", "first/.hydra", "--config-name", "config", "hydra.run.dir=third"
    )
    assert code == 2
    assert "labels=4: is in first/.hydra/config.yaml, but its overrides compose to 3" in said
    code, said = run(cli, "--config-path", ".", "hydra.run.dir=third")
    assert code == 2
    assert "must be the .hydra folder of a run" in said
    assert not Path("third").exists()


def test_a_run_whose_output_nobody_reads_any_more_goes_on():
    """It ended as a bug at the next line, with the training lost: `sft_exp ... 2>&1 | head -1`."""
    words = " ".join((*TINY, "report=false", "hydra.run.dir=piped"))
    shell = f"{{ {sys.executable} -m sft_exp {words} 2>&1; echo $? > code; }} | head -1"
    done = subprocess.run(
        ["bash", "-c", shell],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **ENVIRONMENT},
    )
    assert done.stdout.startswith("preparing a run of ")
    assert json.loads(Path("piped/status.json").read_text())["state"] == "done"
    assert Path("code").read_text() == "0\n"
    listed = f"{{ {sys.executable} -m sft_exp.ls limit=0; echo $? > code; }} | true"
    subprocess.run(["bash", "-c", listed], check=True, env={**os.environ, **ENVIRONMENT})
    assert Path("code").read_text() == "0\n"


def test_help_into_head_leaves_quietly():
    shell = f"{sys.executable} -m sft_exp --help | head -1"
    done = subprocess.run(
        ["bash", "-c", shell],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.count("\n") == 1
    assert not done.stderr


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["strategy=knn", "label_strategy=typical"], "label_strategy"),
        (["dataset=digits", "task=segment", "task.head=random"], "task.head"),
        (["encoder=projection", "encoder.norm=layer"], "encoder.norm"),
    ],
)
def test_an_error_from_python_is_of_the_key_that_does_not_exist(overrides, key):
    with pytest.raises(ConfigError) as error:
        sft_exp.run(overrides)
    assert error.value.key == key


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("dataset=digit_pairs", f"dataset.test={10**15}"), "reading the data set: the memory of"),
        (
            ("encoder=conv", "encoder.channels=[10000000000000]"),
            "the memory of this machine is too sma",
        ),
        (
            ("-m", "encoder=conv", "encoder.channels=[10000000000000],[4]"),
            "the memory of this machine",
        ),
    ],
)
def test_what_memory_cannot_hold_is_said(words, said):
    code, text = run(cli, "debug=tiny", "tracker=none", *words)
    assert (code, "a bug" in text) == (5, False), text
    assert said in text


@pytest.mark.parametrize("key", ["optim", "pretrain_optim", "encoder", "dataset", "schedule"])
def test_a_relative_path_is_no_class(experiment, key):
    with pytest.raises(ConfigError, match=rf"{key}\._target_=\.\./\.\."):
        prepare.prepare(experiment("debug=tiny", f"{key}._target_=../.."))


def test_numbers_that_no_library_takes_are_refused(experiment):
    with pytest.raises(ConfigError, match=r"dataset\.test=9+: must be a whole number of at most"):
        experiment("dataset=digit_pairs", f"dataset.test={'9' * 30}")
    assert experiment(f"seed={'9' * 30}").seed == int("9" * 30)
