"""Properties of the larger encoders beyond the common contract."""

import pytest
import torch
from torch import nn

import sft_exp
from sft_exp.core.rng import stream
from sft_exp.encoders.mlp import MLP
from sft_exp.encoders.resnet import ResNet
from sft_exp.encoders.timm_model import TimmModel
from sft_exp.encoders.torchvision_model import TorchvisionModel
from sft_exp.encoders.vit import ViT, positions
from sft_exp.errors import ConfigError
from sft_exp.models.batchnorm import batch_norms

X_BCHW = torch.rand(2, 3, 32, 32, generator=stream("x"))


# The vision transformer


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return ViT(depth=2).build((3, 9, 13)).eval()  # 3 x 4 patches, the last ones padded


@torch.no_grad()
def test_all_tokens_are_the_code(vit):
    x_BCHW = X_BCHW[:, :, :9, :13]
    tokens_BND = vit.tokens(x_BCHW)
    assert tokens_BND.shape == (2, 12, 64)
    assert torch.allclose(tokens_BND.mean(1), vit(x_BCHW), atol=1e-6)
    assert torch.allclose(vit.tokens(x_BCHW, torch.arange(12).expand(2, -1)), tokens_BND, atol=1e-6)


@torch.no_grad()
def test_a_transformer_knows_a_patch_by_its_position_not_by_its_place_in_the_list(vit):
    x_BCHW, keep_BK = X_BCHW[:, :, :9, :13], torch.tensor([[7, 0, 3], [11, 2, 5]])
    turned = vit.tokens(x_BCHW, keep_BK.flip(1)).flip(1)
    assert torch.allclose(vit.tokens(x_BCHW, keep_BK), turned, atol=1e-5)


@torch.no_grad()
def test_patches_that_are_not_kept_are_not_looked_at(vit):
    x_BCHW, keep_BK = X_BCHW[:, :, :9, :13].clone(), torch.tensor([[0, 5], [0, 5]])
    before = vit.tokens(x_BCHW, keep_BK)
    x_BCHW[:, :, 4:8, 8:12] = 0  # patch 6, not kept
    assert torch.equal(vit.tokens(x_BCHW, keep_BK), before)
    x_BCHW[:, :, 4:8, 4:8] = 0  # patch 5
    assert not torch.allclose(vit.tokens(x_BCHW, keep_BK), before, atol=1e-3)


def test_positions_differ_and_are_near_where_patches_are():
    p_ND = positions(6, 5, 64)
    assert p_ND.shape == (30, 64)
    apart_NN = torch.cdist(p_ND, p_ND)
    assert (apart_NN + 100 * torch.eye(30)).min() > 0.5
    assert apart_NN[0, 1] < apart_NN[0, 2] < apart_NN[0, 4]
    assert apart_NN[0, 5] < apart_NN[0, 10] < apart_NN[0, 25]


def test_a_width_fits_its_heads():
    with pytest.raises(ConfigError, match=r"heads=3: must be a divisor of width=64"):
        ViT(heads=3)


@pytest.mark.parametrize(
    ("option", "parameters"),
    [("vit_tiny", 5.4e6), ("vit_small", 21.4e6), ("resnet18", 11.2e6), ("resnet50", 23.5e6)],
)
def test_named_sizes_are_the_papers(experiment, option, parameters):
    """Without class scores; DeiT's table 1 and torchvision's models have 5.7, 22, 11.7 and 25.6 million with them."""
    backbone = experiment(f"encoder={option}").encoder.build((3, 32, 32))
    assert sum(p.numel() for p in backbone.parameters()) == pytest.approx(parameters, rel=0.02)


# ResNet


