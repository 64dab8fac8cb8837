"""The campaign finds what it is there to find; its slices and all faults that it once found."""
import collections
import json
import random
import shutil
import subprocess
import sys

import pytest

from tests.campaign import children, kills, mutate, mutations, results
from tests.campaign.formats import FORMATS
from tests.campaign.mutations import SEEDS
from tests.conftest import ROOT
from utils.errors import InputError
from utils.text import Vectorizer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and looks into /proc")

READERS = """
import json, os, sys, time
from tests.campaign import children
from utils.errors import InputError
children.SECONDS, children.WALL = 1, 3
canary = sys.argv[1]
def refuse(_):
    raise InputError("no such thing")
def hide(_):
    try:
        bytearray(4 << 30)
    except MemoryError as error:
        raise InputError("damaged") from error
def spin(_):
    while True:
        pass
def crash(_):
    os.kill(os.getpid(), 11)
readers = {"same": lambda _: [1, "a"], "other content": lambda _: [1, "b"], "refused": refuse, "memory": hide,
           "memory ": lambda _: bytearray(4 << 30), "hang": spin, "hang ": lambda _: time.sleep(60),
           "traceback": lambda _: [][1], "traceback ": crash, "executed": lambda _: os.mkdir(canary),
           "executed ": lambda _: os.system("true")}
sound = children.attempt(readers["same"], "").words
print(json.dumps({name: children.judged(read, "", sound, canary).kind for name, read in readers.items()}))
"""

COMMAND = """
import os, sys, time
from utils.files import atomic_path
path, careful = sys.argv[1], sys.argv[2] == "careful"
def write(where):
    with open(where, "w") as file:
        for part in "abcd":
            file.write(part)
            file.flush()
            time.sleep(.01)
if careful:
    for name in os.listdir(os.path.dirname(path)):
        if name.endswith(".part.txt"):
            os.remove(os.path.join(os.path.dirname(path), name))
    with atomic_path(path) as temporary:
        write(temporary)
else:
    write(path)
    open(path + ".note" + str(os.getpid()), "w").close()
print("done", flush=True)
"""
KILLS = """
import json, pathlib, sys
from tests.campaign import kills
from tests.campaign.commands import nothing
from tests.campaign.scenarios import Scenario
def read(work):
    return (work / "x.txt").read_text() if (work / "x.txt").exists() else None
found = {}
for how in ("careful", "careless"):
    words = lambda work, _: [sys.argv[1], work / "x.txt", how]
    scenario, row = Scenario(how, nothing, words, read, said="done"), kills.Row(how, 0)
    bench = kills.Bench(scenario, None, pathlib.Path(sys.argv[2]), row)
    for number in range(40):
        bench.kill(0, number)
    found[how] = [row.kills, row.wrong, row.left]
print(json.dumps(found))
"""


def answer_of(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, text=True, timeout=300,
                          stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_every_kind_of_outcome_is_told(tmp_path):
    found = answer_of(READERS, tmp_path / "canary")
    assert found == {name: name.strip() for name in found} and len(found) == 11


def test_a_careless_writer_is_found(tmp_path):
    (tmp_path / "command.py").write_text(COMMAND)
    found = answer_of(KILLS, tmp_path / "command.py", tmp_path)
    assert found["careful"][0] > 20 and found["careful"][1:] == [0, 0]
    assert found["careless"][1] > 3 and found["careless"][2] > 3


def sound_files(name, folder):
    """(the Format of that name, a folder with its sound files)."""
    form = next(one for one in FORMATS if one.name == name)
    (folder / "sound").mkdir()
    if name == "vectoriser":
        Vectorizer.fit(["a b c", "a d"]).save(folder / "sound" / "vectorizer.json")
    else:
        form.make(folder / "sound", None)
    return form, folder / "sound"


@pytest.mark.parametrize("seed", [path.relative_to(SEEDS).as_posix() for path in sorted(SEEDS.glob("*/*"))])
def test_a_fault_once_found_stays_mended(tmp_path, seed):
    form, sound = sound_files(seed.split("/")[0], tmp_path)
    shutil.copytree(SEEDS / seed, sound, dirs_exist_ok=True)
    try:
        form.read(str(sound))
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["index", "codes .npz", "vectoriser", "manifest .jsonl", "weights .safetensors"])
def test_forged_values_are_read_or_refused(tmp_path, name):
    """What is written with right sizes and checksums, and with values that no writer of ours writes."""
    form, sound = sound_files(name, tmp_path)
    changed, refused = tmp_path / "changed", 0
    for number in range(60):
        shutil.copytree(sound, changed)
        form.forge(changed, random.Random(number))
        try:
            form.read(str(changed))
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
        shutil.rmtree(changed)
    assert refused > 20


@pytest.mark.slow
@pytest.mark.parametrize("part", ["kills", "mutations"])
def test_a_slice_finds_nothing(run, part):
    done = run("-m", "tests.campaign", "--minutes", .7, "--only", part, ok=None, timeout=1800)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "| **all** |" in done.stdout


def test_changes_are_the_same_again():
    data = bytes(range(256)) * 4
    first, second = ([mutate.damaged(data, random.Random(i), "/canary", i % 2) for i in range(300)] for _ in range(2))
    assert first == second and sum(one != data for one in first) > 280


def test_kept_rows_add_up(tmp_path):
    for seed in (1, 2):
        results.keep(tmp_path / "rows", "kills", [kills.Row("a", 5 * seed, 3, 1, seconds=2.0, faults=[("x", "y")]),
                                                  kills.Row(f"only {seed}", 1, 1)])
        row = mutations.Row("f", "why", collections.Counter(same=seed, refused=1), 1, seed / 2,
                            [("z", children.Outcome("hang"))])
        results.keep(tmp_path / "rows", "mutations", [row])
    a, *others = results.kept(tmp_path / "rows", "kills", kills.Row)
    assert (a.events, a.kills, a.late, a.seconds, len(a.faults)) == (10, 6, 2, 4, 2)
    assert [one.name for one in others] == ["only 1", "only 2"]
    found, = results.kept(tmp_path / "rows", "mutations", mutations.Row)
    assert found.kinds == {"same": 3, "refused": 2} and (found.forged, found.slowest, len(found.faults)) == (2, 1, 2)
    assert kills.table([a])[-1] == "| **all** | | 6 | 0 | 0 | 0 |"
