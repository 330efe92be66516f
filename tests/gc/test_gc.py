"""`gc` removes unreferenced folders and nothing in use; `ls` lists the store."""

import cProfile
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults import cli
from faults import run as run_command
from filelock import FileLock
from result_stubs import record

from sft_exp.errors import StorageError
from sft_exp.gc import __main__ as gc_command
from sft_exp.ls import __main__ as ls_command
from sft_exp.store import atomic_io, collect, listing

WEEK = 8 * 86400


def name(stage, n):
    return f"{stage}-{n:016x}"


def folder(store, called, request=None, place="", old=False, sealed=True):
    """A folder of the store as a stage leaves it."""
    path = store / place / called
    path.mkdir(parents=True)
    (path / "request.json").write_text(json.dumps(request or {}))
    (path / "model.safetensors").write_bytes(b"x" * 1000)
    if sealed and not place:
        atomic_io.seal(path, {"seconds": 1.0})
    if old:
        for file in (path, *path.rglob("*")):
            os.utime(file, (time.time() - WEEK,) * 2)
    return path


def run(path, store, folders, results=None):
    """A run's folder, and its word on what it uses."""
    path.mkdir(parents=True)
    (path / "status.json").write_text('{"state": "done"}')
    if results is not None:
        (path / "results.json").write_text(json.dumps(results))
    if folders is not None:
        collect.refer(store, path, folders)
    return path


def clean(store, runs="outputs", **options):
    return gc_command.clean(Path(store), Path(runs), **{"dry_run": False, "yes": True, **options})


def there(store):
    return {p.name for p in Path(store).iterdir() if "-" in p.name}


@pytest.fixture
def store(tmp_path):
    return tmp_path / "outputs" / "store"


def test_what_no_run_refers_to_goes(store, capsys):
    data, pre, fine = (name(s, 1) for s in ("data", "pretrain", "finetune"))
    folder(store, data)
    folder(store, pre, {"data": data})
    folder(store, fine, {"start": pre, "optim": {"options": {"lr": name("lr_find", 1)}}})
    folder(store, name("lr_find", 1), {"trials": [name("search", 1)]})
    folder(store, name("search", 1))
    folder(store, name("finetune", 2), {"start": pre})
    (store / "notes-of-mine").mkdir()
    (store / "trash" / "mine").mkdir(parents=True)
    run(Path("outputs/runs/a/b"), store, [fine])
    assert clean(store, dry_run=True) == 0
    said = capsys.readouterr().out
    assert name("finetune", 2) in said
    assert "1 folder, 1.3 kB" in said
    assert len(there(store)) == 7
    assert clean(store) == 0
    assert there(store) == {data, pre, fine, name("lr_find", 1), name("search", 1), "notes-of-mine"}
    assert [p.name for p in (store / "trash").iterdir()] == ["mine"]
    assert clean(store) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 folders, 0 B"


@pytest.mark.parametrize("seed", range(12))
def test_nothing_that_can_be_reached_goes(tmp_path, seed):
    """Random stores: what a living run refers to stays with all it was made from, and all else goes."""
    r, store = random.Random(seed), tmp_path / "store"
    names = [name(r.choice(("data", "pretrain", "finetune", "evaluate")), n) for n in range(40)]
    uses = {n: r.sample(names[:i], min(i, r.randrange(3))) for i, n in enumerate(names)}
    for n in names:
        folder(
            store,
            n,
            {f"input{i}": u if r.random() < 0.5 else {"deep": [u]} for i, u in enumerate(uses[n])},
            sealed=False,
        )
    needed = set()
    for i in range(6):
        roots = r.sample(names, 2)
        path = run(tmp_path / "runs" / str(i), store, [*roots, name("evaluate", 1000 + i)])
        if i % 2:
            (path / "status.json").unlink()
            path.rmdir()
        else:
            needed |= set(roots)
    todo = list(needed)
    while todo:
        new = set(uses[todo.pop()]) - needed
        needed |= new
        todo += new
    assert clean(store, tmp_path / "runs") == 0
    assert there(store) == needed
    assert len(list((store / "roots").iterdir())) == 3


