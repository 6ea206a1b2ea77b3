"""Sentences from an OpenAI-compatible endpoint: one request after another, with a time limit, tried again where that helps."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable

from bridgejax.config import PLACEHOLDER, PromptSettings
from bridgejax.errors import UserError
from bridgejax.identity import derive_seed
from bridgejax.prompts.classes import display_name

_PATH = "/chat/completions"
_TEMPORARY = (408, 409, 425, 429, 500, 502, 503, 504)
_MOST_BYTES = 4 << 20  # of an answer
_MOST_SENTENCES = 50  # of a request, so that an answer stays short
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0  # seconds between attempts; doubled each time
_QUESTION = (
    "Write {count} different short English sentences, one per line, without numbering and without any other text. Each should "
    'describe a photograph of "{}" and name it: what it looks like, where it is and what is around it.'
)
_NUMBERING = re.compile(r"^(?:[-*•–]|\(?\d+[.):])\s+")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: the key is for the host that was named."""

    def redirect_request(self, *_: object) -> None:
        return None


class _Again(Exception):
    """An attempt failed in a way that another may not.

    Attributes:
      reason: what happened, for messages.
      pause: how long the server asks to wait, in seconds.
    """

    def __init__(self, reason: str, pause: float = 0.0):
        super().__init__(reason)
        self.reason, self.pause = reason, pause


@dataclasses.dataclass
class Endpoint:
    """A server that answers chat completions."""

    url: str  # of its chat completions
    prompts: PromptSettings  # the keys that say what is asked and how
    seed: int  # of the requests
    # sleep, clock: of the time module; tests have their own
    sleep: Callable[[float], object] = time.sleep
    clock: Callable[[], float] = time.monotonic
    _last: float | None = None

    @classmethod
    def of(cls, url: str, prompts: PromptSettings, seed: int) -> Endpoint:
        """Returns the endpoint at an address such as https://host/v1, checked without a request.

        Raises:
          UserError: the address is none, or holds a key or a password; no model is named.
        """
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"prompts.source endpoint:{url} is no address; give one such as endpoint:http://localhost:8000/v1.")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UserError(
                "the address in prompts.source holds a user, a password or a query, which would be kept with the sentences; "
                f"give {parts.scheme}://HOST/PATH and the key in the environment variable {prompts.endpoint_key}."
            )
        if not prompts.endpoint_model:
            raise UserError("prompts.source is an endpoint; set prompts.endpoint_model to the name of the model to ask.")
        base = url.rstrip("/")
        return cls(base if base.endswith(_PATH) else base + _PATH, prompts, seed)

    def about(self) -> dict[str, object]:
        """Returns what decides its answers, besides the server itself."""
        keys = ("endpoint_model", "max_tokens", "temperature", "top_p")
        asked = {key: getattr(self.prompts, key) for key in keys}
        return {"source": f"endpoint:{self.url}", **asked, "question": self.prompts.question or _QUESTION}

    def draw(self, class_name: str, number: int, wanted: int) -> list[str]:
        """Returns the lines of one answer.

        Args:
          class_name: the class.
          number: how many requests for it were answered before.
          wanted: how many sentences to ask for.

        Raises:
          UserError: the endpoint refuses, or fails in each attempt.
        """
        prompts, wanted = self.prompts, min(wanted, _MOST_SENTENCES)
        question = (prompts.question or _QUESTION).replace("{count}", str(wanted))
        body = {
            "model": prompts.endpoint_model,
            "messages": [{"role": "user", "content": question.replace(PLACEHOLDER, display_name(class_name))}],
            "max_tokens": prompts.max_tokens * wanted,
            "temperature": prompts.temperature,
            "top_p": prompts.top_p,
            "seed": derive_seed(self.seed, class_name, number),
        }
        return _lines(self._answer(json.dumps(body).encode()))

    def _answer(self, body: bytes) -> str:
        attempts = self.prompts.endpoint_retries + 1
        for attempt in range(attempts):
            self._keep_rate()
            try:
                return _content(self._post(body))
            except _Again as error:
                if attempt + 1 == attempts:
                    tries = f"{attempts} times" if attempts > 1 else "once"
                    raise UserError(f"the endpoint {self.url} was asked {tries} and {error.reason}.") from error
                self.sleep(min(max(error.pause, _FIRST_PAUSE * 2**attempt), _LONGEST_PAUSE))
        raise AssertionError("the loop returns or raises")

    def _keep_rate(self) -> None:
        """Waits until the next request may go out."""
        if self._last is not None:
            self.sleep(max(0.0, self._last + 60.0 / self.prompts.endpoint_rate - self.clock()))
        self._last = self.clock()

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := os.environ.get(self.prompts.endpoint_key, "").strip():
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, body, headers, method="POST")
        limit = self.prompts.endpoint_timeout
        until = time.monotonic() + limit
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=limit) as answer:
                data = b""
                while part := answer.read1(1 << 16):
                    data += part
                    if time.monotonic() > until:  # a server that sends a little now and then
                        raise TimeoutError
                    if len(data) > _MOST_BYTES:
                        raise _Again(f"answered with more than {_MOST_BYTES} bytes")
                return data
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from error
        except (OSError, http.client.HTTPException) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(cause, TimeoutError):
                raise _Again(f"did not answer within {limit:g} s (prompts.endpoint_timeout)") from error
            raise _Again(f"cannot be reached ({cause or type(cause).__name__})") from error

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        said = ""
        with contextlib.suppress(OSError, http.client.HTTPException):
            said = tidy_start(error.read(2000).decode("utf-8", "replace"))
        what = f"answered with status {error.code}{f' ({said})' if said else ''}"
        if error.code in _TEMPORARY:
            asked = error.headers.get("Retry-After", "")
            return _Again(what, float(asked) if asked.isdecimal() else 0.0)
        advice = "check prompts.source and prompts.endpoint_model"
        if error.code in (401, 403):
            given = "set" if os.environ.get(self.prompts.endpoint_key) else "not set"
            advice = f"check the key in the environment variable {self.prompts.endpoint_key}, which is {given}"
        return UserError(f"the endpoint {self.url} {what}; {advice}.")


def _content(data: bytes) -> str:
    """Returns the text of a chat completion.

    Raises:
      _Again: it is none.
    """
    try:
        content = json.loads(data)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        start = tidy_start(data[:200].decode("utf-8", "replace"))
        raise _Again(f"answered with what is no chat completion ({start!r})") from error
    if not isinstance(content, str):
        raise _Again("answered without a text")
    return content


def tidy_start(text: str) -> str:
    """Returns the start of a text on one line, without control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in " ".join(text.split()))[:80]


def _lines(content: str) -> list[str]:
    """Returns the sentences of an answer: its lines without numbering and quotes, and without headings and fences."""
    lines = (_NUMBERING.sub("", line.strip()).strip("\"“”'` ") for line in content.splitlines())
    return [line for line in lines if line and not line.endswith(":")]
