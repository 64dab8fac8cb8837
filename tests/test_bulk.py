"""deploy/inference_python/encode.py: shards are the same bytes whoever writes them, and whatever was interrupted."""
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from deploy.engines import open_model
from deploy.index import open_index
from deploy.inference_python import encode
from models import METHODS
from tests.conftest import ROOT, kills
from tests.exported import BITS, SIZES, exported, one_error_line
from utils.datasets import load_protocol
from utils.errors import InputError
from utils.progress import Progress
from utils.retrieval.codes import CodeFile
from utils.retrieval.hamming import pack
from utils.retrieval.shard_set import ShardSet
from utils.transforms import preprocess

COMMAND = "deploy/inference_python/encode.py"
CROSS_MODAL = next(name for name in METHODS if "text" in METHODS[name].modalities)
BROKEN = ["cat/b07.jpg", "dog/broken.png"]


@pytest.fixture(scope="module")
def model(tmp_path_factory, shapes):
    return exported(tmp_path_factory, shapes)


def gallery(shapes, folder, count=60):
    """Pictures of the shapes set in two folders, two of them broken, and a file that is none."""
    images = load_protocol("shapes", root=str(shapes), **SIZES).database.images
    for i in range(count):
        place = folder / ("cat" if i % 2 else "dog") / f"b{i:02d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(images.path(i), place)
        os.utime(place, ns=(10 ** 18, 10 ** 18 + i))
    (folder / BROKEN[0]).write_bytes((folder / BROKEN[0]).read_bytes()[:300])
    (folder / BROKEN[1]).write_bytes(b"no picture")
    (folder / "notes.txt.bak").write_text("x")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory, shapes):
    return gallery(shapes, tmp_path_factory.mktemp("photos") / "photos")


def flags(model, photos, folder, *more):
    """Words of the command line: eight shards, one thread."""
    return [str(word) for word in ("--model-dir", model, "--gallery", photos, "--save-dir", folder, "--shard-size", 8,
                                   "--threads", 1, "--batch-size", 5, *more)]


def contents(folder):
    """dict file name -> bytes, but for the index's lock."""
    return {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))}


@pytest.fixture(scope="module")
def wanted(tmp_path_factory, model, photos):
    """The folder that an undisturbed run writes."""
    folder = tmp_path_factory.mktemp("wanted") / "codes"
    encode.main(flags(model, photos, folder, "--keep-relaxed"))
    return folder


# what is in it ------------------------------------------------------------------------------
def test_shards_hold_what_the_encoder_gives(model, photos, wanted):
    codes = ShardSet(wanted, open_model(str(model)).fingerprint)
    codes.check()
    found = codes.to_codefile()
    ids = sorted(f"{path.parent.name}/{path.name}" for path in photos.glob("*/*") if path.name != BROKEN[1])
    assert found.ids == [name for name in ids if name not in BROKEN]
    assert len(codes.parts) == 8 and codes.info.classes == ["cat", "dog"]
    assert found.labels.argmax(1).tolist() == [name.startswith("dog") for name in found.ids]
    encoder = open_model(str(model), threads=1)
    from utils.images import decode
    spec = encoder.manifest["preprocess"]
    relaxed = np.concatenate([encoder.encode(preprocess(decode(str(photos / name), spec=spec), spec)[None])
                              for name in found.ids])
    np.testing.assert_allclose(found.relaxed, relaxed, rtol=2e-3, atol=2e-3)
    near_zero = np.abs(relaxed) < 1e-5
    assert not ((np.unpackbits(found.codes ^ pack(relaxed), axis=1, count=BITS) == 1) & ~near_zero).any()


