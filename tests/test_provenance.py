"""What a result depends on has one name: code counts, its comments do not; requests are the same in any order."""

import ast
import sys
from dataclasses import dataclass
from importlib import invalidate_caches
from pathlib import Path
from typing import ClassVar

import pytest

from sft_exp import provenance
from sft_exp.config import FOLDERS, HERE
from sft_exp.experiment import Target
from sft_exp.provenance import digest, imported, meaning, plain
from sft_exp.store import Stage

PART = '''"""A part."""

from dataclasses import dataclass

from mine.helper import scale


@dataclass
class Part:
    """Doubles."""

    x: int = 1  # a number

    def loss(self, y):
        """Doc."""
        # a comment
        return scale(y) * 2
'''
HELPER = "def scale(y):\n    return y * 3\n"


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Writes files of a user's package beside ours; gives the digest of a part in it."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(files, module="mine.part"):
        for name, text in ({"mine/__init__.py": "", "mine/part.py": PART, "mine/helper.py": HELPER} | files).items():
            file = tmp_path / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        for cached in (provenance.imported, provenance.meaning, provenance.path):
            cached.cache_clear()
        for name in [n for n in sys.modules if n.partition(".")[0] in ("mine", "alone", "beside")]:
            del sys.modules[name]
        invalidate_caches()
        return digest({}, module)

    yield write
    for cached in (provenance.imported, provenance.meaning, provenance.path):
        cached.cache_clear()


# Code


@pytest.mark.parametrize(
    "same",
    [
        PART.replace("# a comment", "# another"),
        PART.replace('"""A part."""', '"""Another text."""'),
        PART.replace('"""Doubles."""', '"""Halves."""').replace('"""Doc."""', '"""Docs."""'),
        PART.replace('        """Doc."""\n', ""),
        PART.replace("scale(y) * 2", "(scale(y)  *  2)"),
        PART.replace("  # a number", ""),
    ],
)
def test_comments_docstrings_and_layout_change_nothing(plugin, same):
    assert plugin({}) == plugin({"mine/part.py": same})


@pytest.mark.parametrize(
    "other",
    [
        {"mine/part.py": PART.replace("* 2", "* 4")},
        {"mine/part.py": PART.replace("x: int = 1", "x: int = 2")},
        {"mine/helper.py": HELPER.replace("3", "5")},
        {"mine/part.py": PART.replace("return scale", "print('a string that is no docstring')\n        return scale")},
    ],
)
def test_code_of_the_part_or_of_what_it_imports_changes_the_digest(plugin, other):
    assert plugin({}) != plugin(other)


@pytest.mark.parametrize(
    "line",
    [
        "from mine.helper import scale",
        "from .helper import scale",
        "from mine import helper",
        "from . import helper",
        "import mine.helper",
    ],
)
def test_a_helper_counts_however_it_is_imported(plugin, line):
    part = PART.replace("from mine.helper import scale", line)
    assert plugin({"mine/part.py": part}) != plugin({"mine/part.py": part, "mine/helper.py": HELPER.replace("3", "5")})


def test_helpers_of_helpers_count_and_circles_end(plugin):
    helper = "from mine.deeper import three\n" + HELPER
    files = {"mine/helper.py": helper, "mine/deeper.py": "from mine.part import Part\nthree = 3\n"}
    assert plugin(files) != plugin(files | {"mine/deeper.py": "from mine.part import Part\nthree = 4\n"})


def test_imports_inside_functions_count(plugin):
    part = PART.replace("from mine.helper import scale\n\n\n", "\n").replace("# a comment", "from mine.helper import scale")
    assert plugin({"mine/part.py": part}) != plugin({"mine/part.py": part, "mine/helper.py": HELPER.replace("3", "5")})


def test_files_beside_a_plugin_that_is_no_package_count(plugin):
    files = {"alone.py": "import beside\n", "beside.py": "three = 3\n"}
    assert plugin(files, "alone") != plugin(files | {"beside.py": "three = 4\n"}, "alone")


def test_what_a_module_does_not_import_does_not_count(plugin):
    assert plugin({"mine/other.py": "three = 3\n"}) == plugin({"mine/other.py": "three = 4\n"})


def test_what_is_imported_is_looked_at_and_not_run(plugin):
    plugin({"mine/helper.py": "raise SystemExit\n" + HELPER})
    assert "mine.helper" not in sys.modules


