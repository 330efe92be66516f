"""A finished run's model scored on other labelled images, against scikit-learn and the run itself."""

import contextlib
import csv
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, roc_auc_score

import sft_exp
from sft_exp.core.arms import MAIN
from sft_exp.core.types import LABEL_SET, Spec
from sft_exp.data import splits
from sft_exp.data.images import Images as ImageSet
from sft_exp.datasets.image_folder import ImageFolder
from sft_exp.errors import ConfigError, DataError
from sft_exp.evaluate import __main__ as command
from sft_exp.evaluate import evaluation as evaluations
from sft_exp.evaluate import images as image_sets
from sft_exp.evaluate import page
from sft_exp.reports import classification
from sft_exp.stages import model
from sft_exp.tasks.classify import Classify
from sft_exp.tasks.detect import Detect
from sft_exp.tasks.multilabel import Multilabel
from sft_exp.tasks.regress import Regress
from sft_exp.tasks.segment import Segment

SMALL = (
    "pretrainer=none", "finetune.steps=30", "draws=2", "controls=false", "labels=10",
    "tracker=none", "hardware=cpu", "report=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Overrides -> the folder of a finished run on the embedded digits."""
    root, made = tmp_path_factory.mktemp("evaluate"), {}

    def make(*overrides):
        if overrides not in made:
            with contextlib.chdir(root):
                folder = root / f"run{len(made)}"
                sft_exp.run([*SMALL, f"store={root}/store", *overrides], folder)
            made[overrides] = folder
        return made[overrides]

    return make


@pytest.fixture
def held_out(run):
    """A run whose validation images are inside of the label budget."""
    return run("val=holdout", "metrics=[top_k]", "labels=20")


def pictures(folder, images, names, rows=None):
    """The images as PNGs in the folders of their classes."""
    for n in range(len(images)) if rows is None else rows:
        path = Path(folder) / names[images.y[n]] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.raw(n)[0].numpy()).save(path)
    return f"dataset.root={folder}"


def test_on_its_own_test_images_it_scores_what_the_run_says(held_out):
    scored = evaluations.evaluate(held_out)
    said = json.loads((held_out / "results.json").read_text())
    assert scored.scores["accuracy"] == pytest.approx(said["draws"][MAIN][0])
    assert scored.splits == 2
    low, high = scored.interval
    assert low < scored.scores["accuracy"] < high
    assert scored.calibration.ece == pytest.approx(scored.scores["ece"], abs=1e-5)


def test_the_calibration_error_is_that_of_torchmetrics():
    from torchmetrics.functional.classification import multiclass_calibration_error

    rng = np.random.default_rng(0)
    p_NK = rng.dirichlet([0.3] * 4, 500)
    p_NK[:2] = [[1, 0, 0, 0], [0.4, 0.2, 0.2, 0.2]]  # on the edges of bins
    true_N = rng.integers(0, 4, 500)
    theirs = multiclass_calibration_error(
        torch.tensor(p_NK), torch.tensor(true_N), 4, n_bins=classification.BINS
    )
    assert classification.ece(p_NK, true_N) == pytest.approx(float(theirs), rel=1e-6)


def test_a_runs_report_says_of_its_test_images_what_this_command_does(held_out):
    """The same tables and the same temperature, and more pictures."""
    folder = Path("again")
    words = [*SMALL[:-1], "report=true", "val=holdout", "metrics=[top_k]", "labels=20"]
    with contextlib.chdir(held_out.parent):
        sft_exp.run([*words, f"store={held_out.parent}/store"], folder.absolute())
        text = Path(folder, "report.html").read_text()
    scored = evaluations.evaluate(held_out)
    assert scored.calibration.temperature is not None
    assert classification.about_calibration(scored) in unescape(text)
    shown = rows_of(text)
    assert {*map(tuple, classification.classes_table(scored)[1])} <= shown
    assert {*map(tuple, classification.mistakes_table(scored, 12)[1])} <= shown
    names = ("auroc", "average_precision", "log_loss", "top_2", "top_3", "top_5")
    assert {(n, classification.shown(n, scored.scores[n])) for n in names} <= shown
    titles = Images(text).titles
    assert {"Calibration", "Precision and recall", "Most confident mistakes"} <= {*titles}
    file = held_out.parent / folder / "calibration.png"
    with Image.open(file) as drawn:
        assert drawn.size[0] > 500


