"""Names of files hold anything but a slash and NUL; messages show it escaped, in one line."""
import json
import os

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from utils.errors import InputError, printable

HOSTILE = "a\x1b[31m\nb\u202e.jpg"
ESCAPED = r"a\x1b[31m\nb\u202e.jpg"


@given(st.text(st.characters()))
def test_any_text_becomes_one_line_that_can_be_written(text):
    shown = printable(text)
    assert shown.splitlines() in ([shown], []) and not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)
    shown.encode("utf-8")
    assert printable(shown) == shown
    assert str(InputError(text)) == shown


def test_what_stays_and_what_does_not():
    for text in ("caf\u00e9 \u65e5\u672c\u8a9e \u3000 \U0001f469\u200d\U0001f680 C:\\x", ""):
        assert printable(text) == text
    assert printable(HOSTILE) == ESCAPED and printable("\0\t\x9b") == r"\x00\t\x9b"
    assert printable(os.fsdecode(b"caf\xe9.jpg")) == r"caf\xe9.jpg" and printable("\ud800") == r"\ud800"


def test_every_command_escapes_names(tmp_path, run):
    """A broken picture with a hostile name: check, a manifest that names it, and its own folder."""
    folder = tmp_path / "pics\x1b]0;x\x07"
    folder.mkdir()
    for name in (HOSTILE, "b.jpg", "c.jpg"):
        Image.new("RGB", (9, 9)).save(folder / name, "JPEG")
    (folder / HOSTILE).write_bytes(b"no image")
    os.rename(folder / "c.jpg", os.fsencode(folder) + b"/\xff.jpg")
    done = run("-m", "utils.datasets", "check", folder, "--num-query", 1, ok=False)
    assert done.returncode == 1 and ESCAPED in done.stdout and "Traceback" not in done.stderr
    manifest = folder / "m.jsonl"
    manifest.write_text("".join(json.dumps({"path": name}) + "\n" for name in ("b.jpg", "b.jpg", HOSTILE)))
    listed = run("-m", "utils.datasets", "check", manifest, ok=False)
    gone = run("-m", "utils.datasets", "check", tmp_path / "gone\x1b\n", ok=False)
    assert ESCAPED in listed.stdout and gone.returncode == 2
    for text in (done.stdout, listed.stdout, gone.stderr):
        assert "\x1b" not in text and "\u202e" not in text and "\x07" not in text
    assert gone.stderr.count("\n") == 1


def test_a_search_shows_hostile_names_escaped(tmp_path, run, shapes, tmp_path_factory):
    """The matches of predict.py: in the table, and as JSON that other programs read."""
    from tests.exported import exported
    model, gallery = exported(tmp_path_factory, shapes), tmp_path / "pics"
    gallery.mkdir()
    for number, name in enumerate((HOSTILE.encode(), b"caf\xe9.jpg", b"c.jpg")):
        with open(os.fsencode(gallery) + b"/" + name, "wb") as file:
            Image.new("RGB", (40, 30), (number * 90, 60, 30)).save(file, "JPEG")
    ask = ["predict.py", "--model-dir", model, "--gallery", gallery, "--img", gallery / "c.jpg", "--save-path",
           tmp_path / "out"]
    shown = run(*ask).stdout
    assert ESCAPED in shown and r"caf\xe9.jpg" in shown and "\x1b" not in shown and "\u202e" not in shown
    matches = json.loads(run(*ask, "--json").stdout)["queries"][0]["matches"]
    assert {match["id"] for match in matches} == {HOSTILE, os.fsdecode(b"caf\xe9.jpg"), "c.jpg"}
