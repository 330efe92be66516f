"""Detection: boxes are read, augmented, learnt, predicted, measured and exported.

pycocotools and Pillow serve as references.
"""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image, ImageDraw, ImageOps

import sft_exp
from sft_exp.config.schema import AugmentConfig
from sft_exp.core.rng import stream
from sft_exp.core.types import Spec
from sft_exp.data import boxes
from sft_exp.data.augment import view_with_boxes
from sft_exp.data.boxes import Letterbox
from sft_exp.datasets.coco import Coco
from sft_exp.datasets.voc_detection import VocDetection
from sft_exp.encoders.conv import Conv
from sft_exp.encoders.mlp import MLP
from sft_exp.encoders.resnet import ResNet
from sft_exp.encoders.vit import ViT
from sft_exp.errors import ConfigError, DataError
from sft_exp.models.feature_extractor import DENSE, FeatureExtractor
from sft_exp.models.heads import detectors
from sft_exp.tasks.detect import Detect

CPU = torch.device("cpu")
STILL = AugmentConfig(crop=[1.0, 1.0], ratio=1.0, flip=0.0, jitter=0.0, grey=0.0)
SPEC = Spec((3, 64, 64), ("cell", "nucleus"))
each = pytest.mark.parametrize


def write_coco(
    folder, name="train", boxes=((1, [10, 10, 20, 20]),), size=(60, 40), seed=0, **changes
):
    """One image with these (category, bbox), in the layout of COCO."""
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / name).mkdir(exist_ok=True)
    noise = torch.randint(
        0, 255, (size[1], size[0], 3), generator=stream(name, seed), dtype=torch.uint8
    )
    Image.fromarray(noise.numpy()).save(folder / name / "a.png")
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": size[0], "height": size[1]}],
        "annotations": [
            {"id": n, "image_id": 7, "category_id": c, "bbox": b, "iscrowd": 0}
            for n, (c, b) in enumerate(boxes)
        ],
        "categories": [{"id": 90, "name": "nucleus"}, {"id": 1, "name": "cell"}],
        **changes,
    }
    (folder / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
    return content


def coco(folder, **options):
    usual = {
        "root": str(folder),
        "train": "annotations/instances_train.json",
        "test": None,
        "size": 32,
        "workers": 0,
    }
    return Coco(**{**usual, **options})


def write_voc(folder, objects, name="a", split="train", size=(60, 40)):
    for below in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / below).mkdir(parents=True, exist_ok=True)
    noise = torch.randint(0, 255, (size[1], size[0], 3), generator=stream(name), dtype=torch.uint8)
    Image.fromarray(noise.numpy()).save(folder / "JPEGImages" / f"{name}.png")
    found = "".join(
        f"<object><name>{label}</name><difficult>{difficult}</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for label, difficult, (x0, y0, x1, y1) in objects
    )
    (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{found}</annotation>")
    with (folder / "ImageSets" / "Main" / f"{split}.txt").open("a") as file:
        file.write(f"{name} 1\n")


def voc(folder, **options):
    return VocDetection(**{"root": str(folder), "test": None, "size": 32, "workers": 0, **options})


def networks(task, encoder=None, spec=SPEC, seed=0):
    torch.manual_seed(seed)
    encoder = encoder or Conv([8, 16, 16], 8)
    return task.networks(
        FeatureExtractor(encoder.build(spec.image), [DENSE], "avg", 1, spec.image), spec
    )


def scene(n=4, size=64):
    """Images with one bright square each, and where it is: a batch as the loop gives it."""
    x_BCHW, at_B = (
        torch.zeros(n, 3, size, size),
        torch.randint(2, size - 26, (n, 2), generator=stream("scene")),
    )
    boxes_BM4, labels_BM = torch.zeros(n, 2, 4), torch.zeros(n, 2, dtype=torch.long)
    for b, (x, y) in enumerate(at_B.tolist()):
        x_BCHW[b, b % 2, y : y + 24, x : x + 24] = 1
        boxes_BM4[b, 0], labels_BM[b, 0] = torch.tensor([x, y, x + 24, y + 24]), 1 + b % 2
    return {
        "x": x_BCHW,
        "boxes": boxes_BM4,
        "labels": labels_BM,
        "crowd": torch.zeros_like(labels_BM),
    }


# Boxes on a canvas


@each("size", [(640, 480), (427, 640), (100, 100), (37, 251), (33, 7)])
@each("canvas", [(64, 64), (48, 96)])
def test_a_letterbox_is_pillows_and_leads_back(size, canvas):
    place = Letterbox.fit(size, canvas)
    white = ImageOps.pad(Image.new("L", size, 255), (canvas[1], canvas[0]), color=0)
    assert white.getbbox() == (
        place.left,
        place.top,
        place.left + place.width,
        place.top + place.height,
    )
    some_M4 = torch.tensor([[0.0, 0, *size], [1, 2, size[0] / 2, size[1] / 2]])
    assert torch.allclose(place.back(place.place(some_M4)), some_M4, atol=1e-3)


@each(
    "how",
    [
        replace(STILL, flip=1.0),
        replace(STILL, crop=[0.4, 0.9], ratio=1.5, flip=0.5),
        replace(STILL, crop=[1.2, 1.4]),
        replace(STILL, shift=0.2),
        replace(STILL, rotate=90.0),
    ],
)
def test_boxes_move_with_their_pixels(how):
    """The frame around what is left of a bright rectangle, after the image was resampled, is its box. (A turned rectangle fills
    its box only along the axes, so its frame is looked for inside.)"""
    size = (60, 80)
    x_BCHW, boxes_BM4 = torch.zeros(64, 1, *size), torch.zeros(64, 1, 4)
    for b in range(64):
        x, y = b % 8 * 7, b // 8 * 5
        x_BCHW[b, 0, y : y + 18, x : x + 20], boxes_BM4[b, 0] = (
            1,
            torch.tensor([x, y, x + 20, y + 18]),
        )
    seen_BCHW, moved_BM4, labels_BM = view_with_boxes(
        x_BCHW, boxes_BM4, torch.ones(64, 1).long(), how, stream("move")
    )
    kept = 0
    for picture_HW, box_4, label in zip(
        seen_BCHW[:, 0], moved_BM4[:, 0], labels_BM[:, 0], strict=True
    ):
        rows, columns = (picture_HW > 0.5).any(1).nonzero(), (picture_HW > 0.5).any(0).nonzero()
        if not label:
            assert box_4.tolist() == [0, 0, 0, 0]
            continue
        kept += 1
        bright = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert (bright - box_4).abs().max() <= (1.01 if not how.rotate else 3), (bright, box_4)
    assert kept > 30


def test_a_box_of_which_little_is_left_is_none():
    half_B23 = torch.tensor([[[0.5, 0, -0.5], [0, 1, 0]]])  # the left half is seen
    boxes_BM4 = torch.tensor(
        [[[0.0, 0, 10, 10], [26, 0, 36, 10], [31, 0, 41, 10], [50, 0, 60, 10], [0, 0, 0, 0]]]
    )
    found_BM4, labels_BM = boxes.moved(
        boxes_BM4, torch.tensor([[1, 1, 1, 1, 0]]), half_B23, (64, 64)
    )
    assert labels_BM.tolist() == [[1, 1, 0, 0, 0]]
    assert found_BM4[0, :3].tolist() == [[0, 0, 20, 10], [52, 0, 64, 10], [0, 0, 0, 0]]


# Readers


def test_coco_is_read_as_pycocotools_reads_it(shared_data):
    """Boxes, categories whose ids have gaps, crowds; on the canvas and back."""
    from pycocotools.coco import COCO

    found = Coco(root=str(shared_data / "coco_mini"), size=64, workers=0).load()
    assert len(found.classes) == 80
    for part, split in ((found.train, "train2017"), (found.test, "val2017")):
        theirs = COCO(shared_data / "coco_mini" / "annotations" / f"instances_{split}.json")
        assert len(part) == len(theirs.imgs)
        for name, image, box_M4, label_M, crowd_M in zip(
            part.ids,
            theirs.imgs.values(),
            *(part.target(t) for t in ("boxes", "labels", "crowd")),
            strict=True,
        ):
            assert name == f"{split}/{image['file_name']}"
            wanted = theirs.loadAnns(theirs.getAnnIds([image["id"]]))
            back_M4 = Letterbox.fit((image["width"], image["height"]), (64, 64)).back(box_M4)
            mine = [
                (found.classes[label - 1], bool(crowd), box.tolist())
                for label, crowd, box in zip(
                    label_M.tolist(), crowd_M.tolist(), back_M4, strict=True
                )
                if label
            ]
            assert len(mine) == len(wanted)
            for (label, crowd, (x0, y0, x1, y1)), a in zip(mine, wanted, strict=True):
                assert label == theirs.cats[a["category_id"]]["name"]
                assert crowd == bool(a["iscrowd"])
                assert [x0, y0, x1 - x0, y1 - y0] == pytest.approx(a["bbox"], abs=0.02)
    assert found.report["train"]["crowds"] == 5


def test_gaps_in_category_ids_and_another_order_in_the_test_json(tmp_path):
    write_coco(tmp_path, boxes=[(90, [1, 1, 5, 5]), (1, [2, 2, 6, 6])])
    names = [{"id": 3, "name": "nucleus"}, {"id": 4, "name": "cell"}]
    write_coco(tmp_path, "val", boxes=[(3, [1, 1, 5, 5])], categories=names)
    found = coco(tmp_path, test="annotations/instances_val.json").load()
    assert found.classes == ("cell", "nucleus")
    assert found.train.target("labels").tolist() == [[2, 1]]
    assert found.test.target("labels").tolist() == [[2, 0]]


def test_voc_is_read_like_the_coco_json_that_was_made_of_it(shared_data):
    root = shared_data / "bccd"
    mine = VocDetection(
        root=str(root), first=0, boxes="drop", train="val", test=None, size=16, workers=0
    ).load()
    theirs = json.loads((root / "annotations" / "instances_val.json").read_text())
    names = {c["id"]: c["name"] for c in theirs["categories"]}
    for row, image in enumerate(theirs["images"]):
        place = Letterbox.fit((image["width"], image["height"]), (16, 16))
        wanted = [a for a in theirs["annotations"] if a["image_id"] == image["id"]]
        label_M, box_M4 = mine.train.target("labels")[row], mine.train.target("boxes")[row]
        assert mine.train.ids[row] + ".jpg" == image["file_name"]
        assert [mine.classes[l - 1] for l in label_M.tolist() if l] == [
            names[a["category_id"]] for a in wanted
        ]
        x, y, w, h = torch.tensor([a["bbox"] for a in wanted], dtype=torch.float).T
        # The reader keeps boxes inside of the image, and some reach a pixel over its edge.
        assert (
            place.back(box_M4[label_M > 0]) - torch.stack([x, y, x + w, y + h], 1)
        ).abs().max() <= 1.01
    (dropped,) = mine.report["dropped"]
    assert "BloodImage_00338.xml" in dropped
    assert "has no area" in dropped


def test_voc_counts_from_one_and_difficult_objects_are_marked(tmp_path):
    write_voc(
        tmp_path / "VOCdevkit" / "VOC2012",
        [("dog", 0, (1, 1, 60, 40)), ("cat", 1, (11, 11, 20, 20))],
    )
    write_voc(tmp_path / "VOCdevkit" / "VOC2012", [], "b")
    found = voc(tmp_path, size=[40, 60]).load()
    assert found.classes == ("cat", "dog")
    assert found.train.target("boxes").tolist() == [
        [[0, 0, 60, 40], [10, 10, 20, 20]],
        [[0, 0, 0, 0]] * 2,
    ]
    assert found.train.target("labels").tolist() == [[2, 1], [0, 0]]
    assert found.train.target("crowd").tolist() == [[0, 1], [0, 0]]
    assert found.report["train"]["without boxes"] == 1


@each(
    ("bbox", "reason"),
    [
        ([10, 10, 0, 5], "annotation 1: cell (10, 10, 10, 15) of train/a.png has no area"),
        ([10, 10, 5, -2], "has no area"),
        ([70, 10, 5, 5], "lies outside of the image, 60 x 40"),
        ([50, 10, 20, 5], "reaches outside of the image, 60 x 40"),
    ],
)
def test_boxes_that_cannot_be_are_refused_or_dropped_by_name(tmp_path, bbox, reason, capsys):
    write_coco(tmp_path, boxes=[(1, [1, 1, 5, 5]), (1, bbox)])
    with pytest.raises(DataError, match=r"instances_train.json") as raised:
        coco(tmp_path).load()
    assert reason in str(raised.value)
    assert "dataset.boxes=drop" in str(raised.value)
    found = coco(tmp_path, boxes="drop").load()
    assert reason in capsys.readouterr().err
    assert int((found.train.target("labels") > 0).sum()) == (2 if "reaches" in reason else 1)


@each(
    ("changes", "reason"),
    [
        ({"annotations": None}, "no list 'annotations'"),
        (
            {"annotations": [{"id": 5, "image_id": 8, "category_id": 1, "bbox": [1, 1, 2, 2]}]},
            "annotation 5 is of image 8",
        ),
        (
            {"annotations": [{"id": 5, "image_id": 7, "category_id": 2, "bbox": [1, 1, 2, 2]}]},
            "annotation 5 is of category 2",
        ),
        (
            {"annotations": [{"id": 5, "image_id": 7, "category_id": 1}]},
            "annotation 5 has bbox=None",
        ),
        (
            {"annotations": [{"id": 5, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3]}]},
            "annotation 5 has bbox=",
        ),
        ({"images": [{"id": 7, "file_name": "b.png"}]}, "b.png (image 7)"),
        (
            {"images": [{"id": 7, "file_name": "a.png", "width": 40, "height": 60}]},
            "has 60 x 40 pixels",
        ),
        ({"images": [{"id": 7}]}, "images[0] has no file_name"),
        ({"categories": [{"id": 1, "name": "cell"}, {"id": 1, "name": "x"}]}, "the same id"),
    ],
)
def test_a_wrong_coco_json_is_named_with_the_reason(tmp_path, changes, reason):
    write_coco(tmp_path, **changes)
    with pytest.raises(DataError) as raised:
        coco(tmp_path).load()
    assert reason in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def test_what_is_no_json_or_no_image_or_not_there(tmp_path):
    with pytest.raises(DataError, match="Expected is root/annotations"):
        coco(tmp_path).load()
    write_coco(tmp_path)
    (tmp_path / "train" / "a.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"a\.png: is no image"):
        coco(tmp_path).load()
    (tmp_path / "annotations" / "instances_train.json").write_text("{")
    with pytest.raises(DataError, match=r"instances_train.json: no JSON"):
        coco(tmp_path).load()


def test_a_test_image_must_not_be_a_training_image(tmp_path):
    write_coco(tmp_path)
    write_coco(tmp_path, "val")
    (tmp_path / "val" / "a.png").write_bytes((tmp_path / "train" / "a.png").read_bytes())
    with pytest.raises(DataError, match=r"training images too:\n  val/a\.png and train/a\.png"):
        coco(tmp_path, test="annotations/instances_val.json").load()


@each(
    ("spoil", "reason"),
    [
        (lambda f: (f / "Annotations" / "a.xml").write_text("<annotation>"), "a.xml: no XML"),
        (lambda f: (f / "Annotations" / "a.xml").unlink(), "a.xml: No such file"),
        (lambda f: (f / "JPEGImages" / "a.png").unlink(), "train.txt: a is not in"),
        (
            lambda f: write_voc(f, [("dog", 0, (1, 1, "x", 4))], "b"),
            "b.xml: object 1 (dog) has bndbox 1, 1, x, 4",
        ),
        (lambda f: write_voc(f, [("", 0, (1, 1, 2, 4))], "b"), "b.xml: object 1 has no name"),
        (
            lambda f: write_voc(f, [("dog", 0, (5, 5, 90, 9))], "b"),
            "b.xml, object 1: dog (4, 4, 90, 9) of b reaches outside",
        ),
        (lambda f: write_voc(f, [("dog", 0, (5, 5, 3, 9))], "b"), "has no area"),
        (lambda f: write_voc(f, [("cat", 0, (1, 1, 4, 4))], "b", "val"), "b.xml: 'cat'"),
    ],
)
def test_a_wrong_voc_folder_is_named_with_the_reason(tmp_path, spoil, reason):
    write_voc(tmp_path, [("dog", 0, (1, 1, 30, 30))])
    spoil(tmp_path)
    with pytest.raises(DataError) as raised:
        voc(tmp_path, test="val" if "cat" in reason else None).load()
    assert reason in str(raised.value)


def test_exit_code_3_before_anything_is_trained(tmp_path, experiment):
    from sft_exp.jobs.prepare import prepare

    write_coco(tmp_path, boxes=[(1, [10, 10, 0, 5])])
    data = [
        f"dataset.root={tmp_path}",
        "dataset.train=annotations/instances_train.json",
        "dataset.test=null",
    ]
    with pytest.raises(
        DataError, match=r"instances_train\.json, annotation 0: cell .* has no area"
    ) as raised:
        prepare(experiment("dataset=coco", *data))
    assert raised.value.code == 3


# The task


@each("model", detectors.MODELS)
def test_the_loss_has_no_randomness_and_reaches_encoder_and_detector(model):
    """Also where an image has no box, and where a box does not count."""
    task = Detect(model=model, strides=[8, 16], width=16, views=vars(STILL))
    nets, batch = networks(task), scene()
    batch["labels"][3], batch["boxes"][3] = 0, 0
    batch["crowd"][2, 0] = 1
    kept = {name: value.clone() for name, value in batch.items()}
    drawn = [task.draw({"labelled": batch}, stream("draw"), 0.5) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))
    assert all(torch.equal(kept[name], value) for name, value in batch.items())
    assert (drawn[0][2] > 0).sum(1).tolist() == [1, 1, 0, 0]
    state = torch.get_rng_state()
    (one, terms), (two, _) = (task.loss(nets.train(), *drawn[0]) for _ in range(2))
    assert one.item() == two.item()
    assert torch.equal(state, torch.get_rng_state())
    assert all(term.dim() == 0 for term in terms.values())
    one.backward()
    reached = {
        name.split(".")[0]
        for name, p in nets.named_parameters()
        if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert reached == {"encoder", "detector"}


@each("model", detectors.MODELS)
def test_it_finds_what_it_has_learnt(model):
    task = Detect(model=model, strides=[8, 16], width=16, augment=False)
    nets, batch = networks(task), scene()
    optimizer, losses = torch.optim.Adam(nets.parameters(), 3e-3), []
    for _ in range(45):
        optimizer.zero_grad()
        value, _ = task.loss(nets.train(), batch["x"], batch["boxes"], batch["labels"])
        value.backward()
        torch.nn.utils.clip_grad_norm_(nets.parameters(), 5.0)
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < losses[0] / 2
    with torch.no_grad():
        found_BM6 = task.predict(nets.train(), batch["x"])
    metric = task.metrics(SPEC)["map"]
    metric.update(*task.compared(found_BM6, batch))
    assert metric.compute()["map_50"] > 0.8


def test_predictions_are_padded_sorted_and_the_same_in_pieces():
    task = Detect(strides=[8, 16], width=16, threshold=0.005, most=7)
    nets, x_BCHW = networks(task).eval(), torch.rand(5, 3, 64, 64, generator=stream("x"))
    with torch.no_grad():
        whole, pieces = (
            task.predict(nets, x_BCHW),
            torch.cat([task.predict(nets, x) for x in x_BCHW.split(2)]),
        )
    assert whole.shape == (5, 7, 6)
    assert torch.allclose(whole, pieces, atol=1e-4)
    assert (whole[..., 4].diff(dim=1) <= 0).all()
    assert task.record(whole, {})["found"].shape == (5, 7, 6)
    shown = task.show(whole, scene(5), SPEC)
    assert all(
        picture.shape == (5, 3, 64, 64) and 0 <= picture.min() <= picture.max() <= 1
        for picture in shown.values()
    )


def test_average_precision_is_pycocotools_own():
    """Crowds and all, and class by class."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = stream("precision")
    corner_BM2 = torch.randint(0, 40, (6, 5, 2), generator=rng).float()
    boxes_BM4 = torch.cat(
        [corner_BM2, corner_BM2 + torch.randint(8, 24, (6, 5, 2), generator=rng)], 2
    )
    labels_BM = torch.randint(0, 3, (6, 5), generator=rng)
    batch = {
        "boxes": boxes_BM4,
        "labels": labels_BM,
        "crowd": (torch.rand(6, 5, generator=rng) < 0.2).long(),
    }
    found_BM6 = torch.zeros(6, 5, 6)
    found_BM6[..., :4] = boxes_BM4 + torch.randn(6, 5, 4, generator=rng)
    found_BM6[..., 4] = torch.rand(6, 5, generator=rng)
    found_BM6[..., 5] = labels_BM.where(torch.rand(6, 5, generator=rng) < 0.8, 3 - labels_BM) * (
        labels_BM > 0
    )
    metric = Detect().metrics(SPEC)["map"]
    for rows in (slice(0, 4), slice(4, 6)):  # in pieces, as evaluate does
        metric.update(*Detect().compared(found_BM6[rows], {k: v[rows] for k, v in batch.items()}))
    mine = {k: float(v) for k, v in metric.compute().items()}

    def rows_of(b4, labels, more):
        return [
            {
                "image_id": i,
                "category_id": int(l),
                "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
                **more(i, m),
            }
            for i in range(6)
            for m, (box, l) in enumerate(zip(b4[i], labels[i], strict=True))
            if l > 0
        ]

    truth, given = COCO(), []
    area = boxes.area(boxes_BM4)
    annotations = rows_of(
        boxes_BM4,
        labels_BM,
        lambda i, m: {"iscrowd": int(batch["crowd"][i, m]), "area": float(area[i, m])},
    )
    truth.dataset = {
        "images": [{"id": i} for i in range(6)],
        "annotations": [{**a, "id": n} for n, a in enumerate(annotations, start=1)],
        "categories": [{"id": 1}, {"id": 2}],
    }
    truth.createIndex()
    given = rows_of(
        found_BM6[..., :4], found_BM6[..., 5], lambda i, m: {"score": float(found_BM6[i, m, 4])}
    )
    judge = COCOeval(truth, truth.loadRes(given), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert [mine["map"], mine["map_50"], mine["map_75"]] == pytest.approx(
        judge.stats[:3].tolist(), abs=1e-6
    )
    for k, name in enumerate(SPEC.classes):
        at_TR = judge.eval["precision"][:, :, k, 0, -1]
        assert mine[f"map/{name}"] == pytest.approx(at_TR.mean(), abs=1e-6)
        assert mine[f"map_50/{name}"] == pytest.approx(at_TR[0].mean(), abs=1e-6)


@each(
    "encoder",
    [Conv([8, 16, 16], 8), ResNet(10, "small"), ViT(8, 16, 2, 2)],
    ids=["conv", "resnet", "vit"],
)
def test_any_encoder_with_maps_carries_a_pyramid(encoder):
    """Levels finer and coarser than its maps, too."""
    task = Detect(strides=[4, 8, 32], width=16)
    nets = networks(task, encoder)
    levels = nets["detector"].backbone(dict(nets["encoder"].maps(torch.rand(2, 3, 64, 64))))
    assert [m.shape[1:] for m in levels] == [(16, 16, 16), (16, 8, 8), (16, 2, 2)]
    assert task.predict(nets.eval(), torch.rand(1, 3, 64, 64)).shape == (1, 100, 6)


def test_an_encoder_without_maps_and_a_data_set_without_boxes_are_refused(experiment):
    from sft_exp.jobs.prepare import prepare

    with pytest.raises(ConfigError, match="no maps with rows and columns"):
        networks(Detect(), MLP())
    with pytest.raises(
        ConfigError, match=r"task=detect: learns from boxes and labels .* coco, voc_detection"
    ):
        prepare(experiment("task=detect", "dataset=digits"))


def test_weights_of_torchvisions_detectors_fit_our_encoders(tmp_path):
    """The backbone of a detector's file, found by its names, and counted."""
    from torchvision.models.detection import FCOS
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    from sft_exp.models import tensor_files, transfer

    torch.manual_seed(0)
    theirs = FCOS(
        resnet_fpn_backbone(backbone_name="resnet18", weights=None, returned_layers=[1, 2, 3, 4]),
        num_classes=91,
    )
    torch.save(theirs.state_dict(), tmp_path / "fcos.pth")
    mine = ResNet(18, "large").build((3, 64, 64))
    report = transfer.transfer(
        mine, *tensor_files.read(tmp_path / "fcos.pth")[:1], tmp_path / "fcos.pth"
    )
    report.check()
    assert torch.equal(mine.layer4[1].conv2.weight, theirs.backbone.body["layer4"][1].conv2.weight)


# From folders to files


def squares(folder, name, n, seed=0, categories=("cell", "nucleus")):
    """n pictures of 90 x 60 pixels with one or two squares each, red ones cells and green ones nuclei, in COCO's layout."""
    rng, images, annotations = stream("squares", name, seed), [], []
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / name).mkdir()
    for i in range(n):
        picture = Image.fromarray(
            torch.randint(0, 60, (60, 90, 3), generator=rng, dtype=torch.uint8).numpy()
        )
        for k in range(1 + i % 2):
            x, y = (
                int(torch.randint(45 * k, 20 + 45 * k, (), generator=rng)),
                int(torch.randint(0, 35, (), generator=rng)),
            )
            ImageDraw.Draw(picture).rectangle(
                (x, y, x + 23, y + 23), fill=(255, 0, 0) if (i + k) % 2 else (0, 255, 0)
            )
            category = 5 if (i + k) % 2 else 9
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": 10 + i,
                    "category_id": category,
                    "bbox": [x, y, 24, 24],
                }
            )
        picture.save(folder / name / f"{i}.png")
        images.append({"id": 10 + i, "file_name": f"{i}.png", "width": 90, "height": 60})
    named = [{"id": 5, "name": categories[0]}, {"id": 9, "name": categories[1]}]
    content = {"images": images, "annotations": annotations, "categories": named}
    (folder / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """COCO's part is played by other squares with other names, as experiment=coco_to_own has it."""
    folder = tmp_path_factory.mktemp("detect")
    squares(folder / "coco", "train2017", 8, categories=("red", "green"))
    squares(folder / "coco", "val2017", 2)
    squares(folder / "own", "train", 24, seed=1)
    squares(folder / "own", "val", 6, seed=2)
    own = [
        f"dataset.root={folder / 'own'}",
        *(f"dataset.{s}=annotations/instances_{n}.json" for s, n in SPLITS),
    ]
    command = [
        "experiment=coco_to_own",
        f"pretrain_dataset.root={folder / 'coco'}",
        *own,
        *TINY,
        f"store={folder / 'store'}",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, command, sft_exp.run(command, folder / "run")


SPLITS = (("train", "train"), ("test", "val"))
TINY = (
    "pretrain_dataset.test=null", "dataset.size=[32,48]", "dataset.workers=0", "pretrain_dataset.workers=0",
    "encoder.channels=[8,16]", "encoder.code=8", "task.strides=[4,8]", "task.width=16", "task.views.crop=[1,1]",
    "pretrain.steps=5", "finetune.steps=80", "optim.lr=5e-3", "labels=75%", "draws=1", "tracker=none", "monitors=false",
    "controls=[scratch]",
)  # fmt: skip


def test_one_command_from_cocos_boxes_to_ones_own(run):
    folder, command, result = run
    assert result["score"] == "map"
    assert result["data"]["labelled"] == 18
    assert {*result["controls"]} == {"scratch"}
    assert result["test"]["map_50"] > 0.5
    assert {"map/cell", "map_50/nucleus", "map_75"} <= {*result["test"]}
    assert "of mAP" in result["verdict"]["text"]
    assert (folder / "run" / "predictions.png").exists()
    again = sft_exp.run([*command, "report=false"], folder / "again")
    assert all(stage["cached"] for stage in again["stages"].values() if stage)
    assert again["test"] == result["test"]


def test_predictions_are_a_coco_json_and_pictures(run, capsys):
    """In pixels of the images; and as results that COCO's evaluation takes, with the ids of another json."""
    from pycocotools.coco import COCO

    from sft_exp.predict import __main__ as predict_command

    folder, _, _ = run
    images, truth = folder / "own" / "val", folder / "own" / "annotations" / "instances_val.json"
    assert (
        predict_command.main([str(folder / "run"), str(images), "--out", str(folder / "out")]) == 0
    )
    found = COCO(folder / "out" / "boxes.json")
    assert {c["name"] for c in found.cats.values()} == {"cell", "nucleus"}
    assert [(i["file_name"], i["width"], i["height"]) for i in found.imgs.values()] == [
        (f"{n}.png", 90, 60) for n in range(6)
    ]
    wanted = COCO(truth)
    for image, other in zip(found.imgs, wanted.imgs, strict=True):
        best = max(found.imgToAnns[image], key=lambda a: a["score"])
        overlaps = [iou(best["bbox"], a["bbox"]) for a in wanted.imgToAnns[other]]
        assert max(overlaps) > 0.4
        with Image.open(folder / "out" / f"{image - 1}-boxes.png") as picture:
            assert picture.size == (90, 60)
    assert (
        predict_command.main(
            [str(folder / "run"), str(images), "--out", str(folder / "like"), "--like", str(truth)]
        )
        == 0
    )
    results = wanted.loadRes(str(folder / "like" / "boxes.json"))
    assert {a["image_id"] for a in results.anns.values()} == {*wanted.imgs}
    assert {a["category_id"] for a in results.anns.values()} <= {5, 9}
    assert capsys.readouterr().out.splitlines()[0] == "file,picture,cell,nucleus"


def iou(a, b):
    corners = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in (a, b)])
    from torchvision.ops import box_iou

    return float(box_iou(corners[:1], corners[1:]))


