"""Cells of labels as spreadsheets and programs write them: read as they are meant, refused with the way
out, or warned of."""

import json
from pathlib import Path

import numpy as np
import pytest
from found_inputs import folder, hot, numbers, sets, table, warnings

from sft_exp.data.readers import findings
from sft_exp.errors import DataError

each = pytest.mark.parametrize


# Lists of labels in one cell


@each("name", ["cat dog", "cat;dog", "cat, dog", "cat|dog", "cat/dog", "cat+dog", "cat & dog"])
def test_labels_that_are_several_classes_have_one_warning(name):
    table(lambda n: f'{n}.png,"{("cat", "dog", name)[n % 3]}"', "file,label")
    (said,) = folder(Path("im"), labels="t.csv").report["warnings"]
    sign = name.removeprefix("cat").removesuffix("dog").strip() or " "
    assert f"dataset=multilabel_table 'dataset.separator=\"{sign}\"'" in said


@each("name", ["cat dog", "cat/dog", "cat+dog", "cat & dog"])
def test_separators_that_are_not_looked_for_are_named(name):
    table(lambda n: f"{n}.png,{('cat', 'dog', name)[n % 3]}", "file,labels")
    sign = name.removeprefix("cat").removesuffix("dog").strip() or " "
    (said,) = sets().report["warnings"]
    assert f"'dataset.separator=\"{sign}\"' separates the classes" in said
    assert sets(separator=sign).classes == ("cat", "dog")


@each("names", [("red fox", "fox"), ("ice cream", "ice"), ("red_fox", "red", "fox"), ("a b", "c")])
def test_names_of_several_words_are_one_class(names):
    assert not findings.check_class_names(names)


LISTS = {
    "Python": lambda names: str(names),
    "JSON": json.dumps,
    "set": lambda names: "{" + ", ".join(map(repr, names)) + "}" if names else "[]",
    "tuple": lambda names: str(tuple(names)),
    "NumPy": lambda names: str(np.array(names)) if names else "[]",
    "Label Studio": lambda names: json.dumps({"choices": names}),
}


def listed(kind, names):
    return LISTS[kind](names).replace('"', '""')


@each("kind", LISTS)
def test_lists_as_programs_write_them_are_lists(kind):
    wanted = [["cat", "dog"], ["dog"], ["red fox, small", "cat"], []] * 2
    table(lambda n: f'{n}.png,"{listed(kind, wanted[n])}"', "file,labels")
    corpus = sets()
    assert corpus.classes == ("cat", "dog", "red fox, small")
    rows = corpus.train.target("label_set").tolist()
    assert [[c for c, v in zip(corpus.classes, r, strict=True) if v] for r in rows] == [
        sorted(names) for names in wanted
    ]
    assert not warnings(corpus)


@each("kind", LISTS)
def test_lists_of_labels_are_no_class(kind):
    table(lambda n: f'{n}.png,"{listed(kind, [("cat", "dog")[n % 2]])}"', "file,label")
    with pytest.raises(DataError, match=r"line 2: label is .*cat.*dataset=multilabel_table reads"):
        folder(Path("im"), labels="t.csv")


@each("cell", ["[cat, dog]", "{cat}", "[None, 'cat']", "[nan]", "[1, 0, 0, 1]", "{'cat': 1}"])
def test_lists_that_cannot_be_read_are_refused(cell):
    table(lambda n: f'{n}.png,"{cell if n else "dog"}"', "file,labels")
    with pytest.raises(DataError, match=r"line 3: labels is .*(no list of names|twice)"):
        sets()


def test_brackets_in_names():
    table(lambda n: f'{n}.png,"{("(other)", "a (b)", "c")[n % 3]}"', "file,label")
    assert not warnings(folder(Path("im"), labels="t.csv"))
    table(lambda n: f'{n}.png,"{("[UNK]", "{x}", "c")[n % 3]}"', "file,label")
    assert "classes '[UNK]', '{x}' are written like a list" in warnings(
        folder(Path("im"), labels="t.csv")
    )


# Columns of 0 and 1


@each("cell", ["nan", "2", "0.6", "x", "?", "-"])
def test_an_odd_cell_does_not_remove_a_class(cell):
    table(lambda n: f"{n}.png,{n % 2},{cell if n == 5 else n // 2 % 2}", "file,cat,dog")
    with pytest.raises(DataError, match=r"line 7: dog is '.*'.*dataset\.classes="):
        sets()
    assert sets(classes=["cat"]).classes == ("cat",)


@each("values", [(3, 41, 0, 7), ("low", "high"), (0.1, 0.7, 0.4)])
def test_columns_of_other_values_are_no_class(values):
    table(lambda n: f"{n}.png,{hot(n)},{values[n % len(values)]}", "file,cat,dog,other")
    corpus = sets()
    assert corpus.classes == ("cat", "dog")
    assert not warnings(corpus)


@each("words", [("WAHR", "FALSCH"), ("VRAI", "FAUX"), ("y", "n"), ("Yes", "No")])
def test_words_for_yes_and_no(words):
    table(lambda n: f"{n}.png;{words[n % 2]};{words[n // 2 % 2]}", "file;cat;dog")
    corpus = sets()
    assert corpus.train.target("label_set")[:2].tolist() == [[1, 1], [0, 1]]


def test_other_marks_are_answered_with_the_words():
    table(lambda n: f"{n}.png,{'x' * (n % 2)},{'x' * (n // 2 % 2)}", "file,cat,dog")
    with pytest.raises(DataError, match="valid: 0 and 1, false and true, no and yes"):
        sets()


def test_columns_of_0_and_1_are_no_labels_of_folders():
    table(lambda n: f"{n}.png,{hot(n)},{n}", "file,cat,dog,age")
    with pytest.raises(DataError, match=r"dataset=multilabel_table dataset\.table=t\.csv"):
        folder(Path("im"), labels="t.csv")


# Labels that are no classes


@each(
    ("label", "words"),
    [
        (lambda n: f"{1 + 0.37 * n:.2f}", "8 images have 8 classes, which are numbers (1.00, 1.37"),
        (lambda n: f"{n // 2 + n % 3 / 3:.2f}", "did you mean dataset=number_table?"),
        (lambda n: f"{1 + 0.37 * n:.2f}".replace(".", ","), "did you mean dataset=number_table?"),
        (lambda n: f"{n}", "did you mean dataset=number_table?"),
        (lambda n: f"IMG_{n:03}", "8 images have 8 classes, so that each has a class of its own"),
    ],
)
def test_labels_that_are_no_classes_are_warned_of(label, words):
    table(lambda n: f"{n}.png;{label(n)}", "file;label")
    (said,) = folder(Path("im"), labels="t.csv").report["warnings"]
    assert words in said


@each("label", [lambda n: n % 4, lambda n: f"{n % 3 / 2}", lambda n: f"c{n % 4}"])
def test_labels_that_are_classes_are_not(label):
    table(lambda n: f"{n}.png,{label(n)}", "file,label")
    assert not warnings(folder(Path("im"), labels="t.csv"))


def test_names_of_files_that_label_studio_uploaded():
    """labelstud.io/guide/export: CSV and TSV name files as JSON does."""
    table(
        lambda n: f"/data/upload/1/0a1b2c3d-{n}.png,{'ab'[n % 2]},{n}", "image,choice,annotation_id"
    )
    corpus = folder(Path("im"), labels="t.csv", file_column="image", label_column="choice")
    assert corpus.train.ids == [f"{n}.png" for n in range(8)]
    table(lambda n: f"sub/0a1b2c3d-{n}.png,{n}")
    with pytest.raises(DataError, match="there is no file"):
        numbers()
