"""The terminal's view of a sweep, and its log files."""

import io
import logging
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from result_stubs import record
from rich.console import Console

from sft_exp import progress
from sft_exp.execution import ownership
from sft_exp.reports.terminal_table import fitted
from sft_exp.store import atomic_io
from sft_exp.sweep import display, sweeps
from sft_exp.sweep.display import Display

ROOT = Path(__file__).parents[2]
# takes the terminal that it was started on as its own, so that Ctrl-C is a signal
TERMINAL = """
import fcntl, runpy, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
runpy.run_module("sft_exp", run_name="__main__")
"""
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


STUDY = [
    ["pretrainer", "labels", "pretrained", "scratch", "gain", "low", "high", "verdict", "worth", "best baseline", "scratch_long"],
    ["dae", "1", "63.4", "62.4", "+1.0", "-11.7", "+13.6", "cannot tell", "1.1x (0.031 to 38)", "raw_svm 66.6", ""],
    ["dae", "5", "80.0", "81.2", "-1.2", "-7.1", "+4.8", "cannot tell", "0.91x (0.0053 to 1.5e+02)", "raw_svm 84.6", "84.1"],
    ["vae", "5", "83.1", "83.0", "+0.1", "-5.4", "+5.6", "cannot tell", "at least 1x", "raw_svm 84.6", "84.9"],
]  # fmt: skip


@pytest.mark.parametrize(("width", "parts"), [(160, 1), (110, 1), (80, 2), (60, 3)])
def test_a_wide_table_goes_on_below_itself_with_the_columns_that_tell_rows_apart(width, parts):
    screen = Console(file=io.StringIO(), width=width, color_system=None)
    head, *rows = STUDY
    numbers = [*head[1:7], head[-1]]
    text = printed(
        fitted((head, rows), screen, numbers, ["verdict", "worth", "best baseline"]), width
    )
    assert max(map(len, text.splitlines())) <= width
    assert len([line for line in text.splitlines() if "pretrainer" in line]) == parts
    for row in rows:
        lines = [line.split() for line in text.splitlines() if line.split()[:2] == row[:2]]
        assert len(lines) == parts
        assert {*row[2:7]} <= {word for line in lines for word in line}


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


def test_keys_that_change_no_result_do_not_tell_jobs_apart(screen):
    shown = Display(2, common=["seed=1"])
    told = shown.describe(0, ["seed=1", "labels=5", "controls=[scratch]"])
    assert told == "job 0 (1 of 2): labels=5"
    assert shown.describe(0, ["controls=[scratch]"]).endswith(": controls=[scratch]")


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


def test_scores_of_several_kinds_are_not_ranked_against_each_other(screen):
    shown = Display(4)
    shown.end("job 0", 0.5, 0.5, "accuracy on digits")
    shown.end("job 1", 0.4, 0.5, "accuracy on digits")
    assert "best by validation so far: 50.0, job 0" in printed(shown.block(), 80)
    shown.end("job 2", 0.9, 0.5, "mIoU on pets")
    shown.consider("job 3", 0.3, "accuracy on digits")
    text = printed(shown.block(), 80)
    assert "best by validation so far (accuracy on digits): 50.0, job 0" in text
    assert "best by validation so far (mIoU on pets): 90.0, job 2" in text


def test_a_worker_warns_above_the_block(screen):
    shown = Display(2)
    shown.show_message("3 files are no images")
    assert screen.file.getvalue() == "3 files are no images\n"


def test_the_block_shows_what_other_processes_run_and_where(screen, monkeypatch, tmp_path):
    """Their run folders are followed; what lay there before the sweep began does not count."""
    monkeypatch.setattr(display, "LOOK_SECONDS", 0.01)
    shown = Display(4, done=1)
    shown.live = True  # as on a terminal
    places = {tmp_path / f"{n}": f"job {n}" for n in range(3)}

    def say(n, state, **more):
        atomic_io.folder(tmp_path / f"{n}")
        about = {"token": "", "pid": 40 + n, "host": f"node{n}"}
        atomic_io.write_json(tmp_path / f"{n}" / ownership.OWNER, about)
        atomic_io.write_json(tmp_path / f"{n}" / "status.json", {"state": state, **more})

    def until(text):
        end = time.monotonic() + 30
        while text not in printed(shown.block(), 100):
            assert time.monotonic() < end, printed(shown.block(), 100)
            time.sleep(0.01)

    say(0, "failed", error="of an earlier try")
    shown.watch(places)
    say(1, "running")
    until("job 1, process 41 on node1")
    say(0, "running")
    until("job 0, process 40 on node0")
    assert "failed" not in printed(shown.block(), 100)
    result = record(test={"accuracy": 0.5}, val={"accuracy": 0.75})
    atomic_io.write_json(tmp_path / "1/results.json", result)
    say(1, "done")
    until("best by validation so far: 75.0, job 1")
    say(0, "failed", error="out of memory\nmore")
    until("2 of 4 jobs done, 1 failed, about ")
    assert "node" not in printed(shown.block(), 100)
    assert "job 0: failed, out of memory" in screen.file.getvalue()
    shown.live = None


