"""Segmentation: masks are read, augmented, learnt, measured, predicted; wrong files are named."""

import contextlib
import csv
import io
import json
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sft_exp
from sft_exp.config.schema import AugmentConfig
from sft_exp.core.rng import stream
from sft_exp.core.types import Spec
from sft_exp.data import images
from sft_exp.data.augment import OUTSIDE, view_with_mask
from sft_exp.data.readers import masks
from sft_exp.datasets import cityscapes
from sft_exp.datasets.cityscapes import Cityscapes
from sft_exp.datasets.mask_folder import MaskFolder
from sft_exp.datasets.oxford_pets import OxfordPets
from sft_exp.datasets.voc_segmentation import VocSegmentation
from sft_exp.encoders.conv import Conv
from sft_exp.errors import ConfigError, DataError
from sft_exp.jobs import prepare
from sft_exp.models.feature_extractor import FeatureExtractor
from sft_exp.models.heads import dense
from sft_exp.predict import __main__ as predict_command
from sft_exp.predict import tiles
from sft_exp.tasks.segment import IGNORE, Segment

CPU = torch.device("cpu")
OFFICIAL = {  # cityscapesScripts' labels.py: label id -> train id of what is evaluated
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16,
    32: 17, 33: 18,
}  # fmt: skip
NAMES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain", "sky",
    "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip


def squares(n, size=(40, 32), seed=0):
    """Grey noise with a bright square, and where it is: (uint8 [H, W, 3], uint8 [H, W])."""
    rng = np.random.default_rng(seed + n)
    wide, high = size
    image, mask = (
        rng.integers(0, 90, (high, wide, 3), dtype=np.uint8),
        np.zeros((high, wide), np.uint8),
    )
    top, left = rng.integers(2, high - 14), rng.integers(2, wide - 14)
    image[top : top + 12, left : left + 12] += 120
    mask[top : top + 12, left : left + 12] = 1
    return image, mask


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def folder(root, count=12, name="", values=(0, 1), **changes):
    for n in range(count):
        image, mask = squares(n, **changes)
        save(root / name / "images" / f"{n:02d}.png", image)
        save(root / name / "masks" / f"{n:02d}.png", np.array(values, np.uint8)[mask])
    return root


# What is read


def test_a_folder_of_images_and_masks(tmp_path):
    corpus = MaskFolder(root=str(folder(tmp_path)), size=32).load()
    assert corpus.classes == ("background", "object")
    assert corpus.strata == ("image",)
    assert (corpus.test, corpus.extra) == (None, None)
    (batch,) = corpus.train.batches([torch.tensor([3, 0])], CPU)
    assert batch["mask"].shape == (2, 32, 32)
    assert batch["mask"].dtype == torch.int64
    image, mask = squares(3)
    assert torch.equal(batch["mask"][0], torch.from_numpy(mask[:, 4:36]).long()), (
        "cropped in the middle, as the image is"
    )
    assert torch.equal(
        batch["x"][0], torch.from_numpy(image[:, 4:36]).permute(2, 0, 1).float() / 255
    )


def test_masks_read_as_they_are_used_are_those_held_in_memory(tmp_path):
    root = str(folder(tmp_path))
    held, streamed = (
        MaskFolder(root=root, size=16).load(),
        MaskFolder(root=root, size=16, memory=0.0).load(),
    )
    assert held.fingerprint == streamed.fingerprint
    rows = [torch.tensor([5, 1, 7]), torch.tensor([0, 2])]
    for workers in (0, 2):
        streamed.train.workers = workers
        for a, b in zip(
            held.train.batches(rows, CPU), streamed.train.batches(rows, CPU), strict=True
        ):
            assert a.keys() == b.keys()
            assert all(torch.equal(a[k], b[k]) for k in a)
    part = streamed.train.at(torch.tensor([4, 9]))
    assert torch.equal(part.target("mask"), held.train.target("mask")[[4, 9]])
    other = part.having(torch.zeros(2, 3))
    assert torch.equal(other.target("mask"), held.train.target("mask")[[4, 9]])
    # workers are not forked everywhere
    again = pickle.loads(pickle.dumps(images.fitted(part, (3, 16, 16))))  # noqa: S301 - ours
    assert torch.equal(again.raw(1), part.raw(1))
    smaller = pickle.loads(pickle.dumps(images.fitted(streamed.train, (1, 8, 8))))  # noqa: S301
    assert smaller.raw(0).shape == (1, 8, 8)


