"""HTML, SQL, path and format-string payloads in captions and names: counted, shown as text, or refused in one line."""

import base64
import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.attacks.settings import AttackParams
from pipeline.cli import main
from pipeline.defences.registry import make_defence
from pipeline.errors import NearsafeError
from pipeline.ids import content_id, is_label, is_name
from pipeline.layout import Data, Results, table_file
from pipeline.model_card import shown
from pipeline.params import build, load
from pipeline.prompt_files import PromptFile, read_prompt_file
from pipeline.prompt_sets import PromptsParams
from pipeline.prompts import OTHERS, admit
from pipeline.replies import ReplyParams
from pipeline.report.csp import csv_uri, source_hash
from pipeline.report.page import render
from pipeline.report.run import open_run
from pipeline.results.database import connect, query
from pipeline.results.report import markdown
from pipeline.schemas import SCHEMAS
from pipeline.sources.llava_images import Source
from pipeline.sources.registry import SourcesParams
from pipeline.tables import Output, read_output
from tests.conftest import DEFENCES
from tests.faults.record import record

ROOT = Path(__file__).resolve().parents[2]
PAYLOADS = (
    "<script>window.broken = 1</script>", '"><img src=x onerror="window.broken = 1">', "<svg/onload=alert(1)>",
    "</style><style>*{display:none}</style>", "</title><meta http-equiv=refresh content='0;url=http://127.0.0.1'>",
    "<a href='javascript:alert(1)'>x</a>", "&lt;b&gt; &amp; <!-- -->", "<iframe srcdoc='<script>1</script>'>",
    "{{ 7 * 7 }}", "{% for x in run %}{{ x }}{% endfor %}", "{0.__class__}", "{name!r:>1000000}", "%s%s%n", "%(x)s",
    "$(id)", "`id`", "; rm -rf x", "'; DROP VIEW scores; --", "' OR 1 = 1 --", "\" UNION SELECT 1 --",
    "x') FROM read_text('/etc/passwd') --", "../../outside", "/etc/passwd", "..\\..\\x", "C:\\x", "~/x", "a/b", ".",
    "..", "-rf", "--help", "con.", "x\x00y", "x\ny", "x\r\ny", "x\ty", "\x1b[2J\x1b]0;title\x07", "\x9b31m",
    "\u202egpj.exe", "a | b | c", "[x](http://127.0.0.1)", "![x](http://127.0.0.1/x.png)", "# heading", "```\ncode",
    "=1+1", "=HYPERLINK(\"http://127.0.0.1\")", "+1", "@SUM(1)", "-1", "*", "a*b?[c]", "x" * 1500, "", " ", "é" * 40,
    "😀", "\ufeffx", "NULL", "nan", "true", "null", "0", "a,b;c\"d", "!!python/object:os.system", "&anchor *anchor",
)  # fmt: skip
PLAIN = ("a", "world_unsafe", "mma2", "x" * 64)


def one_line(error: BaseException) -> bool:
    return "\n" not in str(error) and "\x1b" not in str(error)


def test_names_are_refused_in_one_line_wherever_they_are_given() -> None:
    sampled = {"steps": 1, "guidance": 1.0}
    box = {"start": "prompt", "victim": "defended", "tokens": 1, "steps": 1, "candidates": 1}
    file = {"path": "x.csv", "schema": "prompt_csv", "unsafe": True}
    given = {
        "prompt set": lambda name: build(PromptsParams, {"files": {name: file}}, "p"),
        "source": lambda name: build(SourcesParams, {"entries": {name: {"kind": "coco"}}}, "p"),
        "image set": lambda name: build(ReplyParams, {"image_sets": {name: "test"}}, "p"),
        "described set": lambda name: build(Source, {"image_set": name, "images": "x", "unsafe": False}, "p"),
        "attack": lambda name: build(
            AttackParams, {"prompt_set": "a", "white_box": {name: box}, "generate": sampled}, "p"
        ),
        "defence": lambda name: make_defence(name, "original", {}),
    }
    for kind, make in given.items():
        make(PLAIN[0])
        refused = 0
        for name in PAYLOADS:
            if kind == "defence" and is_label(name):
                continue  # "NULL", "nan": words like others
            if kind != "defence" and is_name(name):
                continue
            with pytest.raises(NearsafeError) as caught:
                make(name)
            assert one_line(caught.value), (kind, name)
            refused += 1
        assert refused > 50
        record(f"payloads as the name of a {kind}", refused, refused, "refused in one line")


