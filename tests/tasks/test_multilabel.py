"""Multi-label classification: tables in both forms, stratified splits, thresholds, scores, predictions."""

import csv
import io
import json
from collections import Counter
from contextlib import chdir

import numpy as np
import pytest
import torch
from PIL import Image

import sft_exp
from sft_exp.core.types import LABEL_SET, Spec
from sft_exp.data import splits, stratify
from sft_exp.datasets.image_folder import ImageFolder
from sft_exp.datasets.multilabel_table import MultilabelTable
from sft_exp.errors import ConfigError, DataError
from sft_exp.jobs import prepare
from sft_exp.models.heads import multilabel
from sft_exp.predict import inference
from sft_exp.predict.files import predict
from sft_exp.reports import inputs
from sft_exp.serve.app import answer
from sft_exp.stages import model as models
from sft_exp.tasks.multilabel import Multilabel

COLOURS = ("blue", "green", "red")  # in alphabetical order, as classes are
SIZE = 12


def picture(path, names=(), seed=0):
    """Noise with a bright square of each of these colours."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 120, (SIZE, SIZE, 3))
    for name in names:
        row, column = rng.integers(0, SIZE - 6, 2)
        pixels[row : row + 6, column : column + 6, "rgb".index(name[0])] += 135
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype("uint8")).save(path)


def table(folder, *lines, images=6, name="t.csv"):
    for n in range(images):
        picture(folder / f"{n}.png", seed=n)
    (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return folder / name


def read(file, **options):
    return MultilabelTable(**{"table": str(file), "size": SIZE, "workers": 0, **options}).load()


def sets_of(images, classes):
    """id -> its classes."""
    rows = images.target(LABEL_SET).tolist()
    return {
        name: {c for c, present in zip(classes, row, strict=True) if present}
        for name, row in zip(images.ids, rows, strict=True)
    }


# Tables

FORMS = {
    "semicolons": ["file,labels", "0.png,cat;dog", "1.png,dog", "2.png,none", "3.png,"],
    "bars": ["file,labels", "0.png,cat|dog", "1.png,dog", "2.png,None", "3.png,"],
    "quoted commas": ["file,labels", '0.png,"cat, dog"', "1.png,dog", "2.png,none", "3.png,"],
    "commas in a table of semicolons": ["file;labels", "0.png;cat,dog", "1;dog", "2;none", "3;"],
    "columns of 0 and 1": ["file,cat,dog", "0.png,1,1", "1.png,0,1", "2.png,0,0", "3.png,,"],
    "columns of 1 and -1": ["file,cat,dog", "0.png,1,1", "1.png,-1,1", "2.png,-1,-1", "3.png,,"],
    "columns of words": ["file,cat,dog", "0,True,True", "1,False,TRUE", "2,false,False", "3,,"],
    "columns beside others": ["age,file,cat,dog", "7,0,1,1", "31,1,0,1", "8,2,0,0", "9,3,,"],
}


@pytest.mark.parametrize("lines", FORMS.values(), ids=FORMS)
def test_both_forms_say_the_same(lines, tmp_path):
    """None of the classes is a label; no entry is none."""
    data = read(table(tmp_path, *lines))
    assert data.classes == ("cat", "dog")
    found = {name.removesuffix(".png"): s for name, s in sets_of(data.train, data.classes).items()}
    assert found == {"0": {"cat", "dog"}, "1": {"dog"}, "2": set()}
    assert [name.removesuffix(".png") for name in data.extra.ids] == ["3"]
    assert LABEL_SET not in data.extra.targets
    assert not data.labelled, "no image has a single class"


def test_titles_of_inputs_name_all_classes():
    batch = {"y": torch.zeros(3), LABEL_SET: torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 1]])}
    titles = inputs.named(batch, ("cat", "dog", "elephant"))
    assert titles == ["cat, dog", "none", "cat +2"]


def test_a_folder_whose_labels_are_lists_is_warned_of(tmp_path):
    file = table(tmp_path, "file,label", "0.png,cat", "1.png,dog", "2.png,cat;dog", "3.png,cat;dog")
    data = ImageFolder(labels=str(file), size=SIZE, workers=0).load()
    (warning,) = [w for w in data.report["warnings"] if "multilabel_table" in w]
    assert "class 'cat;dog' is named like several of the classes" in warning


def test_other_columns_and_words(tmp_path):
    """ChestX-ray14's names, a space as separator, and a choice of classes in an order."""
    lines = ["Image Index,Finding Labels", "0.png,Mass Edema", "1.png,Edema", "2.png,No_Finding"]
    file = table(tmp_path, *lines)
    options = {"file_column": "Image Index", "label_column": "Finding Labels", "separator": " "}
    data = read(file, none_label="No_Finding", **options)
    assert data.classes == ("Edema", "Mass")
    assert sets_of(data.train, data.classes)["2.png"] == set()
    chosen = read(file, none_label="No_Finding", classes=["Mass"], **options)
    assert sets_of(chosen.train, chosen.classes) == {
        "0.png": {"Mass"},
        "1.png": set(),
        "2.png": set(),
    }
    assert chosen.fingerprint != data.fingerprint


