"""The key, and the size of a request."""

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from inference.server.app import ServerSettings

TEXT = "/v1/completions"


@pytest.fixture(scope="module")
def limited(serve_module):
    return serve_module(limits=ServerSettings(api_key="sésame", max_body_bytes=10_000))


def test_the_key_is_needed_for_all_but_health_and_metrics(limited):
    key = "sésame".encode()
    wrong = [None, b"", b"Bearer", b"Bearer wrong", b"sesame", b"Basic " + key, key]
    for header in [*wrong, b"Bearer \xff", b"Bearer " + key + b"x"]:
        headers = {} if header is None else {b"Authorization": header}
        for method, path in (("POST", TEXT), ("GET", "/v1/models"), ("GET", "/nowhere")):
            response = limited.client.request(method, path, headers=headers)
            assert response.status_code == 401, (path, header)
            assert response.json()["error"]["type"] == "authentication_error"
            assert response.headers["www-authenticate"] == "Bearer"
        for path in ("/health", "/metrics"):
            assert limited.client.get(path, headers=headers).status_code == 200
    for scheme in (b"Bearer ", b"bearer "):
        headers = {b"Authorization": scheme + key}
        assert limited.client.get("/v1/models", headers=headers).status_code == 200
    assert "sésame" not in repr(limited.client.get("/health").text)


def test_an_empty_key_is_refused():
    with pytest.raises(ValueError, match="api_key"):
        ServerSettings(api_key="")


def parts(size):
    for _ in range(size // 1000):
        yield b"x" * 1000


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [20_000, 10_000_000])
def test_a_request_that_is_too_large(limited, chunked, size):
    headers = {b"Authorization": "Bearer sésame".encode(), b"Content-Type": b"application/json"}
    body = b'{"prompt": "' + b"x" * size + b'"}'
    content = parts(size) if chunked else body
    # A client of its own: the server closes the connection, since the rest is not read.
    with httpx.Client(base_url=limited.url, timeout=30, trust_env=False) as client:
        try:
            response = client.post(TEXT, content=content, headers=headers)
        except (httpx.ReadError, httpx.WriteError):
            assert size > 1_000_000, "closed while the client was still sending"
        else:
            assert response.status_code == 413
            assert "larger than the 10,000 bytes" in response.json()["error"]["message"]
    fine = {"prompt": "say Hi=>", "max_tokens": 5}
    response = limited.client.post(TEXT, json=fine, headers=headers)
    assert response.json()["choices"][0]["text"] == "Hi"


def test_refusals_are_counted(limited):
    def counted():
        text = limited.client.get("/metrics").text
        return {
            sample.labels["status"]: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "lm_refused_total"
        }

    before = counted()
    limited.client.get("/v1/models")
    headers = {b"Authorization": "Bearer sésame".encode()}
    limited.client.get("/nowhere", headers=headers)
    limited.client.post(TEXT, json={}, headers=headers)
    limited.client.get("/v1/models", headers=headers)
    after = counted()
    grown = {status: after[status] - before.get(status, 0) for status in after}
    assert {s: n for s, n in grown.items() if n} == {"401": 1, "404": 1, "400": 1}
