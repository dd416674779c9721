"""The life of the server: health, and an end that lets running answers end."""

import asyncio
import threading

import httpx
import pytest

from inference.server.app import ServerSettings

TEXT = "/v1/completions"


def test_health(scripted):
    assert scripted.client.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize("patience", [30.0, 0.05])
def test_a_shutdown_lets_running_answers_end(make_served, patience):
    """New requests are refused meanwhile; what takes longer than the limit is ended."""
    before = threading.active_count()
    served = make_served(limits=ServerSettings(shutdown_seconds=patience))
    transport = httpx.ASGITransport(served.app, raise_app_exceptions=False)

    async def scenario(gate):
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            lifespan = served.app.router.lifespan_context(served.app)
            await lifespan.__aenter__()
            assert (await client.get("/health")).status_code == 200
            running = asyncio.create_task(client.post(TEXT, json={"prompt": "say Hello=>"}))
            await asyncio.to_thread(gate.reached.wait, 30)
            ending = asyncio.create_task(lifespan.__aexit__(None, None, None))
            while (await client.get("/health")).status_code == 200:
                await asyncio.sleep(0)
            for path, fields in ((TEXT, {"prompt": "say x=>"}), ("/v1/embeddings", {"input": "x"})):
                response = await client.post(path, json=fields)
                assert response.status_code == 503
                assert "shutting down" in response.json()["error"]["message"]
                assert "retry-after" in response.headers
            if patience < 1:  # the engine's step ends only after the limit
                await asyncio.to_thread(served.thread._stopping.wait, 30)
            gate.opened.set()
            response = await running
            await ending
            return response

    with served.gate("say Hello=>He") as gate:
        response = asyncio.run(scenario(gate))
    if patience > 1:
        assert response.json()["choices"][0]["text"] == "Hello"
    else:
        assert response.status_code == 503
    assert threading.active_count() <= before, "the engine's thread has ended"
