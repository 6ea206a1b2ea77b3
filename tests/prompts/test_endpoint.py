"""Sentences from an endpoint that works, is slow, is down, refuses or answers nonsense: what is kept, and what is said."""

from __future__ import annotations

import dataclasses
import json
import re
import socket
import time
from pathlib import Path

import pytest

from bridgejax.config import PromptSettings
from bridgejax.errors import UserError
from bridgejax.prompts.endpoint import Endpoint
from bridgejax.prompts.language_enhancement import plan_sentences
from bridgejax.prompts.sentences import read_sentences
from tests.prompts.answering_server import answering, completion

CLASSES = ("bird", "road_sign")
SETTINGS = PromptSettings(
    sentences=3, endpoint_model="m", endpoint_rate=1e6, endpoint_timeout=5.0, endpoint_retries=1, endpoint_key="TEST_KEY"
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridgejax.prompts.endpoint._FIRST_PAUSE", 0.01)
    monkeypatch.setenv("TEST_KEY", "secret")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def _plan(url: str, **changes: object):
    plan = plan_sentences(dataclasses.replace(SETTINGS, source=f"endpoint:{url}", **changes), CLASSES, seed=0)
    assert plan is not None
    return plan


def _about(body: dict) -> str:
    return re.search(r"(bird|road sign)", body["messages"][0]["content"])[1]


def test_sentences_come_distinct_counted_flagged_and_with_what_made_them(tmp_path: Path):
    def answer(number: int, body: dict):
        name = _about(body)
        return completion("Here are some:", f'1. "a {name} at sea"', f"- a {name}  at sea", f"2) number {number}", "```")

    with answering(answer) as (url, requests):
        plan = _plan(url, temperature=0.5)
        made = plan.make(tmp_path)
        assert made["bird"] == ("a bird at sea", "number 0", "number 1")
        assert made["road_sign"] == ("a road sign at sea", "number 2", "number 3")
        assert plan.make(tmp_path) == made
        assert len(requests) == 4
    assert {request["path"] for request in requests} == {"/v1/chat/completions"}
    assert {request["key"] for request in requests} == {"Bearer secret"}
    body = requests[1]["body"]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.5, 32)
    assert "Write 1 different" in body["messages"][0]["content"]
    assert len({request["body"]["seed"] for request in requests}) == 4
    (file,) = tmp_path.iterdir()
    first, *rows = map(json.loads, file.read_text().splitlines())
    assert first["about"]["endpoint_model"] == "m"
    assert rows[0] == {"class": "bird", "sentence": "a bird at sea", "names_class": True}
    assert rows[1]["names_class"] is False
    assert "secret" not in file.read_text()
    # The file can be the source of another workdir.
    assert read_sentences(file, CLASSES, most=9) == made


def test_a_call_that_was_cut_off_goes_on_where_it_was(tmp_path: Path):
    def answer(number: int, body: dict):
        if number in (3, 4):
            return 500, b"oh no", {}
        return completion(*(f"{_about(body)} {number} {i}" for i in range(2)))

    with answering(answer) as (url, requests):
        told = (
            r"asked 2 times and answered with status 500 \(oh no\); 6 sentences \(2 of 2 classes\) are kept in .*, and the same"
        )
        with pytest.raises(UserError, match=told):
            _plan(url).make(tmp_path)
        made = _plan(url).make(tmp_path)
        assert len(requests) == 6
    assert made["bird"] == ("bird 0 0", "bird 0 1", "bird 1 0")
    assert made["road_sign"] == ("road sign 2 0", "road sign 2 1", "road sign 5 0")
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text().replace("bird 0 0", "bird 0 9"))
    with pytest.raises(UserError, match=r"jsonl is not as bridgejax wrote it; restore it, delete it"):
        _plan(url).make(tmp_path)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            (200, b"<html>welcome</html>", {}),
            "asked 2 times and answered with what is no chat completion ('<html>welcome</html>')",
        ),
        ((200, b'{"choices": []}', {}), "no chat completion"),
        ((200, b'{"choices": [{"message": {"content": null}}]}', {}), "answered without a text"),
        ((503, b"busy", {"Retry-After": "0"}), "answered with status 503 (busy)"),
        ((401, b"no key", {}), "check the key in the environment variable TEST_KEY, which is set"),
        ((404, b'{"error": "no model m"}', {}), 'status 404 ({"error": "no model m"}); check prompts.source'),
        ((302, b"", {"Location": "http://127.0.0.1:1/"}), "answered with status 302"),
        (completion("```", "", "Sure:"), "gave no usable sentence for class 'bird'"),
    ],
)
def test_what_an_endpoint_answers_amiss_is_told(tmp_path: Path, answer: tuple, told: str):
    with answering(lambda number, body: answer) as (url, requests), pytest.raises(UserError) as error:
        _plan(url).make(tmp_path)
    assert told in str(error.value)
    assert "0 sentences (0 of 2 classes) are kept in" in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert len(requests) == (1 if answer[0] in (401, 404, 302) else 8 if b"Sure" in answer[1] else 2)


