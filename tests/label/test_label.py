"""From a run to images to label and back into a run, on the embedded digits and on files."""

import base64
import contextlib
import csv
import io
import json
import shlex
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

import sft_exp
from sft_exp import api
from sft_exp.config import build, compose
from sft_exp.data import splits
from sft_exp.data.corpus import Corpus
from sft_exp.data.images import Images
from sft_exp.data.splits import Labels
from sft_exp.errors import DataError
from sft_exp.forecast import __main__ as forecast_command
from sft_exp.jobs import prepare
from sft_exp.label import __main__ as label_command
from sft_exp.label import selection, sheet
from sft_exp.suspicious import __main__ as suspicious_command

SMALL = [
    "tracker=none", "hardware=cpu", "pretrain.steps=2", "finetune.steps=0", "val=none",
    "controls=false", "report=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run on the embedded digits, 40 labels; its store is an absolute path."""
    folder = tmp_path_factory.mktemp("run")
    with contextlib.chdir(folder):
        sft_exp.run(
            [*SMALL, f"store={folder}/store", "strategy=linear", "draws=3", "seeds=1", "labels=4"],
            folder / "run",
        )
    return folder / "run"


def table(path):
    return list(csv.reader(io.StringIO(Path(path).read_text())))


def printed(said):
    """The overrides of the command that `sft_exp.label` prints."""
    (line,) = [line for line in said.splitlines() if line.startswith("Train with them: ")]
    program, *words = shlex.split(line.removeprefix("Train with them: "))
    assert (program, words[:2]) == ("python", ["-m", "sft_exp"])
    return words[2:]


# Choosing


@pytest.mark.parametrize("strategy", selection.STRATEGIES)
@pytest.mark.sampled(2)
def test_every_strategy_chooses_outside_the_budget_and_goes_back_into_training(
    run, strategy, capsys
):
    code = label_command.main(
        [f"run={run}", "n=7", f"label.strategy={strategy}", "out=sheet", "serve=false"]
    )
    said = capsys.readouterr()
    assert (code, said.err) == (0, "")
    again = printed(said.out)
    assert again[-1] == f"labels={Path('sheet/labels.csv').absolute()}"
    first = json.loads((run / "results.json").read_text())["stages"]["finetune"]["folder"]
    known = json.loads((Path(first) / "labels.json").read_text())["labelled"]
    chosen = [row[0] for row in table("sheet/chosen.csv")[1:] if row[1]]
    assert len(set(chosen)) == 7
    assert not {*chosen} & {*known}
    assert [row[0] for row in table("sheet/labels.csv")] == ["file", *known]

    made = sheet.load(Path("sheet"))
    # an annotator who always says 3
    Path("sheet/labels.csv").write_text(made.table(dict.fromkeys(chosen, "3")))
    job = prepare.prepare(build.experiment(*compose.compose(again)))
    assert type(job.experiment.strategy).__name__ == "Linear", (
        "the run's own command, but for the labels"
    )
    assert job.experiment.draws == 3
    labelled = splits.make(job.corpus, job.labels, 0).labelled
    assert labelled.ids == sorted([*known, *chosen])
    assert {int(labelled.y[labelled.ids.index(name)]) for name in chosen} == {3}


def test_the_same_command_goes_on_with_the_same_sheet(run, capsys):
    command = [f"run={run}", "n=3", "serve=false"]
    assert label_command.main(command) == 0
    (folder,) = Path("outputs/labels").iterdir()
    made = sheet.load(folder)
    before = (folder / "sheet.json").stat().st_mtime_ns
    (folder / "labels.csv").write_text(made.table({made.chosen[1]: "8"}))
    capsys.readouterr()
    assert label_command.main(command) == 0
    assert "1 of them are labelled so far" in capsys.readouterr().out
    assert (folder / "sheet.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("other", ["n=4", "label.strategy=random", "seed=1"])
def test_a_sheet_of_another_choice_is_not_taken_for_the_new_one(run, sheet_of_five, other, capsys):
    """The folder of an earlier round was resumed without a word, and nothing new was chosen."""
    assert label_command.main([f"run={run}", "n=5", "out=sheet", "serve=false"]) == 0
    assert capsys.readouterr().err == ""
    words = {"n": "n=5"} | {other.partition("=")[0]: other}
    assert label_command.main([f"run={run}", *words.values(), "out=sheet", "serve=false"]) == 0
    said = capsys.readouterr().err
    assert "sheet holds the images chosen before for run-typiclust-5-0" in said
    assert "out=FOLDER" in said


def test_a_table_of_the_users_is_not_replaced(run, capsys):
    Path("mine").mkdir()
    Path("mine/labels.csv").write_text("file,label,who\na.png,3,me\n")
    assert label_command.main([f"run={run}", "n=5", "out=mine", "serve=false"]) == 2
    assert "out=mine: holds a labels.csv of other origin" in capsys.readouterr().err
    assert [p.name for p in Path("mine").iterdir()] == ["labels.csv"]
    assert Path("mine/labels.csv").read_text().endswith("a.png,3,me\n")


@pytest.mark.parametrize(
    ("separator", "encoding"), [(";", "utf-8"), (",", "utf-8-sig"), ("\t", "utf-16")]
)
def test_labels_that_a_spreadsheet_saved_are_read(run, sheet_of_five, separator, encoding, capsys):
    file, answers = Path("sheet/labels.csv"), {sheet_of_five.chosen[2]: "8"}
    file.write_text(sheet_of_five.table(answers).replace(",", separator), encoding=encoding)
    assert label_command.main([f"run={run}", "n=5", "out=sheet", "serve=false"]) == 0
    assert "1 of them are labelled so far" in capsys.readouterr().out
    assert sheet_of_five.answers(file) == answers


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no such file"), ("a,b\n1,2\n", "no column file and label"), ("", "no column")],
)
def test_labels_that_are_none_are_said_in_one_line(run, sheet_of_five, content, words, capsys):
    file = Path("sheet/labels.csv")
    file.unlink() if content is None else file.write_text(content)
    capsys.readouterr()
    assert label_command.main([f"run={run}", "n=5", "out=sheet", "serve=false"]) == 3
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1


@pytest.fixture(scope="module")
def chosen_five(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("five")
    with contextlib.chdir(folder):
        assert label_command.main([f"run={run}", "n=5", "out=sheet", "serve=false"]) == 0
    return folder / "sheet"


@pytest.fixture
def sheet_of_five(chosen_five):
    """A sheet that nobody has begun: each test has a copy of its own."""
    shutil.copytree(chosen_five, "sheet")
    return sheet.load(Path("sheet"))


def test_other_tools_get_the_images_with_the_models_classes(run, sheet_of_five):
    model, data = api.load_model(run), selection.opened(str(run))[1]
    rows = torch.tensor([data.train.ids.index(name) for name in sheet_of_five.chosen])
    (batch,) = data.train.batches([rows], torch.device("cpu"))
    p_NY = model.predict(batch["x"]).softmax(1).detach()

    tasks = json.loads(Path("sheet/label_studio.json").read_text())
    assert [t["data"]["file"] for t in tasks] == sheet_of_five.chosen
    for task, p_Y in zip(tasks, p_NY, strict=True):
        (prediction,) = task["predictions"]
        (result,) = prediction["result"]
        assert result["value"] == {"choices": [data.classes[int(p_Y.argmax())]]}
        assert prediction["score"] == pytest.approx(float(p_Y.max()), abs=1e-4)
    view = ElementTree.parse("sheet/label_studio.xml").getroot()  # noqa: S314 - ours
    names = view.find("Image").get("name"), view.find("Choices").get("name")
    assert (result["to_name"], result["from_name"]) == names
    assert view.find("Choices").get("toName") == names[0]
    assert [c.get("value") for c in view.iter("Choice")] == list(data.classes)
    assert view.find("Image").get("value") == "$image"

    labels = json.loads(Path("sheet/fiftyone/labels.json").read_text())
    files = sorted(Path("sheet/fiftyone/data").iterdir())
    assert [file.stem for file in files] == [*labels["labels"]]
    for n, (file, target) in enumerate(zip(files, labels["labels"].values(), strict=True)):
        assert target["label"] == int(p_NY[n].argmax())
        assert target["confidence"] == pytest.approx(float(p_NY[n].max()), abs=1e-4)
        grey_HW = torch.from_numpy(np.array(Image.open(file))) / 255
        assert torch.allclose(grey_HW, batch["x"][n, 0], atol=1 / 255)
        embedded = tasks[n]["data"]["image"].partition(",")[2]
        assert base64.b64decode(embedded) == file.read_bytes()


def annotated(task, number, *labels, **more):
    """A task as Label Studio exports it (labelstud.io/guide/export)."""
    value = {"choices": list(labels)}
    named = {"id": "Dx_aB91ISN", "from_name": "choice", "to_name": "image", "type": "choices"}
    annotation = {
        "id": 1000 + number, "completed_by": 1, "result": [{**named, "value": value}] if labels else [],
        "was_cancelled": False, "ground_truth": False, "created_at": "2026-03-09T22:16:08.728353Z",
        "updated_at": "2026-03-09T22:16:08.728378Z", "lead_time": 4.288, "prediction": {}, "result_count": 1, "task": number,
        **more,
    }  # fmt: skip
    return {**task, "id": number, "annotations": [annotation], "project": 1, "drafts": []}


def short(task, number, *labels):
    """The same as JSON-MIN."""
    chosen = {"choice": labels[0]} if labels else {}
    return {**task["data"], "id": number, **chosen, "annotator": 1, "annotation_id": number}


@pytest.mark.parametrize("export", [annotated, short])
def test_answers_of_label_studio_are_taken(run, sheet_of_five, export, capsys):
    tasks = json.loads(Path("sheet/label_studio.json").read_text())
    first, second, third, *_ = sheet_of_five.chosen
    Path("sheet/labels.csv").write_text(sheet_of_five.table({first: "1", third: "4"}))
    done = [export(tasks[0], 7, "3"), export(tasks[1], 8, "9"), export(tasks[3], 9)]
    if export is annotated:
        done.append(annotated(tasks[4], 10, "5", was_cancelled=True))
    Path("project-1.json").write_text(json.dumps(done))
    capsys.readouterr()
    command = [f"run={run}", "n=5", "out=sheet", "answers=project-1.json"]
    assert label_command.main(command) == 0, "and it does not wait for answers on a page"
    assert "3 of them are labelled so far" in capsys.readouterr().out
    answers = sheet_of_five.answers(Path("sheet/labels.csv"))
    assert answers == {first: "3", second: "9", third: "4"}
    rows = dict(table("sheet/labels.csv")[1:])
    assert len(rows) == 40 + 3, "with those of the run"


def test_annotators_who_disagree_are_said(run, sheet_of_five, capsys):
    tasks = json.loads(Path("sheet/label_studio.json").read_text())
    both = annotated(tasks[0], 7, "3")
    both["annotations"] += annotated(tasks[0], 8, "9")["annotations"]
    Path("project-1.json").write_text(json.dumps([both]))
    command = [f"run={run}", "n=5", "out=sheet", "answers=project-1.json"]
    assert label_command.main(command) == 0
    assert "1 tasks have annotations that disagree" in "".join(capsys.readouterr())


def test_answers_of_fiftyone_are_taken(run, sheet_of_five):
    """It exports the classes in an order of its own, and images by their names without suffix."""
    first, _, third, *_ = sheet_of_five.chosen
    labels = {"00001": 1, "00003": 0, "00002": None}
    Path("labels.json").write_text(json.dumps({"classes": ["8", "2"], "labels": labels}))
    command = [f"run={run}", "n=5", "out=sheet", "answers=labels.json"]
    assert label_command.main(command) == 0
    answers = sheet_of_five.answers(Path("sheet/labels.csv"))
    assert answers == {first: "2", third: "8"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[", "no JSON"),
        ("[]", "no export of Label Studio (JSON, JSON-MIN) or FiftyOne"),
        ('{"labels": {"00001": "oak"}}', "labelled oak; valid: one of 0, 1"),
        ('{"labels": {"00001": ["1", "2"]}}', "labelled 1, 2; valid"),
        ('{"labels": {"99": "1"}}', "none of the images"),
        (None, "No such file"),
    ],
)
def test_answers_that_fit_no_sheet_are_refused(run, sheet_of_five, content, words, capsys):
    if content is not None:
        Path("a.json").write_text(content)
    before = Path("sheet/labels.csv").read_text()
    capsys.readouterr()
    assert label_command.main([f"run={run}", "n=5", "out=sheet", "answers=a.json"]) == 3
    assert words in capsys.readouterr().err
    assert Path("sheet/labels.csv").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["n=3"], 2, ["run=", "must be given"]),
        (["run=gone"], 3, ["gone", "no such folder"]),
        (["run=gone", "n=0"], 2, ["n=0", "above 0"]),
        (["run=gone", "n=x"], 2, ["n=x", "whole number"]),
        (
            ["run=gone", "label.strategy=best"],
            2,
            ["label.strategy=best", "typiclust, coreset, margin or random"],
        ),
        (
            ["run=gone", "label.stategy=random"],
            2,
            ["label.stategy=random", "did you mean strategy?"],
        ),
        (["run=gone", "serve=maybe"], 2, ["serve=maybe", "true or false"]),
        (["run=gone", "port=99999"], 2, ["port=99999", "65535"]),
        (["RUN", "x"], 2, ["x", "one argument too many", "RUN"]),
    ],
)
def test_what_cannot_be_is_said_in_one_line(arguments, code, words, capsys):
    assert label_command.main(arguments) == code
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert all(word in said for word in words), said


