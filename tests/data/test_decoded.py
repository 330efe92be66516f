"""Images of sets that do not fit into memory are decoded once, and their pixels kept."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from sft_exp import api
from sft_exp.data import decode, decoded
from sft_exp.datasets.image_folder import ImageFolder
from sft_exp.datasets.large import Large
from sft_exp.execution import ownership
from sft_exp.gc.__main__ import clean

CPU = torch.device("cpu")
KINDS = ("folders", "archive", "beyond memory")


@pytest.fixture(params=KINDS)
def data(request, tmp_path):
    """A data set of 12 images that are decoded when they are used, whose cache is `kept`."""
    rng, root = np.random.default_rng(0), tmp_path / "photos"
    for n in range(12):
        file = root / "train" / "ab"[n % 2] / f"{n:02}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(file)
    keys = {"size": 16, "workers": 0, "cache": str(tmp_path / "kept")}
    if request.param == "beyond memory":
        return lambda **more: ImageFolder(root=str(root / "train"), memory=0, **keys | more)
    if request.param == "archive":
        shutil.make_archive(str(root / "train"), "tar", root / "train")
    where = "train.tar" if request.param == "archive" else "train"
    key = "unlabelled" if request.param == "archive" else "test"
    return lambda **more: Large(root=str(root), train="train", **{key: where}, **keys | more)


def loaded(dataset):
    corpus = dataset.load()
    decoded.keep(corpus, dataset)
    return corpus


def pixels(corpus):
    splits = [s for s in (corpus.train, corpus.test, corpus.extra) if s is not None]
    return [s.floats(torch.arange(len(s)), CPU) for s in splits]


def equal(one, other):
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.fixture
def decodings(monkeypatch):
    """The number of images that have been decoded, as a list of them."""
    seen, look = [], decode.look

    def counted(*given):
        seen.append(1)
        return look(*given)

    for module in ("data.decode", "datasets.large"):
        monkeypatch.setattr(f"sft_exp.{module}.look", counted)
    return seen


def test_a_second_use_decodes_nothing_and_has_the_same_pixels(data, decodings):
    plain = pixels(data(cache=None).load())
    assert equal(pixels(loaded(data())), plain)
    again = loaded(data())
    before = len(decodings)
    assert equal(pixels(again), plain)
    assert len(decodings) == before


def test_worker_processes_write_and_read_the_same_records(data, decodings):
    plain = pixels(data(cache=None).load())
    assert equal(pixels(loaded(data(workers=2))), plain)
    again = loaded(data())
    before = len(decodings)
    assert equal(pixels(again), plain)
    assert len(decodings) == before


@pytest.mark.parametrize("damage", ["a bit", "the end", "all"])
def test_damaged_records_are_decoded_again(data, damage, tmp_path):
    first = pixels(loaded(data()))
    for file in (tmp_path / "kept" / "decoded").iterdir():
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        short = {"a bit": content, "the end": content[:-100], "all": bytes(len(content))}
        file.write_bytes(short[damage])
    assert equal(pixels(loaded(data())), first)


def test_a_replaced_file_is_decoded(data, tmp_path):
    before = pixels(loaded(data()))
    file = tmp_path / "photos" / "train" / "a" / "00.jpg"
    status = file.stat()
    Image.new("RGB", (30, 20), (255, 0, 0)).save(file)
    file.write_bytes(file.read_bytes().ljust(status.st_size, b"\0"))  # same name and size
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    after = pixels(loaded(data()))
    assert not equal(after[:1], before[:1])
    assert after[0][0, 0].mean() > 0.9


def test_a_file_that_changes_while_it_is_used_changes_no_pixels(data, tmp_path):
    corpus = loaded(data())
    before = pixels(corpus)
    for file in (tmp_path / "photos").rglob("*.jpg"):
        Image.new("RGB", (30, 20), (255, 0, 0)).save(file)
    assert equal(pixels(corpus), before)


def test_another_size_has_records_of_its_own(data):
    pixels(loaded(data()))
    assert equal(pixels(loaded(data(size=8))), pixels(data(size=8, cache=None).load()))


def test_a_set_larger_than_the_limit_is_decoded_each_time(data, tmp_path, capsys):
    pixels(loaded(data(cache_gb=1e-6)))
    assert not (tmp_path / "kept").exists()
    said = capsys.readouterr()
    assert "dataset.cache_gb is 1e-06" in " ".join((said.out + said.err).split())


def test_a_folder_that_cannot_be_written_changes_nothing(data, tmp_path):
    (tmp_path / "kept").write_text("a file")
    assert equal(pixels(loaded(data())), pixels(data(cache=None).load()))


def test_gc_removes_them(data, tmp_path, capsys):
    pixels(loaded(data()))
    assert list((tmp_path / "kept" / "decoded").iterdir())
    assert clean(tmp_path / "kept", tmp_path, dry_run=False, yes=True) == 0
    assert "decoded-" in capsys.readouterr().out
    assert not list((tmp_path / "kept" / "decoded").iterdir())


def test_a_run_has_the_same_results_with_and_without(data, tmp_path):
    dataset = data()
    kind = "image_folder" if isinstance(dataset, ImageFolder) else "webdataset"
    fields = {f: getattr(dataset, f, "") for f in ("root", "train", "test", "memory")}
    plain = {f: "null" if value is None else value for f, value in fields.items() if value != ""}
    words = [
        *("debug=tiny", f"dataset={kind}", "dataset.size=16", "encoder=mlp", "pretrainer=ae"),
        *("labels=2", "draws=1", "tracker=none", "report=false", "monitors=false", "auto=false"),
        *("controls=false", "dataset.workers=1"),  # two: see above; each training forks them anew
        *(f"dataset.{f}={value}" for f, value in plain.items()),
    ]
    results = [
        api.run([*words, f"store={tmp_path}/{name}", *more], tmp_path / "runs" / name)
        for name, more in (("with", []), ("without", ["dataset.cache=null"]))
    ]
    assert (tmp_path / "with" / "decoded").exists()
    assert not (tmp_path / "without" / "decoded").exists()
    one, other = (dict(r["test"]) for r in results)
    assert one == other


def test_a_finished_run_may_run_again_in_its_folder_with_another_cache(tmp_path):
    digits = {"dataset": {"root": "a", "size": 8}, "labels": 5}
    first = {**digits, "dataset": {**digits["dataset"], "cache": "store", "workers": 2}}
    for other in ({"cache": None}, {"cache": "elsewhere", "cache_gb": 3.0}, {"workers": 8}):
        again = {**digits, "dataset": {**digits["dataset"], **other}}
        assert ownership.identity(first, {}) == ownership.identity(again, {})
    assert ownership.identity(first, {}) != ownership.identity({**digits, "labels": 3}, {})
