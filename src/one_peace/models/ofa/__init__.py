"""OFA (arXiv 2202.03052): one sequence-to-sequence model whose vocabulary holds words, boxes and image codes."""