def test_other_values_parts_and_a_pool(tmp_path):
    folder(tmp_path, 6, "train", values=(0, 200))
    folder(tmp_path, 3, "test", values=(0, 200), seed=50)
    save(tmp_path / "train" / "images" / "bare.png", squares(99)[0])
    corpus = MaskFolder(root=str(tmp_path), size=16, values=[0, 200], unmasked="pool").load()
    assert [len(s) for s in (corpus.train, corpus.test, corpus.extra)] == [6, 3, 1]
    assert corpus.train.target("mask").unique().tolist() == [0, 1]
    assert corpus.extra.y.tolist() == [-1]
    assert not corpus.extra.targets


def test_a_margin_is_not_annotated(tmp_path):
    boxed = MaskFolder(
        root=str(folder(tmp_path, 4, size=(40, 20))), size=40, fit="letterbox"
    ).load()
    mask_NHW = boxed.train.target("mask")
    assert (mask_NHW[:, :10] == IGNORE).all()
    assert (mask_NHW[:, -10:] == IGNORE).all()
    assert (mask_NHW[:, 10:30] != IGNORE).all()
    wide = MaskFolder(root=str(tmp_path), size=[10, 20], fit="stretch").load()
    assert wide.image == (3, 10, 20)


def test_sixteen_bits_and_palettes_keep_their_values(tmp_path):
    _, mask = squares(0)
    for kind, picture in (
        ("I;16", Image.fromarray(mask.astype(np.uint16))),
        ("P", Image.fromarray(mask).convert("P")),
    ):
        if kind == "P":
            picture = Image.fromarray(mask)
            picture.putpalette([0, 0, 0, 255, 0, 0] + [0] * 762)
        picture.save(tmp_path / "mask.png")
        assert (masks.Codes.plain(2, 255).read((tmp_path / "mask.png").read_bytes()) == mask).all()


