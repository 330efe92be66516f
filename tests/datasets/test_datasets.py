"""Every data set of conf/ is read in its original layout, and so are other torchvision sets.

The files are tiny and written here after each set's documentation. torchvision compares some files
with checksums of the originals, and only these are replaced.
"""

import bz2
import hashlib
import io
import json
import pickle
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets as tv
from PIL import Image

from sft_exp.config.help_text import options
from sft_exp.datasets.torchvision_set import TorchvisionSet
from sft_exp.datasets.voc_detection import VocDetection
from sft_exp.datasets.voc_segmentation import VocSegmentation
from sft_exp.errors import ConfigError, DataError


def noise(count, *shape):
    return np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)


def md5(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def picture(path, size=(24, 24), seed=0):
    save(path, noise(3 + seed, size[1], size[0], 3)[seed])


def text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


# One writer for each layout: it writes a tiny set and gives (images of train, test and extra, more overrides, the array behind
# train's images in channels-first order or None, train's labels or None).


def idx(folder, prefixes=("train", "t10k"), labels=(0, 1, 2, 1)):
    """http://yann.lecun.com/exdb/mnist: a magic number, the sizes big-endian, the bytes."""
    folder.mkdir(parents=True)
    for prefix, count in zip(prefixes, (4, 3), strict=True):
        x, y = noise(count, 28, 28), np.array(labels[:count], np.uint8)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(
            struct.pack(">4i", 0x803, *x.shape) + x.tobytes()
        )
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(
            struct.pack(">2i", 0x801, count) + y.tobytes()
        )
    return noise(4, 28, 28)[:, None], list(labels)


def mnist_like(name, drawn=False):
    def write(root, _):
        x, y = idx(root / name / "raw")
        return (4, 3, 0), [], None if drawn else x, y

    return write


def cifar(kind, folder, key, names):
    """https://www.cs.toronto.edu/~kriz/cifar.html: pickled dicts, a row of 3,072 bytes an image, red plane first."""

    def write(root, monkeypatch):
        top = root / folder
        top.mkdir(parents=True)
        files = [
            (name, part) for part in ("train_list", "test_list") for name, _ in getattr(kind, part)
        ]
        sums, x, y = {"train_list": [], "test_list": []}, [], []
        for n, (name, part) in enumerate(files):
            rows = noise(3 + n, 3072)
            labels = [(n + k) % 3 for k in range(len(rows))]
            (top / name).write_bytes(pickle.dumps({"data": rows, key: labels}))
            sums[part].append([name, md5(top / name)])
            if part == "train_list":
                x, y = [*x, rows], [*y, *labels]
        meta = dict(kind.meta)
        (top / meta["filename"]).write_bytes(pickle.dumps({meta["key"]: names}))
        monkeypatch.setattr(kind, "meta", {**meta, "md5": md5(top / meta["filename"])})
        for part, found in sums.items():
            monkeypatch.setattr(kind, part, found)
        return (len(y), 2 + len(files), 0), [], np.concatenate(x).reshape(-1, 3, 32, 32), y

    return write


def stl10(root, monkeypatch):
    """https://cs.stanford.edu/~acoates/stl10: uint8, column-major in each channel; labels from 1."""
    top = root / "stl10_binary"
    top.mkdir(parents=True)
    x = {
        "train": noise(4, 3, 96, 96),
        "test": noise(3, 3, 96, 96),
        "unlabeled": noise(5, 3, 96, 96),
    }
    for name, images in x.items():
        (top / f"{name}_X.bin").write_bytes(images.transpose(0, 1, 3, 2).tobytes())
    (top / "train_y.bin").write_bytes(bytes([1, 2, 3, 2]))
    (top / "test_y.bin").write_bytes(bytes([1, 2, 3]))
    text(top / "class_names.txt", "airplane", "bird", "car")
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(
            tv.STL10, part, [[name, md5(top / name)] for name, _ in getattr(tv.STL10, part)]
        )
    return (4, 3, 5), [], x["train"], [0, 1, 2, 1]


def svhn(root, monkeypatch):
    """http://ufldl.stanford.edu/housenumbers: X [32, 32, 3, N], y [N, 1], where 10 is the digit 0."""
    from scipy.io import savemat

    root.mkdir(parents=True, exist_ok=True)
    table = {}
    for part, (url, name, _) in tv.SVHN.split_list.items():
        x = noise(3 if part == "test" else 4, 32, 32, 3)
        savemat(
            root / name,
            {
                "X": x.transpose(1, 2, 3, 0),
                "y": np.array([[10], [1], [2], [1]][: len(x)], np.uint8),
            },
        )
        table[part] = [url, name, md5(root / name)]
    monkeypatch.setattr(tv.SVHN, "split_list", table)
    return (4, 3, 0), [], noise(4, 32, 32, 3).transpose(0, 3, 1, 2), [0, 1, 2, 1]


def gtsrb(root, _):
    """https://benchmark.ini.rub.de: PPMs in folders by class, and a CSV with semicolons for those of the test."""
    top = root / "gtsrb"
    for n in range(4):
        picture(top / "GTSRB" / "Training" / f"{n % 2:05d}" / f"{n:05d}.ppm", (20 + n, 24), n)
    for n in range(2):
        picture(top / "GTSRB" / "Final_Test" / "Images" / f"{n:05d}.ppm", (31, 20 + n), n)
    head = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
    text(top / "GT-final_test.csv", head, "00000.ppm;31;20;1;1;9;9;1", "00001.ppm;31;21;1;1;9;9;0")
    return (4, 2, 0), ["name=GTSRB"], None, [0, 0, 1, 1]


def classes_in_folders(root, _):
    for n in range(4):
        picture(root / ("cat", "dog")[n % 2] / f"{n}.png", seed=n)
    return (4, None, 0), ["size=16"], None, [0, 0, 1, 1]


def imagenet(root, _):
    for n in range(6):
        picture(
            root
            / ("train" if n < 4 else "val")
            / ("n01440764", "n01443537")[n % 2]
            / f"n_{n}.JPEG",
            seed=n,
        )
    return (4, 2, 0), ["size=16", "workers=0"], None, [0, 0, 1, 1]


def webdataset(root, _):
    """https://github.com/webdataset/webdataset: members of one sample share their name up to the first dot."""
    root.mkdir(parents=True)
    for name, count in (("train-000.tar", 4), ("test-000.tar", 2)):
        with tarfile.open(root / name, "w") as tar:
            for n in range(count):
                file = io.BytesIO()
                Image.fromarray(noise(9, 16, 16, 3)[n + count]).save(file, "PNG")
                for suffix, content in (("cls", str(n % 2).encode()), ("png", file.getvalue())):
                    member = tarfile.TarInfo(f"{n:04d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return (4, 2, 0), ["size=16", "workers=0"], None, [0, 1, 0, 1]


def masked(path, mask_path, seed, value=1):
    picture(path, (32, 32), seed)
    mask = np.zeros((32, 32), np.uint8)
    mask[8:24, 8 + seed : 24] = value
    save(mask_path, mask)


def mask_folder(root, _):
    for n in range(4):
        masked(root / "images" / f"{n}.png", root / "masks" / f"{n}.png", n)
    return (4, None, 0), ["size=32"], None, None


def cityscapes(root, _):
    """cityscapesScripts: <city>_<sequence>_<frame>_leftImg8bit.png, and _gtFine_labelIds.png.

    In these 26 is a car and 7 the road."""
    for n, part in enumerate(("train", "train", "val", "train_extra")):
        place, name = Path(part) / "aachen", f"aachen_{n:06d}_000019"
        picture(root / "leftImg8bit" / place / f"{name}_leftImg8bit.png", (32, 32), n)
        labels = root / "gtFine" / place / f"{name}_gtFine_labelIds.png"
        masked(root / "unused" / f"{n}.png", labels, n, 26)
        save(labels, np.where(np.array(Image.open(labels)) == 26, 26, 7).astype(np.uint8))
    return (2, 1, 1), ["size=32"], None, None


def oxford_pets(root, _):
    """https://www.robots.ox.ac.uk/~vgg/data/pets: `name class species breed` a line; trimaps of 1, 2, 3."""
    names = ["Abyssinian_1", "beagle_1", "Abyssinian_2", "beagle_2"]
    for n, name in enumerate(names):
        masked(root / "images" / f"{name}.jpg", root / "annotations" / "trimaps" / f"{name}.png", n)
        trimap = np.array(Image.open(root / "annotations" / "trimaps" / f"{name}.png"))
        save(
            root / "annotations" / "trimaps" / f"{name}.png",
            np.where(trimap == 1, 1, 2).astype(np.uint8),
        )
    text(
        root / "annotations" / "trainval.txt", *(f"{n} {1 + (n[0] == 'b')} 1 1" for n in names[:3])
    )
    text(root / "annotations" / "test.txt", "beagle_2 2 2 1")
    return (3, 1, 0), ["size=32"], None, None


def voc(root, years=("2012",), value=15):
    """VOC's development kit: names in ImageSets, masks of class numbers, XML with boxes that count from 1."""
    for year in years:
        top = root / "VOCdevkit" / f"VOC{year}"
        for n in range(3):
            masked(
                top / "JPEGImages" / f"{year}_{n}.jpg",
                top / "SegmentationClass" / f"{year}_{n}.png",
                n,
                value,
            )
            box = "<xmin>9</xmin><ymin>9</ymin><xmax>24</xmax><ymax>24</ymax>"
            thing = f"<object><name>person</name><difficult>0</difficult><bndbox>{box}</bndbox></object>"
            text(top / "Annotations" / f"{year}_{n}.xml", f"<annotation>{thing}</annotation>")
        for kind in ("Main", "Segmentation"):
            text(top / "ImageSets" / kind / "train.txt", f"{year}_0", f"{year}_1")
            text(top / "ImageSets" / kind / "val.txt", f"{year}_2")
    return (2, 1, 0), ["size=32", "workers=0"], None, None


def nuclei(root, _):
    return voc(root, ("2007",), 1)


def coco(root, _):
    """https://cocodataset.org/#format-data."""
    for part, count in (("train2017", 2), ("val2017", 1)):
        images = [
            {"id": n, "file_name": f"{part}{n}.jpg", "width": 32, "height": 32}
            for n in range(count)
        ]
        for image in images:
            picture(
                root / part / image["file_name"], (32, 32), image["id"] + (part == "val2017") * 5
            )
        boxes = [
            {
                "id": n,
                "image_id": n,
                "category_id": 18,
                "bbox": [4, 4, 9, 9],
                "area": 81,
                "iscrowd": 0,
            }
            for n in range(count)
        ]
        content = {
            "images": images,
            "annotations": boxes,
            "categories": [{"id": 18, "name": "dog"}],
        }
        text(root / "annotations" / f"instances_{part}.json", json.dumps(content))
    return (2, 1, 0), ["size=32", "workers=0"], None, None


def polygons(root, monkeypatch):
    """As COCO, with the outline of each object: https://cocodataset.org/#format-data."""
    layout = coco(root, monkeypatch)
    for file in (root / "annotations").iterdir():
        content = json.loads(file.read_text())
        for annotation in content["annotations"]:
            annotation["segmentation"] = [[4, 4, 13, 4, 13, 13, 4, 13]]
        file.write_text(json.dumps(content))
    return layout


def number_table(root, _):
    for n in range(4):
        picture(root / f"{n}.png", seed=n)
    text(root / "t.csv", "file,target", *(f"{n}.png,{n / 2}" for n in range(4)))
    return (4, None, 0), ["size=16", f"table={root / 't.csv'}"], None, None


def multilabel_table(root, _):
    for n in range(4):
        picture(root / f"{n}.png", seed=n)
    text(root / "t.csv", "file,labels", "0.png,cat;dog", "1.png,dog", "2.png,none", "3.png,")
    return (3, None, 1), ["size=16", f"table={root / 't.csv'}"], None, None


LAYOUTS = {
    "mnist": mnist_like("MNIST"),
    "binary_mnist": mnist_like("MNIST", drawn=True),
    "fashion_mnist": mnist_like("FashionMNIST"),
    "kmnist": mnist_like("KMNIST"),
    "cifar10": cifar(
        tv.CIFAR10, "cifar-10-batches-py", "labels", ["airplane", "automobile", "bird"]
    ),
    "cifar100": cifar(
        tv.CIFAR100, "cifar-100-python", "fine_labels", ["apple", "aquarium_fish", "baby"]
    ),
    "stl10": stl10,
    "svhn": svhn,
    "torchvision": gtsrb,
    "image_folder": classes_in_folders,
    "imagenet": imagenet,
    "webdataset": webdataset,
    "mask_folder": mask_folder,
    "cityscapes": cityscapes,
    "oxford_pets": oxford_pets,
    "voc_segmentation": lambda root, _: voc(root),
    "voc_detection": lambda root, _: voc(root),
    "nuclei": nuclei,
    "coco": coco,
    "boxes": coco,
    "polygons": polygons,
    "number_table": number_table,
    "multilabel_table": multilabel_table,
    "digits": lambda *_: ((1297, 500, 0), [], None, None),
    "digit_pairs": lambda *_: ((20, 5, 0), ["train=20", "test=5"], None, None),
}


# what differs as a second data set; the others are read by the same class
SECOND = ("imagenet", "webdataset", "image_folder")


@pytest.mark.parametrize(
    ("group", "option"),
    [
        pytest.param(g, o, marks=() if g == "dataset" or o in SECOND else pytest.mark.slow)
        for g in ("dataset", "pretrain_dataset")
        for o in options(g)
    ],
)
def test_every_option_is_read_in_its_own_layout(group, option, tmp_path, monkeypatch, experiment):
    root = tmp_path / "there"
    counts, more, pixels, labels = LAYOUTS[option](root, monkeypatch)
    made = experiment(f"{group}={option}", *(f"{group}.{m}" for m in more))
    data = getattr(made, group)
    if hasattr(data, "root"):
        data.root = str(root)
    data.download = False
    if group == "pretrain_dataset" and option in ("imagenet", "webdataset"):
        counts = (*counts[:1], None, 0)  # nothing is tested there
    corpus = data.load()
    found = [
        None if part is None else len(part) for part in (corpus.train, corpus.test, corpus.extra)
    ]
    assert found == [counts[0], counts[1], counts[2] or None]
    assert tuple(corpus.train.raw(0).shape) == corpus.image
    if pixels is not None:
        assert torch.equal(corpus.train.x, torch.from_numpy(pixels.copy()))
    if labels is not None:
        assert corpus.train.y.tolist() == labels
        assert len(corpus.classes) == 1 + max(labels)
    if corpus.extra is not None:
        assert set(corpus.extra.y.tolist()) == {-1}


# Any other set of torchvision


def emnist(root, _):
    """https://www.nist.gov/itl/products-and-services/emnist-dataset: MNIST's format; letters are numbered from 1."""
    x, _ = idx(
        root / "EMNIST" / "raw", ("emnist-letters-train", "emnist-letters-test"), (1, 2, 3, 2)
    )
    return {"options": {"split": "letters"}}, (4, 3), ("a", "b", "c"), x


def usps(root, _):
    """LIBSVM's format: labels from 1, values from -1 to 1."""
    root.mkdir(parents=True)
    lines = [
        " ".join([str(1 + n % 2), *(f"{k}:{(k % 3) - 1}.0" for k in range(1, 257))])
        for n in range(4)
    ]
    for name in ("usps.bz2", "usps.t.bz2"):
        (root / name).write_bytes(bz2.compress("\n".join(lines).encode() + b"\n"))
    return {}, (4, 4), ("0", "1"), None


def dtd(root, _):
    top = root / "dtd" / "dtd"
    for part in ("train", "val", "test"):
        names = [f"{kind}/{kind}_{part}.jpg" for kind in ("banded", "dotted")]
        for n, name in enumerate(names):
            picture(top / "images" / name, (30 + n, 40), n)
        text(top / "labels" / f"{part}1.txt", *names)
    return {"size": 16}, (2, 2), ("banded", "dotted"), None


def food(root, _):
    for part in ("train", "test"):
        names = {kind: [f"{kind}/{part}"] for kind in ("pie", "soup")}
        for n, (name,) in enumerate(names.values()):
            picture(root / "food-101" / "images" / f"{name}.jpg", (30 + n, 40), n)
        text(root / "food-101" / "meta" / f"{part}.json", json.dumps(names))
    return {"size": [12, 16]}, (2, 2), ("pie", "soup"), None


def flowers(root, monkeypatch):
    from scipy.io import savemat

    top = root / "flowers-102"
    for n in range(1, 7):
        picture(top / "jpg" / f"image_{n:05d}.jpg", (30 + n, 40), n)
    savemat(top / "imagelabels.mat", {"labels": np.array([[1, 2, 1, 2, 1, 2]])})
    savemat(
        top / "setid.mat",
        {"trnid": np.array([[1, 2]]), "valid": np.array([[3, 4]]), "tstid": np.array([[5, 6]])},
    )
    known = {"label": "imagelabels.mat", "setid": "setid.mat", "image": None}
    table = {key: (name, name and md5(top / name)) for key, name in known.items()}
    monkeypatch.setattr(tv.Flowers102, "_file_dict", table)
    return {}, (2, 2), None, None


def eurosat(root, _):
    for n in range(4):
        picture(root / "eurosat" / "2750" / ("Forest", "River")[n % 2] / f"{n}.jpg", (64, 64), n)
    return {}, (4, None), ("Forest", "River"), None


def country(root, _):
    for n, part in enumerate(("train", "valid", "test")):
        for kind in ("AD", "AE"):
            picture(root / "country211" / part / kind / f"{n}.jpg", (30, 40), n)
    return {}, (2, 2), ("AD", "AE"), None


def pets(root, _):
    top = root / "oxford-iiit-pet"
    oxford_pets(top, None)
    return {}, (3, 1), ("Abyssinian", "Beagle"), None


def fake(root, _):
    return (
        {"options": {"size": 12, "image_size": [3, 20, 20], "num_classes": 3}},
        (12, None),
        ("0", "1", "2"),
        None,
    )


OTHERS = {
    "EMNIST": emnist, "USPS": usps, "GTSRB": lambda root, m: ({}, (4, 2), ("0", "1"), gtsrb(root, m)[2]), "DTD": dtd,
    "Food101": food, "Flowers102": flowers, "EuroSAT": eurosat, "Country211": country, "OxfordIIITPet": pets, "FakeData": fake,
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_set_of_torchvision_is_read(name, tmp_path, monkeypatch):
    more, counts, classes, pixels = OTHERS[name](tmp_path / "there", monkeypatch)
    held = TorchvisionSet(name=name, root=str(tmp_path / "there"), download=False, **more).load()
    assert (len(held.train), None if held.test is None else len(held.test)) == counts
    assert classes is None or held.classes == classes
    assert held.train.y.min() == 0
    if pixels is not None:
        assert torch.equal(held.train.x, torch.from_numpy(pixels))
    streamed = TorchvisionSet(
        name=name, root=str(tmp_path / "there"), download=False, memory=0, workers=0, **more
    ).load()
    train = pickle.loads(pickle.dumps(streamed.train))  # noqa: S301 - workers are not forked everywhere
    assert torch.equal(torch.stack([train.raw(n) for n in range(len(train))]), held.train.x)
    assert streamed.fingerprint
    assert streamed.train.y.tolist() == held.train.y.tolist()


def test_a_set_by_its_own_target(tmp_path, experiment):
    """As Hydra's users write it: the class of torchvision, and its own arguments beside it."""
    gtsrb(tmp_path / "there", None)
    made = experiment(
        "dataset=torchvision",
        "dataset._target_=torchvision.datasets.GTSRB",
        f"dataset.root={tmp_path / 'there'}",
    )
    assert len(made.dataset.load().train) == 4
    made = experiment(
        "dataset=torchvision",
        "dataset._target_=torchvision.datasets.FakeData",
        "+dataset.num_classes=2",
    )
    assert made.dataset.options == {"num_classes": 2}
    made = experiment(
        "dataset=torchvision", "dataset.name=FakeData", "dataset.options.size=7", "dataset.size=8"
    )
    assert len(made.dataset.load().train) == 7


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"name": "FakeData", "options": {"colour": 1}},
            ["options.colour=1", "FakeData takes no such argument", "num_classes"],
        ),
        (
            {"name": "FakeData", "options": {"transform": 1}},
            ["options.transform=1", "takes no such argument"],
        ),
        (
            {"name": "FakeData", "test": {"train": False}},
            ["test.train=False", "takes no such argument"],
        ),
        (
            {"name": "MNIST", "train": {"split": "train"}},
            ["train.split=train", "MNIST takes no such argument; valid: train"],
        ),
        ({"name": "EMNIST"}, ["EMNIST needs split", "dataset.options={split: ...}"]),
        ({"name": "EMNIST", "options": {"split": "runes"}}, ["'runes'", "letters"]),
        (
            {"name": "DTD", "train": {"split": "exam"}},
            ["train={'split': 'exam'}", "Valid values are", "val"],
        ),
        ({"name": "mnist"}, ["name=mnist", "torchvision.datasets"]),
        (
            {"name": "VOCDetection", "test": {"image_set": "val"}},
            ["VOCDetection", "and not one class for each image"],
        ),
        ({"train": True}, ["train=True", "arguments of the set by name"]),
        ({"size": 0}, ["size=0", "pixels"]),
        ({"name": "FakeData", "options": {"size": 4}, "classes": ["a"]}, ["classes=['a']"]),
    ],
    ids=str,
)
def test_arguments_that_a_set_does_not_take_are_refused(given, words, tmp_path):
    voc(tmp_path / "there")
    with pytest.raises(ConfigError) as told:
        TorchvisionSet(**{"root": str(tmp_path / "there"), "download": False, **given}).load()
    assert not [word for word in words if word not in str(told.value)], told.value


