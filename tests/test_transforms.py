"""Decoding and preprocessing: every kind of file, every kind of damage, and the same numbers from the same seed."""
import functools
import io
import pathlib
import struct
import subprocess
import sys
import warnings
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from utils import images, transforms
from utils.augmentation import PRESETS
from utils.errors import InputError
from utils.images import ImageError

SPEC = transforms.preprocess_spec(64, 56)


def picture(height=60, width=90, seed=0):
    """A smooth uint8 RGB image, so that lossy files stay near it."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.BICUBIC))


def encoded(image, fmt, **options):
    """Image -> bytes by Pillow."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


@functools.lru_cache(maxsize=None)
def photo(height, width, seed=0):
    """A picture with detail at every scale (noise of many octaves, an edge, thin lines), as photographs have."""
    rng = np.random.default_rng(seed)
    image = np.full((320, 480, 3), 118, np.float32)
    for octave in (160, 64, 32, 16, 8, 4, 2):
        noise = rng.standard_normal((320 // octave, 480 // octave, 3), dtype=np.float32)
        image += octave ** 0.5 * 2 * cv2.resize(noise, (480, 320), interpolation=cv2.INTER_LINEAR)
    image[:, 200:] += 25
    image[160:, ::9] -= 30
    image = np.clip(image, 0, 255).astype(np.uint8)
    more = ((0, max(0, height - 320)), (0, max(0, width - 480)), (0, 0))
    return np.pad(image, more, "symmetric")[:height, :width]


def distance(a, b):
    """Mean absolute difference of two pictures or inputs."""
    assert a.shape == b.shape
    return np.abs(a.astype(np.float64) - b).mean()


def near(a, b, mean):
    assert a.shape == b.shape and a.dtype == np.uint8
    assert np.abs(a.astype(int) - b.astype(int)).mean() <= mean


# decoding ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("fmt", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_files_give_their_pixels(fmt, tmp_path):
    image = picture()
    path = tmp_path / "a file.bin"  # the ending does not matter
    path.write_bytes(encoded(image, fmt))
    assert np.array_equal(images.decode(path), image)
    assert images.image_size(path) == (90, 60)


@pytest.mark.parametrize("fmt, options", [("JPEG", {"quality": 95}), ("JPEG", {"quality": 95, "progressive": True}),
                                          ("WEBP", {"quality": 95})])
def test_lossy_files_are_near_and_rgb(fmt, options):
    image = picture()
    near(images.decode(encoded(image, fmt, **options)), image, 4)


def test_grey_alpha_palette_and_animation():
    image = picture()
    grey = Image.fromarray(image).convert("L")
    want = np.repeat(np.asarray(grey)[..., None], 3, 2)
    assert np.array_equal(images.decode(encoded(grey, "PNG")), want)
    near(images.decode(encoded(grey, "JPEG", quality=95)), want, 3)
    rgba = np.dstack([image, np.full(image.shape[:2], 7, np.uint8)])
    assert np.array_equal(images.decode(encoded(rgba, "PNG")), image)
    few = Image.fromarray(image).quantize(16)
    assert np.array_equal(images.decode(encoded(few, "PNG")), np.asarray(few.convert("RGB")))
    with warnings.catch_warnings():  # a palette with an alpha value a colour, as icons and screenshots have
        warnings.simplefilter("error")
        clear = encoded(few, "PNG", transparency=bytes(range(16)))
        assert np.array_equal(images.decode(clear), np.asarray(few.convert("RGB")))
    first, second = Image.new("RGB", (9, 5), (255, 0, 0)), Image.new("RGB", (9, 5), (0, 0, 255))
    data = encoded(first, "GIF", save_all=True, append_images=[second])
    assert (images.decode(data) == [255, 0, 0]).all()


def test_sixteen_bits_keep_the_upper_eight():
    grey = np.arange(60 * 90, dtype=np.uint16).reshape(60, 90) * 12
    ok, data = cv2.imencode(".png", grey)
    assert ok and np.array_equal(images.decode(data.tobytes())[..., 1], grey >> 8)
    colour = np.stack([grey, grey[::-1], 65535 - grey], 2)
    ok, data = cv2.imencode(".png", colour[..., ::-1])
    assert ok
    got = images.decode(data.tobytes()).astype(int)
    assert np.abs(got - (colour >> 8)).max() <= 1
    assert images.decode(encoded(Image.fromarray(grey), "TIFF")).max() == (grey >> 8).max()


def test_cmyk_jpeg():
    image = picture()
    data = encoded(Image.fromarray(image).convert("CMYK"), "JPEG", quality=95)
    near(images.decode(data), image, 5)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_stands_the_image_upright(fmt, orientation):
    image = picture()
    # transposition that a camera with this orientation has to undo
    undo = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
            5: lambda a: a.transpose(1, 0, 2), 6: lambda a: a[::-1].transpose(1, 0, 2),
            7: lambda a: a[::-1, ::-1].transpose(1, 0, 2), 8: lambda a: a[:, ::-1].transpose(1, 0, 2)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = images.decode(encoded(image, fmt, quality=90))
    turned = images.decode(encoded(image, fmt, quality=90, exif=exif))
    near(turned, undo(plain), 0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_cut_jpeg_is_always_noticed(data):
    image = picture(seed=data.draw(st.integers(0, 3)))
    exif = Image.Exif()
    exif[0x010E] = "thumbnail \xff\xd9 inside"
    whole = encoded(image, "JPEG", progressive=data.draw(st.booleans()), exif=exif)
    cut = whole[:data.draw(st.integers(1, len(whole) - 1))]
    with pytest.raises(ImageError, match="cut.jpg: "):
        images.decode(cut, "cut.jpg")
    with pytest.raises(ImageError, match="cut.jpg: "):
        images.image_size(cut, "cut.jpg")


def test_the_end_marker_of_a_thumbnail_does_not_hide_a_cut():
    thumbnail = encoded(picture(16, 16), "JPEG")
    exif = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = encoded(picture(), "JPEG")
    whole = whole[:2] + exif + whole[2:]
    assert images.decode(whole).shape == (60, 90, 3)
    with pytest.raises(ImageError, match="truncated"):
        images.decode(whole[:-40])


def test_bytes_after_the_end_are_allowed():
    whole = encoded(picture(), "JPEG")
    assert np.array_equal(images.decode(whole + b"\0" * 100), images.decode(whole))


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a",
                                                b"BM", b"II*\0", b"RIFF"]))
