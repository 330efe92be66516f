"""Weights & Biases: the real client against a local server, without the user's account."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
from faults import cli, ended, find, fork, run
from wandb_server import API_KEY, FakeWandb

from sft_exp.config import sources
from sft_exp.errors import ConfigError
from sft_exp.trackers import wandb as tracker
from sft_exp.training import metrics_log

ROOT = Path(__file__).parents[2]
TINY = (
    "encoder.hidden=[8]", "pretrain.steps=12", "finetune.steps=12", "draws=2", "seeds=1",
    "val=none", "report=false",
)  # fmt: skip
LITTLE = (*TINY[:3], "draws=1", "val=none", "controls=false", "report=false")
SERVER = ("WANDB_BASE_URL", "WANDB_API_KEY", "WANDB_MODE")


@pytest.fixture
def env(tmp_path, monkeypatch):
    """The environment of a person without an account, every folder of W&B's below the test's own."""
    for name in ("WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name)
    mine = {
        f"WANDB_{kind}": str(tmp_path / "settings" / kind)
        for kind in ("CACHE_DIR", "CONFIG_DIR", "DATA_DIR")
    }
    return {**mine, "WANDB_ERROR_REPORTING": "false", "NO_PROXY": "127.0.0.1,localhost"}


@pytest.fixture
def server(tmp_path):
    with FakeWandb(tmp_path / "server") as running:
        yield running


@pytest.fixture
def online(env, server):
    return {**env, **server.env()}


def settle(env):
    """Prepare a forked process: whoever began the fork server had another environment."""
    for name in [n for n in os.environ if n.startswith("WANDB_")]:
        del os.environ[name]
    os.environ.update(env)


def experiment(env, *overrides, code=0):
    """`python -m sft_exp OVERRIDES`; what it said."""
    ended_with, said = run(cli, *overrides, prepare=partial(settle, env))
    assert ended_with == code, said
    return said


def program(env, *command, code=0, timeout=300):
    """A program of its own; what it said."""
    paths = {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    done = subprocess.run(
        command, env={**kept, **env, **paths}, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def sync(env, code=0):
    return program(env, sys.executable, "-m", "sft_exp.sync", code=code)


def clean(server):
    """What the server has, without anything wrong about it."""
    state = server.state()
    assert state["problems"] == []
    assert state["unknown_fields"] == {}
    return state


def of(state, kind):
    return sorted(
        (r for r in state["runs"] if r["job_type"] == kind), key=lambda r: r["display_name"]
    )


def steps(one):
    """Of each row that has metrics of a step: which one."""
    return [
        row[key]
        for row in one["history"]
        for key in row
        if key in ("pretrain/step", "finetune/step")
    ]


def rows(identity):
    """The record on disk."""
    (folder,) = find(f"outputs/store/{identity}")
    return metrics_log.read_with_monitors(folder)


def mirrored(one):
    """A run's history as the record has it."""
    start = f"{one['job_type']}/"
    curve = (start, "monitor/", "val/")
    found = [
        {k.removeprefix(start): v for k, v in row.items() if k.startswith(curve)}
        for row in one["history"]
    ]
    return [row for row in found if row]


def numbers(summary):
    """What W&B's own keys leave of a summary."""
    return {
        k: v
        for k, v in summary.items()
        if not k.startswith(("_", "pictures/"))
        and k not in ("results", "bill", "splits", "predictions")
    }


def same_as_results(tuned, folder="outputs/latest"):
    """The run's summary says what results.json says, all of it and nothing else."""
    result = json.loads(Path(folder, "results.json").read_text())
    said = numbers(tuned["summary"])
    score = result["score"]
    alike = {f"{split}/score": result[split][score] for split in ("test", "val") if result[split]}
    alike |= {"gain_vs_scratch": result["verdict"]["difference"]} if result["verdict"] else {}
    assert {k: said.pop(k) for k in alike} == alike
    said.pop("pretrain/url", None)
    for part in ("config", "choices", "folders", "version"):
        del result[part]
    assert said == dict(leaves(result))
    return said


