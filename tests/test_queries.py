"""Queries as people have them: folders with rubbish, broken pictures, galleries whose pictures went or moved."""
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from deploy.queries import find_pictures
from tests.exported import BITS, checkpoint, exported, one_error_line
from tests.manifests import edited
from utils.errors import InputError

INFER = "deploy/inference_python/infer.py"


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((80, 64), Image.BICUBIC).save(path)


@pytest.fixture
def folder(tmp_path):
    """Three good pictures, a broken one, and what systems leave behind."""
    place = tmp_path / "asked"
    for i, name in enumerate(("a.jpg", "sub/c.jpg", "b.png")):
        picture(place / name, i)
    (place / "broken.jpg").write_bytes((place / "a.jpg").read_bytes()[:300])
    for name in ("._a.jpg", ".ipynb_checkpoints/a-checkpoint.jpg", ".hidden.png", "sub/Thumbs.db", "notes.md"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(b"no picture")
    return place


@pytest.fixture(scope="module")
def model(tmp_path_factory, shapes):
    return exported(tmp_path_factory, shapes)


def test_a_folder_is_answered_and_the_status_says_what_was_skipped(run, model, folder, tmp_path):
    call = ("predict.py", "--model-dir", model, "--img", folder, "--save-path", tmp_path / "out", "--threads", 1)
    done = run(*call, "--json", ok=None)
    assert done.returncode == 3 and "Traceback" not in done.stderr
    answer = json.loads(done.stdout)
    assert [os.path.relpath(query["query"], folder) for query in answer["queries"]] == ["a.jpg", "b.png", "sub/c.jpg"]
    skipped, = answer["skipped"]
    assert skipped["query"] == str(folder / "broken.jpg") and "truncated" in skipped["reason"]
    assert "1 of 4 queries were skipped" in done.stderr and "hidden" in done.stderr
    (folder / "broken.jpg").unlink()
    done = run(*call)
    assert done.returncode == 0 and "skipped" not in done.stdout
    shutil.rmtree(folder)
    (folder / ".hidden").mkdir(parents=True)
    picture(folder / ".hidden" / "a.jpg", 0)
    one_error_line(run(*call, ok=None), "holds no pictures")


def test_lists_skip_what_is_not_there(run, model, folder, tmp_path):
    (folder / "list.txt").write_text("a.jpg\nnowhere.jpg\nbroken.jpg\n._a.jpg\n")
    call = ("predict.py", "--model-dir", model, "--img", folder / "list.txt", "--save-path", tmp_path, "--json")
    done = run(*call, ok=None)
    answer = json.loads(done.stdout)
    assert done.returncode == 3 and len(answer["queries"]) == 1
    assert [one["query"] for one in answer["skipped"]] == ["nowhere.jpg", str(folder / "broken.jpg"),
                                                           str(folder / "._a.jpg")]
    assert "list.txt:2: no picture nowhere.jpg" in answer["skipped"][0]["reason"]
    (folder / "list.txt").write_text("nowhere.jpg\nbroken.jpg\n")
    one_error_line(run(*call, ok=None), "none of the 2 queries can be read", "list.txt:1", "nowhere.jpg")
    assert find_pictures(str(folder / "a.jpg"), []) == ([str(folder / "a.jpg")], [])
    with pytest.raises(InputError, match="empty"):
        (folder / "list.txt").write_text("\n")
        find_pictures(str(folder / "list.txt"), [])


def test_broken_queries_of_an_evaluation_are_skipped_and_said(run, model, tmp_path):
    for i in range(8):
        picture(tmp_path / f"{i}.jpg", i)
    (tmp_path / "7.jpg").write_bytes((tmp_path / "7.jpg").read_bytes()[:200])
    for name, lines in (("database", range(6)), ("train", range(6)), ("query", range(5, 8))):
        (tmp_path / f"{name}.txt").write_text("".join(f"{i}.jpg {i % 2} {1 - i % 2}\n" for i in lines))
    done = run(INFER, "--model-dir", model, "--dataset", tmp_path, "--save-path", tmp_path / "out", "--evaluate",
               "--threads", 1, ok=None)
    assert done.returncode == 3 and "mAP@all" in done.stdout
    assert "Skipped 1 broken pictures" in done.stdout and "7.jpg" in done.stdout


# galleries ---------------------------------------------------------------------------------------
@pytest.fixture
def gallery(run, model, tmp_path):
    """(folder of pictures, its code file)."""
    for i in range(6):
        picture(tmp_path / "photos" / f"{i}.jpg", i)
    run("predict.py", "--model-dir", model, "--gallery", tmp_path / "photos", "--code-file", tmp_path / "g.npz",
        "--threads", 1)
    return tmp_path / "photos", tmp_path / "g.npz"


def test_a_deleted_picture_is_marked_and_the_grid_is_drawn(run, model, gallery, tmp_path):
    photos, codes = gallery
    asked = tmp_path / "asked.jpg"
    shutil.copy(photos / "3.jpg", asked)
    (photos / "3.jpg").unlink()
    call = ("predict.py", "--model-dir", model, "--code-file", codes, "--img", asked, "--save-path", tmp_path / "out",
            "--threads", 1)
    done = run(*call, "--json")
    answer = json.loads(done.stdout)
    matches = answer["queries"][0]["matches"]
    assert (matches[0]["id"], matches[0]["distance"], matches[0]["gone"]) == ("3.jpg", 0, True)
    assert len(matches) == 6 and not any("gone" in match for match in matches[1:])
    assert answer["grid"] and os.path.getsize(answer["grid"]) > 1000
    table = [line for line in run(*call).stdout.splitlines() if line.endswith("[gone]")]
    assert len(table) == 1 and "3.jpg" in table[0]


def test_a_moved_gallery_is_named_and_found(run, model, gallery, tmp_path):
    photos, codes = gallery
    moved = tmp_path / "elsewhere"
    photos.rename(moved)
    call = ("predict.py", "--model-dir", model, "--code-file", codes, "--save-path", tmp_path / "out", "--threads", 1)
    one_error_line(run(*call, "--gallery", moved, "--img", moved / "2.jpg", ok=None), f"the gallery {photos}",
                   f"--data-path {moved}")
    done = run(*call, "--img", moved / "2.jpg")
    assert f"No picture grid: the gallery {photos} is not there" in done.stdout and "--data-path" in done.stdout
    answer = json.loads(run(*call, "--img", moved / "2.jpg", "--data-path", moved, "--json").stdout)
    assert answer["queries"][0]["matches"][0]["path"] == str(moved / "2.jpg") and answer["grid"]


# models ------------------------------------------------------------------------------------------
def test_a_run_folder_stands_for_its_best_checkpoint(run, shapes, tmp_path, tmp_path_factory):
    path, _ = checkpoint(tmp_path_factory, shapes)
    done = run("predict.py", "--pretrained", path.parent, "--save-path", tmp_path, "--topk", 1)
    assert f"----- Checkpoint: {path}\n" in done.stdout and "Found matched picture" in done.stdout
    done = run("export_model.py", "--pretrained", path.parent, "--save-inference-dir", tmp_path / "model")
    assert f"----- Checkpoint: {path}\n" in done.stdout
    one_error_line(run("predict.py", "--pretrained", tmp_path, ok=None), "no checkpoint at", "best.safetensors")


def test_a_moved_model_without_its_data_draws_nothing(run, model, shapes, tmp_path):
    moved = tmp_path / "model"
    shutil.copytree(model, moved)
    # as typed by the training run, below another folder
    edited(moved, lambda manifest: manifest["dataset"].update(root="data/shapes/elsewhere"))
    work = tmp_path / "work"
    work.mkdir()
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for command in (INFER, "predict.py"):
        done = run(os.path.join(root, command), "--model-dir", moved, cwd=work, ok=None)
        one_error_line(done, "shapes set is not at", "--data-path", "make shapes", "--num-train 64")
    assert os.listdir(work) == []
    picture(work / "a.jpg", 0)
    codes = tmp_path / f"database_hashnet_{BITS}.npz"
    run(INFER, "--model-dir", model, "--save-path", tmp_path, "--batch-size", 16)
    done = run(os.path.join(root, "predict.py"), "--model-dir", moved, "--code-file", codes, "--img", "a.jpg", cwd=work)
    assert "Found matched picture" in done.stdout  # the codes need no pictures
