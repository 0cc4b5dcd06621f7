"""How well captions match references."""