def test_max_gb_takes_the_oldest_until_the_store_is_small_enough(store, capsys):
    for n in range(4):
        path = folder(store, name("finetune", n))
        for file in (path, *path.rglob("*")):
            os.utime(file, (time.time() - 100 * (4 - n),) * 2)
    run(Path("outputs/runs/a/b"), store, [name("finetune", 0)])
    each = listing.measure(store / name("finetune", 3))[0]
    limit = (listing.measure(store)[0] - each - 1) / 1e9
    assert clean(store, max_gb=1) == 0
    assert len(there(store)) == 4
    assert clean(store, max_gb=limit) == 0
    assert there(store) == {name("finetune", n) for n in (0, 3)}, "1 is not enough, 2 is"
    assert clean(store, max_gb=0) == 0
    assert there(store) == {name("finetune", 0)}, "what a run refers to stays, however large"
    assert gc_command.main(["max_gb=-1"]) == 2
    assert "max_gb" in capsys.readouterr().err


def test_a_run_reduces_the_store_to_its_largest_size(store, capsys):
    for n in range(3):
        path = folder(store, name("finetune", n))
        for file in (path, *path.rglob("*")):
            os.utime(file, (time.time() - 100 * (3 - n),) * 2)
    here = run(Path("outputs/runs/a/b"), store, [name("finetune", 0)])
    collect.shrink(store, here, None)
    collect.shrink(store, here, 1.0)
    assert len(there(store)) == 3
    assert capsys.readouterr().err == ""
    size = listing.measure(store)[0]
    collect.shrink(store, here, (size - 1) / 1e9)
    assert there(store) == {name("finetune", n) for n in (0, 2)}, "the oldest that is unused"
    collect.shrink(store, here, 0.0)
    assert there(store) == {name("finetune", 0)}
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].startswith("store_max_gb=")
    assert "1 unused entries" in said[0]


def test_the_work_of_gc_grows_with_the_number_of_folders_and_not_with_its_square(store):
    """Counted, not timed: calls of Python functions for twice the folders are about twice as many."""
    calls = []
    for count in (20, 40):
        place = store / str(count)
        for n in range(count):
            folder(place, name("finetune", n), sealed=False)
            (atomic_io.folder(place / "locks") / f"{name('finetune', n)}.lock").touch()
        profile = cProfile.Profile()
        profile.runcall(collect.unreferenced, place, Path("outputs"))
        calls.append(sum(entry.callcount for entry in profile.getstats()))
        shutil.rmtree(place)  # it lies below outputs, which is searched whole
    assert calls[1] < 2.2 * calls[0], calls


def test_a_run_speaks_before_its_folders_exist(store):
    run(Path("outputs/runs/a/b"), store, [name("pretrain", 1)])
    folder(store, name("pretrain", 1), {"data": name("data", 1)})
    folder(store, name("data", 1))
    clean(store)
    assert len(there(store)) == 2


def test_a_run_that_said_nothing_is_found_by_its_results(store):
    pre = folder(store, name("pretrain", 1))
    run(Path("outputs/multirun/x/0"), store, None, {"stages": {"pretrain": {"folder": str(pre)}}})
    clean(store)
    assert there(store) == {pre.name}
    clean(store, "elsewhere")
    assert there(store) == set()


def test_folders_whose_files_a_config_names_stay(tmp_path, store):
    """A run of an earlier version said in its results alone from which file it began."""
    folder(store, name("pretrain", 1), {"data": name("data", 1)})
    folder(store, name("finetune", 2))
    folder(store, name("finetune", 3))
    folder(store, name("data", 1))
    config = {
        "pretrainer": {"init": f"outputs/store/{name('pretrain', 1)}/encoder.safetensors"},
        "teachers": [f"..\\store\\{name('finetune', 2)}\\model.safetensors"],
    }
    run(Path("outputs/runs/a/b"), store, [], {"config": config})
    clean(store)
    assert there(store) == {name("pretrain", 1), name("data", 1), name("finetune", 2)}


