"""Files of weights as people have them: what training libraries write, and what is no weights at all."""

import argparse
import bz2
import gzip
import io
import json
import pathlib
import pickle
import sys
import zipfile
from subprocess import run
from types import ModuleType

import numpy as np
import pytest
import torch
from result_stubs import stub
from safetensors.torch import save as to_bytes
from safetensors.torch import save_file
from torch import nn
from torchvision.models import vit_b_32
from torchvision.models.resnet import BasicBlock

from sft_exp.encoders.resnet import ResNet
from sft_exp.encoders.torchvision_model import TorchvisionModel
from sft_exp.errors import ConfigError, DataError
from sft_exp.jobs import prepare
from sft_exp.models import download, tensor_files, transfer, weights
from sft_exp.models.layers import chain
from sft_exp.reports import advice


def net(seed=0, blocks=1, **more):
    """A small network whose tensors are named as a ResNet's."""
    torch.manual_seed(seed)
    stages = {
        f"layer{n}": nn.Sequential(*(BasicBlock(8, 8) for _ in range(blocks))) for n in (1, 2)
    }
    return chain(
        conv1=nn.Conv2d(3, 8, 3, bias=False),
        bn1=nn.BatchNorm2d(8),
        relu=nn.ReLU(),
        **stages,
        **more,
    )


def state(seed=0, **changes):
    return net(seed, **changes).state_dict()


FIRST, SECOND = state(1), state(2)
HEAD = {"fc.weight": torch.ones(5, 8), "fc.bias": torch.ones(5)}


def below(prefix, tensors):
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def loaded(tensors, prefix=None):
    """(the network after the transfer, its report)."""
    into = net(3)
    return into, transfer.transfer(into, tensors, "file.pth", prefix)


def of(into):
    """Which of the two networks its numbers are of."""
    return [
        name
        for name, tensors in (("first", FIRST), ("second", SECOND))
        if all(torch.equal(value, tensors[key]) for key, value in into.state_dict().items())
    ]


# Several networks in a file


@pytest.mark.parametrize(
    ("taken", "other"),
    [
        ("state_dict.module.encoder_q", "state_dict.module.encoder_k"),
        ("state_dict.module.base_encoder", "state_dict.module.momentum_encoder"),
        ("teacher.backbone", "student.module.backbone"),
        ("online_encoder.net", "target_encoder.net"),
        ("state_dict_ema", "state_dict"),
        ("model_ema", "model"),
        ("state_dict.backbone", "state_dict.backbone_momentum"),
        ("state_dict.backbone", "state_dict.momentum_backbone"),
    ],
    ids=["MoCo", "MoCo v3", "DINO", "BYOL", "timm", "DeiT", "lightly", "solo-learn"],
)
def test_of_several_networks_the_one_for_use_is_taken_and_named(taken, other):
    """Whatever their order: a query and not the key, a teacher's average and not the student."""
    for pair in ((FIRST, taken), (SECOND, other)), ((SECOND, other), (FIRST, taken)):
        file = {k: v for tensors, prefix in pair for k, v in below(prefix, tensors | HEAD).items()}
        into, report = loaded(file)
        report.check()
        assert of(into) == ["first"]
        sentence, remedy = report.table().splitlines()[:2]
        assert sentence.endswith(f"10 of 10 layers; from {taken} and not from {other}")
        assert f"transfer.prefix={other} " in remedy
        into, report = loaded(file, other)
        report.check()
        assert of(into) == ["second"]
        assert (report.prefix, report.others) == (other, [taken])


@pytest.mark.parametrize(
    "prefixes", [("left", "right"), ("models.0", "models.1"), ("last", "best")]
)
def test_networks_that_nothing_tells_apart_are_asked_about(prefixes):
    file = below(prefixes[0], FIRST) | below(prefixes[1], SECOND)
    _, report = loaded(file)
    with pytest.raises(DataError, match=r"holds several networks .* transfer\.prefix="):
        report.check()
    for prefix, name in zip(prefixes, ("first", "second"), strict=True):
        into, report = loaded(file, f"{prefix}.")
        report.check()
        assert of(into) == [name]
    into, report = loaded(below(prefixes[0], FIRST) | below(prefixes[1], FIRST))
    report.check()  # the same numbers twice
    assert (of(into), report.others) == (["first"], [])