def test_an_interrupted_sweep_leaves_a_line_that_says_how_far_it_came(screen, monkeypatch):
    shown = Display(27, done=3)
    shown.end("job 4", 0.5, 0.5)
    monkeypatch.setattr(sweeps, "_display", [shown])
    monkeypatch.setattr(sweeps, "_driver", True)
    assert sweeps.interrupted() == 75
    last = screen.file.getvalue().splitlines()[-1]
    assert last == "interrupted: 4 of 27 jobs are done; the same command continues"
    monkeypatch.setattr(sweeps, "_display", [])
    assert sweeps.interrupted() == 130


@pytest.mark.skipif(sys.platform == "win32", reason="has no such terminals")
@pytest.mark.parametrize("at", ["checking job 0", r"\d:\d\d job \d \(\d of 8\)"])
def test_ctrl_c_in_a_sweep_on_a_terminal(at, tmp_path):
    """The key reaches the process that shows the jobs and the worker that runs them."""
    import pty

    words = ["-m", "pretrainer=ae,none", "seed=0,1,2,3", "debug=tiny", "tracker=none"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINAL, *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    said, pressed = b"", False
    with suppress(OSError):  # Linux ends the stream of a closed terminal by an error
        while part := os.read(ours, 65536):
            said += part
            if not pressed and re.search(at.encode(), said):
                pressed = True
                os.write(ours, b"\x03")
    os.close(ours)
    text = said.decode(errors="replace")
    assert process.wait() == 75, text[-2000:]
    last = text.rstrip().splitlines()[-1]
    assert re.search(r"interrupted: \d of 8 jobs are done; the same command continues$", last)


def test_a_process_whose_jobs_another_one_shows_is_silent(screen, caplog, monkeypatch):
    monkeypatch.setattr(progress.LOG, "handlers", [caplog.handler])
    shown = Display(2, silent=True)
    shown.show_message("3 files are no images")
    shown.end("job 0", 0.5, 0.5)
    shown.fail("job 1", "out of memory")
    assert screen.file.getvalue() == ""
    assert "job 1: failed, out of memory" in caplog.messages


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-m", "pretrainer=ae,vae", "seed=3"], "preparing a sweep over pretrainer=ae,vae\n"),
        (["study=choose", "minutes=3"], "preparing a sweep over study=choose\n"),
        (["pretrainer=vae", "seed=3"], "preparing a run of pretrainer=vae seed=3\n"),
        ([], "preparing a run of the defaults\n"),
        (["--cfg", "job"], ""),
        (["seed=3", "hydra/job_logging=quiet"], ""),
    ],
)
def test_the_first_line_comes_before_any_slow_import(words, said):
    code = (
        "import sys; from sft_exp import __main__; __main__.announce(sys.argv[1:]); "
        "assert not {'torch', 'hydra', 'numpy', 'rich'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, said)


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
@pytest.mark.skipif(
    not find_spec("hydra_plugins.hydra_joblib_launcher"), reason="the launcher is not installed"
)
def test_jobs_side_by_side_on_a_terminal(tmp_path):
    """One process draws: it says which jobs are at work, in which processes, and none garbles it."""
    sweep = ["-m", "debug=tiny", "optim=sgd,adam", "optim.lr=0.01,0.001", "val=none"]
    where = f"hydra.sweep.dir={tmp_path}/sweep"
    beside = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    code, said = on_terminal(100, tmp_path, *sweep, *beside, where)
    assert code == 0, said
    assert "4 of 4 jobs done" in said
    assert re.search(r"optim=\w+ optim.lr=0.0+1, process \d+ on \S", said)
    assert ": test " not in said, "lines of single jobs are in their logs"


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
