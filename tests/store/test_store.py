"""The store computes each request once, across processes, kills and file systems without locks."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from faults import Disk, Fault, ended, find, fork, leftovers, memory

from sft_exp.errors import DataError, Failure, Interrupted, StorageError
from sft_exp.store import atomic_io, store
from sft_exp.store.store import Stage, Store

LOG = Path("log")  # a line for each computation


def compute(folders, requests):
    """The stage under test; it also tells which step a killed one had reached."""
    for folder, request in zip(folders, requests, strict=True):
        reached = int((folder / "reached").read_text()) if (folder / "reached").exists() else 0
        with LOG.open("a") as log:
            log.write(f"{request['x']} from {reached}\n")
        atomic_io.write(folder / "first", "written first")
        for step in range(reached, request.get("steps", 3)):
            atomic_io.write(folder / "reached", str(step + 1))
            time.sleep(request.get("seconds", 0))
        request.get("then", int)()
        atomic_io.remove(folder / "reached")
        atomic_io.write(folder / "square", str(request["x"] ** 2))


STAGE = Stage("square", compute, lambda request: request)


@pytest.fixture
def in_memory(monkeypatch):
    with memory() as folder:
        monkeypatch.chdir(folder)
        yield folder


def ask(*requests, stage=STAGE):
    """Compute, and leave with the exit code of what failed."""
    try:
        results = Store(Path("store")).run(stage, requests)
    except Failure as error:
        print(error, file=sys.stderr)
        sys.exit(error.code)
    for request, result in zip(requests, results, strict=True):
        assert (result.folder / "square").read_text() == str(request["x"] ** 2)
        assert (result.folder / "first").read_text() == "written first"
        assert (result.folder / "request.json").exists()


def log():
    return LOG.read_text().splitlines() if LOG.exists() else []


def until(condition, seconds=20.0):
    """Wait for a condition; seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.01)
    return time.monotonic() - began


def reached(step):
    return lambda: any(f.read_text() == str(step) for f in find("store/work/*/*/reached"))


def test_equal_requests_are_computed_once_and_cached():
    first = Store(Path("store")).run(STAGE, [{"x": 2}, {"x": 3}, {"x": 2}])
    assert [(r.folder / "square").read_text() for r in first] == ["4", "9", "4"]
    assert [r.cached for r in first] == [False] * 3
    again = Store(Path("store")).run(STAGE, [{"x": 3}, {"x": 2}, {"x": 4}])
    assert [r.cached for r in again] == [True, True, False]
    assert log() == ["2 from 0", "3 from 0", "4 from 0"]


def test_requests_that_are_alike_are_computed_together():
    calls = []

    def together(folders, requests):
        calls.append([r["x"] for r in requests])
        compute(folders, requests)

    stage = replace(STAGE, run=together, batch_key=lambda r: "even" if r["x"] % 2 == 0 else None)
    results = Store(Path("store")).run(stage, [{"x": x} for x in (1, 2, 3, 4, 2)])
    assert [(r.folder / "square").read_text() for r in results] == ["1", "4", "9", "16", "4"]
    assert calls == [[1], [2, 4], [3]]


def test_eight_processes_compute_once():
    asking = [fork(ask, {"x": 5, "seconds": 0.1}, {"x": 6}) for _ in range(8)]
    assert [ended(p) for p in asking] == [0] * 8
    assert sorted(log()) == ["5 from 0", "6 from 0"]
    assert not leftovers(Path("store"))


def test_processes_with_other_requests_do_not_meet(in_memory):
    """Nor when one clears up while another looks around."""
    asking = [
        fork(ask, *({"x": x, "steps": 0} for x in range(10 * n, 10 * n + 40))) for n in range(4)
    ]
    assert [ended(p) for p in asking] == [0] * 4
    assert sorted(log()) == sorted(f"{x} from 0" for x in range(70))
    assert not leftovers(Path("store"))


def hold(request):
    """Compute three steps and hang, beside a forked worker that outlives its killed parent as a data loader's may."""

    def hangs(folders, requests):
        if not (worker := os.fork()):
            time.sleep(60)
            os._exit(0)
        atomic_io.write(Path("worker"), str(worker))
        compute(folders, [{**request, "then": lambda: time.sleep(60)}])

    ask(request, stage=replace(STAGE, run=hangs))


def test_the_next_waiter_takes_up_a_killed_holders_work():
    request = {"x": 7}
    holder = fork(hold, request)
    until(reached(3))
    waiters = [fork(ask, request) for _ in range(2)]
    time.sleep(0.3)
    assert len(log()) == 1
    holder.kill()
    assert ended(holder) == -signal.SIGKILL
    assert until(lambda: len(log()) == 2) < 20  # a second on a quiet machine
    assert [ended(w) for w in waiters] == [0, 0]
    assert log() == ["7 from 0", "7 from 3"]
    assert not leftovers(Path("store"))
    os.kill(int(Path("worker").read_text()), signal.SIGKILL)