def rows_of(text):
    """The rows of all tables of a page, as tuples of texts."""
    lines = re.findall(r"<tr>(.*?)</tr>", text, re.S)
    return {tuple(map(unescape, re.findall(r"<td[^>]*>(.*?)</td>", line))) for line in lines}


def test_scores_of_new_images_are_those_of_their_predictions(held_out, digits):
    names = digits.classes
    root = pictures("new", digits.test, names, range(0, 400))
    scored = evaluations.evaluate(held_out, ["dataset=image_folder", root])
    files = sorted(Path("new").glob("*/*.png"))
    p_NK = sft_exp.load(held_out).predict(files).double().numpy()
    y_N = np.array([names.index(f.parent.name) for f in files])
    assert scored.images == 400
    assert scored.scores["accuracy"] == pytest.approx(accuracy_score(y_N, p_NK.argmax(1)))
    assert scored.scores["auroc"] == pytest.approx(
        roc_auc_score(y_N, p_NK / p_NK.sum(1, keepdims=True), multi_class="ovr"), abs=1e-4
    )
    for k, row in enumerate(scored.classes):
        assert row.images == (y_N == k).sum()
        assert row.recall == pytest.approx((p_NK.argmax(1) == k)[y_N == k].mean())
    assert np.sum(scored.confusion) == 400
    assert np.trace(scored.confusion) == (y_N == p_NK.argmax(1)).sum()


def test_classes_are_matched_by_name(held_out, digits):
    """With fewer classes the folders' numbers are others than the model's."""
    names, few = digits.classes, digits.test.at((digits.test.y >= 6).nonzero().flatten())
    scored = evaluations.evaluate(held_out, ["dataset=image_folder", pictures("few", few, names)])
    whole = evaluations.evaluate(held_out)
    for k in range(6, 10):
        assert scored.classes[k].recall == pytest.approx(whole.classes[k].recall)
    assert scored.absent == names[:6]
    assert any("Classes without an image" in note for note in page.notes(scored))


@pytest.mark.parametrize("kept", [(3,), (0, 9)])
def test_one_class_is_enough_to_be_scored(held_out, digits, kept, capsys):
    rows = [n for n, y in enumerate(digits.test.y.tolist()) if y in kept]
    root = pictures("few", digits.test, digits.classes, rows)
    assert command.main([str(held_out), "dataset=image_folder", root, "out=here"]) == 0
    content = json.loads(Path("here/evaluation.json").read_text())
    whole = evaluations.evaluate(held_out)
    recalls = [whole.classes[k].recall for k in kept]
    found = {c["name"]: c["recall"] for c in content["classes"] if c["images"]}
    assert found == pytest.approx(
        dict(zip((digits.classes[k] for k in kept), recalls, strict=True))
    )
    assert len(content["absent"]) == 10 - len(kept)
    said = capsys.readouterr().out
    assert f"classes with images ({len(kept)} of 10) is {100 * np.mean(recalls):.1f} %" in said
    assert "judge by balanced accuracy" not in said


@pytest.mark.parametrize("part", ["test", "val"])
def test_a_folder_of_test_images_alone_is_scored(held_out, digits, part):
    pictures(f"later/{part}", digits.test, digits.classes, range(60))
    scored = evaluations.evaluate(held_out, ["dataset=image_folder", "dataset.root=later"])
    pictures("plain", digits.test, digits.classes, range(60))
    plain = evaluations.evaluate(held_out, ["dataset=image_folder", "dataset.root=plain"])
    assert scored.images == 60
    assert scored.scores == plain.scores


