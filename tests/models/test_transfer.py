"""Weights from files: matches are counted, mismatches named, and no file runs code."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sft_exp.encoders.conv import Conv
from sft_exp.encoders.mlp import MLP
from sft_exp.errors import DataError, StorageError
from sft_exp.models import tensor_files, transfer

IMAGE = (1, 8, 8)


def encoder(seed=0, channels=(4, 6), image=IMAGE):
    torch.manual_seed(seed)
    return Conv(list(channels), 5).build(image)


def same(a, b):
    return all(torch.equal(v, b[k]) for k, v in a.items())


def states(report):
    return {row.tensor: row.state for row in report.rows}


# Names


@pytest.mark.parametrize(
    ("theirs", "mine"),
    [
        ("", ""),
        ("module.", ""),
        ("state_dict.module.encoder.", ""),
        ("", "backbone."),
        ("student.trunk.", "encoder.backbone."),
    ],
)
def test_a_prefix_on_either_side_is_found(theirs, mine):
    """With what else such files hold: heads, an optimizer's moments under other names."""
    source = {f"{theirs}{k}": v for k, v in encoder(1).state_dict().items()}
    source |= {"head.weight": torch.zeros(10, 5), "optimizer.0.exp_avg": torch.zeros(6, 4, 3, 3)}
    net = encoder(2)
    for word in reversed(mine.split(".")[:-1]):
        net = nn.ModuleDict({word: net})
    report = transfer.transfer(net, source, "file.pt")
    assert report.missing == {}
    assert set(states(report).values()) == {"loaded" if theirs == mine else "renamed"}
    assert same(net.get_submodule(mine.rstrip(".")).state_dict(), encoder(1).state_dict())
    assert report.unused == ["head.weight", "optimizer.0.exp_avg"]


def test_the_report_adds_up_and_is_json():
    """A layer counts as a whole; a tensor of another shape is named with both."""
    source = encoder(1).state_dict()
    del source["blocks.1.0.weight"]
    source["code.1.weight"] = torch.zeros(5, 7)
    source["more"] = torch.zeros(3)
    net = encoder(2)
    report = transfer.transfer(net, source, "file.pt")
    assert report.layers == ["blocks.0.0", "blocks.0.1", "blocks.1.0", "blocks.1.1", "code.1"]
    assert report.missing == {
        "blocks.1.0": "weight is not in the file",
        "code.1": "weight is [5, 7] in the file and [5, 24] in the encoder",
    }
    first, *more = report.table().splitlines()
    assert first == "weights from file.pt: 3 of 5 layers; not blocks.1.0, code.1"
    assert "blocks.1.0.weight [6, 4, 3, 3] (is not in the file)" in "".join(more)
    assert "1 tensors of the file  more" in "".join(more)
    read = json.loads(json.dumps(report.json()))
    assert (read["layers"], read["loaded"], read["missing"]) == (5, 3, ["blocks.1.0", "code.1"])
    assert len(read["rows"]) == len(net.state_dict())


def test_nothing_is_refused_whatever_is_allowed():
    report = transfer.transfer(encoder(), {"code.1.bias": torch.zeros(5)}, "file.pt")
    for allow in ([], ["*"]):
        with pytest.raises(
            DataError,
            match=r"file.pt: none of the encoder's 5 layers .* blocks.0.0: weight is not in the file",
        ):
            report.check(allow)
    with pytest.raises(DataError, match=r"Unused of the file: other"):
        transfer.transfer(encoder(), {"other": torch.zeros(5)}, "file.pt").check()


def test_a_prefix_that_fits_less_is_not_taken():
    """Of two networks in one file, the one that fits the most numbers."""
    small = {f"small.{k}": v for k, v in encoder(1, (4, 3)).state_dict().items()}
    right = {f"large.{k}": v for k, v in encoder(2).state_dict().items()}
    net = encoder(3)
    assert transfer.transfer(net, small | right, "file.pt").missing == {}
    assert same(net.state_dict(), encoder(2).state_dict())


# Shapes


