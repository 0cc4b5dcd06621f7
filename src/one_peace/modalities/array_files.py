"""NumPy's files, read by several threads."""

from __future__ import annotations

import threading

PARSING = threading.Lock()
"""Held while NumPy parses the header of a file: Python 3.11 may fail to parse in two threads at once ("AST constructor
recursion depth mismatch")."""