def noise_images(folder, first=0, count=12):
    for n in range(count):
        pixels = np.random.default_rng(first + n).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Path(folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(Path(folder, f"{n}.png"))


def written(name, header, row):
    """A table of the images in a folder, as overrides."""
    lines = [header, *(f"{n}.png,{row(n)}" for n in range(12))]
    Path(f"{name}.csv").write_text("\n".join(lines))
    noise_images(name, ord(name[0]))
    return [
        f"dataset.table={Path(f'{name}.csv').absolute()}",
        f"dataset.root={Path(name).absolute()}",
    ]


def masked(name, most):
    """Images with masks of the values 0 to `most`, as overrides."""
    noise_images(f"{name}/images", ord(name[0]))
    Path(name, "masks").mkdir()
    for n in range(12):
        rows_HW = np.arange(16, dtype=np.uint8).repeat(16).reshape(16, 16)
        Image.fromarray(np.minimum(rows_HW // 8, most)).save(Path(name, "masks", f"{n}.png"))
    return [f"dataset.root={Path(name).absolute()}"]


@pytest.mark.parametrize(
    ("words", "make", "absent"),
    [
        (
            ["dataset=mask_folder", "task=segment"],
            (lambda: masked("learnt", 1), lambda: masked("scored", 0)),
            ("object",),
        ),
        (
            ["dataset=multilabel_table", "task=multilabel"],
            (
                lambda: written("learnt", "file,cat,dog", lambda n: f"{n % 2},{n // 2 % 2}"),
                lambda: written("scored", "file,cat,dog", lambda n: "1,0"),
            ),
            ("dog",),
        ),
        (
            ["dataset=multilabel_table", "task=multilabel"],
            (
                lambda: written("learnt", "file,labels", lambda n: ("cat", "dog", "none")[n % 3]),
                lambda: written("scored", "file,labels", lambda n: "none"),
            ),
            ("cat", "dog"),
        ),
        (
            ["dataset=number_table", "task=regress"],
            (
                lambda: written("learnt", "file,target", lambda n: n % 7),
                lambda: written("scored", "file,target", lambda n: 3),
            ),
            (),
        ),
    ],
)
def test_annotations_of_one_value_are_enough_to_be_scored(run, words, make, absent):
    learnt, scored = (each() for each in make)
    small = ["labels=all", "draws=1", "dataset.size=16", "dataset.workers=0", "encoder=conv"]
    evaluation = evaluations.evaluate(run(*words, *small, *learnt), scored)
    assert evaluation.absent == absent
    assert evaluation.images == 12
    assert page.text(evaluation)


MASKS_N44 = torch.tensor([0, 1, 255, 2]).to(torch.uint8).view(1, 4, 1).expand(2, 4, 4)
BOXES = {
    "boxes": torch.rand(2, 3, 4),
    "labels": torch.tensor([[1, 2, 0], [2, 0, 0]]),
    "crowd": torch.zeros(2, 3, dtype=torch.long),
}
SETS_N2 = torch.tensor([[1, 0], [0, 1]], dtype=torch.uint8)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    ("task", "classes", "targets", "target", "expected", "absent"),
    [
        # pixels: 255 is not annotated; of boxes 0 is none
        (Segment(), "0cb", {"mask": MASKS_N44}, "mask", {0, 3, 255, 2}, ("a",)),
        (Segment(), "0ab", {"mask": MASKS_N44}, "mask", {0, 1, 255, 2}, ("c",)),
        (Detect(), "ca", BOXES, "labels", {4, 2, 0}, ("0", "b")),
        (Multilabel(), "cb", {LABEL_SET: SETS_N2}, LABEL_SET, {0, 1}, ("0", "a")),
        (Classify(), "cb", {}, "y", {3, 2}, ("0", "a")),
        (Regress(), "", {"value": torch.rand(2, 1)}, "value", None, ()),
    ],
)
def test_classes_of_every_kind_are_matched_by_name(
    task, classes, targets, target, expected, absent, in_memory
):
    held = (
        targets
        if in_memory or LABEL_SET in targets
        else {k: v.__getitem__ for k, v in targets.items()}
    )
    pair = ImageSet(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), ["a", "b"], targets=held)
    ours, theirs = Spec((1, 4, 4), tuple("0abc")), Spec((1, 4, 4), tuple(classes))
    found, missing = image_sets.matched(pair.at(torch.tensor([1, 0])), theirs, task, ours)
    assert missing == absent
    values = found.y if target == "y" else found.target(target)
    if expected is None:
        assert torch.equal(values, targets[target].flip(0))
        return
    assert {*values.flatten().tolist()} == expected
    batch = next(found.batches([torch.tensor([0, 1])], torch.device("cpu")))
    assert torch.equal(batch[target].long(), values.long())
    with pytest.raises(DataError, match="does not know 'x'"):
        image_sets.matched(pair, Spec((1, 4, 4), ("x", *classes[1:])), task, ours)


def test_masks_of_a_folder_without_a_class_are_scored_by_name(run):
    """The folder of later images has class b alone, whose number is 1 there and 2 in the model."""
    for name, labels in (("first", "ab"), ("later", "b")):
        for n in range(6):
            picture = Image.new("RGB", (16, 16))
            shapes = []
            for k, label in enumerate(labels):
                corner = (2 + 7 * k, n, 8 + 7 * k, n + 6)
                picture.paste({"a": (220, 30, 30), "b": (30, 30, 220)}[label], corner)
                points = [[corner[0], corner[1]], [corner[2], corner[3]]]
                shapes.append({"label": label, "points": points, "shape_type": "rectangle"})
            Path(name).mkdir(exist_ok=True)
            picture.save(Path(name, f"{n}.png"))
            about = {"imagePath": f"{n}.png", "imageHeight": 16, "imageWidth": 16}
            Path(name, f"{n}.json").write_text(json.dumps({**about, "shapes": shapes}))
    words = [
        "dataset=polygons", "dataset.size=16", "task=segment", "encoder=conv", "labels=all",
        "draws=1",
    ]  # fmt: skip
    trained = run(*words, f"dataset.root={Path('first').absolute()}")
    later = f"dataset.root={Path('later').absolute()}"
    by_name = evaluations.evaluate(trained, [later])
    as_listed = evaluations.evaluate(trained, [later, "dataset.classes=[a,b]"])
    assert by_name.scores == as_listed.scores
    assert by_name.absent == ("a",)


@pytest.mark.parametrize("wrong", ["seven", "07", "Zero"])
def test_a_class_that_the_model_does_not_know_is_refused_with_both_lists(held_out, digits, wrong):
    names = (*digits.classes[:9], wrong)
    root = pictures("wrong", digits.test, names, range(100))
    with pytest.raises(DataError) as raised:
        evaluations.evaluate(held_out, ["dataset=image_folder", root])
    assert repr(wrong) in str(raised.value)
    assert f"classes of the model: {', '.join(digits.classes)}" in str(raised.value)
    assert f"classes of the images: {', '.join(sorted(names))}" in str(raised.value)


def test_copies_of_images_that_the_run_learnt_from_are_named(held_out, digits):
    """Also where both sets give their files the same names."""
    learnt = splits.make(digits, splits.Labels("20"), 0).labelled
    pictures("mixed", learnt, digits.classes, range(20))
    root = pictures("mixed", digits.test, digits.classes, range(100, 160))
    scored = evaluations.evaluate(held_out, ["dataset=image_folder", root])
    copied = {name for name, _, _ in scored.copies}
    assert copied >= {f"{digits.classes[learnt.y[n]]}/{n}.png" for n in range(20)}
    assert len(copied) < scored.images
    right = scored.predictions.predicted == scored.predictions.true
    apart = [name not in copied for name in scored.predictions.ids]
    assert scored.scores["accuracy_apart"] == pytest.approx(right[apart].mean())


def test_the_temperature_is_fitted_on_held_out_labels_alone(held_out, digits, monkeypatch):
    seen = []
    fit = classification.temperature
    monkeypatch.setattr(
        classification, "temperature", lambda *given: seen.append(given) or fit(*given)
    )
    first = evaluations.evaluate(held_out).calibration
    other = pictures("other", digits.test, digits.classes, range(80))
    second = evaluations.evaluate(held_out, ["dataset=image_folder", other]).calibration
    assert first.temperature == second.temperature != 1
    folder = Path(
        json.loads((held_out / "results.json").read_text())["stages"]["finetune"]["folder"]
    )
    validation = json.loads((folder / "labels.json").read_text())["validation"]
    assert {len(y_N) for _, y_N in seen} == {len(validation)} == {first.fitted_on}
    # at its minimum: both neighbours are worse
    logits_NK, y_N = seen[0]
    at = [
        classification.loss(classification.softmax(logits_NK / (first.temperature * f)), y_N)
        for f in (0.9, 1.0, 1.1)
    ]
    assert at[1] == min(at)


def test_labels_that_the_model_gets_all_right_fit_no_temperature(held_out, monkeypatch):
    scored, own = evaluations.image_sets.own(held_out)
    model = evaluations.models.load(evaluations.models.folder_of(held_out))
    _, logits_MK = evaluations.measured(model, (), own.held_out, torch.device("cpu"))
    right = own.held_out.at((logits_MK.argmax(1) == own.held_out.y).nonzero().flatten())
    easy = evaluations.image_sets.Own(own.pools, right)
    monkeypatch.setattr(evaluations.image_sets, "own", lambda run: (scored, easy))
    calibration = evaluations.evaluate(held_out).calibration
    assert calibration.temperature is None
    assert "right on all" in calibration.why


@pytest.mark.parametrize("val", ["none", "cv", "full"])
@pytest.mark.sampled(1)
def test_without_held_out_labels_inside_the_budget_there_is_no_temperature(run, val):
    calibration = evaluations.evaluate(run(f"val={val}")).calibration
    assert calibration.temperature is None
    assert "val=holdout" in calibration.why or "outside the label budget" in calibration.why


def test_a_model_without_probabilities_is_scored_without_them(run):
    scored = evaluations.evaluate(run("strategy=svm", "val=none"))
    assert scored.calibration is None
    assert not {"ece", "auroc", "log_loss"} & scored.scores.keys()
    assert {"accuracy", "f1", "top_2"} <= scored.scores.keys()
    page.write(scored, Path("svm"), 12, True)
    assert (
        (Path("svm") / "predictions.csv").read_text().startswith("file,label,predicted,correct\n")
    )


class Images(HTMLParser):
    """Titles of the pictures of a page."""

    def __init__(self, text):
        super().__init__()
        self.titles, self.loads = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        about = dict(attrs)
        if tag == "img":
            self.titles.append(about["alt"])
        self.loads += [v for k, v in about.items() if k in ("src", "href")]


def test_the_files_of_the_command(held_out, digits, capsys):
    root = pictures("new", digits.test, digits.classes, range(0, 300))
    words = [str(held_out), "dataset=image_folder", root, "out=here"]
    assert command.main(words) == 0
    out = capsys.readouterr().out
    assert "accuracy" in out
    assert out.splitlines()[-1] == "here/evaluation.html"
    content = json.loads(Path("here/evaluation.json").read_text())
    rows = list(csv.DictReader(Path("here/predictions.csv").read_text().splitlines()))
    assert len(rows) == content["images"] == 300
    right = [row["correct"] == "1" for row in rows]
    assert np.mean(right) == pytest.approx(content["scores"]["accuracy"])
    for row in rows[:20]:
        best = max(digits.classes, key=lambda name: float(row[f"p({name})"]))
        assert best == row["predicted"]
    shown = Images(Path("here/evaluation.html").read_text())
    assert shown.titles == [
        "Confusion matrix",
        "Calibration",
        "Precision and recall",
        "Most confident mistakes",
    ]
    assert all(load.startswith("data:image/png;base64,") for load in shown.loads)
    assert command.main([*words, "images=false"]) == 0
    assert "Most confident mistakes" not in Images(Path("here/evaluation.html").read_text()).titles


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["dataset=image_foldr"], 2, "did you mean dataset=image_folder?"),
        (["dataset.rot=x"], 2, "dataset.rot"),
        (["dataset=image_folder", "dataset.root=gone"], 3, "no such folder"),
        (["dataset=image_folder"], 2, "dataset.root"),
    ],
)
def test_what_is_wrong_is_said(held_out, capsys, words, code, said):
    assert command.main([str(held_out), *words]) == code
    assert said in capsys.readouterr().err


