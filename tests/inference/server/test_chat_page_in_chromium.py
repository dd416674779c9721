"""The chat page in a real browser, without a window: what a person does and sees.

Skipped where Playwright or a Chromium is missing; no browser is downloaded. Every page that a test
opens is watched: no error in its console, and no request to any address but the server's.
"""

import os
import re
import shutil
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from inference.chat_page.attention_weights import attention_weights
from inference.engine.batch_requests import BatchSettings
from inference.server.app import ServerSettings
from inference.server.served_model import ServedModel

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
expect = playwright.expect
DESKTOP = {"width": 1280, "height": 800}
MAX_WIDTH = 375  # of a small phone, in pixels
LEAST_CONTRAST = 4.5  # WCAG 2.2, level AA
PATIENCE = 10_000  # milliseconds after which a wait has failed
EVIL = "<img src=x onerror=hit=1><script>hit=2</script> **bold** `<b>` <a href=javascript:hit=3>"
# The contrast of every text that is seen, over the backgrounds behind it.
CONTRASTS = """() => {
  const numbers = (color) => (color.match(/[\\d.]+/g) ?? []).map(Number);
  const over = ([r, g, b, a = 1], below) =>
    [r, g, b].map((value, i) => a * value + (1 - a) * below[i]);
  const ground = (each) => {
    if (each === null) return [255, 255, 255];
    const color = numbers(getComputedStyle(each).backgroundColor);
    return color[3] === 0 ? ground(each.parentElement) : over(color, ground(each.parentElement));
  };
  const light = (color) => {
    const [r, g, b] = color.map((value) => value / 255)
      .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  for (const each of document.body.querySelectorAll("*")) {
    const own = [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !each.checkVisibility() || each.matches("option, :disabled")) continue;
    const below = ground(each);
    const two = [over(numbers(getComputedStyle(each).color), below), below].map(light);
    const ratio = (Math.max(...two) + 0.05) / (Math.min(...two) + 0.05);
    found.push([ratio, `${each.tagName} ${each.className}: ${each.textContent.slice(0, 30)}`]);
  }
  return found.sort((one, other) => one[0] - other[0]);
}"""
# What sticks out to the right, except inside of a part that scrolls by itself.
TOO_WIDE = """(width) => [...document.body.querySelectorAll("*")]
  .filter((each) => each.checkVisibility() && !each.closest("pre, .unseen, .skip"))
  .filter((each) => each.getBoundingClientRect().right > width + 0.5)
  .map((each) => `${each.tagName} ${each.className || each.id}`)"""


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    with playwright.sync_playwright() as running:
        found = next((path for path in map(shutil.which, names) if path), None)
        found = found or running.chromium.executable_path
        if not Path(found).exists():
            pytest.skip("needs chromium, chromium-browser or google-chrome")
        arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        chromium = running.chromium.launch(executable_path=found, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def profile(browser):
    """A window without special properties, which tests leave as they found it."""
    return browser.new_context(viewport=DESKTOP)


class Chat:
    """A page that a person uses."""

    def __init__(self, page, served):
        self.page, self.served = page, served

    def open(self):
        self.page.goto(self.served.url)
        self.page.wait_for_selector("body[data-ready]")

    def write(self, text):
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.keyboard.press("Enter")

    def ask(self, text):
        """Write a message and wait for the end of its answer."""
        turns = self.page.locator(".turn").count()
        self.write(text)
        self.page.locator(f".turn >> nth={turns}").wait_for()
        self.wait_for_the_end()

    def wait_for_the_end(self):
        self.page.wait_for_selector("#send", state="visible")

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    @property
    def answer(self):
        """The text of the last answer."""
        return self.page.locator(".answer .text").last

    @contextmanager
    def request(self, path):
        """The fields of the request that the block sends."""
        fields = {}
        with self.page.expect_request(f"**{path}") as sent:
            yield fields
        fields.update(sent.value.post_data_json)


@pytest.fixture
def open_page(browser, profile):
    """Open the page of a server in a browser that has never been there."""
    with ExitStack() as stack:
        seen = []

        def open_page(served, is_open=True, **special):
            if special:
                own = stack.enter_context(browser.new_context(**{"viewport": DESKTOP, **special}))
            else:
                own = profile
            page = stack.enter_context(own.new_page())
            page.set_default_timeout(PATIENCE)
            stack.callback(page.evaluate, "localStorage.clear()")
            page.on("request", lambda request: seen.append((served.url, request.url)))
            page.on("pageerror", lambda error: seen.append(("no error", str(error))))
            chat = Chat(page, served)
            if is_open:
                chat.open()
            return chat

        yield open_page
        assert seen
        for expected, found in seen:
            assert found.startswith((f"{expected}/", "blob:")), found


@pytest.fixture(scope="module")
def two(serve_module, make_served):
    return serve_module(second=make_served(model="markov", name="second"))


def test_an_answer_is_shown_while_it_comes(scripted, open_page):
    chat = open_page(scripted)
    with scripted.gate("assistant\nHel") as gate:
        chat.write("say Hello")
        assert gate.reached.wait(30)
        expect(chat.answer).to_have_text("Hel")
        expect(chat.button("Stop")).to_be_visible()
        expect(chat.page.locator(".answer")).to_have_attribute("aria-busy", "true")
        gate.opened.set()
    expect(chat.answer).to_have_text("Hello")
    chat.wait_for_the_end()
    facts = chat.page.locator(".facts").last.inner_text()
    assert re.fullmatch(r"5 tokens  ·  [\d.,]+ tokens/s  ·  first after \d+\.\d\d s", facts), facts
    expect(chat.page.locator("#status")).to_have_text("tiny has answered with 5 tokens.")


@pytest.mark.parametrize("how", ["button", "key"])
def test_stop(scripted, open_page, how):
    chat = open_page(scripted)
    with scripted.gate("assistant\n" + "x" * 20) as gate:
        chat.write("say " + "x" * 800)
        assert gate.reached.wait(30)
        expect(chat.answer).to_have_text("x" * 20)
        assert not scripted.is_idle
        chat.button("Stop").click() if how == "button" else chat.page.keyboard.press("Escape")
        chat.wait_for_the_end()
    expect(chat.page.locator(".facts")).to_contain_text("stopped")
    scripted.wait_until(lambda: scripted.is_idle)
    before = scripted.forward.num_steps
    expect(chat.answer).to_have_text("x" * 20)
    assert scripted.forward.num_steps == before < 800, "the server has stopped, too"


def test_a_conversation_goes_on_and_answers_are_made_again(scripted, open_page):
    chat = open_page(scripted)
    chat.ask("say one")
    with chat.request("/v1/chat/completions") as sent:
        chat.ask("say \x01\x01\x01\x01\x01\x01\x01\x01")
    said = [(each["role"], each["content"]) for each in sent["messages"]]
    assert said[:2] == [("user", "say one"), ("assistant", "one")]
    assert len(said) == 3
    first = chat.answer.inner_text()
    assert re.fullmatch("[a-z]{8}", first)
    with chat.request("/v1/chat/completions") as again:
        chat.button("Regenerate").click()
    assert again == sent
    chat.wait_for_the_end()
    expect(chat.answer).not_to_have_text(first)
    assert chat.page.locator(".turn").count() == 2
    chat.page.get_by_role("button", name="Edit your last message").click()
    expect(chat.page.get_by_label("Message", exact=True)).to_have_value(said[2][1])
    chat.write("say three")
    expect(chat.answer).to_have_text("three")
    assert chat.page.locator(".turn").count() == 2


def test_conversations_outlive_a_reload(scripted, open_page):
    chat = open_page(scripted)
    chat.ask("say first")
    chat.button("New conversation").first.click()
    chat.ask("say second")
    with scripted.gate("assistant\nthi") as gate:
        chat.write("say third")
        assert gate.reached.wait(30)
        expect(chat.answer).to_have_text("thi")
        chat.open()
        gate.opened.set()
    names = chat.page.locator("#conversation-list .name")
    expect(names).to_have_text(["say second", "say first"])
    expect(chat.page.locator(".answer .text")).to_have_text(["second", "thi"])
    expect(chat.page.locator(".facts").last).to_contain_text("stopped")
    names.nth(1).click()
    expect(chat.answer).to_have_text("first")
    chat.button("Rename").click()
    chat.page.get_by_label("Title of the conversation").fill("A new name")
    chat.page.keyboard.press("Enter")
    chat.open()
    expect(names).to_have_text(["say second", "A new name"])
    with chat.page.expect_download() as file:
        chat.button("Export").click()
    assert "say first" in Path(file.value.path()).read_text()
    chat.button("Delete").click()
    chat.button("Delete for good").click()
    expect(names).to_have_text(["say second"])
    chat.open()
    expect(names).to_have_text(["say second"])


def test_broken_memory_is_no_obstacle(scripted, open_page):
    chat = open_page(scripted)
    chat.ask("say kept")
    stored = {
        "w": "no JSON",
        "x": "[]",
        "y": '{"id": "other"}',
        "z": '{"id": "z", "turns": [1, {"said": "Hi", "answers": [{"text": "x", "tokens": [1]}]}]}',
    }
    chat.page.evaluate(
        """stored => { for (const [id, text] of Object.entries(stored))
          localStorage["lm-chat.1.conversation." + id] = text;
          localStorage["lm-chat.1.open"] = "z" }""",
        stored,
    )
    chat.open()
    expect(chat.answer).to_have_text("x")
    expect(chat.page.locator("#conversation-list .name")).to_have_count(2)
    chat.page.locator(".name", has_text="say kept").click()
    expect(chat.answer).to_have_text("kept")
    chat.ask("say more")
    expect(chat.answer).to_have_text("more")


def test_full_memory_gives_up_probabilities_first(scripted, open_page):
    chat = open_page(scripted)
    chat.ask("say kept")
    filler = "x" * 5_000_000
    chat.page.evaluate(
        """text => { for (let n = text.length; n > 0; n >>= 1)
          try { localStorage["other" + n] = text.slice(0, n) } catch { continue } }""",
        filler,
    )
    chat.ask("say more")
    chat.open()
    expect(chat.page.locator(".answer .text")).to_have_text(["kept", "more"])


def test_system_prompt_and_settings_reach_the_server(scripted, open_page):
    chat = open_page(scripted)
    chat.button("Settings").click()
    chat.page.get_by_label("System prompt").fill("say From the system")
    for name, value in (("Temperature", "0"), ("Top-p", "0.5"), ("Top-k", "7"), ("Min-p", "0.1")):
        chat.page.get_by_label(name).fill(value)
    chat.page.get_by_label("Most tokens of an answer").fill("4")
    chat.page.get_by_label("Seed").fill("12")
    chat.page.keyboard.press("Escape")
    expect(chat.button("Settings")).to_be_focused()
    with chat.request("/v1/chat/completions") as sent:
        chat.ask("hello")
    expect(chat.answer).to_have_text("From")
    expect(chat.page.locator(".facts")).to_contain_text("ended at the limit of tokens")
    assert sent["messages"][0] == {"role": "system", "content": "say From the system"}
    wanted = {"temperature": 0, "top_p": 0.5, "top_k": 7, "min_p": 0.1, "max_tokens": 4, "seed": 12}
    assert {name: sent[name] for name in wanted} == wanted
    chat.open()  # kept with the conversation
    chat.button("Settings").click()
    expect(chat.page.get_by_label("Seed")).to_have_value("12")
    chat.button("Reset").click()
    expect(chat.page.get_by_label("System prompt")).to_have_value("")
    chat.button("Close").click()
    with chat.request("/v1/chat/completions") as sent:
        chat.ask("say Hello")
    assert sent["messages"][0]["role"] == "user"
    assert "seed" not in sent


def test_a_text_is_continued(scripted, open_page, monkeypatch):
    """A model without a format for chats has no other mode."""
    monkeypatch.setattr(ServedModel, "can_chat", False)
    chat = open_page(scripted)
    expect(chat.button("Chat")).to_be_disabled()
    with chat.request("/v1/completions") as sent:
        chat.ask("say Hello=>")
    assert sent["prompt"] == "say Hello=>"
    expect(chat.answer).to_have_text("say Hello=>Hello")
    with chat.request("/v1/completions") as sent:
        chat.button("Continue").click()
    assert sent["prompt"] == "say Hello=>Hello"
    chat.wait_for_the_end()
    chat.button("Look inside").click()
    expect(chat.page.locator("#inside .tokens").first.locator(".token")).to_have_count(5)


def test_two_models_side_by_side(two, open_page):
    chat = open_page(two)
    chat.button("Compare").click()
    expect(chat.page.get_by_label("Second model")).to_have_value("second")
    chat.button("Settings").click()
    chat.page.get_by_label("Most tokens of an answer").fill("20")
    chat.button("Close").click()
    chat.ask("say Hello")
    expect(chat.page.locator(".model")).to_have_text(["tiny", "second"])
    expect(chat.page.locator(".answer .text").first).to_have_text("Hello")
    places = [box.bounding_box() for box in chat.page.locator(".answer").all()]
    assert places[0]["y"] == places[1]["y"]
    assert places[0]["x"] + places[0]["width"] <= places[1]["x"]
    second = chat.page.locator(".answer .text").nth(1).inner_text()
    assert second != "Hello"
    with chat.request("/v1/chat/completions") as sent:
        chat.button("Regenerate").nth(1).click()
    assert sent["model"] == "second"
    chat.wait_for_the_end()
    chat.open()
    expect(chat.page.locator(".model")).to_have_text(["tiny", "second"])
    chat.button("Compare").click()
    expect(chat.page.locator(".answer")).to_have_count(1)
    chat.page.get_by_label("Model", exact=True).select_option("second")
    with chat.request("/v1/chat/completions") as sent:
        chat.ask("say Hi")
    assert sent["model"] == "second"


def shown_percent(logprob):
    value = 100 * pow(2.718281828459045, logprob)
    if value >= 99.95:
        return "> 99.9 %"
    return f"{value:.1f} %" if value >= 10 else f"{value:.2f} %" if value >= 0.01 else "< 0.01 %"


def shown_byte(entry):
    """One byte as the panel shows it."""
    [byte] = entry["bytes"]
    names = {0x20: "␣", 0x0A: "↵", 0x09: "⇥", 0x0D: "␍"}
    if byte >= 0x80:
        return f"0x{byte:02X}"
    return names.get(byte, chr(byte) if 0x20 < byte < 0x7F else f"U+{byte:04X}")


def test_look_inside(tiny, open_page):
    chat = open_page(tiny)
    chat.button("Settings").click()
    chat.page.get_by_label("Seed").fill("3")
    chat.page.get_by_label("Most tokens of an answer").fill("12")
    chat.button("Close").click()
    with chat.request("/v1/chat/completions") as sent:
        chat.ask("Hi")
    body = tiny.post("/v1/chat/completions", **{**sent, "stream": False}).json()
    entries = body["choices"][0]["logprobs"]["content"]
    entries = [each for each in entries if len(each["bytes"]) == 1]
    assert len(entries) == 12
    chat.button("Look inside").click()
    tokens = chat.page.locator("#inside .tokens").first.locator(".token")
    expect(tokens).to_have_count(12)
    for place in (0, 5, 11):
        tokens.nth(place).click()
        entry = entries[place]
        expect(chat.page.locator(".drawn")).to_have_text(
            f"{shown_byte(entry)} was drawn with probability {shown_percent(entry['logprob'])}"
        )
        listed = entry["top_logprobs"]
        if entry["bytes"] not in [each["bytes"] for each in listed]:
            listed = [*listed, entry]
        rows = chat.page.locator(".bars tr")
        expect(rows.locator(".value")).to_have_text([shown_percent(e["logprob"]) for e in listed])
        expect(chat.page.locator(".bars .is-drawn code")).to_have_text(shown_byte(entry))
    expect(tokens.nth(11)).to_have_attribute("aria-pressed", "true")
    tokens.nth(11).press("ArrowLeft")
    expect(tokens.nth(10)).to_be_focused()
    expect(tokens.nth(10)).to_have_attribute("aria-pressed", "true")
    check_attention(chat, sent["messages"], entries, 10)
    chat.page.keyboard.press("Escape")
    expect(chat.button("Look inside")).to_be_focused()


def check_attention(chat, messages, entries, chosen):
    """The weights on the page are those of the model, for the chosen token, layer and head."""
    prompt = chat.served.post("/tokenize", messages=messages).json()["tokens"]
    ids = [*prompt, *(each["bytes"][0] for each in entries)]
    shades = chat.page.locator(".attended .token")
    expect(shades).to_have_count(len(ids))

    def slider(name):
        return chat.page.get_by_role("slider", name=name)

    for layer, head in ((1, 2), (1, 3), (0, 2)):
        with chat.page.expect_response("**/inside/attention") as answered:
            slider("Layer").fill(str(layer))
            slider("Head").fill(str(head))
        asked = answered.value.request.post_data_json
        assert (asked["layer"], asked["head"]) == (layer, head)
        chat.page.wait_for_function(
            "text => document.querySelector('.map').getAttribute('aria-label').endsWith(text)",
            arg=f"layer {layer}, head {head}",
        )
        model = chat.served.answerer.model.engine.model
        row = attention_weights(model, ids, layer, head)[len(prompt) + chosen].tolist()
        found = shades.evaluate_all("all => all.map((each) => Number(each.dataset.weight))")
        assert found == pytest.approx(row, abs=1e-4)
    heat = chat.page.locator(".map")
    heat.click(position={"x": 5, "y": heat.bounding_box()["height"] * 2.5 / len(ids)})
    expect(shades.nth(2)).to_have_class(re.compile("chosen"))
    expect(chat.page.locator(".details")).to_contain_text("A token of the prompt")


def test_attention_of_a_long_text_is_refused_in_words(tiny, open_page):
    chat = open_page(tiny)
    chat.button("Settings").click()
    chat.page.get_by_label("Most tokens of an answer").fill("3")
    chat.button("Close").click()
    chat.ask("x" * 600)
    chat.button("Look inside").click()
    expect(chat.page.locator(".attention [role=status]")).to_contain_text("at most 512")


def test_what_a_model_writes_is_text(scripted, open_page):
    chat = open_page(scripted)
    chat.ask(f"say {EVIL}")
    shown = EVIL.replace("**", "").replace("`", "")
    expect(chat.answer).to_have_text(shown)
    expect(chat.answer.locator("strong")).to_have_text("bold")
    expect(chat.answer.locator("code")).to_have_text("<b>")
    expect(chat.page.locator(".said p")).to_have_text(f"say {EVIL}")
    chat.button("Look inside").click()
    expect(chat.page.locator(".attended .token").first).to_be_visible()
    chat.open()
    for tag in ("img", "a:not(.skip)", "b", "body script"):
        assert chat.page.locator(tag).count() == 0, tag
    assert chat.page.evaluate("typeof hit") == "undefined"
    with pytest.raises(playwright.Error, match="TrustedHTML"):
        chat.page.evaluate("document.body.innerHTML = '<p>'")


def test_markdown_in_answers(scripted, open_page):
    chat = open_page(scripted)
    text = (
        "# Head\n\nOne *two*\n\n- a **b**\n- c\n\n3. d\n\n```python\nx = [1]\n  y *= 2\n```\nlast"
    )
    chat.page.get_by_label("Message", exact=True).fill(f"say {text}")
    chat.button("Send").click()
    expect(chat.answer.locator("pre code")).to_have_text("x = [1]\n  y *= 2")
    chat.wait_for_the_end()
    expect(chat.answer.locator("ul li")).to_have_text(["a b", "c"])
    expect(chat.answer.locator("ol")).to_have_attribute("start", "3")
    expect(chat.answer.locator("p")).to_have_text(["Head", "One two", "last"])
    expect(chat.answer.locator("em")).to_have_text("two")


def test_errors_stand_where_the_answer_would(scripted, open_page):
    chat = open_page(scripted)
    chat.ask("x" * 2000)
    expect(chat.page.locator(".answer [role=alert]")).to_contain_text("context holds 1024: shorten")
    chat.page.route("**/v1/chat/completions", lambda route: route.abort())
    chat.ask("say Hello")
    expect(chat.page.locator(".answer [role=alert]").last).to_contain_text("does not answer")
    chat.page.unroute("**/v1/chat/completions")
    with chat.request("/v1/chat/completions") as sent:
        chat.button("Try again").click()
    assert len(sent["messages"]) == 1, "a turn without an answer is not part of the history"
    expect(chat.answer).to_have_text("Hello")
    expect(chat.page.locator(".answer [role=alert]").last).to_be_hidden()


def test_an_error_in_the_middle_of_an_answer(serve, open_page):
    served = serve()
    chat = open_page(served)
    with served.gate("assistant\nHel") as gate:
        chat.write("say Hello")
        assert gate.reached.wait(30)
        served.forward.error = RuntimeError("broken")
        gate.opened.set()
    expect(chat.page.locator(".answer [role=alert]")).to_contain_text("engine has failed")
    expect(chat.answer).to_have_text(re.compile("^Hell?$"))


def test_the_key_is_asked_for(serve, open_page):
    served = serve(limits=ServerSettings(api_key="sésame"))
    chat = open_page(served, is_open=False)
    chat.page.goto(served.url)
    field = chat.page.get_by_label("API key")
    expect(field).to_be_focused()
    field.fill("wrong")
    chat.page.keyboard.press("Enter")
    expect(chat.page.locator("#key-wrong")).to_be_visible()
    field.fill("sésame")
    chat.page.keyboard.press("Enter")
    chat.page.wait_for_selector("body[data-ready]")
    chat.ask("say Hello")
    expect(chat.answer).to_have_text("Hello")
    chat.open()  # without another question
    assert "sésame" not in chat.page.evaluate("JSON.stringify(localStorage)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(two, open_page, scheme):
    chat = open_page(two, color_scheme=scheme)
    chat.button("Compare").click()
    chat.ask("say `code` **bold**")
    chat.ask("x" * 2000)
    chat.button("Look inside").last.click()
    expect(chat.page.locator(".map")).to_be_visible()
    for _ in range(2):
        worst = chat.page.evaluate(CONTRASTS)
        assert len(worst) > 40
        assert worst[0][0] >= LEAST_CONTRAST, worst[:5]
        chat.button("Settings").click()
    ground = chat.page.evaluate("getComputedStyle(document.body).backgroundColor")
    red = int(re.search(r"\d+", ground)[0])
    assert red < 40 if scheme == "dark" else red > 240


def test_a_phone(two, open_page):
    size = {"width": MAX_WIDTH, "height": 700}
    chat = open_page(two, viewport=size, has_touch=True, is_mobile=True)

    def is_narrow():
        assert chat.page.evaluate(TOO_WIDE, MAX_WIDTH) == []
        assert chat.page.evaluate("document.scrollingElement.scrollWidth") <= MAX_WIDTH

    is_narrow()
    chat.button("Compare").tap()
    chat.ask("say " + "long" * 40 + "\n```\n" + "code " * 40 + "\n```")
    is_narrow()
    chat.button("Chats").tap()
    is_narrow()
    chat.button("New conversation").first.tap()
    expect(chat.page.locator("nav")).to_be_hidden()
    chat.ask("say Hello")
    chat.button("Look inside").first.tap()
    expect(chat.page.locator(".map")).to_be_visible()
    is_narrow()
    chat.button("Close").tap()
    chat.button("Settings").tap()
    is_narrow()


def test_without_a_mouse(scripted, open_page):
    chat = open_page(scripted)
    chat.ask("say Hello")
    names = set()
    for _ in range(25):
        chat.page.keyboard.press("Tab")
        names.add(
            chat.page.evaluate(
                "(document.activeElement.labels?.[0] ?? document.activeElement).textContent.trim()"
            )
        )
    wanted = {"New conversation", "Compare", "Chat", "Continue text", "Settings", "Look inside"}
    assert wanted | {"Regenerate", "Copy", "Edit", "Rename", "Delete", "Send"} <= names
    unnamed = chat.page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, textarea")]
          .filter((each) => !each.textContent.trim() && !each.labels?.length
            && !each.getAttribute("aria-label")).map((each) => each.outerHTML)"""
    )
    assert unnamed == []


def test_many_requests_at_a_time_are_refused_in_words(serve, open_page):
    served = serve(limits=ServerSettings(max_requests=1), batch=BatchSettings(max_running=1))
    chat = open_page(served)
    with served.gate("say slow") as gate:
        chat.write("say slow")
        assert gate.reached.wait(30)
        chat.button("New conversation").first.click()
        chat.ask("say Hello")
        expect(chat.page.locator(".answer [role=alert]")).to_contain_text("Too many requests")
        gate.opened.set()
    chat.page.locator(".name", has_text="say slow").click()
    expect(chat.answer).to_have_text("slow")
