"""Runs what docs/clients.md shows, top to bottom, against a deployment of the bundled model, and compares
what it prints with what the page says. Blocks that need a package or a program that is not there are
named as skipped: openai (run by an interpreter that has it), grpcurl (a stand-in that knows what the
page uses of it takes its place)."""

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

from deployment import BIN, PATIENCE, SOURCE, Deployment

PAGE = SOURCE / "docs/clients.md"
TINY = SOURCE / "deploy/models/r1-tiny"
BLOCK = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks():
    """(language, note, code, expected output or None) in order."""
    found = [match.groups() for match in BLOCK.finditer(PAGE.read_text())]
    for i, (language, note, code) in enumerate(found):
        if language == "text":
            continue
        following = found[i + 1] if i + 1 < len(found) else ("", "", "")
        yield language, note, code, following[2] if following[0] == "text" else None


def pattern(expected):
    parts = [re.escape(part) for part in expected.rstrip("\n").split("…")]
    return re.compile(r"(?s)\A" + ".*?".join(parts) + r"\s*\Z")


class DocsTest(unittest.TestCase):
    def test_the_page_of_examples(self):
        have_openai = importlib.util.find_spec("openai") is not None
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "bin").mkdir()
            if not shutil.which("grpcurl"):
                print("grpcurl is not installed: a stand-in runs its commands")
                stand_in = folder / "bin/grpcurl"
                stand_in.write_text(f"#!/bin/sh\nexec {sys.executable} {SOURCE}/tests/tools/grpcurl.py \"$@\"\n")
                stand_in.chmod(0o755)
            flags = ("--tensor-parallel-size", 4, "--enable-expert-parallel", "--state-dir", folder / "state")
            ran = 0
            with Deployment(*flags, model=TINY) as deployment:
                for language, note, code, expected in blocks():
                    if note == "serve":
                        for flag in map(str, flags[:-1]):
                            self.assertIn(flag, code)
                        continue
                    if note == "openai" and not have_openai:
                        print("skipped, the openai package is not installed:", code.splitlines()[0])
                        continue
                    with self.subTest(code=code):
                        self.run_block(deployment, folder, language, code, expected)
                    ran += 1
            self.assertGreater(ran, 8)

    def run_block(self, deployment, folder, language, code, expected):
        port = deployment.client.endpoint.rpartition(":")[2]
        code = code.replace("127.0.0.1:50051", f"127.0.0.1:{port}")
        code = code.replace("127.0.0.1:8000", f"127.0.0.1:{deployment.http_port}")
        paths = os.pathsep.join([str(SOURCE / "deploy/python"), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PATH": f"{BIN}:{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": paths,
                       "WHALEPOD_ENDPOINT": f"127.0.0.1:{port}"}
        command = {"sh": ["sh", "-e", "-c", code], "python": [sys.executable, "-c", code]}[language]
        run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True,
                             timeout=PATIENCE)
        self.assertEqual(run.returncode, 0, run.stderr)
        if expected is not None:
            self.assertRegex(run.stdout, pattern(expected), run.stderr)


if __name__ == "__main__":
    unittest.main()