def test_from_python(held_out):
    scored = sft_exp.load(held_out).evaluate()
    assert scored.scores["top_5"] > scored.scores["accuracy"]
    assert "Confusion matrix" in scored._repr_html_()
    with pytest.raises((ConfigError, DataError)):
        sft_exp.load(held_out).evaluate("dataset.root=gone")


def test_images_of_a_run_whose_data_set_is_gone(run, digits):
    """The model still scores other images; what cannot be checked is said."""
    pictures("photos/train", digits.train, digits.classes, range(200))
    pictures("photos/test", digits.test, digits.classes, range(100))
    photos = f"dataset.root={Path('photos').absolute()}"
    own = ["dataset=image_folder", photos, "labels=10", "encoder=mlp"]
    folder = run(*own, "val=holdout", "dataset.size=8", "dataset.channels=1", "auto=false")
    root = pictures("later", digits.test, digits.classes, range(100, 200))
    inherited = evaluations.evaluate(folder, [root])
    assert inherited.calibration.fitted_on > 0
    assert inherited.images == 100
    Path("photos").rename("elsewhere")
    from sft_exp.training import context

    context._corpora.clear()
    alone = evaluations.evaluate(folder, [root])
    assert alone.scores["accuracy"] == inherited.scores["accuracy"]
    assert alone.calibration.temperature is None
    assert any("Not checked for copies" in note for note in page.notes(alone))
    with pytest.raises(DataError):
        evaluations.evaluate(folder)


