"""The generated pages of docs/ are up to date."""

import importlib.util
from functools import cache
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@cache
def pages():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pages()


@pytest.mark.parametrize("path", sorted(pages()))
def test_a_generated_page_is_current(path):
    assert (DOCS / path).read_text() == pages()[path], "run: python docs/generate.py"
