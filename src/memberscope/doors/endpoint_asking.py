"""Asking an endpoint about records: probes first, then everything, in an order that makes what is left out random."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memberscope.doors.endpoint_queries import Pairs, query_attacks
from memberscope.files import writer_lock
from memberscope.progress import progress
from memberscope.targets.http import errors
from memberscope.targets.http.client import Client
from memberscope.targets.http.config import Endpoint
from memberscope.targets.http.detect import Seen, Watch, detect
from memberscope.targets.http.parse import Answer, Parser
from memberscope.targets.http.secrets import Secrets
from memberscope.targets.http.template import Question, Template
from memberscope.targets.http.transcript import FILE, Transcript
from memberscope.types import Dataset

FOLDER = "endpoint"


@dataclass(frozen=True)
class Cost:
    """What a run would send, before anything is sent.

    Args:
        requests: still to send if every one is answered at once.
        at_most: with the most retries that the budgets allow.
        answered: questions that the transcript answers already.
        asked: requests that count against the budget already.
        minutes: at the rate that the description allows; None where it names none.
        money: at its price; None without one.
        currency: of the price.
        per_record: questions about one record.
        sentence: all that in words.
    """

    requests: int
    at_most: int
    answered: int
    asked: int
    minutes: float | None
    money: float | None
    currency: str
    per_record: int
    sentence: str


class Session:
    """One run's conversation with an endpoint.

    Args:
        endpoint: whom to ask.
        dataset: candidates and population.
        client: that asks.
        seed: of the order of the questions.
        quiet: show no progress.
    """

    def __init__(self, endpoint: Endpoint, dataset: Dataset, client: Client, seed: int, quiet: bool) -> None:
        self.endpoint, self.dataset, self.client, self.quiet = endpoint, dataset, client, quiet
        # In random order, so that what a budget leaves out is a random part of members and non-members alike.
        self.order = np.random.default_rng([seed, 20]).permutation(len(dataset))
        self.parser = Parser(endpoint)
        self.watch = Watch(self.parser, dataset.class_names)

    @classmethod
    @contextmanager
    def open(
        cls, endpoint: Endpoint, dataset: Dataset, out: Path, secrets: Secrets, seed: int, quiet: bool
    ) -> Iterator[Session]:
        """A session with the transcript in ``out``, alone with it."""
        folder = out / FOLDER
        with writer_lock(folder), Transcript(folder / FILE, secrets.clean_json) as transcript:
            template = Template(endpoint, dataset.feature_names)
            yield cls(endpoint, dataset, Client(endpoint, template, secrets, transcript, quiet=quiet), seed, quiet)

    def ask_records(self) -> tuple[Seen, dict[int, Answer]]:
        """What the endpoint shows, and its answers by row.

        Raises:
            EndpointError: it does not answer as described, or about no record at all.
        """
        questions = [self._question(int(row), self.dataset.inputs[row]) for row in self.order]
        probes = questions[: self.endpoint.probes]
        # One at a time: a description that is wrong costs one request, not as many as run at once.
        self.client.ask(probes, at_once=1, accept=self._accept)
        seen = detect(self._by_record(probes), self.endpoint, self.dataset.class_names)
        if not self.quiet:
            print(f"memberscope: the endpoint gives {seen.sentence}", file=sys.stderr, flush=True)
        with progress("asking", len(questions), quiet=self.quiet) as show:
            self.client.ask(questions, accept=self._accept, show=show)
        by_record = self._by_record(questions)
        answers = {int(row): by_record[str(self.dataset.ids[row])] for row in sorted(self.order)
                   if str(self.dataset.ids[row]) in by_record}  # fmt: skip
        # Rounding and the number of classes shown are only certain once all is there.
        whole = detect(by_record, self.endpoint, self.dataset.class_names)
        if whole != seen and not self.quiet:
            print(f"memberscope: by all its answers the endpoint gives {whole.sentence}", file=sys.stderr, flush=True)
        return whole, answers

    def predicted(self, pairs: Pairs) -> list[int | None]:
        """The classes that the endpoint predicts for any inputs; an :class:`Asker`."""
        questions = [self._question(row, inputs) for row, inputs in pairs]
        with progress("asking about copies", len(questions), quiet=self.quiet) as show:
            self.client.ask(questions, accept=self._accept, show=show)
        known = self.client.transcript.answers
        return [self._class(self.watch(q.record, known[q.key])) if q.key in known else None for q in questions]

    def skipped(self) -> tuple[int, int]:
        """Records that the endpoint refused, and records without an answer for other reasons."""
        transcript = self.client.transcript
        keys = [self._question(row, self.dataset.inputs[row]).key for row in range(len(self.dataset))]
        refused = sum(key in transcript.skipped for key in keys)
        return refused, sum(not transcript.known(key) for key in keys)

    def facts(self) -> dict[str, Any]:
        """What was sent, for the findings' cost."""
        transcript, endpoint = self.client.transcript, self.endpoint
        facts: dict[str, Any] = {
            "requests": transcript.asked,
            "answers": len(transcript.answers),
            "skipped": len(transcript.skipped),
            "failed": sum(transcript.failures.values()),
            "budget": endpoint.budget.requests,
            "budget_per_record": endpoint.budget.per_record,
        }
        if endpoint.price_per_request is not None:
            facts["price"] = f"{endpoint.price_per_request * transcript.asked:.2f} {endpoint.currency}"
        return facts

    def _question(self, row: int, inputs: NDArray[Any]) -> Question:
        return self.client.template.question(str(self.dataset.ids[row]), inputs)

    def _accept(self, question: Question, body: Any) -> None:
        self.watch(question.record, body)

    def _by_record(self, questions: Sequence[Question]) -> dict[str, Answer]:
        transcript = self.client.transcript
        found = {q.record: self.watch(q.record, transcript.answers[q.key]) for q in questions
                 if q.key in transcript.answers}  # fmt: skip
        if not found:
            reason = next(iter(transcript.failures), "nothing")
            if transcript.skipped:
                reason = f"status {next(iter(transcript.skipped.values()))}, which skip_codes leaves out"
            elif self.client.exhausted:
                reason = f"a budget that {transcript.asked:,} requests have used up"
            raise errors.EndpointError(
                f"an answer about one of {len(questions):,} records from {self.endpoint.uri}",
                reason,
                "Mend the endpoint or its description, raise the budget, or start anew in another folder (--out).",
            )
        return found

    def _class(self, answer: Answer) -> int:
        names = answer.names or self.endpoint.classes or self.dataset.class_names
        if answer.scores is None:
            label = str(answer.label)
            return names.index(label) if label in names else -1
        if len(answer.scores) == 1:
            middle = 0.0 if self.endpoint.kind == "logits" else 0.5
            return int(answer.scores[0] > middle)
        best = int(np.nanargmax(answer.scores))
        if answer.names is None:
            return best
        known = self.endpoint.classes or self.dataset.class_names
        return known.index(answer.names[best]) if answer.names[best] in known else -1


