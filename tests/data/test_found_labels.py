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


@each("name", ["cat dog", "cat/dog", "cat+dog", "cat & dog", "cat and dog", "cat und dog"])
def test_separators_that_are_not_looked_for_are_named(name):
    table(lambda n: f"{n}.png,{('cat', 'dog', name)[n % 3]}", "file,labels")
    sign = name.removeprefix("cat").removesuffix("dog").strip() or " "
    (said,) = sets().report["warnings"]
    assert f"'dataset.separator=\"{sign}\"' separates the classes" in said
    assert sets(separator=sign).classes == ("cat", "dog")


@each(
    "names",
    [
        ("red fox", "fox"),
        ("ice cream", "ice"),
        ("red_fox", "red", "fox"),
        ("a b", "c"),
        ("salt and pepper", "salt"),
        ("sandwich", "hand"),
    ],
)
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


@each("cells", [("101", "011"), ("1 0 1", "0 1 1"), ("1;0;1", "0;1;1"), ("10", "01")])
def test_digits_that_say_yes_or_no_are_no_classes(cells):
    table(lambda n: f"{n}.png,{cells[n % 2]}", "file,labels")
    with pytest.raises(DataError, match=r"labels holds .* write a column of 0 and 1 for each"):
        sets()


@each("cells", [("10", "11"), ("0", "1"), ("1;2", "0;1"), ("101", "0")])
def test_other_digits_are_classes(cells):
    table(lambda n: f"{n}.png,{cells[n % 2]}", "file,labels")
    assert len(sets().classes) >= 2


@each("name", ["unlabelled", "not labeled", "unknown", "TODO", "skip", "to_classify", "tbd"])
def test_labels_for_images_without_one_are_asked_about(name):
    table(lambda n: f"{n}.png,{('cat', 'dog', name)[n % 3]}", "file,label")
    said = f"class '{name}' is named like images without a label, and learnt: empty the cells"
    assert said in warnings(folder(Path("im"), labels="t.csv"))
    table(lambda n: f"{n}.png,{('cat', 'dog', name)[n % 3]}", "file,labels")
    assert said in warnings(sets())


@each("kind", ["classes", "numbers", "columns of 0 and 1"])
@each("column", ["patient", "Patient_ID", "subject no", "video", "StudentName"])
def test_a_column_of_what_belongs_together_is_asked_about(column, kind):
    head, row, read = {
        "classes": ("label", lambda n: "ab"[n % 2], lambda: folder(Path("im"), labels="t.csv")),
        "numbers": ("target", str, numbers),
        "columns of 0 and 1": ("cat,dog", hot, sets),
    }[kind]
    for values, words in ((4, f"column {column} may say which images belong together"), (8, "")):
        table(lambda n, values=values: f"{n}.png,{row(n)},p{n % values}", f"file,{head},{column}")
        assert words in (said := warnings(read()))
        assert bool(words) == bool(said)
    table(lambda n: f"{n}.png,{row(n)},p{n // 2},{n // 2}", f"file,{head},{column},group")
    assert not warnings(read())


@each("missing", ["nan", "NA", "-", "None"])
def test_groups_that_are_missing_are_asked_about(missing):
    row = ("p1", missing, "p2", missing)
    table(lambda n: f"{n}.png,{'aabb'[n % 4]},{row[n % 4]}", "file,label,group")
    said = f"group '{missing}' is named like a missing one, and its 4 images are taken to belong"
    assert said in warnings(folder(Path("im"), labels="t.csv"))


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


@each("mark", ["x", "X", "✓", "✔\ufe0f", "☑", "yes", "TRUE", "1", "+", "Wahr"])
def test_marks_are_classes_and_empty_cells_beside_them_are_none(mark):
    table(lambda n: f"{n}.png,{mark * (n % 2)},{mark * (n // 2 % 2)}", "file,cat,dog")
    corpus = sets()
    assert corpus.classes == ("cat", "dog")
    found = dict(zip(corpus.train.ids, corpus.train.target("label_set").tolist(), strict=True))
    assert found["1.png"] == [1, 0]
    assert found["2.png"] == [0, 1]
    assert found["3.png"] == [1, 1]
    assert corpus.extra.ids == ["0.png", "4.png"]
    assert "no cell of the classes says no: empty ones beside a mark do" in warnings(corpus)
    assert "2 images without a mark (0.png, 4.png) are not labelled" in warnings(corpus)