def test_nonsense_now_and_then_is_asked_again(tmp_path: Path):
    def answer(number: int, body: dict):
        return completion(f"{_about(body)} {number}") if number % 2 else (200, b"{", {})

    with answering(answer) as (url, requests):
        made = _plan(url, sentences=1).make(tmp_path)
    assert made == {"bird": ("bird 1",), "road_sign": ("road sign 3",)}
    assert len(requests) == 4


def test_a_slow_endpoint_is_given_up(tmp_path: Path):
    def answer(number: int, body: dict):
        time.sleep(2.0)
        return completion("late")

    began = time.monotonic()
    with (
        answering(answer) as (url, _),
        pytest.raises(UserError, match=r"did not answer within 0\.2 s \(prompts\.endpoint_timeout\)"),
    ):
        _plan(url, endpoint_timeout=0.2).make(tmp_path)
    assert time.monotonic() - began < 2.0 + 2.0


def test_an_endpoint_that_is_down_is_told(tmp_path: Path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(UserError, match=r"asked 2 times and cannot be reached \(.*refused\); 0 sentences"):
            _plan(url).make(tmp_path)


def test_requests_keep_the_rate_and_pauses_grow(tmp_path: Path):
    now, slept = 0.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(round(seconds, 3))
        now += seconds

    answers = [(429, b"", {"Retry-After": "7"}), (500, b"", {}), completion("a"), completion("b")]
    with answering(lambda number, body: answers[number]) as (url, _):
        settings = dataclasses.replace(SETTINGS, endpoint_rate=30.0, endpoint_retries=2)
        endpoint = dataclasses.replace(Endpoint.of(url, settings, 0), sleep=sleep, clock=lambda: now)
        assert endpoint.draw("bird", 0, 1) == ["a"]
        assert endpoint.draw("bird", 1, 1) == ["b"]
    # What the server asks for, which is longer than the rate's 2 s; a short pause, then the rest of the 2 s; the next request.
    assert slept == [7.0, 0.0, 0.02, 1.98, 2.0]


@pytest.mark.parametrize(
    ("source", "changes", "told"),
    [
        ("endpoint:localhost:8000", {}, "is no address; give one such as endpoint:http://localhost:8000/v1"),
        ("endpoint:https://user:pass@host/v1", {}, "holds a user, a password or a query"),
        ("endpoint:https://host/v1?key=abc", {}, "the key in the environment variable TEST_KEY"),
        ("endpoint:https://host/v1", {"endpoint_model": ""}, "set prompts.endpoint_model"),
    ],
)
def test_a_wrong_address_is_told_before_anything_is_asked(source: str, changes: dict[str, str], told: str):
    with pytest.raises(UserError) as error:
        plan_sentences(dataclasses.replace(SETTINGS, source=source, **changes), CLASSES, seed=0)
    assert told in str(error.value)
    assert "abc" not in str(error.value)
    assert "user:pass" not in str(error.value)
