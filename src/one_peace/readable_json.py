"""JSON for people and programs, whatever the files are called that it names."""

from __future__ import annotations

import json
from typing import Any


def readable_json(value: Any, indent: int | None = None) -> str:
    """A value in readable letters; one with a name that is not UTF-8 in escapes, as such names cannot be written
    otherwise. Either way `json.loads` gives the value back."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text