@each("no", ["-", "✗", "❌", "\u2014"])
@each("mark", ["✓", "x", "✅"])
def test_signs_for_yes_and_no(mark, no):
    table(lambda n: f"{n}.png,{(no, mark)[n % 2]},{(no, mark)[n // 2 % 2]}", "file,cat,dog")
    corpus = sets()
    assert corpus.train.target("label_set")[:2].tolist() == [[0, 0], [1, 0]]
    assert not warnings(corpus)


@each("cells", [("✓", "x"), ("x", "1"), ("✓", "no"), ("✗", "☒", "✓")])
def test_signs_whose_meaning_is_unclear_are_refused(cells):
    table(lambda n: f"{n}.png,{n % 2},{cells[n % len(cells)]}", "file,cat,dog")
    with pytest.raises(DataError, match=r"column dog holds .*: which of them says yes"):
        sets()
    assert sets(classes=["cat"]).classes == ("cat",)


def test_words_beside_marks_are_no_class():
    table(lambda n: f"{n}.png,{'x' * (n % 2)},{('o', 'x')[n % 2]}", "file,cat,grade")
    assert sets().classes == ("cat",)


@each("no", ["0", ""])
@each("mark", ["1", "x", "✓", "yes", "TRUE", "1.0"])
def test_one_marked_column_is_the_class_of_a_folder_s_image(mark, no):
    no = "no" if mark == "yes" and no else "FALSE" if mark == "TRUE" and no else no
    no = "-" if mark in "x✓" and no else no

    def row(n):
        cells = [mark if n % 3 == c else no for c in range(3)] if n < 7 else ["", "", ""]
        return f"{n}.png,{','.join(cells)},{n},{int(n in (1, 3, 5))}"

    table(row, "file,cat,dog,owl,age,is_test")
    corpus = folder(Path("im"), labels="t.csv")
    assert corpus.classes == ("cat", "dog", "owl")
    parts = (corpus.train, corpus.test)
    found = {n: corpus.classes[y] for p in parts for n, y in zip(p.ids, p.y.tolist(), strict=True)}
    assert found == {f"{n}.png": ("cat", "dog", "owl")[n % 3] for n in range(7)}
    assert corpus.test.ids == ["1.png", "3.png", "5.png"]
    assert "is its column that says yes: cat, dog, owl" in warnings(corpus)


@each(
    ("row", "words"),
    [
        (lambda n: f"{hot(n)},{n}", "line 2: is of no class, by the columns cat, dog"),
        (lambda n: f"1,{n % 2},{n}", "line 3: is marked as cat and dog"),
        (lambda n: f"x,{'x' * (n % 2)},{n}", "line 3: is marked as cat and dog"),
    ],
)
def test_columns_of_0_and_1_are_no_labels_of_folders(row, words):
    table(lambda n: f"{n}.png,{row(n)}", "file,cat,dog,age")
    with pytest.raises(
        DataError, match=rf"{words}.*dataset=multilabel_table dataset\.table=t\.csv"
    ):
        folder(Path("im"), labels="t.csv")


def test_columns_of_probabilities_are_no_labels_of_folders():
    table(lambda n: f"{n}.png,0.{n}5,0.{9 - n}5", "file,cat,dog")
    with pytest.raises(DataError, match=r"no column label; its first line has file,cat,dog"):
        folder(Path("im"), labels="t.csv")


# Labels that are no classes


@each(
    ("label", "words"),
    [
        (lambda n: f"{1 + 0.37 * n:.2f}", "8 images have 8 classes, which are numbers (1.00, 1.37"),
        (lambda n: f"{n // 2 + n % 3 / 3:.2f}", "did you mean dataset=number_table?"),
        (lambda n: f"{1 + 0.37 * n:.2f}".replace(".", ","), "did you mean dataset=number_table?"),
        (lambda n: f"{n}", "did you mean dataset=number_table?"),
        (
            lambda n: ("0.03", "0.97")[n % 2],
            "8 images have 2 classes, which are numbers (0.03, 0.97)",
        ),
        (lambda n: f"{n % 3 / 10}", "did you mean dataset=number_table?"),
        (lambda n: ("0", "1", "0.9")[n % 3], "did you mean dataset=number_table?"),
        (lambda n: f"IMG_{n:03}", "8 images have 8 classes, so that each has a class of its own"),
    ],
)
def test_labels_that_are_no_classes_are_warned_of(label, words):
    table(lambda n: f"{n}.png;{label(n)}", "file;label")
    (said,) = folder(Path("im"), labels="t.csv").report["warnings"]
    assert words in said


@each(
    "label",
    [lambda n: n % 4, lambda n: f"{n % 3 / 2}", lambda n: f"{n % 4 / 4}", lambda n: f"c{n % 4}"],
)
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