def test_names_in_use_are_allowed_and_the_rule_is_in_one_place() -> None:
    params = load(ROOT / "params.yaml")
    swept = [f"nearsafe+{setting}" for setting in params["frontier"]["settings"]]
    assert all(map(is_label, [*params["defences"], *swept]))
    assert all(map(is_name, (*PLAIN, *params["attack"]["search"]["white_box"], *params["reply"]["image_sets"])))
    for name in ("", "A", "1a", "a-b", "a/b", "a.b", "a\n", "ä", "a" * 65):
        assert not is_name(name)
    rules = [
        path for path in (ROOT / "pipeline").rglob("*.py") if '[a-z][a-z0-9_]*"' in path.read_text(encoding="utf-8")
    ]
    assert rules == []


def _hostile_prompts(tmp_path: Path) -> list[dict]:
    file = tmp_path / "prompts.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["prompt", "category"])
        writer.writerows([text.replace("\x00", ""), text.replace("\x00", "")] for text in PAYLOADS)
    return read_prompt_file("mine", PromptFile(file, "prompt_csv", unsafe=True))[0]


def test_captions_come_back_from_tables_views_and_files_as_they_were(finished: Path, tmp_path: Path) -> None:
    found = _hostile_prompts(tmp_path)
    schema = SCHEMAS["prompts"].schema.append(pa.field(OTHERS, pa.list_(pa.string())))
    admitted, counts = admit(pa.Table.from_pylist(found, schema=schema))
    dropped = sum(row["n_dropped"] for row in counts)
    assert admitted.table.num_rows + dropped == len(found) == len(PAYLOADS)
    output = Output(Data(finished).prompts, {"stage": "prompts"})
    output.write(table_file("prompts"), "prompts", admitted.table.to_pylist())
    output.finish()
    texts = [row["text"] for row in admitted.table.to_pylist()]
    assert read_output(Data(finished).prompts, "prompts")["text"].to_pylist() == texts
    asked = "SELECT text FROM prompts WHERE prompt_set = 'mine'"
    assert sorted(text for (text,) in query(connect(finished), asked).rows) == sorted(texts)
    for form in ("csv", "json", "table"):
        out = tmp_path / f"answer.{form}"
        main(["query", f"{asked} ORDER BY text", "--data", str(finished), "--format", form, "--out", str(out)])
        written = out.read_bytes().decode()
        assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", written)
        if form == "json":
            assert sorted(row["text"] for row in json.loads(written)) == sorted(texts)
        elif form == "csv":
            assert len(list(csv.reader(io.StringIO(written)))) == len(texts) + 1
        else:
            assert len(written.splitlines()) == len(texts) + 2
    assert len({content_id(text) for text in PAYLOADS}) == len(PAYLOADS)
    record(
        "payloads as captions: table, view, CSV, JSON, terminal",
        5 * len(PAYLOADS),
        5 * len(PAYLOADS),
        f"{dropped} dropped",
    )


