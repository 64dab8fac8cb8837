"""The README's commands work as printed. The tests only add flags that make them small."""
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import SHAPES_SIZES
from utils.errors import InputError

ROOT = pathlib.Path(__file__).resolve().parent.parent
SMALL_NET = "--backbone ConvNet --no-pretrained --resize-size 72 --crop-size 64 --epoch 1"
SMALL_SET = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in SHAPES_SIZES.items())
# what a command contains -> flags that make it small
SMALLER = [("--dataset shapes", f"--epoch 1 {SMALL_SET}"),
           ("--dataset my_images", SMALL_NET),
           ("cifar10-1_frozen.yaml",
            "--epoch 1 --resize-size 64 --crop-size 64 --train-per-class 20 --query-per-class 5")]
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?|\.\d+")


def commands(path):
    """The commands of the ``sh`` blocks that are not marked ``<!-- not run: reason -->``."""
    found = []
    text = path.read_text(encoding="utf-8")
    for note, block in re.findall(r"(<!-- not run: [^>]+ -->\n)?```sh\n(.*?)```", text, re.S):
        if not note:
            lines = block.replace("\\\n", " ").splitlines()
            found += [" ".join(line.split("  #")[0].split()) for line in lines if line.strip()]
    return found


def tracked():
    """The files of the checkout that git tracks or would track, relative to it."""
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True,
                           check=True)
    return [name for name in names.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def working_tree(folder):
    """Copy the files of the checkout that git tracks or would track."""
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)


def chinese(page):
    """The path of a page's Chinese twin."""
    return page.with_name(f"{page.stem}_cn{page.suffix}")


def english(page):
    """The path of the page whose twin a Chinese page is."""
    return page.with_name(page.name.replace("_cn.", "."))


def links(page):
    """The relative links of a page, without places in it."""
    return re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text(encoding="utf-8"))


def shape(page):
    """Levels of the headings; fenced blocks without the comments; of each row of each table, cells and numbers."""
    text = page.read_text(encoding="utf-8")
    fenced = re.compile(r"^```.*?^```", re.S | re.M)
    blocks = [re.sub(r" +#.*", "", block) for block in fenced.findall(text)]
    prose = fenced.sub("", text)
    headings = [len(marks) for marks in re.findall(r"^(#+) ", prose, re.M)]
    tables = [[(len(re.findall(r"(?<!\\)\|", row)), sorted(NUMBER.findall(row))) for row in table.splitlines()]
              for table in re.findall(r"(?:^\|.*\n?)+", prose, re.M)]
    return headings, blocks, tables


PAGES = [ROOT / name for name in tracked() if name.endswith(".md")]
TWINS = [page for page in PAGES if chinese(page) in PAGES]


@pytest.fixture(scope="module")
def clone(tmp_path_factory, run, shared, shapes):
    """A clone of the working tree with what the README presumes: an archive, weights, and a folder of images."""
    folder = tmp_path_factory.mktemp("readme") / "repo"
    working_tree(folder)
    run(shared / "tools" / "make_cifar10.py", "--src", shared / "data" / "cifar10_jpeg.tar.xz", "--train-per-class", 50,
        "--test-per-class", 10, "--out", folder / "data" / "cifar10" / "cifar-10-python.tar.gz")
    shutil.copy(shared / "weights" / "squeezenet1_1_imagenet.npz", folder)
    shutil.copytree(next(path for path in shapes.iterdir() if path.is_dir()), folder / "my_images")
    shutil.copy(folder / "my_images" / "images" / "q000000.jpg", folder / "query.jpg")
    return folder


def test_every_command_runs_as_printed(clone):
    done = []
    for command in commands(ROOT / "README.md"):
        words = command + "".join(f" {flags}" for part, flags in SMALLER if part in command and "main_" in command)
        assert words.startswith("python "), f"only python commands are run here: {words}"
        result = subprocess.run([sys.executable, *words.split()[1:]], cwd=clone, text=True, capture_output=True,
                                timeout=240, env={**os.environ, "GLOG_v": "0"})
        assert result.returncode == 0, f"{words}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
        done.append(command)
    assert len(done) >= 8
    for name in ("output/mine/matches.png", "output/matches.png", "output/hashnet_cifar10-1_48/result.json"):
        assert (clone / name).exists(), name


def test_the_python_example_runs(clone):
    """With the files that the commands above have made in place of the quickstart's."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block, = re.findall(r"```python\n(.*?)```", text, re.S)
    assert block in (ROOT / "README_cn.md").read_text(encoding="utf-8")
    for old, new in (("quickstart/inference", "model"), ("quickstart/database.npz", "database_hashnet_64.npz")):
        assert old in block
        block = block.replace(old, new)
    done = subprocess.run([sys.executable, "-c", block], cwd=clone, text=True, capture_output=True, timeout=240)
    assert done.returncode == 0 and "images/" in done.stdout, done.stderr


def test_the_chinese_twin_has_the_same_commands():
    assert commands(ROOT / "README_cn.md") == commands(ROOT / "README.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_from_chinese_pages_to_chinese_pages(page):
    for target in links(page):
        path = (page.parent / target).resolve()
        assert path.exists(), target
        if page.stem.endswith("_cn") and path != english(page):  # its own other language is meant
            assert not chinese(path).exists(), f"{target} has a Chinese twin"


@pytest.mark.parametrize("page", TWINS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_twins_have_the_same_shape(page):
    """Levels of headings, fenced blocks but for the words of comments, and rows, columns and numbers of tables."""
    for part, one, other in zip(("headings", "blocks", "tables"), shape(page), shape(chinese(page))):
        assert one == other, part
    assert chinese(page) in {(page.parent / target).resolve() for target in links(page)}, "no link to the twin"
    assert page in {(page.parent / target).resolve() for target in links(chinese(page))}, "no link back"


def test_every_chinese_page_is_a_twin():
    assert len(TWINS) >= 15
    assert {chinese(page) for page in TWINS} == {page for page in PAGES if page.stem.endswith("_cn")}


def test_the_method_table_is_the_registry(tmp_path, monkeypatch):
    from models import METHODS, __main__
    __main__.main(["table", "--check"])
    monkeypatch.setattr(__main__, "ROOT", str(tmp_path))
    for name in __main__.TABLES:
        text = (ROOT / name).read_text(encoding="utf-8")
        rows = re.findall(r"^\| `(\w+)` \|.*\| ([\d ]+) \|$", text, re.M)
        assert {row: tuple(map(int, bits.split())) for row, bits in rows} == \
            {method: value.bit_lengths for method, value in METHODS.items()}
        (tmp_path / name).write_text(text.replace("| `hashnet` |", "| `hashnt` |"), encoding="utf-8")
    with pytest.raises(InputError, match="python -m models table"):
        __main__.main(["table", "--check"])
    __main__.main(["table"])
    assert all((tmp_path / name).read_bytes() == (ROOT / name).read_bytes() for name in __main__.TABLES)
    (tmp_path / "README_cn.md").write_text("no table")
    with pytest.raises(InputError, match="README_cn.md: no lines"):
        __main__.main(["table"])
