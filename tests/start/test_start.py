"""`sft_exp start`: from a folder to a model and a page about it."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from result_stubs import stub

from sft_exp.errors import DataError
from sft_exp.start import summary
from sft_exp.start.__main__ import main
from sft_exp.sweep.timed import Trial, Trials


def stripes(folder: Path, number: int, angle: int, noise: np.random.Generator) -> None:
    """A noisy grey picture of stripes: columns or rows."""
    folder.mkdir(parents=True, exist_ok=True)
    bright = np.tile(np.arange(16) // 2 % 2 * 120 + 60, (16, 1))
    picture = (bright if angle else bright.T) + noise.normal(0, 25, (16, 16))
    Image.fromarray(picture.clip(0, 255).astype("uint8")).save(folder / f"{number}.png")


def test_a_study_without_a_final_training_has_no_model(tmp_path):
    with pytest.raises(DataError, match="no method was trained to its end"):
        summary.chosen(tmp_path)
    trials = Trials(10, {}, None, [Trial("first", "scratch", [], 1.0, 0.0, 0.5)])
    (tmp_path / summary.STUDY).mkdir()
    trials.write(tmp_path / summary.STUDY)
    with pytest.raises(DataError, match="no method was trained to its end"):
        summary.chosen(tmp_path)


def test_methods_are_ranked_by_their_longest_comparison():
    trials = [
        {"name": "scratch", "score": 0.6},
        {"name": "vicreg", "score": 0.5},
        {"name": "vicreg", "score": 0.7},
        {"name": "vicreg", "score": None},
    ]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", summary.tried(trials))
    assert cells == ["vicreg", "70.0", "scratch", "60.0"]


def test_a_missing_folder_ends_with_the_studys_message(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["absent", "minutes=1"]) == 3
    assert "absent" in capfd.readouterr().err
    assert not (tmp_path / "outputs/start/absent/start.html").exists()


def test_a_plan_says_how_images_are_read_and_what_would_be_tried(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0)
    for number in range(6):
        for angle, name in enumerate(("rows", "columns")):
            stripes(tmp_path / "photos" / name, number, angle, noise)
    assert main(["photos", "minutes=4", "plan=true"]) == 0
    said = capfd.readouterr().err
    assert "12 labelled images of 2 classes, 16x16 pixels" in said
    assert "In 4min: a pilot" in said
    assert re.search(r"label propagation on pixels\n +vicreg, fine-tuned\n +from scratch\n", said)
    assert not (tmp_path / "outputs").exists()


def test_images_tested_in_folds_are_counted_once():
    folds = stub(data={"train": 180, "labelled": 144, "test": 36, "classes": 5, "ratio": 0.25})
    assert summary.images(folds).startswith("180 images of 5 classes. Without a test folder")
    assert "36 of them, by a model that was trained on the labels of 144 others" in (
        summary.images(folds)
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_folder_ends_in_a_page_a_model_and_images_to_label(tmp_path):
    noise = np.random.default_rng(0)
    for number in range(20):
        for angle, name in enumerate(("rows", "columns")):
            stripes(tmp_path / "photos" / name, number, angle, noise)
            stripes(tmp_path / "more", 2 * number + angle, angle, noise)
    words = [sys.executable, "-m", "sft_exp"]
    started = [*words, "start", "photos", "unlabelled=more", "minutes=3", "n=5"]
    done = subprocess.run(started, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "outputs/start/photos"
    assert done.stdout.splitlines()[-1] == "outputs/start/photos/start.html"
    page = (out / "start.html").read_text()
    for file in re.findall(r'href="([^"]+)"', page):
        assert (out / file).is_file(), file
    assert "Take " in page
    assert "5 of 40 images" in done.stdout
    run = re.search(r"sft_exp predict (\S+)", page)
    predicted = subprocess.run(
        [*words, "predict", run[1], "more"], cwd=tmp_path, capture_output=True, text=True
    )
    assert predicted.returncode == 0, predicted.stderr
    rows = list(csv.DictReader(predicted.stdout.splitlines()))
    assert len(rows) == 40
    right = sum((row["class"] == "columns") == int(Path(row["file"]).stem) % 2 for row in rows)
    assert right >= 36
