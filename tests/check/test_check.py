"""The checker: the points of the standard, the command line, predictions of other frameworks."""

import csv
import json
import re
from pathlib import Path

import pytest

import sft_exp
from sft_exp.check import __main__ as checker
from sft_exp.check import predictions, runs
from sft_exp.check.artefacts import FinishedFolders
from sft_exp.check.standard import POINTS, VERSION, Grade
from sft_exp.core.arms import FLOORS
from sft_exp.stages.features import STORED

STANDARD = Path(__file__).parents[2] / "docs" / "standard.md"
ARMS = {"ours": 0.95, "scratch": 0.8, **dict.fromkeys(FLOORS, 0.5)}


def table(path, arms=ARMS, seeds=(0, 1, 2), draws=(0, 1, 2), images=200, label=True, **changes):
    """Predictions of arms with about these accuracies, the same for equal arguments."""
    rows = []
    for arm, share in arms.items():
        for seed in seeds:
            for draw in draws:
                right = round(share * images) + (seed * (arm == "ours") + draw) % 3
                for n in range(images):
                    truth = n % 4
                    guess = truth if n < right else (truth + 1) % 4
                    rows.append([n, guess, 0.9, seed, arm, draw, *([truth] if label else [])])
    head = ["id", "class", "probability", "seed", "arm", "draw", *(["label"] if label else [])]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def graded(path, truth=None):
    grades, sentences = predictions.grade([path], truth)
    return {g.point: g for g in grades}, sentences


def lines(path, kept):
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([head, *(row for row in rows if kept(row.split(",")))]) + "\n")
    return path


def test_the_standard_and_the_checker_have_the_same_points():
    text = STANDARD.read_text()
    assert f"Version {VERSION}." in text
    stated = re.findall(r"^\* \*\*(\d\.\d)\*\* ([^.:;]+)", text.replace("\n  ", " "), re.M)
    assert {point for point, _ in stated} == POINTS.keys()
    assert not [(point, words) for point, words in stated if not words.startswith(POINTS[point])]


def test_predictions_of_another_framework_are_graded_as_far_as_they_show_anything(tmp_path):
    found, sentences = graded(table(tmp_path / "p.csv"))
    assert set(found) == set(POINTS)
    assert {p for p, g in found.items() if g.passed} == {"4.4", "4.5", "6.2", "6.3", "7.3"}
    assert not [g for g in found.values() if g.passed is False]
    assert all(
        g.reason.startswith("predictions do not show") for g in found.values() if g.passed is None
    )
    (sentence,) = sentences
    assert sentence.startswith("ours: Pretraining helped: +15")
    assert "3 seeds and 3 draws" in sentence


def test_the_truth_may_lie_in_a_file_of_its_own(tmp_path):
    path = table(tmp_path / "p.csv", label=False)
    truth = tmp_path / "truth.csv"
    truth.write_text("id,label\n" + "".join(f"{n},{n % 4}\n" for n in range(200)))
    assert graded(path, truth)[1] == graded(table(tmp_path / "q.csv"))[1]


@pytest.mark.parametrize(
    ("kept", "point", "said"),
    [
        # a bad seed is left out
        (lambda r: (r[4], r[3]) != ("ours", "1"), "6.3", "ours lacks seed 1, draw 0"),
        # so is a hard image
        (lambda r: r[4] != "ours" or r[0] != "199", "6.3", "199 of 200 images are predicted"),
        (lambda r: (r[3], r[5]) != ("2", "2"), "6.3", "not crossed: 8 runs"),
        (lambda r: r[4] != "raw_svm", "4.4", "there is no arm raw_svm"),
        (lambda r: (r[3], r[5]) == ("0", "0"), "7.3", "(McNemar) says nothing about the method"),
        (lambda r: r[4] != "ours", "7.3", "nothing to compare"),
    ],
)
def test_what_is_wrong_with_predictions_is_said(kept, point, said, tmp_path):
    found, sentences = graded(lines(table(tmp_path / "p.csv"), kept))
    assert found[point].passed is False
    assert said in found[point].reason
    if point != "4.4":
        assert not sentences


def test_a_floor_as_good_is_failing_to_learn(tmp_path):
    found, _ = graded(table(tmp_path / "p.csv", {**ARMS, "pca_svm": 0.99}))
    assert found["4.5"].reason.startswith("failed to learn: ours has 95.")


def test_unequal_classes_are_judged_by_balanced_accuracy(tmp_path):
    """Who predicts the commonest class alone is no better than who guesses."""
    lines = ["id,class,probability,seed,arm,draw,label"]
    for arm in ("ours", "scratch", *FLOORS):
        for seed, draw in ((s, d) for s in range(3) for d in range(3)):
            for n in range(100):
                truth = "rare" if n < 20 else "common"
                missed = n < (5 + seed if arm == "ours" else 16 + draw)
                guess = "common" if missed and truth == "rare" else truth
                lines.append(f"{n},{guess},0.9,{seed},{arm},{draw},{truth}")
    (tmp_path / "p.csv").write_text("\n".join(lines))
    _, (sentence,) = graded(tmp_path / "p.csv")
    # 11 of 20 rare images, in the mean over both classes
    assert sentence.startswith("ours: Pretraining helped: +0.275 of balanced accuracy")
    assert sentence.endswith("By balanced accuracy: 80 % of the labels are common.")


