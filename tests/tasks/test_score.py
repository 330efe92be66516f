"""Classifiers are judged by balanced accuracy where classes are unequal."""

import json
from dataclasses import replace

import pytest
import torch
from pictures import noise, save
from PIL import Image

import sft_exp
from sft_exp.check import artefacts, runs
from sft_exp.core import score
from sft_exp.core.types import Spec
from sft_exp.data.corpus import Corpus
from sft_exp.data.images import Images
from sft_exp.errors import ConfigError
from sft_exp.evaluate import page
from sft_exp.evaluate.evaluation import Evaluation
from sft_exp.jobs import prepare
from sft_exp.metrics.balanced_accuracy import BalancedAccuracy
from sft_exp.models.heads import classifier
from sft_exp.reports.classification import ClassScores
from sft_exp.tasks.regress import Regress
from sft_exp.tasks.segment import Segment

each = pytest.mark.parametrize
TINY = ["debug=tiny", "pretrainer=ae", "controls=[scratch]", "labels=all", "draws=2", "auto=false"]


@each(
    ("train", "test", "judged"),
    [
        ([0] * 6 + [1] * 4, [0, 1], "accuracy"),  # 60 % is not more than 60 %
        ([0] * 7 + [1] * 3, [0, 1], "balanced_accuracy"),
        ([0, 1], [0] * 7 + [1] * 3, "balanced_accuracy"),
        ([0, 1, -1, -1, -1, -1, -1], [0, 1], "accuracy"),  # unlabelled images have no class
        ([-1, -1], [-1], "accuracy"),
    ],
)
def test_which_score_follows_from_the_labels(train, test, judged):
    assert score.judged_by(train, test) == judged


@each("seed", range(5))
def test_balanced_accuracy_is_the_macro_recall_of_every_evaluation(seed):
    spec = Spec((1, 8, 8), tuple("abcd"), {}, None)
    rng = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (30,), generator=rng)  # no image is of class d, which is predicted
    logits = torch.randn(30, 4, generator=rng)
    metric, recall = BalancedAccuracy().build(spec), classifier.metrics(spec)["recall"]
    expected = float(metric(logits, y))
    answers = list(zip(y.tolist(), logits.argmax(1).tolist(), strict=True))
    assert float(recall(logits, y)) == pytest.approx(expected)
    assert score.balanced_accuracy(answers) == pytest.approx(expected, abs=1e-6)


def folder(tmp_path, counts):
    for c, (name, count) in enumerate(counts.items()):
        for n in range(count):
            picture = Image.new("RGB", (16, 16), (90 * c, 200 - 90 * c, 60))
            blended = Image.blend(picture, noise(1000 * c + n), 0.3)
            save(tmp_path / "data" / name / f"{n}.png", blended)
    return [
        "dataset=image_folder",
        f"dataset.root={tmp_path / 'data'}",
        "dataset.size=16",
        "encoder=mlp",
        *TINY,
        f"store={tmp_path / 'store'}",
    ]


def test_a_folder_of_unequal_classes_is_judged_by_balanced_accuracy_unless_another_is_chosen(
    tmp_path,
):
    overrides = folder(tmp_path, {"cat": 30, "dog": 10})
    result = sft_exp.run([*overrides, "val=cv"], tmp_path / "run")
    assert (result["score"], result["score_name"]) == ("balanced_accuracy", "balanced accuracy")
    for arm in (result["test"], result["controls"]["scratch"]):
        assert arm["balanced_accuracy"] == arm["recall"]
    assert result["val"]["balanced_accuracy"] == result["val"]["recall"]
    assert result["draws"]["pretrained"] != []
    assert result["verdict"]["word"] != "no verdict"
    reason = "judged by balanced accuracy, because 75 % of the training labels are cat"
    assert reason in (tmp_path / "run" / "report.html").read_text()
    assert (tmp_path / "run" / "balanced_accuracy.png").exists()
    shown = result._repr_html_()
    assert "test balanced accuracy, %" in shown
    assert 'alt="Test balanced accuracy by arm"' in shown
    grades = {g.point: g for g in runs.grade(artefacts.read(tmp_path / "run"))}
    for point in ("6.2", "7.1", "7.2", "8.1"):
        assert grades[point].passed, grades[point].reason

    file = tmp_path / "run" / "results.json"
    record = json.loads(file.read_text())
    for scores in (record["test"], record["controls"]["scratch"]):
        del scores["balanced_accuracy"]
    file.write_text(json.dumps({**record, "score": "accuracy", "score_name": "accuracy"}))
    grades = {g.point: g for g in runs.grade(artefacts.read(tmp_path / "run"))}
    assert "judged by accuracy, and by its labels it is balanced accuracy" in grades["8.1"].reason

    chosen = sft_exp.run(
        [*overrides, "val=cv", "score=accuracy", "report=true"], tmp_path / "chosen"
    )
    assert (chosen["score"], chosen["folders"]) == ("accuracy", result["folders"])
    assert "judged by" not in (tmp_path / "chosen" / "report.html").read_text()
    grades = {g.point: g for g in runs.grade(artefacts.read(tmp_path / "chosen"))}
    assert grades["8.1"].passed, grades["8.1"].reason


def test_an_evaluation_of_unequal_classes_says_so():
    def evaluated(*counts):
        found = [
            ClassScores(f"c{n}", images, 1, 0.5, 1, None, None) for n, images in enumerate(counts)
        ]
        return Evaluation(
            run="run",
            splits=1,
            data="data",
            manifest="sha256",
            which="all",
            images=sum(counts),
            score="accuracy",
            scores={"accuracy": 0.8, "recall": 0.5},
            interval=(0.7, 0.9),
            copies=[],
            unchecked="",
            absent=(),
            classes=found,
        )

    assert not [note for note in page.notes(evaluated(60, 40)) if "balanced" in note]
    (said,) = (note for note in page.notes(evaluated(20, 80)) if "balanced" in note)
    assert said.startswith("80 % of the images are c1: judge by balanced accuracy")
    assert said.endswith("50.0 %.")


def test_other_tasks_have_one_score(experiment):
    e = experiment("dataset=digit_pairs", "task=digit_pairs", "score=accuracy")
    with pytest.raises(ConfigError, match="score=accuracy: must be auto: this task is judged by"):
        prepare.score_of(e, Corpus("pairs", (), Images(torch.zeros(0), torch.zeros(0), [])))


@each("task", ["segment", "regress", "digit_pairs"])
def test_the_score_of_other_tasks_can_be_resolved_twice(task, experiment):
    e = experiment("dataset=digit_pairs", "task=digit_pairs")
    kind = {"segment": Segment(), "regress": Regress(), "digit_pairs": e.task}[task]
    e = replace(e, task=kind)
    corpus = Corpus("any", (), Images(torch.zeros(0), torch.zeros(0), []))
    for _ in range(2):
        e = replace(e, score=prepare.score_of(e, corpus))
        assert e.score == kind.score
    with pytest.raises(ConfigError, match="score=top: must be auto"):
        prepare.score_of(replace(e, score="top"), corpus)
