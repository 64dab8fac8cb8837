"""Augmentations as recipe numbers: presets as ever, every number does what it says, mistakes are named."""
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import METHODS, find_method
from utils import images, transforms
from utils.augmentation import PRESETS, SETTINGS, Augmentation, augmentation, augmentation_key
from utils.config import parse, write_recipe
from utils.errors import InputError
from utils.transforms import item_rng, preprocess_spec, resize, resize_short, vary

SPEC = preprocess_spec(64, 56)


def picture(seed, height=70, width=90):
    noise = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def resolve(*argv):
    return parse(list(argv), METHODS, find_method)[0]


# presets: the draws that models were trained with before the numbers could be chosen -------------------------------
def jitter_as_ever(image, rng):
    factors, turn = rng.uniform(0.6, 1.4, 3), rng.uniform(-0.1, 0.1)
    for step in rng.permutation(4):
        if step < 2:
            mean = 0 if step == 0 else np.rint(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0])
            table = np.rint(np.arange(256) * factors[step] + mean * (1 - factors[step]))
            image = cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8))
        elif step == 2:
            luma = np.array([0.299, 0.587, 0.114])
            image = cv2.transform(image, factors[2] * np.eye(3) + (1 - factors[2]) * luma)
        else:
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
            hsv[..., 0] += np.uint8(int(np.rint(turn * 256)) % 256)
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    return image


def box_as_ever(height, width, rng):
    for _ in range(10):
        area = height * width * rng.uniform(0.2, 1.0)
        aspect = np.exp(rng.uniform(np.log(1 / (4 / 3)), np.log(4 / 3)))
        w, h = int(round((area * aspect) ** 0.5)), int(round((area / aspect) ** 0.5))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w, h = min(width, max(1, height * 4 // 3)), min(height, max(1, width * 4 // 3))
    return (height - h) // 2, (width - w) // 2, h, w


def vary_as_ever(image, spec, kind, rng):
    crop = spec["crop_size"]
    if kind == "none":
        return transforms.centre(image, spec)
    if kind == "crop_flip":
        image = resize_short(image, spec["resize_size"])
        top, left = int(rng.integers(image.shape[0] - crop + 1)), int(rng.integers(image.shape[1] - crop + 1))
        image = image[top:top + crop, left:left + crop]
    else:
        top, left, height, width = box_as_ever(*image.shape[:2], rng)
        image = resize(image[top:top + height, left:left + width], crop, crop)
        if rng.random() < 0.8:
            image = jitter_as_ever(image, rng)
        if rng.random() < 0.2:
            image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        if rng.random() < 0.5:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.1, 2.0))
    return cv2.flip(image, 1) if rng.random() < 0.5 else image


@pytest.mark.parametrize("kind", PRESETS)
@pytest.mark.parametrize("size", [(70, 90), (40, 300), (500, 31)])
def test_presets_draw_as_ever(kind, size):
    for i in range(60):
        image = picture(i, *size)
        one, other = item_rng(0, 1, i), item_rng(0, 1, i)
        np.testing.assert_array_equal(vary(image, SPEC, PRESETS[kind], one), vary_as_ever(image, SPEC, kind, other))
        assert one.random() == other.random()  # as many numbers were drawn


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 20000), st.integers(1, 20000))
def test_the_box_of_last_resort_is_as_ever(height, width):
    class Never:  # a generator that never finds a box: its areas are 0
        def uniform(self, low, high):
            return 0

    assert transforms._random_box(height, width, PRESETS["simclr"].box, Never()) == box_as_ever(height, width, Never())


# numbers -----------------------------------------------------------------------------------------------------------
def test_a_recipe_replaces_single_numbers_of_its_preset(tmp_path):
    assert augmentation(resolve()) == PRESETS["crop_flip"]
    assert augmentation({"augment": "simclr"}) == PRESETS["simclr"]  # a recipe from before
    recipe = resolve("--augment", "simclr", "--crop-scale", "0.5", "--jitter-p", "0.7", "--jitter", ".4,.4,.4,.1",
                     "--blur-kernel", "3", "--blur-sigma", "0.1,2")
    wanted = Augmentation("resized", 0.5, jitter_p=0.7, grey_p=0.2, blur_p=0.5, flip_p=0.5, blur_kernel=3)
    assert augmentation(recipe) == wanted
    write_recipe(str(tmp_path / "recipe.yaml"), recipe)
    again = resolve("--config", str(tmp_path / "recipe.yaml"))
    assert again == recipe and augmentation(again) == wanted
    assert augmentation(resolve("--crop", "resized", "--crop-scale", ".08")).box == (0.08, 4 / 3)


def test_what_names_an_augmentation_in_a_store_of_features():
    """Presets keep the name under which their features were stored."""
    assert [augmentation_key(preset) for preset in PRESETS.values()] == list(PRESETS)
    assert augmentation_key(augmentation(resolve("--augment", "simclr", "--grey-p", "0.2"))) == "simclr"
    other = augmentation_key(augmentation(resolve("--augment", "simclr", "--grey-p", "0.3")))
    assert other["grey_p"] == 0.3 and other["crop"] == "resized"


