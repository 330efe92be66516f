"""The generated pages of docs/ are up to date."""

import importlib.util
import re
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


@pytest.mark.parametrize("path", sorted(generate().makers()))
def test_code_on_a_generated_page_is_as_it_is_written(path):
    """Markdown shows what stands between backticks unchanged, also an entity such as &#95;."""
    for line in (DOCS / path).read_text().splitlines():
        assert not [code for code in line.split("`")[1::2] if "&#" in code], line


def test_links_stay_inside_the_site():
    """`make docs` is strict about them, and readers of the site have no file beside docs/."""
    for page in sorted(DOCS.rglob("*.md")):
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if not re.match(r"[a-z]+:", target):
                file = (page.parent / target).resolve()
                assert file.is_relative_to(DOCS), f"{page}: {target}"
                assert file.exists(), f"{page}: {target}"
