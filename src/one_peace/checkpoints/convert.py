"""Official files of all families to our format and back, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from one_peace.checkpoints.families import Family, family_of
from one_peace.checkpoints.mico.convert import mico_to_native, native_to_mico
from one_peace.checkpoints.mico.official import find_mico
from one_peace.checkpoints.native import MAX_SHARD_BYTES, is_native
from one_peace.checkpoints.ofa.convert import native_to_ofa, ofa_to_native
from one_peace.checkpoints.ofa.official import is_port
from one_peace.checkpoints.one_peace.convert import native_to_official, official_to_native
from one_peace.checkpoints.registry import resolve

FORMS: dict[Family, tuple[str, ...]] = {
    "one_peace": ("native", "official", "vision"),
    "ofa": ("native", "official", "transformers"),
    "mico": ("native", "official"),
}
TO_NATIVE: dict[Family, Callable[[Path, Path, Callable[[Path], None] | None, int], Path]] = {
    "one_peace": official_to_native,
    "ofa": ofa_to_native,
    "mico": mico_to_native,
}


def convert(
    source: str | Path,
    target: str | Path,
    *,
    form: Literal["native", "official", "vision", "transformers"] | None = None,
    write_files: Callable[[Path], None] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Converts an official file into a folder of ours, or a folder into an official file. Dtypes stay.

    `source` is a path or a name, found as `from_pretrained` finds it.
    `form` defaults to the other side; "vision" writes the image branch alone, as the published vision code reads it,
    and "transformers" the folder of that layout, for OFA.
    A folder that came from an official file goes back to the same tensors in the same order. `write_files`
    as for `write_folder`. Optimizer state is not kept.
    """
    source, target = resolve(source), Path(target)
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target} is the model itself; give another place for what becomes of it")
    family = family_of(source)
    published = source.is_file() or is_port(source) or find_mico(source) is not None
    if not published and not is_native(source):
        raise ValueError(f"{source} is no folder with a config.json; only those become official files")
    if form is None:
        form = "native" if published else "official"
    if form not in FORMS[family]:
        raise ValueError(f"form must be one of {', '.join(FORMS[family])} for this model, got {form!r}")
    if form == "native":
        if not published:
            raise ValueError(f"{source} is a folder already; give an official file")
        return TO_NATIVE[family](source, target, write_files, max_shard_bytes)
    if published:
        raise ValueError(f"{source} is in an official form; convert it to a folder of ours first")
    if family == "ofa":
        return native_to_ofa(source, target, "transformers" if form == "transformers" else None)
    if family == "mico":
        return native_to_mico(source, target)
    return native_to_official(source, target, vision=form == "vision")