def test_an_image_that_is_predicted_twice(tmp_path):
    path = table(tmp_path / "p.csv")
    path.write_text(
        path.read_text() + "0,0,0.9,0,ours,0,0\n1,1,1.5,0,late,0,1\n2,2,0.5,0,late,0,1\n"
    )
    reason = graded(path)[0]["6.2"].reason
    assert "line 10802: 0 was predicted before" in reason
    assert "1.5 is no probability" in reason
    assert "2 is 1 here and 2 elsewhere" in reason


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "needs rows with the columns id,class,probability,seed,arm"),
        ("id,class,probability,seed\n1,2,0.5,0\n", "no arm"),
        ("id,class,probability,seed,arm\n1,2,0.5,0,x\n", "line 2: no label of 1"),
        (
            "id,class,probability,seed,arm,label\n1,2,sure,0,x,1\n",
            "probability 'sure' is no number",
        ),
        (None, "No such file"),
    ],
)
def test_what_cannot_be_read_ends_with_3(text, said, tmp_path, monkeypatch, capsys):
    path = tmp_path / "p.csv"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr("sys.argv", ["check", str(path)])
    assert checker.main() == 3
    assert said in capsys.readouterr().err


def test_a_folder_that_is_no_run_ends_with_3(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["check", str(tmp_path)])
    assert checker.main() == 3
    assert "neither a sweep" in capsys.readouterr().err
    (tmp_path / "status.json").write_text('{"state": "done"}')
    (tmp_path / "results.json").write_text(
        json.dumps({"test": {"accuracy": 0.5}, "config": {"store": "s"}})
    )
    assert checker.main() == 3
    assert "does not name 'folders'; the same command writes it anew" in capsys.readouterr().err


def test_the_table_says_each_point_and_the_exit_code_whether_one_failed(
    tmp_path, monkeypatch, capsys
):
    path = table(tmp_path / "p.csv")
    monkeypatch.setattr("sys.argv", ["check", str(path)])
    assert checker.main() == 0
    said = capsys.readouterr().out
    assert all(words in said for words in POINTS.values())
    assert "ours: Pretraining helped" in said
    assert f"Standard {VERSION}: 5 points passed, 0 failed, 22 cannot be graded from this." in said
    lines(path, lambda r: r[4] != "raw_svm")
    assert checker.main() == 3
    assert "there is no arm raw_svm" in capsys.readouterr().out


def test_several_runs_fail_a_point_together():
    grades = [
        Grade("1.1", True, of="0"),
        Grade("1.1", False, "why", "1"),
        Grade("1.2", None, "how"),
        Grade("2.1", True),
    ]
    found = {g.point: g for g in checker.merge(grades)}
    assert (found["1.1"].passed, found["1.1"].reason) == (False, "1: why")
    assert (found["1.2"].passed, found["1.2"].reason) == (None, "how")
    assert found["2.1"].passed
    assert found["8.2"].passed is None


def test_arms_whose_features_are_stored_differ_in_the_start_alone(tmp_path):
    """The features of a pretrained encoder that stays frozen are stored for all draws, those of a
    random one are not: the arms are computed alike."""
    store = tmp_path / "store"
    words = (
        "debug=tiny",
        "strategy=svm",
        "draws=2",
        "tracker=none",
        "report=false",
        "monitors=false",
    )
    sft_exp.run([*words, f"store={store}"], tmp_path / "run")
    found = {g.point: g for g in checker.grade([tmp_path / "run"])}
    assert found["4.1"].passed is True, found["4.1"].reason
    stored = FinishedFolders(store)
    name = next(n for n in stored.of_stage("finetune") if STORED in stored.request(n))
    request = stored.request(name)
    assert STORED not in runs.without_stored_features(stored, request)
    other = {**request, "features": {**request["features"], "grid": 2}}
    assert STORED in runs.without_stored_features(stored, other)


def test_a_difference_of_arms_is_said_by_names_in_short_lines(monkeypatch, capsys):
    long = {"dataset": {"is": "a.b.Digits", "test": 500}, "sha256": "d" * 900}
    said = [*runs.differences({"kept": long, "net": {"is": "a.MLP"}}, {"kept": None, "net": None})]
    assert said == [("kept", "(dataset, sha256)", "None"), ("net", "MLP", "None")]
    assert len(runs.short("x" * 500)) < 70
    checker.print_grades([Grade("4.1", False, "some words " * 100)], [])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 200
