"""The embedded ``shapes`` set: pictures of drawn objects with labels and captions, made from a seed in seconds.

Twelve kinds of objects are the labels; an image shows one to three objects, turned, of any size, in one of eight
colours and five textures, on one of five backgrounds, with stray lines, uneven light and grain. Each kind has a
favourite colour that it wears most of the time, as things in the world do, and pairs of kinds share one: colour helps,
but only shape tells. The caption says most of what is there, in changing words, with words around it that mean
nothing.

Everything is integer arithmetic on hashed numbers (draw.py) and our own JPEG encoder (jpeg.py), so a seed gives the
same bytes on every machine. An image depends on the seed and its number only, not on the sizes.
"""
import functools
import json
import os
import re
import shutil
import tempfile

import numpy as np

from utils.datasets import list_file, lists, text_files
from utils.datasets.base import DATA, DataSet, holds
from utils.datasets.protocols.jpeg_encoder import encode_batch
from utils.datasets.seeded import Draw, hashes, key, permutation
from utils.errors import InputError, printable

VERSION = 1  # part of the folder name: raise it whenever a pixel or a word of the set changes
SIZE = 128
FAVOURITE = 80  # percent of the objects that wear the favourite colour of their kind
_OWN = re.compile(r"v\d+-query\d+-train\d+-database\d+-seed\d+")  # names of drawn sets
SIZES = {"query": 200, "train": 1000, "database": 2000}
DEFAULT_ROOT = os.path.join(DATA, "shapes")

# kind -> (words for it, favourite colour)
KINDS = {"disc": (("disc", "ball"), "red"), "ring": (("ring", "hoop"), "orange"), "square": (("square", "box"), "blue"),
         "triangle": (("triangle", "pyramid"), "teal"), "star": (("star",), "yellow"),
         "cross": (("cross", "plus sign"), "purple"), "heart": (("heart",), "pink"),
         "moon": (("moon", "crescent"), "yellow"), "leaf": (("leaf",), "green"), "drop": (("drop", "tear"), "blue"),
         "arrow": (("arrow", "pointer"), "red"), "flower": (("flower", "blossom"), "pink")}
CLASSES = list(KINDS)
COLOURS = {"red": (214, 48, 44), "orange": (238, 134, 30), "yellow": (236, 208, 56), "green": (62, 160, 62),
           "teal": (40, 168, 168), "blue": (52, 86, 206), "purple": (136, 62, 176), "pink": (240, 130, 180)}
TEXTURES = ("plain", "striped", "dotted", "checked", "shaded")
GROUNDS = ("plain", "cloudy", "striped", "tiled", "faded")
OPENINGS = ("a photo of", "here is", "look,", "we saw", "picture with", "", "my", "today:", "found", "image of")
ENDINGS = ("", "", "taken on monday", "nice light", "for sale", "from our trip", "please comment", "number nine",
           "what a day", "old camera", "not edited", "by the window")

# sin(k pi / 32) * 4096 for k = 0..16
_SINE = (0, 401, 799, 1189, 1567, 1931, 2276, 2598, 2896, 3166, 3406, 3612, 3784, 3920, 4017, 4076, 4096)


def _sine(k):
    """sin(k pi / 32) * 4096 for any integer k."""
    k %= 64
    sign, k = (1, k) if k < 32 else (-1, k - 32)
    return sign * _SINE[k if k <= 16 else 32 - k]


def _polygon(points):
    """bool [256, 256] of the points inside a polygon (even-odd rule), corners in -128..127, x to the right, y down."""
    y, x = np.mgrid[-128:128, -128:128]
    inside = np.zeros((256, 256), bool)
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1]):
        if y0 != y1:
            if y0 > y1:
                x0, y0, x1, y1 = x1, y1, x0, y0
            inside ^= (y >= y0) & (y < y1) & ((x - x0) * (y1 - y0) < (x1 - x0) * (y - y0))
    return inside


