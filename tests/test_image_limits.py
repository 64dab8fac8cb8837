"""What a picture may cost: limits by header, memory that is kept to, strips that no resize may blow up."""
import io
import json
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import ROOT
from utils import images, limits, transforms
from utils.errors import InputError
from utils.images import ImageError

SPEC = transforms.preprocess_spec()
CHECK = ("-m", "utils.datasets", "check")


@pytest.fixture
def limit(monkeypatch):
    """Set a limit for this test."""
    def set_to(name, value):
        monkeypatch.setenv(name, str(value))
        limits.limit.cache_clear()
    yield set_to
    monkeypatch.undo()
    limits.limit.cache_clear()


def encoded(image, kind, **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def scans(count):
    """A progressive JPEG of 64 x 64 whose last scan comes ``count`` times."""
    data = encoded(Image.effect_noise((64, 64), 60), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * count + b"\xff\xd9"


# strips --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(2, 3000), (3000, 2), (1, 20000), (1, 500_000)])
def test_long_strips_are_used_by_their_middle(shape):
    """2 x 3000 at 256 pixels would be 256 x 384,000."""
    height, width = shape
    image = np.zeros((height, width, 3), np.uint8)
    middle = image[:, width // 2 - 8:width // 2 + 8] if width > height else image[height // 2 - 8:height // 2 + 8]
    middle[:] = (200, 10, 60)
    out = transforms.centre(image, SPEC)
    assert out.shape == (224, 224, 3) and (out == (200, 10, 60)).all()
    for crop in ("centre", "random", "resized"):
        from utils.augmentation import Augmentation
        view = transforms.vary(image, SPEC, Augmentation(crop), np.random.default_rng(0))
        assert view.shape == (224, 224, 3)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 400), st.integers(8, 64))
def test_every_other_shape_is_resized_whole(short, long, size):
    image = np.random.default_rng(short * 1000 + long).integers(0, 256, (short, max(short, long), 3), np.uint8)
    wide, high = images.short_size(image.shape[1], image.shape[0], size)
    assert np.array_equal(transforms.resize_short(image, size), transforms.resize(image, wide, high))


def test_a_folder_with_strips_is_checked_trained_and_encoded(tmp_path, run):
    for i in range(10):
        Image.new("RGB", ((2, 3000) if i == 3 else (3000, 2) if i == 4 else (40, 30)), (i * 20, 90, 30)).save(
            tmp_path / f"{i}.png")
    assert "no fault" in run(*CHECK, tmp_path).stdout
    run("main_single_gpu.py", "--method", "cibhash", "--dataset", tmp_path, "--bit", 8, "--backbone", "ConvNet:width=8",
        "--resize-size", 256, "--crop-size", 32, "--batch-size", 4, "--epoch", 1, "--no-pretrained", "--no-visualdl",
        "--skip-broken",
        "--output-dir", tmp_path / "run")
    done = run("predict.py", "--pretrained", tmp_path / "run" / "best.safetensors", "--gallery", tmp_path, "--img",
               tmp_path / "3.png", "--save-path", tmp_path / "out", "--topk", 10, "--json")
    assert len(json.loads(done.stdout)["queries"][0]["matches"]) == 10


# limits --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", [images.decode, images.image_size])
def test_scans(how, limit):
    assert how(scans(80)) is not None
    with pytest.raises(ImageError, match="image data: 1[0-9]+ scans are more than the limit of 100 .*IMAGE_SCANS"):
        how(scans(110))
    limit(limits.SCANS, 200)
    assert how(scans(110)) is not None
    sequential = encoded(Image.effect_noise((64, 64), 60).convert("RGB"), "JPEG")
    assert how(sequential + b"\xff\xda" * 300) is not None  # behind the only scan, where nobody looks


@pytest.mark.parametrize("how", [images.decode, images.image_size])
def test_pixels_and_bytes(how, limit, tmp_path):
    data = {kind: encoded(Image.new(mode, (100, 80)), kind) for kind, mode in
            (("PNG", "RGB"), ("JPEG", "RGB"), ("TIFF", "I;16"), ("WEBP", "RGB"), ("GIF", "P"), ("BMP", "L"))}
    limit(limits.PIXELS, 7999)
    for some in data.values():
        with pytest.raises(ImageError,
                           match=r"8000 pixels \(100 x 80\) are more than the limit of 7999 .*_PIXELS sets"):
            how(some)
    limit(limits.PIXELS, 8000)
    limit(limits.IMAGE_BYTES, 8000 * 4)
    for kind, some in data.items():
        if kind in ("GIF", "BMP"):
            assert how(some) is not None  # a byte a pixel, and the result
        else:
            with pytest.raises(ImageError, match="bytes to decode it .8000 pixels. are more than the limit of 32000"):
                how(some)
    limit(limits.IMAGE_BYTES, 100)
    path = tmp_path / "x.png"
    path.write_bytes(data["PNG"] + bytes(1000))
    with pytest.raises(ImageError, match="x.png: [0-9]+ bytes of the file are more than the limit of 100"):
        how(path)


def test_a_limit_is_a_number(limit):
    limit(limits.SCANS, "many")
    with pytest.raises(InputError, match="DEEPHASH_MAX_IMAGE_SCANS is 'many'; a whole number above 0"):
        images.decode(scans(3))


def test_float_pictures_are_refused_by_their_header():
    data = encoded(Image.new("F", (50, 40)), "TIFF")
    for how in (images.decode, images.image_size):
        with pytest.raises(ImageError, match="floating-point pixels; save it with 8 or 16 bits"):
            how(data)


def test_limits_reach_every_command(tmp_path, run):
    """check, --skip-broken and training agree, whatever the limit."""
    for i in range(6):
        (tmp_path / f"{i}.jpg").write_bytes(scans(110 if i == 2 else 5))
    for more in ([], ["--fast"]):
        done = run(*CHECK, tmp_path, *more, ok=False)
        assert done.returncode == 1 and "1 faults" in done.stdout and "2.jpg" in done.stdout and "SCANS" in done.stdout
        assert "no fault" in run(*CHECK, tmp_path, *more, env={limits.SCANS: "500"}).stdout
    train = ["main_single_gpu.py", "--method", "cibhash", "--dataset", tmp_path, "--bit", 8, "--backbone",
             "ConvNet:width=8", "--resize-size", 40, "--crop-size", 32, "--batch-size", 4, "--epoch", 1,
             "--no-pretrained", "--no-visualdl", "--output-dir", tmp_path / "run"]
    done = run(*train, ok=False)
    assert done.returncode == 2 and "2.jpg" in done.stderr and "SCANS" in done.stderr
    assert "1 broken pictures were left out" in run(*train, "--skip-broken", "--overwrite").stdout


# memory --------------------------------------------------------------------------------------------------------------
CHILD = """
import json, resource, sys
import numpy as np
from utils import image_header, images
path = sys.argv[1]
seen = []
check = image_header._check_memory
image_header._check_memory = lambda pixels, each, name: seen.append(pixels * each)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
image = images.decode(path)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([seen[0], (after - before) * 1024, list(image.shape)]))
"""


def png16(width, height):
    """A grey PNG of 16 bits, which Pillow does not write from arrays of any size quickly."""
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    rows = (b"\0" + bytes(2 * width)) * height
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b""))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in kB")
def test_decoding_takes_no_more_memory_than_was_told(tmp_path):
    """Peak of a process that decodes 24 million pixels, against what its header said."""
    width, height = 6000, 4000
    rgb = Image.new("RGB", (width, height), (9, 200, 30))
    files = {"rgb.png": encoded(rgb, "PNG", compress_level=1), "grey16.png": png16(width, height),
             "rgba.png": encoded(rgb.convert("RGBA"), "PNG", compress_level=1), "palette.gif": encoded(rgb, "GIF"),
             "plain.jpg": encoded(rgb, "JPEG"),
             "progressive.jpg": encoded(rgb, "JPEG", progressive=True, subsampling=0),
             "cmyk.tif": encoded(rgb.convert("CMYK"), "TIFF", compression="tiff_adobe_deflate"),
             "deep.tif": encoded(Image.fromarray(np.zeros((height, width), np.int32)), "TIFF")}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path / name)], cwd=ROOT, text=True,
                              capture_output=True, check=True)
        told, took, shape = json.loads(done.stdout)
        assert shape == [height, width, 3]
        # beside: the file itself, one band, what the allocator keeps
        assert took <= told + len(data) + 8 * images.BAND, (name, told >> 20, took >> 20)


def test_pictures_of_16_bits_stand_upright_too():
    grey = np.arange(12, dtype=np.uint16).reshape(3, 4) << 12
    image = Image.fromarray(grey)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = images.decode(encoded(image, "PNG", exif=exif))
    assert turned.shape == (4, 3, 3) and np.array_equal(turned, np.rot90(images.decode(encoded(image, "PNG")), -1))


def test_bands_change_no_pixel(monkeypatch):
    rng = np.random.default_rng(0)
    whole = [Image.fromarray(rng.integers(0, 256, (37, 23, 3), np.uint8)).quantize(50),
             Image.fromarray(rng.integers(0, 65536, (37, 23), np.uint16)),
             Image.fromarray(rng.integers(0, 256, (37, 23, 4), np.uint8), "CMYK")]
    data = [encoded(image, kind) for image, kind in zip(whole, ("PNG", "PNG", "TIFF"))]
    before = [images.decode(some) for some in data]
    monkeypatch.setattr(images, "BAND", 100)
    assert all(np.array_equal(images.decode(some), other) for some, other in zip(data, before))
    assert cv2.imdecode(np.frombuffer(data[0], np.uint8), cv2.IMREAD_COLOR_RGB).shape == before[0].shape