def test_no_bytes_escape_as_another_error(data, start):
    try:
        image = images.decode(start + data, "x")
    except ImageError as error:
        assert str(error).startswith("x: ") and "\n" not in str(error)
    else:
        assert image.ndim == 3


def test_damage_is_named(tmp_path):
    png = encoded(picture(), "PNG")
    cases = {"empty.jpg": (b"", "empty"), "text.jpg": (b"hello, I am no image", "not an image"),
             "cut.png": (png[:len(png) // 2], "truncated"),
             "float.tif": (encoded(Image.new("F", (4, 4)), "TIFF"), "float")}
    for name, (data, reason) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageError, match=f"{name}.*{reason}"):
            images.decode(tmp_path / name)
    with pytest.raises(ImageError, match="gone.jpg.*No such file"):
        images.decode(tmp_path / "gone.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        images.decode(tmp_path)
    assert issubclass(ImageError, InputError)


def _with_size(jpeg, height, width):
    """JPEG bytes whose header claims another size."""
    at = jpeg.find(b"\xff\xc0")
    return jpeg[:at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9:]


@pytest.mark.parametrize("how", [images.decode, images.image_size])
def test_a_decompression_bomb_is_refused_by_its_header(how):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    def png(width, height):
        return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
                + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))

    for side in (10000, 60000):
        with pytest.raises(ImageError, match="limit"):
            how(png(side, side), "bomb.png")
    with pytest.raises(ImageError, match="limit"):
        how(_with_size(encoded(picture(), "JPEG"), 60000, 60000), "bomb.jpg")


# reduced decoding --------------------------------------------------------------------------------
REDUCED = transforms.preprocess_spec(decode="reduced")
FULL = transforms.preprocess_spec()


def test_a_spec_names_its_decoding_and_none_means_full():
    assert "decode" not in FULL and REDUCED == {**FULL, "decode": "reduced"}
    recipe = {"resize_size": 256, "crop_size": 224}
    assert transforms.recipe_spec(recipe) == FULL  # a checkpoint from before
    assert transforms.recipe_spec({**recipe, "decode": "full"}) == FULL
    assert transforms.recipe_spec({**recipe, "decode": "reduced"}) == REDUCED
    with pytest.raises(InputError, match="full, reduced"):
        transforms.preprocess_spec(decode="half")
    data = encoded(photo(480, 640), "JPEG")
    assert images.decode(data, spec=FULL).shape == images.decode(data).shape == (480, 640, 3)


@pytest.mark.parametrize("size", [(480, 640), (375, 500), (333, 500), (320, 481), (681, 1023), (961, 1281),
                                  (1301, 1201)])