@functools.lru_cache(maxsize=None)
def _templates():
    """bool [kinds, 256, 256], each kind upright, about 120 units in radius."""
    y, x = np.mgrid[-128:128, -128:128]
    square = x * x + y * y
    corners = [((120 if i % 2 == 0 else 50) * _sine(i * 64 // 10) // 4096,
                -(120 if i % 2 == 0 else 50) * _sine(i * 64 // 10 + 16) // 4096) for i in range(10)]
    petals = [(x - 72 * _sine(k) // 4096) ** 2 + (y + 72 * _sine(k + 16) // 4096) ** 2 < 46 ** 2
              for k in (0, 13, 26, 38, 51)]
    bumps = ((x - 52) ** 2 + (y + 42) ** 2 < 60 ** 2) | ((x + 52) ** 2 + (y + 42) ** 2 < 60 ** 2)
    shapes = {
        "disc": square < 112 ** 2,
        "ring": (square < 118 ** 2) & (square > 66 ** 2),
        "square": (abs(x) < 98) & (abs(y) < 98),
        "triangle": _polygon([(0, -118), (110, 84), (-110, 84)]),
        "star": _polygon(corners),
        "cross": (abs(x) < 114) & (abs(y) < 114) & ((abs(x) < 36) | (abs(y) < 36)),
        "heart": bumps | _polygon([(-103, -12), (0, -30), (103, -12), (0, 116)]),
        "moon": (square < 118 ** 2) & ((x - 56) ** 2 + y * y > 96 ** 2),
        "leaf": ((x - 75) ** 2 + y * y < 140 ** 2) & ((x + 75) ** 2 + y * y < 140 ** 2),
        "drop": (x * x + (y - 44) ** 2 < 72 ** 2) | _polygon([(0, -120), (68, 22), (-68, 22)]),
        "arrow": _polygon([(0, -118), (88, -10), (36, -10), (36, 114), (-36, 114), (-36, -10), (-88, -10)]),
        "flower": np.any(petals, axis=0) & (square > 20 ** 2),
    }
    return np.stack([shapes[name] for name in CLASSES])


_Y, _X = np.mgrid[0:SIZE, 0:SIZE].astype(np.int32)


# drawing -----------------------------------------------------------------------------------------
def draw_image(seed, group, number):
    """One picture.

    Args:
        seed, group, number: integers that name it; group 0 = query, 1 = database.

    Returns:
        uint8 [128, 128, 3] RGB, labels uint8 [12], caption str.
    """
    draw = Draw(VERSION, seed, group, number)
    ground = draw.pick(GROUNDS)
    canvas = _background(ground, draw)
    for _ in range(draw.below(3)):
        _line(canvas, draw)
    objects, placed = [], []
    for _ in range(draw.pick((1, 1, 1, 1, 2, 2, 2, 3, 3, 3))):
        place = _free_place(placed, draw)
        if place is not None:
            placed.append(place)
            objects.append(_object(canvas, place, draw))
    labels = np.zeros(len(CLASSES), np.uint8)
    labels[[CLASSES.index(item[0]) for item in objects]] = 1
    canvas = _light(canvas, key(VERSION, seed, group, number, 1), draw)
    return canvas.astype(np.uint8), labels, _caption(objects, ground, draw)


def _background(ground, draw):
    """int32 [128, 128, 3] in muted colours."""
    grey = draw.between(60, 190)
    first = np.array([grey + draw.between(-14, 14) for _ in range(3)], np.int32)
    second = first + draw.pick((-1, 1)) * draw.between(20, 50)
    if ground == "plain":
        mix = np.zeros((SIZE, SIZE), np.int32)
    elif ground == "cloudy":
        mix = (2 * _clouds(16, draw) + _clouds(8, draw)) // 3
    elif ground == "faded":
        a, b = draw.between(-16, 16), draw.between(-16, 16)
        mix = a * _X + b * _Y
        mix = (mix - mix.min()) * 256 // max(1, int(mix.max() - mix.min()))
    else:
        wide, a, b = draw.between(7, 20), draw.between(-4, 4), draw.between(1, 4)
        mix = (a * _X + b * _Y) // (4 * wide)
        if ground == "tiled":
            mix = _X // wide + _Y // wide
        mix = (mix & 1) * 256
    return first + (((second - first) * mix[..., None]) >> 8)


def _clouds(cell, draw):
    """int32 [128, 128] of 0..256: random values on a grid of ``cell`` pixels, linear in between."""
    n = SIZE // cell + 1
    grid = (hashes(key(draw.below(1 << 30)), n * n) >> np.uint64(56)).astype(np.int32).reshape(n, n)
    at, part = np.arange(SIZE) // cell, (np.arange(SIZE) % cell).astype(np.int32)
    rows = grid[at] * (cell - part)[:, None] + grid[at + 1] * part[:, None]
    return (rows[:, at] * (cell - part) + rows[:, at + 1] * part) // (cell * cell)


def _line(canvas, draw):
    """A stray stroke across the picture, in place."""
    k, wide = draw.below(64), draw.between(1, 2)
    distance = (_X - draw.below(SIZE)) * _sine(k) + (_Y - draw.below(SIZE)) * _sine(k + 16)
    canvas[abs(distance) < wide * 4096] = draw.between(30, 220)


def _free_place(placed, draw):
    """(x, y, radius) that hides none of ``placed`` by much, or None."""
    for _ in range(8):
        radius = draw.between(22, 44)
        x, y = draw.between(radius - 6, SIZE - radius + 6), draw.between(radius - 6, SIZE - radius + 6)
        if all(100 * ((x - a) ** 2 + (y - b) ** 2) > 81 * (radius + r) ** 2 for a, b, r in placed):
            return x, y, radius
    return None


def _object(canvas, place, draw):
    """Draw one object in place; returns (kind, colour, texture)."""
    x, y, radius = place
    kind = draw.pick(CLASSES)
    colour = KINDS[kind][1] if draw.below(100) < FAVOURITE else draw.pick(tuple(COLOURS))
    texture = draw.pick(TEXTURES + ("plain",))
    k = draw.between(-5, 5)  # turned by up to 28 degrees
    reach = radius * 3 // 2
    left, right, top, bottom = max(0, x - reach), min(SIZE, x + reach), max(0, y - reach), min(SIZE, y + reach)
    # template coordinates of 2 x 2 samples a pixel
    dx = 2 * (np.arange(2 * left, 2 * right) - 2 * x) + 1
    dy = (2 * (np.arange(2 * top, 2 * bottom) - 2 * y) + 1)[:, None]
    sine, cosine = _sine(k) * 120, _sine(k + 16) * 120
    u = np.clip((dx * cosine + dy * sine) // (16384 * radius) + 128, 0, 255)
    v = np.clip((dy * cosine - dx * sine) // (16384 * radius) + 128, 0, 255)
    inside = _templates()[CLASSES.index(kind)][v, u].view(np.uint8)
    cover = inside[0::2, 0::2] + inside[0::2, 1::2] + inside[1::2, 0::2] + inside[1::2, 1::2]
    base = np.array([min(255, max(0, c + draw.between(-22, 22))) for c in COLOURS[colour]], np.int32)
    other = base * 9 // 16 if draw.below(2) else base + (255 - base) * 9 // 16
    pattern = _pattern(texture, u[0::2, 0::2], v[0::2, 0::2], draw)[..., None]
    paint = base + (((other - base) * pattern) >> 8)
    patch = canvas[top:bottom, left:right]
    patch += ((paint - patch) * cover[..., None].astype(np.int32) + 2) >> 2
    return kind, colour, texture


def _pattern(texture, u, v, draw):
    """int32, 0 = first colour, 256 = second, from template coordinates 0..255."""
    wide = draw.between(22, 40)
    if texture == "striped":
        return ((u // wide) & 1) << 8
    if texture == "checked":
        return ((u // wide + v // wide) & 1) << 8
    if texture == "dotted":
        return ((u % wide - wide // 2) ** 2 + (v % wide - wide // 2) ** 2 < wide * wide // 9).astype(np.int32) << 8
    return v if texture == "shaded" else np.zeros_like(u)


def _light(canvas, stream, draw):
    """Brightness, a shadow to one side, and grain; int32 [128, 128, 3] in 0..255."""
    level, a, b = draw.between(200, 290), draw.between(-50, 50), draw.between(-50, 50)
    gain = level + (a * (_X - SIZE // 2) + b * (_Y - SIZE // 2)) // SIZE
    amount = draw.between(4, 20)
    grain = hashes(stream, SIZE * SIZE * 3 // 8).astype("<u8").view(np.uint8).reshape(SIZE, SIZE, 3)
    grain = (grain.astype(np.int32) - 128) * amount >> 7
    return np.clip((canvas * gain[..., None] >> 8) + grain, 0, 255)


def _caption(objects, ground, draw):
    """A sentence that names the kinds, most colours and some textures."""
    said = []
    for number, (kind, colour, texture) in enumerate(objects, 1):
        words = [texture] * (draw.below(10) < 5) + [colour] * (draw.below(10) < 7) + [draw.pick(KINDS[kind][0])]
        if draw.below(10) < 9 or (number == len(objects) and not said):  # one thing at least is named
            said.append(("an " if words[0][0] in "aeiou" else "a ") + " ".join(words))
    things = " and ".join([", ".join(said[:-1])] * (len(said) > 1) + said[-1:])
    place = draw.pick((f" on a {ground} background", f" before a {ground} wall", "", ""))
    parts = (draw.pick(OPENINGS), things + place, draw.pick(ENDINGS))
    return " ".join(part for part in parts if part)


# files -------------------------------------------------------------------------------------------
def folder_name(sizes, seed):
    """Name of the folder of a set, by version, sizes and seed."""
    return "v{}-query{query}-train{train}-database{database}-seed{}".format(VERSION, seed, **sizes)


def generate(folder, sizes, seed=0):
    """Write a set to ``folder``, whole or not at all; nothing is done where it exists.

    Writes images/*.jpg, train.txt, query.txt, database.txt (image lists), texts.jsonl, classes.txt. Processes that
    start together write each their own copy; the first to finish wins.

    Args:
        folder: where to.
        sizes: dict with query, train, database.

    Raises:
        InputError: sizes that make no sense, or a folder that cannot be written.
    """
    if not (sizes["query"] > 0 and 0 < sizes["train"] <= sizes["database"]):
        raise InputError(f"shapes needs query > 0 and 0 < train <= database, got {sizes}")
    if os.path.isdir(folder):
        return
    parent = os.path.dirname(os.path.abspath(folder))
    temporary = None
    try:
        os.makedirs(parent, exist_ok=True)
        temporary = tempfile.mkdtemp(prefix=".part-", dir=parent)
        os.mkdir(os.path.join(temporary, "images"))
        _write(temporary, sizes, seed)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o777 & ~umask)  # mkdtemp makes private folders
        try:
            os.rename(temporary, folder)
        except OSError:
            if not os.path.isdir(folder):  # else another process was faster, with the same bytes
                raise
    except OSError as error:
        raise InputError(f"cannot write the shapes set to {folder}: {error.strerror or error}; choose another place "
                         "with --data-path") from error
    finally:
        if temporary and os.path.isdir(temporary):
            shutil.rmtree(temporary, ignore_errors=True)


def _write(folder, sizes, seed):
    paths, labels = {}, {}
    with open(os.path.join(folder, "texts.jsonl"), "w", encoding="utf-8", newline="\n") as texts:
        for group, split in enumerate(("query", "database")):
            paths[split] = [f"images/{split[0]}{i:06d}.jpg" for i in range(sizes[split])]
            labels[split] = np.zeros((sizes[split], len(CLASSES)), np.uint8)
            for start in range(0, sizes[split], 16):
                numbers = range(start, min(start + 16, sizes[split]))
                images = []
                for i in numbers:
                    image, labels[split][i], text = draw_image(seed, group, i)
                    images.append(image)
                    texts.write(json.dumps({"image": paths[split][i], "text": text}) + "\n")
                for i, data in zip(numbers, encode_batch(np.stack(images))):
                    with open(os.path.join(folder, paths[split][i]), "wb") as file:
                        file.write(data)
    order = permutation(sizes["database"], seed, 2)
    chosen = {"query": ("query", np.arange(sizes["query"])), "database": ("database", order),
              "train": ("database", permutation(sizes["database"], seed, 3)[:sizes["train"]])}
    for name, (split, rows) in chosen.items():
        text = list_file.write_lines([paths[split][i] for i in rows], labels[split][rows])
        _write_text(os.path.join(folder, f"{name}.txt"), text)
    _write_text(os.path.join(folder, "classes.txt"), "\n".join(CLASSES) + "\n")


def _write_text(path, text):
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)


def all_sizes(sizes):
    """SIZES, changed by the given ``num_query``, ``num_train``, ``num_database``."""
    return {key: sizes.get(f"num_{key}", value) for key, value in SIZES.items()}


def locate(root, seed, sizes):
    """Folder of the set: ``root`` itself if it holds one, else the sub-folder by sizes and seed."""
    root = os.path.normpath(root or DEFAULT_ROOT)
    if os.path.isfile(os.path.join(root, "texts.jsonl")):
        return root
    folder = os.path.join(root, folder_name(all_sizes(sizes), seed))
    if not os.path.isdir(folder):
        _need_own_folder(root)
    return folder


def _need_own_folder(root):
    """Raise InputError where a set would be drawn between somebody's files."""
    if os.path.abspath(root).startswith(os.path.join(DATA, "")) or not os.path.isdir(root):
        return
    other = [name for name in sorted(os.listdir(root)) if not _OWN.fullmatch(name) and not name.startswith(".")]
    if other:
        raise InputError(f"the folder {root} holds other files ({', '.join(other[:3])}{', ...' * (len(other) > 3)}), "
                         "and the shapes set is drawn into a folder of its own: name a new or empty one with "
                         "--data-path, or name the data that lie there with --dataset")


def make(request, any_count=False):
    """Generate the set below the root (data/shapes by default)."""
    if any_count:
        raise InputError("shapes has no official counts; leave out --any-count")
    folder = locate(request.root, request.seed, request.sizes)
    generate(folder, all_sizes(request.sizes), request.seed)
    print(printable(f"shapes: {folder}"))


def load(request):
    """Protocol of the set, generated on first use."""
    folder = locate(request.root, request.seed, request.sizes)
    if not request.may_draw and not os.path.isdir(folder):
        flags = "".join(f" --{key.replace('_', '-')} {value}" for key, value in request.sizes.items())
        raise InputError(f"the shapes set is not at {folder}, and it is not drawn here: give its folder with "
                         f"--data-path, or draw it with python -m utils.datasets make shapes --root "
                         f"{request.root or DEFAULT_ROOT} --seed {request.seed}{flags}")
    generate(folder, all_sizes(request.sizes), request.seed)
    protocol = lists.load_lists("shapes", folder, request.list_dir or folder, request.seed, on_fault=request.on_fault)
    text_files.add_texts(protocol, os.path.join(folder, "texts.jsonl"))
    return protocol


DATA_SETS = (DataSet(name="shapes", load=load, make=make, counts=(SIZES["query"], SIZES["train"], SIZES["database"]),
                     topk=0, classes=len(CLASSES), sizes=("num_query", "num_train", "num_database"),
                     source="Apache 2.0; drawn by this project on first use",
                     recognises=holds("v[0-9]*-query*-train*-database*-seed*", "images/q000000.jpg")),)