def test_a_run_that_began_from_a_file_of_the_store_repeats_after_gc(tmp_path):
    small = ["debug=tiny", "tracker=none", "report=false", "store=my outputs/store"]
    assert run_command(cli, *small, "pretrainer=ae", "hydra.run.dir=first")[0] == 0
    (file,) = Path("my outputs/store").glob("pretrain-*/metrics.jsonl")
    start = f"pretrainer.init='{file.with_name('encoder.safetensors')}'"
    again = [cli, *small, "pretrainer=ae", "optim.lr=0.01", start]
    assert run_command(*again, "hydra.run.dir=second")[0] == 0
    shutil.rmtree("first")
    assert clean("my outputs/store", "nowhere") == 0
    assert file.exists()
    code, said = run_command(*again, "hydra.run.dir=third")
    assert code == 0, said


def test_runs_and_store_may_move_together(tmp_path, store):
    run(Path("outputs/runs/a/b"), store, [name("pretrain", 1)])
    folder(store, name("pretrain", 1))
    (tmp_path / "outputs").rename(tmp_path / "kept")
    clean(tmp_path / "kept" / "store", tmp_path / "nowhere")
    assert there(tmp_path / "kept" / "store") == {name("pretrain", 1)}


def test_unfinished_work(store):
    used = name("pretrain", 1)
    run(Path("outputs/runs/a/b"), store, [used, name("finetune", 5)])
    # a killed run of somebody who may come back
    folder(store, f"{used}.1.2.host", place="work", old=True)
    # younger than a week
    folder(store, f"{name('pretrain', 2)}.1.2.host", {"data": name("data", 2)}, place="work")
    folder(store, name("data", 2))
    folder(store, f"{name('pretrain', 3)}.1.2.host", place="work", old=True)
    # a copy that a kill interrupted
    folder(store, f".{name('pretrain', 4)}.1.2.host", place="work", old=True)
    folder(store, f"{name('finetune', 5)}.1.2.host", place="work", old=True)  # finished meanwhile
    folder(store, name("finetune", 5))
    folder(store, f"{used}.0123abcd", place="damaged")
    clean(store)
    assert {p.name.partition(".")[0] for p in (store / "work").iterdir()} == {
        used,
        name("pretrain", 2),
    }
    assert there(store) == {name("data", 2), name("finetune", 5)}
    assert list((store / "damaged").iterdir()) == []


