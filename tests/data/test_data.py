"""Batches: equal numbers from memory and from disk, in an order that depends on the step alone."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from sft_exp.core.rng import stream
from sft_exp.data.corpus import Corpus, fingerprint
from sft_exp.data.decode import decode
from sft_exp.data.images import Images
from sft_exp.data.order import rows_of_step
from sft_exp.datasets.digits import Digits
from sft_exp.datasets.torchvision_set import TorchvisionSet
from sft_exp.errors import ConfigError, DataError

CPU = torch.device("cpu")
X = torch.randint(256, (30, 2, 5, 4), dtype=torch.uint8, generator=stream("x"))
Y = torch.arange(30) % 3


class Decode:
    """Images as a data set on disk has them; some of its files are broken."""

    broken = ()

    def __call__(self, row):
        if row in self.broken:
            raise DataError(f"{row}.png: is empty")
        return X[row]


def held(**changes):
    return Images(
        **{
            "x": X,
            "y": Y,
            "ids": [f"i{n}" for n in range(30)],
            "groups": [f"g{n // 5}" for n in range(30)],
        }
        | changes
    )


def streamed(workers):
    return held(x=Decode(), workers=workers)


# The order of rows


@pytest.mark.parametrize(("n", "size"), [(30, 10), (30, 7), (31, 30), (5, 1)])
def test_an_epoch_is_every_row_once_but_for_what_fills_no_batch(n, size):
    per_epoch = n // size
    epochs = [
        torch.cat([rows_of_step(n, size, e * per_epoch + i, 0, "p") for i in range(per_epoch)])
        for e in range(4)
    ]
    for rows in epochs:
        assert len(rows) == per_epoch * size
        assert len(set(rows.tolist())) == len(rows)
        assert set(rows.tolist()) <= set(range(n))
    assert len({tuple(rows.tolist()) for rows in epochs}) == 4, "each epoch in its own order"


@pytest.mark.parametrize("size", [30, 31, 1000])
def test_a_batch_as_large_as_the_set_is_the_set(size):
    assert rows_of_step(30, size, 17, 0).tolist() == list(range(30))


def test_rows_are_a_function_of_name_and_step():
    """Asked in any order; other names, other orders."""
    there = [rows_of_step(30, 10, t, 0, "pool").tolist() for t in range(9)]
    back = [rows_of_step(30, 10, t, 0, "pool").tolist() for t in reversed(range(9))]
    assert there == back[::-1]
    assert rows_of_step(30, 10, 0, 1, "pool").tolist() != there[0]
    assert rows_of_step(30, 10, 0, 0, "labelled").tolist() != there[0]


# Batches


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("view", [None, torch.tensor([9, 3, 3, 29, 0, 14])])
def test_batches_from_disk_are_those_from_memory(workers, view):
    memory, disk = held(), streamed(workers)
    if view is not None:
        memory, disk = memory.at(view), disk.at(view)
    rows = [torch.tensor([0, 5, 2]), torch.tensor([4]), torch.tensor([1, 1, 3, 5])]
    for a, b in zip(memory.batches(iter(rows), CPU), disk.batches(iter(rows), CPU), strict=True):
        assert torch.equal(a["x"], b["x"])
        assert torch.equal(a["y"], b["y"])
        assert torch.equal(a["row"], b["row"])


def test_a_batch_is_floats_from_0_to_1_with_labels_and_rows():
    (batch,) = held().at(torch.arange(10, 20)).batches([torch.tensor([3, 0])], CPU)
    assert batch["x"].dtype == torch.float32
    assert torch.equal(batch["x"], X[[13, 10]].float() / 255)
    assert batch["y"].tolist() == [1, 1]
    assert batch["row"].tolist() == [3, 0]
    (white,) = held(x=torch.full_like(X, 255)).batches([torch.tensor([0])], CPU)
    assert (white["x"] == 1).all()


def test_features_pass_as_they_are():
    f_ND = torch.randn(30, 7, generator=stream("f"))
    (batch,) = held(x=f_ND).batches([torch.tensor([4, 2])], CPU)
    assert torch.equal(batch["x"], f_ND[[4, 2]])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_is_named_where_its_batch_is_due(workers):
    """Not wrapped in a worker's traceback, and not before the batches ahead of it were used."""
    images = streamed(workers)
    images.x.broken = (7,)
    batches = images.batches([torch.tensor([1, 2]), torch.tensor([3]), torch.tensor([6, 7])], CPU)
    assert torch.equal(next(batches)["x"], X[[1, 2]].float() / 255)
    assert len(next(batches)["x"]) == 1
    with pytest.raises(DataError, match=r"^7.png: is empty$"):
        next(batches)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2])
