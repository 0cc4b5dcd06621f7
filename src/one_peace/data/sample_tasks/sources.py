"""What the makers of tables draw from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from one_peace.data.manifest import Item
from one_peace.data.published.conversion import Converted
from one_peace.data.sample_library import stamps


@dataclass(frozen=True)
class Sources:
    """What makers draw from: the cache of packages, the library's items, and a word on what is being done."""

    cache: Path
    items: list[Item]
    say: Callable[[str], None]

    def stamps(self, split: str | None = None) -> list[Item]:
        """Real pictures of the stamps, of the training split or of the others."""
        real = [i for i in self.items if i.kind == "image" and i.source == stamps.PACKAGE.name and not i.symbol]
        return [i for i in real if split is None or (i.split == "train") == (split == "train")]


Maker = Callable[[Sources, Path], Converted]


def side_of(item: Item) -> str:
    """Which table an item is for: `train`, or `test` if its caption is held out."""
    return "train" if item.split == "train" else "test"
