"""What a released version left on disk stays readable: runs, sweeps, stores, exports, checkpoints of killed runs.

tests/released/<version>/ holds such files, made by tests/released/make.py with that version and never rewritten. The tests use
the public doors alone (`sft_exp.run`, `load_model`, `python -m sft_exp.<command>`), so they need no change when modules move.
They do not demand cache hits: a store folder is named by a hash of the code that made it, so another version computes anew.

Where a class or a module is named by its path on disk, which must be readable after that class has moved:

    file                                   names
    <run>/results.json                     config.<group>._target_ of every part (nested ones too, such as task.heads.mask)
    <sweep>/jobs.json, .hydra/config.yaml  the same, of jobs that are done and of jobs that are not
    <sweep>/conf/                          a copy of the user's YAMLs, with their _target_
    .hydra/hydra.yaml                      hydra.callbacks.line._target_, and the option taken in each group
    store/<stage>-*/model.json             "is" of encoder, task and strategy (nested ones too)
    store/<stage>-*/request.json           "is" of every part, of splits.Labels, schedule.Schedule and experiment.Target;
                                           ls, check and report compare the classes' names
    store/<stage>-*/export.json, load.py   no class, but load.py imports sft_exp and calls `sft_exp.load_model`
    checkpoint.pt, *.safetensors           no class; names of networks and parameters (keys of state_dicts), which are data
    the names of random streams            not on disk, but data too: `stream(seed, "draw", step)`
"""

import csv
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from released import make
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_post_hook

import sft_exp
from sft_exp.config import rerun

RELEASED = Path(__file__).parent / "released"
VERSIONS = sorted(p.name for p in RELEASED.iterdir() if (p / "expected.json").exists())
ROUNDING = 1e-6  # of the outputs of one forward pass
DRIFT = 1e-5  # of weights after a few steps on another processor
# imported by another test
pytestmark = pytest.mark.filterwarnings("ignore:'sft_exp.* found in sys.modules")
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


@pytest.fixture(params=VERSIONS)
def released(request, tmp_path):
    """The present folder holds what the version left."""
    shutil.copytree(RELEASED / request.param, tmp_path, dirs_exist_ok=True)
    return json.loads(Path("expected.json").read_text())


