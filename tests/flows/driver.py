"""A process that runs one flow after the other: Prefect's start costs as much as all flows of a test.

A request is a line of JSON, the arguments of `run_flow`; its answer is the outcome, or the error, as a line of JSON.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from pipeline.errors import NearsafeError

# Read by every Python process below: whoever calls another machine is written down, and gets no answer.
OFFLINE = """
import os, socket
_connect = socket.socket.connect
def connect(self, address):
    internet = self.family in (socket.AF_INET, socket.AF_INET6)
    if internet and not str(address[0]).startswith(("127.", "::1", "localhost")):
        with open(os.environ["CALLS"], "a") as file: file.write(f"{address}\\n")
        raise OSError("this test is offline")
    return _connect(self, address)
socket.socket.connect = connect
"""


class Driver:
    """The parent's side."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        (folder / "offline").mkdir()
        (folder / "offline" / "sitecustomize.py").write_text(OFFLINE)
        self.calls, self.log = folder / "calls.txt", folder / "driver.log"
        self._log: IO[str] = self.log.open("w")
        python = [str(folder / "offline"), str(Path(__file__).resolve().parents[2])]
        own = {"PYTHONPATH": ":".join(python), "CALLS": str(self.calls)}
        self._process = subprocess.Popen(
            [sys.executable, __file__], env={**env, **own}, text=True, cwd=folder,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
        )  # fmt: skip

    def run(self, root: Path, **request: Any) -> dict[str, Any]:
        """The outcome of one flow, or {"error": message}. `env`: more of its environment."""
        assert self._process.stdin and self._process.stdout
        print(json.dumps({"root": str(root), **request}), file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith('{"answer"'):
                return json.loads(line)["answer"]
        raise AssertionError(self.log.read_text()[-3000:])

    def close(self) -> None:
        """End the process and Prefect's temporary server with it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(60)
        self._log.close()


def main() -> None:
    """The child's side."""
    from pipeline.flows.run import run_flow

    for line in sys.stdin:
        request = json.loads(line)
        own = request.pop("env", {})
        os.environ.update(own)
        try:
            answer = asdict(run_flow(Path(request.pop("root")), **request))
        except NearsafeError as error:
            answer = {"error": str(error)}
        for name in own:
            del os.environ[name]
        print(json.dumps({"answer": answer}, default=str), flush=True)


if __name__ == "__main__":
    main()
