"""Coders of pictures (VQGAN) through the loop."""
