"""--log-format json: every line of the log is an object that says what is known."""

import json
import unittest

import grpc
from deployment import PATIENCE, Deployment, question
from whalepod.v1 import inference_pb2


class LogsTest(unittest.TestCase):
    def setUp(self):
        self.deployment = Deployment("--tp", 2, "--ep", 2, "--log-format", "json",
                                     env={"WHALEPOD_LOG": "debug"})
        self.deployment.__enter__()
        self.addCleanup(self.deployment.process.stop)

    def generate(self, request_id, ids, **options):
        request = inference_pb2.GenerateRequest(
            request_id=request_id, token_ids=inference_pb2.TokenIds(ids=ids),
            options=inference_pb2.GenerationOptions(**options))
        events = list(self.deployment.client.stub.Generate(request, timeout=PATIENCE))
        return events[-1].finished.usage.completion_tokens

    def test_lines(self):
        tokens = self.generate('id"with\\quotes', question(12, 7), temperature=0)
        with self.assertRaises(grpc.RpcError):
            self.generate("refused", [0], temperature=3)
        self.deployment.__exit__()
        # What `serve` itself says goes to the standard output, which is no log.
        own = ("starting:", "loading:", "ready:", "stopping:")
        lines = [json.loads(line) for line in self.deployment.process.text().split("\n") if not line.startswith(own)]
        for line in lines:
            self.assertRegex(line["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
            self.assertIn(line["level"], ("debug", "info", "warning", "error"))
            self.assertIsInstance(line["message"], str)
        self.assertEqual({line["process"] for line in lines}, {"coordinator", "rank 0", "rank 1"})
        for rank in (0, 1):
            own_lines = [line for line in lines if line["process"] == f"rank {rank}"]
            self.assertEqual({line["rank"] for line in own_lines}, {rank})
            self.assertEqual(own_lines[-1]["epoch"], 1)
            self.assertGreater(own_lines[-1]["step"], 1)
            joined = [line for line in lines if line["process"] == "coordinator" and line.get("rank") == rank]
            self.assertTrue(any("joined" in line["message"] for line in joined), joined)
        (end,) = [line for line in lines if line.get("outcome") == "finished"]
        self.assertEqual(end["request_id"], 'id"with\\quotes')
        self.assertEqual((end["transport"], end["process"], end["epoch"]), ("grpc", "coordinator", 1))
        self.assertEqual((end["prompt_tokens"], end["completion_tokens"]), (len(question(12, 7)), tokens))
        self.assertGreater(end["ttft_ms"], 0)
        self.assertGreater(end["total_ms"], end["ttft_ms"])
        (refused,) = [line for line in lines if line.get("outcome") == "rejected"]
        self.assertEqual(refused["request_id"], "refused")
        self.assertIn("temperature", refused["message"])
        self.assertNotIn("ttft_ms", refused)


if __name__ == "__main__":
    unittest.main()
