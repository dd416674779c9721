"""The numbers that Prometheus reads agree with what happened."""

from concurrent.futures import ThreadPoolExecutor

from prometheus_client.parser import text_string_to_metric_families

from inference.engine.batch_requests import BatchSettings


def numbers(served):
    response = served.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_answers_and_tokens_are_counted(serve):
    served = serve()
    served.complete("say Hello=>", max_tokens=50)  # 5 tokens, 11 of the prompt
    served.complete("say Hello=>", max_tokens=3, n=2)  # 3 tokens, twice
    served.complete(["say a, b=>", "say c=>"], stop=",")  # 2 tokens, 1 token; prompts of 10 and 7
    served.chat_events("say Hi")  # 2 tokens
    prompt = served.post("/tokenize", messages=[{"role": "user", "content": "say Hi"}]).json()
    found = numbers(served)
    assert found["lm_answers_total", "tiny", "stop"] == 4
    assert found["lm_answers_total", "tiny", "length"] == 2
    assert found["lm_answer_tokens_total", "tiny"] == 5 + 6 + 2 + 1 + 2
    assert found["lm_prompt_tokens_total", "tiny"] == 11 + 11 + 10 + 7 + prompt["count"]
    assert found["lm_time_to_first_token_seconds_count", "tiny"] == 6
    assert found["lm_time_between_tokens_seconds_count", "tiny"] == 4 + 4 + 1 + 0 + 1
    assert found["lm_requests_running", "tiny"] == found["lm_requests_waiting", "tiny"] == 0
    assert found["lm_cache_blocks", "tiny"] == 1024


def test_what_runs_is_counted(serve):
    served = serve(batch=BatchSettings(max_running=1, cache_tokens=64, block_size=16))
    with served.gate("say slow=>s") as gate, ThreadPoolExecutor() as pool:
        first = pool.submit(served.complete, "say slow=>")
        assert gate.reached.wait(30)
        second = pool.submit(served.complete, "say next=>")
        served.wait_until(lambda: served.thread.num_requests == 2)
        found = numbers(served)
        assert found["lm_requests_running", "tiny"] == 1
        assert found["lm_cache_blocks", "tiny"] == 4
        assert found["lm_cache_blocks_available", "tiny"] == 3
        gate.opened.set()
        assert first.result()["choices"][0]["text"] == "slow"
        assert second.result()["choices"][0]["text"] == "next"
    served.wait_until(lambda: served.is_idle)
    assert numbers(served)["lm_cache_blocks_available", "tiny"] == 4
