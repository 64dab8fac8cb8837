"""Curves and picture grids: the figures in the files are the figures given, the frames have the right colours."""
import csv
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from utils.errors import InputError
from utils.plots import GREEN, GREY, RED, retrieval_grid, save_curves, save_history
from utils.retrieval.hamming import pack
from utils.retrieval.metrics import curves

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def some_curves():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (60, 3)).astype(np.uint8)
    codes = pack(rng.standard_normal((60, 16)))
    return curves(codes[:10], codes[10:], labels[:10], labels[10:], 16)


def test_curves_as_csv_and_png(tmp_path):
    data = some_curves()
    paths = save_curves(str(tmp_path / "sub" / "pr_curve"), data, title="16 bits, $ 100 % $")
    assert [os.path.basename(p) for p in paths] == ["pr_curve.csv", "pr_curve.png"]
    with open(paths[0], newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name, part, kind in ("rank", "rank", ""), ("radius", "radius", ""), ("radius_found", "radius", "_found"):
        found = [(int(r["at"]), float(r["precision"]), float(r["recall"])) for r in rows if r["curve"] == name]
        assert found == list(zip(data[part][part], data[part]["precision" + kind], data[part]["recall" + kind]))
    with Image.open(paths[1]) as image:
        image.load()
        assert image.format == "PNG" and min(image.size) >= 300


def test_one_item_has_curves_too(tmp_path):
    one, label = pack(np.ones((1, 8))), np.ones((1, 1), np.uint8)
    save_curves(str(tmp_path / "one"), curves(one, one, label, label, 8))
    assert (tmp_path / "one.png").stat().st_size > 1000


@pytest.mark.parametrize("scores", [(0.2, 0.3), (None, None)])
def test_training_history(tmp_path, scores):
    history = [{"epoch": 5 * (i + 1), "loss": 2.5 - i, "score": score} for i, score in enumerate(scores)]
    paths = save_history(str(tmp_path / "training_curve"), history, "nsh")
    with open(paths[0], newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [(int(row["epoch"]), float(row["loss"])) for row in found] == [(5, 2.5), (10, 1.5)]
    assert [row["score"] for row in found] == ["" if score is None else str(score) for score in scores]
    with Image.open(paths[1]) as image:
        image.load()
        assert image.format == "PNG"


def picture(colour, height=40, width=40):
    return np.full((height, width, 3), colour, np.uint8)


def rows():
    match = {"item": picture((10, 20, 200)), "distance": 3, "caption": "b.jpg"}
    return [{"query": picture((200, 200, 10), 20, 80), "caption": "a.jpg",
             "matches": [{**match, "relevant": True}, {**match, "relevant": np.bool_(False)}, match]}]


def count(path, colour):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    if isinstance(colour, str):
        colour = [int(colour[i:i + 2], 16) for i in (1, 3, 5)]
    return int((pixels == np.array(colour)).all(2).sum())


def test_grid_shows_pictures_and_frames(tmp_path):
    path = tmp_path / "grid.png"
    retrieval_grid(str(path), rows(), size=100)
    assert count(path, (10, 20, 200)) == 3 * 100 * 100  # square pictures fill their cells
    assert count(path, (200, 200, 10)) == 100 * 25  # 4 : 1 keeps its proportions
    frame = 110 * 110 - 100 * 100
    for colour in (GREEN, RED, GREY):
        assert frame <= count(path, colour) < frame + 800  # and the coloured text below
    with Image.open(path) as image:
        assert image.width < 700 and image.height < 250


def test_grid_of_uneven_rows_texts_and_difficult_captions(tmp_path):
    data = rows()
    data.append({"query": "two words\nand 红色的圆形 " + "endless" * 60, "matches": data[0]["matches"][:1]})
    data.append({"query": picture((1, 2, 3), 1, 300), "caption": "\udcff$\\frac{$\n" + "x/" * 300,
                 "matches": [{"item": "", "distance": np.int32(0), "relevant": None}]})
    retrieval_grid(str(tmp_path / "grid.png"), data, title="$a_{b}$ 查询\n")
    with Image.open(tmp_path / "grid.png") as image:
        image.load()


def test_same_input_same_bytes(tmp_path):
    for name in "ab":
        retrieval_grid(str(tmp_path / f"{name}.png"), rows(), title="t")
        save_curves(str(tmp_path / f"curve_{name}"), some_curves())
    for pair in ("a.png", "b.png"), ("curve_a.png", "curve_b.png"), ("curve_a.csv", "curve_b.csv"):
        assert (tmp_path / pair[0]).read_bytes() == (tmp_path / pair[1]).read_bytes()


@pytest.mark.parametrize("broken, words", [
    ([], "no matches"),
    ([{"query": picture(0), "matches": []}], "no matches"),
    ([{"query": np.zeros((4, 4)), "matches": rows()[0]["matches"]}], "uint8"),
    ([{"query": picture(0, 0, 5), "matches": rows()[0]["matches"]}], "uint8"),
    ([{"query": picture(0), "matches": rows()[0]["matches"] * 200}], "too large"),
])
def test_what_cannot_be_drawn_is_one_clear_line(tmp_path, broken, words):
    with pytest.raises(InputError, match=words):
        retrieval_grid(str(tmp_path / "grid.png"), broken)
    assert not list(tmp_path.iterdir())


def test_matplotlib_is_imported_when_needed_and_needs_no_display(tmp_path):
    code = ("import sys, utils.plots as p; assert 'matplotlib' not in sys.modules; import numpy as np; "
            f"p.retrieval_grid({str(tmp_path / 'g.png')!r}, [dict(query='q', matches=[dict(item='m', distance=1)])]); "
            "assert 'matplotlib.pyplot' not in sys.modules")
    env = {**os.environ, "MPLBACKEND": "TkAgg", "DISPLAY": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "g.png").exists()