def leaves(node, *path):
    """(path, value) of everything in results.json that says something, found without the code that is tested."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, *path, key)
    elif isinstance(node, list) and node and isinstance(node[0], dict):
        for value in node:
            yield from leaves(value, *path, value["form"])
    elif node not in (None, []):
        yield "/".join(path), node


def lineage(state):
    """{what: (who made it, who uses it)}"""
    return {
        a["name"].rpartition("/")[2].partition("-")[0]: (a["logged_by"], sorted(a["used_by"]))
        for a in state["artifacts"]
    }


def store():
    """Everything that was computed."""
    sealed = {
        f.name: json.loads((f / "done.json").read_text())["sha256"]
        for f in Path("outputs/store").glob("*-*")
    }
    return sealed


def whole(state, pretrained=1, tuned=1):
    """So many runs, their histories as on disk, data -> encoder -> model."""
    first, second = of(state, "pretrain"), of(state, "finetune")
    assert (len(first), len(second)) == (pretrained, tuned)
    for one in (*first, *second):
        assert (one["state"], one["exitcode"]) == ("finished", 0)
        assert mirrored(one) == rows(one["run_id"])
    used = [
        artifact.rpartition("/")[2].partition("-")[0]
        for one in second
        for artifact in one["used_artifacts"]
    ]
    assert sorted(used) == ["data"] * tuned + ["encoder"] * tuned
    made = lineage(state)
    assert made["encoder"][0] == [r["run_id"] for r in first]
    assert made["data"][1] == sorted(r["run_id"] for r in (*first, *second))
    return first, second


def test_a_run_of_each_stage_as_people_look_for_them(online, server):
    said = experiment(online, *TINY, "optim.lr=1e-2")
    assert "W&B: http://127.0.0.1" in said
    state = clean(server)
    (first,), (second,) = whole(state)
    assert first["display_name"] == "vae digits encoder.hidden=[8] pretrain.steps=12"
    assert second["display_name"].startswith("vae digits full adam")
    assert "optim.lr=1e-2" in second["display_name"]
    assert (first["tags"], second["tags"]) == ([], []), "nothing but defaults"
    assert second["config"]["optim"]["lr"] == 0.01
    assert second["config"]["choices"]["optim"] == "adam"
    assert "optim" not in first["config"], "what cannot change a pretraining is not its config"
    assert first["config"]["pretrain_optim"]["_target_"] == "torch.optim.Adam"
    axes = {m["name"]: m["step_metric"] for r in (first, second) for m in r["metrics_defined"]}
    assert (axes["pretrain/loss"], axes["monitor/probe"]) == ("pretrain/step", "pretrain/step")
    assert axes["finetune/loss"] == "finetune/epoch"
    said = same_as_results(second)
    assert {
        "test/accuracy",
        "controls/scratch/accuracy",
        "draws/scratch",
        "verdict/text",
        "data/labelled",
    } <= said.keys()
    looks = [row for row in first["history"] if "monitor/probe" in row]
    assert [(row["pretrain/step"], row["pretrain/images"]) for row in looks] == [
        (n, 128 * n) for n in (0, 3, 6, 9, 12)
    ]
    probe = [row["monitor/probe"] for row in looks]
    assert first["summary"]["monitor/probe"] == {"last": probe[-1], "max": max(probe)}
    assert {"monitor/knn", "monitor/rank"} <= looks[0].keys()
    assert all(
        any(f"pictures/{name}" in file for file in first["files"])
        for name in ("reconstruction", "sample")
    )
    assert not find("outputs/wandb/*/pending.json"), "the server has everything"

    other = experiment(online, *TINY, "optim.lr=1e-3")
    assert "Traceback" not in other
    (first,), tuned = whole(clean(server), tuned=2)
    assert first.get("resumes", 0) == 0, "a pretraining from the store is linked, not logged again"
    address = f"{server.base_url}/fake-team/sft_exp/runs/{first['run_id']}"
    assert [r["config"]["lineage"]["pretrain"]["url"] for r in tuned] == [address] * 2
    assert [r["summary"]["stages/pretrain/last/loss"] for r in tuned] == [
        rows(first["run_id"])[-1]["loss"]
    ] * 2

    kept = [f for f in (*Path("outputs").rglob("*"), *Path("settings").rglob("*")) if f.is_file()]
    assert len(kept) > 50
    assert not [f for f in kept if API_KEY.encode() in f.read_bytes()], "the key is nowhere"


@pytest.mark.parametrize(
    ("val", "labels"),
    [
        ("holdout", "3"),
        pytest.param("cv", "3", marks=pytest.mark.slow),
        pytest.param("full", "3", marks=pytest.mark.slow),
        pytest.param("holdout", "all", marks=pytest.mark.slow, id="folds of one set"),
    ],
)
def test_the_summary_is_results_json(online, server, val, labels):
    """With val=holdout and val=full the history has a curve `val/accuracy` of the first draw. The summary has a number
    of the same name, the mean over the draws."""
    given = (
        "draws=2",
        "seeds=1",
        f"val={val}",
        f"labels={labels}",
        "controls=[scratch]",
        "report=false",
    )
    experiment(online, *TINY[:3], *given)
    (_,), (tuned,) = whole(clean(server))
    said = same_as_results(tuned)
    assert "val/accuracy" in said
    curve = [row["val/accuracy"] for row in tuned["history"] if "val/accuracy" in row]
    assert bool(curve) == (val != "cv")


def test_names_tags_and_notes_are_the_users_and_pictures_stay_at_home(online, server):
    """W&B's environment variables count, a key of ours before them; tags of both stand beside those of the options."""
    user = {
        "WANDB_TAGS": "paper, ablation,",
        "WANDB_NOTES": "first try",
        "WANDB_NAME": "mine",
        "WANDB_RUN_GROUP": "ours",
    }
    given = (
        "tracker.tags=[a]",
        "tracker.name=better",
        "tracker.images=false",
        "optim=sgd",
        "report=true",
    )
    experiment({**online, **user, "WANDB_JOB_TYPE": "night"}, *LITTLE[:-1], *given)
    first, second = sorted(clean(server)["runs"], key=lambda r: r["run_id"], reverse=True)
    assert {r["display_name"] for r in (first, second)} == {"better"}
    assert sorted(first["tags"]) == ["a", "ablation", "paper"], (
        "how one fine-tunes is not the pretraining's"
    )
    assert sorted(second["tags"]) == ["a", "ablation", "optim:sgd", "paper"]
    for one in (first, second):
        assert (one["notes"], one["group"], one["job_type"]) == ("first try", "ours", "night")
        assert not [file for file in one["files"] if "pictures" in file]
    assert second["summary"]["test/accuracy"] > 0


