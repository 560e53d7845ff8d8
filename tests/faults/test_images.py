"""Hostile images: at worst a counted drop with its place; what is kept comes out upright, RGB, 8 bits a channel."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import TableError
from pipeline.images import FORMATS, UnusableImage, decode_image, open_image
from pipeline.sources.ingest import ingest
from pipeline.sources.registry import SourcesParams, make_entry
from tests.faults.record import record
from tests.sources.conftest import dropped, tables

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)
RGB = Image.fromarray(PIXELS)
SMOOTH = np.stack(np.broadcast_arrays(np.arange(40) * 6, np.arange(24)[:, None] * 10, 90), -1).astype(np.uint8)


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth=8, colour=2, data=b"", before=b""):
    """A PNG that says what it likes."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + before + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def rotated(orientation, kind="JPEG"):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(SMOOTH), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))


def animation(kind):
    """Three frames, the first of them red."""
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    return encoded(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )


GIF_BOMB = struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
BMP_BOMB = struct.pack("<IHHIIiiHH", 1 << 20, 0, 0, 54, 40, 60000, 60000, 1, 24) + bytes(28)
BOMB = png(20000, 20000, data=bytes(60001) * 8)
REFUSED = {
    "bomb.png": BOMB,
    "header.png": png(2**31 - 1, 2**31 - 1),
    "wide.png": png(2**31 - 1, 1),
    "flat.png": png(0, 4),
    "text.png": png(4, 4, data=bytes(52), before=chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 27)))),
    "bomb.bmp": b"BM" + BMP_BOMB,
    "bomb.gif": b"GIF89a" + GIF_BOMB + b"\2\1\0\0;",
    "cut.jpg": encoded(RGB, "JPEG")[:-200],
    "cut.png": encoded(RGB, "PNG")[:-200],
    "cut.webp": encoded(RGB, "WEBP")[:-100],
    "cut.gif": encoded(RGB, "GIF")[:-200],
    "cut.tif": encoded(RGB, "TIFF")[:-200],
    "empty.jpg": b"",
    "zeros.png": bytes(4000),
    "page.jpg": b"<html><script>alert(1)</script></html>",
    "sql.png": b"'; DROP TABLE images; --",
    "program.png": b"\x7fELF" + bytes(200),
    "pickle.png": b"\x80\x04cos\nsystem\n.",
    "print.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",  # the library would start Ghostscript
    "vector.png": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
    "float.tif": encoded(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF"),
    "int.tif": encoded(Image.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF"),
}  # fmt: skip
ODD = {
    "jpeg.png": encoded(RGB, "JPEG"),
    "png.jpg": encoded(RGB, "PNG"),
    "cmyk.jpg": encoded(RGB.convert("CMYK"), "JPEG"),
    "grey16.png": encoded(Image.fromarray((np.arange(960, dtype=np.uint16) * 68).reshape(24, 40)), "PNG"),
    "colour16.png": png(2, 1, 16, 2, b"\0" + struct.pack(">6H", 65535, 256, 0, 0, 32768, 255)),
    "palette.png": encoded(RGB.convert("P"), "PNG", transparency=3),
    "palette.gif": encoded(RGB.convert("P"), "GIF", transparency=3),
    "alpha.png": encoded(RGB.convert("RGBA"), "PNG"),
    "alpha.webp": encoded(RGB.convert("RGBA"), "WEBP"),
    "bits.png": encoded(RGB.convert("1"), "PNG"),
    "grey.png": encoded(RGB.convert("LA"), "PNG"),
    "lab.tif": encoded(RGB.convert("LAB"), "TIFF"),
    "moving.gif": animation("GIF"),
    "moving.webp": animation("WEBP"),
    "moving.png": animation("PNG"),
    "pages.tif": animation("TIFF"),
    "one.png": encoded(Image.new("RGB", (1, 1)), "PNG"),
    "thin.png": encoded(Image.new("RGB", (3000, 1)), "PNG"),
}


def global_state():
    return Image.MAX_IMAGE_PIXELS, list(warnings.filters)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_is_refused_in_one_line(name):
    before = global_state()
    with pytest.raises(UnusableImage):
        open_image(REFUSED[name], 64)
    with pytest.raises(TableError, match="row 7: unreadable image: ") as error:
        decode_image({"bytes": REFUSED[name], "path": None}, "row 7")
    assert "\n" not in str(error.value) and global_state() == before


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_comes_out_as_rgb(name):
    image = decode_image({"bytes": ODD[name], "path": None}, "row 7")
    assert image.mode == "RGB" and np.asarray(image).dtype == np.uint8 and np.asarray(image).shape[2] == 3


def test_sixteen_bits_keep_their_shades():
    """A plain conversion makes everything above 255 of 65,535 white."""
    grey = np.asarray(open_image(ODD["grey16.png"]))[..., 0].ravel()
    assert np.array_equal(grey, np.arange(960) * 68 >> 8)
    assert np.asarray(open_image(ODD["colour16.png"])).tolist() == [[[255, 1, 0], [0, 128, 0]]]


@pytest.mark.parametrize("name", ["moving.gif", "moving.webp", "moving.png", "pages.tif"])
def test_an_animation_is_its_first_frame(name):
    image = open_image(ODD[name])
    assert image.size == (20, 10) and image.getpixel((5, 5)) in ((255, 0, 0), (254, 0, 0))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_images_are_turned_as_their_camera_was(kind):
    """Against the library's own way, which the values of EXIF come from."""
    turns = {
        1: SMOOTH,
        3: SMOOTH[::-1, ::-1],
        6: SMOOTH.transpose(1, 0, 2)[:, ::-1],
        8: SMOOTH.transpose(1, 0, 2)[::-1],
    }
    turns |= {2: SMOOTH[:, ::-1], 4: SMOOTH[::-1], 5: SMOOTH.transpose(1, 0, 2)}
    turns[7] = turns[5][::-1, ::-1]
    for orientation, expected in turns.items():
        found = np.asarray(open_image(rotated(orientation, kind))).astype(int)
        assert found.shape == expected.shape
        assert np.abs(found - expected).mean() < (5 if kind == "JPEG" else 0.01), orientation
    for orientation in (0, 9, 65535):
        assert open_image(rotated(orientation, kind)).size == (40, 24)
    assert open_image(rotated(6, kind)).size == (24, 40)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_broken_exif_block_turns_nothing():
    for block in (b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0" + bytes(60), b"\xff" * 200):
        assert open_image(encoded(RGB, "JPEG", exif=block)).size == (40, 24)


def test_hostile_images_are_counted_drops_with_their_place(tmp_path):
    """Beside the files above: names and captions that mean something to a shell, a browser or a database."""
    names = ["'; DROP TABLE x;--.png", "<img src=x onerror=alert(1)>.png", "%s%n{0}.png", "$(id) `id`.png", "a\nb.png"]
    names += ["‮gnp.png", "-rf.png", "é ü.png"]
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, data in {**REFUSED, **ODD, **dict.fromkeys(names, ODD["png.jpg"])}.items():
        (folder / name).write_bytes(data)
        (folder / name).with_suffix(".txt").write_text("<script>alert(1)</script> '; DROP TABLE x;-- %s {0} ../../x")
    entry = {"kind": "llava_images", "image_set": "mine", "images": "mine", "unsafe": False}
    params = SourcesParams(root=tmp_path, entries={"mine": entry}, max_broken=1.0)
    before = global_state()
    ingest(params, [make_entry("mine", entry)], tmp_path / "out", lambda line: None)
    found = tables(tmp_path / "out")
    assert global_state() == before
    assert len(found["images"]) == len(ODD) + len(names)
    assert dropped(found, "mine") == {"broken": len(REFUSED)}
    report = (tmp_path / "out/dropped.txt").read_text(encoding="utf-8")
    assert all(f"mine: row {name} " in report for name in REFUSED) and "DROP TABLE" not in report
    for row in found["images"]:
        assert decode_image(row["image"], row["image_id"]).mode == "RGB"
    record("hostile image files", len(REFUSED) + len(ODD) + len(names), len(REFUSED) + len(ODD) + len(names))


SEEDS = [encoded(RGB, kind) for kind in FORMATS] + [ODD["moving.gif"], ODD["grey16.png"], rotated(6), BOMB]


def fuzz_bytes(count):
    tried = 0

    @settings(max_examples=count, deadline=None, derandomize=True, database=None)
    @given(
        st.sampled_from(SEEDS),
        st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=4)), max_size=6),
        st.floats(0, 1),
    )
    def run(data, changes, length):
        nonlocal tried
        tried += 1
        changed = bytearray(data)
        for at, new in changes:
            place = int(at * len(changed))
            changed[place : place + len(new)] = new
        changed = bytes(changed[: int(length * len(changed)) or None] if length < 0.5 else changed)
        try:
            assert open_image(changed).mode == "RGB"
        except UnusableImage as error:
            assert "\n" not in str(error)

    before = global_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run()
    assert global_state() == before
    record("image bytes, fuzzed", tried, tried)


def test_changed_bytes_are_an_image_or_a_refusal():
    fuzz_bytes(300)


@pytest.mark.faults
def test_many_changed_bytes_are_an_image_or_a_refusal():
    fuzz_bytes(3000)