def test_colour_and_grey_filters_answer_grey_images_alike():
    """A grey image as three equal channels gives what the grey filter gives."""
    colour, grey = encoder(1, image=(3, 8, 8)), encoder(2)
    report = transfer.transfer(grey, colour.state_dict(), "file.pt")
    assert states(report)["blocks.0.0.weight"] == "resized"
    assert report.missing == {}
    x_BCHW = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    colour.eval(), grey.eval()
    with torch.no_grad():
        assert torch.allclose(grey(x_BCHW), colour(x_BCHW.expand(-1, 3, -1, -1)), atol=1e-6)
        again = encoder(3, image=(3, 8, 8)).eval()
        transfer.transfer(again, grey.state_dict(), "file.pt")
        assert torch.allclose(again(x_BCHW.expand(-1, 3, -1, -1)), grey(x_BCHW), atol=1e-6)


@pytest.mark.parametrize("first", [0, 1])
def test_positions_are_interpolated_on_their_grid(first):
    """A ramp over a 4x4 grid stays one over 8x8; the class token's place is kept."""
    ramp = torch.linspace(0, 1, 4).repeat(4).view(1, 16, 1)
    source = torch.cat([torch.full((1, first, 1), 7.0), ramp], 1)
    net = nn.ParameterDict({"pos_embed": torch.zeros(1, first + 64, 1)})
    report = transfer.transfer(net, {"pos_embed": source}, "vit.pt")
    assert states(report) == {"pos_embed": "resized"}
    found = net["pos_embed"].detach()
    assert (found[:, :first] == 7).all()
    rows = found[0, first:, 0].view(8, 8)
    assert (rows[:, 1:] >= rows[:, :-1]).all()
    assert torch.allclose(rows, rows[:1].expand(8, 8), atol=1e-5)


# Files


def test_safetensors_and_pytorch_files_are_read_alike(tmp_path):
    state = encoder(1).state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"epoch": 3, "model": state, "args": {"lr": 0.1}}, tmp_path / "b.pt")
    ours, digest = tensor_files.read(tmp_path / "a.safetensors")
    theirs, other = tensor_files.read(tmp_path / "b.pt")
    assert same(state, ours)
    assert same({f"model.{k}": v for k, v in state.items()}, theirs)
    assert digest != other
    assert len(digest) == 64
    with pytest.raises(DataError, match="changed while the run used it"):
        tensor_files.read(tmp_path / "b.pt", digest)


class Code:
    """What a malicious file holds: unpickled, it would write."""

    def __reduce__(self):
        return os.mkdir, ("it-ran",)


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path):
    torch.save({"weight": torch.zeros(2), "more": Code()}, tmp_path / "bad.pt")
    with pytest.raises(DataError, match=r"bad.pt: holds more than tensors.*nothing of it was run"):
        tensor_files.read(tmp_path / "bad.pt")
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"PK\x03\x04 broken", b"\x08\0\0\0\0\0\0\0{}      "[:10]]
)
def test_a_file_that_is_no_weights_is_named(tmp_path, content):
    (tmp_path / "junk.pt").write_bytes(content)
    with pytest.raises(DataError, match=r"junk.pt: "):
        tensor_files.read(tmp_path / "junk.pt")


def test_timms_files_are_read_as_they_are(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is an extra")
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=10)
    torch.save(model.state_dict(), tmp_path / "vit.pt")
    larger = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0)
    report = transfer.transfer(larger, tensor_files.read(tmp_path / "vit.pt")[0], "vit.pt")
    assert report.missing == {}
    assert states(report)["pos_embed"] == "resized"
    assert report.unused == ["head.weight", "head.bias"]


# The store's own


def test_the_stores_own_files_must_fit_as_a_whole(tmp_path):
    net, file = MLP([4, 3]).build(IMAGE), tmp_path / "encoder.safetensors"
    save_file(net.state_dict(), file)
    transfer.load_own(net, transfer.read_own(file), file)
    spoilt = net.state_dict() | {"layers.1.bias": torch.zeros(9), "more": torch.zeros(1)}
    del spoilt["layers.0.bias"]
    with pytest.raises(
        StorageError,
        match=r"layers.0.bias is missing, more is not wanted, layers.1.bias \[9\] is not \[3\]",
    ):
        transfer.load_own(net, spoilt, file)
    file.write_bytes(b"junk")
    with pytest.raises(StorageError, match=r"encoder\.safetensors"):
        transfer.read_own(file)
