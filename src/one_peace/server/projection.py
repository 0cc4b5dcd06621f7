"""The library in two dimensions, for the map."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from one_peace.search.library import Library
from one_peace.server.schemas import MapResponse

MOST = 100_000  # points; of a larger library every second, third, ... item is shown
_INSIDE = 0.995  # of points that fill the map; the few beyond are drawn at its edge


class Map:
    """The two directions in which the library varies most, and each item's place along them.

    The mean of each branch of the model is taken away first. Embeddings of a modality share one large component that
    says nothing but what modality they are of; left in, the map would show clumps of pictures, sounds and texts, and
    not what they are about.

    Computed when first asked for, and again when `state` is another one; memory does not grow with the library but for
    the answer.
    """

    def __init__(self, library: Library, state: Callable[[], object]) -> None:
        self._library, self._current = library, state
        self._lock = threading.Lock()
        self._state: object = None
        self._answer: MapResponse | None = None

    def points(self) -> MapResponse:
        """The map as it is now."""
        with self._lock:
            state = self._current()
            if self._answer is None or state != self._state:
                self._answer, self._state = self._compute(), state
            return self._answer

    def _compute(self) -> MapResponse:
        means, covariance = self._moments()
        values, directions = np.linalg.eigh(covariance)
        axes = directions[:, ::-1][:, :2].astype(np.float32)  # (dim, 2)
        ids: list[str] = []
        modalities: list[str] = []
        places: list[np.ndarray] = []
        step = max(1, -(-len(self._library) // MOST))
        seen = 0
        for entries, vectors in self._library.vectors():
            kept = []
            for i, entry in enumerate(entries):
                if entry.part == 0 and entry.branch in means:  # what came since is on the next map
                    if seen % step == 0:
                        kept.append(i)
                        ids.append(entry.item)
                        modalities.append(entry.modality)
                    seen += 1
            if kept:
                centers = np.stack([means[entries[i].branch] for i in kept])
                places.append((vectors[kept] - centers) @ axes)
        points = np.concatenate(places) if places else np.zeros((0, 2), np.float32)
        names = sorted(set(modalities))
        number = {name: i for i, name in enumerate(names)}
        points = _fit(points)
        total = max(float(values.sum()), 1e-12)
        return MapResponse(
            modalities=names,
            id=ids,
            modality=[number[name] for name in modalities],
            x=np.round(points[:, 0].astype(float), 4).tolist(),
            y=np.round(points[:, 1].astype(float), 4).tolist(),
            explained=[round(float(value) / total, 4) for value in values[::-1][:2]],
        )

    def _moments(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The mean of each branch, and the covariance around them, (dim, dim)."""
        dim = self._library.model.dim
        counts: dict[str, int] = {}
        sums: dict[str, np.ndarray] = {}
        products = np.zeros((dim, dim))
        for entries, vectors in self._library.vectors():
            branches = np.array([entry.branch for entry in entries])
            for branch in set(branches.tolist()):
                rows = vectors[branches == branch].astype(np.float64)
                counts[branch] = counts.get(branch, 0) + len(rows)
                sums[branch] = sums.get(branch, np.zeros(dim)) + rows.sum(0)
                products += rows.T @ rows
        means = {branch: sums[branch] / counts[branch] for branch in counts}
        for branch, mean in means.items():
            products -= counts[branch] * np.outer(mean, mean)
        return {b: mean.astype(np.float32) for b, mean in means.items()}, products / max(1, sum(counts.values()))


def _fit(points: np.ndarray) -> np.ndarray:
    """Points scaled to [-1, 1] by a scale that a few far ones do not decide."""
    if not len(points):
        return points
    scale = np.quantile(np.abs(points), _INSIDE, axis=0)
    return np.clip(points / np.maximum(scale, 1e-9), -1, 1)
