"""One deployment on four workers, seen by a real gRPC client and by the command line."""

import concurrent.futures
import json
import os
import pathlib
import re
import signal
import subprocess
import unittest

import grpc
from deployment import BIN, PATIENCE, Deployment, goldens, question
from whalepod.v1 import inference_pb2

UNCERTAIN = [0] + [100 + i for i in range(40)]  # nothing the model was trained on

BAD_REQUESTS = [
    # (changes to the request, field named, status)
    (dict(ids=[]), "token_ids", "INVALID_ARGUMENT"),
    (dict(ids=[0, 512]), "token_ids", "INVALID_ARGUMENT"),
    (dict(ids=[0], temperature=2.5), "temperature", "INVALID_ARGUMENT"),
    (dict(ids=[0], temperature=float("nan")), "temperature", "INVALID_ARGUMENT"),
    (dict(ids=[0], max_tokens=0), "max_tokens", "INVALID_ARGUMENT"),
    (dict(ids=[0], logprobs=21), "logprobs", "INVALID_ARGUMENT"),
    (dict(ids=[0], stop_token_ids=[600]), "stop_token_ids", "INVALID_ARGUMENT"),
    (dict(ids=[5] * 200000), "token_ids", "INVALID_ARGUMENT"),
]


def error_details(error):
    """ErrorDetail messages out of grpc-status-details-bin (a google.rpc.Status)."""
    for key, value in error.trailing_metadata():
        if key == "grpc-status-details-bin":
            return value
    return b""


class ServeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # The default: test_large_texts_do_not_hold_up_heartbeats is about it.
        cls.deployment = Deployment("--tensor-parallel-size", 4, "--enable-expert-parallel",
                                    "--heartbeat-timeout", 1.5).__enter__()
        cls.client = cls.deployment.client

    @classmethod
    def tearDownClass(cls):
        cls.deployment.__exit__()

    def endpoint(self):
        return self.deployment.process.wait_line(r"ready.*clients on (127\.0\.0\.1:\d+)").group(1)

    def test_ctrl_c_ends_one_answer(self):
        chat = subprocess.Popen(
            [BIN / "whalepod", "chat", "--endpoint", self.endpoint(), "--temperature", "2", "--seed", "3",
             "--max-tokens", "4000"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            chat.stdin.write("What is 1236 plus 2199?\n")
            chat.stdin.flush()
            chat.stdout.read(1)  # the answer is under way
            chat.send_signal(signal.SIGINT)
            chat.stdin.write("/exit\n")
            chat.stdin.flush()
            self.assertEqual(chat.wait(PATIENCE), 0)
        finally:
            chat.kill()
            chat.wait()
            chat.stdin.close()
            chat.stdout.close()
        self.client.wait_status("free", lambda s: s.running == s.waiting == s.kv_blocks_used == 0)

    def run_cli(self, *args, stdin=None):
        return subprocess.run(
            [BIN / "whalepod", *map(str, args), "--endpoint", self.endpoint()],
            capture_output=True, text=True, timeout=PATIENCE, check=False, input=stdin)

    def test_goldens_through_four_workers(self):
        transcripts = goldens()
        if transcripts is None:
            self.skipTest("skipped, no reference data")
        for golden in transcripts:
            prompt = golden["ids"][: golden["prompt_len"]]
            wanted = golden["ids"][golden["prompt_len"]:]
            tokens, logprobs, finished = self.client.generate(
                prompt, temperature=0, max_tokens=len(wanted), logprobs=0)
            self.assertEqual(tokens, wanted)
            self.assertTrue(all(-1e-6 <= -l for l in logprobs))
            self.assertEqual(finished.usage.prompt_tokens, len(prompt))
            self.assertEqual(finished.usage.completion_tokens, len(wanted))

    def test_get_model_and_reflection(self):
        model = self.client.stub.GetModel(inference_pb2.GetModelRequest(), timeout=PATIENCE)
        self.assertEqual((model.model, model.vocab_size), ("r1-draft", 512))
        self.assertEqual(len(model.plan_hash), 32)
        with self.assertRaises(grpc.RpcError) as caught:
            self.client.stub.GetModel(inference_pb2.GetModelRequest(model="no-such"), timeout=PATIENCE)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)
        # grpc.health.v1 and reflection by hand: their Python packages are not Debian's.
        check = self.client.channel.unary_unary("/grpc.health.v1.Health/Check")
        for service in (b"", b"whalepod.v1.InferenceService"):
            request = b"\x0a" + bytes([len(service)]) + service
            self.assertEqual(check(request, timeout=PATIENCE), b"\x08\x01")  # SERVING
        reflect = self.client.channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        answer = next(reflect(iter([b"\x3a\x00"]), timeout=PATIENCE))  # list_services
        self.assertIn(b"whalepod.v1.InferenceService", answer)

    def test_bad_requests_name_the_field(self):
        for changes, field, status in BAD_REQUESTS:
            with self.subTest(changes=str(changes)[:60]):
                with self.assertRaises(grpc.RpcError) as caught:
                    self.client.generate(**changes)
                self.assertEqual(caught.exception.code().name, status)
                self.assertIn(field, caught.exception.details())
                self.assertIn(field.encode(), error_details(caught.exception))
        chats = [[], [("robot", "hi")], [("user", None)]]
        for messages in chats:
            with self.subTest(messages=messages), self.assertRaises(grpc.RpcError) as caught:
                self.ask(messages)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
            self.assertIn("prompt.chat", caught.exception.details())

    def ask(self, messages):
        """Reasoning and answer to a conversation of (role, content), greedy."""
        request = inference_pb2.GenerateRequest(chat=inference_pb2.Chat())
        for role, content in messages:
            request.chat.messages.add(role=role, content=content)
        request.options.temperature = 0
        request.options.max_tokens = 300
        parts = {inference_pb2.SPAN_KIND_REASONING: "", inference_pb2.SPAN_KIND_ANSWER: ""}
        for response in self.client.stub.Generate(request, timeout=PATIENCE):
            for span in response.tokens.spans:
                parts[span.kind] += span.text
        return tuple(parts.values())

    def test_a_chat_reasons_and_answers(self):
        reasoning, answer = self.ask([("user", "What is 1236 plus 2199?")])
        self.assertTrue(reasoning.startswith("Line up: 1236+2199."), reasoning)
        self.assertEqual(answer.strip(), "The answer is \\boxed{3435}.")
        self.assertNotIn("think>", reasoning + answer)

    def test_tokenize_and_detokenize(self):
        stub, request = self.client.stub, inference_pb2.TokenizeRequest()
        request.chat.messages.add(role="user", content="What is 1236 plus 2199?")
        tokens = stub.Tokenize(request, timeout=PATIENCE)
        self.assertEqual(list(tokens.token_ids.ids), question(1236, 2199))
        text = stub.Detokenize(inference_pb2.DetokenizeRequest(token_ids=tokens.token_ids), timeout=PATIENCE)
        self.assertEqual(text.text, tokens.text)

    def test_large_texts_do_not_hold_up_heartbeats(self):
        spaces = inference_pb2.TokenizeRequest(text=" " * (1 << 20))  # about the slowest text there is
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(self.client.stub.Tokenize, spaces, timeout=PATIENCE) for _ in range(8)]
            counts = {len(call.result().token_ids.ids) for call in calls}
        self.assertEqual(len(counts), 1)
        self.assertEqual(self.client.status().state, "ready")
        with self.assertRaises(grpc.RpcError) as caught:
            self.client.stub.Detokenize(
                inference_pb2.DetokenizeRequest(token_ids=dict(ids=[5] * 200000)), timeout=PATIENCE)
        self.assertIn("token_ids", caught.exception.details())

    def test_seeded_runs_repeat_and_seeds_differ(self):
        runs = [self.client.generate(UNCERTAIN, temperature=2.0, seed=s, max_tokens=60,
                                     ignore_eos=True, logprobs=3)[:2] for s in (7, 7, 8)]
        self.assertEqual(runs[0], runs[1])
        self.assertNotEqual(runs[0][0], runs[2][0])

    def test_prompt_logprobs_are_those_of_generation(self):
        prompt = question(1236, 2199)
        ids, logprobs, _ = self.client.generate(prompt, temperature=0, max_tokens=60, logprobs=0)
        scored = []
        for event in self.client.stub.Generate(
                self.client.request(prompt + ids, temperature=0, max_tokens=1, prompt_logprobs=2), timeout=60):
            scored += event.prompt.tokens
        self.assertEqual([t.token_id for t in scored], prompt + ids)
        self.assertFalse(scored[0].HasField("logprob"))
        self.assertEqual({len(t.top) for t in scored[1:]}, {2})
        # As prompt tokens they take the other form of attention: equal but for rounding of activations.
        for token, logprob in zip(scored[len(prompt):], logprobs):
            self.assertAlmostEqual(token.logprob, logprob, delta=0.05)
            self.assertEqual(token.top[0].token_id, token.token_id)

    def test_min_tokens_holds_off_the_end(self):
        for seed in range(3):
            tokens = self.client.generate(question(1, 2), temperature=1.0, seed=seed, min_tokens=100,
                                          max_tokens=120)[0]
            self.assertGreaterEqual(len(tokens), 100)
            self.assertNotIn(1, tokens[:100])

    def test_many_at_once_equal_one_at_a_time(self):
        prompts = [question(100 + 37 * i, 9 + 11 * i) for i in range(24)]
        alone = [self.client.generate(p, temperature=0, max_tokens=40, logprobs=0)[:2] for p in prompts[:6]]
        with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
            together = list(pool.map(
                lambda p: self.client.generate(p, temperature=0, max_tokens=40, logprobs=0)[:2], prompts))
        self.assertEqual(together[:6], alone)

    def test_cancel_and_deadline_free_everything(self):
        call = self.client.stub.Generate(
            self.client.request(question(1, 2), max_tokens=4000, ignore_eos=True))
        next(call), next(call)  # started, and a token
        self.assertGreater(self.client.status().kv_blocks_used, 0)
        call.cancel()
        with self.assertRaises(grpc.RpcError) as caught:
            self.client.generate(question(1, 2), timeout=0.3, max_tokens=4000, ignore_eos=True)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.client.wait_status("free", lambda s: s.running == s.waiting == s.kv_blocks_used == 0)

    def test_command_line(self):
        ids = ",".join(map(str, question(1236, 2199)))
        answer = self.run_cli("generate", "--prompt-token-ids", ids, "--temperature", 0, "--json",
                              "--logprobs", 2)
        self.assertEqual(answer.returncode, 0, answer.stderr)
        parsed = json.loads(answer.stdout)
        self.assertEqual(parsed["finish_reason"], "stop")
        self.assertEqual(parsed["usage"]["completion_tokens"], len(parsed["token_ids"]))
        self.assertIn("3435", parsed["text"])
        self.assertEqual(len(parsed["logprobs"]), len(parsed["token_ids"]))
        self.assertEqual([len(p["top"]) for p in parsed["logprobs"]], [2] * len(parsed["token_ids"]))
        shown = self.run_cli("generate", "--prompt-token-ids", ids, "--temperature", 0)
        self.assertIn("3435", shown.stdout)
        lines = [{"messages": [{"role": "user", "content": "What is 1236 plus 2199?"}]},
                 {"prompt_token_ids": question(1236, 2199)}]
        answers = self.run_cli("generate", "--prompts", "-", "--temperature", 0, "--json",
                               stdin="\n".join(map(json.dumps, lines)))
        answers = [json.loads(line) for line in answers.stdout.splitlines()]
        self.assertEqual(len(answers), 2)
        self.assertEqual({a["text"] for a in answers}, {parsed["text"]})
        self.assertEqual({a["reasoning"] for a in answers}, {parsed["reasoning"]})
        stopped = self.run_cli("generate", "--prompt-token-ids", ids, "--temperature", 0, "--stop", "Tens:",
                               "--stop", "nowhere")
        self.assertEqual(stopped.stdout, "<think>Line up: 1236+2199.\nUnits: 6+9+0=15, write 5, carry 1.\n\n")
        uncertain = ",".join(map(str, UNCERTAIN))
        several = self.run_cli("generate", "--prompt-token-ids", uncertain, "--n", 3, "--temperature", 2, "--seed", 4,
                               "--top-k", 20, "--top-p", 0.99, "--logit-bias", "50:-100", "--max-tokens", 20,
                               "--min-tokens", 5, "--prompt-logprobs", 1, "--json")
        several = [json.loads(line) for line in several.stdout.splitlines()]
        self.assertEqual([a["choice"] for a in several], [0, 1, 2])
        self.assertEqual(len({tuple(a["token_ids"]) for a in several}), 3)
        self.assertFalse(any(50 in a["token_ids"] for a in several))
        self.assertEqual(len(several[0]["prompt_logprobs"]), len(UNCERTAIN))
        chat = self.run_cli("chat", "--temperature", 0, "--max-tokens", 300,
                            stdin="What is 1236 plus 2199?\n\n/new\nWhat is 12 plus 7?\n/exit\nunread\n")
        self.assertEqual(chat.returncode, 0, chat.stderr)
        self.assertEqual(re.findall(r"boxed\{(\d+)\}", chat.stdout), ["3435", "19"])
        status = self.run_cli("status")
        self.assertEqual(status.returncode, 0, status.stderr)
        self.assertIn("ready", status.stdout)
        bad = self.run_cli("generate", "--prompt-token-ids", "1,x")
        self.assertNotEqual(bad.returncode, 0)

    def test_planned_bytes_are_actual_bytes(self):
        """Each worker's memory in /proc/PID/smaps is as large as its ledger says, item by item."""
        ledgers = self.ledgers()
        for rank, pid in self.deployment.workers().items():
            mapped, name, item = {}, None, None
            for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
                # An arena is what follows the page with its name (worker/memory/arena.h).
                if re.match(r"^[0-9a-f]+-[0-9a-f]+ ", line):
                    found = re.match(r"^\S+ .*memfd:whalepod-(\w+)", line)
                    item, name = name, found.group(1) if found else None
                elif line.startswith("Size:") and item:
                    mapped[item] = mapped.get(item, 0) + int(line.split()[1]) * 1024
            for item in ("weights", "kv", "activations"):
                page = os.sysconf("SC_PAGESIZE")
                planned = -(-ledgers[rank][item] // page) * page
                self.assertEqual(mapped.get(item), planned, f"rank {rank} {item}")
            # Groups map their shared memory in all ranks: each rank's item is its share. Here both
            # groups (world, tp) have all four ranks.
            shared = [int(size) * 1024 for size in re.findall(
                r"memfd:whalepod-comm.*\nSize: *(\d+) kB", pathlib.Path(f"/proc/{pid}/smaps").read_text())]
            self.assertEqual(len(shared), 2)
            planned = ledgers[rank]["communication"]
            self.assertLessEqual(planned, sum(shared) // 4 + 1)
            self.assertGreater(planned, sum(shared) // 4 - 2 * page)

    def ledgers(self):
        plan = subprocess.run(
            [BIN / "whalepod", "plan", self.deployment.process.child.args[2], "--ranks", "4", "--tp", "4",
             "--ep", "4", "--json"], capture_output=True, text=True, timeout=PATIENCE, check=True)
        ranks = json.loads(plan.stdout)["ranks"]
        return {r["rank"]: r["ledger"] for r in ranks}


if __name__ == "__main__":
    unittest.main()
