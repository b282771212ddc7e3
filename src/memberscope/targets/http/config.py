"""The description of an endpoint: validated, unknown keys refused, secrets only by the name of their variable."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from memberscope.errors import ConfigError, nearest
from memberscope.targets.http.secrets import has_secret

Status = Annotated[int, Field(ge=100, le=599)]

# Words in the name of a header or parameter whose value nobody wants to find in a file.
_SENSITIVE = ("authorization", "token", "secret", "password", "passwd", "cookie", "credential", "signature")
_SENSITIVE_NAMES = frozenset(("key", "apikey", "api-key", "api_key", "x-api-key", "x-goog-api-key", "sig", "auth"))


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class Budget(_Strict):
    """How often the endpoint may be asked, ever, with everything that an earlier start of the run has asked."""

    requests: int = Field(default=10_000, ge=1, description="of the whole run: probes, retries and redirects count")
    per_record: int = Field(default=5, ge=1, description="about one record, copies and retries together")


class InputForm(_Strict):
    """How a record is written into the request."""

    form: Literal["list", "object", "png"] = Field(
        default="list", description="list of numbers (nested for images), object by feature name, or PNG in base64"
    )
    layout: Literal["chw", "hwc"] = Field(default="chw", description="axes of an image as a list")
    name: str = Field(default="input-0", description="open_inference: the input tensor's name")
    datatype: str = Field(default="FP64", description="open_inference: the input tensor's type")


class Robustness(_Strict):
    """Perturbed copies of every record, asked about beside it: members are classified alike more often."""

    copies: int = Field(default=8, ge=1, le=1000, description="of each record")
    noise: float = Field(default=0.0, ge=0, description="standard deviation of Gaussian noise, in those of the inputs")
    flips: float = Field(default=0.0, ge=0, le=1, description="chance that a value of 0 or 1 is turned round")
    shift: int = Field(default=0, ge=0, le=32, description="images: moved by at most so many pixels")
    mirror: bool = Field(default=False, description="images: every second copy is mirrored")

    @model_validator(mode="after")
    def _something(self) -> Robustness:
        if not (self.noise or self.flips or self.shift or self.mirror):
            raise ValueError("robustness needs one of noise, flips, shift, mirror")
        return self


class Endpoint(_Strict):
    """How to ask a model over HTTP, and how often."""

    name: str | None = Field(default=None, description="what the report calls it; the file's name by default")
    uri: str = Field(description="http:// or https://; may hold $INPUT and ${VARIABLE}")
    method: Literal["POST", "PUT", "GET"] = Field(default="POST", description="POST, PUT or GET")
    headers: dict[str, str] = Field(default_factory=dict, description="values may hold ${VARIABLE}")
    protocol: Literal["predictions", "open_inference"] | None = Field(
        default=None, description="a known request and answer instead of request and scores"
    )
    request: Any = Field(default=None, description="JSON (or text) with $INPUT where the record goes")
    input: InputForm = Field(default=InputForm(), description="how a record is written; see below")
    scores: str | None = Field(default=None, description="JSONPath to the scores in the answer")
    label: str | None = Field(default=None, description="JSONPath to the predicted class, where no scores are given")
    output: str | None = Field(default=None, description="open_inference: name of the output; the first by default")
    kind: Literal["auto", "probabilities", "logits", "labels"] = Field(
        default="auto", description="what the scores are, where auto finds it wrongly: probabilities, logits, labels"
    )
    classes: list[str] = Field(default_factory=list, description="names of the classes in the order of the scores")
    ratelimit_codes: list[Status] = Field(default=[429], description="wait, then ask again")
    retry_codes: list[Status] = Field(default=[408, 500, 502, 503, 504], description="fails at times: ask again")
    skip_codes: list[Status] = Field(default_factory=list, description="leave the record out, never ask again")
    requests_per_minute: float | None = Field(
        default=None, gt=0, description="evenly spaced; as fast as the endpoint answers by default"
    )
    concurrency: int = Field(default=4, ge=1, le=64, description="requests under way at once")
    budget: Budget = Field(default=Budget(), description="hard limits; see below")
    timeout: float = Field(default=30.0, gt=0, description="seconds until an answer must be complete")
    backoff: float = Field(default=1.0, ge=0, description="seconds before the first retry; doubles, at most 60")
    max_wait: float = Field(default=600.0, ge=0, description="longest Retry-After that is waited for, seconds")
    give_up_after: int = Field(default=20, ge=1, description="failures in a row that end the run")
    probes: int = Field(default=5, ge=1, le=100, description="records asked about first, one at a time")
    redirects: Literal["refuse", "same_origin"] = Field(
        default="refuse", description="refuse, or same_origin: follow 307 and 308 on the same server"
    )
    ca_file: str | None = Field(default=None, description="certificates to trust beside the system's")
    proxy: str | None = Field(default=None, description="proxy; may hold ${VARIABLE}")
    max_answer_bytes: int = Field(default=4_000_000, ge=1_000, description="a longer answer ends the run")
    price_per_request: float | None = Field(default=None, ge=0, description="for the estimate of cost")
    currency: str = Field(default="EUR", description="of the price")
    robustness: Robustness | None = Field(default=None, description="ask about perturbed copies too; see below")

    @model_validator(mode="before")
    @classmethod
    def _shorthands(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            values = dict(values)
            headers = values.get("headers")
            if isinstance(headers, Mapping):
                # YAML reads 1 and true where a header says "1" and "true".
                values["headers"] = {str(k): v if isinstance(v, str) else json.dumps(v) for k, v in headers.items()}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Endpoint:
        parts = urlsplit(self.uri)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError("uri must begin with http:// or https:// and name a host")
        if self.protocol is None:
            if self.scores is None and self.label is None:
                raise ValueError("scores or label: a JSONPath that says where the answer holds them")
            if "$INPUT" not in json.dumps(self.request) and "$INPUT" not in self.uri:
                raise ValueError("request: must hold $INPUT where the record goes")
        elif self.request is not None:
            raise ValueError(f"request: protocol {self.protocol} has its own; leave one of the two out")
        if self.protocol == "open_inference" and not parts.path.endswith("/infer"):
            raise ValueError("uri of open_inference must end in /v2/models/NAME/infer")
        if self.method == "GET" and self.request is not None:
            raise ValueError("request: GET has no body; put $INPUT into the uri")
        if set(self.skip_codes) & {*self.ratelimit_codes, *self.retry_codes}:
            raise ValueError("skip_codes must not hold codes that are asked again")
        if self.robustness is not None and self.budget.per_record <= self.robustness.copies:
            raise ValueError(
                f"budget.per_record must be at least {self.robustness.copies + 1}: "
                f"{self.robustness.copies} copies and the record itself"
            )
        self._no_literal_secret()
        return self

    def _no_literal_secret(self) -> None:
        """Credentials come from the environment, so that this file can be committed and copied into the run."""
        found = [
            f"headers.{name}" for name, value in self.headers.items() if _sensitive(name) and not has_secret(value)
        ]
        parts = urlsplit(self.uri)
        found += [f"uri ({k})" for k, v in parse_qsl(parts.query) if _sensitive(k) and not has_secret(v)]
        for key, uri in (("uri", self.uri), ("proxy", self.proxy or "")):
            account = urlsplit(uri).netloc.rpartition("@")[0]
            if account and not has_secret(account):
                found.append(f"{key} (password)")
        if found:
            raise ValueError(
                f"{found[0]}: a secret from the environment, such as ${{API_TOKEN}}, not the secret itself"
            )

    @classmethod
    def parse(cls, values: Any) -> Endpoint:
        """An endpoint from plain values.

        Raises:
            ConfigError: an unknown key (the nearest known one is named), or a value of the wrong kind or range.

        >>> Endpoint.parse({"url": "http://localhost/predict"})
        Traceback (most recent call last):
        ...
        memberscope.errors.ConfigError: ... got unknown key 'url' (did you mean 'uri'?). ...
        """
        if not isinstance(values, Mapping):
            raise ConfigError(
                "an endpoint as keys and values",
                "an empty file" if values is None else type(values).__name__,
                "Start with 'uri: http://localhost:8000/predict'; see docs/endpoint.md.",
            )
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            # From None: pydantic's own message shows values, and a value may be a credential.
            raise _as_config_error(error) from None

    @classmethod
    def read(cls, path: Path) -> Endpoint:
        """An endpoint from a YAML file, named after the file unless it has a name.

        Raises:
            ConfigError: the file is missing, not YAML, or as :meth:`parse`.
        """
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"an endpoint file {path}", f"{error.strerror or error}", "Check the path.") from error
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            raise ConfigError(
                f"a YAML file at {path}", f"{error.problem or error.context}{where}", "Mend the syntax there."
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError):
            raise ConfigError(f"a YAML file at {path}", "bytes that are no text", "Save it as UTF-8.") from None
        read = cls.parse(values)
        return read if read.name else read.model_copy(update={"name": path.stem})

    def resolved(self) -> dict[str, Any]:
        """Every value, defaults written out; secrets stand as the names of their variables."""
        return self.model_dump(mode="json")


def _sensitive(name: str) -> bool:
    word = name.lower()
    return word in _SENSITIVE_NAMES or any(part in word for part in _SENSITIVE)


_PARTS: dict[str, type[BaseModel]] = {"budget": Budget, "input": InputForm, "robustness": Robustness}


def _as_config_error(error: ValidationError) -> ConfigError:
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        model = _PARTS.get(place[0], Endpoint) if len(place) > 1 else Endpoint
        known = sorted(model.model_fields)
        inside = f" in {place[0]}" if len(place) > 1 else ""
        return ConfigError(
            f"keys{inside} among {', '.join(known)}",
            f"unknown key {place[-1]!r}{nearest(place[-1], known)}",
            "Rename or remove it.",
        )
    where = ".".join(place)
    if first["type"] == "missing":
        return ConfigError(f"a key {where!r} in the endpoint", "none", "Add it; see docs/endpoint.md.")
    message = str(first["msg"]).removeprefix("Value error, ")
    return ConfigError(f"a valid {where or 'endpoint'}", message, "Change it; docs/endpoint.md lists every key.")
