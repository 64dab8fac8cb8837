"""Every command that a page of the repository names runs, as printed, on small data in the real form.

README.md has a test of its own (test_readme.py). Here are all other pages, each command in a folder that holds what its
page presumes. Only flags that make the data or the work small are added (``SMALLER``). A command for which nothing is
prepared fails: whoever writes one says here what it needs.
"""
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import paddle
import pytest

from models import METHODS, find_method
from tests import (
    small_data,
    test_coco,
    test_imagenet,
    test_mirflickr,
    test_nuswide,
    test_paddle_hashnet,
    test_voc,
    test_wiki,
)
from tests.conftest import ROOT, SHAPES_SIZES
from tests.test_readme import working_tree
from utils.config import parse

PAGES = sorted(path.relative_to(ROOT).as_posix() for folder in ("", "models", "data", "deploy", "docs", "test_tipc",
                                                                "benchmarks", "scripts")
               for path in (ROOT / folder).glob("*.md" if not folder else "**/*.md")
               if not path.stem.endswith("_cn") and path.name not in ("CHANGELOG.md",)
               and (folder or path.name != "README.md"))
SMALL_SHAPES = " ".join(f"--{key.replace('_', '-')}={value}" for key, value in SHAPES_SIZES.items())
SMALL_NET = "--backbone ConvNet:width=4 --no-pretrained --resize-size 72 --crop-size 64"
# what a command contains -> flags that make it small; all that match are added
SMALLER = [
    (r"datasets (make|check) shapes", SMALL_SHAPES),
    (r"datasets check cifar10-1", "--query-per-class 3 --train-per-class 6"),
    (r"datasets make (coco|voc2012|mirflickr|imagenet|nuswide_21|wiki)", "--any-count"),
    (r"make_lists.py", "--any-count --num-query 3 --num-train 6"),
    (r"datasets make (coco|voc2012|mirflickr)", "--num-query 3 --num-train 6"),
    (r"datasets make imagenet", "--num-train 200"),
    (r"datasets make nuswide_21", "--num-query 42 --num-train 105"),
    (r"main_(single|multi)_gpu.py .*--dataset shapes", f"--epoch 1 {SMALL_SHAPES} {SMALL_NET}"),
    (r"main_single_gpu.py .*--dataset cifar-?10", "--query-per-class 3 --train-per-class 6"),
    (r"main_single_gpu.py (?!.*--eval ).*--dataset (coco|cifar|WIKI)",
     f"--epoch 1 --eval-epoch 1 --batch-size 4 {SMALL_NET}"),
    (r"(main_single_gpu.py|train_\w+_gpu.sh) (?!.*--(eval|dataset) ).*--data-path COCO2014",
     f"--epoch 1 --eval-epoch 1 --batch-size 4 {SMALL_NET}"),
    (r"quantize.py", "--images 16 --max-flips 0.5"),
    (r"bench_metrics.py", "--queries 20 --items 500 --topk 50 --sample 2 --search 1000"),
    (r"bench_search.py", "--items 2000 --rounds 1"),
    (r"bench_loader.py", "--count 2 --rounds 1 --loader-images 4"),
    (r"bench_train.py", "--images 4 --batch-size 2 --rounds 1 --items 200 --queries 3"),
    (r"bench_encode.py", "--rounds 1 --files 3"),
]


