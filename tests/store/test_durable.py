"""Files are written atomically, in an order that survives a power cut, and damage is detected."""

import ast
import errno
import json
import os
import resource
import signal
from pathlib import Path

import pytest
from faults import Disk, Fault, ended, fork

from sft_exp.errors import StorageError
from sft_exp.store import atomic_io


def replace_file(path: Path, content: bytes, at: int) -> None:
    Disk(path.parent, Fault(at))
    atomic_io.write(path, content)


def test_write_killed_at_any_point_leaves_the_old_file_or_the_new(tmp_path):
    file, outcomes = tmp_path / "weights", []
    for at in range(10):
        file.write_bytes(b"old")
        code = ended(fork(replace_file, file, b"new" * 1000, at))
        outcomes.append((code, file.read_bytes()))
        if code == 0:
            break
    killed, last = outcomes[:-1], outcomes[-1]
    assert len(killed) >= 2
    assert all(outcome == (-signal.SIGKILL, b"old") for outcome in killed)
    assert last == (0, b"new" * 1000)


def test_a_full_disk_leaves_the_old_file_and_is_said_with_path_and_sizes(tmp_path):
    """RLIMIT_FSIZE fails in the middle of the data (EFBIG), as a full disk does."""
    file = tmp_path / "weights"
    atomic_io.write(file, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(
            StorageError, match=rf"{file}: File too large; 10,000 bytes needed, [0-9,]+ bytes free"
        ):
            atomic_io.write(file, b"x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["weights"]


@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_every_error_of_the_disk_is_a_storage_error(tmp_path, monkeypatch, name, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    file = tmp_path / "weights"
    file.write_bytes(b"old")
    monkeypatch.setattr(os, name, fail)
    with pytest.raises(StorageError, match=f"{file}: {os.strerror(code)}"):
        atomic_io.write(file, b"new")
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["weights"]


def test_a_file_where_a_folder_should_be_is_a_storage_error(tmp_path):
    (tmp_path / "store").write_text("a file")
    for use in (
        atomic_io.folder,
        lambda p: atomic_io.write(p / "x", b""),
        lambda p: atomic_io.move(tmp_path, p / "y"),
    ):
        with pytest.raises(StorageError, match="store"):
            use(tmp_path / "store" / "inside")


def test_a_file_system_that_cannot_sync_folders_will_do(tmp_path, monkeypatch):
    fsync = os.fsync

    def refuse_folders(handle):
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    atomic_io.write(tmp_path / "weights", b"new")
    assert (tmp_path / "weights").read_bytes() == b"new"


def sealed(folder: Path) -> Path:
    for name in ("weights", "fold-0/metrics.jsonl"):
        atomic_io.write(folder / name, name.encode() * 99)
    atomic_io.seal(folder, {"seconds": 1})
    return folder


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


@pytest.mark.parametrize("name", ["weights", "fold-0/metrics.jsonl"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flip, "changed"),
        (lambda f: os.truncate(f, 10), "changed"),
        (lambda f: os.truncate(f, 0), "changed"),
        (lambda f: f.write_bytes(f.read_bytes() + b"x"), "changed"),
        (Path.unlink, "No such file"),
    ],
    ids=["bit flipped", "truncated", "emptied", "appended", "missing"],
)
def test_check_names_the_damaged_file(tmp_path, name, damage, said):
    folder = sealed(tmp_path / "stage")
    assert atomic_io.check(folder) == []
    damage(folder / name)
    (fault,) = atomic_io.check(folder)
    assert str(folder / name) in fault
    assert said in fault


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"sha256": 1}', "{}"])
def test_check_notices_a_damaged_seal(tmp_path, content):
    folder = sealed(tmp_path / "stage")
    (folder / atomic_io.SEAL).unlink() if content is None else (folder / atomic_io.SEAL).write_text(
        content
    )
    (fault,) = atomic_io.check(folder)
    assert fault.startswith(str(folder / atomic_io.SEAL))
    with pytest.raises(StorageError):
        atomic_io.read_seal(folder)


def test_no_flipped_bit_of_a_seal_passes(tmp_path):
    """Neither the checksums of files nor the facts beside them, which no file's checksum covers."""
    folder = sealed(tmp_path / "stage")
    whole = (folder / atomic_io.SEAL).read_bytes()
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        (folder / atomic_io.SEAL).write_bytes(data)
        with pytest.raises(StorageError):
            atomic_io.read_seal(folder)
    for size in range(len(whole)):
        (folder / atomic_io.SEAL).write_bytes(whole[:size])
        assert atomic_io.check(folder)


def test_a_seal_of_version_0_1_is_read_though_it_has_no_checksum(tmp_path):
    folder = sealed(tmp_path / "stage")
    facts = atomic_io.read_seal(folder)
    del facts[atomic_io.OWN]
    (folder / atomic_io.SEAL).write_text(json.dumps(facts, indent=1))
    assert atomic_io.read_seal(folder) == facts
    assert atomic_io.check(folder) == []
    (folder / atomic_io.SEAL).write_text(json.dumps({**facts, "more": 1}))
    assert "checksum" in atomic_io.check(folder)[0]


def test_no_flipped_bit_of_a_checked_file_passes(tmp_path):
    file = tmp_path / "checkpoint"
    atomic_io.write_checked(file, b"numbers")
    whole = file.read_bytes()
    assert atomic_io.read_checked(file) == b"numbers"
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        with pytest.raises(StorageError, match="damaged"):
            atomic_io.read_checked(file)
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        with pytest.raises(StorageError, match="damaged"):
            atomic_io.read_checked(file)


def race(work: Path, final: Path, gate: Path) -> None:
    while not gate.exists():
        pass
    atomic_io.publish(work, final)
    assert not atomic_io.check(final)


def test_whoever_publishes_second_finds_the_first_ones_folder_whole(tmp_path):
    for n in range(3):
        final = tmp_path / f"final{n}"
        works = [sealed(tmp_path / f"work{n}-{i}") for i in range(4)]
        racers = [fork(race, work, final, tmp_path / f"gate{n}") for work in works]
        (tmp_path / f"gate{n}").touch()
        assert [ended(p) for p in racers] == [0] * 4
        assert atomic_io.check(final) == []
        assert not [w for w in works if w.exists()]


def test_publish_never_replaces_a_folder_that_is_not_the_same_result(tmp_path):
    (tmp_path / "final").mkdir()
    (tmp_path / "final/thesis.tex").write_text("mine")
    with pytest.raises(StorageError, match="final"):
        atomic_io.publish(sealed(tmp_path / "work"), tmp_path / "final")
    assert (tmp_path / "final/thesis.tex").read_text() == "mine"


def test_data_is_on_disk_before_the_seal_and_the_seal_before_the_name(tmp_path, monkeypatch):
    """fsync of every file < rename of the seal < rename of the folder < fsync of its parent."""
    calls = []
    work, final = tmp_path / "work", tmp_path / "final"

    def record(name):
        real = getattr(os, name)

        def wrapped(*arguments, **options):
            what = os.fstat(arguments[0]).st_ino if name == "fsync" else Path(arguments[1]).name
            calls.append((name, what))
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, wrapped)

    (work / "fold-0").mkdir(parents=True)
    (work / "fold-0/written by a library").write_text("not synced")
    inodes = {
        p.name: p.stat().st_ino
        for p in (work, work / "fold-0", work / "fold-0/written by a library", tmp_path)
    }
    for name in ("fsync", "replace", "rename"):
        record(name)
    atomic_io.seal(work, {})
    atomic_io.publish(work, final)

    seal, published = calls.index(("replace", atomic_io.SEAL)), calls.index(("rename", "final"))
    assert calls.index(("fsync", inodes["written by a library"])) < seal
    assert calls.index(("fsync", inodes["fold-0"])) < seal
    assert calls[seal - 1] == ("fsync", (final / atomic_io.SEAL).stat().st_ino)
    assert ("fsync", inodes["work"]) in calls[seal:published]
    assert calls.index(("fsync", inodes[tmp_path.name])) > published


