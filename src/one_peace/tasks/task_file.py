"""`task.json` beside a fine-tuned model: which task it is for."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Self

from one_peace.configuration import build_dataclass
from one_peace.errors import InputError

TASK_FILE = "task.json"


class SavedSettings:
    """Of dataclasses of settings: into such a file and back."""

    def save(self: Any, folder: Path) -> None:
        """Writes `task.json`."""
        values = json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=1)
        (folder / TASK_FILE).write_text(values + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The settings in a model's folder, None without any. `InputError` for damaged ones."""
        path = folder / TASK_FILE
        if not path.is_file():
            return None
        try:
            return build_dataclass(cls, json.loads(path.read_text(encoding="utf-8")), TASK_FILE)
        except ValueError as error:
            raise InputError(str(path), f"is damaged, or of a model for something else: {error}") from error
