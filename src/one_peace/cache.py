"""Where downloads and what is computed once are kept on this machine."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "ONE_PEACE_CACHE"


def cache_folder() -> Path:
    """$ONE_PEACE_CACHE, or ~/.cache/one-peace, where the published package keeps its downloads too."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/one-peace").expanduser()


def table_cache() -> Path:
    """Where tables of examples are indexed."""
    return cache_folder() / "tables"


def pair_cache() -> Path:
    """Where files of pairs and clips are indexed, and shards from the network are kept."""
    return cache_folder() / "pairs"
