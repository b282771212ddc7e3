"""Secrets come from environment variables, go into requests, and nowhere else."""

from __future__ import annotations

import base64
import html
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, quote_plus

from memberscope.errors import ConfigError, MemberscopeError

_NAME = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
HIDDEN = "[redacted]"

# A shorter secret would be found in harmless text everywhere.
SHORTEST = 6

_LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy", "httpcore.socks")


def has_secret(text: str) -> bool:
    """Whether ``text`` names a variable.

    >>> has_secret("Bearer ${API_TOKEN}"), has_secret("Bearer abc")
    (True, False)
    """
    return _NAME.search(text) is not None


def names_in(value: Any) -> list[str]:
    """Names of all variables in a nest of mappings, lists and texts, each once, in order."""
    if isinstance(value, str):
        return list(dict.fromkeys(_NAME.findall(value)))
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        return list(dict.fromkeys(name for part in value for name in names_in(part)))
    return []


class Secrets:
    """The values of variables, and the means to keep them out of everything that is written or said."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)
        written = {form for value in self._values.values() for form in _forms(value)}
        # The longest first: one secret may be part of another.
        patterns = [re.escape(form) for form in sorted(written, key=len, reverse=True)]
        self._pattern = re.compile("|".join(patterns), re.IGNORECASE) if patterns else None

    @classmethod
    def of(cls, *parts: Any, environment: Mapping[str, str] | None = None) -> Secrets:
        """The variables named in ``parts``.

        Raises:
            ConfigError: a variable is unset, empty, too short to be kept out of texts, or holds control characters.
        """
        environment = os.environ if environment is None else environment
        values = {}
        for name in names_in(list(parts)):
            value = environment.get(name, "")
            if not value:
                raise ConfigError(
                    f"the secret in the environment variable {name}",
                    "an empty variable" if name in environment else "no such variable",
                    f"Set it for this command, for example: export {name}=...",
                )
            if len(value) < SHORTEST or any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
                short = len(value) < SHORTEST
                raise ConfigError(
                    f"a secret of at least {SHORTEST} printable characters in {name}",
                    f"{len(value)} characters" if short else "a line break or another control character",
                    "Set the variable to the secret alone." if not short else "Use a longer secret, or write it out.",
                )
            values[name] = value
        return cls(values)

    def __repr__(self) -> str:
        return f"Secrets({', '.join(self._values)})"

    def fill(self, value: Any) -> Any:
        """``value`` with every variable in its texts replaced."""
        if isinstance(value, str):
            return _NAME.sub(lambda found: self._values[found[1]], value)
        if isinstance(value, Mapping):
            return {self.fill(key): self.fill(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [self.fill(part) for part in value]
        return value

    def clean(self, text: str) -> str:
        """``text`` without any secret, however it is spelt: plain, quoted, escaped or in base64."""
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)

    def clean_json(self, value: Any) -> Any:
        """A JSON value without any secret in its keys, texts and numbers."""
        if isinstance(value, str):
            return self.clean(value)
        if isinstance(value, Mapping):
            return {self.clean(str(key)): self.clean_json(part) for key, part in value.items()}
        if isinstance(value, list):
            return [self.clean_json(part) for part in value]
        if isinstance(value, int | float) and not isinstance(value, bool) and self._pattern is not None:
            # Only the number as a whole: the digits of a short secret stand in many a score by chance.
            spelt = {repr(value), repr(value).removesuffix(".0")}
            return HIDDEN if any(self._pattern.fullmatch(text) for text in spelt) else value
        return value

    @contextmanager
    def guard(self) -> Iterator[None]:
        """No secret leaves in an exception or in what the HTTP library logs."""
        kept = _Redacting(self.clean)
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(kept)
        try:
            yield
        except MemberscopeError as error:
            clean = (self.clean(part) for part in (error.expected, error.got, error.fix))
            raise type(error)(*clean) from None
        except Exception as error:
            if self._pattern is None:
                raise
            raise RuntimeError(self.clean(f"{type(error).__name__}: {error}")) from None
        finally:
            for name in _LOGGERS:
                logging.getLogger(name).removeFilter(kept)


def _forms(value: str) -> set[str]:
    """How a secret may be spelt in an answer, an address or a log."""
    encoded = value.encode()
    return {
        value,
        quote(value, safe=""),
        quote(value),
        quote_plus(value),
        html.escape(value),
        json.dumps(value)[1:-1],
        repr(value)[1:-1],
        repr(encoded)[2:-1],
        base64.b64encode(encoded).decode().rstrip("="),
        base64.urlsafe_b64encode(encoded).decode().rstrip("="),
        encoded.hex(),
    }


class _Redacting(logging.Filter):
    """Writes a record's message out and cleans it."""

    def __init__(self, clean: Callable[[str], str]) -> None:
        super().__init__()
        self.clean = clean

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self.clean(record.getMessage()), ()
        if record.exc_info:
            record.exc_info, record.exc_text = None, None
        return True