def test_more_than_there_are_is_refused(run, capsys):
    assert label_command.main([f"run={run}", "n=1258", "serve=false"]) == 3
    assert "there are 1257 images without a label" in capsys.readouterr().err
    assert not Path("outputs").exists()


# Labels by image


@pytest.fixture
def corpus():
    y = torch.arange(30) % 3
    images = Images(torch.zeros(30, 1, 1, 1, dtype=torch.uint8), y, [f"i{n}" for n in range(30)])
    return Corpus("thirty", ("a", "b", "c"), images, images.at(torch.arange(3)))


def chosen(text, total=None):
    Path("t.csv").write_text(text)
    return Labels.parse("t.csv", total)


def test_a_table_is_the_whole_budget_and_its_labels_count(corpus):
    draws = [
        splits.make(corpus, chosen("file,label\ni3,c\ni7,b\ni9,\n"), d).labelled for d in (0, 1)
    ]
    assert [d.ids for d in draws] == [["i3", "i7"]] * 2
    assert draws[0].y.tolist() == [2, 1], (
        "the annotator's, and a row without a label is not annotated"
    )
    assert splits.make(corpus, chosen("file\ni9\ni3\n"), 0).labelled.y.tolist() == [0, 0], (
        "without the column: the data set's"
    )
    assert corpus.train.y.tolist() == (torch.arange(30) % 3).tolist(), (
        "and nothing else has changed"
    )


