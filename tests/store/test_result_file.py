"""results.json: typed, versioned, described by a schema, and read in one place."""

import ast
import contextlib
import json
from dataclasses import fields, replace
from pathlib import Path

import jsonschema
import pytest
from result_stubs import record, stub

import sft_exp
from sft_exp.config.moved import updated
from sft_exp.config.sources import HERE
from sft_exp.errors import DataError
from sft_exp.store import results

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "docs" / "results.schema.json"
RELEASED = ROOT / "tests" / "released" / "0.1.0"
OLD = sorted(file.parent for file in RELEASED.rglob("results.json"))
TINY = [
    "debug=tiny", "draws=2", "val=holdout", "controls=[scratch]", "report=false", "tracker=none",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("typed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        returned = sft_exp.run(TINY, "run")
    return folder / "run", returned


def test_the_file_is_what_run_returns_and_survives_a_round_trip(run):
    folder, returned = run
    content = json.loads((folder / "results.json").read_text())
    assert content == returned
    typed = results.read(folder)
    assert results.content(typed) == content
    assert typed.test["accuracy"] == content["test"]["accuracy"]
    assert typed.verdict.word == content["verdict"]["word"]


def test_people_find_the_version_first_and_then_the_scores(run):
    folder, _ = run
    content = json.loads((folder / "results.json").read_text())
    assert list(content)[:5] == ["version", "score", "score_name", "test", "val"]
    assert list(content)[-2:] == ["choices", "config"], "what was asked is long, so it is last"


@pytest.mark.parametrize("val", ["holdout", "cv", "none"])
def test_validation_scores_of_the_splits_have_the_mean_that_is_said(run, val):
    folder, _ = run
    with contextlib.chdir(folder.parent):
        found = results.parse(dict(sft_exp.run([*TINY, f"val={val}"], f"val-{val}")))
    if val == "none":
        assert (found.val_draws, found.validated) == ([], None)
    else:
        assert len(found.val_draws) == 2
        assert sum(found.val_draws) / 2 == pytest.approx(found.validated)


def test_the_schema_in_the_docs_is_current():
    """`python -m tests.result_schema` writes it."""
    assert json.loads(SCHEMA.read_text()) == results.schema()


def test_the_file_of_a_real_run_is_valid(run):
    folder, _ = run
    checker = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    content = json.loads((folder / "results.json").read_text())
    checker.validate(content)
    for broken in (
        {**content, "draws": {"pretrained": ["high"]}},
        {**content, "data": {**content["data"], "labelled": "30"}},
        {k: v for k, v in content.items() if k != "test"},
        {**content, "verdict": {**content["verdict"], "word": 3}},
    ):
        assert not checker.is_valid(broken)


def test_the_schema_describes_every_field():
    """Units and meaning stand where people and editors look for them."""
    schema = results.schema()
    records = {"Results": schema, **schema["$defs"]}
    bare = [
        f"{name}.{field}"
        for name, of in records.items()
        for field, about in of["properties"].items()
        if not about.get("description")
    ]
    assert bare == []


@pytest.mark.parametrize("folder", OLD, ids=lambda p: p.relative_to(RELEASED).as_posix())
def test_files_of_version_1_are_upgraded(folder):
    content, typed = json.loads((folder / "results.json").read_text()), results.read(folder)
    assert "version" not in content
    assert typed.version == results.VERSION
    assert (typed.test, typed.val, typed.draws) == tuple(
        content[k] for k in ("test", "val", "draws")
    )
    assert (typed.config, typed.choices) == (updated(content["config"]), content["choices"])
    assert (typed.verdict is None) == (content["verdict"] == {})
    stages = {name: stage.folder for name, stage in typed.stages.present().items()}
    assert stages == {name: s["folder"] for name, s in content["stages"].items() if s}


def test_upgrading_what_is_current_changes_nothing():
    assert results.upgraded(record()) == record()


def test_a_file_of_a_later_version_is_refused_and_not_taken_for_damaged(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(record(version=results.VERSION + 1)))
    for read in (results.read, results.read_if_complete):
        with pytest.raises(DataError, match=r"results\.json: version 3; .* a later one wrote it"):
            read(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "damaged, it is not JSON"),
        ("[]", "not a JSON object"),
        ('{"test": {"accu', "damaged, it is not JSON"),
        ('{"test": {"accuracy": 0.5}}', "damaged: KeyError 'verdict'"),
        (json.dumps(record(version="two")), "damaged at version"),
        (json.dumps(record(draws={"pretrained": [None]})), "damaged at draws.pretrained.0"),
        (json.dumps({k: v for k, v in record().items() if k != "test"}), "damaged at test"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_the_place(tmp_path, text, said):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(DataError, match=said):
        results.read(tmp_path)
    assert results.read_if_complete(tmp_path) is None


def test_a_folder_without_results_is_said_to_be_none(tmp_path):
    with pytest.raises(DataError, match=r"no run folder with a results\.json"):
        results.read(tmp_path)
    assert results.read_if_complete(tmp_path) is None


def test_a_field_that_this_version_does_not_know_is_passed_over():
    assert results.parse({**record(), "coming": 1}) == stub()


def test_numbers_keep_all_their_digits(tmp_path):
    written = replace(stub(), test={"accuracy": 0.1 + 0.2}, draws={"pretrained": [1 / 3]})
    results.write(tmp_path, written)
    assert results.read(tmp_path) == written


READS_THE_FILE_ITSELF = {
    "check/artefacts.py": "grades files that others wrote, and says what they lack",
    "store/results.py": "",
}


def test_nobody_else_parses_the_file():
    """The name stands in messages and docstrings; a path is made of it in one module."""
    found = {
        file.relative_to(HERE).as_posix()
        for file in HERE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.BinOp | ast.Compare | ast.Assign)
        for leaf in ast.iter_child_nodes(node)
        if isinstance(leaf, ast.Constant) and leaf.value == "results.json"
    }
    assert found == READS_THE_FILE_ITSELF.keys()


def test_every_optional_stage_is_one_that_jobs_have():
    from sft_exp.jobs.stage_requests import FUNCTIONS

    names = {"bill" if f.name == "benchmark" else f.name for f in fields(results.Stages)}
    assert names <= FUNCTIONS.keys()
