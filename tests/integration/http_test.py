"""OpenAI's API over HTTP, by plain HTTP; and by the openai package where it is installed."""

import contextlib
import http.client
import json
import socket
import unittest

from deployment import PATIENCE, Deployment, question

QUESTION = [{"role": "user", "content": "What is 1236 plus 2199?"}]
try:
    import openai
except ImportError:
    openai = None


class HttpTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.deployment = Deployment("--tp", 2, "--ep", 2)
        cls.deployment.__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.deployment.__exit__()

    def send(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.deployment.http_port, timeout=PATIENCE)
        data = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
        connection.request(method, path, data, headers or {})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        return response, text

    def post(self, path, **body):
        response, text = self.send("POST", path, body)
        self.assertEqual(response.status, 200, text)
        return json.loads(text)

    def events(self, path, **body):
        response, text = self.send("POST", path, {**body, "stream": True})
        self.assertEqual(response.status, 200, text)
        self.assertEqual(response.headers["Content-Type"], "text/event-stream; charset=utf-8")
        blocks = text.decode().split("\n\n")
        self.assertEqual(blocks[-2:], ["data: [DONE]", ""])
        return [json.loads(block.removeprefix("data: ")) for block in blocks[:-2] if not block.startswith(":")]

    def test_chat(self):
        answer = self.post("/v1/chat/completions", messages=QUESTION, temperature=0)
        (choice,) = answer["choices"]
        self.assertIn("\\boxed{3435}", choice["message"]["content"])
        self.assertIn("Line up: 1236+2199.", choice["message"]["reasoning_content"])
        self.assertEqual(choice["message"]["reasoning"], choice["message"]["reasoning_content"])
        self.assertEqual(choice["finish_reason"], "stop")
        usage = answer["usage"]
        self.assertEqual(usage["total_tokens"], usage["prompt_tokens"] + usage["completion_tokens"])

        chunks = self.events("/v1/chat/completions", messages=QUESTION, temperature=0,
                             stream_options={"include_usage": True})
        self.assertEqual(chunks[0]["choices"][0]["delta"], {"role": "assistant", "content": ""})
        self.assertEqual(chunks[-1]["choices"], [])
        self.assertEqual(chunks[-1]["usage"], usage)
        deltas = [c["choices"][0]["delta"] for c in chunks[:-1]]
        self.assertEqual("".join(d.get("content", "") for d in deltas), choice["message"]["content"])
        self.assertEqual("".join(d.get("reasoning", "") for d in deltas), choice["message"]["reasoning"])
        self.assertEqual([c["choices"][0]["finish_reason"] for c in chunks[-2:-1]], ["stop"])
        self.assertEqual(len({c["id"] for c in chunks}), 1)

    def test_completion_is_the_same_text_with_tags(self):
        ids = question(1236, 2199)
        answer = self.post("/v1/completions", prompt=ids, temperature=0, max_tokens=300)
        chat = self.post("/v1/chat/completions", messages=QUESTION, temperature=0)["choices"][0]["message"]
        text = answer["choices"][0]["text"]
        self.assertTrue(text.endswith("</think>" + chat["content"]), text)
        chunks = self.events("/v1/completions", prompt=[ids], temperature=0, max_tokens=300)
        self.assertEqual("".join(c["choices"][0]["text"] for c in chunks), text)
        self.assertEqual(self.post("/v1/completions", prompt=ids, temperature=0)["usage"]["completion_tokens"], 16)

    def test_several_prompts_are_each_answered_as_alone(self):
        prompts = [question(1236, 2199), "1 plus 2", question(40, 2)]
        options = {"temperature": 0.6, "seed": 5, "max_tokens": 40, "n": 2, "logprobs": 1}
        alone = [self.post("/v1/completions", prompt=prompt, **options) for prompt in prompts]
        together = self.post("/v1/completions", prompt=prompts, **options)
        self.assertEqual([c["index"] for c in together["choices"]], list(range(6)))
        for i, choice in enumerate(together["choices"]):
            expected = alone[i // 2]["choices"][i % 2]
            self.assertEqual((choice["text"], choice["logprobs"]), (expected["text"], expected["logprobs"]))
        for field in ("prompt_tokens", "completion_tokens", "total_tokens"):
            self.assertEqual(together["usage"][field], sum(a["usage"][field] for a in alone))
        chunks = self.events("/v1/completions", prompt=prompts, stream_options={"include_usage": True}, **options)
        self.assertEqual(len({c["id"] for c in chunks}), 1)
        self.assertEqual(chunks[-1]["usage"]["total_tokens"], together["usage"]["total_tokens"])
        for i, choice in enumerate(together["choices"]):
            own = [c["choices"][0] for c in chunks[:-1] if c["choices"][0]["index"] == i]
            self.assertEqual("".join(c["text"] for c in own), choice["text"])
            self.assertEqual([c["finish_reason"] for c in own if c["finish_reason"]], [choice["finish_reason"]])

    def test_as_many_prompts_as_there_may_be(self):
        answer = self.post("/v1/completions", prompt=["1 plus %d" % i for i in range(256)], max_tokens=1)
        self.assertEqual(len(answer["choices"]), 256)

    def test_echo_begins_with_the_prompt_and_its_logprobs(self):
        ids = question(1236, 2199)
        plain = self.post("/v1/completions", prompt=ids, temperature=0, max_tokens=8, logprobs=1)["choices"][0]
        body = {"prompt": ids, "temperature": 0, "max_tokens": 8, "logprobs": 1, "echo": True}
        echoed = self.post("/v1/completions", **body)["choices"][0]
        self.assertIn("What is 1236 plus 2199?", echoed["text"])
        self.assertTrue(echoed["text"].endswith(plain["text"]))
        logprobs = echoed["logprobs"]["token_logprobs"]
        self.assertEqual(logprobs[len(ids):], plain["logprobs"]["token_logprobs"])
        self.assertIsNone(logprobs[0])
        self.assertTrue(all(x <= 0 for x in logprobs[1:]))
        chunks = self.events("/v1/completions", **body)
        self.assertEqual("".join(c["choices"][0]["text"] for c in chunks), echoed["text"])

    def test_logprobs_n_and_stop(self):
        grpc_ids, grpc_logprobs, _ = self.deployment.client.generate(
            question(1236, 2199), temperature=0, max_tokens=12, logprobs=0)
        answer = self.post("/v1/chat/completions", messages=QUESTION, temperature=0, max_tokens=12, logprobs=True,
                           top_logprobs=3)
        content = answer["choices"][0]["logprobs"]["content"]
        self.assertEqual(len(content), len(grpc_ids))
        for entry, logprob in zip(content, grpc_logprobs):
            self.assertAlmostEqual(entry["logprob"], logprob, places=5)
            self.assertEqual(len(entry["top_logprobs"]), 3)
            self.assertEqual(bytes(entry["bytes"]).decode(errors="replace"), entry["token"])
        several = self.post("/v1/completions", prompt=[0] + list(range(100, 140)), n=3, temperature=2, seed=4,
                            max_tokens=20, ignore_eos=True, logprobs=2)
        self.assertEqual([c["index"] for c in several["choices"]], [0, 1, 2])
        self.assertEqual(len({tuple(c["logprobs"]["tokens"]) for c in several["choices"]}), 3)
        self.assertEqual(several["usage"]["completion_tokens"], 60)
        stopped = self.post("/v1/chat/completions", messages=QUESTION, temperature=0, stop="Tens:")["choices"][0]
        self.assertEqual((stopped["finish_reason"], stopped["stop_reason"]), ("stop", "Tens:"))
        self.assertNotIn("Tens", stopped["message"]["reasoning"])

    def test_errors_have_openai_s_form(self):
        for path, body, status, param in [
            ("/v1/chat/completions", {"messages": QUESTION, "temperature": 3}, 400, "temperature"),
            ("/v1/chat/completions", {"messages": QUESTION, "temperature": "hot"}, 400, "temperature"),
            ("/v1/chat/completions", {"messages": []}, 400, "messages"),
            ("/v1/chat/completions", {}, 400, "messages"),
            ("/v1/chat/completions", {"messages": QUESTION, "tools": [{"type": "function"}]}, 400, "tools"),
            ("/v1/chat/completions", {"messages": QUESTION, "response_format": {"type": "json_object"}}, 400,
             "response_format"),
            ("/v1/chat/completions", {"messages": QUESTION, "stream_options": {}}, 400, "stream_options"),
            ("/v1/chat/completions", {"messages": QUESTION, "top_logprobs": 2}, 400, "top_logprobs"),
            ("/v1/chat/completions", {"messages": QUESTION, "model": "gpt-4"}, 404, "model"),
            ("/v1/completions", {"prompt": ["a", 1]}, 400, "prompt"),
            ("/v1/completions", {"prompt": ["a", [0, 70000]]}, 400, "prompt.token_ids[1]"),
            ("/v1/completions", {"prompt": ["a", [0, 70000]], "stream": True}, 400, "prompt.token_ids[1]"),
            ("/v1/completions", {"prompt": ["a", "b"], "n": 4294967295}, 400, "n"),
            ("/v1/completions", {"prompt": "a", "stop": [""] * 100}, 400, "stop"),
            ("/v1/completions", {"prompt": [0, 70000]}, 400, "prompt.token_ids[1]"),
            ("/v1/completions", {"prompt": "a", "n": 0}, 400, "n"),
            ("/v1/completions", "{", 400, None),
            ("/v1/completions", "[]", 400, "body"),
            ("/nowhere", {}, 404, None),
        ]:
            with self.subTest(path=path, body=body):
                response, text = self.send("POST", path, body)
                self.assertEqual(response.status, status, text)
                error = json.loads(text)["error"]
                self.assertEqual(error["param"], param)
                self.assertTrue(error["message"])
        response, _ = self.send("GET", "/v1/chat/completions")
        self.assertEqual(response.status, 405)
        response, _ = self.send("POST", "/v1/completions", "x" * (5 << 20))
        self.assertEqual(response.status, 413)

    def test_models_tokens_and_health(self):
        models = json.loads(self.send("GET", "/v1/models")[1])
        self.assertEqual([m["id"] for m in models["data"]], ["r1-draft"])
        self.assertEqual(json.loads(self.send("GET", "/v1/models/r1-draft")[1])["id"], "r1-draft")
        self.assertEqual(self.send("GET", "/v1/models/other")[0].status, 404)
        for path in ("/health", "/healthz", "/readyz", "/version"):
            self.assertEqual(self.send("GET", path)[0].status, 200)
        tokens = self.post("/tokenize", prompt="1 plus 2")
        self.assertEqual(tokens["count"], len(tokens["tokens"]))
        self.assertEqual(self.post("/detokenize", tokens=tokens["tokens"])["prompt"], "1 plus 2")

    def test_one_connection_serves_many_requests(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.deployment.http_port, timeout=PATIENCE)
        for stream in (False, True, False):
            connection.request("POST", "/v1/chat/completions",
                               json.dumps({"messages": QUESTION, "temperature": 0, "max_tokens": 5, "stream": stream}),
                               {"X-Request-Id": "mine"})
            self.assertEqual(connection.getresponse().read()[:5], b"data:" if stream else b'{"id"')
        connection.close()

    def test_a_client_that_leaves_frees_everything(self):
        for stream in (False, True):
            body = json.dumps({"prompt": [[0] + list(range(100, 140)), [0, 100]], "max_tokens": 4000,
                               "ignore_eos": True,
                               "temperature": 0, "stream": stream})
            with contextlib.closing(socket.create_connection(("127.0.0.1", self.deployment.http_port))) as client:
                client.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}"
                               .encode())
                self.deployment.client.wait_status("running", lambda s: s.running > 0)
            self.deployment.client.wait_status("free", lambda s: s.running == s.waiting == s.kv_blocks_used == 0)

    def test_http_1_0_streams_until_it_closes(self):
        body = json.dumps({"messages": QUESTION, "temperature": 0, "stream": True})
        with contextlib.closing(socket.create_connection(("127.0.0.1", self.deployment.http_port))) as client:
            client.settimeout(PATIENCE)
            client.sendall(f"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            text = b""
            while part := client.recv(65536):
                text += part
        head, _, events = text.partition(b"\r\n\r\n")
        self.assertNotIn(b"chunked", head)
        self.assertTrue(events.startswith(b"data: {") and events.endswith(b"data: [DONE]\n\n"), events[-100:])

    def test_what_is_not_http_is_answered(self):
        with contextlib.closing(socket.create_connection(("127.0.0.1", self.deployment.http_port))) as client:
            client.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
            client.settimeout(PATIENCE)
            self.assertIn(b"400", client.recv(100))

    @unittest.skipIf(openai is None, "the openai package is not installed")
    def test_openai_client(self):
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.deployment.http_port}/v1", api_key="none")
        model = client.models.list().data[0].id
        answer = client.chat.completions.create(model=model, messages=QUESTION, temperature=0, logprobs=True,
                                                top_logprobs=2)
        self.assertIn("3435", answer.choices[0].message.content)
        self.assertEqual(len(answer.choices[0].logprobs.content), answer.usage.completion_tokens)
        text = ""
        for chunk in client.chat.completions.create(model=model, messages=QUESTION, temperature=0, stream=True,
                                                    stream_options={"include_usage": True}):
            text += "".join(c.delta.content or "" for c in chunk.choices)
        self.assertEqual(text, answer.choices[0].message.content)
        with client.chat.completions.stream(model=model, messages=QUESTION, temperature=0) as stream:
            self.assertEqual(stream.get_final_completion().choices[0].message.content, text)
        several = client.completions.create(model=model, prompt="What is", n=2, seed=1, max_tokens=8)
        self.assertEqual(len(several.choices), 2)
        with self.assertRaises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=model, messages=QUESTION, temperature=5)
        self.assertEqual(caught.exception.param, "temperature")


if __name__ == "__main__":
    unittest.main()