def test_reduced_is_near_full_for_every_factor(size):
    """Stated tolerance, in 8-bit steps. Half a pixel of shift would give 2 to 3."""
    data = encoded(photo(*size), "JPEG", quality=92)
    small = images.decode(data, spec=REDUCED)
    full = transforms.resize_short(images.decode(data), 256)
    assert min(small.shape[:2]) == 256 and 0.05 < distance(small, full) < 1.6, distance(small, full)
    # nothing is lost between the two calls: the input is the crop of what decode gave
    height, width = small.shape[:2]
    top, left = (height - 224) // 2, (width - 224) // 2
    assert np.array_equal(transforms.preprocess(small, REDUCED),
                          transforms.normalise(small[top:top + 224, left:left + 224], FULL))


def test_reduced_is_as_near_to_pillow_as_needed():
    """The other anchor: the usual pipeline. Full decoding lies at about 1, reduced decoding at most a step further."""
    for seed in range(3):
        data = encoded(photo(480, 640, seed), "JPEG", quality=92)
        pillow = np.asarray(Image.open(io.BytesIO(data)).resize((341, 256), Image.BILINEAR))
        assert distance(images.decode(data, spec=REDUCED), pillow) < 1.0 + distance(
            transforms.resize_short(images.decode(data), 256), pillow)


def test_reduced_does_not_alias():
    checks = np.repeat((np.indices((480, 640)).sum(0) % 2 * 255).astype(np.uint8)[..., None], 3, 2)
    small = images.decode(encoded(checks, "JPEG", quality=100), spec=REDUCED)
    assert distance(small, np.full_like(small, 127)) < 8  # the borders of the 8 x 8 blocks show a little


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 400), st.integers(8, 400), st.integers(8, 90), st.integers(1, 8), st.booleans())
def test_reduced_has_the_shape_and_place_of_full(height, width, size, orientation, grey):
    """Any size, any EXIF orientation: the shape of full decoding and resizing, the same things at the same places."""
    ramp = np.stack(np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height)), 2)
    image = np.dstack([ramp, ramp.mean(2)]).astype(np.uint8)
    image = Image.fromarray(image).convert("L") if grey else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, "JPEG", quality=95, exif=exif)
    spec = transforms.preprocess_spec(size, size, decode="reduced")
    full = transforms.resize_short(images.decode(data), size)
    small = transforms.resize_short(images.decode(data, spec=spec), size)
    assert small.shape == full.shape and small.dtype == np.uint8
    assert distance(small, full) < 2 + 255 / min(height, width)


def test_what_cannot_be_reduced_is_decoded_in_full():
    image = photo(480, 640)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [encoded(image, "PNG"), encoded(Image.fromarray(image).convert("CMYK"), "JPEG"),
             encoded(image[:300], "JPEG"), encoded(image[:300], "JPEG", exif=exif), encoded(image, "WEBP")]
    for data in files:
        assert np.array_equal(images.decode(data, spec=REDUCED), images.decode(data))


