#!/usr/bin/env python3
"""OpenAI's own Python client against herd serve. Skipped, loudly, where the client is not installed
(scripts/test installs it into .cache/openai)."""

import os
import sys
import tempfile
import unittest

from http_server import Server, skip

CLIENT = os.path.join(os.environ.get("HERD_CACHE", ".cache"), "openai", "bin", "python")
try:
    import openai
except ImportError:
    if os.path.exists(CLIENT) and os.environ.get("HERD_REEXECUTED") is None:
        os.environ["HERD_REEXECUTED"] = "1"
        os.execv(CLIENT, [CLIENT, "-B", *sys.argv])
    skip("the openai client is not installed; scripts/test installs it")

TINY = os.path.join(os.environ["HERD_TEST_DATA"], "tiny-mha-Q4_K_M.gguf")
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
HELLO = [{"role": "user", "content": "Hello"}]


class Client(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.template = tempfile.NamedTemporaryFile("w", suffix=".jinja")
        cls.template.write(TEMPLATE)
        cls.template.flush()
        cls.keys = tempfile.NamedTemporaryFile("w")
        cls.keys.write("the-key\n")
        cls.keys.flush()
        flags = ("--alias", "tiny", "--chat-template", cls.template.name, "--api-key-file", cls.keys.name)
        cls.server = Server(TINY, *flags).__enter__()
        cls.client = openai.OpenAI(base_url=cls.server.url + "/v1", api_key="the-key", max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.server.__exit__()
        cls.template.close()
        cls.keys.close()

    def test_models(self):
        models = list(self.client.models.list())
        self.assertEqual([model.id for model in models], ["tiny"])
        self.assertEqual(models[0].object, "model")

    def test_completions(self):
        seen = self.client.completions.create(
            model="tiny", prompt=["one", "two"], max_tokens=6, n=2, temperature=0, logprobs=2, echo=True,
            stop=["zzzz"], seed=3, presence_penalty=0.5, frequency_penalty=0.5, logit_bias={"5": -50}, user="u")
        self.assertEqual(seen.object, "text_completion")
        self.assertEqual([choice.index for choice in seen.choices], [0, 1, 2, 3])
        for choice in seen.choices:
            self.assertIn(choice.finish_reason, ("length", "stop"))
            self.assertTrue(choice.text.startswith("one" if choice.index < 2 else "two"))
            logprobs = choice.logprobs
            self.assertIsNone(logprobs.token_logprobs[0])
            self.assertEqual(len(logprobs.tokens), len(logprobs.token_logprobs))
            self.assertEqual(len(logprobs.tokens), len(logprobs.text_offset))
        usage = seen.usage
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)

    def test_completion_stream(self):
        request = {"model": "tiny", "prompt": "one", "max_tokens": 12, "temperature": 0}
        whole = self.client.completions.create(**request)
        chunks = list(self.client.completions.create(**request, stream=True, stream_options={"include_usage": True}))
        self.assertEqual("".join(c.choices[0].text for c in chunks if c.choices), whole.choices[0].text)
        self.assertEqual(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)
        self.assertEqual({chunk.id for chunk in chunks}, {chunks[0].id})

    def test_chat(self):
        seen = self.client.chat.completions.create(
            model="tiny", messages=HELLO, max_completion_tokens=7, temperature=0, logprobs=True, top_logprobs=3)
        choice = seen.choices[0]
        self.assertEqual(seen.object, "chat.completion")
        self.assertEqual(choice.message.role, "assistant")
        self.assertGreater(seen.usage.completion_tokens, 0)
        self.assertEqual(len(choice.logprobs.content), seen.usage.completion_tokens)
        for token in choice.logprobs.content:
            self.assertEqual(len(token.top_logprobs), 3)
            self.assertGreaterEqual(token.top_logprobs[0].logprob, token.logprob)
            self.assertIsInstance(token.bytes, list)

    def test_chat_stream(self):
        request = {"model": "tiny", "messages": HELLO, "max_tokens": 12, "temperature": 0}
        whole = self.client.chat.completions.create(**request).choices[0]
        chunks = list(self.client.chat.completions.create(**request, stream=True))
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual("".join(c.choices[0].delta.content or "" for c in chunks), whole.message.content)
        self.assertEqual(chunks[-1].choices[0].finish_reason, whole.finish_reason)

    def test_chat_stream_with_logprobs_and_choices(self):
        chunks = list(self.client.chat.completions.create(
            model="tiny", messages=HELLO, max_tokens=5, temperature=0, n=2, logprobs=True, stream=True))
        for index in (0, 1):
            mine = [c.choices[0] for c in chunks if c.choices[0].index == index]
            tokens = [token for choice in mine if choice.logprobs for token in choice.logprobs.content]
            self.assertGreaterEqual(len(tokens), 1)
            self.assertEqual(sum(choice.finish_reason is not None for choice in mine), 1)

    def test_errors(self):
        create = self.client.completions.create
        with self.assertRaises(openai.NotFoundError) as caught:
            create(model="other", prompt="x")
        self.assertEqual(caught.exception.code, "model_not_found")
        with self.assertRaises(openai.BadRequestError) as caught:
            create(model="tiny", prompt="x", n=99)
        self.assertEqual((caught.exception.param, caught.exception.type), ("n", "invalid_request_error"))
        with self.assertRaises(openai.BadRequestError) as caught:
            create(model="tiny", prompt="x " * 5000)
        self.assertEqual(caught.exception.code, "context_length_exceeded")
        stranger = openai.OpenAI(base_url=self.server.url + "/v1", api_key="wrong", max_retries=0)
        with self.assertRaises(openai.AuthenticationError):
            stranger.completions.create(model="tiny", prompt="x")
        stranger.close()

    def test_leaving_a_stream(self):
        stream = self.client.completions.create(
            model="tiny", prompt="x", max_tokens=1500, stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
        key = {"Authorization": "Bearer the-key"}
        self.assertTrue(self.server.wait_for(lambda: '"running":0' in self.server.get("/stats", key)[2], 5))


if __name__ == "__main__":
    unittest.main()
