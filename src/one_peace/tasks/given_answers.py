"""Answers that people gave to a question about a picture, as the tables of both families have them."""

from __future__ import annotations

from one_peace.tasks.task import BadRow, Row, has, text_of, texts_of

WITHIN = "|!+"  # an answer and its confidence
ANSWER_COLUMNS = ("refs", "answers", "answer")


def answer_scores(row: Row, key: str) -> dict[str, float] | None:
    """Answer -> confidence from 0 to 1, None where the row says nothing of answers.

    They stand in `refs` (`answer|!+confidence` or `answer|!+id|!+confidence`, joined by `&&`), `answers` (the published
    OFA tables' `confidence|!+answer`), or `answer`, a single one. A question whose column is empty although there are
    answers of `annotators` has none that may be given, and gets an empty dict: whatever is answered counts as wrong.

    Raises:
        BadRow: an entry of another form, without an answer, or with another confidence.
    """
    if has(row, "refs"):
        return _entries(row, "refs", key)
    if has(row, "answers"):
        return _entries(row, "answers", key)
    if has(row, "answer"):
        return {text_of(row, "answer", key): 1.0}
    return {} if has(row, "annotators") and any(name in row for name in ANSWER_COLUMNS) else None


def annotators_of(row: Row, key: str) -> dict[str, list[str]]:
    """{"annotators": what each of them answered}, joined by `&&` in the table; nothing where it is not known."""
    return {"annotators": texts_of(row, "annotators", key)} if has(row, "annotators") else {}


def _entries(row: Row, name: str, key: str) -> dict[str, float]:
    first = name == "refs"
    scores = {}
    for entry in texts_of(row, name, key):
        parts = [part.strip() for part in entry.split(WITHIN)]
        answer, given = (parts[0], parts[-1]) if first else (parts[-1], parts[0])
        try:
            confidence = float(given)
        except ValueError:
            confidence = -1.0
        if len(parts) not in (2, 3) or not answer or not 0.0 <= confidence <= 1.0:
            form = "answer|!+confidence" if first else "confidence|!+answer"
            raise BadRow(key, f"column {name!r}: {entry[:60]!r} is no {form} with a confidence of 0 to 1")
        scores[answer] = confidence
    return scores