def test_reading_takes_nothing_from_the_global_stream(workers):
    state = torch.get_rng_state()
    list(streamed(workers).batches([torch.arange(4)], CPU))
    assert torch.equal(state, torch.get_rng_state())


# Views


@pytest.mark.parametrize("images", [held(), streamed(0)])
def test_a_view_of_a_view_is_the_images_at_those_rows(images):
    view = images.at(torch.arange(5, 25)).at(torch.tensor([3, 0, 19]))
    assert len(view) == 3
    assert view.ids == ["i8", "i5", "i24"]
    assert view.groups == ["g1", "g1", "g4"]
    assert view.y.tolist() == [2, 2, 0]
    assert torch.equal(view.raw(2), X[24])
    assert torch.equal(view.floats(torch.tensor([1, 0]), CPU), X[[5, 8]].float() / 255)
    assert view.x is images.x, "nothing is copied"


def test_moving_a_view_moves_what_it_shows_and_no_more():
    moved = held().at(torch.tensor([3, 9])).to(CPU)
    assert torch.equal(moved.floats(torch.arange(2), CPU), X[[3, 9]].float() / 255)
    assert moved.ids == ["i3", "i9"]
    assert len(moved.x) == 2


def test_many_images_as_one_tensor():
    x = X[torch.arange(3000) % 30]
    images = Images(x, torch.zeros(3000), [""] * 3000)
    assert torch.equal(images.floats(torch.arange(3000), CPU), x.float() / 255)


# The fingerprint


def changed_pixel():
    x = X.clone()
    x[29, 1, 4, 3] ^= 1
    return x


@pytest.mark.parametrize(
    "other",
    [
        (held(x=changed_pixel()), None),
        (held(y=(Y + 1) % 3), None),
        (held(x=X.permute(0, 1, 3, 2).contiguous()), None),
        (held(x=X.reshape(30, 2, 4, 5)), None),
        (held(x=X.flip(0)), None),
        (held(groups=None), None),
        (held(), held()),
        (None, held()),
        (held().at(torch.arange(30).flip(0)), None),
        (held().at(torch.arange(29)), None),
    ],
)
def test_any_change_of_the_content_changes_the_fingerprint(other):
    assert fingerprint(*other) != fingerprint(held(), None)


def test_the_fingerprint_is_of_the_content_alone():
    """However it is held."""
    assert (
        fingerprint(held())
        == fingerprint(held(x=X.clone(), workers=3))
        == fingerprint(held().at(torch.arange(30)))
    )


# Files


def encoded(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I"]


@pytest.mark.parametrize("image", [(1, 6, 6), (3, 6, 6), (3, 5, 9)])
@pytest.mark.parametrize("size", [(6, 6), (1, 1), (7, 300), (300, 7), (13, 11)])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_and_size_becomes_the_wanted_one(mode, size, image):
    kind = {"YCbCr": "JPEG", "CMYK": "JPEG"}.get(mode, "TIFF")
    found = decode(encoded(Image.new(mode, size), kind), image)
    assert found.shape == image
    assert found.dtype == torch.uint8


@pytest.mark.parametrize(
    ("mode", "white"),
    [("1", 1), ("L", 255), ("RGB", (255, 255, 255)), ("I;16", 65535), ("I", 65535)],
)
def test_white_stays_white_and_grey_grey(mode, white):
    """16 bits a pixel are scaled and not clipped."""
    kind = "TIFF" if mode == "I" else "PNG"
    assert (decode(encoded(Image.new(mode, (4, 4), white), kind), (1, 4, 4)) == 255).all()
    if mode.startswith("I"):
        assert (decode(encoded(Image.new(mode, (4, 4), 128 * 256), kind), (3, 4, 4)) == 128).all()


def test_pixels_of_the_right_size_are_kept_to_the_bit():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    found = decode(encoded(Image.fromarray(pixels)), (3, 5, 7))
    assert torch.equal(found, torch.from_numpy(pixels).permute(2, 0, 1))


def test_proportions_are_kept_by_cropping_at_the_centre():
    """A wide picture, black with a white middle, becomes white; it is not squeezed."""
    picture = Image.new("L", (40, 10))
    picture.paste(255, (14, 0, 26, 10))
    assert (decode(encoded(picture), (1, 10, 10)) == 255).all()


def test_pictures_are_turned_as_their_camera_says():
    picture, exif = Image.new("L", (6, 4)), Image.Exif()
    picture.putpixel((0, 0), 255)
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    found = decode(encoded(picture, exif=exif), (1, 6, 4))
    assert found[0, 0, 3] == 255
    assert found.sum() == 255


def test_a_large_jpeg_is_what_it_would_be_decoded_whole():
    """It is decoded at a fraction of its size, which is ten times faster, and within rounding the same picture."""
    ramp = np.broadcast_to(np.linspace(0, 255, 1024, dtype=np.uint8), (1024, 1024))
    whole = np.asarray(
        Image.fromarray(ramp.copy()).resize((16, 16), Image.Resampling.BILINEAR)
    ).astype(int)
    found = (
        decode(encoded(Image.fromarray(ramp.copy()), "JPEG", quality=95), (1, 16, 16))[0]
        .numpy()
        .astype(int)
    )
    assert np.abs(found - whole).max() <= 4


PNG = encoded(Image.new("RGB", (64, 64), "red"))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"hello", "is no image"),
        (PNG[:70], "cannot be decoded"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "is no image"),
    ],
)
def test_a_broken_file_says_what_is_wrong(content, why):
    with pytest.raises(DataError, match=why):
        decode(content, (3, 8, 8))


