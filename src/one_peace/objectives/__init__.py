"""Losses as pure functions of features."""
