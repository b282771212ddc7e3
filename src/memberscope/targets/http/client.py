"""Asks an endpoint within its budgets: retries, waits, and everything written down before and after."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from memberscope.errors import ConfigError, MissingExtraError
from memberscope.targets.http import errors
from memberscope.targets.http.config import Endpoint
from memberscope.targets.http.pace import Pace, backoff, retry_after
from memberscope.targets.http.secrets import Secrets
from memberscope.targets.http.template import Question, Request, Template
from memberscope.targets.http.transcript import Transcript

if TYPE_CHECKING:
    import httpx

_MOST_REDIRECTS = 3


@dataclass(frozen=True)
class _Again:
    """No answer this time, and why."""

    reason: str
    limited: bool = False
    wait: float | None = None
    refused: bool = False


class Client:
    """Asks the questions that the transcript has no answer to.

    Args:
        endpoint: whom to ask, and how often.
        template: writes the requests.
        secrets: that go into them.
        transcript: open for writing; holds what counts against the budgets.
        quiet: do not say on standard error when the endpoint asks to wait.
    """

    def __init__(
        self, endpoint: Endpoint, template: Template, secrets: Secrets, transcript: Transcript, *, quiet: bool = True
    ) -> None:
        self.endpoint, self.template, self.secrets, self.transcript = endpoint, template, secrets, transcript
        self.quiet = quiet
        self.exhausted = False
        self._in_a_row = 0
        self._stop: BaseException | None = None
        self._http: httpx.AsyncClient
        self._accept: Callable[[Question, Any], None] = lambda question, body: None
        self._pace = Pace(endpoint.requests_per_minute, max(0.0, time.time() - transcript.last_asked))

    def ask(
        self,
        questions: Sequence[Question],
        *,
        at_once: int | None = None,
        accept: Callable[[Question, Any], None] = lambda question, body: None,
        show: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Ask, in this order, what is not known yet; answers, and what could not be asked, are in the transcript.

        Args:
            questions: equal ones are asked once.
            at_once: requests under way at once; the endpoint's concurrency when None.
            accept: sees every new answer once it is kept; what it raises ends the run.
            show: told how many of the questions are done with.

        Raises:
            EndpointError: the endpoint does not answer as described, or not at all.
            MissingExtraError: httpx is not installed.
        """
        self._accept = accept
        waiting = {q.key: q for q in questions if not self.transcript.known(q.key)}
        show(len(questions) - len(waiting))
        if waiting and not self.exhausted:
            queue = deque(waiting.values())
            _run(self._ask_all(queue, at_once or self.endpoint.concurrency, len(questions) - len(waiting), show))

    async def _ask_all(self, queue: deque[Question], at_once: int, done: int, show: Callable[[int], None]) -> None:
        self._stop = None
        async with self._session(at_once) as self._http:

            async def work() -> None:
                nonlocal done
                while queue and self._stop is None and not self.exhausted:
                    try:
                        await self._ask(queue.popleft())
                    except Exception as error:
                        # What the others have under way is answered and kept before the error is raised.
                        self._stop = self._stop or error
                    done += 1
                    show(done)

            await asyncio.gather(*(work() for _ in range(min(at_once, len(queue)))))
        if self._stop is not None:
            raise self._stop

    def _session(self, at_once: int) -> httpx.AsyncClient:
        try:
            import httpx
        except ImportError as error:
            raise MissingExtraError.of("httpx", "endpoint", "asking an HTTP endpoint") from error
        verify: Any = True
        if self.endpoint.ca_file is not None:
            import ssl

            try:
                verify = ssl.create_default_context()
                verify.load_verify_locations(self.endpoint.ca_file)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(
                    "certificates in PEM in ca_file", f"{self.endpoint.ca_file}: {error}", "Check the path."
                ) from None
        proxy = self.secrets.fill(self.endpoint.proxy) if self.endpoint.proxy else None
        # Nothing from the environment but what the description names: no proxy, no .netrc.
        return httpx.AsyncClient(
            timeout=self.endpoint.timeout,
            limits=httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once),
            follow_redirects=False,
            trust_env=False,
            verify=verify,
            proxy=proxy,
        )

    async def _ask(self, question: Question) -> None:
        """One question until it is answered, skipped, or out of budget."""
        request = self.template.request(question, self.secrets)
        while self._stop is None:
            await self._pace.slot(lambda: self._stop is not None)
            if self._stop is not None or not self._allowed(question.record):
                return
            found = await self._send(request, question)
            if not isinstance(found, _Again):
                self._in_a_row = 0
                return
            self.transcript.fail(question.key, found.reason)
            await self._wait(found)

    def _allowed(self, record: str) -> bool:
        """Whether the budgets leave room; no await stands between this and the transcript's ``ask``."""
        budget = self.endpoint.budget
        if self.transcript.asked >= budget.requests:
            self.exhausted = True
            return False
        return self.transcript.asked_about(record) < budget.per_record

    async def _wait(self, found: _Again) -> None:
        self._in_a_row += 1
        uri, answered = self.endpoint.uri, len(self.transcript.answers)
        if found.refused and (not answered or self._in_a_row >= 3):
            raise errors.refused(uri, found.reason, answered)
        if self._in_a_row >= self.endpoint.give_up_after:
            raise errors.gave_up(uri, self._in_a_row, found.reason)
        wait = backoff(self.endpoint.backoff, self._in_a_row) if found.wait is None else found.wait
        if wait > self.endpoint.max_wait:
            raise errors.waits_too_long(uri, wait, self.endpoint.max_wait)
        if found.limited or found.wait is not None:
            self._pace.pause(wait)
            if wait >= 2 and not self.quiet:
                print(f"memberscope: the endpoint limits the rate; waiting {wait:.0f} s", file=sys.stderr, flush=True)
        else:
            await asyncio.sleep(wait)

    async def _send(self, request: Request, question: Question) -> _Again | None:
        """One attempt; None once the question is settled.

        Raises:
            EndpointError: asking again will not help.
        """
        import httpx

        endpoint, uri = self.endpoint, request.uri
        for hop in range(1, _MOST_REDIRECTS + 1):
            self.transcript.ask(question.key, question.record)
            try:
                async with asyncio.timeout(endpoint.timeout):
                    response, body = await self._exchange(uri, request)
            except (TimeoutError, httpx.TimeoutException):
                return _Again(f"no answer within {endpoint.timeout:g} seconds (timeout)")
            except httpx.InvalidURL:
                raise ConfigError("a valid uri", "one that cannot be read", "Check uri.") from None
            except (httpx.RequestError, OSError) as error:
                final = errors.connection_error(endpoint.uri, error)
                if final is not None:
                    raise final from None
                refused = isinstance(error, httpx.ConnectError)
                said = "connection refused" if refused else f"a broken connection ({type(error).__name__})"
                return _Again(said, refused=refused)
            if not 300 <= response.status_code < 400:
                return self._judge(response, body, question)
            uri = self._redirected(uri, response)
            if hop == _MOST_REDIRECTS:
                break
            # The next hop is a request like any other.
            await self._pace.slot(lambda: self._stop is not None)
            if not self._allowed(question.record):
                return _Again("a redirect that the budget does not allow to be followed", wait=0.0)
        raise errors.redirect_error(endpoint.uri, response.status_code, "itself, again and again")

    async def _exchange(self, uri: str, request: Request) -> tuple[httpx.Response, bytes]:
        body = bytearray()
        async with self._http.stream(
            self.endpoint.method, uri, headers=list(request.headers), content=request.body
        ) as response:
            async for part in response.aiter_bytes():
                body += part
                if len(body) > self.endpoint.max_answer_bytes:
                    raise errors.EndpointError(
                        f"an answer of at most {self.endpoint.max_answer_bytes:,} bytes (max_answer_bytes)",
                        "a longer one",
                        "Check uri, or raise max_answer_bytes.",
                    )
        return response, bytes(body)

    def _redirected(self, uri: str, response: httpx.Response) -> str:
        location = response.headers.get("location", "")
        new = str(urljoin(uri, location))
        old_parts, new_parts = urlsplit(uri), urlsplit(new)
        same = (old_parts.scheme, old_parts.netloc) == (new_parts.scheme, new_parts.netloc)
        # 301 to 303 turn a POST into a GET without its body.
        kept = response.status_code in (307, 308) or self.endpoint.method == "GET"
        if self.endpoint.redirects == "refuse" or not location or not same or not kept:
            raise errors.redirect_error(self.endpoint.uri, response.status_code, location)
        return new

    def _judge(self, response: httpx.Response, body: bytes, question: Question) -> _Again | None:
        endpoint, status = self.endpoint, response.status_code
        if status in endpoint.skip_codes:
            self.transcript.skip(question.key, status)
            return None
        wait = retry_after(response.headers.get("retry-after"), response.headers.get("date"))
        if status in endpoint.ratelimit_codes:
            return _Again(f"status {status}: the endpoint limits the rate", limited=True, wait=wait)
        if status in endpoint.retry_codes:
            return _Again(f"status {status}", wait=wait)
        if not 200 <= status < 300:
            raise errors.status_error(endpoint.uri, status, self._cleaned(body))
        content_type = response.headers.get("content-type", "")
        try:
            value = json.loads(body, parse_constant=_not_finite)
        except _NotFinite as error:
            raise errors.EndpointError(
                f"finite numbers from {endpoint.uri}",
                f"{error} for record {question.record!r}",
                "Mend the model: it answers with numbers that are none.",
            ) from None
        except (ValueError, RecursionError) as error:
            reason = type(error).__name__
            raise errors.not_json(endpoint.uri, content_type, self._cleaned(body), reason) from None
        self._accept(question, self.transcript.answer(question.key, status, value))
        return None

    def _cleaned(self, body: bytes) -> bytes:
        """Before it is cut, so that no half of a secret is left."""
        return self.secrets.clean(body[:100_000].decode("utf-8", "replace")).encode()


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` to its end, from a notebook too, where an event loop runs already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()


class _NotFinite(Exception):
    """NaN or Infinity in an answer."""


def _not_finite(word: str) -> float:
    raise _NotFinite(word)