def test_cityscapes_train_ids_are_the_official_ones(tmp_path):
    names, codes = cityscapes.table()
    assert names == NAMES
    assert {v: c for v, c in codes.known.items() if c != IGNORE} == OFFICIAL
    assert set(codes.known) == set(range(34))
    ids = np.arange(34, dtype=np.uint8).reshape(2, 17).repeat(16, 0).repeat(4, 1)
    for part, town in (
        ("train", "aachen"),
        ("train", "bonn"),
        ("val", "ulm"),
        ("train_extra", "erlangen"),
    ):
        image = np.full((32, 68, 3), len(part), np.uint8)
        save(
            tmp_path / "leftImg8bit" / part / town / f"{town}_000_leftImg8bit.png",
            image + ord(town[0]),
        )
        if part != "train_extra":
            save(tmp_path / "gtFine" / part / town / f"{town}_000_gtFine_labelIds.png", ids)
    corpus = Cityscapes(root=str(tmp_path), size=[32, 68]).load()
    assert [len(s) for s in (corpus.train, corpus.test, corpus.extra)] == [2, 1, 1]
    assert corpus.train.ids == ["train/aachen/aachen_000", "train/bonn/bonn_000"]
    seen = corpus.train.target("mask")[0]
    assert [int(seen[16 * (n // 17), 4 * (n % 17)]) for n in range(34)] == [
        OFFICIAL.get(n, IGNORE) for n in range(34)
    ]


def test_oxford_pets_have_breeds_and_masks(tmp_path):
    for n, name in enumerate(("Abyssinian_1", "Abyssinian_2", "great_dane_1", "great_dane_2")):
        image, mask = squares(n)
        save(tmp_path / "images" / f"{name}.jpg", image)
        save(
            tmp_path / "annotations" / "trimaps" / f"{name}.png",
            np.where(mask, 1, np.where(image[..., 0] > 80, 3, 2)).astype("u1"),
        )
    lists = tmp_path / "annotations"
    (lists / "trainval.txt").write_text("Abyssinian_1 1 1 1\ngreat_dane_1 2 2 1\n")
    (lists / "test.txt").write_text("#Image CLASS-ID\nAbyssinian_2 1 1 1\ngreat_dane_2 2 2 1\n")
    corpus = OxfordPets(root=str(tmp_path), size=32).load()
    assert corpus.classes == corpus.strata == ("abyssinian", "great dane")
    assert corpus.spec.of("mask").classes == ("background", "pet")
    assert corpus.labelled
    assert corpus.train.y.tolist() == [0, 1]
    assert set(corpus.train.target("mask").unique().tolist()) == {0, 1, IGNORE}
    (lists / "test.txt").write_text("Abyssinian_2\n")
    with pytest.raises(DataError, match=r"test\.txt, line 1: 'Abyssinian_2' is not `image breed"):
        OxfordPets(root=str(tmp_path), size=32).load()


def voc(root):
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / "VOCdevkit" / "VOC2012" / name).mkdir(parents=True)
    top = root / "VOCdevkit" / "VOC2012"
    for n in range(4):
        image, mask = squares(n)
        save(top / "JPEGImages" / f"{n}.jpg", image)
        save(top / "SegmentationClass" / f"{n}.png", np.where(mask == 1, 15, 0).astype(np.uint8))
    (top / "ImageSets/Segmentation/train.txt").write_text("0\n1\n2\n")
    (top / "ImageSets/Segmentation/val.txt").write_text("3\n")
    return top


def test_pascal_vocs_layout(tmp_path):
    voc(tmp_path)
    corpus = VocSegmentation(root=str(tmp_path), size=32).load()
    assert (len(corpus.train), len(corpus.test)) == (3, 1)
    assert corpus.classes[15] == "person"
    assert len(corpus.classes) == 21
    assert corpus.train.target("mask").unique().tolist() == [0, 15]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("place", ["Segmentation", ""])
def test_pascal_vocs_lists_lie_in_either_folder(tmp_path, place, suffix):
    top = voc(tmp_path)
    for n in range(4):
        Image.open(top / f"JPEGImages/{n}.jpg").save(top / f"JPEGImages/{n}.{suffix}")
        if suffix != "jpg":
            (top / f"JPEGImages/{n}.jpg").unlink()
    for file in (top / "ImageSets/Segmentation").iterdir():
        file.rename(top / "ImageSets" / place / file.name)
    (top / "ImageSets" / place / "train.txt").write_text(f"0\n1.{suffix}\n")
    corpus = VocSegmentation(root=str(tmp_path), size=32).load()
    assert corpus.train.ids == ["0", "1"]
    assert corpus.test.ids == ["3"]
    (warning,) = [w for w in corpus.report["warnings"] if "ImageSets" in w]
    assert warning.endswith("and are left out: 2")


def test_the_real_nuclei_are_read(shared_data):
    root = str(shared_data / "dsb2018")
    corpus = VocSegmentation(
        root=root, year="2007", classes=["background", "nucleus"], size=16
    ).load()
    assert (len(corpus.train), len(corpus.test)) == (519, 145)


# What is said of files that are wrong: the file, and the reason


def test_what_cannot_be_used_is_named(tmp_path):
    top = voc(tmp_path)
    mask = top / "SegmentationClass" / "1.png"
    good = mask.read_bytes()

    def said():
        with pytest.raises(DataError) as told:
            VocSegmentation(root=str(tmp_path), size=32).load()
        return str(told.value)

    mask.unlink()
    assert f"1: there is no mask {mask}" in said()
    bad = np.zeros((32, 40), np.uint8)
    bad[7, 9] = 77
    save(mask, bad)
    assert (
        f"{mask}: holds the value 77 in row 7, column 9; valid are 0 to 20, and 255 where nothing is annotated"
        in said()
    )
    save(mask, np.zeros((32, 41), np.uint8))
    assert f"{mask}: is 41 x 32, its image 40 x 32" in said()
    save(mask, np.stack([bad, bad, 0 * bad], 2))
    assert "has the mode RGB and the colours [0, 0, 0], [77, 77, 0]; a mask has one whole" in said()
    mask.write_bytes(good[:60])
    assert f"{mask}: cannot be decoded" in said()
    mask.write_bytes(b"")
    assert f"{mask}: is empty" in said()
    mask.write_bytes(good)
    (top / "JPEGImages" / "2.jpg").write_bytes(b"nothing")
    assert "2.jpg: is no image that Pillow reads" in said()
    (top / "ImageSets/Segmentation/val.txt").unlink()
    words = "val.txt: No such file or directory; there: train; it lists the images of test"
    assert words in said()


def test_a_mask_that_changes_while_it_is_used_stops_the_run(tmp_path):
    corpus = MaskFolder(root=str(folder(tmp_path)), size=16, memory=0.0, workers=0).load()
    save(tmp_path / "masks" / "00.png", squares(5)[1])
    with pytest.raises(DataError, match=r"00\.png: changed while the run used it"):
        list(corpus.train.batches([torch.arange(12)], CPU))


def test_folders_without_their_counterparts(tmp_path):
    folder(tmp_path, 3)
    (tmp_path / "masks" / "01.png").unlink()
    with pytest.raises(DataError, match=r"images/01\.png: there is no mask .*masks/01\.png"):
        MaskFolder(root=str(tmp_path)).load()
    (tmp_path / "images" / "02.png").unlink()
    with pytest.raises(DataError, match="1 masks have no image of their name"):
        MaskFolder(root=str(tmp_path)).load()
    with pytest.raises(DataError, match=r"there is no .*Expected is root/images and root/masks"):
        MaskFolder(root=str(tmp_path / "masks")).load()
    folder(tmp_path, 3, "train")
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match=r"there is no .*test/images\. Expected is"):
        MaskFolder(root=str(tmp_path)).load()
    with pytest.raises(DataError, match=r"leftImg8bit/train/<city>"):
        Cityscapes(root=str(tmp_path)).load()


@pytest.mark.parametrize(
    "options",
    [
        {"size": 0},
        {"size": [3]},
        {"fit": "pad"},
        {"classes": ["one"]},
        {"values": [0, 0]},
        {"channels": 2},
        {"group": "a"},
    ],
)
def test_values_that_cannot_be(options):
    with pytest.raises(ConfigError):
        MaskFolder(**options)


# Views, heads, losses, numbers


def test_a_mask_moves_with_its_image():
    """Where the image shows the mask itself, the view of one is the view of the other."""
    mask_BHW = (
        (torch.rand(6, 24, 24, generator=stream("mask")) > 0.5)
        .long()
        .repeat_interleave(2, 1)
        .repeat_interleave(2, 2)
    )
    how = AugmentConfig(crop=[0.4, 1.4], rotate=60, shear=10, shift=0.1, jitter=0.0, grey=0.0)
    x_BCHW, moved_BHW = view_with_mask(mask_BHW[:, None].float(), mask_BHW, how, stream("view"))
    known_BHW = moved_BHW != OUTSIDE
    assert 0.2 < known_BHW.float().mean() < 1
    sure_BHW = known_BHW & ((x_BCHW[:, 0] < 0.01) | (x_BCHW[:, 0] > 0.99))
    assert sure_BHW.sum() > 1000
    assert torch.equal(x_BCHW[:, 0].round().long()[sure_BHW], moved_BHW[sure_BHW])
    same_BHW = view_with_mask(
        x_BCHW, mask_BHW, AugmentConfig(crop=[1, 1], ratio=1, flip=0), stream("view")
    )[1]
    assert torch.equal(same_BHW, mask_BHW)


@pytest.mark.parametrize("head", dense.HEADS)
def test_every_head_gives_logits_of_the_images_size(head):
    image, task = (3, 40, 28), Segment(head=head, width=16)
    encoder = FeatureExtractor(Conv(channels=[8, 16, 32]).build(image), ["dense"], "avg", 1, image)
    nets = task.networks(encoder, Spec(image, ("a", "b", "c")))
    assert task.predict(nets.eval(), torch.rand(2, *image)).shape == (2, 3, 40, 28)


def test_an_encoder_without_maps_is_refused(experiment):
    e = experiment("dataset=digit_pairs", "task=segment", "encoder=mlp", "pretrainer=none")
    with pytest.raises(ConfigError, match="no maps with rows and columns"):
        prepare.prepare(e)


def test_the_losses_are_their_formulas_and_ignore_what_is_not_annotated():
    logits = torch.randn(2, 3, 5, 4, generator=stream("logits"), dtype=torch.float64)
    mask = torch.randint(3, (2, 5, 4), generator=stream("mask"))
    mask[0, :3], mask[1, 0] = IGNORE, IGNORE

    class Fixed(Segment):
        def predict(self, nets, x_BCHW):
            return logits

    p = logits.softmax(1)
    ce, focal, dice = [], [], []
    for n in range(2):
        known = mask[n] != IGNORE
        right = p[n].gather(0, mask[n].where(known, 0)[None])[0][known]
        ce.append(-right.log().mean())
        focal.append((-((1 - right) ** 2) * right.log()).mean())
        for c in range(3):
            y = (mask[n][known] == c).double()
            dice.append(
                1 - (2 * (p[n, c][known] * y).sum() + 1) / (p[n, c][known].sum() + y.sum() + 1)
            )
    expected = {"cross_entropy": sum(ce) / 2, "focal": sum(focal) / 2, "dice": sum(dice) / 6}
    nothing = {"cross_entropy": 0.0, "focal": 0.0, "dice": 0.0}
    for name, value in expected.items():
        found, _ = Fixed(**{**nothing, name: 2.0}).loss(None, None, mask)
        assert found.item() == pytest.approx(2 * value.item()), name
    nowhere, _ = Fixed(dice=1.0, focal=1.0).loss(None, None, torch.full_like(mask, IGNORE))
    assert nowhere.isfinite()


def test_miou_is_made_of_what_is_kept():
    task, spec = Segment(), Spec((3, 6, 6), ("a", "b", "c"))
    logits = torch.randn(5, 3, 6, 6, generator=stream("logits"))
    batch = {
        "mask": torch.randint(3, (5, 6, 6), generator=stream("mask")).where(
            torch.rand(5, 6, 6) > 0.2, IGNORE
        )
    }
    metrics = task.metrics(spec)
    for metric in metrics.values():
        for rows in (slice(0, 2), slice(2, 5)):
            metric.update(*task.compared(logits[rows], {"mask": batch["mask"][rows]}))
    kept = task.record(logits, batch)
    iou_Y = kept["intersection"].sum(0) / kept["union"].sum(0)
    assert metrics["miou"].compute().item() == pytest.approx(iou_Y.mean().item(), abs=1e-6)
    assert metrics["iou"].compute().tolist() == pytest.approx(iou_Y.tolist(), abs=1e-6)
    both, known = kept["intersection"].sum(0), batch["mask"] != IGNORE
    dice = 2 * both / (both + kept["union"].sum(0))
    assert metrics["dice"].compute().item() == pytest.approx(dice.mean().item(), abs=1e-6)
    right = (logits.argmax(1) == batch["mask"])[known].float().mean()
    assert metrics["pixel_accuracy"].compute().item() == pytest.approx(right.item())


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (30, 19), (64, 8)])
def test_tiles_of_a_local_function_are_the_whole(size):
    """A function of single pixels gives the same in windows; one that knows its window fades from one to the next."""
    x_CHW = torch.rand(3, *size, generator=stream("x"))
    found = tiles.tiled(
        lambda x_BCHW: torch.stack([x_BCHW.sum(1), -x_BCHW[:, 0]], 1), x_CHW, (8, 8)
    )
    assert torch.allclose(found, torch.stack([x_CHW.sum(0), -x_CHW[0]]), atol=1e-5)
    for length in range(1, 40):
        starts = tiles.starts(length, 8)
        assert all(b - a <= 6 for a, b in pairwise(starts)), (
            "a quarter of each window overlaps the next"
        )
        assert starts[-1] + 8 == max(8, length)