def test_models_are_linked_to_a_registry_with_an_alias(online, server):
    """Of the fine-tuning alone; a second run of the same model adds no link."""
    given = ("tracker.registry=wandb-registry-model/digits:candidate", "report=false")
    experiment(online, *LITTLE[:-1], *given)
    state = clean(server)
    (model,) = [a["name"] for a in state["artifacts"] if "/model-" in a["name"]]
    link = {"to": "fake-org/wandb-registry-model/digits", "artifact": model}
    assert state["links"] == [{**link, "aliases": ["candidate"]}]


@pytest.mark.parametrize("registry", ["digits", "a/b/c/d", "model/digits:", "model/my digits"])
def test_a_collection_that_is_none_is_refused(registry):
    with pytest.raises(ConfigError, match="wandb-registry-model/digits:candidate"):
        tracker.Wandb(registry=registry)


@pytest.mark.slow
def test_the_same_once_more_adds_nothing_and_a_report_its_pictures(online, server):
    for more in ((), ("report=true",)):
        assert "Traceback" not in experiment(online, *LITTLE, *more)
    state = clean(server)
    assert [steps(r) for r in state["runs"]] == [[*range(13)], [*range(1, 13)]]
    (tuned,) = of(state, "finetune")
    assert all(
        any(f"pictures/{name}" in file for file in tuned["files"])
        for name in ("Confusion matrix", "Features")
    )


@pytest.mark.slow
def test_offline_and_then_uploaded_whole(env, server):
    said = experiment(env, *LITTLE)
    assert said.count("sft_exp sync") == 1
    assert server.state()["http"] == {}
    online = {**env, **server.env()}
    assert sync(online).count("/runs/") == 2
    (first,), (second,) = whole(clean(server))
    assert (
        second["summary"]["pretrain/url"]
        == f"{server.base_url}/fake-team/sft_exp/runs/{first['run_id']}"
    )
    before = server.state()["runs"]
    assert sync(online) == "", "nothing is uploaded twice"
    assert server.state()["runs"] == before