def estimate(endpoint: Endpoint, dataset: Dataset, out: Path, seed: int) -> Cost:
    """What a run would send; nothing is sent or written, and no secret is needed."""
    template = Template(endpoint, dataset.feature_names)
    rows = range(len(dataset))
    pairs = [(row, dataset.inputs[row]) for row in rows]
    for attack in query_attacks(endpoint, seed):
        pairs += attack.plan(dataset, rows)
    keys = {template.question(str(dataset.ids[row]), inputs).key for row, inputs in pairs}
    answered, asked = 0, 0
    path = out / FOLDER / FILE
    if path.exists():
        with Transcript(path, lambda value: value) as transcript:
            answered, asked = sum(transcript.known(key) for key in keys), transcript.asked
    budget = endpoint.budget
    left = max(0, budget.requests - asked)
    wanted = len(keys) - answered
    requests = min(wanted, left)
    # No more than the budgets, and nothing where nothing is left to ask.
    at_most = min(left, budget.per_record * len(dataset)) if wanted else 0
    minutes = requests / endpoint.requests_per_minute if endpoint.requests_per_minute else None
    money = None if endpoint.price_per_request is None else requests * endpoint.price_per_request
    per_record = 1 + (endpoint.robustness.copies if endpoint.robustness else 0)
    said = [f"{requests:,} requests to send about {len(dataset):,} records ({per_record} a record at most)"]
    if answered:
        said.append(f"{answered:,} questions are answered already")
    said.append(f"never more than {at_most:,} with retries")
    if minutes is not None:
        said.append(f"about {minutes:.1f} minutes at {endpoint.requests_per_minute:g} requests a minute")
    else:
        said.append(f"no requests_per_minute is set: {endpoint.concurrency} at once, as fast as the endpoint answers")
    if money is not None and endpoint.price_per_request is not None:
        most = at_most * endpoint.price_per_request
        said.append(f"{money:.2f} {endpoint.currency}, {most:.2f} {endpoint.currency} at most")
    if requests < wanted:
        said.append(f"the budget of {budget.requests:,} leaves {wanted - requests:,} questions out, drawn at random")
    return Cost(
        requests, at_most, answered, asked, minutes, money, endpoint.currency, per_record, "; ".join(said) + "."
    )