@pytest.mark.parametrize("prefix", ["middle", "lef", "left.conv1"])
def test_a_prefix_without_layers_is_refused(prefix):
    with pytest.raises(ConfigError, match=rf"transfer.prefix={prefix}: .* are under left, right"):
        loaded(below("left", FIRST) | below("right", SECOND), prefix)


def test_a_report_names_the_network_that_was_taken():
    said = {
        "file": "dino.pth", "layers": 10, "loaded": 10, "missing": [], "resized": [],
        "prefix": "teacher.backbone", "others": ["student.backbone"],
    }  # fmt: skip
    text = advice.weights(stub(stages={"pretrain": {"transfer": said}}))
    assert "from teacher.backbone and not from student.backbone" in text


# More layers than the encoder's


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (state(blocks=2), ["layer1.1", "layer2.1"]),
        (FIRST | {"layer1.0.se.fc1.weight": torch.ones(2, 8, 1, 1)}, ["layer1.0.se"]),
        (FIRST | {"layer2.0.ls1.gamma": torch.ones(8)}, ["layer2.0.ls1"]),
        (FIRST | below("layer3.0", BasicBlock(8, 8).state_dict()), ["layer3"]),
    ],
    ids=["deeper", "squeeze and excitation", "layer scale", "another stage"],
)
@pytest.mark.parametrize("prefix", ["", "module.encoder."])
def test_layers_between_the_encoders_are_named_and_refused(more, named, prefix):
    """The encoder's own layers came as a whole, and computed other features without these."""
    _, report = loaded({f"{prefix}{name}": tensor for name, tensor in more.items()} | HEAD)
    assert report.summary()["loaded"] == 10
    assert report.summary()["more"] == named
    with pytest.raises(
        DataError, match=rf"more layers between those of the encoder: {', '.join(named)}"
    ):
        report.check()
    assert "the file's network has more" in report.table().splitlines()[0]
    report.check(named)


@pytest.mark.parametrize(
    "head",
    [
        HEAD,
        {"head.fc.norm.weight": torch.ones(8), "head.fc.fc1.weight": torch.ones(8, 8)},
        {"classifier.2.weight": torch.ones(5, 8), "classifier.2.bias": torch.ones(5)},
        {"projector.0.weight": torch.ones(8, 8), "projector.1.running_mean": torch.ones(8)},
        {"decoder_blocks.0.norm1.weight": torch.ones(8)},
    ],
    ids=["a layer", "several", "behind a norm of the encoder", "a projector", "a decoder"],
)
def test_heads_are_left_over(head):
    into = net(3, classifier=nn.Sequential(nn.LayerNorm(8)))
    file = net(1, classifier=nn.Sequential(nn.LayerNorm(8))).state_dict()
    report = transfer.transfer(into, file | head, "file.pth")
    report.check()
    assert (report.more, sorted(report.unused)) == ([], sorted(head))


@pytest.mark.parametrize(
    ("file", "make", "words", "option"),
    [
        ("a.pth", lambda: ResNet(18, "large"), ["encoder=conv"], "encoder=resnet18$"),
        ("a.pth", lambda: ResNet(18, "small"), ["encoder.depth=10"], "encoder=resnet18$"),
        ("a.pth", lambda: ResNet(34, "large"), [], "encoder=resnet18 encoder.depth=34$"),
        ("a.pth", lambda: ResNet(10, "large"), ["encoder.stem=small", "encoder.depth=10"],
         "encoder=resnet18 encoder.depth=10 encoder.stem=large$"),
        ("squeezenet1_1-b8a52dc0.pth", lambda: TorchvisionModel("squeezenet1_1"), [],
         "encoder=torchvision encoder.name=squeezenet1_1$"),
    ],
    ids=["another encoder", "less deep", "deeper", "another stem", "by the file's name"],
)  # fmt: skip
def test_the_encoder_of_a_file_is_named(experiment, tmp_path, file, make, words, option):
    torch.save(make().build((3, 64, 64)).state_dict(), tmp_path / file)
    words = ["encoder=resnet18", "dataset=digits", *words, f"pretrainer.init={tmp_path / file}"]
    with pytest.raises(DataError, match=rf"Its layers are those of {option}"):
        prepare.prepare(experiment(*words, "pretrainer=checkpoint", "val=none", "draws=1"))


