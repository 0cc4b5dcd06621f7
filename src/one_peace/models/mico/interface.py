"""The class that users of MiCo hold: raw inputs in; embeddings, matching scores, captions and answers out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Unpack, overload

import torch
from torch import Tensor

from one_peace.errors import InputError
from one_peace.media.sources import describe
from one_peace.modalities.base import Example, Processor
from one_peace.modalities.wordpiece import WordPieceProcessor, WordPieces
from one_peace.models.embedding import EmbeddingModel, EmbeddingResult, Options
from one_peace.models.inputs import list_inputs
from one_peace.models.mico.config import MiCoConfig, branch_of
from one_peace.models.mico.model import TEXT, MiCoModel
from one_peace.models.mico.text import Memory
from one_peace.models.mico.writing import ANSWER_TOKENS, write_answers, write_captions

FRAMES_AT_ONCE = 16  # that a memory is made of in one go
TEXTS_AT_ONCE = 256  # that are read with inputs, each with one


class MiCo(EmbeddingModel):
    """A MiCo model with its processors: one tower for pictures, videos, sounds, depth and normal maps, and language.

    Besides embeddings, texts are compared with other inputs word by word (`match`) and written about them (`caption`,
    `answer`). What these three take are inputs by modality, `image="dog.jpeg"` or lists; of several modalities
    they make one: `video=clips, audio=clips` is every clip with its sound.
    """

    def __init__(self, encoder: MiCoModel, processors: Mapping[str, Processor]) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.processors = dict(processors)

    @property
    def config(self) -> MiCoConfig:
        """Shape and name of the model."""
        config: MiCoConfig = self.encoder.config
        return config

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.config.contrast_width

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.encoder.temperature.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights; embeddings are float32 whatever it is."""
        dtype: torch.dtype = self.encoder.temperature.dtype
        return dtype

    def tokens(self, name: str, example: Example) -> int:
        length = self.processors[name].length(example)
        if name == TEXT:
            return length
        grid = self.config.tower.grid
        return length * (1 + grid * grid)

    @overload
    def encode_video(
        self, videos: Any, *, on_error: Literal["raise"] = "raise", **options: Unpack[Options]
    ) -> Tensor: ...
    @overload
    def encode_video(
        self, videos: Any, *, on_error: Literal["skip"], **options: Unpack[Options]
    ) -> EmbeddingResult: ...
    def encode_video(self, videos: Any, **options: Any) -> Any:
        """Videos -> (n, dim); see `encode_modality`."""
        return self.encode_modality("video", videos, **options)

    @overload
    def encode_depth(
        self, maps: Any, *, on_error: Literal["raise"] = "raise", **options: Unpack[Options]
    ) -> Tensor: ...
    @overload
    def encode_depth(self, maps: Any, *, on_error: Literal["skip"], **options: Unpack[Options]) -> EmbeddingResult: ...
    def encode_depth(self, maps: Any, **options: Any) -> Any:
        """Depth maps -> (n, dim); see `encode_modality`."""
        return self.encode_modality("depth", maps, **options)

    @overload
    def encode_normals(
        self, maps: Any, *, on_error: Literal["raise"] = "raise", **options: Unpack[Options]
    ) -> Tensor: ...
    @overload
    def encode_normals(
        self, maps: Any, *, on_error: Literal["skip"], **options: Unpack[Options]
    ) -> EmbeddingResult: ...
    def encode_normals(self, maps: Any, **options: Any) -> Any:
        """Maps of surface normals -> (n, dim); see `encode_modality`."""
        return self.encode_modality("normals", maps, **options)

    @torch.no_grad()  # no inference_mode: a head may be trained on what comes out
    def encode_joint(self, **inputs: Any) -> Tensor:
        """Inputs by modality, those of several as one each -> (n, dim), by the head that was trained for them together.

        `encode` averages embeddings instead. `ValueError` where the model has no such head.
        """
        parts = tuple(branch_of(name) for name in inputs)
        rows = [torch.empty(0, self.dim)]
        for features in self._features(inputs, cls_only=True):
            pooled = {branch: self.encoder.pool(branch, x) for branch, x in features.items()}
            rows.append(self.encoder.project(parts, pooled).float().cpu())
        return torch.cat(rows)

    @torch.no_grad()
    def match(self, texts: str | Sequence[str], **inputs: Any) -> Tensor:
        """How probable it is that a text describes an input, (texts, inputs) float32 on the CPU.

        Text and input are read together, which is slower than to compare embeddings and finer: rank by embeddings, and
        match the first ones.
        """
        given = [texts] if isinstance(texts, str) else list(texts)
        if not given:
            raise ValueError("nothing to match: there are no texts")
        tokens = self._collated(TEXT, given)["tokens"]
        rows = [torch.empty(0, len(given))]
        for memory in self._memories(inputs):
            count = memory[0][0].shape[0]
            some = tokens.split(max(1, TEXTS_AT_ONCE // count))
            logits = [self.encoder.match(part.repeat(count, 1), memory) for part in some]  # each input with all texts
            matched = [one.float().softmax(dim=-1)[:, 1].view(count, -1).cpu() for one in logits]
            rows.append(torch.cat(matched, dim=1))
        return torch.cat(rows).t()

    @torch.inference_mode()
    def caption(
        self,
        *,
        beams: int | None = None,
        samples: int = 0,
        top_k: int = 10,
        max_tokens: int | None = None,
        generator: torch.Generator | None = None,
        **inputs: Any,
    ) -> list[str] | list[list[str]]:
        """A caption of every input, the best of a beam search; or of each `samples` captions, drawn at random.

        Args:
            beams: of the search; 1 is greedy. Default: the model's own.
            top_k: words that a sample is drawn from. generator: for samples; by default one that `torch.manual_seed`
                governs.
            max_tokens: the end included; the model's own by default.

        Raises:
            ValueError: a setting that cannot be.
            InputError: what cannot be read, or a model without its vocabulary.
        """
        words = self._words()
        if samples and generator is None:  # one for all inputs, whatever number of them is read at a time
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        found: list[list[str]] = []
        for memory in self._memories(inputs):
            written = write_captions(
                self.encoder.text,
                memory,
                words,
                max_tokens=self.config.max_caption_tokens if max_tokens is None else max_tokens,
                beams=self.config.beams if beams is None else beams,
                samples=samples,
                top_k=top_k,
                generator=generator,
            )
            found += [[words.decode(one.tokens) for one in hypotheses] for hypotheses in written]
        return found if samples else [captions[0] for captions in found]

    @torch.inference_mode()
    def answer(
        self,
        questions: str | Sequence[str],
        *,
        beams: int | None = None,
        max_tokens: int = ANSWER_TOKENS,
        **inputs: Any,
    ) -> list[str]:
        """An answer to each question about its input: as many questions as inputs, or one about all of them."""
        words, length = self._words(), self.config.max_caption_tokens
        asked = questions if isinstance(questions, str) else list(questions)
        found: list[str] = []
        for memory in self._memories(inputs, None if isinstance(asked, str) else len(asked)):
            count = memory[0][0].shape[0]
            part = [asked] * count if isinstance(asked, str) else asked[len(found) : len(found) + count]
            rows = [words.encode(question, length) for question in part]
            padded = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=self.device)
            written = write_answers(
                self.encoder.text,
                memory,
                padded,
                words,
                max_tokens=max_tokens,
                beams=self.config.beams if beams is None else beams,
            )
            found += [words.decode(hypotheses[0].tokens) for hypotheses in written]
        return found

    def _memories(self, inputs: Mapping[str, Any], wanted: int | None = None) -> Iterator[Memory]:
        """The inputs as memories, some of them at a time."""
        for features in self._features(inputs, wanted):
            yield self.encoder.text.project_memory(self.encoder.remember(features))

    def _features(
        self, inputs: Mapping[str, Any], wanted: int | None = None, cls_only: bool = False
    ) -> Iterator[dict[str, Tensor]]:
        """The inputs as features by branch, some of them at a time; decoded when their turn comes."""
        if not inputs:
            raise ValueError(f"nothing to read: give at least one of {', '.join(self._readable())}")
        for name in inputs:
            if name not in self._readable():
                raise ValueError(
                    f"model {self.config.name!r} reads texts with {', '.join(self._readable())}, not with {name!r}"
                )
        if len({branch_of(name) for name in inputs}) < len(inputs):
            raise ValueError(f"{' and '.join(inputs)} take the same branch of the model; give one of them")
        lists = {name: list_inputs(sources) for name, sources in inputs.items()}
        counts = {len(sources) for sources in lists.values()}
        if len(counts) != 1:
            raise ValueError(f"equally many inputs of every modality are needed, got {sorted(counts)}")
        (count,) = counts
        if wanted is not None and wanted != count:
            raise ValueError(f"{wanted} questions about {count} inputs; give as many, or a single text")
        frames = max(max(1, self.config.frames[branch_of(name)]) for name in lists)
        step = max(1, FRAMES_AT_ONCE // frames)
        for start in range(0, count, step):
            features: dict[str, Tensor] = {}
            for name, sources in lists.items():
                part = sources[start : start + step]
                made = self.encoder.encode(name, self._collated(name, part), cls_only)
                for source, finite in zip(part, made.flatten(1).isfinite().all(dim=1).tolist(), strict=True):
                    if not finite:
                        raise InputError(describe(source), "gives no finite features; does it hold NaN?")
                features[branch_of(name)] = made
            yield features

    def _readable(self) -> list[str]:
        return [name for name in self.processors if name != TEXT]

    def _words(self) -> WordPieces:
        processor = self.processors.get(TEXT)
        if not isinstance(processor, WordPieceProcessor):
            raise InputError("text", "this model was loaded without its texts or their vocabulary; see from_pretrained")
        return processor.pieces
