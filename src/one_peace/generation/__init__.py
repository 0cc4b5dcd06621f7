"""Text and image codes, token by token: beam search, sampling, constraints, scores of given candidates."""
