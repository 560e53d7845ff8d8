"""Any OpenAI-compatible endpoint, against a stub server on this machine: request, order, retries, keys, failures."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.errors import NearsafeError
from pipeline.rewriting.endpoint import EndpointRewriter
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


@pytest.mark.parametrize("changes", [{"url": "ftp://x"}, {"concurrency": 0}, {"request": {"stream": True}}])
def test_wrong_parameters_are_refused(changes):
    with pytest.raises(ValueError):
        Endpoint(**{"kind": "endpoint", "url": "http://x/v1", "model": "m", **changes})