def opencv(data):
    """RGB pixels as OpenCV decodes them."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def test_full_decoding_is_libjpegs_as_ever():
    """Models made before reduced decoding existed rest on these pixels."""
    image = Image.fromarray(photo(333, 500))
    turned = [Image.Exif() for _ in range(10)]
    for orientation, exif in enumerate(turned):
        exif[0x0112] = orientation
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"quality": 30},
                    {"keep_rgb": True}, {"restart_marker_blocks": 3}, *({"exif": exif} for exif in turned)):
        for picture_ in (image, image.convert("L")):
            data = encoded(picture_, "JPEG", **options)
            assert np.array_equal(images.decode(data), opencv(data)), options


@pytest.mark.parametrize("seed", range(20))
def test_damaged_scans_are_shown_as_ever(seed):
    """What libjpeg only warns of is decoded, and alike."""
    rng, data = np.random.default_rng(seed), bytearray(encoded(photo(120, 160), "JPEG"))
    data[rng.integers(len(data) // 2, len(data) - 2)] ^= 1 << rng.integers(8)
    assert np.array_equal(images.decode(bytes(data)), opencv(bytes(data)))


def test_simclr_keeps_enough_pixels_for_its_smallest_box():
    for size, want in (((1000, 1100), (1000, 1100)), ((1301, 1802), (651, 901)), ((2500, 2001), (938, 751))):
        box = PRESETS["simclr"].box
        image = images.decode(encoded(np.zeros((*size, 3), np.uint8), "JPEG"), spec=REDUCED, box=box)
        assert image.shape[:2] == want
        if want != size:
            boxes = [transforms._random_box(*want, box, transforms.item_rng(0, 0, i)) for i in range(300)]
            assert min(min(box[2:]) for box in boxes) >= 224


@pytest.mark.parametrize("kind", PRESETS)
def test_the_same_view_from_either_decoding(kind):
    """Same draws, same windows: views differ by the decoding only."""
    data = encoded(photo(1220, 1300), "JPEG", quality=92)
    for i in range(4):
        numbers = PRESETS[kind]
        full, reduced = (transforms.augment(images.decode(data, spec=spec, box=numbers.box), spec, numbers,
                                            transforms.item_rng(3, 1, i)) for spec in (FULL, REDUCED))
        assert distance(full, reduced) * 255 * 0.225 < (4 if kind == "simclr" else 1.6)  # simclr: its box is rounded


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_inside_a_reduced_jpeg(data):
    """Flipped bytes: a picture of the right shape, or one named line; as with full decoding."""
    whole = bytearray(encoded(photo(100, 130), "JPEG", progressive=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(2, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = images.decode(bytes(whole), "bad.jpg", transforms.preprocess_spec(32, 32, decode="reduced"))
    except ImageError as error:
        assert str(error).startswith("bad.jpg: ") and "\n" not in str(error)
    else:
        assert image.ndim == 3 and image.dtype == np.uint8
        assert transforms.preprocess(image, transforms.preprocess_spec(32, 32)).shape == (3, 32, 32)


def test_a_cut_or_empty_file_is_named_in_reduced_decoding_too(tmp_path):
    whole = encoded(photo(480, 640), "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole[:-700])
    with pytest.raises(ImageError, match="cut.jpg.*truncated"):
        images.decode(tmp_path / "cut.jpg", spec=REDUCED)
    with pytest.raises(ImageError, match="limit"):
        images.decode(_with_size(whole, 60000, 60000), "bomb.jpg", REDUCED)


def test_broken_exif_says_nothing():
    image = photo(480, 640)
    plain = images.decode(encoded(image, "JPEG"), spec=REDUCED)
    for body in (b"", b"II*\0", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0", b"\xff" * 60):
        whole = encoded(image, "JPEG")
        exif = b"Exif\0\0" + body
        whole = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + whole[2:]
        assert np.array_equal(images.decode(whole, spec=REDUCED), plain)


def test_read_asks_the_pictures_for_their_file_where_they_have_one():
    data = encoded(photo(480, 640), "JPEG")

    class Files:
        def source(self, i):
            return data[:-9 * i] if i else data, f"picture {i}"

    class Arrays:
        def read(self, i):
            return photo(480, 640)

    assert np.array_equal(images.read(Files(), 0, REDUCED), images.decode(data, spec=REDUCED))
    assert np.array_equal(images.read(Files(), 0, FULL), images.decode(data))
    assert images.read(Files(), 0, REDUCED, PRESETS["simclr"].box).shape == (480, 640, 3)
    with pytest.raises(ImageError, match="picture 1: truncated"):
        images.read(Files(), 1, REDUCED)
    assert np.array_equal(images.read(Arrays(), 0, REDUCED), photo(480, 640))


# preprocessing -----------------------------------------------------------------------------------
def test_preprocess_is_resize_crop_normalise():
    image = picture(100, 130)
    got = transforms.preprocess(image, SPEC)
    assert got.shape == (3, 56, 56) and got.dtype == np.float32 and got.flags.c_contiguous
    small = cv2.resize(image, (130 * 64 // 100, 64), interpolation=cv2.INTER_AREA)
    left = (small.shape[1] - 56) // 2
    crop = small[4:60, left:left + 56].astype(np.float64) / 255
    want = ((crop - transforms.IMAGENET_MEAN) / transforms.IMAGENET_STD).transpose(2, 0, 1)
    assert np.abs(got - want).max() < 1e-6


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 90), st.sampled_from(sorted(PRESETS)))
def test_any_image_size_gives_the_crop(height, width, crop, kind):
    spec = transforms.preprocess_spec(max(crop, 70), crop)
    image = np.full((height, width, 3), 128, np.uint8)
    got = transforms.augment(image, spec, PRESETS[kind], transforms.item_rng(0, 0, height))
    assert got.shape == (3, crop, crop) and np.isfinite(got).all()


@pytest.mark.parametrize("size, kind, mean, largest", [((320, 240), "smooth", 1.0, 6), ((640, 480), "smooth", 1.0, 6),
                                                       ((32, 32), "noise", 0.7, 2), ((640, 480), "noise", 9.0, 75)])
def test_resize_is_near_pillow(size, kind, mean, largest):
    """Stated tolerance, in 8-bit steps. Enlarging: Pillow's bilinear up to rounding. Shrinking: our box and Pillow's
    triangle average other neighbourhoods; on pure noise, the worst case, they still differ by a few steps only."""
    if kind == "noise":
        image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    else:
        image = picture(size[1], size[0])
    ours = transforms.resize_short(image, 256)
    pillow = np.asarray(Image.fromarray(image).resize((ours.shape[1], ours.shape[0]), Image.BILINEAR))
    difference = np.abs(ours.astype(int) - pillow.astype(int))
    assert difference.mean() <= mean and difference.max() <= largest, (difference.mean(), difference.max())


def test_shrinking_does_not_alias():
    checks = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    small = transforms.resize_short(np.repeat(checks[..., None], 3, 2), 100)
    assert np.abs(small.astype(int) - 127).max() < 20


def test_bad_specs_are_refused():
    for bad in ({"resize_size": 100, "crop_size": 101}, {"crop_size": 0}, {"std": (1, 0, 1)}, {"mean": (0, 0)}):
        with pytest.raises(InputError):
            transforms.preprocess_spec(**bad)


# augmentation ------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["crop_flip", "simclr"])
def test_an_item_depends_on_seed_epoch_index_and_view_only(kind):
    image = picture(100, 130)
    one = transforms.augment(image, SPEC, PRESETS[kind], transforms.item_rng(1, 2, 3, 0))
    transforms.augment(picture(50, 50), SPEC, PRESETS[kind], transforms.item_rng(9, 9, 9))  # other work in between
    np.random.seed(5)
    assert np.array_equal(one, transforms.augment(image, SPEC, PRESETS[kind], transforms.item_rng(1, 2, 3, 0)))
    others = [transforms.augment(image, SPEC, PRESETS[kind], transforms.item_rng(*other))
              for other in ((2, 2, 3, 0), (1, 3, 3, 0), (1, 2, 4, 0), (1, 2, 3, 1))]
    assert all(not np.array_equal(one, other) for other in others)


def test_crop_flip_shows_windows_of_the_resized_image():
    """Every output is a window of the resized image, mirrored or not; both happen, and the corners are reached."""
    image = picture(64, 64)
    spec = transforms.preprocess_spec(64, 62)
    windows = {}
    for top in range(3):
        for left in range(3):
            for flip in (1, -1):
                crop = image[top:top + 62, left:left + 62][:, ::flip]
                windows[transforms.normalise(np.ascontiguousarray(crop), spec).tobytes()] = (top, left, flip)
    seen = {windows[transforms.augment(image, spec, PRESETS["crop_flip"], transforms.item_rng(0, 0, i)).tobytes()]
            for i in range(300)}
    assert len(seen) == 18


def test_simclr_statistics():
    """Frequencies of grey (0.2) and of untouched pixels stay within four standard deviations."""
    image = np.zeros((80, 80, 3), np.uint8)
    image[...] = (200, 90, 40)
    spec = transforms.preprocess_spec(32, 32, mean=(0, 0, 0), std=(1, 1, 1))
    n, grey, same = 800, 0, 0
    for i in range(n):
        got = np.rint(transforms.augment(image, spec, PRESETS["simclr"], transforms.item_rng(0, 0, i)) * 255)
        assert got.min() >= 0 and got.max() <= 255
        grey += (got[0] == got[1]).all() and (got[1] == got[2]).all()
        same += (got == np.array([200, 90, 40])[:, None, None]).all()
    assert abs(grey / n - 0.2) < 4 * (0.2 * 0.8 / n) ** 0.5
    # neither jitter (p 0.8) nor grey; blur changes nothing on one colour
    assert abs(same / n - 0.2 * 0.8) < 4 * (0.16 * 0.84 / n) ** 0.5


def test_simclr_crops_cover_a_fifth_to_all():
    rng = transforms.item_rng(0, 0, 0)
    boxes = [transforms._random_box(300, 400, PRESETS["simclr"].box, rng) for _ in range(500)]
    share = np.array([h * w for _, _, h, w in boxes]) / (300 * 400)
    assert share.min() > 0.19 and share.max() > 0.9
    assert all(0 <= t and t + h <= 300 and 0 <= left and left + w <= 400 for t, left, h, w in boxes)
    aspect = np.array([w / h for _, _, h, w in boxes])
    assert aspect.min() > 0.73 and aspect.max() < 1.37


def test_the_module_needs_no_paddle_and_starts_no_threads():
    code = ("import sys; from utils import transforms; import cv2; "
            "print('paddle' in sys.modules, cv2.getNumThreads())")
    root = pathlib.Path(transforms.__file__).parents[1]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert out.stdout.split()[0] == "False" and out.stdout.split()[1] in ("0", "1")
