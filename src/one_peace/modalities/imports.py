"""Modalities of a user's own: Python files that register them when they are imported."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

from one_peace.errors import InputError
from one_peace.modalities.registry import get_modality, list_modalities

_MAIN = ("__main__", "__mp_main__")  # a program, also as its worker processes call it
_imported: list[str] = []


def imported_modalities() -> tuple[str, ...]:
    """What another process has to give to `import_modality` for all modalities registered here, files by absolute path.

    Those are what was given to it here, and the modules of modalities that came by a plain import. What was defined in
    a program or a notebook itself cannot be imported, nor what has no file any more.
    """
    plain = filter(None, (_place(type(get_modality(name)).__module__) for name in list_modalities()))
    return tuple(dict.fromkeys((*_imported, *plain)))


def import_modality(name: str) -> None:
    """Imports a `.py` file, or a module by its dotted name, so that the modalities in it are registered.

    Raises:
        InputError: it is not there, or fails when it runs.
    """
    _import(name)
    place = str(Path(name).resolve()) if name.endswith(".py") else name
    if place not in _imported:
        _imported.append(place)


def _place(module: str) -> str | None:
    """What to import for a modality of this module; None for the package's own and those that cannot be imported."""
    known = sys.modules.get(module)
    file = getattr(known, "__file__", None)
    if module in _MAIN or module.partition(".")[0] == "one_peace" or file is None or not Path(file).is_file():
        return None
    # By its file, since the other process may not look for modules where we do; but in a package by its name there.
    in_package = getattr(known, "__package__", None) in sys.modules
    return module if in_package or not file.endswith(".py") else str(Path(file).resolve())


def _import(name: str) -> None:
    path = Path(name)
    try:
        if path.suffix != ".py":
            importlib.import_module(name)
            return
        if path.stem in sys.modules:
            known = getattr(sys.modules[path.stem], "__file__", None)
            if known is not None and Path(known).resolve() == path.resolve():
                return
            raise InputError(name, f"there already is a module {path.stem!r}; rename the file")
        specification = importlib.util.spec_from_file_location(path.stem, path)
        assert specification is not None and specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        sys.modules[path.stem] = module  # dataclasses and pickles look their module up here
        try:
            specification.loader.exec_module(module)
        except BaseException:
            del sys.modules[path.stem]
            raise
    except FileNotFoundError as error:
        raise InputError(name, "no such file") from error
    except InputError:
        raise
    except Exception as error:  # it runs anything
        raise InputError(name, f"cannot be imported ({type(error).__name__}: {error})") from error
