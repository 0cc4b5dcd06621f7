"""Questions about a picture, answered in words (VQAv2)."""

from __future__ import annotations

from collections.abc import Sequence

from one_peace.models.ofa.vocabulary import OfaVocabulary, clean_text
from one_peace.tasks.sequence.example import PromptKind, SequenceExample, with_target
from one_peace.tasks.sequence.task import PICTURES, PictureForm, SequenceTask
from one_peace.tasks.task import BadRow, Row, column

MAX_WORDS, MAX_OBJECTS, MAX_ANSWER = 80, 30, 30  # words of a question, objects named to it, tokens of an answer


class Answering(SequenceTask):
    """Rows have `image`, `question`, and one of `refs` (`answer|!+score`, joined by `&&`, as for ONE-PEACE), `answers`
    (the published OFA tables' `score|!+answer`) and `answer`; `objects` in the picture, joined by `&&`, if wanted.

    The best answer is trained, as strongly as its score says; `answers` are all that may be given.
    """

    columns = ("image", "question")

    def __init__(
        self,
        vocabulary: OfaVocabulary,
        pictures: PictureForm = PICTURES,
        *,
        answers: Sequence[str] = (),
        objects: bool = True,
        prompt: PromptKind = "open",
    ) -> None:
        super().__init__(vocabulary, pictures)
        self.answers = self.trie(answers) if answers else None
        self.objects, self.prompt = objects, prompt

    def example(self, row: Row, key: str) -> SequenceExample:
        pixels = self.pictures(self.picture(row, key))
        question = clean_text(str(column(row, "question", key)), MAX_WORDS, caption=False)
        question += "" if question.endswith("?") else "?"
        source = f" {question}"
        if self.objects and row.get("objects"):
            named = str(row["objects"]).split("&&")[:MAX_OBJECTS]
            source += f" object: {' '.join(named)}"
        scores = answer_scores(row, key)
        answer, confidence = max(scores.items(), key=lambda item: item[1]) if scores else (None, 1.0)
        ids = None if answer is None else self.vocabulary.encode(f" {answer}", MAX_ANSWER)
        parts = with_target(self.vocabulary.encode(source), ids, self.prompt)
        facts: dict[str, object] = {"question": question, "scores": scores}
        if row.get("annotators"):
            facts["annotators"] = [answer.strip() for answer in str(row["annotators"]).split("&&")]
        return SequenceExample(key, pixels=pixels, confidence=confidence, answers=self.answers, facts=facts, **parts)


def answer_scores(row: Row, key: str) -> dict[str, float]:
    """Answer -> score of a row, empty where it has none."""
    if row.get("answer"):
        return {str(row["answer"]).strip(): 1.0}
    name, place = ("refs", 0) if row.get("refs") else ("answers", -1)
    scores = {}
    for entry in str(row.get(name) or "").split("&&"):
        if not entry:
            continue
        parts = entry.split("|!+")
        try:
            scores[parts[place].strip()] = float(parts[-1 - place])
        except ValueError as error:
            form = "answer|!+score" if place == 0 else "score|!+answer"
            raise BadRow(key, f"column {name!r}: {entry[:60]!r} is not {form}") from error
    return scores