@pytest.mark.parametrize("spoil", [torch.zeros_like, lambda t: t * float("nan"), lambda t: t[:1]])
def test_of_a_file_of_no_known_encoder_none_is_named(experiment, tmp_path, spoil):
    file = {
        name: spoil(tensor) if tensor.dim() > 1 else tensor
        for name, tensor in ResNet(10, "large").build((3, 64, 64)).state_dict().items()
    }
    torch.save(file, tmp_path / "a.pth")
    words = ["encoder=resnet18", "encoder.depth=10", f"pretrainer.init={tmp_path / 'a.pth'}"]
    with pytest.raises(DataError) as refusal:
        prepare.prepare(experiment(*words, "pretrainer=checkpoint", "val=none", "draws=1"))
    assert "Its layers are those of" not in str(refusal.value)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("size", [64, 224, 384])
def test_a_transformer_of_torchvision_is_built_for_its_images(size):
    """As its library builds it for weights of 384 pixels; for other sizes positions are interpolated."""
    theirs = vit_b_32(weights=None, image_size=size)
    net = TorchvisionModel("vit_b_32").build((3, size, size))
    report = transfer.transfer(net, theirs.state_dict(), "vit.pth")
    report.check()
    assert report.resized == []
    theirs.heads = nn.Identity()
    x_BCHW = torch.rand(1, 3, size, size)
    torch.testing.assert_close(net.eval()(x_BCHW), theirs.eval()(x_BCHW), rtol=1e-5, atol=1e-5)
    other = transfer.transfer(net, vit_b_32(weights=None, image_size=96).state_dict(), "vit.pth")
    other.check()
    assert other.resized == ["net.encoder.pos_embedding (positions interpolated)"]


# Names that wrap and number


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"module._orig_mod.{name}",
        lambda name: name.replace("layer1.", "layer1._orig_mod."),
        lambda name: "_fsdp_wrapped_module." + name.replace("0.", "0._fsdp_wrapped_module."),
        lambda name: name.replace("0.", "0._checkpoint_wrapped_module."),
    ],
    ids=["torch.compile", "a compiled part", "FSDP", "checkpointed activations"],
)
def test_wrappers_are_no_part_of_names(tmp_path, rename):
    torch.save({rename(name): tensor for name, tensor in FIRST.items()}, tmp_path / "a.pth")
    into, report = loaded(tensor_files.read(tmp_path / "a.pth")[0])
    report.check()
    assert of(into) == ["first"]


@pytest.mark.parametrize("inside", ["", "net.", "body.net."])
@pytest.mark.parametrize(
    "build",
    [
        lambda parts: below("backbone", nn.Sequential(*parts).state_dict()),
        lambda parts: nn.Sequential(nn.Sequential(*parts), nn.Linear(8, 5)).state_dict(),
        lambda parts: nn.Sequential(*parts, nn.Flatten(), nn.Linear(8, 5)).state_dict(),
    ],
    ids=["lightly", "fastai", "with its head"],
)
def test_parts_without_names_are_known_by_their_order(build, inside):
    """As nn.Sequential(*network.children()) has them; not if one of them is of another shape."""
    file, into = build(list(net(1).children())), net(3)
    outer = into
    for name in reversed(inside.split(".")[:-1]):
        outer = nn.ModuleDict({name: outer})
    report = transfer.transfer(outer, file, "file.pth")
    report.check()
    assert of(into) == ["first"]
    wider = {
        name: torch.ones(*t.shape, 1) if t.shape == (8, 3, 3, 3) else t for name, t in file.items()
    }
    with pytest.raises(DataError):
        transfer.transfer(outer, wider, "file.pth").check()


