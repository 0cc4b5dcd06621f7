"""Rows as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def json_line(row: Mapping[str, Any]) -> str:
    """A row in readable letters; one with a name that is not UTF-8 in escapes, as such names cannot be written
    otherwise. Either way `json.loads` gives the row back."""
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(row)
    return text