class Nothing:
    """A lock of a file system without locks: it says so in one of several ways, or says nothing and does nothing."""

    kind = "silent"

    def __init__(self, path, **_):
        self.lock_file, self.is_locked = path, False

    def acquire(self, **_):
        if self.kind == "silent":
            self.is_locked = True
        elif self.kind == "unimplemented":
            raise NotImplementedError
        else:
            raise OSError(getattr(errno, self.kind), "no locks here")

    def release(self):
        pass


def ask_without_locks(kind, gate, *requests):
    Nothing.kind = kind
    store.FileLock = Nothing
    while not gate.exists():
        pass
    ask(*requests)


@pytest.mark.parametrize("kind", ["silent", "unimplemented", "ENOSYS", "ENOLCK", "ENOTSUP"])
def test_results_are_right_without_locks(kind):
    """Also while processes finish at the same moment and take up each other's unfinished folders."""
    for x in range(3 if kind == "silent" else 1):
        gate = Path(f"gate{x}")
        asking = [fork(ask_without_locks, kind, gate, {"x": x}, {"x": x + 100}) for _ in range(4)]
        gate.touch()
        assert [ended(p) for p in asking] == [0] * 4
        for folder in Path("store").glob("square-*"):
            assert atomic_io.check(folder) == []
            assert {f.name for f in folder.iterdir()} == {
                "request.json",
                "first",
                "square",
                "done.json",
            }


def test_work_of_another_machine_is_copied_and_taken_up(monkeypatch):
    """Whether that one is alive nobody here can say: it may go on in its own folder."""
    request = {"x": 8}
    name = STAGE.folder_name(request)
    theirs = Path(f"store/work/1.{os.getpid()}.elsewhere") / name
    atomic_io.write(theirs / "reached", "2")
    atomic_io.write(theirs / "first", "written first")
    monkeypatch.setattr(atomic_io, "discard", lambda path: None)
    ask(request)
    assert log() == ["8 from 2"]
    assert (theirs / "reached").read_text() == "2"


@pytest.mark.parametrize("damage", ["changed", "missing", "seal"])
def test_a_damaged_folder_is_set_aside_and_rebuilt_once(damage, capsys):
    ask({"x": 9})
    (folder,) = Path("store").glob("square-*")
    whole = (folder / "square").read_bytes()
    if damage == "changed":
        (folder / "square").write_text("80")
    else:
        (folder / ("square" if damage == "missing" else atomic_io.SEAL)).unlink()
    readers = [fork(ask, {"x": 9}) for _ in range(4)]
    assert [ended(p) for p in readers] == [0] * 4
    assert log() == ["9 from 0"] * 2
    assert (folder / "square").read_bytes() == whole
    assert len(list(Path("store/damaged").iterdir())) == 1

    (folder / "square").write_text("80")
    ask({"x": 9})
    said = capsys.readouterr().err
    assert f"{folder}/square: changed. Set aside as store/damaged/" in said


def test_a_failing_stage_publishes_nothing_and_is_taken_up_next_time():
    def fails(folders, requests):
        atomic_io.write(folders[0] / "reached", "2")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        Store(Path("store")).run(replace(STAGE, run=fails), [{"x": 1}])
    assert not list(Path("store").glob("square-*"))
    ask({"x": 1})
    assert log() == ["1 from 2"]
    assert not leftovers(Path("store"))


def fail_at_the_third_step(request):
    def until_all_wait_and_fail():
        until(lambda: len(find("waits-*")) == 5)
        time.sleep(0.5)
        raise DataError("image 7 is broken")

    failing = replace(
        STAGE,
        run=lambda folders, requests: compute(
            folders, [{**request, "then": until_all_wait_and_fail}]
        ),
    )
    if log():  # the holder is at work
        Path(f"waits-{os.getpid()}").write_text("")
    ask(request, stage=failing)


def test_who_waits_for_a_failing_holder_fails_with_it_once():
    """Six processes: one computation, six times its error and exit code; and a new try the next time."""
    request = {"x": 8}
    holder = fork(fail_at_the_third_step, request)
    until(reached(3))
    others = [fork(fail_at_the_third_step, request) for _ in range(5)]
    assert [ended(p) for p in (holder, *others)] == [DataError.code] * 6
    assert log() == ["8 from 0"]
    with pytest.raises(DataError, match="image 7"):
        Store(Path("store")).run(replace(STAGE, run=failing_at_once), [request])
    ask(request)
    assert len(log()) == 3
    assert not find("store/locks/*.failed.json")