def test_broken_pictures_are_listed(model, photos, tmp_path, capsys):
    encode.main(flags(model, photos, tmp_path / "codes"))
    said = capsys.readouterr().out.splitlines()
    rows = [json.loads(line) for line in (tmp_path / "codes" / "unreadable.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == BROKEN and all(str(photos) in row["reason"] for row in rows)
    assert said[-1].startswith("----- 2 of 61 could not be read, all in ") and "b07.jpg" in said[-1]
    assert any("files that are no pictures" in line for line in said)
    assert ShardSet(tmp_path / "codes").info.meta["skipped"] == 2


@pytest.mark.parametrize("form", ["list", "manifest", "shards"])
def test_every_form_of_pictures(run, model, photos, wanted, tmp_path, form):
    names = sorted(f"{path.parent.name}/{path.name}" for path in photos.glob("*/*") if path.name != BROKEN[1])
    if form == "list":
        (photos.parent / "all.txt").write_text("".join(f"{name}\n" for name in names))
        source = [photos.parent / "all.txt", "--data-path", photos]
    elif form == "manifest":
        (tmp_path / "all.csv").write_text("path\n" + "".join(f"{name}\n" for name in names))
        source = [tmp_path / "all.csv", "--data-path", photos]
    else:
        good = tmp_path / "good"
        shutil.copytree(photos, good)
        for name in BROKEN:
            (good / name).unlink()
        run("-m", "utils.datasets", "shard", good, "--out", tmp_path / "tars", "--per-shard", 25)
        source = [tmp_path / "tars"]
    encode.main(flags(model, source[0], tmp_path / "codes", *source[1:]))
    found = {name: code.tobytes() for batch in [ShardSet(tmp_path / "codes").to_codefile()]
             for name, code in zip(batch.ids, batch.codes)}
    expected = ShardSet(wanted).to_codefile()
    assert found == {name: code.tobytes() for name, code in zip(expected.ids, expected.codes)}


def test_texts_and_data_sets(tmp_path, tmp_path_factory, shapes):
    model = exported(tmp_path_factory, shapes, CROSS_MODAL)
    words = ["--model-dir", model, "--dataset", "shapes", "--data-path", shapes, "--threads", 1]
    for modality, split in (("text", "query"), ("image", "database")):
        folder = tmp_path / modality
        encode.main([*map(str, words), "--modality", modality, "--split", split, "--save-dir", str(folder)])
        part = getattr(load_protocol("shapes", root=str(shapes), **SIZES), split)
        found = ShardSet(folder).to_codefile()
        assert found.ids == part.ids and np.array_equal(found.labels, part.labels)
        assert found.meta["modality"] == modality and found.meta["data"]["dataset"] == "shapes"


# interrupted, and spread --------------------------------------------------------------------
def test_killed_at_random_moments(model, photos, wanted, tmp_path):
    """Signal 9 until it ends by itself: shards that were there stay as they were, and the end is the same bytes.

    DEEPHASH_KILLS=50 begins anew until there were so many.
    """
    rng, done, folders = np.random.default_rng(0), 0, 0
    while done < kills(2):
        folder, folders = tmp_path / str(folders), folders + 1
        done += killed_until_it_ends(model, photos, folder, rng)
        assert contents(folder) == contents(wanted)


def killed_until_it_ends(model, photos, folder, rng):
    """Number of the encoder's processes that were killed."""
    folder.mkdir()
    command = [sys.executable, "-c", "import sys, time; sys.path.insert(0, sys.argv[1])\n"
               "from deploy import bulk\nfrom deploy.inference_python import encode\nmade = bulk.Job.encode\n"
               "def slow(job, number, progress=None):\n"
               "    print('begin', flush=True); time.sleep(.1); made(job, number, progress)\n"
               "bulk.Job.encode = slow\nencode.main(sys.argv[2:])", str(ROOT),
               *flags(model, photos, folder, "--keep-relaxed")]
    seen = {}
    for done in itertools.count():
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        begun = 0
        for line in worker.stdout:
            begun += line == "begin\n"
            if begun == 3:
                time.sleep(rng.uniform(0, .3))
                worker.send_signal(signal.SIGKILL)
                break
        said = worker.communicate()
        for name, (inode, data) in seen.items():
            assert (os.stat(folder / name).st_ino, (folder / name).read_bytes()) == (inode, data)
        seen = {name: (os.stat(folder / name).st_ino, (folder / name).read_bytes())
                for name in os.listdir(folder) if name.startswith("shard-")}
        if worker.returncode != -signal.SIGKILL:
            assert worker.returncode == 0, said
            return done


def test_parts_give_the_same_bytes(model, photos, wanted, tmp_path, capsys):
    for number in (2, 3, 1):
        encode.main(flags(model, photos, tmp_path, "--keep-relaxed", "--part", f"{number}/3"))
        said = capsys.readouterr().out
        assert (tmp_path / "manifest.json").exists() == (number == 1)
        assert ("shards of other parts are missing" in said) == (number != 1)
        if number != 1:
            with pytest.raises(InputError, match="its shards are not all there yet"):
                open_index(tmp_path)
    assert contents(tmp_path) == contents(wanted)


def test_ranks_of_paddles_launcher_give_the_same_bytes(run, model, photos, wanted, tmp_path):
    run("-m", "paddle.distributed.launch", "--nproc_per_node", 2, "--log_dir", tmp_path / "log", COMMAND,
        *flags(model, photos, tmp_path / "codes", "--keep-relaxed"))
    assert contents(tmp_path / "codes") == contents(wanted)


def test_what_has_changed_is_encoded_again(model, photos, tmp_path, capsys):
    place = tmp_path / "photos"
    shutil.copytree(photos, place)
    words = flags(model, place, tmp_path / "codes")
    encode.main([*words, "--part", "1/2"])
    os.utime(place / "cat" / "b01.jpg")  # in shard 0
    encode.main(words)
    said = capsys.readouterr().out
    assert "24 were there already" in said  # of parts 1/2: shards 2, 4 and 6
    before = contents(tmp_path / "codes")
    encode.main(words)
    assert "61 were there already" in capsys.readouterr().out and contents(tmp_path / "codes") == before
    shutil.copy(place / "dog" / "b02.jpg", place / "dog" / "z.jpg")
    with pytest.raises(InputError, match="as it was: --overwrite"):
        encode.main(words)
    assert contents(tmp_path / "codes") == before
    encode.main([*words, "--overwrite"])
    assert "56 were there already" in capsys.readouterr().out
    assert ShardSet(tmp_path / "codes").to_codefile().ids[-1] == "dog/z.jpg"
    shutil.rmtree(place / "dog")  # fewer shards than before
    encode.main([*words, "--overwrite"])
    assert len(ShardSet(tmp_path / "codes")) == 29


# on to the index ----------------------------------------------------------------------------
def test_an_index_is_built_of_the_folder(run, model, photos, wanted, tmp_path):
    shutil.copytree(wanted, tmp_path / "codes")
    picture = photos / "cat" / "b11.jpg"
    assert "items: 59" in run("-m", "deploy.index", "build", f"exact:{tmp_path / 'index'}", tmp_path / "codes").stdout
    answers = []
    for place in (tmp_path / "index", tmp_path / "codes"):  # the folder is an index itself
        done = run("-m", "deploy.index", "search", place, "--img", picture, "--model-dir", model, "--topk", 3,
                   "--threads", 1, "--json")
        answers.append(json.loads(done.stdout)["queries"])
    assert answers[0] == answers[1] and "cat/b11.jpg" in [match["id"] for match in answers[0][0]["matches"]]
    with open_index(tmp_path / "codes") as index:
        extra = index.take(np.array([0]))
        extra.ids = ["new.jpg"]
        index.add(extra)
        index.check()
        assert len(index) == 60


def test_codes_of_predict_are_the_same(run, model, photos, wanted, tmp_path):
    run("predict.py", "--model-dir", model, "--gallery", photos, "--code-file", tmp_path / "c.npz", "--threads", 1,
        "--batch-size", 5)
    known, found = CodeFile.load(tmp_path / "c.npz"), ShardSet(wanted).to_codefile()
    assert known.ids == found.ids and known.fingerprint == found.fingerprint
    assert np.unpackbits(known.codes ^ found.codes).sum() <= 2  # batches are cut elsewhere: last digits differ


# mistakes -----------------------------------------------------------------------------------
@pytest.mark.parametrize("more, words", [
    (["--part", "3/2"], "I from 1 to N"), (["--part", "0/2"], "I from 1 to N"), (["--part", "x"], "as in 2/8"),
    (["--dataset", "shapes"], "leave out --dataset"), (["--modality", "text"], "has no text codes"),
    (["--cluster", "auto", "--part", "1/2"], "leave --part"), (["--shard-size", 0], "at least 1"),
    (["--gallery", "nowhere"], "nowhere is not there"), (["--save-dir", ""], "--save-dir DIR is missing"),
    (["--bf16", "--precision", "fp32"], "contradict")])
def test_mistakes(run, model, photos, tmp_path, more, words):
    one_error_line(run(COMMAND, *flags(model, photos, tmp_path / "codes", *more), ok=None), words)
    assert not (tmp_path / "codes").exists()


def test_codes_made_otherwise_are_not_mixed(run, model, photos, wanted, tmp_path, tmp_path_factory, shapes):
    shutil.copytree(wanted, tmp_path / "codes")
    before = contents(tmp_path / "codes")
    other = exported(tmp_path_factory, shapes, seed=8)
    for more, words in ((["--keep-relaxed", "--batch-size", 6], "another batch_size (5, now 6)"), ([], "another coll"),
                        (["--model-dir", other, "--keep-relaxed"], "another collection")):
        one_error_line(run(COMMAND, *flags(model, photos, tmp_path / "codes", *more), ok=None), words)
    assert contents(tmp_path / "codes") == before
    run(COMMAND, *flags(other, photos, tmp_path / "codes", "--overwrite"))
    assert ShardSet(tmp_path / "codes").info.fingerprint == open_model(str(other)).fingerprint


def test_nothing_can_be_read(run, model, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    one_error_line(run(COMMAND, *flags(model, tmp_path / "photos", tmp_path / "codes"), ok=None), "no item of", "a.jpg")
    assert not (tmp_path / "codes" / "manifest.json").exists()


def test_ranks_run_on_the_cpu(monkeypatch, model, photos, tmp_path):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
    assert encode.parse(flags(model, photos, tmp_path)).part == (2, 2)
    for more in (["--use-gpu"], ["--part", "1/2"], ["--cluster", "auto"]):
        with pytest.raises(InputError):
            encode.parse(flags(model, photos, tmp_path, *more))


# progress -----------------------------------------------------------------------------------
class Stream:
    """A log."""

    def __init__(self):
        self.lines = []

    def isatty(self):
        return False

    def write(self, text):
        self.lines += [text] if text.strip() else []

    def flush(self):
        pass


def test_progress_in_a_log():
    log, now = Stream(), [0.0]
    progress = Progress(1000, "encode", log, lambda: now[0])
    progress.skip(100)
    for second in range(1, 301):
        now[0] = second
        progress(2)
    assert log.lines[0] == "----- encode: 120 of 1000 (12%), 2.0 a second, 0:07:20 left"
    assert len(log.lines) == 7 and progress.rate == pytest.approx(2) and progress.skipped == 100
    times = [int(line.split()[2]) for line in log.lines]
    assert times == [120, 140, 180, 260, 380, 500, 620]
