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
"""


OFA_TEMPLATE = """---
library_name: one-peace
license: apache-2.0
tags: [one-peace, ofa, image-to-text, visual-question-answering]
---

# {name}

An OFA model ([arXiv 2202.03052](https://arxiv.org/abs/2202.03052)): it reads a picture and a text and writes words,
boxes or image codes.

| | |
|---|---|
| parameters | {parameters:,} |
| stored as | {dtypes} |
| width / heads / feed-forward | {width} / {heads} / {ffn_width} |
| layers of encoder / decoder | {encoder_layers} / {decoder_layers} |
| blocks of the image trunk | {trunk} |
| vocabulary | {vocabulary:,}, of which {codes:,} image codes and {bins:,} box coordinates |
"""


MICO_TEMPLATE = """---
library_name: one-peace
license: apache-2.0
tags: [one-peace, mico, feature-extraction, {tags}]
---

# {name}

A MiCo model ([arXiv 2406.09412](https://arxiv.org/abs/2406.09412)) of text and {modalities}: embeddings, matching
scores and captions.

| | |
|---|---|
| parameters | {parameters:,} |
| stored as | {dtypes} |
| width / layers / heads of the tower | {tower[width]} / {tower[layers]} / {tower[heads]} |
| patch / picture, pixels | {tower[patch]} / {tower[image_size]} |
| width / layers / heads of the text model | {text[width]} / {text[layers]} / {text[heads]} |
| length of an embedding | {contrast_width} |
"""


USE = """
```python
import one_peace

model = one_peace.from_pretrained("PATH/TO/THIS/FOLDER")
```

Data, training and results are those of whoever made the weights; write them down here before you pass them on.
"""


def model_card(config: Mapping[str, Any], parameters: int, dtypes: Sequence[str]) -> str:
    """A card with the facts that a config and its weights tell."""
    if config.get("family") == "ofa":
        values = {**config, "parameters": parameters, "dtypes": ", ".join(dtypes)}
        return OFA_TEMPLATE.format(**values) + USE
    names = list(config.get("modalities", {}))
    if config.get("family") == "mico":
        facts = {"tags": ", ".join(names), "modalities": ", ".join(names), "dtypes": ", ".join(dtypes)}
        return MICO_TEMPLATE.format(**{**config, **facts, "parameters": parameters}) + USE
    card = TEMPLATE.format(
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
    return card + USE