def test_damaged_files_are_a_data_error(tmp_path):
    idx(tmp_path / "MNIST" / "raw")
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03")
    with pytest.raises(DataError, match="no complete MNIST"):
        TorchvisionSet(root=str(tmp_path), download=False).load()
    gtsrb(tmp_path, None)
    next((tmp_path / "gtsrb").rglob("*.ppm")).write_bytes(b"P6")
    with pytest.raises(DataError, match="GTSRB: image"):
        TorchvisionSet(name="GTSRB", root=str(tmp_path), download=False).load()


@pytest.mark.parametrize("name", ["MNIST", "CIFAR10", "SVHN"])
def test_a_download_that_fails_leaves_no_folder(name, tmp_path, monkeypatch):
    """torchvision makes its folders before it asks the network, which is absent here."""

    def absent(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", absent)
    (tmp_path / "there").mkdir()
    for folder in ("new", "new/sub", "there"):
        with pytest.raises(DataError, match="could not be downloaded there either"):
            TorchvisionSet(name=name, root=str(tmp_path / folder)).load()
        assert [p.name for p in tmp_path.iterdir()] == ["there"]


# VOC's folder, whichever of the three its root is


@pytest.mark.parametrize("kind", [VocSegmentation, VocDetection])
def test_vocs_root_is_any_of_three_folders(kind, tmp_path):
    def read(root, **options):
        return kind(root=str(root), size=32, workers=0, **options).load()

    voc(tmp_path, ("2012",))
    prints = {
        read(root).fingerprint
        for root in (tmp_path, tmp_path / "VOCdevkit", tmp_path / "VOCdevkit" / "VOC2012")
    }
    assert len(prints) == 1
    with pytest.raises(DataError, match=r"dataset\.year=1999 is not there; there: 2012"):
        read(tmp_path, year="1999")
    voc(tmp_path, ("2007",))
    assert read(tmp_path, year="2007").train.ids[0].startswith("2007_")
    with pytest.raises(DataError, match=r"several years.*dataset\.year=2007 or 2012"):
        read(tmp_path)
    with pytest.raises(DataError, match="there: 2007, 2012"):
        read(tmp_path / "VOCdevkit", year="2010")
    shutil.copytree(tmp_path / "VOCdevkit" / "VOC2012", tmp_path / "VOC2012")
    with pytest.raises(
        DataError, match=r"several folders fit, name one as dataset\.root: .*VOC2012"
    ):
        read(tmp_path, year="2012")
    (tmp_path / "VOCdevkit" / "VOC2012").rename(tmp_path / "mine")
    assert len(read(tmp_path / "mine").train) == 2
