"""Curves as CSV and PNG, and the picture grid of queries and their matches.

matplotlib is imported when something is drawn, and only its Agg canvas: no display, no global state, the same bytes
for the same input.
"""
import contextlib
import csv
import io
import unicodedata
import warnings

import numpy as np

from utils.errors import InputError
from utils.files import atomic_path, write_text

INK, GREY, GREEN, RED, BLUE = "#222222", "#9aa0a6", "#1f9d55", "#d0342c", "#2364aa"
_CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei",
              "SimHei", "Microsoft YaHei", "PingFang SC")


# curves -------------------------------------------------------------------------------------
def save_curves(prefix, curves, title=""):
    """Write ``prefix``.csv and ``prefix``.png.

    Args:
        prefix: path without ending.
        curves: result of ``utils.retrieval.metrics.curves``.
        title: above the plots.

    Returns:
        the two paths.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["curve", "at", "precision", "recall"])
    rank, radius = curves["rank"], curves["radius"]
    for name, rows in (("rank", zip(rank["rank"], rank["precision"], rank["recall"])),
                       ("radius", zip(radius["radius"], radius["precision"], radius["recall"])),
                       ("radius_found", zip(radius["radius"], radius["precision_found"], radius["recall_found"]))):
        writer.writerows([name, *row] for row in rows)
    paths = f"{prefix}.csv", f"{prefix}.png"
    write_text(paths[0], text.getvalue())

    with _style():
        figure = _figure(900, 400)
        by_recall, by_rank = figure.subplots(1, 2)
        by_recall.plot(rank["recall"], rank["precision"], color=BLUE, label="by rank")
        by_recall.plot(radius["recall"], radius["precision"], color=RED, linestyle="--", marker=".", label="by radius")
        by_recall.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="precision - recall")
        by_recall.legend(frameon=False)
        by_rank.plot(rank["rank"], rank["precision"], color=BLUE)
        by_rank.set(xlabel="N", ylabel="precision", xscale="log", ylim=(0, 1.02), title="precision of the first N")
        for axes in (by_recall, by_rank):
            axes.grid(color="#e6e6e6")
            axes.spines[["top", "right"]].set_visible(False)
        figure.suptitle(_clean(title), parse_math=False)
        figure.tight_layout()
        _save(figure, paths[1])
    return paths


# picture grid -------------------------------------------------------------------------------
def retrieval_grid(path, rows, size=144, title="", headings=("query", "nearest items")):
    """A picture: each row a query and, behind a line, its matches in order, nearest first.

    Under a match stand its Hamming distance and caption; its frame is green when it is relevant, red when it is not,
    grey when that is not known.

    Args:
        path: PNG file.
        rows: list of dicts ``{"query": item, "caption": text or absent, "matches": [match, ...]}``; a match is a dict
            ``{"item": item, "distance": int, "relevant": True, False or None (or absent), "caption": text or absent}``;
            an item is a picture, uint8 [H, W, 3] RGB, or a text.
        size: side of a picture's cell, pixels.
        title: above the grid. headings: above the first column and the others.

    Raises:
        InputError: no rows, an item that is neither picture nor text, or a path that cannot be written.
    """
    columns = max((len(row["matches"]) for row in rows), default=0)
    if not columns:
        raise InputError("no matches to draw")
    frame, gap, line, left = 5, 10, 17, 14
    cell_w, cell_h = size + 2 * frame + gap, size + 2 * frame + gap + 2 * line
    split = 18  # between the query and its matches
    top = 30 + (26 if title else 0)
    width, height = left * 2 + split + cell_w * (columns + 1) - gap, top + cell_h * len(rows) + 8
    if max(width, height) >= 2 ** 16:
        raise InputError(f"a picture grid of {len(rows)} x {columns + 1} cells is too large to draw: fewer, or smaller")
    canvas = np.full((height, width, 3), 255, np.uint8)
    texts = []

    def draw(item, column, row, colour, lines):
        x = left + column * cell_w + (split if column else 0)
        y = top + row * cell_h
        side = size + 2 * frame
        canvas[y:y + side, x:x + side] = _rgb(colour)
        canvas[y + frame:y + frame + size, x + frame:x + frame + size] = 246
        if isinstance(item, str):
            texts.append((x + side / 2, y + side / 2, _wrap(item, int(size / 7.5), int(size / 17)), INK, 9, "center"))
        else:
            picture = _fit(item, size)
            h, w = picture.shape[:2]
            y0, x0 = y + frame + (size - h) // 2, x + frame + (size - w) // 2
            canvas[y0:y0 + h, x0:x0 + w] = picture
        for number, (text, text_colour) in enumerate(lines):
            texts.append((x + side / 2, y + side + 3 + number * line, _shorten(text, int(side / 7)), text_colour, 9,
                          "top"))

    for number, row in enumerate(rows):
        draw(row["query"], 0, number, INK, [(row.get("caption", ""), INK)])
        for place, match in enumerate(row["matches"], start=1):
            colour = {None: GREY, True: GREEN, False: RED}[_known(match.get("relevant"))]
            draw(match["item"], place, number, colour,
                 [(f"distance {int(match['distance'])}", colour if colour != GREY else INK),
                  (match.get("caption", ""), "#5f6368")])
    bar = left + cell_w + (split - gap) // 2
    canvas[top:height - 14, bar:bar + 1] = 208
    texts.append((left, top - 20, headings[0], "#5f6368", 9, "left"))
    texts.append((left + cell_w + split, top - 20, headings[1], "#5f6368", 9, "left"))
    if title:
        texts.append((left, 10, _clean(title), INK, 12, "left"))

    with _style():
        figure = _figure(width, height)
        figure.figimage(canvas, 0, 0, origin="upper")
        for x, y, text, colour, points, place in texts:
            figure.text(x / width, 1 - y / height, text, color=colour, fontsize=points, parse_math=False,
                        ha="left" if place == "left" else "center", va="center" if place == "center" else "top")
        _save(figure, path)


def _known(relevant):
    return None if relevant is None else bool(relevant)


def _rgb(colour):
    return [int(colour[i:i + 2], 16) for i in (1, 3, 5)]


def _fit(picture, size):
    """The whole picture within size x size, its proportions kept."""
    from PIL import Image
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3 or \
            picture.shape[2] != 3 or not picture.size:
        raise InputError("an item of the picture grid must be a text or a picture, uint8 [height, width, 3]")
    h, w = picture.shape[:2]
    scale = size / max(h, w)
    shape = max(1, round(w * scale)), max(1, round(h * scale))
    return np.asarray(Image.fromarray(picture).resize(shape, Image.LANCZOS if scale < 1 else Image.BICUBIC))


def _clean(text):
    """Printable text: no line breaks, no halves of surrogate pairs."""
    text = str(text).encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() else " " for c in text).strip()


def _columns(character):
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _shorten(text, columns):
    """At most ``columns`` wide; of a path the end is what tells items apart, so the front is cut."""
    text = _clean(text)
    if sum(map(_columns, text)) <= columns:
        return text
    kept, used = [], 1
    for character in reversed(text) if "/" in text else text:
        used += _columns(character)
        if used > columns:
            break
        kept.append(character)
    return "…" + "".join(reversed(kept)) if "/" in text else "".join(kept) + "…"


def _wrap(text, columns, lines):
    """Text broken into at most ``lines`` lines; words longer than a line, and Chinese, break anywhere."""
    out, used = [""], 0
    for word in _clean(text).split(" "):
        need = sum(map(_columns, word))
        if used and used + 1 + need > columns and need <= columns:
            out, used = out + [""], 0
        elif used:
            out[-1], used = out[-1] + " ", used + 1
        for character in word:
            if used + _columns(character) > columns:
                out, used = out + [""], 0
            out[-1], used = out[-1] + character, used + _columns(character)
    if len(out) > lines:
        out = out[:lines]
        out[-1] = out[-1][:max(0, columns - 1)] + "…"
    return "\n".join(out)


def save_history(prefix, history, title=""):
    """Write ``prefix``.csv and ``prefix``.png: training loss and mAP by epoch.

    Args:
        prefix: path without ending.
        history: list of dicts ``epoch``, ``loss`` (mean of that epoch) and ``score`` (mAP, None without labels), as in
            result.json.
        title: above the plot.

    Returns:
        the two paths.
    """
    columns = {key: [row[key] for row in history] for key in ("epoch", "loss", "score")}
    paths = f"{prefix}.csv", f"{prefix}.png"
    write_text(paths[0], "".join(",".join("" if value is None else str(value) for value in row) + "\n"
                                 for row in (tuple(columns), *zip(*columns.values()))))
    with _style():
        figure = _figure(600, 400)
        losses = figure.subplots()
        losses.plot(columns["epoch"], columns["loss"], color=RED, marker=".")
        losses.set(xlabel="epoch", title=_clean(title))
        losses.set_ylabel("training loss", color=RED)
        if None not in columns["score"]:
            scores = losses.twinx()
            scores.plot(columns["epoch"], columns["score"], color=BLUE, marker=".")
            scores.set_ylabel("mAP", color=BLUE)
        figure.tight_layout()
        _save(figure, paths[1])
    return paths


# matplotlib ---------------------------------------------------------------------------------
def _figure(width, height):
    """An Agg figure of width x height pixels, outside of pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


@contextlib.contextmanager
def _style():
    """matplotlib's own defaults, whatever the user's settings; Chinese where a font for it is installed."""
    import matplotlib.style
    from matplotlib import font_manager
    installed = {font.name for font in font_manager.fontManager.ttflist}
    family = ["DejaVu Sans", *(name for name in _CJK_FONTS if name in installed)]
    with matplotlib.style.context(["default", {"font.family": family}]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a script that no installed font has: boxes
        yield


def _save(figure, path):
    """PNG without date or version inside, written atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
