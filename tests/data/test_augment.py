"""Each augmentation against its definition, and properties of all views."""

from dataclasses import replace

import pytest
import torch

from sft_exp.config.schema import AugmentConfig
from sft_exp.core.rng import stream
from sft_exp.data import library_transforms
from sft_exp.data.augment import resample, view, view_with_boxes, view_with_mask
from sft_exp.errors import ConfigError
from sft_exp.jobs import prepare
from sft_exp.store.requests import plain

NONE = AugmentConfig(crop=[1.0, 1.0], ratio=1.0, flip=0.0, jitter=0.0, grey=0.0)
ALL = AugmentConfig(crop=[0.3, 1.2], rotate=20, shear=10, shift=0.1, blur=0.5, cutout=0.5)
COLOUR = torch.rand(64, 3, 12, 10, generator=stream("colour"))
GREY = torch.rand(64, 1, 9, 13, generator=stream("grey"))


def seen(x_BCHW, how=None, name="view", **changes):
    return view(x_BCHW, how or replace(NONE, **changes), stream(name))


@pytest.mark.parametrize("x_BCHW", [COLOUR, GREY, COLOUR.repeat(1, 2, 1, 1)])
def test_a_view_is_a_function_of_the_stream(x_BCHW):
    """In size and range like the image; the global stream and the image are not touched."""
    state, before = torch.get_rng_state(), x_BCHW.clone()
    first, again, other = seen(x_BCHW, ALL), seen(x_BCHW, ALL), seen(x_BCHW, ALL, "other")
    assert first.shape == x_BCHW.shape
    assert 0 <= first.min() <= first.max() <= 1
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(x_BCHW, before)


def test_each_image_has_numbers_of_its_own():
    same_BCHW = COLOUR[:1].expand(64, -1, -1, -1)
    for how in (ALL, AugmentConfig(), replace(NONE, jitter=1.0), replace(NONE, crop=[0.2, 1.0])):
        assert len(seen(same_BCHW, how).flatten(1).unique(dim=0)) > 40


def test_without_operations_a_view_is_the_image():
    assert torch.equal(seen(COLOUR), COLOUR)


def test_a_switch_changes_no_other_operations_numbers():
    """With and without a blur, the same windows: what is compared differs in the blur alone."""
    plain, cut = seen(COLOUR, crop=[0.3, 1.0]), seen(COLOUR, crop=[0.3, 1.0], cutout=0.5)
    whole = (cut == plain).all(1).all(1).all(1)
    assert 16 < whole.sum() < 48
    assert (cut[~whole] == 0).any(1).flatten(1).any(1).all()


def test_flip_changes_left_and_right():
    always = seen(COLOUR, flip=1.0)
    assert torch.allclose(always, COLOUR.flip(3), atol=1e-5)
    half = seen(COLOUR, flip=0.5)
    flipped = torch.tensor(
        [torch.allclose(a, b, atol=1e-5) for a, b in zip(half, COLOUR.flip(3), strict=True)]
    )
    assert 20 < flipped.sum() < 44
    assert torch.allclose(half[~flipped], COLOUR[~flipped], atol=1e-5)


def test_a_window_lies_inside_and_has_the_area_asked_for():
    """On an image whose two channels are its own coordinates, a view shows where it was looked up."""
    y_H, x_W = torch.linspace(0, 1, 101), torch.linspace(0, 1, 101)
    ramp_BCHW = torch.stack(torch.meshgrid(y_H, x_W, indexing="ij")).expand(200, 2, 101, 101)
    looked = view(ramp_BCHW, replace(NONE, crop=[0.25, 0.25], ratio=1.33), stream("crop"))
    height_B, width_B = (
        2 * (looked[:, 0, 75, 50] - looked[:, 0, 25, 50]),
        2 * (looked[:, 1, 50, 75] - looked[:, 1, 50, 25]),
    )
    assert torch.allclose(height_B * width_B, torch.tensor(0.25), atol=0.01)
    assert (height_B / width_B).log().abs().max() <= torch.tensor(1.33).log() + 0.02
    middle_B2 = looked[:, :, 50, 50]
    assert middle_B2.min() < 0.32  # windows reach every part of the image
    assert middle_B2.max() > 0.68


def test_zooming_out_leaves_the_border_black():
    white_BCHW = torch.ones(50, 1, 40, 40)
    small = view(white_BCHW, replace(NONE, crop=[4.0, 4.0]), stream("out"))
    assert small.mean((1, 2, 3)).numpy() == pytest.approx(0.25, abs=0.02)


def test_rotation_turns_pixels_not_coordinates():
    """A dot moves along a circle, also in an image that is wider than high, by at most the angle asked for."""
    x_BCHW = torch.zeros(200, 1, 41, 81)
    x_BCHW[:, :, 19:22, 54:57] = 1.0  # 15 pixels right of the centre (20, 40)
    turned = view(x_BCHW, replace(NONE, rotate=90.0), stream("turn"))
    at_B = turned.flatten(1).argmax(1)
    dy_B, dx_B = at_B // 81 - 20.0, at_B % 81 - 40.0
    assert (dx_B**2 + dy_B**2).sqrt().numpy() == pytest.approx(15, abs=1.5)
    assert dx_B.min() > -2
    assert dy_B.min() < -13
    assert dy_B.max() > 13


