"""Errors a user can act on: what was expected, what came, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MemberscopeError(Exception):
    """A user's mistake or a condition outside the program; the command shows it without a traceback.

    Args:
        expected: what the program needed, as a noun phrase or clause.
        got: what it found instead.
        fix: one imperative sentence that says what to do.
    """

    def __init__(self, expected: str, got: str, fix: str) -> None:
        self.expected, self.got, self.fix = expected, got, fix
        super().__init__(f"expected {expected}; got {got}. {fix}")

    def __reduce__(self) -> tuple[type[MemberscopeError], tuple[str, str, str]]:
        # Exceptions cross process borders; the default would call __init__ with the message alone.
        return type(self), (self.expected, self.got, self.fix)


class DataError(MemberscopeError):
    """Records, labels, ids or a file that holds them."""


class SignalsError(MemberscopeError):
    """Model outputs or membership that cannot be audited."""


class ConfigError(MemberscopeError):
    """A configuration, recipe or option."""


class PoolError(MemberscopeError):
    """A folder of models, or a run folder."""


class MissingExtraError(MemberscopeError):
    """An optional dependency that is not installed."""

    @classmethod
    def of(cls, package: str, extra: str, what: str) -> MissingExtraError:
        """The error for ``package`` of the extra ``extra``, which ``what`` needs."""
        return cls(
            f"the package {package}, which {what} needs",
            "an installation without it",
            f"Install it with: pip install 'memberscope[{extra}]'",
        )


def nearest(word: str, known: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` for the known word nearest to ``word``, or an empty string.

    >>> nearest("optimzer", ["epochs", "optimizer"])
    " (did you mean 'optimizer'?)"
    >>> nearest("zzz", ["epochs"])
    ''
    """
    found = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f" (did you mean {found[0]!r}?)" if found else ""
