#!/usr/bin/env python3
"""The page at /, in a headless Chromium, with the demo model behind it. Skipped, loudly, where either is missing.

usage: page_test.py [--screenshots FOLDER]    (only makes the pictures: desktop and phone, light and dark)
"""

import json
import os
import sys
import tempfile
import time
import unittest

from http_server import Server, skip
from page_browser import Browser, find_browser

CACHE = os.environ.get("HERD_CACHE", ".cache")
DATA = os.environ.get("HERD_TEST_DATA", "tests/data")
MODEL = os.path.join(CACHE, "SmolLM2-135M-Instruct.Q4_1.gguf")
TINY = os.path.join(DATA, "tiny-mha-Q4_K_M.gguf")
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
FLAGS = ("--alias", "SmolLM2-135M-Instruct", "--context", "2048", "--batch-size", "16", "--kv-tokens", "16384")
LAST = "#log .assistant:last-of-type"

# Fields and buttons without a name that a screen reader could say; ids used twice.
NAMELESS = """[...document.querySelectorAll('input, textarea, select, button, [role=log], [role=group]')].filter((e) =>
  !(e.labels?.length && e.labels[0].textContent.trim()) && !e.getAttribute('aria-label') &&
  !(e.tagName === 'BUTTON' && e.textContent.trim())).map((e) => e.id)"""
TWICE = """[...document.querySelectorAll('[id]')].map((e) => e.id).filter((id, i, all) => all.indexOf(id) !== i)"""
DANGLING = """[...document.querySelectorAll('[aria-labelledby], [aria-describedby], label[for]')].flatMap((e) =>
  ['aria-labelledby', 'aria-describedby', 'for'].map((a) => e.getAttribute(a)).filter((id) =>
    id && !document.getElementById(id)))"""
# Contrast of what is written against what is behind it, as WCAG counts it: the words below 4.5.
PALE = """(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (c) => c.slice(0, 3).map((v) => v / 255).map((v) =>
    v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll('body *')].filter((e) => e.checkVisibility() && !e.disabled &&
    [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())).filter((e) => {
      const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
      return !((a + 0.05) / (b + 0.05) >= 4.5);
    }).map((e) => e.textContent.slice(0, 30));
})()"""


def ask(server, messages, headers=None, **fields):
    body = {"messages": messages, "temperature": 0, "max_tokens": 24, **fields}
    status, answer = server.post("/v1/chat/completions", body, headers)
    assert status == 200, answer
    return answer["choices"][0]["message"]["content"]


def settings(browser, **values):
    browser.evaluate("document.querySelector('#settings').open = true")
    for name, value in values.items():
        browser.type(f"#{name.replace('_', '-')}", str(value))


def say(browser, text):
    """Types a message, presses Enter."""
    browser.type("#prompt", text)
    browser.press("Enter")


def answered(browser, state="done"):
    browser.wait_for(f"document.querySelector('{LAST}')?.dataset.state === '{state}'")
    return browser.text(f"{LAST} .text")


def run_check(browser):
    browser.click("#check-run")
    return browser.wait_for("!document.querySelector('#check-run').disabled && "
                            "document.querySelector('#verdict').dataset.state")


