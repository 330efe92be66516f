"""Files of images as people and programs leave them: read, refused with the way out, or warned of."""

import io
import struct

import numpy as np
import pytest
from found_inputs import ROOT, classes, folder, noise, warnings, write
from pictures import save
from PIL import Image

from sft_exp.errors import DataError

each = pytest.mark.parametrize


# Files that are left out, or are no images


@each(
    ("name", "form"), [("x", "PNG"), ("x.jpg?w=200", "JPEG"), ("x.png.1", "PNG"), ("x.nef", "TIFF")]
)
def test_images_without_an_image_s_name_are_counted(name, form):
    classes()
    save(ROOT / "a" / name, noise(77), format=form)
    write(ROOT / "a/notes.txt", "mine")
    assert "1 files hold images and are left out" in warnings(folder())


@each(
    ("name", "start"),
    [
        ("x.jxl", b"\xff\x0a"),
        ("x.jxl", b"\0\0\0\x0cJXL \r\n\x87\n"),
        ("x.cr3", b"\0\0\0\x18ftypcrx "),
        ("x.raf", b"FUJIFILMCCD-RAW "),
        ("x.rw2", b"IIU\0\x18\0\0\0"),
    ],
)
def test_photographs_in_formats_that_are_not_read_are_counted(name, start):
    """ISO/IEC 18181-2, section 9; the makers' raw files as libraw.org lists them."""
    classes()
    write(ROOT / "a" / name, start + bytes(300))
    assert (
        f"1 files hold images and are left out, as their suffix is of no format that is read (1 {name[1:]})"
        in warnings(folder())
    )


@each(
    ("content", "words"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "`git lfs pull` fetches it"),
        ("\n<!DOCTYPE html><html>404</html>", "is a web page"),
        (b"\0" * 500, "holds zeros alone"),
        ("", "is empty"),
    ],
)
def test_what_is_there_in_place_of_an_image_is_said(content, words):
    classes()
    write(ROOT / "a/x.jpg", content)
    with pytest.raises(DataError, match=rf"a/x\.jpg: .*{words}"):
        folder()


@each("deep", [np.uint8, np.uint16])
def test_white_is_zero_in_tiff_files_of_any_depth(deep):
    """TIFF 6.0, tag PhotometricInterpretation: 0 = the value 0 is white."""
    most = np.iinfo(deep).max
    for n in range(8):
        pixels = np.random.default_rng(n).integers(0, most, (8, 8)).astype(deep)
        pixels[0, :2] = 0, most
        data, bits = pixels.tobytes(), 8 * deep().itemsize
        tags = {256: 8, 257: 8, 258: bits, 259: 1, 262: 0, 273: 8, 277: 1, 278: 8, 279: len(data)}
        rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        head = b"II*\0" + struct.pack("<I", 8 + len(data))
        write(
            ROOT / f"{'ab'[n % 2]}/{n}.tif",
            head + data + struct.pack("<H", len(tags)) + rows + bytes(4),
        )
        if n == 0:
            first = pixels
    read = folder(size=8, channels=1).train.raw(0)[0].numpy().astype(int)
    assert np.abs(read - (255 - first.astype(float) * 255 / most)).max() <= 1