@pytest.mark.parametrize("together", [1, 7, 64])
def test_scores_do_not_depend_on_how_many_images_are_evaluated_at_once(
    run, digits, monkeypatch, together
):
    loaded = model.load(model.folder_of(run()))
    tested = digits.test.at(torch.arange(150))  # the last batch is a part of one
    expected, records = model.measure(loaded, tested, torch.device("cpu"))
    monkeypatch.setattr(model, "at_once", lambda images: together)
    scores, again = model.measure(loaded, tested, torch.device("cpu"))
    assert scores["accuracy"] == expected["accuracy"]
    assert scores == pytest.approx(expected, abs=1e-6)
    assert torch.equal(records["predicted"], again["predicted"])


@pytest.mark.parametrize(
    ("name", "text"),
    [("accuracy", "40.0 %"), ("log_loss", "0.4"), ("mae", "0.4"), ("age/rmse", "0.4")],
)
def test_a_score_with_a_unit_of_its_own_is_no_percentage(name, text):
    assert classification.shown(name, 0.4) == text


@pytest.mark.parametrize(("learnt", "high"), [(None, 1023), ((0, 4095), 4095), ((0, 65535), 65535)])
def test_images_of_more_bits_have_one_scale(learnt, high):
    """The model's, or without one that of their data set: a dark image stays darker than a light one."""
    for number, light in enumerate((100, 1000)):
        for name in ("cat", "dog"):
            Path("deep", name).mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng((number, len(name), ord(name[0])))
            values = rng.integers(light // 2, light, (8, 8))
            Image.fromarray(values.astype(np.uint16)).save(f"deep/{name}/{light}.png")
    corpus = ImageFolder(root="deep", size=8, channels=1).load()
    assert corpus.levels == (0, 1023)
    spec = Spec((1, 8, 8), ("cat", "dog"), levels=learnt)
    read = image_sets.read_alike(corpus.train, corpus, spec)
    for row, name in enumerate(read.ids):
        values = np.asarray(Image.open(corpus.files[name]))
        expected = (values * 256.0 / (high + 1)).clip(0, 255).astype(np.uint8)
        assert read.raw(row)[0].tolist() == expected.tolist()


def test_a_run_judged_by_balanced_accuracy_is_evaluated_by_it(tmp_path):
    """As a folder of unequal classes is by itself; accuracy had its place, and its interval."""
    words = ["dataset=digits", "debug=tiny", "pretrainer=none", "controls=false", "report=false"]
    run = tmp_path / "run"
    result = sft_exp.run([*words, "score=balanced_accuracy", f"store={tmp_path / 'store'}"], run)
    assert command.main([str(run)]) == 0
    scored = evaluations.evaluate(run)
    assert scored.score == "balanced_accuracy"
    assert scored.scores[scored.score] == pytest.approx(result.result.tested)
    assert scored.interval is None
    assert page.headline(scored).startswith("balanced accuracy 7")
