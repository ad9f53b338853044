"""Many requests in little memory, shared prompts, budgets, deadlines and API keys, on real processes."""

import concurrent.futures
import http.client
import json
import subprocess
import unittest

import grpc
from deployment import BIN, PATIENCE, R1_DRAFT, Deployment, question
from whalepod.v1 import inference_pb2

BLOCK = 64
PREFIX = [0, *(18 + i % 10 for i in range(400))]
QUESTION = question(1236, 2199)


def kv_bytes(blocks):
    """Of r1-draft, whose cache is BF16."""
    config = json.loads((R1_DRAFT / "config.json").read_text())
    width = config["kv_lora_rank"] + config["qk_rope_head_dim"]
    return blocks * BLOCK * width * 2 * config["num_hidden_layers"]


class SmallMemoryTest(unittest.TestCase):
    COUNT = 24

    @staticmethod
    def ask(client, i):
        """Prompts that begin alike for up to three blocks; half greedy, half seeded."""
        ids = PREFIX[: 40 + 30 * (i % 6)] + question(10 + i, 7 * i)[1:]
        return client.generate(ids, max_tokens=40 + 8 * (i % 5), ignore_eos=True, logprobs=0, seed=i,
                               temperature=0.6 if i % 2 else 0.0)[:2]

    def run_all(self, deployment, at_once):
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(lambda i: self.ask(deployment.client, i), range(self.COUNT)))

    def test_preempted_requests_get_the_same_tokens(self):
        with Deployment("--max-model-len", 384) as roomy:
            alone = self.run_all(roomy, 1)
        # 8 blocks in each DP group, where up to 12 may run that want 2 to 5 each.
        with Deployment("--dp", 2, "--ep", 2, "--max-num-seqs", 12, "--max-model-len", 384,
                        "--kv-cache-bytes", kv_bytes(2 * 8)) as small:
            self.assertEqual(small.client.status().kv_blocks_total, 16)
            together = self.run_all(small, self.COUNT)
            status = small.client.wait_status("all freed", lambda s: s.kv_blocks_used == 0)
            self.assertEqual((status.running, status.waiting), (0, 0))
            self.assertGreater(status.preemptions, 0)
            self.assertGreater(status.kv_blocks_cached, 0)
        self.assertEqual(together, alone)


