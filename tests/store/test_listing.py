"""Runs are found with what they name from any folder."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import sft_exp
from sft_exp.check import __main__ as check_command
from sft_exp.doctor import __main__ as doctor_command
from sft_exp.evaluate import __main__ as evaluate_command
from sft_exp.forecast import __main__ as forecast_command
from sft_exp.label import __main__ as label_command
from sft_exp.store import listing
from sft_exp.suspicious import __main__ as suspicious_command

SMALL = (
    "tracker=none", "debug=tiny", "pretrainer=ae", "encoder=mlp", "labels=4", "draws=3", "controls=[scratch]",
    "report=false", "dataset=image_folder", "dataset.root='meine fötos'", "dataset.size=8",
)  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory, digits):
    """A folder with images and a run, which names both relative to it."""
    folder = tmp_path_factory.mktemp("project")
    for n in range(200):
        label = digits.classes[digits.train.y[n]]
        path = folder / "meine fötos" / f"größe {label}" / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.train.raw(n)[0].numpy()).save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        sft_exp.run([*SMALL], "runs/one two")
    return folder


@pytest.fixture
def run(project, tmp_path, monkeypatch):
    """The run, seen from a folder beside its own, in which there are other images of the same name."""
    shutil.copytree(project, "project")
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    return "../project/runs/one two"


@pytest.mark.parametrize("decoy", [False, True])
def test_commands_find_images_and_store_of_a_run_from_another_folder(run, decoy, capsys):
    if decoy:
        for name in ("cat", "dog"):
            Path("meine fötos", name).mkdir(parents=True)
            Image.new("L", (8, 8), 7).save(Path("meine fötos", name, "0.png"))
        data = json.loads(Path(run, "results.json").read_text())["folders"]["data"]
        shutil.copytree(f"../project/outputs/store/{data}", f"outputs/store/{data}")
    assert suspicious_command.main([run, "n=1"]) == 0
    assert "größe" in capsys.readouterr().out
    assert evaluate_command.main([run]) == 0
    assert forecast_command.main([run, "n=5"]) == 0
    capsys.readouterr()
    check_command.main([run, "again=true"])
    out = capsys.readouterr().out
    (again,) = [line for line in out.splitlines() if line.strip().startswith("6.5")]
    assert "passed" in again
    assert doctor_command.main([run]) == 0
    with zipfile.ZipFile("sft_exp-doctor-one two.zip") as packed:
        assert len(json.loads(packed.read("store.json"))) > 5
    capsys.readouterr()
    assert label_command.main([run, "n=2", "serve=false"]) == 0
    (command,) = [li for li in capsys.readouterr().out.splitlines() if li.startswith("Train with")]
    assert f"{Path('../project/meine fötos').resolve()}" in command
    assert not Path("outputs/store/work").exists(), "nothing was computed anew"


def test_paths_that_are_found_as_they_are_stay(run, monkeypatch):
    config = json.loads(Path(run, "results.json").read_text())["config"]
    monkeypatch.chdir("../project")
    assert listing.located(config, Path("runs/one two")) == config
