"""A user's SQL in a process of its own, which writes no file, sees no environment and ends at its limits.

DuckDB's own limits are not enough: it counts no memory of a long text or list (`repeat`, `range`, `lpad`), and hears of
no interruption while it makes one. So the kernel limits the process, and the one that asked ends it.

python -m pipeline.results.confined reads a request (JSON) on standard input, and writes the answer as an Arrow stream
to standard output, or why there is none as one line to standard error, with status 2.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TypeVar

import pyarrow as pa

from pipeline.errors import NearsafeError
from pipeline.orphans import Watch
from pipeline.results.database import Batches, connect, memory_exceeded, stream

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
SECONDS = 300.0  # of work; what the reader of the answer takes does not count
# What DuckDB counts (2 GB), what it does not count, Python and Arrow. Only memory that is the process's own.
MEMORY = 4 * 1024**3
_PART = 64 * 1024**2  # bytes of rows that are on their way at once
_TOLD = 4000  # characters of an error: a pipe takes them without a reader
_KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Request:
    """One SELECT over the finished outputs below `data`; see `pipeline.results.database.connect`."""

    sql: str
    data: str
    defences: Sequence[str] | None = None
    variables: dict[str, str] | None = None


@contextmanager
def ask(request: Request, seconds: float = SECONDS) -> Iterator[Batches]:
    """The answer, for `with`. Raises NearsafeError for what `stream` refuses, and at the limit of time or memory."""
    env = {name: os.environ[name] for name in _KEPT if name in os.environ}
    env |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]), "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-B", "-P", "-m", "pipeline.results.confined", str(seconds)]
    orphans = Watch()
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    orphans.over(process.pid)
    watch = _Clock(process, seconds)
    try:
        with suppress(BrokenPipeError):  # it ended before it read: why is told below
            process.stdin.write(json.dumps(asdict(request)).encode())
            process.stdin.close()
        reader = watch.call(lambda: pa.ipc.open_stream(process.stdout))
        yield Batches(reader.schema, iter(lambda: watch.call(lambda: next(reader, None)), None))
    finally:
        process.kill()
        process.wait()
        orphans.end()
        for pipe in (process.stdin, process.stdout, process.stderr):
            with suppress(BrokenPipeError):
                pipe.close()


class _Clock:
    """Ends the process once its reader has waited for it so many seconds in all."""

    def __init__(self, process: subprocess.Popen, seconds: float) -> None:
        self._process, self._seconds, self._left, self._late = process, seconds, seconds, False

    def call(self, work: Callable[[], T]) -> T:
        """What `work` reads. Raises NearsafeError where the process ended early, or had to be ended."""
        timer = threading.Timer(max(self._left, 0.0), self._end)
        started = time.monotonic()
        timer.start()
        try:
            found = work()
        except (pa.ArrowException, OSError) as error:
            raise self._reason() from error
        finally:
            timer.cancel()
            self._left -= time.monotonic() - started
        if found is None and self._process.wait() != 0:  # the stream ended well, and the process did not
            raise self._reason()
        return found

    def _end(self) -> None:
        self._late = True
        self._process.kill()

    def _reason(self) -> NearsafeError:
        status, told = self._process.wait(), self._process.stderr
        text = told.read().decode(errors="replace").strip() if told else ""
        if self._late:
            return NearsafeError(
                f"the query took more than {self._seconds:g} s: ask for less, or give it more (--seconds)"
            )
        return NearsafeError(text if status == 2 and text else memory_exceeded())


def answer(request: Request, out: IO[bytes]) -> None:
    """Write the answer as an Arrow stream. Raises NearsafeError."""
    defences = None if request.defences is None else list(request.defences)
    database = connect(Path(request.data), defences, request.variables)
    with stream(database, request.sql) as found, pa.ipc.new_stream(out, found.schema) as writer:
        for batch in found.rows:
            for part in _parts(batch):
                writer.write_batch(part)
    out.flush()  # the process ends without


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The rows of a batch, few enough at a time that they are not too long. Raises NearsafeError for a row that is."""
    size = max(1, batch.num_rows * _PART // max(batch.nbytes, 1))
    for start in range(0, batch.num_rows, size):
        part = batch.slice(start, size)
        if part.num_rows == 1 and part.nbytes > _PART:
            raise NearsafeError(f"a row of the answer has more than {_PART // 1024**2} MiB: ask for less of it")
        yield part


def confine(seconds: float) -> None:
    """No file can be written from here on, and memory and processor time end. Windows knows no such limits."""
    try:
        import resource
    except ImportError:
        return
    cpu = int(seconds * (os.cpu_count() or 1)) + 60  # for the case that nobody is left to end the process
    limits = {resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0, resource.RLIMIT_CPU: cpu, resource.RLIMIT_DATA: MEMORY}
    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def main() -> None:
    """Answer the request on standard input."""
    request = Request(**json.loads(sys.stdin.buffer.read()))
    confine(float(sys.argv[1]))
    try:
        answer(request, sys.stdout.buffer)
    except NearsafeError as error:
        print(" ".join(str(error).split())[:_TOLD], file=sys.stderr)
        status = 2
    except BrokenPipeError:
        status = 0
    except MemoryError:
        status = 3
    else:
        status = 0
    sys.stderr.flush()
    os._exit(status)  # threads that still compute are not waited for


if __name__ == "__main__":
    main()