def test_labels_total_draws_inside_the_table(corpus):
    text = "file\n" + "".join(f"i{n}\n" for n in range(18))
    few = [splits.make(corpus, chosen(text, 6), d).labelled for d in range(4)]
    assert all({*images.ids} <= {f"i{n}" for n in range(18)} for images in few)
    assert all(torch.bincount(images.y).tolist() == [2, 2, 2] for images in few)
    assert len({tuple(images.ids) for images in few}) > 1


def test_a_request_knows_the_tables_content_and_not_its_name(corpus):
    from sft_exp.store.requests import plain

    first = chosen("file,label\ni3,c\ni7,b\n")
    Path("other.csv").write_text("label,file,why\nb,i7,x\nc,i3,y\n")
    assert (
        plain(first)
        == plain(Labels.parse("other.csv", None))
        != plain(chosen("file,label\ni3,c\ni7,c\n"))
    )
    assert plain(first)["count"] == "all"
    assert plain(first) != plain(Labels("all"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name\ni1\n", "has no column file; its first line has name"),
        ("file\n", "has no image with a label"),
        ("file,label\ni1,\n", "has no image with a label"),
        ("file\ni1\ni1\n", "must have one row per image"),
        ("file\ni1\nx9\n", "1 of 2 rows are no training images of thirty, such as 'x9'"),
        ("file,label\ni1,dog\n", "'dog' is no class of thirty; valid: a, b, c"),
    ],
)
def test_a_table_that_does_not_fit_says_why(corpus, text, words):
    with pytest.raises(DataError, match="labels") as error:
        splits.make(corpus, chosen(text), 0)
    assert words in str(error.value)