def test_splits_and_groups(tmp_path):
    lines = ["file,labels,split,group", "0,cat,train,a", "1,dog,val,b", "2,cat;dog,test,c", "3,,,d"]
    data = read(table(tmp_path, *lines))
    assert (data.train.ids, data.test.ids, data.extra.ids) == (["0", "1"], ["2"], ["3"])
    assert data.train.groups == ["a", "b"]


def test_classes_of_a_table_with_both_forms(tmp_path):
    file = table(tmp_path, "file,labels,cat,dog", "0,x,1,0", "1,y,0,1", "2,x,0,0")
    assert read(file).classes == ("x", "y")
    assert read(file, label_column=None).classes == ("cat", "dog")
    assert read(file, label_column=None, classes=["dog"]).classes == ("dog",)


@pytest.mark.parametrize(
    ("lines", "options", "words"),
    [
        (["file,labels", "0,cat,dog"], {}, ["line 2", "more cells", "'dog'", "double quotes"]),
        (["file,labels", "0,cat;dog", "1,a|b"], {}, ["both ';' and '|'", "dataset.separator="]),
        (["file,labels", "0,none;cat"], {}, ["line 2", "'none' and classes beside it"]),
        (["file,labels", "0,cat", "1,;"], {}, ["line 3", "names no class"]),
        (["file,labels", "0,", "1,"], {}, ["no image is labelled"]),
        (["file,labels", "0,none", "1,none"], {}, ["has any of the classes"]),
        (["file,labels,split", "0,cat,train", "1,,test"], {}, ["1 is a test image and is not labelled"]),
        (["file,labels", "0,cat"], {"classes": ["dog"]}, ["no image is of class dog", "there are cat"]),
        (["file,cat,dog", "0,1,", "1,0,1"], {}, ["line 2", "dog is empty and other classes are not"]),
        (["file,cat,dog", "0,1,-1", "1,0,1"], {}, ["values 1, 0 and -1", "uncertain"]),
        (["file,cat,dog", "0,1,2", "1,0,1"], {"classes": ["cat", "dog"]}, ["dog is '2'", "0 and 1"]),
        (["file,cat", "0,1", "1,0"], {"classes": ["cow"]}, ["has no column cow", "there are cat"]),
        (["file,what", "0,cat"], {}, ["neither a column labels", "columns of 0 and 1"]),
        (["name,labels", "0,cat"], {}, ["no column file", "dataset.file_column="]),
        (["file,labels", "9,cat"], {}, ["line 2", "there is no file '9'"]),
        (["file,labels", "0,cat", "0.png,dog"], {}, ["line 3", "two rows"]),
        (["file,labels,group", "0,cat,a", "1,dog,"], {}, ["line 3", "group is missing"]),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_read_is_refused_in_words(lines, options, words, tmp_path):
    with pytest.raises((ConfigError, DataError)) as error:
        read(table(tmp_path, *lines), **options)
    assert not [word for word in words if word not in str(error.value)], error.value


def test_classes_that_cannot_be_learnt_or_tested_are_warned_of(tmp_path):
    lines = ["file,a,b,c,split", "0,1,1,0,", "1,1,0,0,", "2,1,1,1,test", "3,0,0,1,test"]
    warnings = read(table(tmp_path, *lines)).report["warnings"]
    assert any("no training image has c: it cannot be learnt" in w for w in warnings)
    assert any("all training images have a: it cannot be learnt" in w for w in warnings)
    lines = ["file,labels,split", "0,cat;dog,", "1,dog,", "2,dog,test"]
    warnings = read(table(tmp_path, *lines, name="u.csv")).report["warnings"]
    assert any("no test image has cat: mAP is of the other 1" in w for w in warnings)


# Splits


def random_sets(count=400, seed=0):
    rates = torch.tensor([0.6, 0.3, 0.1, 0.02])
    return (torch.rand(count, 4, generator=torch.Generator().manual_seed(seed)) < rates).long()


@pytest.mark.parametrize("seed", range(3))
def test_every_beginning_of_an_order_has_the_classes_in_proportion(seed):
    """Within three images of a class's share; at random the commonest is off by eight."""
    sets_NY = random_sets()
    share_Y = sets_NY.double().mean(0)
    rows = stratify.order(sets_NY, 400, seed)
    assert sorted(rows) == list(range(400))
    for total in (4, 20, 60, 200):
        assert stratify.order(sets_NY, total, seed) == rows[:total]
        counts_Y = sets_NY[rows[:total]].sum(0)
        assert (counts_Y > 0).all(), "each class has an image"
        assert ((counts_Y - share_Y * total).abs() <= 3).all()
    assert stratify.order(sets_NY, 60, seed + 1) != rows[:60]


def test_folds_share_the_images_of_each_class():
    sets_NY = random_sets()
    fold_N = stratify.folds(sets_NY, None, 5, 0)
    assert sorted(Counter(fold_N.tolist())) == [0, 1, 2, 3, 4]
    for column in stratify.with_none(sets_NY).T:
        counts = Counter(fold_N[column > 0].tolist())
        assert max(counts.values()) - min(counts.get(k, 0) for k in range(5)) <= 2
    assert stratify.folds(sets_NY, None, 5, 1).tolist() != fold_N.tolist()
    groups = [f"g{n // 4}" for n in range(400)]
    of_group = {}
    for name, k in zip(groups, stratify.folds(sets_NY, groups, 5, 0).tolist(), strict=True):
        assert of_group.setdefault(name, k) == k, "a group is in one fold"
    assert max(Counter(of_group.values()).values()) <= 30


def many(tmp_path, count=60, split=False):
    lines = ["file,cat,dog,cow" + (",split" if split else "")]
    for n in range(count):
        cells = [int(n % 2 == 0), int(n % 3 == 0), int(n % 10 == 0)]
        part = [["train", "test"][n % 4 == 3]] if split else []
        lines.append(",".join(map(str, [n, *cells, *part])))
    return read(table(tmp_path, *lines, images=count))


def test_labels_are_so_many_times_the_classes(tmp_path):
    data = many(tmp_path, split=True)
    made = {n: splits.make(data, splits.Labels.parse(n, None), 0).labelled for n in (2, 5)}
    assert {n: len(images) for n, images in made.items()} == {2: 6, 5: 15}
    assert {*made[2].ids} < {*made[5].ids}, "a larger budget contains the smaller"
    assert made[2].target(LABEL_SET).any(0).all()
    assert len(splits.make(data, splits.Labels.parse("20%", None), 0).labelled) == 9
    other = splits.make(data, splits.Labels.parse(2, None), 1).labelled
    assert other.ids != made[2].ids
    with pytest.raises(DataError, match=r"60 images \(20 times 3 classes\).* valid are 1 to 15"):
        splits.make(data, splits.Labels.parse(20, None), 0)


def test_without_a_test_split_folds_are_tested(tmp_path):
    data = many(tmp_path)
    tested = [splits.make(data, splits.Labels.parse("all", None), d).test.ids for d in range(5)]
    assert sorted(name for ids in tested for name in ids) == sorted(data.train.ids)
    for ids in tested:
        counts_Y = data.train.at(torch.tensor([data.train.ids.index(n) for n in ids])).target(
            LABEL_SET
        )
        assert ((counts_Y.sum(0) - torch.tensor([6, 4, 1.2])).abs() <= 1.2).all()


def test_a_table_of_single_labels_is_refused(tmp_path):
    data = many(tmp_path)
    file = tmp_path / "labels.csv"
    file.write_text("file,label\n0,cat\n1,dog\n")
    with pytest.raises(DataError, match="one class for each image"):
        splits.make(data, splits.Labels.parse(str(file), None), 0)
    file.write_text("file\n0\n1\n2\n3\n5\n9\n")
    chosen = splits.make(replaced(data), splits.Labels.parse(str(file), None), 0).labelled
    assert {*chosen.ids} <= {"0", "1", "2", "3", "5", "9"}


def replaced(data):
    """The data with its last images as test images, so that no chosen one is in a fold."""
    from dataclasses import replace

    train, test = data.train.at(torch.arange(50)), data.train.at(torch.arange(50, 60))
    return replace(data, train=train, test=test)


# Thresholds and scores


def f1(predicted, true):
    hits = (predicted & true).sum().item()
    return 2 * hits / max(1, predicted.sum().item() + true.sum().item())


@pytest.mark.parametrize("seed", range(5))
def test_thresholds_have_the_largest_f1_that_there_is(seed):
    """No other threshold is better, on scores with ties."""
    rng = torch.Generator().manual_seed(seed)
    logits_NY = torch.randn(40, 3, generator=rng).mul(4).round() / 4
    sets_NY = (torch.rand(40, 3, generator=rng) < torch.tensor([0.05, 0.4, 0.9])).long()
    thresholds_Y = multilabel.best_thresholds(logits_NY, sets_NY)
    for c in range(3):
        logits, true = logits_NY[:, c], sets_NY[:, c] > 0
        best = max(f1(logits >= cut, true) for cut in torch.cat([logits, logits + 0.01]))
        assert f1(logits >= thresholds_Y[c], true) == pytest.approx(best)


def test_a_threshold_lies_in_the_middle_and_close_to_a_half():
    found = multilabel.best_thresholds(
        torch.tensor([[-3.0, 2.0, 1.0], [-1.0, 4.0, -1.0]]), torch.tensor([[0, 1, 0], [1, 1, 0]])
    )
    assert found.tolist() == [-2.0, 0.0, 0.0], "between the two; all are predicted; never present"


def test_scores_are_those_of_scikit_learn():
    from sklearn.metrics import average_precision_score, f1_score

    rng = torch.Generator().manual_seed(0)
    logits_NY, true_NY = torch.randn(60, 4, generator=rng), random_sets(60)
    true_NY[:, 3] = 0  # a class that no image has
    margins_NY = logits_NY - torch.tensor([0.3, -0.2, 0.0, 9.0])
    predictions = torch.stack([logits_NY, margins_NY], 1)
    spec, task = Spec((1, 8, 8), ("a", "b", "c", "d")), Multilabel()
    metrics, scores = task.metrics(spec), {}
    for metric in metrics.values():
        for rows in torch.arange(60).split(7):
            metric.update(predictions[rows], true_NY[rows])
    for name, metric in metrics.items():
        scores |= models.named(name, metric.compute(), spec)
    each = [average_precision_score(true_NY[:, c], logits_NY[:, c]) for c in range(3)]
    assert scores["map"] == pytest.approx(np.mean(each))
    assert scores["average_precision/b"] == pytest.approx(each[1])
    assert "average_precision/d" not in scores
    predicted_NY = margins_NY >= 0
    of_three = f1_score(true_NY[:, :3], predicted_NY[:, :3], average="macro")
    assert scores["macro_f1"] == pytest.approx(of_three), "never present nor predicted: left out"
    assert scores["micro_f1"] == pytest.approx(f1_score(true_NY, predicted_NY, average="micro"))
    assert scores["threshold/a"] == pytest.approx(torch.tensor(0.3).sigmoid().item())
    assert scores["images/b"] == true_NY[:, 1].sum()


# Runs

TINY = ["dataset=multilabel_table", f"dataset.size={SIZE}", "dataset.workers=0", "encoder=conv",
        "encoder.channels=[8,16]", "encoder.code=16", "tracker=none", "hardware=cpu", "val=none", "monitors=false"]  # fmt: skip


def planted(folder, permuted=False):
    """180 images with a square of some colours, 60 of them tested; with permuted test labels."""
    rng = np.random.default_rng(5)
    rows = []
    for n in range(180):
        names = [
            c for c, rate in zip(COLOURS, (0.5, 0.35, 0.2), strict=True) if rng.random() < rate
        ]
        picture(folder / f"{n}.png", names, seed=n)
        rows.append([f"{n}.png", ";".join(names) or "none", "train" if n < 120 else "test"])
    if permuted:
        labels = [row[1] for row in rows[120:]]
        for row, label in zip(rows[120:], labels[7:] + labels[:7], strict=True):
            row[1] = label
    file = folder / ("permuted.csv" if permuted else "t.csv")
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([["file", "labels", "split"], *rows])
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    words = [f"dataset.table={planted(folder)}", "labels=30", "draws=2", "pretrainer=none",
             "finetune.steps=200", "optim.lr=0.003", "task.head=random", "controls=[raw_pixels]", "report=true"]  # fmt: skip
    with chdir(folder):  # a run points `outputs/latest` at itself
        return sft_exp.run([*TINY, *words, f"store={folder / 'store'}"], folder / "run")


def test_a_planted_problem_is_learnt(run):
    """By chance average precision is a class's frequency, 0.35 on average."""
    assert run["score"] == "map"
    assert run["test"]["map"] > 0.8
    assert run["test"]["macro_f1"] > 0.6
    assert run["test"]["average_precision/blue"] > 0.8
    assert run["data"]["labelled"] == 90
    page = (run.folder / "report.html").read_text()
    for words in ("average precision", "threshold", "blue", "Means over the labelled splits"):
        assert words in page
    assert "mAP" in page


def test_thresholds_are_of_the_labelled_images_and_not_of_the_test(run, tmp_path):
    """Permuted test labels change the scores and nothing of the model, not even its folder's name."""
    folder = run.folder.parent
    words = [f"dataset.table={planted(folder, permuted=True)}", "labels=30", "draws=2", "pretrainer=none",
             "finetune.steps=200", "optim.lr=0.003", "task.head=random", "controls=[]", "report=false"]  # fmt: skip
    other = sft_exp.run([*TINY, *words, f"store={tmp_path / 'store'}"], tmp_path / "run")
    assert other["test"]["map"] < run["test"]["map"] - 0.2
    here, there = (models.folder_of(r.folder) for r in (run, other))
    assert (here / "model.safetensors").read_bytes() == (there / "model.safetensors").read_bytes()
    model = models.load(here)
    names = json.loads((here / "labels.json").read_text())["labelled"]
    data = read(folder / "t.csv")
    images = data.train.at(torch.tensor([data.train.ids.index(name) for name in names]))
    with torch.no_grad():
        logits = model.predict(images.floats(torch.arange(90), torch.device("cpu")))[:, 0]
    expected = multilabel.best_thresholds(logits, images.target(LABEL_SET))
    assert torch.allclose(model.nets["thresholds"].logit, expected, atol=1e-4)
    assert model.nets["thresholds"].logit.abs().max() > 0


@pytest.mark.parametrize("words", [["val=holdout"], ["val=holdout", "task.thresholds=half"]])
def test_held_out_labels_choose_thresholds(run, tmp_path, words):
    folder = run.folder.parent
    more = [f"dataset.table={folder / 't.csv'}", "labels=20", "draws=1", "pretrainer=none",
            "finetune.steps=40", "controls=[]", "report=false"]  # fmt: skip
    made = sft_exp.run([*TINY, *more, *words, f"store={tmp_path / 'store'}"], tmp_path / "run")
    here = models.folder_of(made.folder)
    model, data = models.load(here), read(folder / "t.csv")
    held = json.loads((here / "labels.json").read_text())["validation"]
    assert 8 <= len(held) <= 16, "a fifth of 60"
    images = data.train.at(torch.tensor([data.train.ids.index(name) for name in held]))
    x = images.floats(torch.arange(len(held)), torch.device("cpu"))
    expected = multilabel.best_thresholds(model.predict(x)[:, 0], images.target(LABEL_SET))
    found = model.nets["thresholds"].logit
    assert torch.allclose(
        found, 0 * expected if "task.thresholds=half" in words else expected, atol=1e-4
    )


def frozen(run, folder, *words):
    """The score of a head on a frozen encoder."""
    table = run.folder.parent / "t.csv"
    more = [f"dataset.table={table}", "labels=30", "draws=1", "finetune.steps=150", "controls=[]", "report=false"]  # fmt: skip
    return sft_exp.run([*words, *more, f"store={folder / 'store'}"], folder / "run")


@pytest.mark.parametrize("strategy", ["linear", "logistic"])
def test_heads_on_a_random_encoder_are_above_chance(run, tmp_path, strategy):
    made = frozen(run, tmp_path, *TINY, "pretrainer=none", f"strategy={strategy}", "optim.lr=0.01")
    assert made["test"]["map"] > 0.45


def test_cross_validation_scores_a_head_on_stored_features(run, tmp_path):
    fixed = [w for w in TINY if not w.startswith(("encoder", "val="))]
    made = frozen(run, tmp_path, *fixed, "pretrainer=pca", "encoder=projection", "strategy=logistic", "val=cv")  # fmt: skip
    assert 0.3 < made["val"]["map"] <= 1
    assert abs(made["val"]["map"] - made["test"]["map"]) < 0.3


def test_joint_training_keeps_the_thresholds(run, tmp_path):
    folder = run.folder.parent
    more = [f"dataset.table={folder / 't.csv'}", "labels=20", "draws=1", "pretrainer=none", "task=joint",
            "task.task=multilabel", "task.objective=ae", "finetune.steps=10", "controls=[]", "report=false"]  # fmt: skip
    made = sft_exp.run([*TINY, *more, f"store={tmp_path / 'store'}"], tmp_path / "run")
    model = models.load(models.folder_of(made.folder))
    assert model.nets["thresholds"].logit.abs().max() > 0


def test_predictions_of_files(run):
    folder = run.folder.parent
    out = io.StringIO()
    assert (
        predict(inference.load(run.folder), [str(folder / "120.png"), str(folder / "121.png")], out)
        == []
    )
    rows = list(csv.DictReader(io.StringIO(out.getvalue())))
    assert list(rows[0]) == ["file", "labels", *COLOURS]
    loaded = sft_exp.load(run.folder)
    files = [row["file"] for row in rows]
    p_NY, names = loaded.predict(files), loaded.classify(files)
    for row, p_Y, present in zip(rows, p_NY.tolist(), names, strict=True):
        assert [float(row[c]) for c in COLOURS] == pytest.approx(p_Y, abs=1e-4)
        assert row["labels"] == (";".join(present) or "none")
    assert p_NY.sum(1).tolist() != pytest.approx([1.0, 1.0])
    lines = io.StringIO()
    predict(inference.load(run.folder), files, lines, "jsonl")
    assert [json.loads(line)["labels"] for line in lines.getvalue().splitlines()] == names


def test_predicted_labels_can_be_read_as_labels(run):
    """`none` is none of the classes there, too."""
    folder, out = run.folder.parent, io.StringIO()
    predict(inference.load(run.folder), [str(folder / f"{n}.png") for n in range(120, 180)], out)
    (folder / "predicted.csv").write_text(out.getvalue())
    data = read(folder / "predicted.csv")
    assert data.classes == COLOURS
    assert data.extra is None
    assert not data.train.target(LABEL_SET).any(1).all(), "some have none"


def test_the_server_names_several_classes(run):
    model = inference.load(run.folder)
    content = (run.folder.parent / "3.png").read_bytes()
    found = answer(model, content)
    assert set(found) == {"classes", "probabilities", "thresholds"}
    present = {c for c, p in found["probabilities"].items() if p >= found["thresholds"][c]}
    assert {*found["classes"]} == present


def test_an_evaluation_matches_classes_by_name(run):
    """The same images in a table with columns in another order, and one class that it lacks."""
    folder = run.folder.parent
    own = sft_exp.load(run.folder).evaluate()
    data = read(folder / "t.csv")
    sets = sets_of(data.test, data.classes)
    lines = ["file,red,green,blue"]
    lines += [f"{n},{','.join(str(int(c in s)) for c in ('red', 'green', 'blue'))}" for n, s in sets.items()]  # fmt: skip
    (folder / "columns.csv").write_text("\n".join(lines) + "\n")
    moved = sft_exp.load(run.folder).evaluate(f"dataset.table={folder / 'columns.csv'}")
    assert moved.scores == pytest.approx(own.scores)
    assert own.scores["map"] > 0.8
    rows = {row[0]: row for row in moved.of_classes[1]}
    assert set(rows) == {*COLOURS}
    (folder / "fewer.csv").write_text("\n".join(",".join(x.split(",")[:3]) for x in lines) + "\n")
    fewer = sft_exp.load(run.folder).evaluate(f"dataset.table={folder / 'fewer.csv'}")
    assert fewer.absent == ("blue",)
    assert fewer.scores["average_precision/red"] == pytest.approx(
        own.scores["average_precision/red"]
    )
    (folder / "unknown.csv").write_text("file,labels\n120.png,purple\n121.png,red\n")
    with pytest.raises(DataError, match="does not know 'purple'"):
        sft_exp.load(run.folder).evaluate(f"dataset.table={folder / 'unknown.csv'}")


def test_an_exported_graph_predicts_the_same(run, tmp_path):
    from sft_exp.core.deploy import Finished
    from sft_exp.core.task import Network
    from sft_exp.models import graphs

    for name in graphs.LIBRARIES:
        pytest.importorskip(name, reason="the extra `export` brings them")
    model = models.load(models.folder_of(run.folder))
    network = Network(model.task, model.nets)
    graph = graphs.export_onnx(network, model.spec)
    facts = graphs.metadata(Finished(model.spec, network, graph, ""))
    (tmp_path / "model.onnx").write_bytes(graphs.with_metadata(graph, facts))
    loaded, own = inference.load(tmp_path / "model.onnx"), inference.load(run.folder)
    assert torch.allclose(loaded.thresholds, own.thresholds, atol=1e-5)
    x = torch.randint(0, 256, (4, 3, SIZE, SIZE), dtype=torch.uint8)
    assert torch.allclose(loaded.probabilities(x), own.probabilities(x), atol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["strategy=svm"], "strategy=svm: is for tasks that predict classes or pixels, and multilabel predicts label sets"),
        (["strategy=knn"], "and multilabel predicts label sets"),
        (["compress=int8"], "is for tasks that predict classes, and multilabel predicts label sets"),
        (["finetune.sampler=class"], "balances classes of images, and multilabel predicts label sets"),
        (["metrics=[top_k]"], "is of tasks that predict classes, and this one predicts label sets"),
        (["task=classify"], "learns from classes, and dataset=multilabel_table has label_set; data sets that have them: "),
        (["task.thresholds=best"], "must be f1 or half"),
        (["score=accuracy"], "this task is judged by map"),
        (["controls=[raw_svm]"], "true, false, or a list of"),
        (["task=multitask", "task.heads={label_set: multilabel}"], "without thresholds"),
    ],
    ids=str,
)  # fmt: skip
def test_what_needs_one_class_is_refused(experiment, tmp_path, words, message):
    file = table(tmp_path, *FORMS["semicolons"], "4.png,cat", "5.png,cat;dog")
    with pytest.raises(ConfigError) as error:
        prepare.prepare(experiment(*TINY, f"dataset.table={file}", "labels=all", "draws=1", *words))
    assert message in str(error.value)