def test_floating_point_pixels_are_refused():
    with pytest.raises(DataError, match="no known range"):
        decode(encoded(Image.new("F", (4, 4)), "TIFF"), (1, 4, 4))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("most", [3000, 100])
def test_a_decompression_bomb_is_refused(monkeypatch, most):
    """Also where Pillow only warns."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    with pytest.raises(DataError, match="pixels"):
        decode(PNG, (3, 8, 8))


# The data sets that come with the project


def test_digits_are_split_by_blocks_of_writers(digits):
    """File order: a random split would put the same writers on both sides."""
    assert (len(digits.train), len(digits.test)) == (1297, 500)
    assert digits.train.ids + digits.test.ids == [f"{n:04d}" for n in range(1797)]
    assert digits.train.x.max() == 255
    assert digits.spec.classes == tuple("0123456789")
    assert Digits(test=300).load().fingerprint != digits.fingerprint


def test_mnist_as_torchvision_stores_it(shared_data):
    corpus = TorchvisionSet(root=str(shared_data / "mnist"), download=False).load()
    assert isinstance(corpus, Corpus)
    assert (len(corpus.train), len(corpus.test), corpus.extra, corpus.image) == (
        60000,
        10000,
        None,
        (1, 28, 28),
    )
    assert torch.bincount(corpus.train.y).tolist() == [
        5923,
        6742,
        5958,
        6131,
        5842,
        5421,
        5918,
        6265,
        5851,
        5949,
    ]
    assert corpus.train.x.float().mean() / 255 == pytest.approx(0.13066, abs=1e-5)
    assert len({*corpus.train.ids, *corpus.test.ids}) == 70000


def test_a_torchvision_set_that_is_not_there_says_where_and_what_would_help(tmp_path):
    with pytest.raises(DataError, match=r"dataset.root=.*no complete MNIST.*dataset.download=true"):
        TorchvisionSet(root=str(tmp_path), download=False).load()
    with pytest.raises(ConfigError, match=r"name=MNISTT: .*torchvision.datasets"):
        TorchvisionSet(name="MNISTT").load()


def test_colour_images_are_turned_to_channels_first(monkeypatch):
    """torchvision holds CIFAR as [N, H, W, C] and STL as [N, C, H, W]; names come from the set, the config, or by counting."""
    import torchvision.datasets

    class Fake(torchvision.datasets.VisionDataset):
        def __init__(self, root, download, data=None):
            self.data, self.labels = data, [0, 2]

        def __len__(self):
            return len(self.data)

    rows = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    monkeypatch.setattr(torchvision.datasets, "Fake", Fake, raising=False)
    last, first = (
        TorchvisionSet(name="Fake", train={"data": d}, test={"data": d}).load()
        for d in (rows, rows.transpose(0, 3, 1, 2).copy())
    )
    assert last.image == first.image == (3, 5, 4)
    assert torch.equal(last.train.x, first.train.x)
    assert torch.equal(last.train.x[1, 2], torch.from_numpy(rows[1, :, :, 2]))
    assert last.classes == ("0", "2")
    assert last.train.y.tolist() == [0, 1]
