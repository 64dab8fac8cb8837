"""CONTRIBUTING.md's road for a method, followed as printed in a copy of the project; the tests only make it small."""
import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT, SHAPES_SIZES
from tests.test_readme import commands, working_tree

PAGE = ROOT / "CONTRIBUTING.md"
SMALL = ["--epoch", "2", "--device", "cpu", "--no-visualdl", "--freeze-backbone", "--feature-norm", "standardize",
         "--backbone", "ConvNet:width=8", "--batch-size", "16", *[f"--{key}={value}" for key, value in
                                                                  SHAPES_SIZES.items()]]


@pytest.mark.slow
def test_a_method_from_the_page_alone(tmp_path):
    copy = tmp_path / "repo"
    working_tree(copy)
    done = []
    for command in commands(PAGE):
        words = command.split()
        env = {**os.environ, "GLOG_v": "0"}
        while "=" in words[0]:
            env.update([words.pop(0).split("=")])
        assert words[0] == "python"
        if words[1] == "main_single_gpu.py" and "--help" not in words:
            words += SMALL
        result = subprocess.run([sys.executable, *words[1:]], cwd=copy, env=env, text=True, capture_output=True,
                                timeout=600)
        assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
        done.append(result.stdout)
    assert "settings of six" in done[1] and "mAP@all" in done[2] and "same bits" in done[3]
    assert "mAP@all" in done[4] and all("Found matched picture" in text for text in done[5:7])
    assert re.search(r"\d{1,} passed", done[7])
    untouched = subprocess.run(["git", "-C", str(ROOT), "ls-files", "models", "configs", "utils"], capture_output=True,
                               text=True, check=True).stdout.split()
    assert all((copy / name).read_bytes() == (ROOT / name).read_bytes() for name in untouched if (ROOT / name).exists())


def test_every_file_that_the_page_names_exists():
    text = PAGE.read_text(encoding="utf-8")
    names = {name for name in re.findall(r"`([\w./]+\.(?:py|md|sh|yml|yaml))`", text) if "six" not in name}
    names |= set(re.findall(r"(?:python|sh) ([\w/]+\.(?:py|sh))", text))
    missing = [name for name in names if not any((folder / name).exists() for folder in
               (ROOT, ROOT / "utils/datasets", ROOT / "utils/datasets/protocols"))]
    assert sorted(missing) == ["X_cn.md", "default.yaml", "inference.yml"] and len(names) > 15
