"""The data pages: twins name the same values, and they are the code's. tests/test_readme.py has the rest."""
import re

import pytest

from tests.conftest import ROOT
from utils import limits
from utils.datasets import PROTOCOLS

PAGES = sorted(path.relative_to(ROOT) for pattern in ("README.md", "*/README.md")
               for path in (ROOT / "data").glob(pattern))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_twins_have_the_same_values(page):
    english, chinese = ROOT / page, (ROOT / page).with_name("README_cn.md")
    for pattern in (r"--[a-z-]+", r"\b\d[\d,]*,\d{3}\b", r"`[A-Z_]{8,}`", r"`[a-z_]+\.(?:txt|json|jsonl|mat)`"):
        one, other = (set(re.findall(pattern, path.read_text(encoding="utf-8"))) for path in (english, chinese))
        assert one == other, pattern


def test_every_page_has_a_twin():
    assert len(PAGES) >= 9
    assert all((ROOT / page).with_name("README_cn.md").exists() for page in PAGES)


def test_the_page_names_every_protocol_and_limit():
    text = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in PROTOCOLS)
    for name, value in limits.DEFAULTS.items():
        shown = re.search(rf"\| `{name}` \| ([^|]+) \|", text)[1]
        assert shown in (f"{value:,}", f"{value >> 30} GiB")