def test_of_runs_of_one_second_the_pretraining_is_uploaded_first(tmp_path):
    names = [
        "offline-run-20261130_052447-finetune-9a",
        "offline-run-20261130_052448-pretrain-1b",
        "offline-run-20261130_052448-finetune-0c",
        "run-20261130_052449-pretrain-0d",
    ]
    for name in reversed(names):
        (tmp_path / "wandb" / name).mkdir(parents=True)
        (tmp_path / "wandb" / name / tracker.PENDING).touch()
    assert [folder.name for folder in tracker.pending([tmp_path])] == names


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_stopped_in_the_middle_it_is_one_run(online, server):
    """Killed while fine-tuning, and again offline; each time W&B's own files lack the last rows."""
    long = (*LITTLE, "finetune.steps=3000", "hardware.checkpoint_seconds=0")
    for mode in ("online", "offline"):
        process = fork(
            cli, Path("said"), partial(settle, {**online, "WANDB_MODE": mode}), None, *long
        )
        wait(lambda: find("outputs/store/work/*/finetune-*/checkpoint.pt"), process)
        process.kill()
        assert ended(process) == -signal.SIGKILL
    experiment(online, *long)
    (_,), (tuned,) = whole(clean(server))
    same_as_results(tuned)
    assert steps(tuned) == [1, *range(15, 3001, 15)], "monotone, each once"
    assert not find("outputs/wandb/*/pending.json")


def wait(there, process, seconds=240):
    end = time.monotonic() + seconds
    while not there():
        assert process.is_alive()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_job_that_fails_is_marked_failed(online, server):
    said = experiment(online, *LITTLE, "optim=sgd", "optim.lr=1e30", code=4)
    assert "loss is nan" in said
    states = {r["job_type"]: (r["state"], r["exitcode"]) for r in clean(server)["runs"]}
    assert states == {"pretrain": ("finished", 0), "finetune": ("failed", 4)}


@pytest.mark.slow
def test_an_encoder_comes_back_as_a_folder(online, server, tmp_path):
    experiment(online, *LITTLE, "finetune.steps=1")
    fetching = "from sft_exp.trackers.wandb import fetch; print(fetch('fake-team/sft_exp/encoder-vae-digits:latest'))"
    said = program(online, sys.executable, "-c", fetching)
    folder = Path(said.splitlines()[-1])
    (original,) = find("outputs/store/pretrain-*")
    for file in ("encoder.safetensors", "request.json"):
        assert (folder / file).read_bytes() == (original / file).read_bytes()
    said = program(online, sys.executable, "-c", fetching.replace("latest", "none"), code=1)
    assert "DataError: artifact fake-team/sft_exp/encoder-vae-digits:none" in said


def test_only_the_first_of_several_processes_has_a_tracker(experiment_of, monkeypatch):
    from sft_exp.training.context import Context

    e = experiment_of("tracker=wandb")
    assert Context.on(e.hardware, e.tracker).tracker is e.tracker
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert type(Context.on(e.hardware, e.tracker).tracker).__name__ == "Tracker"


@pytest.fixture
def experiment_of(request):
    return request.getfixturevalue("experiment")


def test_every_sweep_file_is_complete(compose):
    """What `wandb agent` would type is composed: keys and values that exist."""
    import yaml

    files = sorted((sources.CONF / "wandb_sweep").glob("*.yaml"))
    assert {yaml.safe_load(f.read_text())["method"] for f in files} == {"grid", "random", "bayes"}
    for file in files:
        asked = yaml.safe_load(file.read_text())
        assert asked["metric"] == {"name": "val/accuracy", "goal": "maximize"}
        for place in (0, -1):
            typed = [
                f"{k}={p['value'] if 'value' in p else p['values'][place] if 'values' in p else p['min']}"
                for k, p in asked["parameters"].items()
            ]
            assert compose(*typed).optim.lr > 0