def test_what_is_being_computed_stays(store, capsys):
    """A process holds the lock of a folder; what that folder is made from stays too."""
    held, other = name("finetune", 1), name("finetune", 2)
    folder(store, f"{held}.1.2.host", {"start": name("pretrain", 1)}, place="work", old=True)
    folder(store, name("pretrain", 1))
    folder(store, other)
    locks = atomic_io.folder(store / "locks")
    for n in (held, other, name("finetune", 3)):
        (locks / f"{n}.lock").touch()
    code = f"""
from filelock import FileLock
with FileLock({str(locks / f"{held}.lock")!r}):
    print(flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        clean(store)
        assert there(store) == {name("pretrain", 1)}
        assert [p.stem for p in sorted(locks.glob("*-*"))] == [held]
        process.communicate("\n")
    clean(store)
    assert there(store) == set()
    assert list((store / "work").iterdir()) == []
    assert list(locks.glob("*-*")) == []


def test_a_folder_that_is_taken_up_at_the_last_moment_stays(store, monkeypatch):
    """Between the look and the removal somebody takes the lock, or a run says that it wants the folder."""
    one, two = name("finetune", 1), name("finetune", 2)
    for n in (one, two):
        folder(store, n)
    shown = collect.unreferenced(store, Path("outputs"))
    assert {p.name for p in shown} == {one, two}
    run(Path("outputs/runs/a/b"), store, [two])
    looked = collect.unreferenced

    def late(*args):
        found = looked(*args)
        held.acquire()
        return found

    held = FileLock(atomic_io.folder(store / "locks") / f"{one}.lock", is_singleton=False)
    monkeypatch.setattr(collect, "unreferenced", late)
    assert collect.collect(store, Path("outputs"), shown) == []
    held.release()
    assert there(store) == {one, two}


def test_work_that_is_finished_meanwhile_does_not_matter(store):
    """A lock is free again and what was shown is gone, or a temporary file is."""
    path = folder(store, f"{name('finetune', 1)}.1.2.host", place="work", old=True)
    shown = collect.unreferenced(store, Path("outputs"))
    atomic_io.remove(path)
    assert not collect.discard(store, path)
    assert collect.collect(store, Path("outputs"), shown) == []
    assert not collect.old(path)


def test_only_what_was_shown_goes(store):
    folder(store, name("finetune", 1))
    shown = collect.unreferenced(store, Path("outputs"))
    folder(store, name("finetune", 2))
    collect.collect(store, Path("outputs"), shown)
    assert there(store) == {name("finetune", 2)}


def test_a_run_waits_while_gc_decides(store):
    imports = "from pathlib import Path; from sft_exp.store import collect"
    code = f"{imports}; collect.refer(Path({str(store)!r}), Path('r'), [])"
    with collect.deciding(store):
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=Path(collect.__file__).parents[2]
        )
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        assert not (store / "roots").exists()
    assert process.wait(240) == 0
    assert len(list((store / "roots").iterdir())) == 1


def test_killed_at_any_moment_it_does_no_harm(tmp_path, monkeypatch):
    """A kill before each rename and each removal, then another gc: the same end, and what is needed was always there."""

    def made(place):
        store = tmp_path / place / "store"
        for n in range(3):
            folder(store, name("finetune", n), {"start": name("pretrain", n)})
            folder(store, name("pretrain", n))
        folder(store, f"{name('evaluate', 1)}.00", place="damaged")
        run(tmp_path / place / "living", store, [name("finetune", 0)])
        gone = run(tmp_path / place / "gone", store, [name("finetune", 1)])
        (gone / "status.json").unlink()
        gone.rmdir()
        return store

    class Killed(BaseException):
        pass

    left = [0]

    def counted(real):
        def call(*args):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return real(*args)

        return call

    needed = {name("finetune", 0), name("pretrain", 0)}
    for point in range(1, 100):
        store = made(str(point))
        with monkeypatch.context() as patch:
            patch.setattr(atomic_io, "move", counted(atomic_io.move))
            patch.setattr(atomic_io, "remove", counted(atomic_io.remove))
            left[0] = point
            try:
                clean(store, tmp_path / str(point) / "runs")
                break
            except Killed:
                pass
        assert all(atomic_io.check(store / n) == [] for n in needed)
        assert all(atomic_io.check(store / n) == [] for n in there(store))  # whole, or gone
        clean(store, tmp_path / str(point) / "runs")
        assert there(store) == needed
        assert [list((store / place).iterdir()) for place in ("trash", "damaged")] == [[], []]
        assert len(list((store / "roots").iterdir())) == 1
    assert point > 15  # the kills did happen


def test_a_note_that_cannot_be_read_stops_it(store, monkeypatch, capsys):
    folder(store, name("finetune", 1))
    (atomic_io.folder(store / "roots") / "x.json").write_text('{"run": ')
    monkeypatch.setattr(sys, "argv", ["gc", "--yes"])
    assert gc_command.main() == StorageError.code
    assert "x.json" in capsys.readouterr().err
    assert there(store) == {name("finetune", 1)}


def test_no_flipped_bit_of_a_runs_record_passes(store):
    """Such a record could name another run, or other folders, and gc would remove those that it named."""
    run(Path("outputs/run"), store, [name("finetune", 1)])
    (file,) = (store / "roots").iterdir()
    whole = file.read_bytes()
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        with pytest.raises(StorageError, match="nothing was removed"):
            collect.root(file)


def test_a_record_of_version_0_2_is_read_though_it_has_no_checksum(store):
    path = run(Path("outputs/run"), store, None)
    folder(store, name("finetune", 1))
    record = {"run": str(path.absolute()), "folders": [name("finetune", 1)]}
    atomic_io.write_json(store / "roots" / "x.json", record)
    assert clean(store, yes=True) == 0
    assert there(store) == {name("finetune", 1)}


def test_without_locks_nothing_is_removed(store, monkeypatch):
    folder(store, name("finetune", 1))

    def none(*args, **kwargs):
        raise NotImplementedError

    monkeypatch.setattr(FileLock, "acquire", none)
    with pytest.raises(StorageError, match="no locks"):
        clean(store)
    run(Path("outputs/runs/a/b"), store, [name("finetune", 1)])  # but a run can speak
    assert there(store) == {name("finetune", 1)}
    assert len(list((store / "roots").iterdir())) == 1


def test_asks_first(store, monkeypatch, capsys):
    folder(store, name("finetune", 1))
    monkeypatch.setattr(sys, "argv", ["gc"])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert gc_command.main() == 2
    assert "yes=true" in capsys.readouterr().err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    for answer, left in (("", 1), ("n", 1), ("y", 0)):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        assert gc_command.main() == 0
        assert len(there(store)) == left
    monkeypatch.setattr(sys, "argv", ["gc", "--store", "nowhere"])
    assert gc_command.main() == 0
    assert not Path("nowhere").exists()


def test_dry_run_writes_nothing(store):
    folder(store, name("finetune", 1))
    folder(store, f"{name('finetune', 2)}.1.2.h", place="work", old=True)
    before = sorted(p for p in store.rglob("*"))
    clean(store, dry_run=True, yes=False)
    assert sorted(p for p in store.rglob("*")) == before


@pytest.mark.slow
def test_a_real_run_keeps_all_it_used(tmp_path, capsys, monkeypatch):
    import sft_exp

    first = sft_exp.run(["debug=tiny", "val=cv"], folder="outputs/runs/a/b")
    folder(Path("outputs/store"), name("finetune", 1))
    before = there("outputs/store")
    clean("outputs/store")
    assert there("outputs/store") == before - {name("finetune", 1)}
    again = sft_exp.run(["debug=tiny", "val=cv"], folder="outputs/runs/a/b")
    assert all(stage["cached"] for stage in again["stages"].values() if stage)
    assert again["test"] == first["test"]

    monkeypatch.setattr(sys, "argv", ["ls", "--limit", "0"])
    capsys.readouterr()
    assert ls_command.main() == 0
    out = capsys.readouterr().out
    assert all(n in out for n in there("outputs/store"))
    assert "VAE MLP, Digits, seed 0, 2 steps, Adam lr 0.001" in out
    assert "VAE Full, Digits, 10 labels a class, draw 0, seed 0, 2 steps, Adam lr 0.001" in out
    assert "test of VAE Full, Digits" in out
    assert (
        f"vae, full, adam, digits, labels 10, seed 0, val {100 * first['val']['accuracy']:.1f}"
        in out
    )
    atomic_io.remove(Path("outputs/runs"))
    clean("outputs/store")
    assert there("outputs/store") == set()


def test_a_damaged_request_is_not_described_as_another_one(store, capsys):
    started = {"start": name("pretrain", 1), "strategy": {"is": "x.Full"}, "seed": 0}
    pretrain = folder(store, name("pretrain", 1), {"method": {"is": "x.VAE"}, "seed": 0})
    folder(store, name("finetune", 1), started)
    request = pretrain / "request.json"
    request.write_text(request.read_text().replace('"seed": 0', '"seed": 1'))
    listing.request_of.cache_clear()
    for command in (ls_command.main, gc_command.main):
        command(["dry_run=true"] if command is gc_command.main else [])
        out = capsys.readouterr().out
        assert "request.json: changed" in out
        assert "damaged Full, seed 0" in out
        assert "seed 1" not in out


def test_ls(store, monkeypatch, capsys):
    dataset = {"is": "sft_exp.datasets.digits.Digits"}
    vae = {
        "dataset": dataset,
        "method": {"is": "x.VAE"},
        "encoder": {"is": "x.MLP"},
        "seed": 1,
        "steps": 5,
        "fold": None,
    }
    folder(
        store,
        name("pretrain", 1),
        vae | {"optim": {"path": "torch.optim.SGD", "options": {"lr": 0.1}}},
        old=True,
    )
    tuned = {"path": "torch.optim.Adam", "options": {"lr": name("lr_find", 1)}}
    fine = {
        "dataset": dataset,
        "strategy": {"is": "x.Full"},
        "encoder": {"is": "x.MLP"},
        "start": None,
        "optim": tuned,
    }
    fine |= {"labels": {"count": "total:50"}, "draw": 3, "seed": 0, "steps": 7}
    folder(store, f"{name('finetune', 2)}.1.2.host", fine, place="work")
    folder(store, f"{name('pretrain', 1)}.0123abcd", vae, place="damaged")
    folder(store, name("data", 9), sealed=False)
    run(
        Path("outputs/runs/a/b"),
        store,
        [],
        record(choices={"pretrainer": "vae"}, config={"seed": 3}),
    )
    failed = run(Path("outputs/multirun/c/0"), store, [])
    (failed / "status.json").write_text('{"state": "failed", "error": "no such thing\\nat all"}')

    def said(*options):
        monkeypatch.setattr(sys, "argv", ["ls", *options])
        assert ls_command.main() == 0
        return [
            " ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip()
        ]

    _, _, *lines, total = said()
    states = [line.split()[0] for line in lines]
    assert sorted(states) == ["damaged", "damaged", "done", "done", "failed", "unfinished"]
    assert lines[-1].startswith("done 8 d ")  # the oldest
    for words in (
        f"{name('pretrain', 1)} VAE MLP, Digits, seed 1, 5 steps, SGD lr 0.1",
        f"{name('finetune', 2)} scratch MLP Full, Digits, 50 labels, draw 3, seed 0, 7 steps, Adam lr {name('lr_find', 1)}",
        "outputs/runs/a/b vae, seed 3, test 50.0",
        "outputs/multirun/c/0 no such thing",
    ):
        assert any(line.endswith(words) for line in lines), words
    assert total.startswith("1 data 1.0 kB, 1 finetune ")
    assert total.endswith(f"; 6 in all, {listing.bytes_(sum(e.size for e in everything(store)))}")
    assert [line.split()[0] for line in said("--stage", "pretrain")[2:-1]] == ["damaged", "done"]
    assert len(said("--stage", "run")) == 2 + 2 + 1
    assert said("--limit", "2")[2:-1] == [*lines[:2], "... and 4 older (limit=0 lists all)"]
    assert said("--store", "no", "--runs", "no") == ["nothing here in no and no"]
    assert ls_command.main(["stage=finetuning"]) == 2
    assert (
        "stage=finetuning: is none of those here: data, finetune, pretrain, run"
        in capsys.readouterr().err
    )


def everything(store):
    return [*listing.folders(store), *map(listing.run, listing.runs(Path("outputs"), store))]


def test_ls_is_fast_on_thousands(tmp_path, monkeypatch, capsys):
    store = tmp_path / "store"
    for n in range(3000):
        path = store / name("finetune", n)
        path.mkdir(parents=True)
        for file in ("request.json", "done.json", "metrics.jsonl"):
            (path / file).write_text("{}")
    monkeypatch.setattr(sys, "argv", ["ls", "--store", str(store)])
    before = time.process_time()
    ls_command.main()
    assert time.process_time() - before < 2
    assert "3000 finetune 18.0 kB; 3000 in all" in capsys.readouterr().out