# The line


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on squares, 24 of them without a mask: its folder, and what it came to."""
    top = tmp_path_factory.mktemp("squares")
    folder(top, 40, "train", size=(32, 32))
    folder(top, 20, "test", size=(32, 32), seed=400)
    options = [
        "dataset=mask_folder", f"dataset.root={top}", "dataset.size=32", "encoder=conv", "pretrainer=dae", "labels=10",
        "draws=2", "seeds=1", "pretrain.steps=20", "finetune.steps=60", "finetune.batch_size=8", "task.width=16",
        "task.augment=true", "optim.lr=0.01", "val=holdout", "tracker=none", "hardware=cpu",
        "monitors=false", f"store={top}/store",
    ]  # fmt: skip
    with contextlib.chdir(top):
        return top / "run", sft_exp.run(options, top / "run")


def test_masks_go_through_the_whole_line(run):
    where, result = run
    assert result["score"] == "miou"
    assert set(result["controls"]) == {"scratch", "random_frozen", "raw_pixels"}
    assert result["data"]["labelled"] == 10
    assert result["test"]["miou"] > 0.6
    assert {"miou", "iou/background", "iou/object", "pixel_accuracy", "dice", "miou_sd"} <= set(
        result["test"]
    )
    assert result["val"]["miou"] > 0.4
    assert "of mIoU against the same model from scratch" in result["verdict"]["text"]
    assert "mIoU" in (where / "report.html").read_text()
    assert (where / "predictions.png").exists()
    raw = result["controls"]["raw_pixels"]["miou"]
    assert raw > 0.6, "the squares are brighter than all around them"


def test_predict_writes_masks_of_the_files_own_size(run, tmp_path, capsys):
    where, _ = run
    image, mask = squares(7, size=(50, 90), seed=900)
    save(Path("large/a.png"), image)
    Path("large/b.png").write_bytes(b"no image")
    assert predict_command.main([str(where), "large", "--out", "told", "--scale", "1"]) == 3
    out, said = capsys.readouterr()
    ((file, written, *shares),) = list(csv.reader(io.StringIO(out)))[1:]
    assert (file, written) == ("large/a.png", "told/a.png")
    assert sum(map(float, shares)) == pytest.approx(1, abs=1e-3)
    assert "large/b.png: is no image that Pillow reads" in said
    with Image.open("told/a.png") as picture:
        told = np.asarray(picture)
    assert told.shape == (90, 50)
    assert set(np.unique(told)) <= {0, 1}
    both = ((told == 1) & (mask == 1)).sum() / ((told == 1) | (mask == 1)).sum()
    assert both > 0.4
    with Image.open("told/a-overlay.png") as picture:
        assert picture.size == (50, 90)
    assert json.loads((where / "results.json").read_text())["score"] == "miou"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            ["task=segment"],
            "learns from mask, and dataset=digits has classes; data sets that have them: .*mask_folder",
        ),
        (["task=regress"], "learns from value, and dataset=digits has classes"),
        (
            ["dataset=digit_pairs", "task=classify"],
            "learns from classes, and dataset=digit_pairs has left and right and mask",
        ),
        (
            ["dataset=digit_pairs", "task=segment", "strategy=ridge"],
            "strategy=ridge: is for tasks that predict numbers",
        ),
        (
            ["dataset=digit_pairs", "task=segment", "compress=int8"],
            "compress=int8: is for tasks that predict classes",
        ),
        (["strategy=svr"], "strategy=svr: is for tasks that predict numbers"),
    ],
)
def test_pairs_that_cannot_be_are_refused_before_compute(experiment, changes, said):
    with pytest.raises(ConfigError, match=said):
        prepare.prepare(experiment("pretrainer=none", *changes))


def test_one_sets_masks_are_learnt_for_another(experiment, tmp_path):
    """pretrainer=supervised with masks: what is handed on is the encoder, under the names that it has alone."""
    folder(tmp_path / "theirs", 12, size=(32, 32))
    folder(tmp_path / "mine", 12, size=(32, 32), seed=70)
    options = [
        "pretrainer=supervised", "encoder=conv", "dataset=mask_folder", f"dataset.root={tmp_path}/mine", "dataset.size=16",
        "pretrain_dataset=mask_folder", f"pretrain_dataset.root={tmp_path}/theirs", "labels=4", "draws=1", "controls=false",
        "pretrain.steps=2", "finetune.steps=2", "val=none", "tracker=none", "report=false",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"give both the same dataset\.size"):
        prepare.prepare(experiment(*options))
    result = sft_exp.run([*options, "pretrain_dataset.size=16"])
    assert result["test"]["miou"] >= 0
    names = {f.name for f in Path(result["stages"]["pretrain"]["folder"]).iterdir()}
    assert "encoder.safetensors" in names


def town(root):
    """Cityscapes' layout, with a car in each street."""
    for n in range(12):
        image, mask = squares(n, size=(64, 32))
        part, name = ("val", "ulm") if n % 4 == 3 else ("train", "aachen")
        save(root / "leftImg8bit" / part / name / f"{name}_{n:03d}_leftImg8bit.png", image)
        save(
            root / "gtFine" / part / name / f"{name}_{n:03d}_gtFine_labelIds.png",
            np.array([7, 26], np.uint8)[mask],
        )
    return root


