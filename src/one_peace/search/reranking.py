"""Ordering the first answers again, by encoding each together with the texts of the query.

ONE-PEACE's fusion encoder reads two modalities as one sequence, so that a picture is seen in the light of the words.
Its pretraining has no matching head; what is compared is the picture's own embedding from the joint sequence. With the
shipped weights this changes little, in either direction: docs/search.md has the figures. MiCo is trained to say whether
a text belongs to an input, and is asked that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from one_peace.search.queries import Part, QueryError
from one_peace.search.ranking import Ranked

WEIGHT = 0.3
"""Of the joint similarity, beside 1 for the cosine similarity; of those tried the one that did best."""

_AT_ONCE = 32  # pairs encoded in one batch


def rerank(
    model: Any,
    parts: Sequence[tuple[Part, np.ndarray]],
    ranked: Sequence[Ranked],
    source: Callable[[Ranked], Any],
) -> list[Ranked]:
    """The answers in their new order.

    Only answers of another modality than text are read together with the texts of the query that have a positive
    weight. Those of one branch change places among each other; the others stay where they are.

    Args:
        model: with `match`, as `MiCo` has it, or `features` and `encoder.project`, as `OnePeace` has them.
        parts: the query's, each with its embedding (dim,) of unit length.
        source: the input of the model that an answer stands for, or None where there is none to be had.

    Raises:
        QueryError: the model cannot encode jointly, or the query has no text.
    """
    matches = hasattr(model, "match")
    if not matches and not (hasattr(model, "features") and hasattr(getattr(model, "encoder", None), "project")):
        raise QueryError("rerank", "this model encodes nothing jointly; ask without")
    texts = [(part, vector) for part, vector in parts if part.modality == "text" and part.weight > 0]
    if not texts:
        raise QueryError("rerank", "answers are encoded together with the query's texts, of which it has none")
    result = list(ranked)
    for branch in {one.row.entry.branch for one in ranked} - {"text"}:
        given = {place: source(one) for place, one in enumerate(ranked) if one.row.entry.branch == branch}
        places = [place for place, found in given.items() if found is not None]
        gains = np.zeros(len(places))
        for part, vector in texts:
            for start in range(0, len(places), _AT_ONCE):
                group = [given[place] for place in places[start : start + _AT_ONCE]]
                if matches:
                    gains[start : start + _AT_ONCE] += model.match(part.source, **{branch: group})[0].numpy() / len(
                        texts
                    )
                    continue
                features = model.features(**{"text": [part.source] * len(group), branch: group})
                joint = model.encoder.project(branch, features[branch])  # (group, dim)
                gains[start : start + _AT_ONCE] += joint.float().cpu().numpy() @ vector / len(texts)
        scores = gains if matches else np.array([ranked[place].score for place in places]) + WEIGHT * gains
        for place, taken in zip(places, np.argsort(-scores, kind="stable"), strict=True):
            result[place] = ranked[places[taken]]
    return result