def test_link_follows_the_newest_and_needs_no_links(tmp_path, monkeypatch):
    for name in ("first", "second"):
        atomic_io.link(tmp_path / "latest", atomic_io.folder(tmp_path / name))
        assert (tmp_path / "latest").resolve() == tmp_path / name
    monkeypatch.setattr(
        os, "symlink", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here"))
    )
    atomic_io.link(tmp_path / "latest", tmp_path / "first")
    assert sorted(os.listdir(tmp_path)) == ["first", "latest", "second"]


def test_copy_brings_neither_half_done_files_nor_bytecode(tmp_path):
    for name in ("a", ".a.1234.tmp", "__pycache__/x.pyc"):
        atomic_io.write(tmp_path / "from" / name, b"")
    atomic_io.copy(tmp_path / "from", tmp_path / "to")
    assert os.listdir(tmp_path / "to") == ["a"]


WRITERS = {
    "copytree", "hardlink_to", "makedirs", "mkdir", "rename", "rmdir", "rmtree", "save_file", "symlink_to", "touch", "truncate",
    "unlink", "write_bytes", "write_text",
}  # fmt: skip


def changes_files(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    modes = {
        a.value
        for a in [*call.args, *(k.value for k in call.keywords)]
        if isinstance(a, ast.Constant)
    }
    return name in WRITERS or (
        name == "open" and bool(modes & {"w", "wb", "a", "ab", "x", "xb", "r+", "r+b"})
    )


def test_nothing_else_writes_files():
    package = Path(atomic_io.__file__).parents[1]
    found = [
        f"{file.relative_to(package)}:{node.lineno}: {ast.unparse(node)}"
        for file in package.rglob("*.py")
        if file.name != "atomic_io.py"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and changes_files(node)
    ]
    assert not found
    assert changes_files(ast.parse("path.open('wb')").body[0].value)  # type: ignore[attr-defined]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_have_the_modes_of_the_umask(tmp_path, mask):
    """A store may be private: nobody else reads what a umask of 077 keeps to oneself."""
    before = os.umask(mask)
    try:
        folder = atomic_io.folder(tmp_path / "outer" / "folder")
        atomic_io.write(folder / "bytes", b"x")
        atomic_io.write_json(folder / "json", {})
        atomic_io.write_checked(folder / "checked", b"x")
        atomic_io.array(folder / "array.npy", (2, 2))
        atomic_io.seal(folder, {})
    finally:
        os.umask(before)
    modes = {p: p.stat().st_mode & 0o777 for p in tmp_path.rglob("*")}
    assert len(modes) >= 7
    assert {m for p, m in modes.items() if p.is_dir()} == {0o777 & ~mask}
    assert {m for p, m in modes.items() if p.is_file()} == {0o666 & ~mask}
