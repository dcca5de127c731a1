"""docs/lineage.md lists every study, and no other."""

import re
from pathlib import Path

from phosphene.studies import STUDIES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "lineage.md"


def test_the_page_lists_each():
    table = PAGE.read_text(encoding="utf-8").split("## Studies")[1].split("##")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", "".join(rows))) == sorted(STUDIES)