@pytest.mark.slow
def test_the_experiment_from_cityscapes_to_ones_own(experiment, tmp_path):
    source = f"pretrain_dataset.root={town(tmp_path / 'city')}"
    options = [
        "experiment=cityscapes_to_folder", source, f"dataset.root={folder(tmp_path / 'mine', 30, size=(32, 32))}",
        "dataset.size=32", "encoder=conv", "labels=6", "pretrain.steps=60", "finetune.steps=40", "finetune.batch_size=6",
        "task.width=16", "optim.lr=0.01", "tracker=none", "report=false",
    ]  # fmt: skip
    result = sft_exp.run(options)
    assert len(result["draws"]["pretrained"]) == 3
    assert {"scratch", "random_frozen", "raw_pixels"} == set(result["controls"])
    assert result["test"]["miou"] > 0.6
    assert "of mIoU against the same model from scratch" in result["verdict"]["text"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_a_towns_streets_to_the_real_nuclei(shared_data, tmp_path):
    source = [f"pretrain_dataset.root={town(tmp_path / 'city')}", "pretrain_dataset.size=64"]
    options = [
        "dataset=nuclei",
        f"dataset.root={shared_data}/dsb2018",
        "dataset.size=64",
        "encoder=conv",
        "labels=50",
    ]
    steps = [
        "draws=1", "pretrain.steps=60", "finetune.steps=150", "optim.lr=0.003", "tracker=none",
        "report=false",
    ]  # fmt: skip
    result = sft_exp.run(["experiment=cityscapes_to_folder", *source, *options, *steps])
    assert result["test"]["miou"] > result["controls"]["raw_pixels"]["miou"]
    assert result["test"]["miou"] > 0.65


@pytest.mark.parametrize("strategy", ["knn", "logistic", "spread", "svm"])
def test_a_solved_head_is_linear(experiment, strategy):
    """The feature pyramid ended as a bug after the pretraining."""
    words = (
        "debug=tiny",
        "dataset=digit_pairs",
        "labels=4",
        "task=segment",
        f"strategy={strategy}",
    )
    with pytest.raises(ConfigError, match=rf"task\.head=fpn: must be pixel: strategy={strategy}"):
        prepare.prepare(experiment(*words))
    job = prepare.prepare(experiment(*words, "task.head=pixel"))
    assert all(r["task"].head == "pixel" for r in job.requests["finetune"])
