# SPDX-License-Identifier: Apache-2.0
"""Full, closed and abandoned standard streams; terminals."""
import os
import pty
import signal

from .case import Case


class Streams(Case):
    def test_full_and_closed_output(self):
        commands = (("run", "mini", "--prompt", "a", "--max-new", "2"),
                    ("run", "mini", "--prompt", "a", "--max-new", "2", "--json"),
                    ("eval", "mini", "--max-tokens", "60", "--keep-ratio", "1"),
                    ("plan", "--length", "100", "--keep-ratio", "0.5"), ("inspect", "mini"),
                    ("tokenize", "mini", "--text", "a"), ("--help",), ("run", "--help"))
        with open("/dev/full", "wb") as full:
            for command in commands:
                self.fails(4, ["standard output", "No space left"], *command, stdout=full)
            self.assertEqual(self.run_program("inspect", "mini", stderr=full)[0], 0)
            self.assertEqual(self.run_program("inspect", "none", stderr=full)[0], 4)
        for command in commands:
            self.fails(4, ["standard output", "cannot be written"], *command,
                       preexec_fn=lambda: os.close(1))
        # A closed standard output must not become the file that is written.
        path = self.folder / "x.npy"
        self.run_program("logits", "mini", "--tokens", "1", "-o", path,
                         preexec_fn=lambda: os.close(1))
        self.assertNotIn(b"digest", path.read_bytes())

    def test_reader_that_goes_away(self):
        with self.start("run", "mini", "--prompt", "a", "--max-new", "200") as process:
            process.stdout.close()
            err = process.stderr.read()
            process.wait(timeout=20)
        self.assertEqual((process.returncode, err), (-signal.SIGPIPE, b""))

    def test_progress_only_on_a_terminal(self):
        command = ("eval", "mini", "--max-tokens", "60", "--keep-ratio", "1")
        _, _, err = self.run_program(*command)
        self.assertEqual(err, b"")
        master, slave = pty.openpty()
        self.addCleanup(os.close, master)
        try:
            self.assertEqual(self.run_program(*command, stderr=slave)[0], 0)
        finally:
            os.close(slave)
        shown = os.read(master, 10000)
        self.assertIn(b"\reval ", shown)
        self.assertTrue(shown.endswith(b"\r\x1b[K"))