def commands(page):
    """Commands in the fenced blocks of a page that are not marked ``<!-- not run: reason -->``."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for note, block in re.findall(r"(<!-- not run: [^>]+ -->\n)?^```(?:sh|bash)?\n(.*?)^```", text, re.S | re.M):
        for line in block.replace("\\\n", " ").splitlines():
            line = " ".join(line.split("  #")[0].split())
            if not note and re.match(r"(python|sh|bash) ", line):
                found.append(re.sub(r"\s*\[[^\]]*\]", "", line))  # [--optional X] is left out
    return found


PEERS = "docs/coming_from.md"
ELSEWHERE = {"sh scripts/tipc.sh 'hashnet_*'": "minutes; tests/test_tipc.py runs configs through it"}


def peer_rows():
    """(section, what stands in the first cell, what stands in the second) of the tables of ``PEERS``."""
    text = (ROOT / PEERS).read_text(encoding="utf-8")
    rows = []
    for section in re.split(r"^## ", text, flags=re.M)[1:]:
        table = re.findall(r"^\| (.*) \| (.*) \|$", section, re.M)
        rows += [(section, there, here) for there, here in table if not here == "here"]
    return rows


def quoted(there, here, start):
    """The spans in backticks that begin with ``start``: of the second cell, and of the first if that is `the same`."""
    cells = there + here if here.startswith("the same") else here
    return re.findall(f"`((?:{start})[^`]*)`", cells)


def peer_commands():
    """The commands of the tables of ``PEERS``, without those that other tests run."""
    found = [command for _, there, here in peer_rows() for command in quoted(there, here, "python |sh ")]
    assert set(ELSEWHERE) <= set(found)
    return [command for command in found if command not in ELSEWHERE]


def commands_of(page):
    return pytest.param(page, id=page.replace("/", "-"))


@pytest.fixture(scope="module")
def clone(tmp_path_factory, run, shapes):
    """A copy of the working tree with a small trained model, its export, and pictures."""
    folder = tmp_path_factory.mktemp("pages") / "repo"
    working_tree(folder)
    sizes = [f"--{key.replace('_', '-')}={value}" for key, value in SHAPES_SIZES.items()]
    for name in ("run", "hashnet_shapes_64"):
        run(folder / "main_single_gpu.py", "--method", "hashnet", "--dataset", "shapes", "--epoch", 1, *sizes,
            *SMALL_NET.split(), "--bit", 64, "--output-dir", folder / "output" / name, "--device", "cpu", cwd=folder)
    run(folder / "export_model.py", "--pretrained", folder / "output" / "run" / "best.safetensors",
        "--save-inference-dir", folder / "output" / "model", cwd=folder)
    pictures = next(path for path in (folder / "data" / "shapes").iterdir() if path.is_dir()) / "images"
    shutil.copy(pictures / "q000000.jpg", folder / "cat.jpg")
    shutil.copy(pictures / "q000000.jpg", folder / "query.jpg")
    small_data.class_folders(folder)
    return folder


def anew(folder):
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def write_coco(folder):
    """COCO2014: annotations and pictures."""
    root = anew(folder / "COCO2014")
    test_coco.write_official(root)
    rng = np.random.default_rng(0)
    for part in ("train2014", "val2014"):
        for image in json.loads((root / "annotations" / f"instances_{part}.json").read_text())["images"]:
            small_data.write_picture(root / part / image["file_name"], rng)


def prepare(page, folder):
    """Put what a page presumes beside its commands; returns replacements of words in its commands."""
    name = page.split("/")[1] if page.startswith("data/") else ""
    replaced = {}
    if page == PEERS:
        name = "coming_from"
        test_wiki.write_official(anew(folder / "wikipedia_dataset"))
        arrays = {key: paddle.to_tensor(value) for key, value in test_paddle_hashnet.layout(16).items()}
        paddle.save(arrays, str(folder / "output" / "weights_16.pdparams"))
    if name in ("README.md", "coco", "coming_from"):
        write_coco(folder)
    if name in ("README.md", "cifar10", "coming_from"):
        (folder / "data" / "cifar10").mkdir(exist_ok=True)
        small_data.cifar10(folder / "data" / "cifar10")
        replaced = {"cifar10-1 --root DIR": "cifar10-1 --root data/cifar10"}
    if name == "imagenet":
        test_imagenet.write_train(folder / "ILSVRC2012")
        test_imagenet.write_val(folder / "ILSVRC2012", "folders")
    for known, write in (("mirflickr", test_mirflickr), ("voc2012", test_voc), ("wiki", test_wiki)):
        if name == known:
            write.write_official(anew(folder / ("wikipedia_dataset" if known == "wiki" else "DIR")))
    if name == "nuswide":
        root = anew(folder / "NUS-WIDE")
        test_nuswide.write_official(root)
        test_nuswide.write_pictures(root / "Flickr", [test_nuswide.picture(i) for i in range(test_nuswide.N)])
    return replaced


@pytest.mark.slow
@pytest.mark.parametrize("page", [commands_of(page) for page in PAGES if commands(page)])
def test_every_command_of_the_page_runs(page, clone):
    replaced = prepare(page, clone)
    for command in commands(page) + (peer_commands() if page == PEERS else []):
        for old, new in replaced.items():
            command = command.replace(old, new)
        more = " ".join(flags for pattern, flags in SMALLER if re.search(pattern, command))
        words = shlex.split(f"{command} {more}")
        if words[:2] == ["sh", "scripts/setup.sh"]:
            continue  # installs; scripts have tests of their own
        program = sys.executable if words[0] == "python" else words[0]
        environment = {**os.environ, "GLOG_v": "0", "VENV": os.path.dirname(os.path.dirname(sys.executable))}
        done = subprocess.run([program, *words[1:]], cwd=clone, text=True, capture_output=True, timeout=600,
                              env=environment)
        faults = re.search(r"datasets check", command)  # small data may have faults, which check names
        good = (0, 1) if faults else (0,)
        assert done.returncode in good and "Traceback" not in done.stderr, \
            f"{page}: {command} {more}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_pages_are_found():
    assert {"data/README.md", "deploy/README.md", "models/README.md", "test_tipc/README.md"} <= set(PAGES)
    assert "python data/coco/make_lists.py --root COCO2014" in commands("data/coco/README.md")


def test_every_flag_of_the_tables_for_other_projects_is_read():
    """What is no command is a flag with a value, for the method of the section; no row says nothing that is tested."""
    rows = peer_rows()
    assert len(rows) >= 20
    for section, there, here in rows:
        flags = quoted(there, here, "--")
        assert flags or quoted(there, here, "python |sh "), f"nothing in this row is tested: {there} | {here}"
        methods = re.findall(r"--method (\w+)", section) or ["hashnet"]
        for words in map(str.split, flags):
            own = [] if "--method" in words else ["--method", methods[0]]
            typed = parse([*own, *words], METHODS, find_method)[1]["typed"]
            assert set(typed.values()) >= {f"{words[i]} {words[i + 1]}" for i in range(0, len(words), 2)}
