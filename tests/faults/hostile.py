"""Hostile values and bytes for the fuzz tests: what JSON, CSV, YAML, Parquet and tar files of strangers may hold."""

import io
import json
import tarfile
from collections.abc import Sequence
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

TEXTS = [
    "", " ", ".", "..", "../../etc/passwd", "/etc/passwd", "C:\\x", "\\\\host\\x", "a" * 300, "a" * 3000, "a/" * 300,
    "\0", "x\ny", "\r\n", "\u202e", "\ufeff", "\ud800", "\udcff", "<script>alert(1)</script>", "'; DROP TABLE x;--",
    "%s%n{0}", "$(id)", "=1+1", "http://[::1", "9" * 25, "1e999", "NaN",
]  # fmt: skip
VALUES = [
    *TEXTS, None, True, -1, 0, 1.5, 10**18, 2**63 - 1, 2**63, 10**30, float("nan"), float("inf"), [], {}, [[]],
    {"a": {"b": 1}}, ["a", {"b": "c"}],
]  # fmt: skip
_RAW = [
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\0",
    b"\r\n",
    b'"',
    b"9" * 5000,
    b"[" * 3000,
    b"{",
    b"}",
    b"\\ud800",
    b"1e999",
    b",",
]


def spoil(random: Random, value: Any, share: float = 0.06) -> Any:
    """A JSON value of which some parts are others, some keys renamed or gone."""
    if random.random() < share:
        return random.choice(VALUES)
    if isinstance(value, dict):
        kept = {key: spoil(random, cell, share) for key, cell in value.items() if random.random() >= share / 3}
        return {(random.choice(TEXTS) if random.random() < share / 3 else key): cell for key, cell in kept.items()}
    return [spoil(random, item, share) for item in value] if isinstance(value, list) else value


def damage(random: Random, data: bytes) -> bytes:
    """The bytes cut, with bits turned, with a part gone or doubled, or with others in between."""
    at, to = sorted(random.randrange(len(data) + 1) for _ in range(2)) if data else (0, 0)
    match random.randrange(6):
        case 0:
            return data[:at]
        case 1 | 2:
            changed = bytearray(data)
            for _ in range(random.choice((1, 1, 4, 20)) if data else 0):
                changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
            return bytes(changed)
        case 3:
            return data[:at] + data[to:]
        case 4:
            return data[:to] + data[at:]
        case _:
            return data[:at] + random.choice(_RAW) + data[at:]


def as_json(random: Random, value: Any) -> bytes:
    """The value as JSON, spoilt, damaged, or both."""
    spoilt = json.dumps(spoil(random, value) if random.random() < 0.7 else value).encode()
    return damage(random, spoilt) if random.random() < 0.5 else spoilt


def as_lines(random: Random, rows: Sequence[dict[str, Any]]) -> bytes:
    """Objects one a line."""
    lines = b"\n".join(json.dumps(spoil(random, row)).encode() for row in rows)
    return damage(random, lines) if random.random() < 0.5 else lines


def as_csv(random: Random, rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows of text, some cells of them hostile; not always well formed."""
    cells = [list(rows[0]), *([str(spoil(random, value)) for value in row.values()] for row in rows)]
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in cells]
    data = "\n".join(quoted).encode(errors="surrogatepass")
    return damage(random, data) if random.random() < 0.6 else data


def as_parquet(random: Random, rows: Sequence[dict[str, Any]]) -> bytes:
    """Parquet of damaged bytes, with a column twice, with text that is no UTF-8, or times that no calendar has."""
    table = pa.Table.from_pylist(list(rows))
    name = random.choice(table.column_names)
    wrong = [
        pa.array([2**62] * len(rows), pa.timestamp("us")),
        pa.array([2**30] * len(rows), pa.date32()),
        pa.array([b"\xff\xfe"] * len(rows), pa.binary()).view(pa.string()),
        pa.array([[b"x"]] * len(rows)),
        pa.nulls(len(rows)),
    ]
    match random.randrange(4):
        case 0:
            table = table.append_column(name, random.choice(wrong))
        case 1:
            table = table.set_column(table.column_names.index(name), name, random.choice(wrong))
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return damage(random, sink.getvalue()) if random.random() < 0.6 else sink.getvalue()


def as_tar(random: Random, samples: Sequence[dict[str, bytes]], packed: bool) -> bytes:
    """An archive of samples (kind to bytes), some members of hostile names, kinds and contents, perhaps damaged."""
    sink = io.BytesIO()
    form = random.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=sink, mode="w:gz" if packed else "w", format=form) as archive:
        for number, sample in enumerate(samples):
            for kind, content in sample.items():
                name = random.choice(TEXTS[:18]) if random.random() < 0.08 else str(number)
                data = (
                    random.choice((b"", b"9" * 5000, b"\xff", b"[" * 9000, b"{")) if random.random() < 0.08 else content
                )
                member = tarfile.TarInfo(f"{name}.{kind}".replace("\ud800", "\udc80"))
                member.size = len(data)
                if random.random() < 0.05:
                    member.type = random.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE))
                    member.linkname = "/etc/passwd"
                try:
                    archive.addfile(member, io.BytesIO(data))
                except ValueError:  # a name that this form cannot hold
                    continue
    return damage(random, sink.getvalue()) if random.random() < 0.6 else sink.getvalue()
