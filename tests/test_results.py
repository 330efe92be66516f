"""The table of results agrees with the reports, and the reports with their numbers."""

import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import results  # noqa: E402 - of this repository, not of the package

REPORTS = results.pages()


def test_the_overview_holds_the_table_of_the_reports():
    text = (results.PAGES / "README.md").read_text()
    assert results.filled(text) == text


def test_every_folder_of_reports_is_one_that_make_results_writes():
    assert {p.name for p in results.PAGES.iterdir() if p.is_dir()} <= set(results.STUDIES)


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_was_made_by_the_command_that_make_results_runs(name):
    _, _, _, *overrides = shlex.split(REPORTS[name]["command"])
    plain = [
        {o.replace(" ", "").replace("'", "") for o in of}
        for of in (overrides, results.STUDIES[name])
    ]
    # `make results` adds these two, and a study is a sweep with and without the flag
    assert plain[0] - {"-m", "tracker=none", f"hydra.sweep.dir={name}"} == plain[1]


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_shows_its_sentences_and_pictures(name):
    page = (results.PAGES / name / "README.md").read_text()
    assert not [s for s in REPORTS[name]["sentences"] if s not in page]
    assert not [p.name for p in (results.PAGES / name).glob("*.png") if f"]({p.name})" not in page]
    assert str(ROOT) not in page