class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(MODEL, *FLAGS)
        cls.browser = Browser(BROWSER)

    @classmethod
    def tearDownClass(cls):
        cls.browser.close()
        cls.server.__exit__()

    def setUp(self):
        self.browser.problems.clear()
        self.browser.requests.clear()
        self.browser.look(1280, 800, "light")
        self.browser.open(self.server.url + "/?" + self.id())
        self.browser.wait_for("document.querySelector('#state').dataset.state === 'up'")

    def tearDown(self):
        self.assertEqual(self.browser.problems, [])
        strangers = [url for url in self.browser.requests if not url.startswith((self.server.url + "/", "data:"))]
        self.assertEqual(strangers, [])

    def test_is_small_and_lets_nothing_else_run(self):
        status, headers, text = self.server.get("/")
        self.assertEqual(status, 200)
        self.assertLess(len(text.encode()), 40_000)
        policy = headers["Content-Security-Policy"]
        self.assertIn("default-src 'none'", policy)
        self.assertNotIn("unsafe", policy)
        with self.assertRaisesRegex(RuntimeError, "TrustedHTML"):
            self.browser.evaluate("document.body.innerHTML = '<b>x</b>'")
        self.assertTrue(self.browser.problems)  # the browser said so
        self.browser.problems.clear()

    def test_a_streamed_answer_equals_the_api(self):
        settings(self.browser, temperature=0, max_tokens=24)
        history = [{"role": "user", "content": "Name three colours."}]
        say(self.browser, "Name three colours.")
        first = answered(self.browser)
        self.assertEqual(first, ask(self.server, history))
        self.assertIn("24 tokens", self.browser.text(f"{LAST} .facts"))
        history += [{"role": "assistant", "content": first}, {"role": "user", "content": "And two more?"}]
        say(self.browser, "And two more?")
        self.browser.wait_for("document.querySelectorAll('#log .assistant').length === 2")
        self.assertEqual(answered(self.browser), ask(self.server, history))
        self.browser.click("#new")
        self.assertEqual(self.browser.evaluate("document.querySelectorAll('#log .message').length"), 0)

    def test_settings_are_sent(self):
        settings(self.browser, system="You are a pirate.", temperature=0.8, max_tokens=12, seed=7)
        say(self.browser, "Hello")
        messages = [{"role": "system", "content": "You are a pirate."}, {"role": "user", "content": "Hello"}]
        self.assertEqual(answered(self.browser), ask(self.server, messages, temperature=0.8, max_tokens=12, seed=7))
        self.assertIn("seed 7", self.browser.text(f"{LAST} .facts"))
        settings(self.browser, temperature=9)
        say(self.browser, "Hello again")
        self.assertFalse(self.browser.evaluate("document.querySelector('#temperature').checkValidity()"))
        self.assertEqual(self.browser.evaluate("document.querySelectorAll('#log .user').length"), 1)

    def test_text_is_never_html(self):
        planted = "<img src=x onerror=alert(1)><b>bold</b>"
        settings(self.browser, temperature=0, max_tokens=4)
        say(self.browser, planted)
        answered(self.browser)
        self.assertEqual(self.browser.text("#log .user .text"), planted)
        self.browser.evaluate("showTokens([{token: '<i>x</i>', logprob: -1}], null)")
        self.assertEqual(self.browser.text("#tokens"), "<i>x</i>")
        self.assertEqual(self.browser.evaluate("document.querySelectorAll('main img, main i, main b:not([id])').length"),
                         0)

    def test_stop_keeps_what_came_and_frees_the_server(self):
        settings(self.browser, temperature=0, max_tokens=1500)
        for stop in (lambda: self.browser.click("#stop"), lambda: self.browser.press("Escape")):
            say(self.browser, "Write a long story about a ship.")
            self.browser.wait_for(f"document.querySelector('{LAST} .text')?.textContent.length > 30")
            stop()
            text = answered(self.browser, "stopped")
            self.assertTrue(self.server.wait_for(lambda: self.server.stats()["running"] == 0, 10))
            whole = ask(self.server, [{"role": "user", "content": "Write a long story about a ship."}], max_tokens=100)
            self.assertTrue(whole.startswith(text[:200]), (text, whole))
            self.assertTrue(self.browser.evaluate("document.querySelector('#stop').hidden"))
            self.browser.click("#new")

    def test_a_new_chat_forgets_the_old_one(self):
        settings(self.browser, temperature=0, max_tokens=1500)
        say(self.browser, "Write a long story about a ship.")
        self.browser.wait_for(f"document.querySelector('{LAST} .text')?.textContent.length > 10")
        self.browser.click("#new")
        self.browser.wait_for("!document.querySelector('#send').hidden")
        settings(self.browser, max_tokens=12)
        say(self.browser, "Hello")
        self.assertEqual(answered(self.browser), ask(self.server, [{"role": "user", "content": "Hello"}], max_tokens=12))

    def test_refusals_are_said_in_words(self):
        body = json.dumps({"error": {"message": "too many requests wait"}})
        said = self.browser.evaluate(
            f"refusal(new Response({body!r}, {{status: 503, headers: {{'Retry-After': '3'}}}})).then((e) => e.message)")
        self.assertEqual(said, "too many requests wait (again in 3 s)")
        said = self.browser.evaluate("refusal(new Response('<html>', {status: 502})).then((e) => e.message)")
        self.assertEqual(said, "The server answered 502.")
        for text, why in (("data: {\"error\": {\"message\": \"shutting down\"}}\n\n", "shutting down"),
                          ("data: {}\n\n", "The stream ended before the answer did.")):
            said = self.browser.evaluate(
                "(async () => { try { for await (const e of readEvents(new Response(" + json.dumps(text) + "))); }"
                " catch (error) { return error.message; } })()")
            self.assertEqual(said, why)

    def test_same_answer_alone_and_together(self):
        settings(self.browser, temperature=0.9, seed=11)
        self.browser.type("#others", "7")
        self.browser.type("#check-tokens", "24")
        self.assertEqual(run_check(self.browser), "equal", self.browser.text("#verdict"))
        verdict = self.browser.text("#verdict")
        self.assertRegex(verdict, r"^Equal: 24 tokens, .* Alone, then with up to [5-8] requests running\.$")
        self.assertEqual(self.browser.evaluate("document.querySelectorAll('#tokens .equal').length"), 24)
        body = [{"role": "user", "content": "Why is the sky blue?"}]
        self.assertEqual(self.browser.text("#tokens"), ask(self.server, body, temperature=0.9, seed=11))
        self.assertTrue(self.server.wait_for(lambda: self.server.stats()["running"] == 0, 10))

    def test_a_difference_is_shown(self):
        """One bit of one log-probability of the second answer, changed on its way."""
        self.browser.evaluate("""{
          const real = streamChat;
          let calls = 0;
          streamChat = async (...all) => {
            const answer = await real(...all);
            if (++calls === 2) answer.tokens[3].logprob *= 1 + 2 ** -50;
            return answer;
          };
        }""")
        self.browser.type("#check-tokens", "8")
        self.assertEqual(run_check(self.browser), "different")
        self.assertIn("Different at token 4: alone ", self.browser.text("#verdict"))
        self.assertEqual(self.browser.evaluate("document.querySelectorAll('#tokens .equal').length"), 3)
        same = "{text: 'ab', finish: 'stop', tokens: [{token: 'ab', logprob: -1}]}"
        for changed, what in (("text: 'ac'", "the text"), ("finish: 'length'", "the end"), ("tokens: []", "token 1")):
            seen = self.browser.evaluate(f"firstDifference({same}, {{...{same}, {changed}}}).what")
            self.assertTrue(seen.startswith(what), seen)
        self.assertIsNone(self.browser.evaluate(f"firstDifference({same}, {same})"))

    def test_the_batch_is_shown_while_it_works(self):
        settings(self.browser, temperature=0, max_tokens=1500)
        say(self.browser, "Write a long story about a ship.")
        self.browser.wait_for("Number(document.querySelector('#running').textContent) === 1")
        self.browser.wait_for("Number(document.querySelector('#rate').textContent) > 0")
        self.browser.wait_for("Number(document.querySelector('#pages-used').textContent) > 0")
        self.browser.press("Escape")
        self.browser.wait_for("Number(document.querySelector('#running').textContent) === 0")
        pages = [int(self.browser.text(f"#pages-{name}")) for name in ("used", "cached", "free")]
        self.assertEqual(sum(pages), self.server.stats()["pages"]["total"])
        self.assertGreater(len(self.browser.evaluate("document.querySelector('#rate-plot .line').getAttribute('d')")), 9)

    def test_nothing_is_asked_while_hidden(self):
        hide = "Object.defineProperty(document, 'hidden', {{value: {}, configurable: true}}); " \
               "document.dispatchEvent(new Event('visibilitychange'))"
        polls = lambda: sum(url.endswith("/stats") for url in self.browser.requests)
        self.browser.wait_for("plots.rows.values.length >= 2")
        self.browser.evaluate(hide.format("true"))
        time.sleep(0.5)  # one may be on its way
        self.browser.evaluate("1")
        before = polls()
        time.sleep(2.5)
        self.browser.evaluate("1")
        self.assertEqual(polls(), before)
        self.browser.evaluate(hide.format("false"))
        count = self.browser.evaluate("plots.rows.values.length")
        self.browser.wait_for(f"plots.rows.values.length > {count}", 5)

    def test_names_contrast_and_width(self):
        settings(self.browser, max_tokens=12)
        self.browser.type("#check-tokens", "8")
        say(self.browser, "Hello")
        answered(self.browser)
        run_check(self.browser)
        self.browser.evaluate("document.querySelector('#settings').open = true")
        self.assertEqual(self.browser.evaluate("document.documentElement.lang"), "en")
        for query in (NAMELESS, TWICE, DANGLING):
            self.assertEqual(self.browser.evaluate(query), [])
        for width, height in ((1280, 800), (360, 700)):
            for scheme in ("light", "dark"):
                self.browser.look(width, height, scheme)
                self.assertEqual(self.browser.evaluate(PALE), [], (width, scheme))
                self.assertLessEqual(self.browser.evaluate("document.documentElement.scrollWidth"), width)

    def test_the_keyboard_reaches_everything(self):
        self.assertEqual(self.browser.evaluate("document.activeElement.id"), "prompt")
        seen = []
        for _ in range(14):
            self.browser.press("Tab")
            seen.append(self.browser.evaluate("document.activeElement.id || document.activeElement.tagName"))
        for name in ("send", "check-prompt", "others", "check-tokens", "check-run"):
            self.assertIn(name, seen)