@pytest.mark.parametrize(
    ("taken", "other"),
    [
        ("backbone", "backbone_momentum"),
        ("teacher_backbone", "student_backbone"),
        ("encoder_q.0", "encoder_k.0"),
    ],
)
def test_of_several_networks_without_names_one_is_taken_and_named(taken, other):
    parts = {taken: net(1), other: net(2)}
    file = {
        name: tensor
        for prefix in sorted(parts, reverse=taken < other)
        for name, tensor in below(
            prefix, nn.Sequential(*parts[prefix].children()).state_dict()
        ).items()
    }
    into, report = loaded(file)
    report.check()
    assert of(into) == ["first"]
    assert (report.prefix, report.others) == (taken, [other])


# Numbers that are no weights


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda t: (t * 50).to(torch.int8), "is quantised in the file"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "is quantised in the file"),
        (lambda t: t.to(torch.float8_e4m3fn), "is quantised in the file"),
        (lambda t: t.to(torch.int64), "is int64 in the file"),
        (lambda t: t.to(torch.complex64), "is complex64 in the file"),
        (lambda t: t.to_sparse(), "is sparse in the file"),
        (lambda t: t.to("meta"), "has a shape in the file and no numbers"),
        (lambda t: torch.full_like(t, float("nan")), "are not finite"),
        (lambda t: torch.cat([t[:1] * float("inf"), t[1:]]), "are not finite"),
    ],
    ids=["int8", "qint8", "float8", "int64", "complex", "sparse", "meta", "NaN", "infinite"],
)
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_numbers_that_are_no_weights_are_refused_by_name(spoil, why):
    layer = "layer1.0.conv2"
    _, report = loaded(FIRST | {f"{layer}.weight": spoil(FIRST[f"{layer}.weight"])})
    with pytest.raises(DataError, match=rf"{layer} did not come; 9 of 10 layers did.*{why}"):
        report.check()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_loaded(dtype):
    file = {k: v.to(dtype) if v.is_floating_point() else v for k, v in FIRST.items()}
    into, report = loaded(file)
    report.check()
    torch.testing.assert_close(into[0].weight, FIRST["conv1.weight"], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("spared", ["", "bn1.bias", "num_batches_tracked"])
def test_weights_that_are_all_zero_are_refused(spared):
    file = {
        name: tensor.clone() if spared and name.endswith(spared) else torch.zeros_like(tensor)
        for name, tensor in FIRST.items()
    }
    with pytest.raises(DataError, match=r"all weights that fit the encoder are 0"):
        loaded(file)[1].check()


@pytest.mark.parametrize("nested", [False, True])
def test_files_of_older_versions_of_pytorch_are_read(tmp_path, nested):
    content = {"state_dict": FIRST, "epoch": 3} if nested else FIRST
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    into, report = loaded(tensor_files.read(tmp_path / "old.pth")[0])
    report.check()
    assert of(into) == ["first"]


# What else a training writes


class Config:
    """Settings of a class of the training's own."""

    def __init__(self):
        self.lr, self.root = 0.1, pathlib.PurePosixPath("photos")


class Settings(dict):
    """A dict of a class of its own, as AttributeDict and EasyDict are."""


def elsewhere():
    """An object of a library that is not installed where the file is read."""
    library = ModuleType("not_installed")
    library.Options = type("Options", (), {"__module__": "not_installed"})
    sys.modules["not_installed"] = library
    return library.Options()


@pytest.mark.parametrize(
    "make",
    [
        lambda: argparse.Namespace(lr=0.1, layers=[1, 2]),
        Config,
        lambda: Settings(lr=0.1),
        lambda: {"root": pathlib.PosixPath("/photos"), "best": np.float64(0.9)},
        lambda: {"rng": np.random.default_rng(0).integers(9, size=5)},
        elsewhere,
    ],
    ids=["DINO's args", "own class", "own dict", "paths and numbers", "arrays", "not installed"],
)
def test_settings_beside_the_weights_are_left_unread(tmp_path, make):
    torch.save({"state_dict": FIRST, "hyper_parameters": make(), "epoch": 3}, tmp_path / "a.ckpt")
    sys.modules.pop("not_installed", None)
    into, report = loaded(tensor_files.read(tmp_path / "a.ckpt")[0])
    report.check()
    assert of(into) == ["first"]
    assert "not_installed" not in sys.modules


class Average:
    """Holds an averaged copy, as classes for EMA do."""

    def __init__(self):
        self.module, self.decay = net(1), 0.99


def with_unsaved_buffer():
    made = net(1)
    made.register_buffer("grid", torch.ones(3), persistent=False)
    return made


@pytest.mark.parametrize(
    "make",
    [
        lambda: net(1),
        lambda: {"epoch": 3, "model": net(1).half().float(), "optimizer": None},
        lambda: {"model": None, "ema": Average()},
        lambda: [net(1)],
        with_unsaved_buffer,
    ],
    ids=["a model", "in a dict", "in an object", "in a list", "with a buffer that is not saved"],
)
def test_of_a_whole_model_the_tensors_are_read(tmp_path, make):
    """Without its classes, whose code would have to run to build it."""
    torch.save(make(), tmp_path / "model.pt")
    tensors, _ = tensor_files.read(tmp_path / "model.pt")
    into, report = loaded(tensors)
    report.check()
    assert report.unused == []
    for key, value in into.state_dict().items():
        torch.testing.assert_close(value, FIRST[key], rtol=1e-2, atol=1e-3)


class Calls:
    """Calls a function as it is unpickled."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (eval, ("open('it-ran', 'w')",)),
        (exec, ("open('it-ran', 'w')",)),
        (pathlib.os.mkdir, ("it-ran",)),
        (pathlib.Path("it-ran").__class__.touch, (pathlib.Path("it-ran"),)),
    ],
    ids=["eval", "exec", "mkdir", "a method"],
)
def test_no_call_in_a_file_is_run(tmp_path, function, args):
    torch.save({"state_dict": FIRST, "more": Calls(function, *args)}, tmp_path / "bad.pth")
    with pytest.raises(DataError, match=r"perhaps code.*nothing of it was run"):
        tensor_files.read(tmp_path / "bad.pth")
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize(
    ("function", "args"),
    [(open, ("it-ran", "w")), (zipfile.ZipFile, ("it-ran", "w")), (run, (["touch", "it-ran"],))],
    ids=["open", "ZipFile", "run"],
)
def test_a_call_of_a_librarys_function_is_not_run_either(tmp_path, function, args):
    """It stands where settings do, and is left unread as these are."""
    made = {"state_dict": FIRST, "more": Calls(function, *args)}
    torch.save(made, tmp_path / "bad.pth")
    assert len(tensor_files.read(tmp_path / "bad.pth")[0]) == len(FIRST)
    assert not (tmp_path / "it-ran").exists()


# What is no file of weights


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def zipped(**files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def arrays():
    file = io.BytesIO()
    np.savez(file, **{name: tensor.numpy() for name, tensor in FIRST.items()})
    return file.getvalue()


def scripted():
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(net(1).eval(), torch.rand(1, 3, 8, 8)), file)
    return file.getvalue()


def quantised(kind):
    """safetensors of four numbers of a type."""
    size = {"F4": 2, "F6_E2M3": 3}[kind]
    header = json.dumps({"a": {"dtype": kind, "shape": [4], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 46830571\n"
INDEX = json.dumps(
    {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.pth", b"", "an empty file; download or copy it again"),
        ("a.pth", POINTER, "a pointer of Git LFS in place of the weights; `git lfs pull`"),
        ("a.pth", b"<!DOCTYPE html><html><title>Sign in", "a web page in place of the weights"),
        ("a.pth", b"\n<?xml version='1.0'?><Error>", "a web page in place of the weights"),
        ("a.pth", b'{"error": "Not Found"}', "a text in place of the weights .*Not Found"),
        ("a.pth", b"Invalid username or password.", "a text in place of the weights .*Invalid"),
        ("a.index.json", INDEX.encode(), r"an index of weights in 2 files \(model-1-of-2"),
        ("a.pth.gz", gzip.compress(b"x" * 99, mtime=0), "compressed by gzip; unpack it"),
        ("a.pth.bz2", bz2.compress(b"x" * 99), "compressed by bzip2; unpack it"),
        ("a.tar", b"a.pth".ljust(257, b"\0") + b"ustar\0".ljust(300, b"\0"), "a tar archive; unpack it"),
        ("a.zip", zipped(**{"weights.pth": b"x"}), "a zip archive of weights.pth; unpack it"),
        ("a.pth", saved(FIRST)[:5000], "cut off or damaged, at 5,000 bytes; download"),
        ("a.safetensors", to_bytes(FIRST)[:-99], "safetensors, but damaged or cut off"),
        ("a.safetensors", quantised("F4"), "holds numbers of type 'F4'; save the weights before"),
        ("a.safetensors", quantised("F6_E2M3"), "holds numbers of type 'F6_E2M3'"),
        ("a.safetensors", to_bytes({}), "no tensor in it; torch.save"),
        ("a.npz", arrays, "an archive of NumPy arrays; take the publisher's weights for PyTorch"),
        ("a.keras", zipped(**{"model.weights.h5": b"x"}), "a model of Keras; take the publisher's"),
        ("a.pt2", zipped(**{"a/archive_format": b"pt2"}), "a program of torch.export; .*export.load"),
        ("a.tflite", b"\x1c\0\0\0TFL3", "neither safetensors nor a file of torch.save; take the"),
        ("a.msgpack", b"\x83\xa8\0embedder", "neither safetensors nor a file of torch.save; take"),
        ("a.npy", b"\x93NUMPY\x01\0", "a NumPy array; take the publisher's"),
        ("a.h5", b"\x89HDF\r\n\x1a\n\0\0\0", "an HDF5 file, as Keras writes; take the publisher's"),
        ("a.gguf", b"GGUF\x03\0\0\0", "a GGUF file; take the publisher's"),
        ("a.onnx", b"\x08\x08\x12\x07pytorch\x1a\x05", "an ONNX graph; take the publisher's"),
        ("a.pt", scripted, "a TorchScript archive; .*jit.load"),
        ("a.pkl", pickle.dumps({"a": np.ones(3)}), "a pickle that torch.save did not write; torch.save"),
        ("a.pth", saved({"conv1.weight": np.ones(3)}), r"no tensor in it \(it has conv1.weight; objects of numpy"),
        ("a.pth", saved({"epoch": 3}), r"no tensor in it \(it has epoch\); torch.save"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_what_is_no_weights_is_called_what_it_is(tmp_path, name, content, text):
    (tmp_path / name).write_bytes(content() if callable(content) else content)
    with pytest.raises(DataError, match=rf"{name}: {text}"):
        tensor_files.read(tmp_path / name)


# Folders, and what lies beside a file


MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TIMM = {"architecture": "resnet18", "pretrained_cfg": {"mean": MEAN, "std": STD, "crop_pct": 0.95}}
TRANSFORMERS = {"image_mean": MEAN, "image_std": STD, "size": {"height": 384, "width": 384}}


@pytest.mark.parametrize(
    ("files", "size"),
    [
        ({"config.json": TIMM}, None),
        ({"preprocessor_config.json": TRANSFORMERS}, 384),
        ({"preprocessor_config.json": TRANSFORMERS | {"size": 224}}, 224),
        ({"config.json": {"model_type": "vit"}, "preprocessor_config.json": TRANSFORMERS}, 384),
        (
            {"config.json": {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}},
            None,
        ),
    ],
    ids=["timm", "transformers", "one size", "both files", "of images in [0, 255]"],
)
def test_a_folder_of_the_hub_brings_its_preparation(tmp_path, files, size):
    """As its file does; it was taken for one of ours, and images were not normalised."""
    save_file(FIRST, tmp_path / "model.safetensors")
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    for init in (tmp_path, tmp_path / "model.safetensors"):
        located = weights.locate(str(init))
        source = weights.prepared(located, *weights.read(located))
        assert (source.file, source.size) == (tmp_path / "model.safetensors", size)
        assert (source.mean, source.std) == (pytest.approx(MEAN), pytest.approx(STD))
        assert pathlib.Path(source.by).name == [*files][-1]


@pytest.mark.parametrize("record", ["request.json", "model.json"])
def test_a_folder_of_ours_says_itself_how_images_were_seen(tmp_path, record):
    save_file(FIRST, tmp_path / "model.safetensors")
    (tmp_path / record).write_text("{}")
    (tmp_path / "config.json").write_text(json.dumps(TIMM))
    assert weights.locate(str(tmp_path)).by == weights.THE_RUN


@pytest.mark.parametrize("about", [[], None, {"pretrained_cfg": None}, {"mean": None, "std": [1]}])
def test_a_description_of_something_else_is_left_alone(tmp_path, about):
    save_file(FIRST, tmp_path / "a.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(about))
    assert weights.described(weights.Weights(tmp_path / "a.safetensors")).by == ""


@pytest.mark.parametrize(
    "stated",
    [
        {"mean": "imagenet", "std": [0.2]},
        {"mean": [0.5, 0.5], "std": [0.2]},
        {"mean": [0.5], "std": [0.0, 0.1]},
        {"mean": [float("nan")], "std": [0.1]},
        {"mean": [0.5], "std": [-0.1]},
        {"mean": [0.5], "std": [0.5], "input_size": {"height": 3}},
        {"mean": {"r": 0.5}, "std": [0.5]},
    ],
)
def test_a_description_that_cannot_be_is_refused(tmp_path, stated):
    save_file(FIRST, tmp_path / "a.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(stated))
    with pytest.raises(DataError, match=r"config.json: its mean, std, size or crop is not one"):
        weights.described(weights.Weights(tmp_path / "a.safetensors"))


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["pytorch_model-1-of-2.bin"], "but with pytorch_model-1-of-2.bin; name a file"),
        (["a.pth", "b.ckpt", "notes.txt"], "but with a.pth, b.ckpt; name a file"),
        (["notes.txt"], "nor model.safetensors; name a file"),
    ],
)
def test_a_folder_says_which_files_of_weights_it_has(tmp_path, names, text):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=text):
        weights.locate(str(tmp_path))


# Names


@pytest.mark.parametrize(
    "init", ["resnet18", "Torchvision:resnet18", "http://host/a.pth", "facebook/dinov2-small"]
)
def test_a_name_without_its_source_is_told_the_sources(init):
    with pytest.raises(
        DataError, match=r"no such file; weights by name begin .*torchvision:resnet18"
    ):
        weights.locate(init)


@pytest.mark.parametrize(
    "name", ["resnet19", "ResNet18_Weights.IMAGENET22K", "ResNet18.DEFAULT", "ResNet18_Weights."]
)
def test_weights_that_torchvision_does_not_have_are_refused(name):
    with pytest.raises(DataError, match=r"torchvision has no such weights"):
        weights.locate(f"torchvision:{name}")


@pytest.mark.parametrize("content", [b"", b"another file", to_bytes(SECOND)])
def test_a_link_that_was_put_there_by_hand_is_checked(tmp_path, monkeypatch, content):
    monkeypatch.setattr(download.torch.hub, "get_dir", lambda: str(tmp_path))
    digits = "ab" * 32
    file = tmp_path / "checkpoints" / f"{digits[:16]}-a.safetensors"
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.raises(
        DataError, match=r"has the SHA-256 .* remove it, and it is downloaded again"
    ):
        weights.locate(f"https://host/a.safetensors#sha256={digits}")


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "resnet18"])
def test_networks_that_transform_their_input_are_seen_as_with_their_weights(name):
    """torchvision has two of them map its transform's images to (x - 0.5) / 0.5."""
    from torchvision.models import get_model_weights

    found = weights.published_as(None, name, get_model_weights(name).DEFAULT)
    normal = (MEAN, STD) if name == "resnet18" else ([0.5] * 3, [0.5] * 3)
    assert (found.mean, found.std) == normal
