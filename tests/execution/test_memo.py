"""The memo of whole runs: what is answered from it, and what must not be."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sft_exp.execution import memo
from sft_exp.store import atomic_io, collect

WORDS = [
    "debug=tiny", "pretrainer=none", "tracker=none", "controls=false", "draws=1",
    "hardware.device=cpu", "hardware.workers=1",
]  # fmt: skip
HEAVY = ("torch", "torchmetrics", "torchvision", "sklearn", "matplotlib")


ENDING = f"""
import sys, atexit
atexit.register(lambda: print("loaded", [m for m in {HEAVY} if m in sys.modules]))
from sft_exp.__main__ import main
main()
"""


def run(store, folder, *words):
    """Run the command in a process of its own: (stdout, stderr, exit code, heavy modules)."""
    done = subprocess.run(
        [sys.executable, "-c", ENDING, *WORDS, *words], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "SFT_EXP_STORE": str(store)}, check=False, timeout=300,
    )  # fmt: skip
    out, _, loaded = done.stdout.rpartition("loaded ")
    return out, done.stderr, done.returncode, ast.literal_eval(loaded)


def newest(folder):
    return (folder / "outputs/latest").resolve()


def files(folder):
    """The files of a run folder that must not depend on how the run was answered."""
    paths = [p for p in folder.rglob("*") if p.is_file()]
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in paths
        if not p.relative_to(folder).as_posix().startswith(".")
        and p.suffix != ".log"
        and p.name != "status.json"
    }


def without_folder(text, folder):
    return text.replace(str(folder.relative_to(folder.parents[3])), "RUN")


def log_of(folder):
    (file,) = folder.glob("*.log")
    return [line.partition("]")[2] for line in file.read_text().splitlines()]


@pytest.mark.slow
def test_a_repeated_run_is_answered_from_its_memo(tmp_path):
    store = tmp_path / "store"
    assert run(store, tmp_path)[2] == 0
    assert not (store / collect.MEMOS).exists()  # something was computed
    out, err, code, loaded = run(store, tmp_path)
    drawn = newest(tmp_path)
    assert code == 0
    assert "torch" in loaded
    assert "torchmetrics" not in loaded  # no score is missing
    assert len(memos(store)) == 1
    again, err_again, code, loaded = run(store, tmp_path)
    known = newest(tmp_path)
    assert (code, loaded) == (0, [])
    assert known != drawn
    assert without_folder(again, known) == without_folder(out, drawn)
    assert err_again == err
    assert files(known) == files(drawn)
    assert log_of(known) == log_of(drawn)
    assert json.loads((known / "status.json").read_text())["state"] == "done"

    # damage is reported as without a memo, and mended
    (name,) = (p for p in store.iterdir() if p.name.startswith("evaluate-"))
    (name / "scores.json").write_text("{}")
    _, err, code, loaded = run(store, tmp_path)
    assert code == 0
    assert "Set aside" in err
    assert "torchmetrics" in loaded

    # what was computed again took other seconds: the memo no longer counts, whatever the numbers
    assert "torch" in run(store, tmp_path)[3]
    assert run(store, tmp_path)[3] == []

    # gc removes a memo with the folders that it names, when no run refers to them any more
    shutil.rmtree(tmp_path / "outputs")
    (kept,) = memos(store)
    assert kept in collect.unreferenced(store, tmp_path / "outputs")


def memos(store):
    return [p for p in (store / collect.MEMOS).iterdir() if not p.name.startswith(".")]


@pytest.fixture
def described(compose):
    from sft_exp.config import build

    def make(*words):
        cfg = compose("tracker=none", *words)
        return build.plain(cfg), build.choices(cfg)

    return make


@pytest.fixture
def images(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not decoded")
    return tmp_path / "images"


def key(described, *words):
    return memo.key_of(*described(*words), ["word"])


def test_the_key_is_that_of_config_and_command(described):
    first = key(described)
    assert first
    assert first == key(described)
    assert first != key(described, "seed=1")
    assert first != key(described, "pretrainer=ae")
    assert first != memo.key_of(*described(), ["another"])


def test_the_key_follows_the_data(described, images):
    words = ("dataset=image_folder", f"dataset.root={images}")
    keys = [key(described, *words)]
    file = images / "a" / "1.png"
    facts = file.stat()
    file.write_bytes(b"not encoded")  # of the same length
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    keys.append(key(described, *words))  # ctime tells
    file.touch()
    keys.append(key(described, *words))
    (images / "b" / "2.png").write_bytes(b"new")
    keys.append(key(described, *words))
    (images / "b" / "2.png").rename(images / "b" / "3.png")
    keys.append(key(described, *words))
    assert None not in keys
    assert len({*keys}) == len(keys)
    (images / "b" / "3.png").unlink()
    assert key(described, *words) == keys[2]


def test_the_key_follows_the_source(described, tmp_path, monkeypatch):
    copy = tmp_path / "package"
    shutil.copytree(memo.sources.HERE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(memo.sources, "HERE", copy)
    first = key(described)
    file = copy / "training" / "loop.py"
    facts = file.stat()
    file.write_text(file.read_text().replace("\n", "\n\n", 1))
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert first
    assert key(described) not in (None, first)


def test_what_is_not_understood_has_no_key(described, images, tmp_path, monkeypatch):
    folder = ("dataset=image_folder", f"dataset.root={images}")
    (tmp_path / "table.csv").write_text("file,label\n")
    table = f"dataset.labels={tmp_path / 'table.csv'}"
    assert key(described, *folder)
    assert key(described, *folder, table) is None
    assert key(described, "dataset=cifar10") is None
    assert key(described, "pretrainer=checkpoint") is None
    assert key(described, "plan=true") is None
    assert key(described, "hardware=ddp", "hardware.processes=2") is None
    (images / "c").symlink_to(images / "a")
    assert key(described, *folder) is None
    monkeypatch.setattr(memo.sources, "_plugged", [Path("mine")])
    assert key(described) is None


def test_a_tracker_that_shows_runs_has_no_memo(described, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert key(described, "tracker=wandb") is None
    assert key(described, "tracker=csv") is None
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert key(described, "tracker=wandb")


def test_a_damaged_memo_does_not_count(tmp_path):
    store, name = tmp_path, "evaluate-0123456789abcdef"
    result, known = store / name, store / collect.MEMOS / "key"
    atomic_io.write_json(result / "scores.json", {})
    atomic_io.seal(result, {"seconds": 0.5})
    record = {"folders": [[name, memo.seal_of(result)]], "events": [], "score": 0.5}
    atomic_io.write_json(known / "memo.json", record)
    atomic_io.seal(known, {"seconds": 0.0})
    assert memo.find(store, "key")
    assert memo.find(store, "other") is None
    (result / "scores.json").write_text("[]")
    assert memo.find(store, "key") is None
    atomic_io.write_json(result / "scores.json", {})
    assert memo.find(store, "key")
    atomic_io.seal(result, {"seconds": 0.7})  # computed again
    assert memo.find(store, "key") is None
    atomic_io.seal(result, {"seconds": 0.5})
    assert memo.find(store, "key")
    (known / "memo.json").write_text(json.dumps({**record, "score": 1.0}))
    assert memo.find(store, "key") is None
