"""The same tokens and the same logprobs, to the bit, from real processes in different layouts."""

import unittest

from deployment import Deployment, question

LAYOUTS = {
    "one": (),
    "tp2": ("--tp", 2),
    "tp4 ep4": ("--tp", 4, "--ep", 4),
    "dp2 tp2 ep4": ("--dp", 2, "--tp", 2, "--ep", 4),
    "dp4 moe_tp4": ("--dp", 4, "--ep", 1, "--moe-tp", 4),
    "tp4 moe_tp2 ep2": ("--tp", 4, "--ep", 2, "--moe-tp", 2),
}
PROMPTS = [question(12, 7), question(1236, 2199), question(98765 % 9999, 4321), [0] + [100 + i for i in range(90)]]


def answers(client):
    result = []
    for prompt in PROMPTS:
        result.append(client.generate(prompt, temperature=0, max_tokens=48, logprobs=0, ignore_eos=True)[:2])
        result.append(client.generate(prompt, temperature=0.6, seed=11, max_tokens=48, logprobs=0,
                                      ignore_eos=True)[:2])
        result.append(client.generate(prompt, temperature=0.8, seed=12, max_tokens=48, logprobs=0, min_tokens=40,
                                      top_k=50, top_p=0.9, min_p=0.02, repetition_penalty=1.1,
                                      presence_penalty=0.3, frequency_penalty=0.2, logit_bias={50: 1.5})[:2])
    return result


class LayoutsTest(unittest.TestCase):
    def test_all_layouts_give_the_same_bits(self):
        expected = None
        for name, flags in LAYOUTS.items():
            with self.subTest(layout=name), Deployment(*flags) as deployment:
                got = answers(deployment.client)
                expected = expected or got
                self.assertEqual(got, expected)

    def test_three_ranks_give_the_same_tokens(self):
        with Deployment() as one, Deployment("--dp", 3, "--ep", 3) as three:
            self.assertEqual([a[0] for a in answers(three.client)], [a[0] for a in answers(one.client)])


if __name__ == "__main__":
    unittest.main()
