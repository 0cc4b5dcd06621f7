"""The errors that users of the library see.

Every message says what was wrong, where, and what to do. Programming mistakes raise `TypeError` or
`ValueError`; `assert` guards our own invariants only.
"""

from __future__ import annotations


class OnePeaceError(Exception):
    """Base class of this library's own errors."""


class InputError(OnePeaceError, ValueError):
    """A picture, sound or text that cannot be used; `source` names it."""

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(f"{source}: {problem}")
        self.source = source
        self.problem = problem

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str]]:
        return type(self), (self.source, self.problem)


class ReadingFault(InputError):
    """An input on which its reader failed in a way that it does not tell as an `InputError`: the fault may be its own.

    The error that it raised is the `__cause__`.
    """


class CheckpointError(OnePeaceError):
    """A checkpoint that is damaged, unsafe or does not fit the model."""


class DivergenceError(OnePeaceError, FloatingPointError):
    """Training whose gradients stay infinite or undefined."""


class LostProcessError(OnePeaceError):
    """Another process of a distributed run has exited; its own output says why."""


class DownloadError(OnePeaceError):
    """A file that could not be fetched or whose checksum is wrong."""


class MissingExtraError(OnePeaceError, ImportError):
    """A feature whose optional packages are not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs optional packages: pip install 'one-peace[{extra}]'")
        self.feature = feature
        self.extra = extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return type(self), (self.feature, self.extra)
