"""Where the data of a run are: the same from every folder, and told when they are gone. Through the public command."""
import json
import shutil

import pytest
import yaml
from PIL import Image

from tests.conftest import ROOT

SMALL = ["--bit", 8, "--backbone", "ConvNet:width=8", "--no-pretrained", "--resize-size", 40, "--crop-size", 32,
         "--batch-size", 4, "--epoch", 1, "--no-visualdl"]
MAIN = ROOT / "main_single_gpu.py"


@pytest.fixture
def place(tmp_path):
    for kind in ("cat", "dog"):
        (tmp_path / "pics" / kind).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (40, 30), (i * 40, 90, 30)).save(tmp_path / "pics" / kind / f"{i}.jpg")
    (tmp_path / "elsewhere").mkdir()
    return tmp_path


@pytest.mark.parametrize("how", [["--dataset", "pics"], ["--data-path", "pics"],
                                 ["--dataset", "pics", "--data-path", "pics"]], ids=" ".join)
def test_an_evaluation_from_another_folder_takes_the_same_pictures(how, place, run):
    run(MAIN, *how, *SMALL, "--output-dir", "run", cwd=place)
    recipe = yaml.safe_load(next((place / "run").glob("*.y*ml")).read_text())
    assert recipe["dataset"] == str(place / "pics") and recipe["data_path"] in (None, str(place / "pics"))
    (place / "elsewhere" / "pics").mkdir()  # another folder of the same name, and with other pictures
    Image.new("RGB", (9, 9)).save(place / "elsewhere" / "pics" / "x.jpg")
    evaluate = [MAIN, "--eval", "--pretrained", place / "run" / "best.safetensors"]
    run(*evaluate, "--output-dir", place / "again", cwd=place / "elsewhere")
    one, other = (json.loads((place / name / "result.json").read_text()) for name in ("run", "again"))
    assert one["metrics"] == other["metrics"]

    shutil.move(place / "pics", place / "moved")
    done = run(*evaluate, "--output-dir", place / "gone", cwd=place, ok=False)
    assert done.returncode == 2 and str(place / "pics") in done.stderr and "does not exist" in done.stderr
    assert done.stderr.count("error:") == 1 and "unknown data set" not in done.stderr
    run(*evaluate, "--output-dir", place / "found", "--data-path", "moved", cwd=place)
    assert json.loads((place / "found" / "result.json").read_text())["metrics"] == one["metrics"]


def test_a_folder_that_is_not_recognised_is_left_alone(place, run):
    (place / "docs").mkdir()
    (place / "docs" / "a.docx").write_text("x")
    done = run(MAIN, "--data-path", "docs", *SMALL, "--output-dir", "run", cwd=place, ok=False)
    assert done.returncode == 2 and "no data set is recognised there" in done.stderr
    assert [path.name for path in (place / "docs").iterdir()] == ["a.docx"] and not (place / "run").exists()
