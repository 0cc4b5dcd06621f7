"""ONE-PEACE (arXiv 2305.11172): an encoder of any mix of modalities, an expert of each in every block."""