@pytest.mark.skipif(not find_spec("wandb_workspaces"), reason="wandb-workspaces is not installed")
@pytest.mark.filterwarnings("default")
def test_the_dashboard_is_saved(online, server):
    said = program(online, sys.executable, "-m", "sft_exp.dashboard", "--project", "study")
    assert f"{server.base_url}/fake-team/study" in said
    state = clean(server)
    (view,) = state["views"]
    spec = json.dumps(view["spec"])
    assert view["display_name"] == "sft_exp: did pretraining help?"
    assert all(f'"{chart["id"]}"' in spec for chart in state["charts"])
    assert len(state["charts"]) == 2
    columns = (
        "summary:val/accuracy",
        "summary:gain_vs_scratch",
        "config:optim.value.lr",
        "config:choices.value.pretrainer",
    )
    assert all(f'"{column}"' in spec for column in columns)
    read = set(re.findall(r'"(?:x|y|z|group)": "(\w+)"', spec)) - {""}
    assert read <= set(
        tracker.cells({"choices": {}, "optim": {"lr": 0.1}, "labels": 10, "seed": 0}, {})
    ), "columns of the table"
    command = (sys.executable, "-m", "sft_exp.dashboard", "project=study")
    program(online, *command, "sweep=0a1b2c")
    state = server.state()
    assert len(state["charts"]) == 2
    assert [v["saves"] for v in state["views"]] == [1, 1]
    assert "replaced your earlier view" in program(online, *command)
    assert [v["saves"] for v in server.state()["views"]] == [2, 1], "each name has one view"
    view = state["views"][-1]
    assert view["display_name"] == "sft_exp: did pretraining help? 0a1b2c"
    wanted = {"key": {"section": "run", "name": "group"}, "op": "=", "value": "0a1b2c"}
    assert json.dumps(wanted)[1:-1] in json.dumps(view["spec"])


@pytest.mark.skipif(not find_spec("wandb_workspaces"), reason="wandb-workspaces is not installed")
@pytest.mark.filterwarnings("default")
@pytest.mark.slow
def test_commands_without_a_key_or_a_server_say_so(env):
    names = ["sync", *(["dashboard"] if find_spec("wandb_workspaces") else [])]
    commands = [(sys.executable, "-m", f"sft_exp.{name}") for name in names]
    for command in commands:
        assert "no key; `wandb login` first" in program(env, *command, code=2)
    experiment({**env, "WANDB_MODE": "offline"}, *LITTLE)
    nobody = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "too short"}
    for command in commands:
        program({**env, **nobody}, *command, code=5)


def test_a_folder_to_upload_that_is_not_there_is_named(online):
    """Nothing was said, as if everything had been uploaded."""
    Path("output").mkdir()
    said = program(online, sys.executable, "-m", "sft_exp.sync", code=3)
    assert "sft_exp sync: outputs: no such folder; did you mean output?" in said


def test_a_dashboard_does_without_the_charts_that_cannot_be_made(online, server):
    for refused, left in (("sft_exp-heat", ["sft_exp-curves"]), ("sft_exp-", [])):
        server.fault(refused, status=400, times=100)
        said = program(
            online,
            sys.executable,
            "-m",
            "sft_exp.dashboard",
            "--project",
            refused.replace("-", "_"),
        )
        assert said.count("sft_exp dashboard: without the chart") == 2 - len(left), said
        state = server.state()
        spec = json.dumps(state["views"][-1]["spec"])
        assert [chart["name"].rpartition("-")[0] for chart in state["charts"]] == left or not left
        assert all((name in spec) == (name in left) for name in ("sft_exp-heat", "sft_exp-curves"))
        assert "gain_vs_scratch" in spec


