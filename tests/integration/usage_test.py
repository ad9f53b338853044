"""Usage accounts of a real deployment: what `whalepod usage` says is the sum of the usages that clients were
told, by key and source, whatever they came by, and is there after a restart."""

import collections
import http.client
import json
import os
import subprocess
import tempfile
import unittest

import grpc
from deployment import BIN, PATIENCE, SOURCE, Deployment, question
from whalepod.v1 import inference_pb2, jobs_pb2, jobs_pb2_grpc

KEYS = {"alice": "sk-one", "bob": "sk-two", "operator": "sk-three"}
# Of one million tokens, so that each kind shows in the sum.
PRICES = {"cached_input": 1.0, "input": 20.0, "output": 300.0}
FIGURES = ("requests", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")


def metadata(name):
    return (("authorization", "Bearer " + KEYS[name]),)


class Expected:
    """What clients were told, by (key, source)."""

    def __init__(self):
        self.rows = collections.defaultdict(lambda: dict.fromkeys((*FIGURES, "cost_dollars"), 0))

    def add(self, key, source, prompt, cached, output, reasoning, cost, requests=1):
        row = self.rows[key, source]
        for name, more in zip(FIGURES, (requests, prompt - cached, cached, output, reasoning)):
            row[name] += more
        row["cost_dollars"] += cost
        right = (PRICES["input"] * (prompt - cached) + PRICES["cached_input"] * cached + PRICES["output"] * output) / 1e6
        assert abs(cost - right) < 1e-9, (cost, right)


class UsageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        prices = os.path.join(cls.folder.name, "prices.json")
        with open(prices, "w") as file:
            json.dump(PRICES, file)
        cls.flags = ["--max-num-seqs", 8, "--state-dir", os.path.join(cls.folder.name, "state"),
                     "--usage-admin", "operator"]
        for name, key in KEYS.items():
            cls.flags += ["--api-key", f"{name}:{key}"]
        # The price file comes by the environment, which is as good.
        cls.env = {"WHALEPOD_PRICE_FILE": prices}

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def cli(self, deployment, name, *args):
        return subprocess.run(
            [BIN / "whalepod", "usage", *args, "--endpoint", deployment.client.endpoint, "--api-key", KEYS[name]],
            capture_output=True, text=True, timeout=PATIENCE)

    def usage(self, deployment, name, *args):
        run = self.cli(deployment, name, "--json", *args)
        self.assertEqual(run.returncode, 0, run.stderr)
        return json.loads(run.stdout)

    def ask_grpc(self, deployment, name, expected, ids, **options):
        total = [0, 0, 0, 0.0]
        request = deployment.client.request(ids, **options)
        for event in deployment.client.stub.Generate(request, timeout=PATIENCE, metadata=metadata(name)):
            if not event.HasField("finished"):
                continue
            usage = event.finished.usage
            if event.finished.choice == 0:
                total[0] = usage.cached_tokens
            total[1] += usage.completion_tokens
            total[2] += usage.reasoning_tokens
            total[3] += usage.cost_dollars
        cached, output, reasoning, cost = total
        expected.add(name, "interactive", len(ids), cached, output, reasoning, cost)

    def ask_http(self, deployment, name, expected, **body):
        connection = http.client.HTTPConnection("127.0.0.1", deployment.http_port, timeout=PATIENCE)
        connection.request("POST", "/v1/chat/completions", json.dumps(body),
                           {"Authorization": "Bearer " + KEYS[name]})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        self.assertEqual(response.status, 200, text)
        usage = json.loads(text.split("data: ")[-2] if body.get("stream") else text)["usage"]
        expected.add(name, "interactive", usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"],
                     usage["completion_tokens"], usage["completion_tokens_details"]["reasoning_tokens"],
                     usage["cost_dollars"])

    def run_job(self, deployment, name, expected, items):
        stub = jobs_pb2_grpc.JobServiceStub(deployment.client.channel)
        lines = [{"custom_id": str(i), "method": "POST", "url": "/v1/completions",
                  "body": {"prompt": question(i + 10, 7), "temperature": 0.5, "max_tokens": 12, "n": 1 + i % 2}}
                 for i in range(items)]
        text = "".join(json.dumps(line) + "\n" for line in lines) + "no request\n"
        job = stub.SubmitJob(jobs_pb2.SubmitJobRequest(jsonl=text.encode()), timeout=PATIENCE,
                             metadata=metadata(name)).job
        for event in stub.WatchJob(jobs_pb2.WatchJobRequest(id=job.id), timeout=4 * PATIENCE, metadata=metadata(name)):
            job = event.job
        self.assertEqual((job.counts.succeeded, job.counts.failed), (items, 1))
        usage = job.usage
        expected.add(name, "job", usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens,
                     usage.reasoning_tokens, usage.cost_dollars, requests=items)

    def cancel_one(self, deployment, name):
        """A stream that its client leaves: how many tokens it had taken."""
        request = deployment.client.request(question(1, 2), max_tokens=3000, ignore_eos=True)
        stream = deployment.client.stub.Generate(request, timeout=PATIENCE, metadata=metadata(name))
        taken = 0
        for event in stream:
            taken += len(event.tokens.tokens)
            if taken:
                break
        stream.cancel()
        deployment.client.wait_status("idle", lambda s: s.running == s.waiting == 0)
        return taken

    def check(self, usage, expected, names):
        found = collections.defaultdict(lambda: dict.fromkeys((*FIGURES, "cost_dollars"), 0))
        for row in usage["rows"]:  # of two days, where midnight came meanwhile
            for name in (*FIGURES, "cost_dollars"):
                found[row["api_key"], row["source"]][name] += row[name]
        wanted = {key: row for key, row in expected.rows.items() if key[0] in names}
        self.assertEqual(found.keys(), wanted.keys())
        for key, row in wanted.items():
            for name in FIGURES:
                self.assertEqual(found[key][name], row[name], (key, name))
            self.assertAlmostEqual(found[key]["cost_dollars"], row["cost_dollars"], 9, key)

    def test_what_clients_were_told_is_what_is_kept(self):
        expected = Expected()
        with Deployment(*self.flags, env=self.env) as deployment:
            long = [0] + list(range(100, 400))
            self.ask_grpc(deployment, "alice", expected, long, max_tokens=5, ignore_eos=True)
            self.ask_grpc(deployment, "alice", expected, long, max_tokens=6, ignore_eos=True, n=3, seed=1)
            self.assertGreater(expected.rows["alice", "interactive"]["cached_input_tokens"], 0)
            messages = [{"role": "user", "content": "What is 12 plus 7?"}]
            self.ask_http(deployment, "bob", expected, messages=messages, temperature=0, max_tokens=30)
            self.ask_http(deployment, "bob", expected, messages=messages, temperature=0.5, max_tokens=30, n=2,
                          stream=True, stream_options={"include_usage": True})
            self.assertGreater(expected.rows["bob", "interactive"]["reasoning_tokens"], 0)
            self.run_job(deployment, "alice", expected, items=6)
            with self.assertRaises(grpc.RpcError):
                self.ask_grpc(deployment, "alice", expected, [0], temperature=7)

            self.check(self.usage(deployment, "alice"), expected, ["alice"])
            self.check(self.usage(deployment, "bob"), expected, ["bob"])
            everything = self.usage(deployment, "operator")
            self.check(everything, expected, KEYS)
            self.assertFalse(everything["in_memory"])

            by_key = self.usage(deployment, "operator", "--by", "key")["rows"]
            self.assertEqual([row["api_key"] for row in by_key], ["alice", "bob"])
            table = self.cli(deployment, "operator").stdout
            self.assertIn("alice", table)
            self.assertIn("$%.6f" % everything["total"]["cost_dollars"], table.splitlines()[-1])
            self.assertEqual(self.usage(deployment, "operator", "--to", "2001-01-01")["rows"], [])
            wrong = self.cli(deployment, "operator", "--from", "2001-02-30")
            self.assertNotEqual(wrong.returncode, 0)
            self.assertIn("from_day is 2001-02-30", wrong.stderr)
            with self.assertRaises(grpc.RpcError) as caught:
                deployment.client.stub.GetUsage(inference_pb2.GetUsageRequest(), timeout=PATIENCE)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAUTHENTICATED)

        # It is there after a restart, and goes on.
        with Deployment(*self.flags, env=self.env) as deployment:
            self.check(self.usage(deployment, "operator"), expected, KEYS)
            self.ask_http(deployment, "alice", expected, messages=messages, max_tokens=3)
            self.check(self.usage(deployment, "operator"), expected, KEYS)
            before = self.usage(deployment, "bob")["total"]
            taken = self.cancel_one(deployment, "bob")
            after = self.usage(deployment, "bob")["total"]
            self.assertEqual(after["requests"], before["requests"] + 1)
            self.assertGreaterEqual(after["output_tokens"], before["output_tokens"] + taken)


class StartTest(unittest.TestCase):
    def refused(self, *flags):
        run = subprocess.run([BIN / "whalepod-coordinator", SOURCE / "deploy/models/r1-draft", "--port", "0",
                              "--grpc-port", "0", "--control-port", "0", *flags],
                             capture_output=True, text=True, timeout=PATIENCE)
        self.assertNotEqual(run.returncode, 0)
        return run.stdout + run.stderr

    def test_what_is_wrong_is_named_and_nothing_starts(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "prices.json")
            with open(path, "w") as file:
                file.write('{"cached_input": 1, "input": -2, "output": 3}')
            text = self.refused("--price-file", path)
            self.assertIn("--price-file: " + path, text)
            self.assertIn("input: expected a number", text)
            self.assertIn("--usage-admin", self.refused("--usage-admin", "nobody"))
            with open(os.path.join(folder, "usage.db"), "wb") as file:
                file.write(b"x" * 8192)
            text = self.refused("--state-dir", folder)
            self.assertIn(os.path.join(folder, "usage.db"), text)
            self.assertIn("corrupt", text)


if __name__ == "__main__":
    unittest.main()
