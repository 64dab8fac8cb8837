"""Records that the tools keep for themselves: damaged or foreign ones are one line."""
import json
import subprocess
import sys
import types

import pytest

from deploy.photos import SEEN, Photos
from deploy.service import client
from test_tipc import compare_results, official_results, run
from tests.conftest import ROOT
from utils.errors import InputError

DEEP, LONG = "[" * 100_000 + "]" * 100_000, "9" * 5000
VALUES = ("", "{", DEEP, LONG, "[]", "null", f'{{"a": {DEEP}}}', f'{{"a": [{LONG}, null]}}')


def start(text):
    """Name of a test: pytest hands it on to the processes that are started."""
    return text[:20]


@pytest.mark.parametrize("text", [*VALUES, '{"a.jpg": "b"}', '{"a.jpg": ["1", 2]}', '{"a.jpg": ["1", null, 3]}',
                                  '{"a.jpg": [null, null]}', '{"a.jpg": {"0": 1}}'], ids=start)
def test_what_search_knows_of_a_folder(tmp_path, text):
    (tmp_path / SEEN).write_text(text)
    with pytest.raises(InputError, match="--rebuild makes the index anew") as error:
        Photos._known(types.SimpleNamespace(place=str(tmp_path)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", VALUES, ids=start)
def test_results_of_tipc(tmp_path, text):
    path = tmp_path / "result.json"
    path.write_text(text)
    for read in (compare_results.read_evaluation, compare_results.read_stored):
        with pytest.raises(compare_results.Unusable) as error:
            read(str(path))
        assert "\n" not in str(error.value)
    done = subprocess.run([sys.executable, "test_tipc/compare_losses.py", "--run", tmp_path, "--reference", tmp_path],
                          cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == 2 and done.stdout.startswith("error: cannot compare: ") and not done.stderr


@pytest.mark.parametrize("text", [DEEP, LONG, f"[{'9' * 400}]", "{", '["a"]', "[[1]]"], ids=start)
def test_numbers_of_other_projects_files(text):
    with pytest.raises(official_results.Damaged, match="no number and no list"):
        official_results.numbers(text, "a.txt")


TASK = {"venv": None, "config": "a", "chain": "base", "mode": "m", "verdict": "passed", "said": "", "paddle": "3.3",
        "seconds": 1, "steps": [["train", "passed", 1, "0.5"]]}


@pytest.mark.parametrize("change", [{"chain": "other"}, {"chain": []}, {"steps": [["train", "passed", "1", "-"]]},
                                    {"steps": None}, {"config": 3}, {"seconds": "1"}, {"venv": 1}, {"verdict": None}])
def test_a_summary_of_tipc(tmp_path, change):
    path = tmp_path / "summary.json"
    path.write_text(json.dumps({"tasks": [TASK]}))
    assert run.load_summary(str(path)) == [TASK]
    for text in (json.dumps({"tasks": [{**TASK, **change}]}), json.dumps({"tasks": {}, "a": 1})[:-3], *VALUES):
        path.write_text(text)
        with pytest.raises(run.Mistake, match="damaged"):
            run.load_summary(str(path))


@pytest.mark.parametrize("text", [DEEP, LONG, "{"], ids=start)
def test_an_answer_of_another_server(monkeypatch, text):
    asked = client.Client("http://127.0.0.1:1")
    monkeypatch.setattr(asked, "_send", lambda *_: (200, "application/json", text.encode()))
    with pytest.raises(client.ServiceError, match="status 200"):
        asked.info()
