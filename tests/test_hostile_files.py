"""Malicious files in a checkpoint run no code, and the message names the file."""

import hashlib
import io
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from sft_exp.distributed import shards
from sft_exp.errors import StorageError
from sft_exp.store import atomic_io
from sft_exp.training import checkpoints

# PyTorch 2.10 warns of a class that it uses itself
pytestmark = pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")


class Hostile:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch ran",)


class Reduced:
    """Asks for an attribute, the first step of most ways around a list of names."""

    def __reduce__(self):
        return getattr, ("", "__class__")


def state():
    torch.manual_seed(0)
    net = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.5)
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizers = {"loss": get_optimizer_state_dict(net, optimizer)}
    return {"nets": net.state_dict(), "optimizers": optimizers}


@pytest.fixture
def folder():
    with pytest.warns(UserWarning, match="torch.distributed is disabled"):
        dcp.save(state(), checkpoint_id="shards")
    return Path("shards")


def blank(node):
    """The same state with other numbers."""
    if isinstance(node, dict):
        return {key: blank(value) for key, value in node.items()}
    if isinstance(node, torch.Tensor):
        return torch.zeros_like(node)
    return 0.25 if isinstance(node, float) else node


def read(folder):
    filled = blank(state())
    with pytest.warns(UserWarning, match="torch.distributed is disabled"):
        shards.read(filled, folder)
    return filled


def test_an_honest_checkpoint_is_read_whole(folder):
    before, after = state(), read(folder)
    assert torch.equal(after["nets"]["weight"], before["nets"]["weight"])
    ours, theirs = (s["optimizers"]["loss"] for s in (before, after))
    assert theirs["param_groups"] == ours["param_groups"]
    assert torch.equal(theirs["state"]["weight"]["exp_avg"], ours["state"]["weight"]["exp_avg"])


@pytest.mark.parametrize("hostile", [Hostile(), Reduced()])
def test_a_table_of_contents_runs_nothing(folder, hostile, capfd):
    (folder / ".metadata").write_bytes(pickle.dumps(hostile))
    with pytest.raises(StorageError, match=r"shards: no checkpoint of ours \(names .*; remove it"):
        shards.read(blank(state()), folder)
    assert not Path("ran").exists()
    assert "Traceback" not in capfd.readouterr().err


def test_a_dotted_name_leads_nowhere(folder):
    """Protocol 4 resolves `Size.__class__`, and so on, from an allowed module."""
    stacked = b"\x80\x04\x8c\x05torch\x8c\x10serialization.os\x93."
    (folder / ".metadata").write_bytes(stacked)
    with pytest.raises(StorageError, match=r"names torch\.serialization\.os"):
        shards.read(blank(state()), folder)


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"no pickle", pickle.dumps([1])])
def test_a_damaged_table_is_refused(folder, content):
    (folder / ".metadata").write_bytes(content)
    with pytest.raises(StorageError, match="no checkpoint of ours"):
        shards.read(blank(state()), folder)


def test_a_value_that_is_no_tensor_runs_nothing(folder):
    """The table is honest; the bytes that it points to are not."""
    (data,) = folder.glob("*.distcp")
    table = shards.Reader(folder).read_metadata()
    place = next(entry for index, entry in table.storage_data.items() if index.fqn.endswith("lr"))
    content = io.BytesIO()
    torch.save(Hostile(), content)
    place.offset, place.length = data.stat().st_size, content.tell()
    data.write_bytes(data.read_bytes() + content.getvalue())
    (folder / ".metadata").write_bytes(pickle.dumps(table))
    with pytest.raises(StorageError, match="no checkpoint of ours"):
        read(folder)
    assert not Path("ran").exists()


def test_files_elsewhere_are_not_opened(folder):
    table = shards.Reader(folder).read_metadata()
    for entry in table.storage_data.values():
        entry.relative_path = "../elsewhere"
    (folder / ".metadata").write_bytes(pickle.dumps(table))
    with pytest.raises(StorageError, match="names a file elsewhere"):
        shards.read(blank(state()), folder)


def test_the_rest_beside_the_shards_runs_nothing(tmp_path):
    """A seal is a checksum and no signature: whoever can write the folder can seal it."""
    folder = tmp_path / "shards"
    content = io.BytesIO()
    torch.save({"step": Hostile()}, content)
    atomic_io.write(folder / checkpoints.REST, content.getvalue())
    atomic_io.seal(folder, {"step": 1})
    assert json.loads((folder / atomic_io.SEAL).read_text())
    with pytest.raises(StorageError, match=r"rest\.pt is not a checkpoint of sft_exp"):
        checkpoints.load_rest(folder)
    assert not Path("ran").exists()


def test_a_checkpoint_of_one_process_runs_nothing(tmp_path):
    content = io.BytesIO()
    torch.save({"step": Hostile()}, content)
    sealed = content.getvalue() + hashlib.sha256(content.getvalue()).digest()
    (tmp_path / "checkpoint.pt").write_bytes(sealed)
    with pytest.raises(StorageError, match="is not a checkpoint of sft_exp"):
        checkpoints.load(tmp_path / "checkpoint.pt", torch.device("cpu"))
    assert not Path("ran").exists()
