#!/usr/bin/env python3
"""Writes the first inputs of a fuzz target, made from tests/data: seeds.py TARGET FOLDER.

A target unknown here starts from nothing but its dictionary, if it has one.
"""

import json
import pathlib
import sys

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"
HEADER_BYTES = 12 * 1024  # longer than the metadata and tensor table of each small model


def read_json(name):
    return json.loads((DATA / name).read_text())


def gguf():
    for path in sorted(DATA.glob("tiny-*.gguf")):
        yield path.read_bytes()[:HEADER_BYTES]


def token():
    for name in ("tokens-smollm2.json", "tokens-tiny-mha-spm.json", "tokens-spm-more.json"):
        for number, case in enumerate(read_json(name)):
            yield bytes([number % 8]) + case["text"].encode()


def chat():
    few = read_json("chat_cases.json")
    for case in few["cases"]:
        yield case["template"].encode() + b"\0" + json.dumps(few["variables"]).encode()
    many = read_json("chat_jinja.json")
    for case in many["cases"]:
        template = case["source"] if "source" in case else many["templates"][case["template"]]
        variables = many["variables"][case["variables"]]
        yield template.encode() + b"\0" + json.dumps(variables, ensure_ascii=False).encode()


def json_():
    yield b'{"prompt": "Once upon a time"}\n{"ids": [1, 2, 3]}\n\n{"ids": [-1]}\n{"prompt": 5}\n[]\n{'
    yield '{"prompt": "\\ud83d\\ude42 é\\u0000"}\r\n{"ids": [1.5, 1e3, 99999999999999999999]}'.encode()
    yield b'{"ids": ["' + b"x" * 100 + b'", null, true]}'
    for variables in read_json("chat_jinja.json")["variables"]:
        yield json.dumps(variables).encode()


def schema():
    yield b'{"type": "object"}'
    yield b'{"type":"object","properties":{"name":{"type":"string","minLength":1,"maxLength":5},"age":{"type":"integer","minimum":0,"maximum":130}},"required":["name"],"additionalProperties":{"type":"number"}}'
    yield b'{"$defs":{"tree":{"type":"object","properties":{"left":{"anyOf":[{"$ref":"#/$defs/tree"},{"type":"null"}]},"value":{"enum":["a","ab",1,[2,{"x":null}]]}},"required":["left"]}},"$ref":"#/$defs/tree"}'
    yield b'{"type":"array","prefixItems":[{"type":"boolean"},{"const":"x"}],"items":{"type":["integer","null"]},"minItems":2,"maxItems":4}'
    yield b'{"oneOf":[{"type":"number","exclusiveMinimum":-3,"maximum":12},{"allOf":[{"type":"string"}]}]}'


def http():
    body = b'{"prompt": "x"}'
    head = b"POST /v1/completions?x=y HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer key\r\n"
    yield b"\x05" + head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    yield b"\xff" + head + b"Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.0\r\n\r\n"
    yield b"\x00GET /health HTTP/1.1\r\nHost: [::1]:80\r\nOrigin: http://[::1]:80\r\nConnection: close\r\n\r\n" * 3
    yield b"\x20" + head + b"Expect: 100-continue\r\nContent-Length: 600\r\n\r\n"
    yield b"\x20GET / HTTP/1.1\r\n" + b"".join(b"X%d: y\r\n" % i for i in range(12)) + b"\r\n"


def request():
    yield b'{"prompt": ["a", [1, 2]], "max_tokens": 5, "n": 2, "best_of": 3, "logprobs": 4, "echo": true, "seed": -1}'
    yield b'{"prompt": "x", "stream": true, "stream_options": {"include_usage": true}, "stop": ["a"], "user": "u"}'
    yield b'{"prompt": [1], "logit_bias": {"3": -100}, "temperature": 0.5, "top_p": 1, "top_k": -1, "min_p": 0.1}'
    yield (b'{"messages": [{"role": "developer", "content": [{"type": "text", "text": "a"}], "name": "n"}], '
           b'"logprobs": true, "top_logprobs": 3, "response_format": {"type": "json_object"}, "tools": []}')
    yield b'{"messages": [{"role": "user", "content": null}], "response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}'
    yield b'{"content": "x", "add_special_tokens": false}'
    yield b'{"tokens": [1, 2, 3], "model": "m"}'


def main(target, folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    make = {"gguf": gguf, "token": token, "chat": chat, "json": json_, "schema": schema, "http": http,
            "request": request}.get(target)
    for number, seed in enumerate(make() if make else ()):
        (folder / f"{number:04}").write_bytes(seed)


if __name__ == "__main__":
    main(*sys.argv[1:])
