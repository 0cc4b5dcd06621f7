"""Pretraining of ONE-PEACE on pairs of a text and something else."""