class Errors(unittest.TestCase):
    """What goes wrong is said in words. The browser logs refused requests, so problems are expected here."""

    def setUp(self):
        self.files = tempfile.TemporaryDirectory()
        with open(os.path.join(self.files.name, "t.jinja"), "w") as file:
            file.write(TEMPLATE)
        with open(os.path.join(self.files.name, "keys"), "w") as file:
            file.write("the-key\n")
        self.template = ("--chat-template", os.path.join(self.files.name, "t.jinja"))
        self.browser = Browser(BROWSER)

    def tearDown(self):
        self.browser.close()
        self.files.cleanup()

    def test_a_server_with_keys(self):
        with Server(TINY, *self.template, "--api-key-file", os.path.join(self.files.name, "keys")) as server:
            self.browser.open(server.url)
            self.browser.wait_for("!document.querySelector('#key-row').hidden")
            self.assertEqual(self.browser.text("#state"), "API key wanted")
            say(self.browser, "Hello")
            error = self.browser.wait_for("document.querySelector('#chat-error').textContent")
            self.assertEqual(error, "the API key is missing or wrong")
            self.assertEqual(self.browser.evaluate("document.querySelector('#prompt').value"), "Hello")
            self.browser.type("#key", "the-key")
            self.browser.press("Tab")
            self.browser.wait_for("document.querySelector('#state').dataset.state === 'up'")
            settings(self.browser, temperature=0, max_tokens=6)
            say(self.browser, "Hello")
            expected = ask(server, [{"role": "user", "content": "Hello"}], {"Authorization": "Bearer the-key"},
                           max_tokens=6)
            self.assertEqual(answered(self.browser), expected)
            self.assertTrue(self.browser.evaluate("document.querySelector('#chat-error').hidden"))

    def test_no_template_and_no_server(self):
        with Server(TINY) as server:
            self.browser.open(server.url)
            say(self.browser, "Hello")
            error = self.browser.wait_for("document.querySelector('#chat-error').textContent")
            self.assertIn("this model cannot chat", error)
            self.assertEqual(run_check(self.browser), "failed")
            self.assertIn("this model cannot chat", self.browser.text("#verdict"))
            server.stop()
            say(self.browser, "Hello")
            self.browser.wait_for("document.querySelector('#chat-error').textContent === 'The server cannot be reached.'")
            self.browser.wait_for("document.querySelector('#state').dataset.state === 'down'")