def test_a_resnet_is_torchvisions():
    """With the large stem: the same names, the same numbers, so that weights of one fit the other."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    theirs, ours = resnet18(weights=None).eval(), ResNet(stem="large").build((3, 64, 64)).eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    ours.load_state_dict(state)
    theirs.fc = torch.nn.Identity()
    x_BCHW = torch.rand(2, 3, 64, 64, generator=stream("large"))
    with torch.no_grad():
        assert torch.allclose(ours(x_BCHW), theirs(x_BCHW), atol=1e-5)


def test_a_small_image_keeps_its_size_in_the_small_stem():
    small, large = (ResNet(depth=10, stem=s).build((3, 32, 32)) for s in ("auto", "large"))
    assert [m.shape[-1] for _, m in small.maps(X_BCHW)] == [32, 32, 16, 8, 4, 512]
    assert [m.shape[-1] for _, m in large.maps(X_BCHW)] == [8, 8, 4, 2, 1, 512]


# Libraries' models by name


@pytest.mark.parametrize(
    ("name", "width"), [("shufflenet_v2_x0_5", 1024), ("squeezenet1_1", 1000), ("mnasnet0_5", 1280)]
)
def test_torchvisions_models_by_name(name, width):
    backbone = TorchvisionModel(name).build((1, 64, 48))
    found = dict(backbone.maps(X_BCHW[:, :1].repeat(1, 1, 2, 2)[:, :, :64, :48]))
    *maps, code_BD = found.values()
    assert code_BD.shape == (2, width) == (2, backbone.width)
    sizes = [tuple(m.shape[2:]) for m in maps]
    assert len(sizes) > 3
    assert sizes == sorted(set(sizes), reverse=True), "each size once, falling"
    assert all(m.training for m in backbone.modules())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "alexnet",
        "convnext_tiny",
        "densenet121",
        "efficientnet_b0",
        "mobilenet_v2",
        "regnet_y_400mf",
        "swin_t",
        "vgg11_bn",
    ],
)
def test_many_of_torchvisions_models_by_name(name):
    backbone = TorchvisionModel(name).build((3, 64, 64))
    code_BD = backbone(torch.rand(2, 3, 64, 64, generator=stream("x")))
    assert code_BD.shape == (2, backbone.width)
    assert backbone.decoder(5)(torch.randn(2, 5, generator=stream("z"))).shape == (2, 3, 64, 64)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mnasnet0_5"])
def test_running_statistics_follow_a_short_training(name):
    torch.manual_seed(0)
    backbone = TorchvisionModel(name).build((3, 64, 64))
    x_BCHW = 3 + torch.rand(16, 3, 64, 64, generator=stream("x"))
    with torch.no_grad():
        for _ in range(120):
            trained_BD = backbone(x_BCHW)
        scored_BD = backbone.eval()(x_BCHW)
    off = (scored_BD - trained_BD).norm() / trained_BD.norm()
    assert off < 0.4, "the same images give about the same features when the model is scored"


def test_running_statistics_of_timms_models_follow_a_short_training():
    pytest.importorskip("timm", reason="timm, an extra, is not installed")
    norms = batch_norms(TimmModel("tf_efficientnet_lite0").build((3, 64, 64)))
    assert len(norms) > 10
    assert {norm.momentum for norm in norms} == {0.1}


@pytest.mark.slow
def test_a_mobilenet_trained_for_some_hundred_steps_is_far_above_chance(tmp_path):
    words = ["encoder=torchvision", "pretrainer=none", "controls=false", "draws=1", "val=none"]
    words += ["finetune.steps=300", "report=false", "tracker=none", f"store={tmp_path / 'store'}"]
    assert sft_exp.run(words, tmp_path / "run").result.tested > 0.5


def test_an_unknown_name_is_answered_with_a_close_one():
    with pytest.raises(ConfigError, match=r"name=resnet_18: .*resnet18"):
        TorchvisionModel("resnet_18").build((3, 32, 32))
    with pytest.raises(ConfigError, match=r"name=alexnet: does not fit images of \(3, 8, 8\)"):
        TorchvisionModel("alexnet").build((3, 8, 8))
    with pytest.raises(ConfigError, match="these have 2 channels"):
        TorchvisionModel().build((2, 32, 32))


def test_timms_models_by_name():
    pytest.importorskip("timm", reason="timm, an extra, is not installed")
    backbone = TimmModel(
        "vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 2}
    ).build((3, 32, 32))
    assert [tuple(m.shape[1:]) for _, m in backbone.maps(X_BCHW)] == [
        (192, 4, 4),
        (192, 4, 4),
        (192,),
    ]
    with pytest.raises(ConfigError, match=r"name=resnet_18: is not a model of timm"):
        TimmModel("resnet_18").build((3, 32, 32))


def test_timm_is_asked_for_by_its_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"pip install 'sft_exp\[timm\]'"):
        TimmModel().build((3, 32, 32))


def test_the_fully_connected_encoders_norm_is_between_its_layers_and_the_decoders():
    net = MLP([6, 4], norm="batch").build((1, 3, 3))
    decoder = net.decoder(2)
    x_BCHW = torch.rand(8, 1, 3, 3, generator=stream("x"))
    (_, first_BD), *_ = net.maps(x_BCHW)
    normal_BD = net.layers[0](x_BCHW.flatten(1))
    normal_BD = (normal_BD - normal_BD.mean(0)) / (normal_BD.var(0, correction=0) + 1e-5).sqrt()
    assert torch.allclose(first_BD, normal_BD.relu(), atol=1e-5)
    kinds = [type(m) for m in decoder.modules() if not list(m.children())]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.Unflatten]
    assert decoder(torch.rand(8, 2)).shape == x_BCHW.shape