def test_grey_is_the_luma_of_every_channel():
    luma_BHW = 0.299 * COLOUR[:, 0] + 0.587 * COLOUR[:, 1] + 0.114 * COLOUR[:, 2]
    assert torch.allclose(seen(COLOUR, grey=1.0), luma_BHW[:, None].expand_as(COLOUR), atol=1e-3)
    assert torch.equal(seen(GREY, grey=1.0), GREY)


def test_jitter_keeps_greys_grey_and_moves_colours():
    """Hue and saturation leave greys alone; brightness and contrast move them all alike."""
    grey_BCHW = GREY.expand(-1, 3, -1, -1)
    moved = seen(grey_BCHW, jitter=0.5)
    assert (moved.amax(1) - moved.amin(1)).max() < 2e-3
    inside = COLOUR * 0.2 + 0.4
    assert (seen(inside, jitter=0.5) - inside).abs().amax((1, 2, 3)).gt(0.01).float().mean() > 0.6


def test_hue_turns_the_colour_circle():
    """A third of a turn, the most that jitter=1 reaches is a fifth: red goes towards yellow or magenta and never to cyan."""
    red_BCHW = torch.tensor([0.7, 0.3, 0.3])[:, None, None].expand(300, 3, 4, 4)
    moved = seen(red_BCHW, jitter=1.0)[:, :, 0, 0]
    assert (moved[:, 1] > moved[:, 2] + 0.05).any()
    assert (moved[:, 2] > moved[:, 1] + 0.05).any()


def test_blur_is_a_gaussian():
    """A point spreads with the standard deviation asked for; rows sum to 1, so that white stays white at the border."""
    x_BCHW = torch.zeros(8, 1, 31, 31)
    x_BCHW[:, :, 15, 15] = 1.0
    spread = seen(x_BCHW, blur=1.0, sigma=[1.5, 1.5])
    at = torch.arange(31) - 15.0
    assert spread.sum((1, 2, 3)).numpy() == pytest.approx(1.0)
    assert (spread.sum((1, 3)) * at**2).sum(1).sqrt().numpy() == pytest.approx(1.5, rel=0.01)
    assert torch.allclose(seen(torch.ones(8, 1, 9, 5), blur=1.0), torch.ones(8, 1, 9, 5))
    some = seen(COLOUR, blur=0.5)
    assert 16 < (some == COLOUR).flatten(1).all(1).sum() < 48


def test_cutout_takes_a_rectangle():
    gone = seen(torch.ones(300, 2, 40, 40), cutout=1.0) == 0
    assert torch.equal(gone[:, 0], gone[:, 1])
    share_B, rows_B, columns_B = (
        gone[:, 0].float().mean((1, 2)),
        gone[:, 0].any(2).sum(1),
        gone[:, 0].any(1).sum(1),
    )
    assert torch.equal(gone[:, 0].sum((1, 2)), rows_B * columns_B)
    assert 0.03 < share_B.min() < 0.08
    assert 0.28 < share_B.max() < 0.38


V2 = "torchvision.transforms.v2"
SOLAR = {"RandomSolarize": {"threshold": 0.5, "p": 0.5}}
TURN = {"_target_": f"{V2}.RandomRotation", "degrees": [90, 90]}


@pytest.mark.parametrize("name", ["RandAugment", "TrivialAugmentWide", "RandomSolarize"])
@pytest.mark.parametrize("x_BCHW", [COLOUR, GREY])
def test_torchvisions_transforms_are_a_function_of_the_stream(x_BCHW, name):
    how = replace(NONE, transforms=[{"_target_": f"{V2}.{name}"} | SOLAR.get(name, {})])
    state = torch.get_rng_state()
    first, again, other = seen(x_BCHW, how), seen(x_BCHW, how), seen(x_BCHW, how, "other")
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())
    assert 0 <= first.min() <= first.max() <= 1
    same = seen(x_BCHW[:1].expand(64, -1, -1, -1), how)
    assert len(same.flatten(1).unique(dim=0)) > 1, "each image has numbers of its own"


def test_transforms_come_after_our_own_numbers():
    """Adding one changes nothing of the other operations."""
    own, more = AugmentConfig(), AugmentConfig(transforms=[{"_target_": f"{V2}.Identity"}])
    assert torch.equal(seen(COLOUR, own), seen(COLOUR, more))


