"""Rows as lines of JSON."""

from __future__ import annotations

import json
import os

import pytest

from one_peace.cli.json_lines import json_line


@pytest.mark.parametrize("name", ["кот.png", os.fsdecode(b"a\xff.png")])
def test_a_row_can_be_written_and_read_whatever_its_file_is_called(name: str) -> None:
    line = json_line({"input": name, "score": 1})
    assert json.loads(line.encode()) == {"input": name, "score": 1}
    assert line.isascii() == ("\udcff" in name), "in readable letters where there are any"
