"""What can go wrong between here and an endpoint, each said so that somebody can act on it."""

from __future__ import annotations

import re
import socket
import ssl

from memberscope.errors import MemberscopeError

SHOWN = 160
_GO_ON = "then start the same command again: nothing that was answered is asked twice."


class EndpointError(MemberscopeError):
    """An endpoint that does not answer as described."""


def excerpt(body: bytes) -> str:
    """The beginning of an answer, on one line."""
    text = " ".join(body[: 4 * SHOWN].decode("utf-8", "replace").split())
    return (text[:SHOWN] + "…") if len(text) > SHOWN else text


def not_json(uri: str, content_type: str, body: bytes, reason: str = "") -> EndpointError:
    """An answer of another kind, for example a login page."""
    is_html = "html" in content_type.lower() or re.match(rb"\s*<(!doctype|html)", body, re.IGNORECASE) is not None
    kind = "an HTML page" if is_html else f"{content_type or 'no content type'}{reason and f' ({reason})'}"
    return EndpointError(
        f"JSON from {uri}",
        f"{kind}: {excerpt(body)!r}",
        "Check uri and headers: a page often means a login, a proxy or a wrong path.",
    )


def status_error(uri: str, status: int, body: bytes) -> EndpointError:
    """A status that asking again will not change."""
    fixes = {
        401: "Check the credentials in headers and their environment variables.",
        403: "Check the credentials in headers and what they allow.",
        404: "Check uri.",
        405: "Check method.",
        413: "Send smaller inputs, or add 413 to skip_codes.",
    }
    return EndpointError(
        f"status 200 from {uri}",
        f"status {status}: {excerpt(body)!r}",
        fixes.get(status, f"Check request and input, or add {status} to skip_codes to leave such records out."),
    )


def redirect_error(uri: str, status: int, location: str) -> EndpointError:
    """A redirect, which is not followed."""
    return EndpointError(
        f"an answer from {uri} itself",
        f"status {status}, a redirect to {location or 'nowhere'}",
        "Set uri to where the answers come from; redirects within one server are followed with redirects: same_origin.",
    )


def connection_error(uri: str, error: BaseException) -> EndpointError | None:
    """What a failed connection means, None where asking again may help."""
    causes = _chain(error)
    tls = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return EndpointError(
            f"a certificate that proves who {uri} is",
            tls.verify_message or "one that could not be verified",
            "Name the authority's certificate with ca_file; certificates are always verified.",
        )
    if tls is not None:
        return EndpointError(
            f"TLS at {uri}",
            (tls.reason or "no TLS").replace("_", " ").lower(),
            "If the server speaks plain HTTP, write http:// in uri.",
        )
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return EndpointError(f"a host that exists in {uri}", "a name that cannot be resolved", "Check uri.")
    return None


def refused(uri: str, reason: str, answered: int) -> EndpointError:
    """Nobody listens."""
    return EndpointError(
        f"a server at {uri}",
        reason + (f" after {answered:,} answers" if answered else ""),
        f"Start the server, {_GO_ON}" if answered else "Start the server, or check host and port in uri.",
    )


def gave_up(uri: str, failures: int, reason: str) -> EndpointError:
    """Too many failures in a row."""
    if reason.startswith("status 429") or "limits the rate" in reason:
        fix = f"Set requests_per_minute to what the endpoint allows, {_GO_ON}"
    elif "no answer within" in reason:
        fix = f"Raise timeout or lower concurrency, {_GO_ON}"
    else:
        fix = f"Mend the endpoint, {_GO_ON}"
    return EndpointError(f"answers from {uri}", f"{failures} failures in a row, the last: {reason}", fix)


def waits_too_long(uri: str, wait: float, most: float) -> EndpointError:
    """A Retry-After beyond patience."""
    return EndpointError(
        f"a wait of at most {most:g} seconds (max_wait)",
        f"{uri} asks to wait {wait:.0f} seconds",
        f"Wait, or raise max_wait, {_GO_ON}",
    )


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None and seen not in found:
        found.append(seen)
        seen = seen.__cause__ or seen.__context__
    # anyio gathers the errors of several addresses.
    return found + [part for one in found if isinstance(one, BaseExceptionGroup) for part in one.exceptions]
