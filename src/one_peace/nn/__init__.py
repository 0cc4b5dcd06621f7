"""Layers that know nothing of modalities."""
