"""MiCo (arXiv 2406.09412): one tower for every knowledge modality, a BERT as the interface."""
