"""Every block of docs/python.md runs, in order, in one program."""

import importlib
import re
import runpy
import sys
from pathlib import Path

import pytest

from sft_exp.config.sources import HERE
from sft_exp.store import code_hash

PAGE = HERE.parent / "docs" / "python.md"


@pytest.mark.parametrize(
    "sweeps", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["quick", "whole"]
)
def test_the_blocks_run(tmp_path, monkeypatch, sweeps):
    """The block that starts a sweep, a program of its own, is part of the slow test alone."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 6
    program = []
    for block in blocks:
        if block.startswith("# my_net.py\n"):
            Path("my_net.py").write_text(block)
        elif sweeps or "sft_exp.sweep" not in block:
            program.append(block)
    Path("page.py").write_text("\n".join(program))
    importlib.invalidate_caches()
    code_hash.forget_files()
    names = runpy.run_path("page.py")
    assert names["probabilities"].shape == (1, 10)
    assert names["features"].shape == (1797, 64)
    assert len(names["rows"]) == 2 if sweeps else "rows" not in names
    code_hash.forget_files()
    del sys.modules["my_net"]