def tiff(pixels_HWC, photometric, extra):
    """TIFF 6.0 with as many bands as the pixels have; `extra` is what those beyond the colours are."""
    height, width, bands = pixels_HWC.shape
    data = pixels_HWC.tobytes()
    tags = {
        256: [width], 257: [height], 258: [8 * pixels_HWC.itemsize] * bands, 259: [1],
        262: [photometric], 273: [8], 277: [bands],
        278: [height], 279: [len(data)], 284: [1], 338: extra,
    }  # fmt: skip
    start = 8 + len(data)
    after = start + 2 + 12 * sum(map(bool, tags.values())) + 4
    entries = further = b""
    for tag, values in tags.items():
        packed = struct.pack(f"<{len(values)}H", *values)
        if tag in (273, 279):
            entries += struct.pack("<HHII", tag, 4, 1, *values)
        elif len(packed) > 4:
            entries += struct.pack("<HHII", tag, 3, len(values), after + len(further))
            further += packed
        elif values:
            entries += struct.pack("<HHI4s", tag, 3, len(values), packed)
    count = struct.pack("<H", len(entries) // 12)
    return b"II*\0" + struct.pack("<I", start) + data + count + entries + bytes(4) + further


@each(
    ("bands", "photometric", "extra", "words"),
    [
        (4, 2, [0], "8 of 8 images have 4 bands, of which 3 are read"),
        (4, 2, [], "8 of 8 images have 4 bands, of which 3 are read"),
        (5, 2, [0, 0], "8 of 8 images have 5 bands, of which 3 are read"),
        (5, 2, [2, 0], "8 of 8 images have 5 bands, of which 3 are read"),
        (2, 1, [0], "8 of 8 images have 2 bands, of which 1 is read"),
        (4, 2, [2], "transparent parts"),
        (3, 2, [], ""),
        (1, 1, [], ""),
    ],
)
def test_bands_beyond_the_colours_are_said_to_be_left_out(bands, photometric, extra, words):
    for n in range(8):
        pixels = np.random.default_rng(n).integers(0, 256, (20, 24, bands), dtype=np.uint8)
        write(ROOT / f"{'ab'[n % 2]}/{n}.tif", tiff(pixels, photometric, extra))
    corpus = folder(channels=3 if photometric == 2 else 1, size=20)
    said = warnings(corpus)
    assert words in said if words else not said
    assert ("transparent" in said) == (extra[:1] == [2])
    top = np.random.default_rng(0).integers(0, 256, (20, 24, bands), dtype=np.uint8)[:, 2:22, 0]
    assert np.array_equal(corpus.train.raw(0)[0].numpy(), top)


def test_alpha_of_a_tiff_file_is_no_band_beyond_the_colours():
    classes(make=lambda n: noise(n, mode="RGBA"), suffix="tif")
    assert not warnings(folder())


def test_a_tiff_file_that_pillow_does_not_read_is_said_to_be_one():
    classes()
    write(ROOT / "a/x.tif", tiff(np.zeros((8, 8, 6), np.uint8), 1, [0] * 5))
    with pytest.raises(DataError, match=r"a/x\.tif: is a TIFF file whose bands, bits or numbers"):
        folder()


@each(("most", "said"), [(255, True), (1023, True), (4095, True), (16383, False), (40000, False)])
def test_files_that_use_a_small_part_of_the_others_values_are_said(most, said):
    for n in range(8):
        top = 65535 if n < 4 else most
        values = np.random.default_rng(n).integers(0, top + 1, (24, 24)).astype(np.uint16)
        values[0, 0] = top
        save(ROOT / f"{'ab'[n % 2]}/{n}.png", Image.fromarray(values))
    found = [line for line in warnings(folder(channels=1)).splitlines() if "almost black" in line]
    assert bool(found) == said
    if said:
        assert f"4 of 8 images of more than 8 bits use the values 0 to {most:,} alone" in found[0]
        assert "to 65,535" in found[0]


def test_16_bit_colours_of_which_some_use_8_bits_are_said():
    for n in range(8):
        top = 65535 if n < 4 else 255
        pixels = np.random.default_rng(n).integers(0, top + 1, (20, 24, 3)).astype(np.uint16)
        write(ROOT / f"{'ab'[n % 2]}/{n}.tif", tiff(pixels, 2, []))
    assert "4 of 8 images of more than 8 bits use the values 0 to 255 alone" in warnings(folder())


# Files that tell the classes apart


@each(
    ("other", "words"),
    [
        ({"make": lambda n: noise(n, mode="L")}, "colours alone tell classes apart"),
        ({"make": lambda n: noise(n, (30, 40))}, "sizes alone tell classes apart"),
        ({"suffix": "jpg"}, "formats alone tell classes apart"),
        ({"make": lambda n: noise(n, (24 + n % 2, 24))}, ""),
        ({"count": 3, "suffix": "jpg"}, ""),
    ],
)
def test_a_property_of_the_files_that_is_the_class_is_warned_of(other, words):
    classes(names="a")
    classes(names="b", first=500, **other)
    said = warnings(folder())
    assert words in said if words else not said


# Boxes


def closed_early(number, mode, share=0.6):
    """A JPEG that was cut off and closed by an end marker, as some programs repair them."""
    whole = noise(number, (64, 96), mode)
    file = io.BytesIO()
    whole.save(file, "JPEG")
    content = file.getvalue()
    return content[: int(len(content) * share)] + b"\xff\xd9"


@each("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_was_cut_off_and_closed_is_said(mode):
    classes()
    write(ROOT / "a/cut.jpg", closed_early(50, mode))
    barred = Image.new("L", (64, 96), 128)  # between bars of that grey: nothing is missing
    barred.paste(noise(51, (64, 48), "L"), (0, 24))
    save(ROOT / "b/barred.jpg", barred)
    assert "1 of 10 images end in plain grey" in warnings(folder())
    (ROOT / "a/cut.jpg").unlink()
    assert "plain grey" not in warnings(folder())
