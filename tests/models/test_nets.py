"""Network modules that several methods share."""

import pytest
import torch
from torch import nn

from sft_exp.core.encoder import Backbone
from sft_exp.core.rng import stream
from sft_exp.encoders.conv import Conv
from sft_exp.encoders.mlp import MLP
from sft_exp.encoders.projection import Projection
from sft_exp.errors import ConfigError
from sft_exp.models.backbones import LinearMap
from sft_exp.models.feature_extractor import FeatureExtractor, resolve
from sft_exp.models.layers import Standardise, perceptron

IMAGE = (1, 8, 8)
X_BCHW = torch.rand(4, *IMAGE, generator=stream("x"))


def readout(maps, pool="avg", grid=1, encoder=None):
    torch.manual_seed(0)
    return FeatureExtractor(
        (encoder or Conv([4, 6], 5)).build(IMAGE), maps, pool, grid, IMAGE
    ).eval()


def test_a_perceptron_has_relus_between_its_layers_and_none_after():
    assert [type(layer).__name__ for layer in perceptron(7, 5, 3)] == ["Linear", "ReLU", "Linear"]
    assert perceptron(7, 5, 3)(torch.rand(2, 7)).shape == (2, 3)


def test_encoders_refuse_images_they_would_make_nothing_of():
    """The last convolution sees more than one pixel; a projection is not wider than the image."""
    assert Conv().build((1, 5, 5)).sizes[-2:] == [(2, 2), (1, 1)]
    with pytest.raises(ConfigError, match=r"channels=\[32, 64, 128\]: .*4x9.* 5 pixels or more"):
        Conv().build((1, 4, 9))
    with pytest.raises(ConfigError, match=r"width=65: .*1 to 64"):
        Projection(65).build(IMAGE)


# Readout


@pytest.mark.parametrize(
    ("pool", "grid", "width"), [("avg", 1, 10), ("max", 1, 10), ("avg", 2, 40), ("max", 2, 40)]
)
def test_features_are_pooled_maps_side_by_side(pool, grid, width):
    net = readout(["conv1", "conv2"], pool, grid)
    reduce = nn.AdaptiveAvgPool2d(grid) if pool == "avg" else nn.AdaptiveMaxPool2d(grid)
    expected = torch.cat(
        [reduce(m).flatten(1) for name, m in net.backbone.maps(X_BCHW) if name != "code"], 1
    )
    assert torch.equal(net(X_BCHW), expected)
    assert net.width == width == expected.shape[1]


def test_the_code_is_taken_as_it_is():
    net = readout([-1])
    assert torch.equal(net(X_BCHW), net.backbone(X_BCHW))


def test_maps_come_in_the_encoders_order_and_once():
    assert readout([-1, "conv1", 0, -3]).names == ["conv1", "code"]
    assert torch.equal(readout(["code", "conv1"])(X_BCHW), readout(["conv1", "code"])(X_BCHW))


def test_the_encoder_runs_no_further_than_the_last_map_asked_for():
    class Trap(Backbone):
        width, armed = 2, False

        def maps(self, x_BCHW):
            yield "first", x_BCHW.flatten(1)[:, :3]
            assert not self.armed, "went on after the last map"
            yield "second", x_BCHW.flatten(1)[:, :2]

    net = FeatureExtractor(Trap(), ["first"], "avg", 1, IMAGE)
    net.backbone.armed = True
    assert net(X_BCHW).shape == (4, 3)


def test_building_leaves_the_encoder_as_it_was():
    """Shapes are found by running it once: at rest, so that BatchNorm's statistics do not see the empty image."""
    backbone = Conv([4, 6], 5).build(IMAGE)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    net = FeatureExtractor(backbone, [-1], "avg", 1, IMAGE)
    assert net.backbone.training
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())


def test_a_map_that_is_not_there_is_named_with_those_that_are():
    for wanted in ("conv9", 3):
        with pytest.raises(
            ConfigError, match=rf"features.maps={wanted}: this encoder has conv1, conv2, code"
        ):
            readout([wanted])


def test_a_map_smaller_than_the_grid_stays_as_it_is():
    """One grid can be asked of maps of several sizes: here 4x4 and 2x2."""
    net = readout(["conv1", "conv2"], "max", grid=3)
    (_, larger), (_, smaller), _ = net.backbone.maps(X_BCHW)
    assert torch.equal(
        net(X_BCHW), torch.cat([nn.AdaptiveMaxPool2d(3)(larger).flatten(1), smaller.flatten(1)], 1)
    )
    assert net.width == 4 * 9 + 6 * 4


def test_positions_count_from_both_ends_and_stop_at_the_first():
    names = ["a", "b", "c"]
    assert [resolve([w], names) for w in (0, 2, -1, -3, -99)] == [["a"], ["c"], ["c"], ["a"], ["a"]]


def test_the_vaes_second_last_map_is_the_only_one_of_a_short_encoder():
    assert readout([-2], encoder=MLP([5])).names == ["layer1"]


# Standardise


def spread_features():
    """Features of very different spread; the last is dead."""
    return torch.randn(500, 4, generator=stream("f")) * torch.tensor(
        [1.0, 10.0, 0.5, 0.0]
    ) + torch.tensor([0.0, 5.0, -3.0, 2.0])


def test_each_gives_every_living_feature_mean_0_and_spread_1():
    scale, f_ND = Standardise(4), spread_features()
    scale.fit(f_ND, each=True)
    g_ND = scale(f_ND)
    assert g_ND.mean(0).numpy() == pytest.approx([0, 0, 0, 0], abs=1e-5)
    assert g_ND.std(0)[:3].numpy() == pytest.approx([1, 1, 1], rel=1e-4)
    assert not g_ND[:, 3].any(), "a dead feature stays dead"


def test_common_gives_all_features_one_scale():
    scale, f_ND = Standardise(4), spread_features()
    scale.fit(f_ND, each=False)
    g_ND = scale(f_ND)
    assert g_ND.mean(0).numpy() == pytest.approx([0, 0, 0, 0], abs=1e-5)
    assert g_ND.std(0).square().mean() == pytest.approx(1, rel=1e-4)
    assert (f_ND.std(0) / g_ND.std(0))[:3].tolist() == pytest.approx(
        scale.sd[:3].tolist(), rel=1e-4
    )
    assert len(set(scale.sd.tolist())) == 1


@pytest.mark.parametrize("each", [True, False])
def test_a_nearly_dead_feature_is_not_blown_up(each):
    """Noise a thousandth as wide as the others' would else weigh as much as they do."""
    scale, f_ND = (
        Standardise(2),
        torch.randn(500, 2, generator=stream("f")) * torch.tensor([1.0, 1e-3]),
    )
    scale.fit(f_ND, each)
    assert scale(f_ND).std(0)[1] < 0.01


@pytest.mark.parametrize("each", [True, False])
def test_features_without_any_spread_stay_finite(each):
    scale = Standardise(3)
    scale.fit(torch.full((9, 3), 7.0), each)
    assert torch.equal(scale(torch.full((2, 3), 7.0)), torch.zeros(2, 3))


def test_a_linear_map_is_one():
    net = LinearMap(IMAGE, 6)
    assert torch.allclose(
        net(2 * X_BCHW) - net.linear.bias, 2 * (net(X_BCHW) - net.linear.bias), atol=1e-5
    )