def test_the_reader_of_a_stage_is_not_what_it_depends_on():
    """Editing a report, the command line or the store's order of work must not train anything again."""
    outside = {"api", "cli", "config", "pipeline", "session", "reports", "sweeps", "jobs", "verdict", "__init__"}
    for stage in sorted((HERE / "stages").glob("*.py")):
        found, roots = set(), {f"sft_exp.stages.{stage.stem}"}
        while roots:
            found |= roots
            roots = {m for name in roots for m in imported(name)} - found
        assert "sft_exp" not in found, stage
        used = {"verdict"} if stage.stem == "bill" else set()  # whose intervals are part of the bill
        assert not {m for m in found if m.split(".")[1] in outside - used}, stage


@pytest.mark.parametrize("stem", ["vae", "ae", "gan"])
def test_a_parts_own_modules_are_what_it_depends_on(stem):
    """`losses` are part of a VAE's digest, and another pretrainer is not."""
    found, roots = set(), {f"sft_exp.{FOLDERS['pretrainer']}.{stem}"}
    while roots:
        found |= roots
        roots = {m for name in roots for m in imported(name)} - found
    assert "sft_exp.core" in found
    assert ("sft_exp.losses" in found) == (stem != "gan")
    assert sum(m.startswith("sft_exp.pretrainers.") for m in found) == 1


def test_parts_in_a_request_are_part_of_its_digest():
    from sft_exp.pretrainers.ae import AE
    from sft_exp.pretrainers.vae import VAE

    assert digest({"method": AE()}) != digest({"method": VAE()})
    assert digest({"method": AE()}) == digest({"method": AE("squared")}), "numbers are the request's, not the code's"
    assert digest({"optim": Target("torch.optim.SGD", {})}) == digest({}), "a library's version is recorded, not hashed"


def test_the_meaning_is_code():
    tree = ast.parse(meaning("sft_exp.core"))
    docs = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(n)]
    assert not docs


# Requests


@dataclass
class Data:
    unhashed: ClassVar[tuple[str, ...]] = ("root",)
    root: str = "here"
    test: int = 500


def name(request):
    return Stage("s", lambda folders, requests: None, plain).folder_name(request)


REQUEST = {"dataset": Data(), "options": {"lr": 0.1, "betas": (0.9, 0.99)}, "start": Path("store/pretrain-1234"), "seed": 0}


@pytest.mark.parametrize(
    "same",
    [
        dict(reversed(REQUEST.items())),
        REQUEST | {"options": {"betas": [0.9, 0.99], "lr": 0.1}},
        REQUEST | {"dataset": Data(root="there")},
        REQUEST | {"start": Path("/elsewhere/pretrain-1234")},
        REQUEST | {"_after": Path("store/finetune-99")},
    ],
)
def test_what_cannot_change_a_result_does_not_change_its_name(same):
    """Order of keys, where files lie, what a request merely starts from faster."""
    assert name(same) == name(REQUEST)


@pytest.mark.parametrize(
    "other",
    [
        REQUEST | {"seed": 1},
        REQUEST | {"dataset": Data(test=400)},
        REQUEST | {"options": {"lr": 0.2, "betas": (0.9, 0.99)}},
        REQUEST | {"options": {"lr": 0.1, "betas": (0.99, 0.9)}},
        REQUEST | {"start": Path("store/pretrain-5678")},
        REQUEST | {"start": None},
        REQUEST | {"more": 1},
        REQUEST | {"dataset": Target("a", {})},
    ],
)
def test_what_can_change_a_result_changes_its_name(other):
    assert name(other) != name(REQUEST)


def test_parts_of_equal_fields_are_told_apart():
    from sft_exp.strategies.full import Full
    from sft_exp.strategies.linear import Linear

    assert name({"strategy": Full()}) != name({"strategy": Linear()})


def test_where_data_lies_and_who_decodes_it_is_not_hashed():
    from sft_exp.datasets.torchvision_set import TorchvisionSet

    assert name({"dataset": TorchvisionSet(root="a", download=False)}) == name({"dataset": TorchvisionSet()})
    assert name({"dataset": TorchvisionSet(name="KMNIST")}) != name({"dataset": TorchvisionSet()})