def failing_at_once(folders, requests):
    compute(folders, [{**r, "then": fail} for r in requests])


def fail():
    raise DataError("image 7 is broken")


def wait_impatiently(request):
    store.PATIENCE = 0.2
    said = os.open("said", os.O_CREAT | os.O_WRONLY)
    os.dup2(said, 2)
    ask(request)


def hold_until_somebody_waits(request):
    def waits(folders, requests):
        until(lambda: Path("said").exists() and Path("said").read_text())
        compute(folders, requests)

    ask(request, stage=replace(STAGE, run=waits))


def test_waiting_is_said():
    request = {"x": 3}
    holder = fork(hold_until_somebody_waits, request)
    until(lambda: find("store/work/*/*"))
    waiter = fork(wait_impatiently, request)
    assert [ended(holder), ended(waiter)] == [0, 0]
    assert (
        f"waiting for another process that computes {STAGE.folder_name(request)}"
        in Path("said").read_text()
    )


def test_who_is_asked_to_stop_waits_no_longer_and_begins_nothing():
    request = {"x": 3, "steps": 99, "seconds": 0.1}
    holder = fork(ask, request)
    until(reached(1))
    asked = time.monotonic()
    with pytest.raises(Interrupted, match="another process"):
        Store(Path("store"), stopped=lambda: time.monotonic() - asked > 0.3).run(STAGE, [request])
    assert time.monotonic() - asked < 2
    holder.kill()
    with pytest.raises(Interrupted, match="before it began"):
        Store(Path("store"), stopped=lambda: True).run(STAGE, [{"x": 4}])
    assert len(log()) == 1


SMALL = {"x": 2, "steps": 1}


def ask_with_fault(fault):
    Disk(Path("store").absolute(), fault, count=Path("changes"))
    ask(SMALL)


def unmade():
    for folder in Path("store").glob("square-*"):
        shutil.rmtree(folder)


def test_any_change_on_disk_may_be_the_last(in_memory):
    """Killed before it, or with half a file written: the next call ends with the right results."""
    for _ in range(2):  # the second time, as in all that follow, the store's own folders are there
        unmade()
        assert ended(fork(ask_with_fault, None)) == 0
    changes = int(Path("changes").read_text())
    assert changes > 20
    for at in range(changes):
        unmade()
        assert ended(fork(ask_with_fault, Fault(at))) == -signal.SIGKILL
        ask(SMALL)
        assert not leftovers(Path("store"))
        assert len(list(Path("store").glob("square-*"))) == 1


def test_the_disk_may_be_full_at_any_change(in_memory):
    disk, refused = Disk(Path("store").absolute()), 0
    ask(SMALL)
    for at in range(disk.n):
        unmade()
        disk.n, disk.fault = 0, Fault(at, "full")
        try:
            Store(Path("store")).run(STAGE, [SMALL])
        except StorageError:
            refused += 1
        disk.fault = None
        ask(SMALL)
        assert not leftovers(Path("store"))
    assert refused > 10


def test_an_unusable_store_is_a_storage_error():
    Path("store").write_text("a file")
    with pytest.raises(StorageError, match="store"):
        Store(Path("store")).run(STAGE, [{"x": 1}])


def test_a_store_is_found_again_from_another_folder(tmp_path):
    """Names depend on what is computed, not on where."""
    ask({"x": 2})
    code = "from test_store import *; os.chdir('..'); assert Store(Path('moved')).run(STAGE, [{'x': 2}])[0].cached"
    Path("store").rename("../moved")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=240)


def test_what_somebody_has_just_finished_is_not_set_aside(capsys):
    """Without locks a folder may be published between the look that missed it and the clearing of its name."""
    ask({"x": 11})
    (folder,) = Path("store").glob("square-*")
    store.Store(Path("store"))._set_aside(folder.name)
    assert atomic_io.check(folder) == []
    assert "Set aside" not in capsys.readouterr().err


def test_half_a_copy_is_not_taken_up(tmp_path, monkeypatch):
    """Its owner took the folder away while it was copied."""
    (tmp_path / "left").mkdir()
    (tmp_path / "left" / "first").write_text("")
    assert store.copy_folder(tmp_path / "left", tmp_path / "whole")
    real = atomic_io.copy
    monkeypatch.setattr(
        atomic_io, "copy", lambda path, to: (real(path, to), atomic_io.discard(path))
    )
    assert not store.copy_folder(tmp_path / "left", tmp_path / "half")
