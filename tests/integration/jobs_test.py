"""Jobs on a real deployment: the command line; watchers that resume; batches over HTTP, by the openai
package where it is there. What kill -9 does to them is in kill_test.py."""

import json
import os
import subprocess
import sys
import tempfile
import unittest

import grpc
from deployment import BIN, BUILD, PATIENCE, SOURCE, Deployment, question
from whalepod.v1 import jobs_pb2, jobs_pb2_grpc

sys.path.append(str(SOURCE / "deploy/python"))
from whalepod.client import Client  # noqa: E402

try:
    import openai
except ImportError:
    openai = None


def line(index, **body):
    body = {"prompt": question(index % 90 + 10, index // 9 + 11), "temperature": 0, "max_tokens": 24,
            "ignore_eos": True, **body}
    return json.dumps({"custom_id": f"item-{index}", "method": "POST", "url": "/v1/completions", "body": body})


def jobs_of(deployment):
    return jobs_pb2_grpc.JobServiceStub(deployment.client.channel)


def results(stub, job_id):
    items, token = [], ""
    while True:
        page = stub.GetJobResults(
            jobs_pb2.GetJobResultsRequest(id=job_id, page_size=64, page_token=token), timeout=PATIENCE)
        items += page.items
        token = page.next_page_token
        if not token:
            return items


def curl(*args, stdin=None):
    return subprocess.run(["curl", "-sS", "--fail-with-body", *args], input=stdin, capture_output=True, text=True,
                          timeout=PATIENCE, check=True).stdout


# A job takes seconds; on a machine that does other things too, many.
LONG = 4 * PATIENCE


def wait_over(stub, job_id):
    job = None
    try:
        for event in stub.WatchJob(jobs_pb2.WatchJobRequest(id=job_id), timeout=LONG):
            job = event.job
    except grpc.RpcError as error:
        now = stub.GetJob(jobs_pb2.GetJobRequest(id=job_id), timeout=PATIENCE).job
        raise AssertionError(f"{error.details()}: last seen {job}, now {now}") from None
    return job


class JobsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.deployment = Deployment("--state-dir", cls.folder.name).__enter__()
        cls.stub = jobs_of(cls.deployment)

    @classmethod
    def tearDownClass(cls):
        cls.deployment.__exit__()
        cls.folder.cleanup()

    def cli(self, *args, stdin=None):
        return subprocess.run(
            [BIN / "whalepod", "jobs", *map(str, args), "--endpoint", self.deployment.client.endpoint],
            input=stdin, capture_output=True, text=True, timeout=PATIENCE)

    def test_the_command_line(self):
        text = line(1) + "\nnonsense\n" + line(2) + "\n"
        submitted = self.cli("submit", "-", "--idempotency-key", "cli", "--metadata", "a=b", stdin=text)
        self.assertEqual(submitted.returncode, 0, submitted.stderr)
        job_id = submitted.stdout.strip()
        watched = self.cli("watch", job_id)
        self.assertEqual(watched.returncode, 0, watched.stderr)
        self.assertIn("line 2", watched.stdout)
        self.assertIn("2 of 3 succeeded, 1 failed", watched.stdout)
        resumed = self.cli("watch", job_id, "--from", 2)
        self.assertEqual(len(resumed.stdout.splitlines()), 2, resumed.stdout)
        got = json.loads(self.cli("get", job_id, "--json").stdout)
        self.assertEqual(got["state"], "JOB_STATE_COMPLETED")
        self.assertEqual(got["metadata"], {"a": "b"})
        lines = [json.loads(one) for one in self.cli("results", job_id).stdout.splitlines()]
        self.assertEqual([one["custom_id"] for one in lines], ["item-1", None, "item-2"])
        self.assertEqual(lines[1]["error"]["line"], 2)
        self.assertEqual(lines[0]["response"]["body"]["usage"]["completion_tokens"], 24)
        self.assertIn(job_id, self.cli("list").stdout)
        again = self.cli("submit", "-", "--idempotency-key", "cli", "--metadata", "a=b", stdin=text)
        self.assertEqual(again.stdout.strip(), job_id)
        other = self.cli("submit", "-", "--idempotency-key", "cli", stdin=line(3))
        self.assertNotEqual(other.returncode, 0)
        self.assertIn("ALREADY_EXISTS", other.stderr)
        missing = self.cli("get", "job-none")
        self.assertIn("NOT_FOUND", missing.stderr)

    def test_one_request(self):
        ids = ",".join(map(str, question(12, 13)))
        submitted = self.cli("submit", "--prompt-token-ids", ids, "--temperature", 0, "--max-tokens", 9)
        self.assertEqual(submitted.returncode, 0, submitted.stderr)
        job_id = submitted.stdout.strip()
        self.assertEqual(self.cli("watch", job_id).returncode, 0)
        (item,) = results(self.stub, job_id)
        expected, _, _ = self.deployment.client.generate(question(12, 13), temperature=0, max_tokens=9)
        self.assertEqual(list(item.answer.choices[0].token_ids), expected)

    def test_an_item_is_watched_token_by_token(self):
        ids = ",".join(map(str, question(77, 5)))
        job_id = self.cli("submit", "--prompt-token-ids", ids, "--temperature", 0).stdout.strip()
        watched = self.cli("watch", job_id, "--item", 0)
        self.assertEqual(watched.returncode, 0, watched.stderr)
        whole = json.loads(self.cli("watch", job_id, "--item", 0, "--json").stdout)
        (item,) = results(self.stub, job_id)
        self.assertEqual(whole["token_ids"], list(item.answer.choices[0].token_ids))
        self.assertIn(whole["text"].strip() or None, watched.stdout)
        rest = json.loads(self.cli("watch", job_id, "--item", 0, "--from-token", 9, "--json").stdout)
        self.assertEqual(rest["token_ids"], whole["token_ids"][9:])
        self.assertTrue(rest["text"])
        self.assertTrue((whole["reasoning"] + whole["text"]).endswith(rest["reasoning"] + rest["text"]))
        missing = self.cli("watch", job_id, "--item", 1)
        self.assertIn("OUT_OF_RANGE: the job has 1 items", missing.stderr)

    def test_cancel(self):
        text = "".join(line(i, max_tokens=400) + "\n" for i in range(100))
        job_id = self.cli("submit", "-", stdin=text).stdout.strip()
        cancelled = self.cli("cancel", job_id)
        self.assertEqual(cancelled.returncode, 0, cancelled.stderr)
        job = wait_over(self.stub, job_id)
        self.assertEqual(job.state, jobs_pb2.JOB_STATE_CANCELLED)
        self.assertEqual(job.counts.cancelled + job.counts.succeeded, 100)
        self.deployment.client.wait_status("free", lambda s: s.running == s.waiting == s.kv_blocks_used == 0)
        self.assertNotEqual(self.cli("watch", job_id).returncode, 0)

    @unittest.skipIf(openai is None, "the openai package is not installed")
    def test_openai_batches(self):
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.deployment.http_port}/v1", api_key="none")
        file = client.files.create(file=("in.jsonl", (line(1) + "\n" + line(2)).encode()), purpose="batch")
        self.assertEqual(client.files.retrieve(file.id).filename, "in.jsonl")
        self.assertIn(file.id, [one.id for one in client.files.list()])
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions",
                                      completion_window="24h", metadata={"a": "b"})
        wait_over(self.stub, batch.id)
        batch = client.batches.retrieve(batch.id)
        self.assertEqual(batch.status, "completed")
        self.assertEqual(batch.request_counts.completed, 2)
        self.assertEqual(batch.metadata, {"a": "b"})
        self.assertIn(batch.id, [one.id for one in client.batches.list()])
        lines = [json.loads(one) for one in client.files.content(batch.output_file_id).text.splitlines()]
        self.assertEqual([one["custom_id"] for one in lines], ["item-1", "item-2"])
        self.assertEqual(client.batches.cancel(batch.id).status, "completed")
        self.assertTrue(client.files.delete(file.id).deleted)

    def test_a_job_of_more_than_a_message(self):
        ids = 100_000 * "x"
        text = "".join(line(i, max_tokens=1, user=ids) + "\n" for i in range(60))
        self.assertGreater(len(text), 4 << 20)
        job_id = self.cli("submit", "-", "--idempotency-key", "large", stdin=text).stdout.strip()
        client = Client(self.deployment.client.endpoint)
        job = client.submit(text.encode(), idempotency_key="large")
        self.assertEqual(job.id, job_id)
        job = wait_over(self.stub, job_id)
        self.assertEqual((job.counts.succeeded, job.counts.total), (60, 60))
        client.channel.close()
        url = f"http://127.0.0.1:{self.deployment.http_port}/v1/files"
        file = curl(url, "-F", "purpose=batch", "-F", "file=@-;filename=large.jsonl", stdin=text)
        self.assertEqual(json.loads(file)["bytes"], len(text))
        self.assertEqual(curl(f"{url}/{json.loads(file)['id']}/content"), text)

    def test_the_python_client(self):
        client = Client(self.deployment.client.endpoint)
        job = client.submit((line(4) + "\n" + line(5)).encode(), priority=3)
        self.assertEqual(job.priority, 3)
        seen = list(client.watch(job.id))
        self.assertEqual(len(seen), 2)
        self.assertEqual([item.index for item in client.results(job.id)], [0, 1])
        self.assertEqual(list(client.watch(job.id, seen=1)), seen[1:])
        (first, second) = client.results(job.id)
        for item in (first, second):
            events = list(client.watch_item(job.id, item.index))
            choice = item.answer.choices[0]
            self.assertEqual([t.token_id for e in events for t in e.tokens.tokens], list(choice.token_ids))
            self.assertEqual("".join(s.text for e in events for s in e.tokens.spans), choice.reasoning + choice.text)
            self.assertEqual(events[-1].finished.usage, item.answer.usage)
        events = list(client.watch_item(job.id, 0, from_token=20))
        self.assertEqual([t.token_id for e in events for t in e.tokens.tokens],
                         list(first.answer.choices[0].token_ids)[20:])
        one = client.submit(self.deployment.client.request(question(3, 4), max_tokens=2))
        self.assertEqual(len(list(client.watch(one.id))), 1)
        client.channel.close()