@pytest.fixture
def command(monkeypatch, capsys):
    """`python -m MODULE ARGUMENTS` in this process -> what it wrote to stdout."""

    def called(module, *arguments, code=0):
        monkeypatch.setattr("sys.argv", [module, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        out, err = capsys.readouterr()
        assert (ended.value.code or 0) == code, out + err
        return out

    return called


def close(found, expected, tolerance=ROUNDING):
    assert found == pytest.approx(expected, rel=tolerance, abs=tolerance)


def test_there_is_a_released_version():
    assert "0.1.0" in VERSIONS


@pytest.mark.parametrize("run", make.RUNS)
def test_a_model_is_loaded_and_says_what_it_said(released, run):
    expected = released[run]
    model = sft_exp.load_model(f"runs/{run}")
    x_BCHW = make.pattern(3, tuple(expected["image"]))
    said = model.predict(x_BCHW)
    said = said if isinstance(said, dict) else {"": said}
    assert said.keys() == expected["outputs"].keys()
    for name, values in expected["outputs"].items():
        close(said[name].flatten()[:200].tolist(), values)
    close(sft_exp.load_encoder(f"runs/{run}")(x_BCHW).flatten().tolist(), expected["features"])


def test_what_the_fine_tuning_started_from_is_loaded(released):
    """The pretrained encoder differs from the fine-tuned one, and agrees with the file that the pretraining left."""
    from sft_exp.api import load_pretrained

    x_BCHW = make.pattern(3, (1, 8, 8))
    started = load_pretrained("runs/vae")
    (name,) = {json.loads(p.read_text())["start"] for p in folders_of("vae", "request.json")}
    saved = load_file(f"store/{name}/encoder.safetensors")
    assert all(torch.equal(saved[k], v) for k, v in started.backbone.state_dict().items())
    assert not torch.allclose(started(x_BCHW), sft_exp.load_encoder("runs/vae")(x_BCHW))


def folders_of(run, file):
    folder = json.loads(Path(f"runs/{run}/results.json").read_text())["stages"]["finetune"][
        "folder"
    ]
    return [Path(folder, file)]


@pytest.mark.parametrize("run", ["vae", "linear", "svm", "numbers"])
def test_predict_writes_what_it_wrote(released, command, run):
    wrote = command(
        "sft_exp.predict",
        f"runs/{run}",
        "scans/images/00.png",
        "scans/images/01.png",
        "--format",
        "jsonl",
    )
    expected = released[run]["predict"]
    assert NUMBER.sub("#", wrote) == NUMBER.sub("#", expected)
    close(
        [float(n) for n in NUMBER.findall(wrote)],
        [float(n) for n in NUMBER.findall(expected)],
        2e-6,
    )  # six digits


def test_predict_writes_masks(released, command):
    command("sft_exp.predict", "runs/masks", "scans/images", "--out", "predicted")
    assert len([p for p in Path("predicted").rglob("*.png") if "03" in p.name]) >= 1


@pytest.mark.parametrize(
    ("arguments", "points"),
    [
        (
            ["--again", "runs/linear"],
            {"1.1", "2.1", "2.2", "3.1", "4.2", "4.3", "6.1", "6.2", "6.5", "8.1"},
        ),
        (
            ["sweep"],
            {"1.1", "2.1", "3.1", "4.1", "4.3", "6.1", "6.2", "6.3", "6.4", "7.1", "7.2", "8.1"},
        ),
    ],
)
def test_check_grades_runs_and_sweeps(released, command, arguments, points):
    """Nothing is unreadable, the models predict again what they predicted, and the scores follow from that. (Exit code 3:
    runs as short as these fail the points on convergence and baselines.)"""
    said = command("sft_exp.check", *arguments, code=3)
    passed = {line.split()[0] for line in said.splitlines() if " passed " in f"{line} "}
    assert passed >= points
    assert "unreadable" not in said


def test_compare_tables_what_is_done_and_what_is_not(released, command):
    """Settings of finished jobs come from results.json and jobs.json, those of a failed one from .hydra."""
    command("sft_exp.compare", "sweep", "runs/vae", "runs/diverged", "--out", "compared")
    rows = {
        row["job"]: row
        for row in csv.DictReader(Path("compared/compare.csv").read_text().splitlines())
    }
    assert {job: (row["state"], row["pretrainer"]) for job, row in rows.items()} == {
        "sweep/0": ("done", "ae"),
        "sweep/1": ("done", "vae"),
        "vae": ("done", "vae"),
        "diverged": ("failed", "none"),
    }
    assert float(rows["diverged"]["optim.lr"]) == 1e30
    for job, folder in (("sweep/0", "sweep/0"), ("sweep/1", "sweep/1"), ("vae", "runs/vae")):
        result = json.loads(Path(folder, "results.json").read_text())
        close(float(rows[job]["test_accuracy"]), result["test"]["accuracy"])
        close(float(rows[job]["scratch_accuracy"]), result["controls"]["scratch"]["accuracy"])
        assert rows[job]["verdict"] == result["verdict"]["word"]


def test_ls_names_every_folder(released, command):
    said = command("sft_exp.ls", "--store", "store", "--runs", ".", "--limit", "0")
    for folder in Path("store").glob("*-*"):
        assert folder.name in said
    assert "VAE MLP, Digits, seed 0, 4 steps" in said
    assert "VAE Svm, Digits, 3 labels a class" in said


def test_gc_keeps_what_a_run_needs(released, command):
    year_1980 = 315_532_800
    for path in Path().rglob("*"):
        os.utime(path, (year_1980, year_1980))
    said = command("sft_exp.gc", "--store", "store", "--runs", ".", "--dry-run")
    for file in [*Path("runs").glob("*/results.json"), *Path("sweep").glob("*/results.json")]:
        for stage, about in json.loads(file.read_text())["stages"].items():
            assert Path(about.get("folder", stage)).name not in said, stage


def test_label_chooses_images_for_an_old_run(released, command):
    """It opens the experiment that results.json describes, with the class of every part."""
    command(
        "sft_exp.label", "run=runs/vae", "n=3", "serve=false", "out=chosen", "label.strategy=margin"
    )
    assert len(list(csv.DictReader(Path("chosen/chosen.csv").read_text().splitlines()))) == 33


@pytest.mark.parametrize("run", make.RUNS)
def test_a_runs_experiment_is_opened(released, run):
    from sft_exp.api import reopen

    e = reopen(f"runs/{run}")
    assert (
        e.choices["pretrainer"]
        == json.loads(Path(f"runs/{run}/results.json").read_text())["choices"]["pretrainer"]
    )
    assert e.encoder.build((1, 16, 16)).width in (4, 8)


@pytest.mark.parametrize("run", [*make.RUNS, "diverged"])
def test_rerun_takes_a_released_run(released, run):
    """Every key that was added since was refused as if the saved config had another value."""
    words = rerun.again(rerun.named(["rerun", f"runs/{run}", "seed=7"]))
    assert words[-1] == "seed=7"
    assert len(words) > 5


def test_a_released_run_is_repeated_with_its_scores(released):
    then = json.loads(Path("runs/linear/results.json").read_text())["draws"]["pretrained"]
    words = rerun.again(rerun.named(["rerun", "runs/linear", "store=new"]))
    close(sft_exp.run(words, "again")["draws"]["pretrained"], then)


def test_an_export_is_loaded_by_the_script_beside_it(released):
    """Started in the export's folder by somebody who has this version installed."""
    x = make.pattern(3, (1, 8, 8)).tolist()
    program = f"import json, numpy, load; x = numpy.array({x}, dtype='float32'); print(json.dumps(load.predict(x).tolist()))"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd="runs/vae/export",
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    close([v for row in said for v in row], released["vae"]["outputs"][""])


def test_a_server_loads_a_run(released):
    pytest.importorskip("onnxruntime", reason="the extra serve is not installed")
    from sft_exp.serve.app import model_of

    pixels = make.pattern(3, (1, 8, 8)).mul(255).round().byte()
    expected = torch.tensor(released["vae"]["outputs"][""]).view(3, -1).softmax(1)
    close(
        model_of(Path("runs/vae")).probabilities(pixels).flatten().tolist(),
        expected.flatten().tolist(),
        1e-4,
    )


def test_an_old_run_is_pretraining_and_teacher_of_a_new_one(released):
    small = [*make.DIGITS, "draws=1", "val=none", "controls=false", "store=new"]
    begun = sft_exp.run([*small, "pretrainer=checkpoint", "pretrainer.init=runs/vae"], "new/run")
    transfer = begun["stages"]["pretrain"]["transfer"]
    assert transfer["loaded"] == transfer["layers"] > 0
    taught = sft_exp.run(
        [*small, "pretrainer=none", "strategy=distill", "strategy.teacher=runs/vae"], "new/taught"
    )
    assert 0 <= taught["test"]["accuracy"] <= 1


@pytest.mark.parametrize("stage", make.KILLED)
def test_a_killed_run_goes_on_from_its_checkpoint(released, stage):
    """Only the steps after the checkpoint are taken, and the weights are those that the released version ended in.

    The hash in the folder's name has changed with the code, so the folder is given its present name first.
    """
    store, steps = Path("killed", stage, "store"), []
    hook = register_optimizer_step_post_hook(lambda *_: steps.append(1))
    try:
        overrides = [*make.KILLED[stage], make.CHECKPOINTS, "monitors=false"]
        sft_exp.run([*overrides, "store=undisturbed"], "undisturbed/run")
        whole = len(steps)
        (present,) = Path("undisturbed").glob(f"{stage}-*")
        (old,) = store.glob(f"work/*/{stage}-*")
        old.rename(old.with_name(present.name))
        sft_exp.run([*overrides, f"store={store}"], "resumed/run")
    finally:
        hook.remove()
    assert 2 * whole - len(steps) == make.KILLED_AT // 3 * 3, "steps that the checkpoint spares"
    (learnt,) = store.glob(f"{stage}-*/{make.LEARNT[stage]}")
    found, expected = load_file(learnt), load_file(Path("killed", stage, "expected.safetensors"))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=DRIFT, atol=DRIFT), name
