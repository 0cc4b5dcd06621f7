"""MiCo: what it learns of clips, and how what it writes is judged."""