class PackageTest(unittest.TestCase):
    def test_checked_in_stubs_are_those_of_the_protos(self):
        """Else run deploy/python/generate.sh."""
        for name in ("inference", "jobs"):
            for suffix in ("_pb2.py", "_pb2_grpc.py"):
                file = f"whalepod/v1/{name}{suffix}"
                built = (BUILD / "tests/integration/stubs" / file).read_text()
                self.assertEqual((SOURCE / "deploy/python" / file).read_text(), built, file)


class StoreTest(unittest.TestCase):
    def test_without_a_store_jobs_are_refused(self):
        with Deployment() as deployment:
            with self.assertRaises(grpc.RpcError) as caught:
                jobs_of(deployment).ListJobs(jobs_pb2.ListJobsRequest(), timeout=PATIENCE)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.FAILED_PRECONDITION)
            self.assertIn("--jobs-db", caught.exception.details())

    def test_a_corrupt_store_is_named_and_nothing_starts(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "jobs.db")
            with open(path, "wb") as file:
                file.write(b"x" * 8192)
            run = subprocess.run([BIN / "whalepod-coordinator", SOURCE / "deploy/models/r1-draft", "--port", "0",
                                  "--grpc-port", "0", "--control-port", "0", "--jobs-db", path],
                                 capture_output=True, text=True, timeout=PATIENCE)
            self.assertNotEqual(run.returncode, 0)
            self.assertIn(path, run.stdout + run.stderr)
            self.assertIn("corrupt", run.stdout + run.stderr)


if __name__ == "__main__":
    unittest.main()
