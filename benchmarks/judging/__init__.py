"""What `quality.py` is made of: the tasks, the ways to train for them, the figures, the table."""
