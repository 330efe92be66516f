"""What `sft_exp doctor` packs, and what must not be in it."""

import getpass
import json
import platform
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import torch

import sft_exp
from sft_exp.doctor import __main__ as command
from sft_exp.doctor import bundle
from sft_exp.stages import evaluate

SMALL = (
    "pretrainer=none", "finetune.steps=2", "draws=1", "val=none", "controls=false", "labels=2",
    "tracker=none", "hardware=cpu",
)  # fmt: skip


def packed(*words):
    assert command.main([*words, "out=report.zip"]) == 0
    with zipfile.ZipFile("report.zip") as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_of_a_finished_run_it_has_what_a_report_needs(capsys):
    sft_exp.run([*SMALL, "store=store"], "run")
    files = packed("run")
    assert json.loads(files["run/results.json"])["config"]["labels"] == 2
    assert json.loads(files["run/status.json"])["state"] == "done"
    versions = json.loads(files["versions.json"])
    assert versions["torch"] == metadata.version("torch")
    assert json.loads(files["machine.json"])["torch"]["version"] == torch.__version__
    assert versions["python"] == platform.python_version()
    sizes = {e["name"]: e["bytes"] for e in json.loads(files["store.json"])}
    folders = [Path(p).name for p in Path("store").glob("finetune-*")]
    assert folders
    assert all(sizes[name] > 0 for name in folders)
    assert not [name for name in files if not name.endswith((".json", ".yaml", ".log"))]
    assert capsys.readouterr().out.splitlines()[-1] == "report.zip"


def test_of_a_bug_it_has_the_traceback(monkeypatch):
    monkeypatch.setattr(evaluate, "splits", None)
    with pytest.raises(AttributeError):
        sft_exp.run([*SMALL, "labels=3", "store=store"], "run")
    status = json.loads(packed("run")["run/status.json"])
    assert status["exit_code"] == 1
    assert "AttributeError: 'NoneType'" in status["traceback"]
    assert "stages/evaluate.py" in status["traceback"].replace("\\\\", "/")


VALUE = "correct-horse-battery"
LEAKS = [
    f"a line with {VALUE} in it",
    f'{{"api_key": "{VALUE[:9]}xyz"}}',
    f"password={VALUE[:9]}xyz",
    f"https://me:{VALUE[:9]}xyz@host.example/path",
    f"Authorization: Bearer {VALUE[:9]}xyz",
    "token hf_abcdefghijklmnopqrstuvwx",
]


@pytest.mark.parametrize("leak", LEAKS)
def test_secrets_are_left_out(monkeypatch, leak):
    monkeypatch.setenv("MY_API_KEY", VALUE)
    Path("run").mkdir()
    Path("run/status.json").write_text("{}")
    Path("run/program.log").write_text(leak)
    text = packed("run")["run/program.log"]
    assert "***" in text
    assert not any(word in text for word in (VALUE, "xyz", "hf_abc"))


@pytest.mark.parametrize(
    "path",
    ["/home/{}/photos/a.png", "/Users/{}/photos", "C:\\\\Users\\\\{}\\\\photos", "/data/{}/photos"],
)
def test_user_names_in_paths_are_left_out(monkeypatch, path):
    monkeypatch.setattr(getpass, "getuser", lambda: "alice")
    scrubbed = bundle.scrubbed(json.dumps({"root": path.format("alice")}))
    assert "alice" not in scrubbed
    assert "photos" in scrubbed


def test_home_and_machine_are_left_out(monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "secret-laptop")
    text = bundle.scrubbed(f"{Path.home()}/photos on secret-laptop; dataset.root=photos")
    assert text == "~/photos on HOST; dataset.root=photos"


def test_pictures_and_data_are_never_packed():
    Path("run/images").mkdir(parents=True)
    for name in ("status.json", "mistakes.png", "report.html", "images/a.jpg", "model.safetensors"):
        (Path("run") / name).write_text("{}")
    assert {n for n in packed("run") if n.startswith("run/")} == {"run/status.json"}


def test_what_is_no_run_is_said(capsys):
    assert command.main(["nowhere"]) == 3
    assert "no run folder" in capsys.readouterr().err


def test_the_zip_file_goes_into_a_folder_that_is_there(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "status.json").write_text('{"state": "failed"}')
    (tmp_path / "packed").mkdir()
    assert command.main([str(run), f"out={tmp_path / 'packed'}"]) == 0
    assert (tmp_path / "packed" / "sft_exp-doctor-run.zip").is_file()