def test_a_killed_training_of_boxes_ends_in_the_same_bits(plan):
    """20 steps, or 9, a restart and 11, with views drawn for each step."""
    from sft_exp.config.schema import OptimizerConfig
    from sft_exp.data.images import Images
    from sft_exp.training.loop import train
    from sft_exp.training.optim import optimizers_for

    batch = scene(8, 32)
    held = {name: batch[name] for name in ("boxes", "labels", "crowd")}
    images = Images(
        (batch["x"] * 255).to(torch.uint8),
        torch.zeros(8).long(),
        [str(n) for n in range(8)],
        targets=held,
    )
    task, spec = (
        Detect(strides=[8], width=8, views={"crop": [0.5, 1.0]}),
        Spec((3, 32, 32), SPEC.classes),
    )
    ends = []
    for stops in ((20,), (9, 20)):
        nets, start, saved = networks(task, spec=spec), 0, None
        for stop in stops:
            told = plan(nets, 20, stop=stop, batch_size=4)
            optimizers = optimizers_for(
                task, nets, OptimizerConfig("torch.optim.Adam", {"lr": 1e-3}), told.phases
            )
            if saved:
                optimizers["loss"].load_state_dict(saved)
            list(train(task, nets, optimizers, {"labelled": images}, told, CPU, start))
            start, saved = stop, optimizers["loss"].state_dict()
        ends.append(nets.state_dict())
    assert all(torch.equal(ends[0][name], value) for name, value in ends[1].items())
