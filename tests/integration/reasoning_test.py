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
FLOORS = {"mixed": (97, 95), "noisy": (95, 94), "new": (90, 0), "second": (95, 0)} if COUNT >= 1000 else {
    "mixed": (92, 85), "noisy": (88, 80), "new": (88, 0), "second": (90, 0)}

sys.path.insert(0, str(RECIPE))
sys.dont_write_bytecode = True
import problems  # noqa: E402
import score  # noqa: E402


@unittest.skipUnless((R1_TINY / "model.safetensors.index.json").exists(), "r1-tiny's files are not here")
class ReasoningTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.deployment = Deployment("--tensor-parallel-size", 4, "--enable-expert-parallel", "--jobs-db",
                                    f"{cls.folder.name}/jobs.db", model=R1_TINY)
        cls.deployment.__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.deployment.__exit__(None, None, None)
        cls.folder.cleanup()

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

    def test_eval_grades_as_score_does(self):
        items = problems.held_out_set(30, 5, "mixed")
        answers = self.ask([i["messages"] for i in items], "--temperature", 0)
        right, total = score.score(map(problems.expected, items), answers)["all"]
        path = f"{self.folder.name}/questions.jsonl"
        with open(path, "w", encoding="utf-8") as file:
            for item in items:
                boxed = problems.expected(item)["answer"]
                print(json.dumps({"messages": item["messages"],
                                  "answer": boxed.removeprefix("\\boxed{").removesuffix("}")}), file=file)
        run = lambda *flags: subprocess.run(
            [BIN / "whalepod", "eval", path, "--max-tokens", "300", "--json", "--endpoint",
             self.deployment.client.endpoint, *map(str, flags)],
            capture_output=True, text=True, timeout=600, check=False)
        done = run("--temperature", 0)
        self.assertEqual(done.returncode, 0, done.stderr)
        grades = json.loads(done.stdout)
        self.assertEqual((grades["questions"], grades["right"]), (total, right))
        tokens = sum(a["usage"]["completion_tokens"] for a in answers)
        self.assertEqual(grades["output_tokens"], tokens)
        self.assertGreater(grades["cost_dollars"], tokens * 2.19e-6)
        several = json.loads(run("-k", 3, "--seed", 1).stdout)
        self.assertGreater(several["cons_at_k"], 0.8)
        self.assertEqual(several["samples"], 3)

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
