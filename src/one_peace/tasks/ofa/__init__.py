"""Tasks of a sequence-to-sequence model: text and picture in, words, boxes or image codes out."""
