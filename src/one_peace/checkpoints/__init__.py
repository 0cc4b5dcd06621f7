"""Weights in and out: other people's files in, our own format in and out, names, downloads."""
