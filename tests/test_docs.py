"""The generated pages of docs/ are up to date."""

import importlib.util
from functools import cache
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@cache
def generate():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(generate().makers()))
def test_a_generated_page_is_current(path):
    assert (DOCS / path).read_text() == generate().page(path), "run: python docs/generate.py"
