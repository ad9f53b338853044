"""The bundled model's answers, through four workers: held-out problems, phrasings that were never trained,
second turns.

WHALEPOD_PROBLEMS sets how many of each kind are asked (default 40); 1000 is what deploy/models/r1-tiny's README
states.
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest

from deployment import BIN, SOURCE, Deployment

R1_TINY = SOURCE / "deploy/models/r1-tiny"
RECIPE = R1_TINY / "recipe"
COUNT = int(os.environ.get("WHALEPOD_PROBLEMS", "40"))
# Percent of all and of each operation. Few problems make a coarse measure; greedy answers are always the same.
FLOORS = {"mixed": (96, 94), "noisy": (93, 90), "new": (90, 0), "second": (95, 0)} if COUNT >= 1000 else {
    "mixed": (92, 85), "noisy": (88, 80), "new": (88, 0), "second": (90, 0)}

sys.path.insert(0, str(RECIPE))
sys.dont_write_bytecode = True
import problems  # noqa: E402
import score  # noqa: E402


@unittest.skipUnless((R1_TINY / "model.safetensors.index.json").exists(), "r1-tiny's files are not here")
class ReasoningTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.deployment = Deployment("--tensor-parallel-size", 4, "--enable-expert-parallel", model=R1_TINY)
        cls.deployment.__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.deployment.__exit__(None, None, None)

    def ask(self, messages, *flags):
        """Answers of `whalepod generate --prompts`, in order."""
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            for conversation in messages:
                print(json.dumps({"messages": conversation}), file=file)
            file.flush()
            run = subprocess.run(
                [BIN / "whalepod", "generate", "--prompts", file.name, "--max-tokens", "300", "--json",
                 "--endpoint", self.deployment.client.endpoint, *map(str, flags)],
                capture_output=True, text=True, timeout=3600, check=False)
        self.assertEqual(run.returncode, 0, run.stderr)
        return [json.loads(line) for line in run.stdout.splitlines()]

    def test_held_out_problems(self):
        for kind, (of_all, of_each) in FLOORS.items():
            items = problems.held_out_set(COUNT, 2, kind)
            counts = score.score(map(problems.expected, items), self.ask([i["messages"] for i in items], "--temperature", 0))
            shares = {key: score.percent(count) for key, count in counts.items() if ": " not in key}
            print(kind, {key: (*counts[key], round(share, 1)) for key, share in shares.items()}, file=sys.stderr)
            with self.subTest(kind=kind):
                self.assertGreaterEqual(shares.pop("all"), of_all)
                self.assertGreaterEqual(min(shares.values()), of_each)

    def test_it_reasons_and_then_answers(self):
        (reply,) = self.ask([[{"role": "user", "content": "What is 1236 plus 2199?"}]], "--temperature", 0)
        self.assertIn("Line up: 1236+2199.", reply["reasoning"])
        self.assertEqual(reply["text"].strip(), "The answer is \\boxed{3435}.")

    def test_defaults_are_those_of_generation_config(self):
        """Without options it samples at 0.6 and 0.95, nearly always well; a seed repeats."""
        question = [[{"role": "user", "content": "What is 1236 plus 2199?"}]]
        first, again = (self.ask(question, "--seed", 5)[0] for _ in range(2))
        self.assertEqual(first["token_ids"], again["token_ids"])


if __name__ == "__main__":
    unittest.main()