@pytest.mark.parametrize("flag, value, word", [
    ("crop", "middle", "centre"), ("crop-scale", "0", "above 0"), ("crop-scale", "1.5", "to 1"),
    ("crop-aspect", "0.5", "at least 1"), ("jitter", "0.4", "4 numbers"), ("jitter", "a,b,c,d", "4 numbers"),
    ("jitter", "1,1,1,0.6", "hue"), ("jitter", "1,1,-1,0", "at least 0"), ("jitter-p", "2", "0 to 1"),
    ("blur-sigma", "2,1", "smallest"), ("blur-sigma", "0,1", "above 0"), ("blur-kernel", "4", "odd"),
    ("blur-kernel", "x", "odd"), ("flip-p", "nan", "0 to 1"), ("augment", "simclear", "simclr")])
def test_a_mistake_is_one_line(flag, value, word):
    with pytest.raises(InputError, match=f"{flag.replace('-', '[-_]')}.*{word}"):
        resolve(f"--{flag}", value)


def test_the_settings_are_the_fields():
    assert set(SETTINGS) == {"augment", *Augmentation.__dataclass_fields__}
    assert all(setting.default is None for key, setting in SETTINGS.items() if key != "augment")


def share(numbers, test, n=600, image=None, spec=SPEC):
    """How often a view passes a test."""
    image = picture(0) if image is None else image
    return np.mean([test(vary(image, spec, numbers, item_rng(0, 0, i))) for i in range(n)])


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_probabilities(p):
    """Within four standard deviations; 0 and 1 exactly."""
    plain = transforms.centre(picture(0), SPEC)
    tests = {"grey_p": lambda view: (view[..., 0] == view[..., 1]).all() and (view[..., 1] == view[..., 2]).all(),
             "flip_p": lambda view: np.array_equal(view, plain[:, ::-1]),
             "jitter_p": lambda view: not np.array_equal(view, plain),
             "blur_p": lambda view: not np.array_equal(view, plain)}
    for name, test in tests.items():
        more = {"blur_sigma": (1.5, 2.0)} if name == "blur_p" else {}
        assert abs(share(Augmentation(**{name: p}, **more), test) - p) <= 4 * (p * (1 - p) / 600) ** 0.5, name


def test_the_reach_of_the_jitter():
    """Brightness 0.5 leaves a grey of 100 between 50 and 150; with hue alone a grey does not change."""
    grey = np.full((64, 64, 3), 100, np.uint8)
    views = [vary(grey, SPEC, Augmentation(jitter=(0.5, 0, 0, 0), jitter_p=1.0), item_rng(0, 0, i)) for i in range(300)]
    values = np.array([view[0, 0, 0] for view in views])
    assert 50 <= values.min() < 60 and 140 < values.max() <= 150
    assert share(Augmentation(jitter=(0, 0, 0, 0.5), jitter_p=1.0), lambda view: (view == 100).all(), 50, grey) == 1
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 200
    assert share(Augmentation(jitter=(0, 0, 0, 0.5), jitter_p=1.0), lambda view: view[0, 0, 0] < 100, 100, red) > 0.3
    nothing = Augmentation(jitter=(0, 0, 0, 0), jitter_p=1.0)
    assert share(nothing, lambda view: (view == red[:56, :56]).all(), 9, red) == 1


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 1), st.floats(1, 3), st.integers(20, 300), st.integers(20, 300), st.integers(0, 99))
def test_boxes_keep_to_their_numbers(scale, ratio, height, width, seed):
    top, left, h, w = transforms._random_box(height, width, (scale, ratio), item_rng(0, 0, seed))
    assert 0 <= top <= height - h and 0 <= left <= width - w and h > 0 and w > 0
    # rounding moves a side by a pixel at most; a box of last resort may be smaller, with the largest ratio
    assert (h + 1) * (w + 1) >= scale * height * width or max((h + 1) / w, (w + 1) / h) >= ratio


def test_a_blur_of_three_pixels_reaches_one_pixel_far():
    dot = np.zeros((64, 64, 3), np.uint8)
    dot[32, 32] = 255
    spec = preprocess_spec(64, 64)
    for kernel, reach in ((3, 3), (5, 5), (0, 13)):
        view = vary(dot, spec, Augmentation(blur_p=1.0, blur_sigma=(2.0, 2.0), blur_kernel=kernel), item_rng(0, 0, 0))
        rows = np.flatnonzero(view[..., 0].any(axis=1))
        assert rows[-1] - rows[0] + 1 <= reach and (kernel == 0) == (rows[-1] - rows[0] + 1 > 5)


@pytest.mark.parametrize("scale, ratio", [(0.08, 4 / 3), (0.2, 4 / 3), (0.5, 2.0), (1.0, 1.0)])
def test_reduced_decoding_leaves_enough_for_the_smallest_box(scale, ratio):
    spec = preprocess_spec(64, 56, decode="reduced")
    numbers = Augmentation("resized", scale, ratio)
    for size in (240, 400, 640):
        data = cv2.imencode(".jpg", picture(1, size, size + 40))[1].tobytes()
        small = images.decode(data, spec=spec, box=numbers.box)
        smallest = (scale / ratio * small.shape[0] * small.shape[1]) ** 0.5  # shorter side of the smallest box
        assert small.shape[0] == size or smallest >= 56
    # a larger smallest box allows smaller pictures
    sides = [images.decode(data, spec=spec, box=(area, ratio)).shape[0] for area in (0.08, 1.0)]
    assert sides[1] < sides[0]
