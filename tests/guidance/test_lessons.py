"""The page of each pretrainer is generated from its docstring and states missing measurements."""

from pathlib import Path

import pytest

from benchmarks import lessons
from sft_exp.config import help_text
from sft_exp.core import arms


@pytest.mark.parametrize("name", help_text.options("pretrainer"))
def test_every_pretrainer_has_a_page_of_its_own_words(name):
    assert (name in lessons.RECIPES) != (name in lessons.NOT_MEASURED)
    text = lessons.page(name, [], [])
    assert help_text.options("pretrainer")[name] in text
    assert lessons.kind_of(name).__module__.rsplit(".")[-1] in (name, "checkpoint")
    assert "<dataclasses" not in text
    assert "MISSING" not in text


def test_a_row_says_which_floor_was_not_beaten(tmp_path):
    floors = dict(zip(arms.FLOORS, (0.5, 0.6, 0.9, 0.7), strict=True))
    rows = [lessons.Row("mnist", "python -m sft_exp", 0.85, floors, 3, Path("nowhere"))]
    assert rows[0].advantage == pytest.approx(-0.05)
    lessons.write("dae", rows, tmp_path)
    assert (
        "| mnist (3 seeds) | 85.0 | 50.0 | 60.0 | 90.0 | 70.0 | no, -5.0 |"
        in (tmp_path / "dae.md").read_text()
    )
    lessons.index({"dae": rows, "none": []}, tmp_path)
    assert "| [dae](dae.md) |  | 85.0 | -5.0 |" in (tmp_path / "README.md").read_text()