@pytest.mark.skipif(not find_spec("tensorboard"), reason="tensorboard is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.slow
def test_tensorboard_is_the_same_seam(env):
    experiment(env, *LITTLE, "tracker=tensorboard")
    reading = (
        "import json, sys; from pathlib import Path\n"
        "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator as E\n"
        "for folder in sorted(Path('outputs/tensorboard').iterdir()):\n"
        "    events = E(str(folder)); events.Reload(); tags = events.Tags()\n"
        "    scalars = {t: [[s.step, s.value] for s in events.Scalars(t)] for t in tags['scalars']}\n"
        "    print(json.dumps([folder.name, scalars, tags['images']]))"
    )
    said = program(env, sys.executable, "-W", "ignore", "-c", reading)
    found = [json.loads(line) for line in said.splitlines() if line.startswith("[")]
    assert [name.partition("-")[0] for name, *_ in found] == ["finetune", "pretrain"]
    for name, scalars, _ in found:
        logged = scalars[f"{name.partition('-')[0]}/loss"]
        assert logged == [[row["step"], pytest.approx(row["loss"], rel=1e-6)] for row in rows(name)]
    assert "test/accuracy" in found[0][1]
    assert found[1][2], "pictures"


# Slower: several jobs, or waiting for what does not answer


GRID = ("optim=sgd,adam", "optim.lr=1e-2,1e-3", *LITTLE)


def many(env, *overrides):
    return program(env, sys.executable, "-m", "sft_exp", "-m", *overrides)


def of_a_sweep(state):
    first, tuned = whole(state, tuned=4)
    (folder,) = Path("outputs/multirun").iterdir()
    assert {r["group"] for r in (*first, *tuned)} == {folder.name}
    settings = {
        (
            r["config"]["choices"]["optim"],
            r["config"]["optim"]["_target_"],
            r["config"]["optim"]["lr"],
        )
        for r in tuned
    }
    assert settings == {
        (n, f"torch.optim.{k}", lr)
        for n, k in (("sgd", "SGD"), ("adam", "Adam"))
        for lr in (1e-2, 1e-3)
    }
    results = [json.loads(f.read_text())["test"]["accuracy"] for f in folder.glob("*/results.json")]
    assert sorted(r["summary"]["test/accuracy"] for r in tuned) == sorted(results)
    names = {
        f"optim={optim} optim.lr={rate}" for optim in ("sgd", "adam") for rate in (0.01, 0.001)
    }
    assert {r["display_name"] for r in tuned} == names, "what varies, and nothing else"
    assert len(find(f"{folder}/wandb/*run-*")) == 5, "one folder for a sweep"
    return folder


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_sweep_is_a_group(online, server):
    many(online, *GRID)
    folder = of_a_sweep(clean(server))
    before = server.state()["runs"]
    assert "4 of 4 jobs were done before" in many(online, *GRID)
    assert server.state()["runs"] == before
    said = program(
        online,
        sys.executable,
        "-m",
        "wandb",
        "leet",
        "inspect",
        "--summary",
        "--json",
        *find(f"{folder}/wandb/run-*-finetune-*/*.wandb")[:1],
    )
    assert json.loads(said)["state"] == "finished"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_sweep_offline_then_uploaded(env, server):
    many(env, *GRID)
    sync({**env, **server.env()})
    of_a_sweep(clean(server))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_trials_of_a_sweep_by_wandb(online, server):
    text = (sources.CONF / "wandb_sweep" / "grid.yaml").read_text()
    for override in LITTLE:
        key, _, value = override.partition("=")
        text += f"  {key}: {{value: '{value}'}}\n" if key != "controls" else ""
    Path("grid.yaml").write_text(text)
    said = program(online, sys.executable, "-m", "wandb", "sweep", "grid.yaml")
    (sweep,) = re.findall(r"wandb agent (\S+)", said)
    program(online, sys.executable, "-m", "wandb", "agent", sweep)
    state = clean(server)
    (first,), tuned = of(state, "pretrain"), of(state, "finetune")
    name = sweep.rpartition("/")[2]
    assert len(tuned) == 4
    assert {r["sweep"] for r in tuned} == {name}
    assert first["sweep"] is None
    assert {r["group"] for r in (first, *tuned)} == {name}
    assert {r["run_id"] for r in tuned} == set(state["sweeps"][0]["runs"])
    assert {(r["config"]["optim"]["_target_"], r["config"]["optim"]["lr"]) for r in tuned} == {
        (f"torch.optim.{kind}", lr) for kind in ("SGD", "Adam") for lr in (1e-2, 1e-3)
    }
    assert all(r["config"]["lineage"]["pretrain"]["run"] == first["run_id"] for r in tuned)
    assert all(len(r["used_artifacts"]) == 2 and steps(r) == [*range(1, 13)] for r in tuned)


@pytest.fixture(scope="module")
def untracked(tmp_path_factory):
    """What the same job computes without a tracker."""
    folder, before = tmp_path_factory.mktemp("untracked"), Path.cwd()
    os.chdir(folder)
    code, said = run(cli, *LITTLE, "finetune.steps=300", "tracker=none")
    assert code == 0, said
    found = store()
    os.chdir(before)
    return found


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    "fault",
    ["nobody listens", "hangs from the start", "bad key", "dies", "hangs", "500", "core killed"],
)
def test_never_in_the_way(online, server, untracked, fault):
    """Whatever W&B does, the job ends well, soon, with the numbers of an untracked one; and `sync` makes up for it."""
    settings, key = dict(online), server.server.api_key
    if fault == "nobody listens":
        settings["WANDB_BASE_URL"] = "http://127.0.0.1:9"
    elif fault == "hangs from the start":
        server.fault("graphql", delay=60, times=10_000)
    elif fault == "bad key":
        server.server.api_key = "local-" + "b" * 40
    started = time.monotonic()
    process = fork(
        cli, Path("said"), partial(settle, settings), None, *LITTLE, "finetune.steps=300"
    )
    if fault in ("dies", "hangs", "500", "core killed"):
        wait(lambda: find("outputs/wandb/run-*-finetune-*/pending.json"), process)
        if fault == "dies":
            server.fault("", drop=True, times=10_000)
        elif fault == "hangs":
            server.fault("", delay=60, times=10_000)
        elif fault == "500":
            server.fault("", status=500, times=10_000)
        else:
            import psutil

            (core,) = [
                p
                for p in psutil.Process(process.pid).children(recursive=True)
                if "wandb-core" in p.name()
            ]
            core.kill()
    results = Path("outputs/latest/results.json")
    wait(results.exists, process)
    written = time.monotonic()
    assert ended(process, 60) == 0, Path("said").read_text()
    said = Path("said").read_text()
    print(
        f"{fault}: results after {written - started:.1f} s, end {time.monotonic() - written:.1f} s later: {said}"
    )
    assert store() == untracked
    assert "sft_exp sync" in said
    assert "Traceback" not in said
    server.server.store.faults.clear()
    server.server.api_key = key
    sync(online)
    whole(clean(server) if fault != "hangs" else server.state())
    assert not find("outputs/wandb/*/pending.json")


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_stop_in_the_dashboard_stops_that_job_only(online, server):
    long = ("finetune.steps=200000", *(o for o in LITTLE if not o.startswith("finetune")))
    command = [
        sys.executable,
        "-m",
        "sft_exp",
        "-m",
        "optim=sgd,adam",
        *long[1:],
        "finetune.steps=200000,4",
    ]
    paths = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    process = subprocess.Popen(
        command,
        env={**kept, **online, **paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    stopped = []
    while process.poll() is None:
        for tuned in of(server.state(), "finetune"):
            if tuned["config"]["finetune"]["steps"] == 200000 and tuned["run_id"] not in stopped:
                stopped.append(tuned["run_id"])
                server.stop(tuned["run_id"])
        time.sleep(0.2)
    said, _ = process.communicate()
    assert process.returncode == 6, said
    assert len(stopped) == 2
    states = {r["run_id"]: (r["state"], r["exitcode"]) for r in of(clean(server), "finetune")}
    assert [states[name] for name in stopped] == [("failed", 75)] * 2
    assert sorted(states.values()) == [("failed", 75)] * 2 + [("finished", 0)] * 2
    assert all(find(f"outputs/store/work/*/{name}/checkpoint.pt") for name in stopped)


@pytest.mark.parametrize(
    ("variables", "mode", "asked_for"),
    [
        ({"WANDB_MODE": "dryrun"}, "auto", "offline"),
        ({"WANDB_MODE": "run"}, "offline", "online"),
        ({"WANDB_MODE": ""}, "offline", "offline"),
        ({"WANDB_DISABLED": "true"}, "online", "disabled"),
        ({"WANDB_DISABLED": "false"}, "online", "online"),
    ],
)
def test_the_environment_s_words_for_modes(variables, mode, asked_for, monkeypatch):
    """docs.wandb.ai, environment variables, and those of older versions and of transformers."""
    for name in ("WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert tracker.Wandb(mode=mode).mode_asked_for() == asked_for


def test_a_mode_of_the_environment_that_does_not_exist_is_refused(monkeypatch):
    """W&B refused it after the pretraining, and twice, with advice that did not work."""
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(ConfigError, match=r"mode=ofline \(WANDB_MODE\): must be auto, online"):
        tracker.Wandb()
    monkeypatch.setenv("WANDB_DISABLED", "true")
    assert tracker.Wandb().mode_asked_for() == "disabled"


def test_empty_variables_of_the_environment_count_as_none(online, server):
    """`WANDB_MODE= python -m sft_exp`, and a cluster's script that exports what it was not given."""
    experiment({**online, "WANDB_MODE": "", "WANDB_NAME": " ", "WANDB_TAGS": ""}, *LITTLE)
    runs = clean(server)["runs"]
    assert runs
    assert all(r["display_name"].strip() for r in runs)
