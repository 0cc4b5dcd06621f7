"""What a new partner of text learns ahead of a run's updates: of teachers, or to hear and then speech."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from one_peace.cache import cache_folder
from one_peace.data.lock import writer_lock
from one_peace.data.manifest import Item, captioned_items, held_out_captions
from one_peace.data.sample_library.packages import fetch
from one_peace.data.speech.recorded_speech import read_recordings
from one_peace.data.speech.speech_synthesis import PACKAGE as SYNTHESIZER
from one_peace.data.speech.speech_synthesis import open_synthesizer
from one_peace.data.speech.spoken_captions import SpokenCaptions
from one_peace.data.wordnet import PACKAGE as WORDNET
from one_peace.data.wordnet import read_wordnet, texts_of
from one_peace.modalities.base import Processor
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.training.distributed import Processes
from one_peace.training.initial_values import empty_model, fill
from one_peace.training.kept_recipe import LESSONS
from one_peace.training.log import Report
from one_peace.training.loop import LOCK
from one_peace.training.pretraining.front_end import fit_front_end
from one_peace.training.pretraining.gradients import BatchSource
from one_peace.training.pretraining.lesson_files import made_once
from one_peace.training.pretraining.recipe import PretrainRecipe
from one_peace.training.pretraining.speech_lessons import SpeechLessons
from one_peace.training.pretraining.start import start_values
from one_peace.training.pretraining.teacher_lessons import TeacherLessons, teacher_texts
from one_peace.training.teachers.picture_teacher import PACKAGE as PICTURES
from one_peace.training.teachers.picture_teacher import open_picture_teacher
from one_peace.training.teachers.sentence_teacher import PACKAGE as SENTENCES
from one_peace.training.teachers.sentence_teacher import open_sentence_teacher


def learn_ahead(
    recipe: PretrainRecipe,
    items: Sequence[Item],
    config: OnePeaceConfig,
    processors: Mapping[str, Processor],
    batches: BatchSource,
    device: str,
    report: Report,
    processes: Processes,
    out: Path,
    library: Path | None = None,
) -> dict[str, Tensor]:
    """What the recipe has a new partner learn ahead of its updates -> values by name. See `teacher_steps`,
    `front_end_steps`, `speech_sound_steps`, `word_steps` and `caption_steps` of the stage.

    What is learned is kept in `out/lessons` on the way, and the same call goes on from there.

    The first of several processes learns, and tells the others with each report that it is not done: they would give
    up waiting before long.

    Raises:
        FolderBusyError: another run is at work in `out`.
        CheckpointError: what is kept there is damaged.
    """
    if not processes.first:
        while not processes.share(True):
            pass
        return processes.share({})

    def told(row: dict[str, Any]) -> None:
        report(row)
        processes.share(False)

    out.mkdir(parents=True, exist_ok=True)
    stage, folder = recipe.stage, out / LESSONS
    library = cache_folder() if library is None else library
    fitted: dict[str, Tensor] = {}

    def start() -> OnePeaceForPretraining:
        model = empty_model(config).to_empty(device=device)
        fill(model, itertools.chain(start_values(recipe, config), fitted.items()))
        return model

    with writer_lock(out / LOCK):
        if stage.teacher_steps:
            lexicon = texts_of(read_wordnet(fetch(WORDNET, library).files))
            texts = teacher_texts(items, recipe.data, lexicon)
            sentences = open_sentence_teacher(fetch(SENTENCES, library))
            pictures = open_picture_teacher(fetch(PICTURES, library))
            lessons = TeacherLessons(start(), recipe, processors, batches, texts, sentences, pictures, told, folder)
            fitted |= {name: value.cpu() for name, value in lessons.give().items()}
        if stage.front_end_steps:

            def front_end() -> dict[str, list[Tensor]]:
                values = fit_front_end(config, processors, batches, stage.front_end_steps, recipe.seed, told)
                return {name: [value] for name, value in values.items()}

            fitted |= made_once(folder / "front_end.safetensors", front_end)
        if stage.speech_sound_steps or stage.word_steps or stage.caption_steps:
            synthesizer = open_synthesizer(fetch(SYNTHESIZER, library))
            captioned = captioned_items(items, stage.partner)
            withheld = held_out_captions(items)
            spoken = SpokenCaptions(captioned, synthesizer, withheld)
            recordings = read_recordings(captioned, synthesizer, spoken.words, withheld)
            heard = SpeechLessons(start(), recipe, processors, spoken, recordings, told, folder).give()
            fitted |= {name: value.cpu() for name, value in heard.items()}
    processes.share(True)
    return processes.share(fitted)
