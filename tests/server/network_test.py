#!/usr/bin/env python3
"""herd serve over sockets: limits, clients that leave or stall, the end. Rules by their numbers in
docs/server.md. Standard library only; the model is a tiny one from tests/data."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from http_server import HERD, Server, completion_bytes, events, read_all

DATA = os.environ["HERD_TEST_DATA"]
TINY = os.path.join(DATA, "tiny-mha-Q4_K_M.gguf")
LONG = {"prompt": "x", "max_tokens": 1500, "ignore_eos": True, "seed": 1}
SLOW = ("--device", "reference")  # a device whose streams last long enough to be interrupted


def body_of(reply):
    return reply.partition(b"\r\n\r\n")[2]


def status_of(reply):
    return int(reply.split(b" ", 2)[1]) if reply else 0


class OneServer(unittest.TestCase):
    """Tests that share a server with default limits."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server(TINY).__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()

    def send(self, data):
        with self.server.raw() as connection:
            connection.sendall(data)
            return read_all(connection)

    def test_answers_equal_herd_generate(self):
        prompts = ["Once upon a time", "x", "The quick brown fox", "é\n\n"]
        command = [HERD, "generate", "-m", TINY, "--json", "-n", "24", "--temperature", "0.8", "--seed", "5"]
        for prompt in prompts:
            command += ["-p", prompt]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        expected = [json.loads(line) for line in lines]
        body = {"prompt": prompts, "max_tokens": 24, "temperature": 0.8, "seed": 5, "return_token_ids": True}
        status, seen = self.server.post("/v1/completions", body)
        self.assertEqual(status, 200, seen)
        for choice, line in zip(seen["choices"], expected, strict=True):
            self.assertEqual(choice["prompt_token_ids"], line["prompt_ids"])
            self.assertEqual(choice["token_ids"], line["ids"])
            self.assertEqual(choice["text"], line["text"])
            self.assertEqual(choice["finish_reason"], line["finish_reason"])

    def test_scores_do_not_depend_on_the_batch(self):
        """What lm-evaluation-harness sends for a log-likelihood: ids, echo, logprobs, max_tokens 1."""
        rng = random.Random(4)
        contexts = [[1] + [rng.randrange(3, 384) for _ in range(rng.randrange(2, 40))] for _ in range(16)]
        body = {"max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0, "seed": 1234}

        def scores(prompts):
            status, seen = self.server.post("/v1/completions", {**body, "prompt": prompts})
            self.assertEqual(status, 200, seen)
            out = []
            for choice, ids in zip(sorted(seen["choices"], key=lambda c: c["index"]), prompts, strict=True):
                logprobs = choice["logprobs"]
                self.assertEqual(len(logprobs["token_logprobs"]), len(ids) + 1)
                values = logprobs["token_logprobs"][len(ids) - 2 : -1]
                tops = logprobs["top_logprobs"][len(ids) - 2 : -1]
                greedy = all(value == max(top.values()) for value, top in zip(values, tops, strict=True))
                out.append((sum(values), greedy))
            return out

        alone = [scores([ids])[0] for ids in contexts]
        self.assertEqual(scores(contexts), alone)

    def test_keeps_connections_and_their_order(self):
        first = completion_bytes({"prompt": "one", "max_tokens": 3, "temperature": 0})
        second = completion_bytes({"prompt": "two", "max_tokens": 3, "stream": True, "temperature": 0})
        last = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        reply = self.send(first + second + last)
        self.assertEqual(reply.count(b"HTTP/1.1 200 OK"), 3)
        self.assertLess(reply.index(b"text_completion"), reply.index(b"data: [DONE]"))
        self.assertLess(reply.index(b"data: [DONE]"), reply.index(b'"status":"ok"'))

    def test_a_refusal_keeps_the_connection(self):
        wrong = completion_bytes({"prompt": "x", "model": "other"})
        nowhere = completion_bytes({"prompt": "x"}, path="/v1/nothing")
        last = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        reply = self.send(nowhere + wrong + last)
        self.assertEqual([int(x) for x in re.findall(rb"HTTP/1.1 (\d+)", reply)], [404, 404, 200])

    def test_http_1_0_streams_until_it_closes(self):
        reply = self.send(completion_bytes({"prompt": "x", "max_tokens": 4, "stream": True}, version="1.0"))
        self.assertNotIn(b"Transfer-Encoding", reply)
        self.assertEqual(events(body_of(reply).decode())[-1], "[DONE]")

    def test_s8_headers(self):
        for size, status in ((15_000, 200), (17_000, 431)):
            reply = self.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: "
                              + b"x" * size + b"\r\n\r\n")
            self.assertEqual(status_of(reply), status)
            self.assertIn(b"Connection: close", reply)

    def test_s8_bodies(self):
        reply = self.send(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n")
        self.assertEqual(status_of(reply), 413, "before any of it is read")
        status, seen = self.server.post("/v1/completions", {"prompt": "x" * 1_000_000})
        self.assertEqual((status, seen["error"]["code"]), (400, "context_length_exceeded"))

    def test_expect_100_continue(self):
        data = completion_bytes({"prompt": "x", "max_tokens": 1}, ["Expect: 100-continue", "Connection: close"])
        head, _, body = data.partition(b"\r\n\r\n")
        with self.server.raw() as connection:
            connection.sendall(head + b"\r\n\r\n")
            self.assertEqual(connection.recv(100), b"HTTP/1.1 100 Continue\r\n\r\n")
            connection.sendall(body)
            self.assertEqual(status_of(read_all(connection)), 200)

    def test_any_bytes(self):
        rng = random.Random(8)
        good = completion_bytes({"prompt": "x", "max_tokens": 1}, ["Connection: close"])
        for _ in range(150):
            data = bytearray(good)
            for _ in range(rng.randrange(1, 8)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            with self.server.raw() as connection:
                connection.sendall(data[: rng.randrange(len(data))] if rng.random() < 0.3 else data)
                connection.shutdown(socket.SHUT_WR)
                read_all(connection)
        self.assertEqual(self.server.get("/health")[0], 200)

    def test_s16_whoever_leaves_is_cancelled(self):
        neighbour = {}

        def ask():
            neighbour["seen"] = self.server.post("/v1/completions", LONG)

        alone = self.server.post("/v1/completions", LONG)[1]["choices"][0]["text"]
        thread = threading.Thread(target=ask)
        thread.start()
        for stream in (True, False):
            for n in (1, 8):
                with self.server.raw() as connection:
                    connection.sendall(completion_bytes({**LONG, "n": n, "stream": stream}))
                    if stream:
                        connection.recv(10)
        thread.join()
        self.assertEqual(neighbour["seen"][1]["choices"][0]["text"], alone)
        self.assertTrue(self.server.wait_for(lambda: self.server.stats()["pages"]["used"] == 0, 1))
        pages = self.server.stats()["pages"]
        self.assertEqual(pages["free"] + pages["cached"], pages["total"])
        self.assertGreaterEqual(self.server.metric('herd_cancels_total{reason="disconnect"}'), 3)

    def test_no_cors_and_no_other_origins(self):
        status, headers, _ = self.server.request("OPTIONS", "/v1/completions", headers={
            "Origin": "http://evil.example", "Access-Control-Request-Method": "POST"})
        self.assertEqual(status, 403)
        self.assertFalse([name for name in headers if name.lower().startswith("access-control")])
        self.assertEqual(self.server.get("/health", {"Host": "evil.example"})[0], 403)

    def test_s13_one_socket_listens_on_loopback(self):
        inodes = set()
        folder = f"/proc/{self.server.process.pid}/fd"
        for name in os.listdir(folder):
            try:
                target = os.readlink(os.path.join(folder, name))
            except FileNotFoundError:
                continue  # a connection of the test before, closed since it was listed
            match = re.match(r"socket:\[(\d+)\]", target)
            if match:
                inodes.add(match.group(1))
        rows = []
        for table in ("tcp", "tcp6", "udp", "udp6"):
            with open(f"/proc/net/{table}") as file:
                rows += [line.split() for line in file.readlines()[1:]]
        mine = [row for row in rows if row[9] in inodes]
        listening = [row for row in mine if row[3] in ("0A", "07")]
        self.assertEqual([row[1] for row in listening], [f"0100007F:{self.server.port:04X}"])
        self.assertTrue(all(row[1].endswith(f":{self.server.port:04X}") for row in mine), "S11: nothing goes out")


class Limits(unittest.TestCase):
    def test_s8_times(self):
        flags = ("--header-time", "0.3", "--body-time", "0.5", "--idle-time", "0.6")
        with Server(TINY, *flags) as server:
            def send_and_wait(data):
                with server.raw() as connection:
                    start = time.monotonic()
                    connection.sendall(data)
                    reply = read_all(connection)
                    return status_of(reply), time.monotonic() - start
            self.assertEqual(send_and_wait(b"GET /health HTTP/1.1\r\n")[0], 408)
            self.assertEqual(send_and_wait(b"")[0], 0)
            status, _ = send_and_wait(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
            self.assertEqual(status, 408)
            status, seconds = send_and_wait(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertEqual(status, 200)
            self.assertGreater(seconds, 0.5)
            self.assertLess(seconds, 5)

    def test_connections(self):
        with Server(TINY, "--max-connections", "3") as server:
            held = [server.raw() for _ in range(3)]
            time.sleep(0.2)
            with server.raw() as connection:
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                reply = read_all(connection)
            self.assertEqual(status_of(reply), 503)
            self.assertIn(b"Retry-After", reply)
            for connection in held:
                connection.close()
            self.assertTrue(server.wait_for(lambda: server.get("/health")[0] == 200))

    def test_s17_the_queue(self):
        with Server(TINY, *SLOW, "--max-queue", "2", "--batch-size", "1") as server:
            seen, lock = [], threading.Lock()

            def ask():
                reply = server.request("POST", "/v1/completions", {"prompt": "x", "max_tokens": 40, "ignore_eos": True})
                with lock:
                    seen.append(reply)

            threads = [threading.Thread(target=ask) for _ in range(12)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            statuses = sorted({status for status, _, _ in seen})
            self.assertEqual(statuses, [200, 503])
            for status, headers, body in seen:
                if status == 503:
                    self.assertGreaterEqual(int(headers["Retry-After"]), 1)
                    self.assertEqual(json.loads(body)["error"]["type"], "server_error")

    def test_a_slow_reader_is_cancelled_alone(self):
        with Server(TINY, "--slow-reader", "0.5") as server:
            slow = socket.socket()
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", server.port))
            slow.sendall(completion_bytes({**LONG, "n": 4, "logprobs": 20, "stream": True}))
            slow.recv(10)
            self.assertEqual(server.post("/v1/completions", LONG)[0], 200)
            self.assertTrue(server.wait_for(lambda: server.metric("herd_connections") <= 1, 15))
            self.assertTrue(server.wait_for(lambda: server.stats()["pages"]["used"] == 0, 2))
            slow.close()

    def test_s12_keys_and_addresses(self):
        with tempfile.NamedTemporaryFile("w") as keys:
            keys.write("first-secret\nsecond-secret\n")
            keys.flush()
            with Server(TINY, "--host", "0.0.0.0", "--api-key-file", keys.name) as server:
                body = {"prompt": "x", "max_tokens": 1}
                self.assertEqual(server.post("/v1/completions", body)[0], 401)
                wrong = {"Authorization": "Bearer first-secreT"}
                self.assertEqual(server.post("/v1/completions", body, wrong)[1]["error"]["code"], "invalid_api_key")
                right = {"Authorization": "Bearer second-secret"}
                self.assertEqual(server.post("/v1/completions", body, right)[0], 200)
                self.assertEqual(server.get("/ready")[0], 200)
        for flags in (("--host", "0.0.0.0"), ("--host", "::"), ("--host", "example.org"),
                      ("--api-key-file", os.devnull)):
            run = subprocess.run([HERD, "serve", "-m", TINY, "--port", "0", *flags], capture_output=True, text=True,
                                 timeout=60)
            self.assertEqual(run.returncode, 1, flags)
            self.assertEqual(run.stderr.count("\n"), 1, run.stderr)
        with Server(TINY, "--host", "0.0.0.0", "--insecure") as server:
            self.assertEqual(server.get("/health")[0], 200)

    def test_prompts_are_never_logged(self):
        with Server(TINY, "--log-requests") as server:
            server.post("/v1/completions", {"prompt": "a secret word", "max_tokens": 2})
            server.post("/v1/completions", {"prompt": "a secret word", "n": "secret"})
            self.assertEqual(server.stop(), 0)
            said = server.process.stderr.read()
        self.assertIn("POST /v1/completions 200", said)
        self.assertNotIn("secret", said)


class TheEnd(unittest.TestCase):
    def start_stream(self, server, tokens):
        connection = server.raw()
        connection.sendall(completion_bytes({"prompt": "x", "max_tokens": tokens, "ignore_eos": True, "stream": True}))
        self.assertEqual(status_of(connection.recv(20)), 200)
        return connection

    def test_sigterm_lets_running_requests_end(self):
        with Server(TINY, *SLOW) as server:
            connection = self.start_stream(server, 150)
            server.process.send_signal(signal.SIGTERM)
            self.assertTrue(server.wait_for(lambda: server.get("/ready")[0] == 503, 5))
            self.assertEqual(server.post("/v1/completions", {"prompt": "x"})[0], 503)
            self.assertTrue(read_all(connection).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"))
            connection.close()
            self.assertEqual(server.process.wait(20), 0)

    def test_a_second_sigterm_cancels(self):
        with Server(TINY, *SLOW) as server:
            connection = self.start_stream(server, 2000)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
            start = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            reply = read_all(connection)
            connection.close()
            self.assertEqual(server.process.wait(20), 0)
            self.assertLess(time.monotonic() - start, 10)
            self.assertTrue(reply.endswith(b"\r\n0\r\n\r\n"), "the last chunk")
            self.assertIn(b'data: {"error":{"message":"the server is shutting down"', reply)

    def test_the_drain_has_an_end(self):
        with Server(TINY, *SLOW, "--drain-timeout", "0.3") as server:
            connection = self.start_stream(server, 2000)
            start = time.monotonic()
            self.assertEqual(server.stop(), 0)
            self.assertLess(time.monotonic() - start, 10)
            self.assertIn(b"shutting_down", read_all(connection))
            connection.close()

    def test_an_idle_server_ends_at_once(self):
        with Server(TINY) as server:
            idle = server.raw()
            start = time.monotonic()
            self.assertEqual(server.stop(), 0)
            self.assertLess(time.monotonic() - start, 5)
            idle.close()


if __name__ == "__main__":
    unittest.main()
