"""JSON whatever files are called."""

from __future__ import annotations

import json
import os

import pytest

from one_peace.readable_json import readable_json


@pytest.mark.parametrize("name", ["кот.png", os.fsdecode(b"a\xff.png")])
def test_a_row_can_be_written_and_read_whatever_its_file_is_called(name: str) -> None:
    line = readable_json({"input": name, "score": 1})
    assert json.loads(line.encode()) == {"input": name, "score": 1}
    assert line.isascii() == ("\udcff" in name), "in readable letters where there are any"
