"""The deployment README lists the files that are needed; from exactly these, in an empty folder, infer.py runs."""
import os
import re
import shutil
import subprocess
import sys

from tests.conftest import ROOT
from tests.exported import BITS, exported

README = ROOT / "deploy" / "inference_python" / "README.md"


def listed():
    """The lines of the README's list."""
    text = re.search(r"<!-- the files that are needed -->\n```\n(.*?)```", README.read_text(encoding="utf-8"), re.S)[1]
    return text.splitlines()


def copy_listed(folder):
    for line in listed():
        pattern, *words = line.split()
        without = [ROOT / word for word in words if word != "without"]
        for source in ROOT.glob(pattern):
            target = folder / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=lambda place, names: [
                    name for name in names if name == "__pycache__" or (ROOT / place / name) in without])
            else:
                shutil.copy(source, target)


def test_the_listed_files_are_enough(tmp_path, shapes, tmp_path_factory):
    model = exported(tmp_path_factory, shapes)
    place = tmp_path / "place"
    copy_listed(place)
    shutil.copytree(model, place / "model")
    assert not (place / "models").exists() and not (place / "utils" / "training").exists()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def call(*arguments):
        done = subprocess.run([sys.executable, *arguments], cwd=place, env=environment, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout
    said = call("deploy/inference_python/infer.py", "--model-dir", "model", "--save-path", "codes", "--evaluate",
                "--benchmark", "--repeat", "1", "--batch-size", "16", "--threads", "1")
    assert "Predicted Hamm_min" in said and "mAP@all" in said and "Perf info" in said
    assert (place / "codes" / f"database_hashnet_{BITS}.npz").is_file()
    shutil.copy(ROOT / "predict.py", place)
    picture = next((shapes / next(iter(os.listdir(shapes))) / "images").iterdir())
    assert "Found matched" in call("predict.py", "--model-dir", "model", "--img", str(picture), "--save-path", "codes")
    # and Python code, as in the README
    code = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)[1]
    for old, new in (("output/model", "model"), ("cat.jpg", str(picture)), ("output/photos", "photos"),
                     ("output/database_hashnet_64", f"codes/database_hashnet_{BITS}")):
        assert old in code
        code = code.replace(old, new)
    call(*re.search(r"^# python (-m deploy.index build .*)$", code, re.M)[1].split())
    said = call("-c", code + "print(len(hits.ids), 'nearest from', min(hits.distance))")
    assert re.search(r"^5 nearest from \d+$", said, re.M), said


def test_nothing_of_the_list_is_missing():
    for line in listed():
        assert list(ROOT.glob(line.split()[0])), line
