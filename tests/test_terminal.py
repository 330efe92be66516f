"""The terminal's view of a sweep, and its log files."""

import io
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from sft_exp import progress
from sft_exp.reports.terminal_table import fitted
from sft_exp.sweep import display
from sft_exp.sweep.display import Display

NUMBERS = ("val", "± val", "test", "± test", "gain")
SETTINGS = ("pretrainer", "optim", "optim.lr", "encoder", "pretrain.steps")
HEAD = ["job", *SETTINGS, *NUMBERS, "verdict"]
ROWS = [
    ["0-4", "variational", "adam", "0.001", "resnet", "20000", "90.1", "1.2", "87.3", "2.4", "+10.1", "helped"],
    ["5, 7", "none", "sgd", "0.1", "vit", "200", "10.5", "0.1", "9.9", "0.3", "", "scratch diverged; diverged"],
]  # fmt: skip


def printed(renderable, width):
    screen = Console(file=io.StringIO(), width=width, color_system=None)
    with screen.capture() as capture:
        screen.print(renderable)
    return capture.get()


@pytest.mark.parametrize("width", [30, 60, 80, 100, 120, 160])
def test_a_table_fits_and_cuts_no_number(width):
    screen = Console(file=io.StringIO(), width=width, color_system=None)
    text = printed(fitted((HEAD, ROWS), screen, NUMBERS, ["verdict"], SETTINGS), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    words = text.split()
    for row in ROWS:
        for cell in filter(None, row[6:11]):
            assert cell in words
        for cell in row[1:6]:
            assert any(word.endswith(cell) for word in words)


@pytest.mark.parametrize(
    ("width", "left_out", "stacked"),
    [(160, [], False), (100, ["± test"], False), (95, ["± test", "± val"], False), (80, [], True)],
)
def test_a_narrower_table_leaves_out_spreads_before_it_stacks_settings(width, left_out, stacked):
    """What is left out is named; each row stays a line as long as that is possible."""
    screen = Console(file=io.StringIO(), width=width, color_system=None)
    drawn = fitted((HEAD, ROWS), screen, NUMBERS, ["verdict"], SETTINGS, ["± test", "± val"])
    text = printed(drawn, width)
    assert max(map(len, text.splitlines())) <= width
    said = f"No room for {' and '.join(left_out)}."
    assert (said in text) == bool(left_out)
    assert ("pretrainer=none" in text) == stacked
    heads = next(line for line in text.splitlines() if "test" in line)
    assert all((f" {name} " in f"{heads} ") == (name not in left_out) for name in NUMBERS)


def test_a_table_that_fits_keeps_a_column_for_each_setting():
    screen = Console(file=io.StringIO(), width=160, color_system=None)
    assert "pretrainer=" not in printed(fitted((HEAD, ROWS), screen, NUMBERS, [], SETTINGS), 160)


@pytest.fixture
def screen(monkeypatch):
    """The console of progress and display, 80 columns wide, as text."""
    console = progress.LoggedConsole(
        file=io.StringIO(), width=80, color_system=None, force_terminal=False
    )
    monkeypatch.setattr(progress, "console", console)
    monkeypatch.setattr(display, "console", console)
    return console


def test_a_job_is_one_line_with_what_varies(screen):
    shown = Display(27, common=["seed=1", "tracker=none"])
    name = shown.describe(4, ["pretrainer=ae", "seed=1", "tracker=none", "optim.lr=0.1"])
    shown.begin(name)
    shown.end(name, 0.9512, 0.9)
    assert screen.file.getvalue() == (
        "job 4 (5 of 27): pretrainer=ae optim.lr=0.1: validation 95.1, test 90.0 in 0 s\n"
    )


def test_the_block_counts_and_names_the_best_by_validation(screen):
    shown = Display(5, done=1)
    for number, (val, test) in enumerate([(0.5, 0.9), (0.7, 0.6)]):
        shown.begin(name := shown.describe(number, [f"seed={number}"]))
        shown.end(name, val, test)
    shown.begin(name := shown.describe(2, ["seed=2"]))
    shown.fail(name, "out of memory\nmore")
    shown.begin(shown.describe(3, ["seed=3"]))
    shown.show_message("fine-tune: 3/10 loss 0.5")
    text = printed(shown.block(), 80)
    assert "3 of 5 jobs done, 1 failed, about 0:00 left" in text
    assert "best by validation so far: 70.0, job 1 (2 of 5): seed=1" in text
    assert "job 3 (4 of 5): seed=3 (fine-tune: 3/10 loss 0.5)" in text
    assert "job 2 (3 of 5): seed=2: failed, out of memory\n" in screen.file.getvalue()


def test_a_worker_warns_above_the_block(screen):
    shown = Display(2)
    shown.show_message("3 files are no images")
    assert screen.file.getvalue() == "3 files are no images\n"


def test_what_the_terminal_says_is_logged_and_quiet_silences_it(screen, caplog, monkeypatch):
    monkeypatch.setattr(progress.LOG, "handlers", [caplog.handler])
    screen.print("[bold]checking[/bold] 3 jobs")
    assert caplog.messages == ["checking 3 jobs"]
    monkeypatch.setattr(progress.LOG, "level", logging.WARNING)
    progress.LOG.manager._clear_cache()  # levels are remembered
    try:
        screen.print("not this")
        assert "not this" not in screen.file.getvalue()
    finally:
        monkeypatch.undo()
        progress.LOG.manager._clear_cache()


def test_the_first_line_comes_before_any_slow_import():
    code = (
        "import sys; from sft_exp import __main__; __main__.announce(sys.argv[1:]); "
        "assert not {'torch', 'hydra', 'numpy', 'rich'} & set(sys.modules)"
    )
    words = ["-m", "pretrainer=ae,vae", "seed=3"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "preparing a sweep over pretrainer=ae,vae\n")


def on_terminal(columns, tmp_path, *words, **environment):
    """The exit code and all that a command writes on a terminal of so many columns."""
    pty = pytest.importorskip("pty", reason="pseudo-terminals are POSIX")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), **environment}
    process = subprocess.Popen(
        [sys.executable, "-m", "sft_exp", *words, f"store={tmp_path}/store"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux says so when the last writer has closed
            break
        if not part:
            break
        said += part
    os.close(ours)
    return process.wait(), said.decode()


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 120])
def test_a_sweep_on_a_terminal(tmp_path, columns):
    sweep = ["-m", "debug=tiny", "optim=sgd,adam", "optim.lr=0.01,oops", "val=none"]
    where = f"hydra.sweep.dir={tmp_path}/sweep"
    code, said = on_terminal(columns, tmp_path, *sweep, where)
    assert code == 2
    assert "oops" in said
    sweep[3] = "optim.lr=0.01,0.001"
    code, said = on_terminal(columns, tmp_path, *sweep, where, NO_COLOR="1")
    assert code == 0, said
    assert said.startswith("preparing a sweep over optim=sgd,adam optim.lr=0.01,0.001")
    assert "checking 4 jobs; all have debug=tiny" in said
    assert "4 jobs done" in said
    assert "job 3 (4 of 4): optim=adam optim.lr=0.001" in said
    assert not re.search(r"\x1b\[(3|4|9)\d", said), "colours in spite of NO_COLOR"
    assert "…" not in said
    log = (Path(tmp_path) / "sweep" / "0" / "sft_exp.log").read_text()
    assert "command: python -m sft_exp debug=tiny" in log
    assert "done: test accuracy" in log


@pytest.mark.slow
def test_quiet_and_verbose(tmp_path):
    run = ["debug=tiny", f"hydra.run.dir={tmp_path}/run", f"store={tmp_path}/store"]
    quiet = subprocess.run(
        [sys.executable, "-m", "sft_exp", *run, "hydra/job_logging=quiet"],
        capture_output=True,
        text=True,
    )
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert "accuracy" in quiet.stdout
    verbose = subprocess.run(
        [sys.executable, "-m", "sft_exp", *run, "hydra.verbose=true", "replace=true"],
        capture_output=True,
        text=True,
    )
    assert verbose.returncode == 0
    assert "[sft_exp.runs.pipeline][DEBUG]" in (tmp_path / "run" / "sft_exp.log").read_text()
