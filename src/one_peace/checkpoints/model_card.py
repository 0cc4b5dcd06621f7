"""The README.md beside saved weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

TEMPLATE = """---
library_name: one-peace
license: apache-2.0
tags: [one-peace, multimodal, {tags}]
---

# {name}

A ONE-PEACE model ([arXiv 2305.11172](https://arxiv.org/abs/2305.11172)) for {modalities}: it maps each into one
space of {width} dimensions, in which what belongs together lies close together.

| | |
|---|---|
| parameters | {parameters:,} |
| stored as | {dtypes} |
| width / layers / heads / feed-forward | {width} / {layers} / {heads} / {ffn_width} |
| decoder for pretraining | {decoder} |

```python
import one_peace

model = one_peace.from_pretrained("PATH/TO/THIS/FOLDER")
```

Data, training and results are those of whoever made the weights; write them down here before you pass them on.
"""


def model_card(config: Mapping[str, Any], parameters: int, dtypes: Sequence[str]) -> str:
    """A card with the facts that a config and its weights tell."""
    names = list(config.get("modalities", {}))
    return TEMPLATE.format(
        tags=", ".join(names),
        name=config.get("name", "ONE-PEACE"),
        modalities=" and ".join(filter(None, [", ".join(names[:-1]), names[-1] if names else ""])),
        width=config["width"],
        parameters=parameters,
        dtypes=", ".join(dtypes),
        layers=config["layers"],
        heads=config["heads"],
        ffn_width=config["ffn_width"],
        decoder="yes" if config.get("decoder") else "no",
    )