def test_masks_and_boxes_move_along():
    how = replace(NONE, transforms=[TURN])
    square = torch.rand(4, 3, 12, 12, generator=stream("square"))
    mask = torch.randint(0, 3, (4, 12, 12), generator=stream("mask"))
    x_BCHW, mask_BHW = view_with_mask(square, mask, how, stream("view"))
    assert torch.allclose(x_BCHW, square.rot90(1, (2, 3)), atol=1e-5)
    assert torch.equal(mask_BHW, mask.rot90(1, (1, 2)))
    boxes = torch.tensor([[[0.0, 2.0, 4.0, 8.0], [0.0, 0.0, 0.0, 0.0]]]).expand(4, -1, -1)
    labels = torch.tensor([[2, 0]]).expand(4, -1)
    _, boxes_BM4, labels_BM = view_with_boxes(square, boxes, labels, how, stream("view"))
    assert torch.allclose(boxes_BM4[:, 0], torch.tensor([2.0, 8.0, 8.0, 12.0]), atol=1e-4)
    assert torch.equal(labels_BM, labels)


def test_what_leaves_the_view_is_no_class_and_no_box():
    away = {"_target_": f"{V2}.Pad", "padding": [12, 0, 0, 0]}
    crop = {"_target_": f"{V2}.CenterCrop", "size": [12, 12]}
    how = replace(NONE, transforms=[away, crop])  # half of the image moves out to the right
    mask = torch.ones(4, 12, 12, dtype=torch.long)
    _, mask_BHW = view_with_mask(torch.rand(4, 3, 12, 12), mask, how, stream("view"))
    assert (mask_BHW[:, :, :6] == 255).all()
    assert (mask_BHW[:, :, 6:] == 1).all()
    boxes = torch.tensor([[[8.0, 2.0, 12.0, 8.0], [0.0, 0.0, 4.0, 4.0]]]).expand(4, -1, -1)
    labels = torch.tensor([[2, 1]]).expand(4, -1)
    _, boxes_BM4, labels_BM = view_with_boxes(
        torch.rand(4, 3, 12, 12), boxes, labels, how, stream("view")
    )
    assert labels_BM.tolist() == [[0, 1]] * 4
    assert torch.equal(boxes_BM4[:, 1], torch.tensor([6.0, 0.0, 10.0, 4.0]).expand(4, -1))


def test_transforms_of_two_requests_have_two_hashes():
    turned = [TURN], [{**TURN, "_target_": f"{V2}.RandomAffine"}]
    one, other = (plain(replace(NONE, transforms=list(t))) for t in turned)
    assert one != other


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("{_target_: os.system}", "torchvision.transforms.v2"),
        ("{_target_: torchvision.transforms.v2.RandAugmentt}", "a class of torchvision"),
        ("{_target_: torchvision.transforms.v2.RandAugment, nmu: 3}", "must fit its class"),
    ],
)
def test_transforms_that_torchvision_lacks_are_refused_before_anything_runs(
    experiment, node, message
):
    with pytest.raises(ConfigError, match=message):
        prepare.prepare(experiment("pretrainer=vicreg", "draws=1", f"augment.transforms=[{node}]"))


def test_policies_that_leave_masks_behind_are_refused():
    how = replace(NONE, transforms=[{"_target_": f"{V2}.RandAugment"}])
    with pytest.raises(ConfigError, match="move masks and boxes along"):
        library_transforms.check(how.transforms, (3, 12, 12), ("mask",))
    library_transforms.check(how.transforms, (3, 12, 12), ())
    library_transforms.check([TURN], (3, 12, 12), ("boxes", "labels"))


def test_a_transform_that_changes_the_size_is_refused():
    how = replace(NONE, transforms=[{"_target_": f"{V2}.CenterCrop", "size": [4, 4]}])
    with pytest.raises(ConfigError, match="must keep the images' shape"):
        seen(COLOUR, how)


def test_presets_are_of_the_data_sets_kind(experiment):
    """Digits are never mirrored; pictures are; the method takes what the group says, and the user has the last word."""
    assert experiment("dataset=mnist", "pretrainer=simclr").pretrainer.augmentation.flip == 0
    assert (
        experiment("dataset=cifar10", "pretrainer=simclr").pretrainer.augmentation
        == AugmentConfig()
    )
    changed = experiment(
        "dataset=cifar10", "pretrainer=simclr", "augment=digits", "augment.flip=0.25"
    ).pretrainer.augmentation
    assert (changed.flip, changed.rotate) == (0.25, 20.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("augment.crop=[0,1]", "augment.crop"),
        ("augment.flip=2", "augment.flip=2.0: must be from 0 to 1"),
        ("augment.rotate=-1", "augment.rotate"),
        ("augment.jitter=3", "augment.jitter"),
    ],
)
def test_impossible_views_are_refused_by_their_key(experiment, override, message):
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        experiment("pretrainer=ae", override)


def test_a_turn_is_the_textbooks():
    """The sampling grid of a quarter turn of a square image: its transpose, mirrored."""
    x_BCHW = torch.rand(1, 1, 7, 7, generator=stream("square"))
    # no crop, shift, flip or shear; the largest turn
    u = tuple(torch.tensor([v]) for v in (0.5, 0.5, 0.5, 0.5, 1.0, 1.0, 0.5))
    turned = resample(x_BCHW, replace(NONE, rotate=90.0), u)
    assert torch.allclose(turned, x_BCHW.rot90(1, (2, 3)), atol=1e-5)
