"""Kinds of task: what an example is, which losses it needs, how it is scored."""
