"""Modalities of a user's own, and what other processes import for them."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from one_peace.modalities import get_modality, register_modality
from one_peace.modalities.imports import import_modality, imported_modalities

_OWN = """
from one_peace.modalities import register_modality
from one_peace.modalities.image import Image
class Own(Image):
    name = "{0}"
register_modality(Own())
"""

_ANOTHER_PROCESS = """
import sys
from one_peace.modalities import list_modalities
from one_peace.modalities.imports import import_modality
sys.path.append(sys.argv[1])
for name in sys.argv[2:]:
    import_modality(name)
print(*list_modalities()[-3:])
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with two files, and a package, of modalities."""
    (tmp_path / "path" / "own_senses").mkdir(parents=True)
    for file in ("own_scent.py", "path/own_taste.py", "path/own_senses/__init__.py", "path/own_senses/touch.py"):
        name = Path(file).stem.removeprefix("own_")
        (tmp_path / file).write_text("" if name == "__init__" else _OWN.format(name))
    monkeypatch.syspath_prepend(tmp_path / "path")
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def test_another_process_has_the_modalities_however_they_were_imported(own: Path) -> None:
    assert imported_modalities() == ()
    importlib.import_module("own_taste")
    importlib.import_module("own_senses.touch")
    import_modality(str(own / "own_scent.py"))
    import_modality("own_taste")
    places = imported_modalities()
    assert set(places) == {
        str(own / "own_scent.py"),
        "own_taste",
        str(own / "path" / "own_taste.py"),
        "own_senses.touch",
    }
    done = subprocess.run(
        [sys.executable, "-c", _ANOTHER_PROCESS, str(own / "path"), *places], capture_output=True, text=True
    )
    assert set(done.stdout.split()) == {"scent", "taste", "touch"}, done.stderr


def test_what_cannot_be_imported_any_more_is_left_out(own: Path) -> None:
    importlib.import_module("own_taste")
    (own / "path" / "own_taste.py").unlink()
    main = type("Own", (type(get_modality("image")),), {"name": "sight", "__module__": "__main__"})
    register_modality(main())
    assert imported_modalities() == ()
