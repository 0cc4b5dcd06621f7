"""The class that users hold: pictures and words in, words and boxes out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from one_peace.checkpoints.native import write_folder
from one_peace.data.permutation import mix
from one_peace.errors import InputError
from one_peace.generation.beam import beam_search
from one_peace.generation.candidates import best_of, score_candidates
from one_peace.generation.constraints import Constraint, TokenRange
from one_peace.generation.decoder import by_length
from one_peace.generation.settings import GenerationSettings
from one_peace.media.pictures import decode_picture
from one_peace.modalities.tokenization import BOS_ID, EOS_ID, PAD_ID
from one_peace.models.ofa import prompts
from one_peace.models.ofa.config import OfaConfig
from one_peace.models.ofa.drawing import checked_coder, coded_picture, draw_codes
from one_peace.models.ofa.encoder import Encoded
from one_peace.models.ofa.model import OfaModel
from one_peace.models.ofa.processor import Box, OfaProcessor, Request
from one_peace.models.ofa.running import OnError, Read, Work, checked_text, paired, run
from one_peace.models.vqgan.model import Vqgan

POSITIONS_PER_BATCH = {"cpu": 4096, "cuda": 32768}


class Ofa:
    """An OFA model with its processor.

    Every method takes one input or a list of them, and gives one result or a list in the same order. Of two arguments
    either may be a single one that goes with all of the other. Inputs are batched by length; padding changes a result
    by rounding only. With `on_error="raise"` the first input that cannot be used raises `InputError`, a text without
    words or a picture that is None included; with "skip" the result is a `Results` (`models/ofa/running.py`). Only
    `generate` and `choose` do without pictures.
    """

    def __init__(self, model: OfaModel, processor: OfaProcessor, coder: Vqgan | None = None) -> None:
        """`coder` turns image codes into pictures; only `draw` needs it."""
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.coder = coder

    @property
    def config(self) -> OfaConfig:
        """Shape and name of the model."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights."""
        return self.model.tokens.weight.dtype

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Ofa:
        """Moves the weights in place and returns the model."""
        self.model.to(device=device, dtype=dtype)
        return self

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Writes the model to a folder that `from_pretrained` reads, in the dtype that it has; returns the folder."""
        tensors = {name: [tensor.detach()] for name, tensor in self.model.state_dict().items()}
        return write_folder(Path(folder), self.config.to_dict(), tensors, write_files=self.processor.save)

    def caption(
        self,
        images: Any,
        *,
        beams: int = 5,
        max_tokens: int = 16,
        batch_size: int | None = None,
        on_error: OnError = "raise",
    ) -> Any:
        """What pictures show, in words: the published settings for captions."""
        settings = _settings(beams, max_tokens, no_repeat_ngram=3)
        return self._run(prompts.DESCRIBE, images, self._about(str), self._writes(settings), batch_size, on_error)

    def answer(
        self,
        images: Any,
        questions: str | Iterable[str],
        answers: Iterable[str] | None = None,
        *,
        beams: int = 5,
        max_tokens: int = 16,
        batch_size: int | None = None,
        on_error: OnError = "raise",
    ) -> Any:
        """Answers to questions about pictures, in the model's own words or the likeliest of `answers`."""
        settings = _settings(beams, max_tokens, length_penalty=0.0)
        work = self._writes(settings) if answers is None else self._chooses(answers)
        return self._run(questions, images, self._about(prompts.ask), work, batch_size, on_error)

    def locate(
        self,
        images: Any,
        phrases: str | Iterable[str],
        *,
        beams: int = 5,
        batch_size: int | None = None,
        on_error: OnError = "raise",
    ) -> Any:
        """Where in pictures phrases are: a `Box` in pixels of each."""
        self.processor.vocabulary.check_boxes(self.config.image_size)
        first = self.processor.vocabulary.first_bin
        bins = TokenRange(first, first + self.config.bins, specials_at_end=True)

        def work(requests: list[Request]) -> list[Box | None]:
            found = self._search(requests, _settings(beams, 4, min_tokens=4), bins)
            return [
                None if tokens is None else self.processor.box(tokens[:4], request.picture_size)
                for tokens, request in zip(found, requests, strict=True)
            ]

        return self._run(phrases, images, self._about(prompts.locate), work, batch_size, on_error)

    def classify(
        self, images: Any, labels: Iterable[str], *, batch_size: int | None = None, on_error: OnError = "raise"
    ) -> Any:
        """The likeliest of `labels` for pictures, as the published image classification asks."""
        return self._run(prompts.DESCRIBE, images, self._about(str), self._chooses(labels), batch_size, on_error)

    def draw(
        self,
        texts: str | Iterable[str],
        *,
        samples: int = 4,
        top_k: int = 256,
        top_p: float = 1.0,
        temperature: float = 1.0,
        seed: int = 0,
        batch_size: int | None = None,
        on_error: OnError = "raise",
    ) -> Any:
        """Pictures of what texts say: `samples` of each, a list of RGB images by descending probability.

        Each code is drawn from the `top_k` likeliest, and of those from the fewest that have probability `top_p`
        together, at random by `seed` and the text alone: the same pictures in any company.

        Raises:
            ValueError: the model has no `coder`, or one with other codes.
        """
        coder, places = checked_coder(self.coder, self.config), self.config.code_grid**2
        settings = _settings(samples, places, min_tokens=places, temperature=temperature)
        first = self.processor.vocabulary.first_code

        def work(requests: list[Request]) -> list[list[Image.Image] | None]:
            seeds = [mix(int(seed), *request.tokens.tolist()) >> 1 for request in requests]
            drawn = draw_codes(self.model, self._encode(requests), first, settings, seeds, top_k=top_k, top_p=top_p)
            return [[coded_picture(codes, coder) for codes in group] or None for group in drawn]

        def read(text: str, picture: None) -> Request:
            return self.processor(prompts.draw(text))

        return self._run(texts, None, read, work, batch_size, on_error, lambda request: samples * (places + 1))

    def generate(
        self,
        texts: str | Iterable[str],
        images: Any = None,
        settings: GenerationSettings | None = None,
        *,
        constraint: Constraint | None = None,
        batch_size: int | None = None,
        on_error: OnError = "raise",
    ) -> Any:
        """What the model writes after any prompts, with pictures or without; a prompt begins with a blank."""
        work = self._writes(settings or _settings(5, 16), constraint)
        return self._run(texts, images, self.processor, work, batch_size, on_error)

    def choose(
        self,
        texts: str | Iterable[str],
        images: Any,
        candidates: Iterable[str],
        *,
        batch_size: int | None = None,
        on_error: OnError = "raise",
    ) -> Any:
        """The likeliest of `candidates` after any prompts (the published all-candidate inference)."""
        return self._run(texts, images, self.processor, self._chooses(candidates), batch_size, on_error)

    @torch.inference_mode()
    def encode(self, texts: str | Iterable[str], images: Any = None) -> Encoded:
        """What the decoder would read of prompts, with pictures or without, as one batch. `ValueError` for none."""
        given, sources = paired(texts, images)[:2]
        if not given:
            raise ValueError("nothing to encode: there are no texts")
        return self._encode([self.processor(text, source) for text, source in zip(given, sources, strict=True)])

    def _about(self, prompt: Callable[[str], str]) -> Read:
        """Reads what is asked about a picture, which has to be there."""

        def read(text: str, picture: Any) -> Request:
            return self.processor(prompt(text), decode_picture(picture))

        return read

    def _writes(self, settings: GenerationSettings, constraint: Constraint | None = None) -> Work:
        def work(requests: list[Request]) -> list[str | None]:
            found = self._search(requests, settings, constraint)
            return [None if tokens is None else self.processor.vocabulary.decode(tokens).strip() for tokens in found]

        return work

    def _chooses(self, candidates: Iterable[str]) -> Work:
        listed = [] if isinstance(candidates, str) else [checked_text(candidate) for candidate in candidates]
        if not listed:
            raise ValueError("candidates must be a list of at least one text")
        if blank := [candidate for candidate in listed if not candidate.strip()]:
            raise InputError(repr(blank[0])[:60], "is a candidate without words")
        ids = [self.processor(f" {candidate}").tokens[1:-1].tolist() for candidate in listed]

        room = self.model.decoder.longest(False) - max(map(len, ids))  # for what comes before the answer

        def work(requests: list[Request]) -> list[str | None]:
            starts = {index: self._start(request) for index, request in enumerate(requests)}
            starts = {index: start for index, start in starts.items() if len(start) <= room}
            found: list[str | None] = [None] * len(requests)
            if starts:
                encoded = self._encode([requests[index] for index in starts])
                begin = partial(self.model.start, encoded)
                scores = score_candidates(begin, list(starts.values()), ids, end=EOS_ID, device=self.device)
                for index, best in zip(starts, best_of(scores), strict=True):
                    found[index] = None if best is None else listed[best]
            return found

        return work

    def _encode(self, requests: Sequence[Request]) -> Encoded:
        batch = {key: value.to(self.device) for key, value in self.processor.collate(requests).items()}
        if "pixels" in batch:
            batch["pixels"] = batch["pixels"].to(self.dtype)
        return self.model.encode(**batch)

    def _start(self, request: Request) -> list[int]:
        """What the decoder is given before it writes: the start token, and the prompt where the model learned so."""
        tokens: list[int] = request.tokens.tolist()
        return {"none": [BOS_ID], "src": tokens, "prev_output": tokens[:-1]}[self.config.prompt]

    def _search(
        self, requests: list[Request], settings: GenerationSettings, constraint: Constraint | None
    ) -> list[list[int] | None]:
        """The best sequence of each request, without its end token; None where there is none."""
        found: list[list[int] | None] = [None] * len(requests)
        for rows, start in by_length([self._start(request) for request in requests], self.device):
            decoder = self.model.start(self._encode([requests[index] for index in rows]))
            room = decoder.longest - start.shape[1]
            groups = beam_search(decoder, start, settings.within(room), constraint=constraint)
            for index, hypotheses in zip(rows, groups, strict=True):
                if hypotheses:
                    tokens = hypotheses[0].tokens
                    found[index] = tokens[:-1] if tokens[-1] == EOS_ID else tokens
        return found

    def _run(
        self,
        texts: str | Iterable[str],
        images: Any,
        read: Read,
        work: Work,
        batch_size: int | None,
        on_error: OnError,
        length: Callable[[Request], int] | None = None,
    ) -> Any:
        """`length`: positions that a request takes, by default those that are read of it."""
        positions = POSITIONS_PER_BATCH.get(self.device.type, POSITIONS_PER_BATCH["cpu"])
        return run(
            texts,
            images,
            read,
            work,
            length=length or self.processor.length,
            positions=positions,
            batch_size=batch_size,
            on_error=on_error,
        )


def _settings(beams: int, max_tokens: int, **others: Any) -> GenerationSettings:
    return GenerationSettings(end=EOS_ID, pad=PAD_ID, max_tokens=max_tokens, beams=beams, **others)
