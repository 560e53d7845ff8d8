"""Any OpenAI-compatible endpoint, against a stub server on this machine: request, order, retries, keys, failures."""

import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.errors import NearsafeError
from pipeline.rewriting.endpoint import LARGEST_ANSWER, LONGEST_WAIT, EndpointRewriter
from pipeline.rewriting.registry import Endpoint
from pipeline.rewriting.wording import HAZARDS


class Stub(ThreadingHTTPServer):
    """Answers as its queue `replies` says (status, headers, body), else with an edit of the caption it was sent."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies, self.requests, self.lock = [], [], threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.requests.append((self.path, self.headers.get("authorization"), body))
            reply = self.server.replies.pop(0) if self.server.replies else None
        caption = body["messages"][0]["content"].rpartition("Caption: ")[2]
        answer = {"choices": [{"message": {"content": f" {caption} and a knife\n"}}]}
        status, headers, text = reply or (200, {}, json.dumps(answer))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def stub(monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    server = Stub()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def rewriter(stub, waits=None, **changes):
    sleep = (lambda seconds: None) if waits is None else waits.append
    return EndpointRewriter(Endpoint("endpoint", stub.url, "small", **changes), HAZARDS, sleep)


def test_answers_keep_the_order_of_the_captions(stub):
    captions = [f"a cup {i}" for i in range(20)]
    assert rewriter(stub).rewrite(captions, ["weapons"] * 20) == [f"{text} and a knife" for text in captions]
    assert {path for path, _, _ in stub.requests} == {"/v1/chat/completions"}


def test_the_request_holds_model_key_and_options(stub, monkeypatch):
    monkeypatch.setenv("STUB_KEY", "secret")
    one = rewriter(stub, key_env="STUB_KEY", request={"max_tokens": 50, "seed": 1})
    one.rewrite(["a cup"], ["weapons"])
    _, key, body = stub.requests[0]
    assert key == "Bearer secret" and body["model"] == "small"
    assert (body["temperature"], body["max_tokens"], body["seed"]) == (0, 50, 1)
    assert "secret" not in json.dumps([one.name, one.facts])


def test_busy_and_broken_servers_are_asked_again_with_growing_waits(stub):
    stub.replies = [(429, {"retry-after": "7"}, ""), (500, {}, ""), (503, {}, "")]
    waits = []
    assert rewriter(stub, waits).rewrite(["a cup"], ["weapons"]) == ["a cup and a knife"]
    assert waits == [7.0, 2.0, 4.0]


def test_a_server_that_stays_broken_ends_the_run_with_its_reason(stub):
    stub.replies = [(500, {}, "out of memory")] * 3
    with pytest.raises(NearsafeError, match=r"/v1/chat/completions: still failing after 2 retries: status 500: out of"):
        rewriter(stub, retries=2).rewrite(["a cup"], ["weapons"])
    with pytest.raises(NearsafeError, match="still failing after 1 retries: ConnectError"):
        params = Endpoint("endpoint", "http://127.0.0.1:9/v1", "m", retries=1)
        EndpointRewriter(params, HAZARDS, lambda seconds: None).rewrite(["a cup"], ["weapons"])


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((401, {}, "no such key"), "status 401: no such key"),
        ((200, {}, "{}"), "not an answer of a chat completion: '{}'"),
        ((200, {}, "<html>"), "not an answer of a chat completion: '<html>'"),
    ],
)
def test_what_no_retry_mends_is_not_retried(stub, reply, message):
    stub.replies = [reply]
    with pytest.raises(NearsafeError, match=message):
        rewriter(stub).rewrite(["a cup"], ["weapons"])
    assert len(stub.requests) == 1


def test_an_answer_without_text_is_no_edit(stub):
    stub.replies = [(200, {}, json.dumps({"choices": [{"message": {"content": None}}]}))]
    assert rewriter(stub).rewrite(["a cup"], ["weapons"]) == [None]


def test_a_key_that_is_not_set_is_named_before_any_request(stub, monkeypatch):
    monkeypatch.delenv("STUB_KEY", raising=False)
    with pytest.raises(NearsafeError, match="environment variable STUB_KEY is not set"):
        rewriter(stub, key_env="STUB_KEY")


@pytest.mark.parametrize("value", ["top-secret\ntail", "top-secret\x00", "top-secret-é", "top\tsecret"])
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(stub, monkeypatch, value):
    monkeypatch.setattr("os.environ", {**os.environ, "STUB_KEY": value})
    with pytest.raises(NearsafeError, match="environment variable STUB_KEY holds characters") as caught:
        rewriter(stub, key_env="STUB_KEY")
    assert "secret" not in str(caught.value) and not stub.requests


def test_white_space_around_the_key_is_taken_off(stub, monkeypatch):
    monkeypatch.setenv("STUB_KEY", " secret\r\n")
    rewriter(stub, key_env="STUB_KEY").rewrite(["a cup"], ["weapons"])
    assert stub.requests[0][1] == "Bearer secret"


def test_a_request_that_is_not_valid_http_is_not_retried_and_not_shown(stub, monkeypatch):
    monkeypatch.setattr("pipeline.rewriting.endpoint._key", lambda variable: "top-secret\r\n")
    waits = []
    with pytest.raises(NearsafeError, match="the request is not valid HTTP") as caught:
        rewriter(stub, waits).rewrite(["a cup"], ["weapons"])
    assert waits == [] and "secret" not in str(caught.value)


def test_the_servers_text_is_shown_in_one_printable_line_without_the_key(stub, monkeypatch):
    monkeypatch.setenv("STUB_KEY", "secret")
    stub.replies = [(400, {}, "wrong key secret\x1b[2J\x07\u202e\n" + "x" * 500)]
    with pytest.raises(NearsafeError, match=r"status 400: wrong key \*\*\* \[2J x+$") as caught:
        rewriter(stub, key_env="STUB_KEY").rewrite(["a cup"], ["weapons"])
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


@pytest.mark.parametrize(("asked", "waited"), [("nan", 1.0), ("inf", 1.0), ("-inf", 1.0), ("1e9", LONGEST_WAIT)])
def test_a_wait_that_the_server_asks_for_is_finite_and_bounded(stub, asked, waited):
    stub.replies, waits = [(429, {"retry-after": asked}, "")], []
    rewriter(stub, waits).rewrite(["a cup"], ["weapons"])
    assert waits == [waited]


@pytest.mark.parametrize(
    ("headers", "text", "message"),
    [
        ({}, "x" * (LARGEST_ANSWER + 1), f"an answer of more than {LARGEST_ANSWER} bytes"),
        ({"content-encoding": "gzip"}, "x", "a compressed answer"),
        ({}, "[" * 100_000, "not an answer of a chat completion"),
    ],
)
def test_an_answer_is_bounded(stub, headers, text, message):
    stub.replies = [(200, headers, text)]
    with pytest.raises(NearsafeError, match=message):
        rewriter(stub).rewrite(["a cup"], ["weapons"])


def test_half_a_character_is_no_edit(stub):
    stub.replies = [(200, {}, '{"choices": [{"message": {"content": "a \\ud800"}}]}')]
    assert rewriter(stub).rewrite(["a cup"], ["weapons"]) == [None]


def test_one_failure_for_good_ends_the_retries_of_the_others(stub):
    stub.replies = [(503, {"retry-after": "60"}, ""), (401, {}, "no such key")]
    params = Endpoint("endpoint", stub.url, "small", concurrency=2)
    began = time.monotonic()
    with pytest.raises(NearsafeError, match="status 401: no such key"):
        EndpointRewriter(params, HAZARDS).rewrite(["a cup"] * 8, ["weapons"] * 8)
    assert time.monotonic() - began < 30  # the wait before the retry is 60 s


def test_a_key_goes_to_this_machine_without_a_proxy(stub, monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert rewriter(stub, retries=0).rewrite(["a cup"], ["weapons"]) == ["a cup and a knife"]


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hidden@x/v1", "https://hidden@x/v1", "hidden@x", "https://x/v1?key=hidden", "https://x/v1#hidden",
        "https://x\\@hidden/v1", "https://x/hid den", "https://x:hidden/v1", "https:///hidden",
    ],
)  # fmt: skip
def test_a_url_that_may_hold_a_secret_is_refused_without_showing_it(url):
    with pytest.raises(ValueError, match="url") as caught:
        Endpoint("endpoint", url, "m")
    assert "hid" not in str(caught.value)


def test_a_key_is_sent_over_https_or_to_this_machine_only():
    for url in ("https://x/v1", "http://localhost:1/v1", "http://127.0.0.2/v1", "http://[::1]:8000/v1"):
        Endpoint("endpoint", url, "m", key_env="K")
    Endpoint("endpoint", "http://x/v1", "m")
    for url in (
        "http://x/v1",
        "http://localhost.example.org/v1",
        "http://127.0.0.1.example.org/v1",
        "http://10.0.0.1/v1",
    ):
        with pytest.raises(ValueError, match="https:// addresses only"):
            Endpoint("endpoint", url, "m", key_env="K")


@pytest.mark.parametrize(
    "changes",
    [{"url": "ftp://x"}, {"concurrency": 0}, {"request": {"stream": True}}, {"timeout_seconds": float("nan")}],
)
def test_wrong_parameters_are_refused(changes):
    with pytest.raises(ValueError):
        Endpoint(**{"kind": "endpoint", "url": "http://x/v1", "model": "m", **changes})