def test_a_table_that_is_not_there_is_named():
    with pytest.raises(DataError, match=r"labels=gone\.csv: No such file"):
        Labels.parse("gone.csv", None)


# The user's own files


def photo(path, shade, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 60, (12, 12, 3))
    Image.fromarray((noise + shade).astype(np.uint8)).save(path)


@pytest.mark.parametrize("layout", ["plain", "split"])
@pytest.mark.sampled(1)
def test_ones_own_files_are_labelled_and_trained_on(layout, tmp_path, capsys):
    parts = [""] if layout == "plain" else ["train/", "test/"]
    for p, part in enumerate(parts):
        for c, name in enumerate(("dark", "light")):
            for n in range(6):
                photo(Path(f"photos/{part}{name}/{n}.png"), 120 * c, 100 * p + 10 * c + n)
    for n in range(9):
        photo(Path(f"more/{n}.png"), 120 * (n % 2), 1000 + n)
    # one process reads one path once
    where = [f"dataset.root={tmp_path}/photos", f"dataset.unlabelled={tmp_path}/more"]
    own = ["dataset=image_folder", *where, "dataset.size=16", "encoder=mlp", "draws=1"]
    sft_exp.run([*SMALL, *own], "run")
    assert label_command.main(["run=run", "n=4", "out=sheet", "serve=false"]) == 0
    again = printed(capsys.readouterr().out)
    made = sheet.load(Path("sheet"))
    Path("sheet/labels.csv").write_text(made.table(dict.fromkeys(made.chosen, "light")))
    result = sft_exp.run(again, "again")
    if layout == "split":
        assert (result["data"]["train"], result["data"]["labelled"], result["data"]["test"]) == (
            16,
            16,
            12,
        )
    else:
        assert result["data"]["train"] == 16
    folder = Path(result["stages"]["finetune"]["folder"]).parent
    (manifest,) = (
        m
        for m in folder.glob("data-*/manifest.json")
        if len(json.loads(m.read_text())["ids"]["train"]) == 16
    )
    assert len(json.loads(manifest.read_text())["ids"]["unlabelled"]) == 5, (
        "labelled images have left the pool"
    )