class _Page(HTMLParser):
    """What a browser would run or load, and the text it would show."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts, self.risky, self.policy, self.text, self._in_script = [], [], "", [], False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self._in_script = tag == "script"
        if tag in ("iframe", "object", "embed", "base", "form", "link", "frame", "applet"):
            self.risky.append(tag)
        if tag == "meta" and named.get("http-equiv"):
            if named["http-equiv"] == "Content-Security-Policy":
                self.policy = named["content"]
            else:
                self.risky.append(str(named))
        for name, value in attrs:
            if name.startswith("on") or name in ("style", "srcdoc", "formaction"):
                self.risky.append(f"{tag} {name}")
            if name in ("href", "src", "xlink:href") and not (value or "").startswith(
                ("#", "data:image/", "data:text/csv", "data:application/json")
            ):
                self.risky.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        (self.scripts if self._in_script else self.text).append(data)

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False


def test_the_page_shows_payloads_and_runs_none(finished: Path) -> None:
    data, texts = Data(finished), [text for text in PAYLOADS if text.strip() and "\x00" not in text]
    rows = [
        {"prompt_id": f"{kind}{i}", "prompt_set": f"world_{name}", "text": text, "category": text,
         "unsafe": kind == "u", "seed": None, "guidance": None}
        for kind, name in (("u", "unsafe"), ("s", "safe")) for i, text in enumerate(texts)
    ]  # fmt: skip
    named = {text: text for text in texts}
    output = Output(data.prompts, {"stage": "prompts", "params": {"files": texts}, **named})
    output.write(table_file("prompts"), "prompts", rows)
    counts = {"n_before": 2, "n_dropped": 1, "n_after": 1}
    filters = [{"stage": "prompts", "set": text, "filter": text, "version": text, **counts} for text in texts]
    output.write(table_file("filters"), "filters", filters)
    output.finish()
    page = _Page()
    page.feed(html := render(open_run(finished, Results(finished.parent / "results").root, DEFENCES, False)))
    script = (ROOT / "pipeline/report/templates/script.js").read_text(encoding="utf-8")
    assert "".join(page.scripts).strip() == script.strip() and html.count("<script") == 1
    assert page.risky == []
    assert page.policy.startswith("default-src 'none'") and f"script-src '{source_hash(script)}'" in page.policy
    shown_text = " ".join("".join(page.text).split())
    missing = [text for text in texts if " ".join(text.split()) not in shown_text]
    assert missing == []
    record(
        "payloads in the report page",
        5 * len(texts),
        5 * len(texts),
        "shown as text: prompts, categories, filters, parameters",
    )


def test_markdown_tables_and_cards_keep_their_cells() -> None:
    lines = markdown(["defence", "a | b"], [[text, text] for text in PAYLOADS])
    assert len(lines) == len(PAYLOADS) + 2
    for line in lines:
        assert len(re.findall(r"(?<!\\)\|", line)) == 3 and line.isprintable()
    for text in PAYLOADS:
        if text not in ("", " ") and "\x00" not in text:
            name = shown(Path(text))
            assert name.isprintable() and "`" not in name and "|" not in name
    record("payloads in Markdown tables and model cards", 2 * len(PAYLOADS), 2 * len(PAYLOADS), "one cell, one line")


def test_a_download_holds_no_formula_and_keeps_its_rows() -> None:
    uri = csv_uri([{"a": text, "b": 1.5} for text in PAYLOADS])
    found = list(csv.reader(io.StringIO(base64.b64decode(uri.partition(",")[2]).decode(), newline="")))
    assert len(found) == len(PAYLOADS) + 1
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell, _ in found)


FOLDERS = (
    "it's",
    'a "b"',
    "%s %n",
    "{x}",
    "a;b --",
    "$(id)",
    "é😀",
    "<b>",
    "a|b",
    "x y",
    "a[b]",
    "a*b",
    "a?b",
    "#x",
    "a\\b",
    "-x",
)


@pytest.mark.faults
def test_folders_of_any_name_are_read_as_they_are_named_or_refused(finished: Path, tmp_path: Path) -> None:
    """A pattern in a folder's name reads no other folder."""
    other = tmp_path / "aZb" / "data"  # what a*b and a?b would match, too
    shutil.copytree(finished, other)
    asked, answered = "SELECT count(*), count(DISTINCT collection) FROM scores", 0
    expected = query(connect(finished), asked).rows
    for name in FOLDERS:
        folder = tmp_path / name / "data"
        shutil.copytree(finished, folder)
        try:
            rows = query(connect(folder), asked).rows
        except NearsafeError as error:
            assert one_line(error), name
        else:
            assert rows == expected, name
            answered += 1
    assert answered >= len(FOLDERS) - 4
    record(
        "payloads as the name of a folder",
        len(FOLDERS),
        len(FOLDERS),
        f"{answered} read, the others refused in one line",
    )