def take_screenshots(folder):
    with Server(MODEL, *FLAGS) as server:
        browser = Browser(BROWSER)
        browser.look(1280, 800, "light")
        browser.open(server.url)
        settings(browser, temperature=0, max_tokens=160)
        browser.evaluate("document.querySelector('#settings').open = false")
        for count, text in enumerate(["What is a hash table, in one sentence?", "Name three fruits."], 1):
            say(browser, text)
            browser.wait_for(f"document.querySelectorAll('#log .assistant').length === {count}")
            answered(browser)
        run_check(browser)
        browser.evaluate("void keepCompany(otherPrompts(20, 0), 2000, AbortSignal.timeout(60000)).catch(() => {})")
        browser.wait_for("Number(document.querySelector('#running').textContent) === 16")
        time.sleep(8)
        for name, width, height in (("page", 1280, 800), ("phone", 390, 844)):
            for scheme in ("light", "dark"):
                browser.look(width, height, scheme)
                browser.evaluate("document.querySelector('#log').scrollTop = 1e6")
                time.sleep(1.5)
                browser.screenshot(os.path.join(folder, f"{name}-{scheme}.png"), whole=name == "phone")
        browser.evaluate("document.querySelector('#settings').open = true; scrollTo(0, 0)")
        browser.screenshot(os.path.join(folder, "phone-settings.png"))
        browser.look(1280, 800, "dark")
        browser.screenshot(os.path.join(folder, "page-settings.png"))
        print(json.dumps(browser.problems))
        browser.close()


if __name__ == "__main__":
    BROWSER, why = find_browser()
    if BROWSER is None:
        skip(f"the page is not tested: {why}")
    if not os.path.exists(MODEL):
        skip(f"the page is not tested: no {MODEL}")
    if sys.argv[1:2] == ["--screenshots"]:
        take_screenshots(sys.argv[2])
    else:
        unittest.main()