class SchedulingTest(unittest.TestCase):
    KEYS = {"alice": "sk-one", "bob": "sk-two"}

    @classmethod
    def setUpClass(cls):
        keys = [f for name, key in cls.KEYS.items() for f in ("--api-key", f"{name}:{key}")]
        cls.deployment = Deployment("--tp", 2, "--ep", 2, "--max-num-seqs", 1, *keys)
        cls.deployment.__enter__()
        cls.client = cls.deployment.client
        cls.metadata = (("authorization", "Bearer " + cls.KEYS["alice"]),)

    @classmethod
    def tearDownClass(cls):
        cls.deployment.__exit__()

    def stream(self, ids, timeouts=None, metadata=None, **options):
        request = self.client.request(ids, **options)
        request.timeouts.CopyFrom(inference_pb2.Timeouts(**(timeouts or {})))
        return self.client.stub.Generate(request, timeout=PATIENCE, metadata=metadata or self.metadata)

    def finish(self, *args, **options):
        tokens, spans, finished = [], [], None
        for event in self.stream(*args, **options):
            tokens += [t.token_id for t in event.tokens.tokens]
            spans += event.tokens.spans
            if event.HasField("finished"):
                finished = event.finished
        return tokens, spans, finished

    def http(self, method, path, body=None, key=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.deployment.http_port, timeout=PATIENCE)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer

    def test_a_second_prompt_that_begins_alike_is_cached(self):
        ids = PREFIX[:300] + QUESTION[1:]
        first = self.finish(ids, max_tokens=8, temperature=0.0)
        second = self.finish(ids, max_tokens=8, temperature=0.0)
        self.assertEqual(first[0], second[0])
        self.assertEqual(second[2].usage.cached_tokens, len(ids) // BLOCK * BLOCK)
        body = {"prompt": ids, "max_tokens": 4}
        status, text = self.http("POST", "/v1/completions", body, self.KEYS["bob"])
        self.assertEqual(status, 200, text)
        usage = json.loads(text)["usage"]
        self.assertEqual(usage["prompt_tokens_details"]["cached_tokens"], len(ids) // BLOCK * BLOCK)

    def test_thinking_ends_when_its_budget_is_spent(self):
        free, _, finished = self.finish(QUESTION, temperature=0.0, max_tokens=200)
        self.assertGreater(finished.usage.reasoning_tokens, 20)
        for budget in (0, 1, 20):
            tokens, spans, finished = self.finish(QUESTION, temperature=0.0, max_tokens=200,
                                                  thinking_token_budget=budget)
            self.assertEqual(tokens[:budget], free[:budget])
            self.assertEqual(finished.usage.reasoning_tokens, budget)
            kinds = [s.kind for s in spans]
            self.assertEqual(kinds, sorted(kinds))  # reasoning, then the answer
            self.assertIn(inference_pb2.SPAN_KIND_ANSWER, kinds)
        body = {"messages": [{"role": "user", "content": "What is 12 plus 7?"}], "temperature": 0,
                "thinking_token_budget": 3, "max_tokens": 60}
        status, text = self.http("POST", "/v1/chat/completions", body, self.KEYS["alice"])
        self.assertEqual(status, 200, text)
        self.assertEqual(json.loads(text)["usage"]["completion_tokens_details"]["reasoning_tokens"], 3)

    def test_deadlines_end_requests_by_name(self):
        # One may run at a time: the others wait for as long as this one is read slowly.
        holder = self.stream(QUESTION, max_tokens=3000, ignore_eos=True)
        next(event for event in holder if event.HasField("tokens"))
        for timeouts, missed in (({"queue_ms": 50}, "its first turn"),
                                 ({"first_token_ms": 50}, "its first token")):
            with self.assertRaises(grpc.RpcError) as caught:
                self.finish(QUESTION, timeouts=timeouts)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
            self.assertIn(missed, caught.exception.details())
        status, text = self.http("POST", "/v1/completions",
                                 {"prompt": QUESTION, "queue_timeout_ms": 50}, self.KEYS["bob"])
        self.assertEqual(status, 504, text)
        holder.cancel()
        with self.assertRaises(grpc.RpcError) as caught:
            self.finish(QUESTION, timeouts={"total_ms": 100}, max_tokens=3000, ignore_eos=True)
        self.assertIn("its end has passed", caught.exception.details())
        self.client.wait_status("all freed", lambda s: s.kv_blocks_used == 0 and s.running == 0)

    def test_an_urgent_request_does_not_wait_for_a_job(self):
        request = self.client.request(QUESTION, max_tokens=2000, ignore_eos=True, temperature=0.0)
        request.priority = 100
        job = self.client.stub.Generate(request, timeout=PATIENCE, metadata=self.metadata)
        next(event for event in job if event.HasField("tokens"))
        before = self.client.status().preemptions
        self.finish(QUESTION, max_tokens=5, timeouts={"first_token_ms": 30000})
        self.assertGreater(self.client.status().preemptions, before)
        # It goes on, and has missed nothing.
        self.assertTrue(any(event.HasField("tokens") for event in job))
        job.cancel()

    def test_only_known_keys_are_served(self):
        with self.assertRaises(grpc.RpcError) as caught:
            self.finish(QUESTION, metadata=(("authorization", "Bearer sk-three"),))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAUTHENTICATED)
        with self.assertRaises(grpc.RpcError) as caught:
            self.client.stub.GetModel(inference_pb2.GetModelRequest(), timeout=PATIENCE)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAUTHENTICATED)
        for path, method, body in (("/v1/models", "GET", None), ("/tokenize", "POST", {"prompt": "x"}),
                                   ("/v1/completions", "POST", {"prompt": QUESTION})):
            status, text = self.http(method, path, body)
            self.assertEqual(status, 401, text)
            self.assertEqual(json.loads(text)["error"]["code"], "invalid_api_key")
            self.assertEqual(self.http(method, path, body, "sk-two")[0], 200)
        self.assertEqual(self.http("GET", "/health")[0], 200)

    def test_the_command_line_shows_a_key(self):
        command = [BIN / "whalepod", "generate", "--prompt-token-ids", ",".join(map(str, QUESTION)),
                   "--max-tokens", "4", "--endpoint", self.client.endpoint]
        run = lambda *flags: subprocess.run([*command, *flags], capture_output=True, text=True,
                                            timeout=PATIENCE, check=False)
        self.assertIn("UNAUTHENTICATED", run().stderr)
        self.assertEqual(run("--api-key", "sk-one").returncode, 0)


if __name__ == "__main__":
    unittest.main()
