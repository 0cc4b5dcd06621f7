"""Frozen encoders of other projects that the first stage of a small model may learn from; nothing else uses them."""