def test_images_without_a_label_come_before_those_outside_the_budget(tmp_path, capsys):
    """With a budget of labels, too: the images in dataset.unlabelled are those that nobody has labelled."""
    for c, name in enumerate(("dark", "light")):
        for n in range(6):
            photo(Path(f"photos/{name}/{n}.png"), 120 * c, 10 * c + n)
    for n in range(9):
        photo(Path(f"more/{n}.png"), 120 * (n % 2), 1000 + n)
    where = [f"dataset.root={tmp_path}/photos", f"dataset.unlabelled={tmp_path}/more"]
    own = ["dataset=image_folder", *where, "dataset.size=16", "encoder=mlp", "draws=1"]
    sft_exp.run([*SMALL, *own, "labels=2"], "run")
    assert label_command.main(["run=run", "n=4", "out=sheet", "serve=false"]) == 0
    said = capsys.readouterr().out
    assert "4 of 9 images without a label" in said
    assert "dataset.labels=" in said
    made = sheet.load(Path("sheet"))
    assert {Path(name).parent.name for name in made.chosen} == {"more"}


# Forecasts and suspicious labels


def test_a_forecast_fills_in_the_curve_once(run, capsys):
    assert forecast_command.main([f"run={run}", "n=40"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("40 more labels: ")
    curve = json.loads((run / "forecast.json").read_text())
    assert set(curve["scores"]) == {"10", "20", "40"}
    result = json.loads((run / "results.json").read_text())
    assert curve["scores"]["40"] == result["draws"]["pretrained"]
    before = {p for p in (run.parent / "store").iterdir() if p.is_dir()}
    assert forecast_command.main([f"run={run}", "n=40"]) == 0
    assert capsys.readouterr().out == said
    assert {p for p in (run.parent / "store").iterdir() if p.is_dir()} == before
    assert label_command.main([f"run={run}", "n=40", "serve=false"]) == 0
    assert said in capsys.readouterr().out


def test_a_forecast_needs_draws_and_counts(run, capsys):
    sft_exp.run(
        [*SMALL, f"store={run.parent}/store", "strategy=linear", "draws=2", "seeds=1", "labels=4"],
        "two",
    )
    sft_exp.run(
        [*SMALL, f"store={run.parent}/store", "strategy=linear", "draws=3", "seeds=1", "labels=1"],
        "one",
    )
    for name, words in (("two", "draws=2"), ("one", "10 labels of 10 classes cannot be halved")):
        assert forecast_command.main([f"run={name}"]) == 3
        assert words in capsys.readouterr().err


def test_suspicious_labels_are_ranked(run, capsys):
    assert suspicious_command.main([f"run={run}"]) == 0
    head, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
    assert head == ["file", "label", "neighbours", "agreement"]
    assert len(rows) == 40
    scores = [float(r[3]) for r in rows]
    assert scores == sorted(scores)
    assert all(
        (r[1] == r[2]) == (s >= 0) for r, s in zip(rows, scores, strict=True) if abs(s) > 1e-3
    )
    assert suspicious_command.main(["run=gone"]) == 3
