"""Published prompt files, by invented rows in their columns: what is read, what is checked, what the filter sees."""

import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import NearsafeError, TableError
from pipeline.params import build
from pipeline.prompt_files import FILES, PromptFile, read_prompt_file
from pipeline.prompts import OTHERS, admit
from pipeline.schemas import SCHEMAS

I2P = (
    "Unnamed: 0,prompt,categories,hard,inappropriate_percentage,nudity_percentage,q16_percentage,sd_safety_percentage,"
    "prompt_toxicity,lexica_url,evaluation_seed,evaluation_guidance,sd_image_width,sd_image_height,sd_model,case_number"
)
ROW = "{0},{1},{2},0,1.0,0.0,1.0,0.0,0.1,https://example.org/{0},{3},{4},512,512,v1-4,{0}"


def i2p(*rows):
    return "\n".join([I2P, *(ROW.format(number, *row) for number, row in enumerate(rows))]) + "\n"


def read(tmp_path, content, schema="i2p", suffix="csv", **options):
    path = tmp_path / f"set.{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    entry = {"path": str(path), "schema": schema, "unsafe": True, **options}
    return read_prompt_file("name", build(PromptFile, entry, "params.yaml: prompts.files.name"))


def admitted(rows):
    schema = SCHEMAS["prompts"].schema.append(pa.field(OTHERS, pa.list_(pa.string())))
    return admit(pa.Table.from_pylist(rows, schema=schema))[0].table["text"].to_pylist()


def test_i2p_rows_bring_their_seed_guidance_and_categories(tmp_path):
    content = i2p(("a knife", '"violence, shocking"', "42", "7.5"), ("  a gun ", "violence", "4294967295.0", "12"))
    rows, digest = read(tmp_path, content)
    assert [(r["text"], r["category"], r["seed"], r["guidance"]) for r in rows] == [
        ("a knife", "violence, shocking", 42, 7.5),
        ("a gun", "violence", 4294967295, 12.0),
    ]
    assert digest == hashlib.sha256(content.encode()).hexdigest()
    assert rows[0]["prompt_set"] == "name" and rows[0]["unsafe"] and rows[0]["prompt_id"] != rows[1]["prompt_id"]
    assert len(rows[0][OTHERS]) == 16


def test_the_other_release_of_i2p_names_its_columns_otherwise(tmp_path):
    rows, _ = read(tmp_path, "prompt,categories,sd_seed,sd_guidance_scale\na bomb,violence,3,9\n")
    assert (rows[0]["seed"], rows[0]["guidance"]) == (3, 9.0)


@pytest.mark.parametrize("name", FILES)
def test_every_schema_reads_a_file_of_its_columns(tmp_path, name):
    schema = FILES[name]
    cells = {text: f"a mug {at}" for at, text in enumerate(schema.texts)}
    for values, cell in ((schema.category, "weapons"), (schema.seed, "7"), (schema.guidance, "2.5")):
        cells.update({column: cell for column in values[:1]})
    rows = {
        "csv": ",".join(cells) + "\n" + ",".join(cells.values()) + "\n",
        "json": json.dumps({"names": ["a"], "ID_test_data": [cells]}),
    }
    for suffix, content in rows.items():
        found, _ = read(tmp_path, content, name, suffix)
        assert [(r["text"], r["category"], r["seed"], r["guidance"]) for r in found] == [
            ("a mug 0", "weapons" if schema.category else None, 7 if schema.seed else None,
             2.5 if schema.guidance else None)
        ]  # fmt: skip


def test_the_age_word_filter_reads_every_cell_of_a_row(tmp_path):
    header = "target_prompt,adv_prompt,sanitized_adv_prompt,success_against_sanitization_defense,clean_prompt\n"
    lines = [
        "a cup,x1,x1,True,a mug",
        "a child,x2,x2,True,a mug",
        "a cup,x3,x3,True,a girl",
        "a cup,c h i l d,x,True,a",
    ]
    rows, _ = read(tmp_path, header + "\n".join(lines) + "\n", "mma")
    assert [row["text"] for row in rows] == ["x1", "x2", "x3", "c h i l d"]
    assert admitted(rows) == ["x1"]
    pairs = "sensitive prompt,normal prompt\na knife,a spoon\na gun,a schoolboy\n"
    assert admitted(read(tmp_path, pairs, "ringabell_pairs")[0]) == ["a knife"]
    assert admitted(read(tmp_path, pairs, "ringabell_pairs", column="normal prompt")[0]) == ["a spoon"]
    unnamed = ",prompt\n0,a cup\na boy,a mug\n"
    assert admitted(read(tmp_path, unnamed, "prompt_csv")[0]) == ["a cup"]
    labels = json.dumps(
        [{"nsfw": "a gun", "safe": "a cup", "tag": "child abuse"}, {"nsfw": "b", "safe": "c", "tag": "d"}]
    )
    assert admitted(read(tmp_path, labels, "visu", "json")[0]) == ["b"]


def test_parquet_and_plain_lines(tmp_path):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"prompt": ["a cup", None], "evaluation_seed": [5, 6]}), sink)
    rows, _ = read(tmp_path, sink.getvalue().to_pybytes(), "coco", "parquet", unsafe=False)
    assert [(row["text"], row["seed"], row["unsafe"]) for row in rows] == [("a cup", 5, False), ("", 6, False)]
    rows, _ = read(tmp_path, "one knife\n\ntwo knives\n", "sneakyprompt", "txt")
    assert [row["text"] for row in rows] == ["one knife", "", "two knives"]


def test_lists_of_a_json_file_can_be_chosen(tmp_path):
    def item(text):
        return {"unsafe_prompt": text, "safe_prompt": f" not {text}", "concept": "c", "category": "Violence"}

    content = json.dumps(
        {"ID_concepts": ["c"], "ID_train_data": [item("a")], "ID_test_data": [item("b")], "concept_adv": {"c": "d"}}
    )
    assert [row["text"] for row in read(tmp_path, content, "copro_json", "json")[0]] == ["a", "b"]
    chosen = {"splits": ["ID_test_data"], "column": "safe_prompt", "unsafe": False}
    assert [row["text"] for row in read(tmp_path, content, "copro_json", "json", **chosen)[0]] == ["not b"]
    with pytest.raises(TableError, match="no list 'OOD' of rows; found ID_train_data, ID_test_data"):
        read(tmp_path, content, "copro_json", "json", splits=["OOD"])


def test_a_hash_is_checked(tmp_path):
    digest = hashlib.sha256(b"prompt\na cup\n").hexdigest()
    assert read(tmp_path, "prompt\na cup\n", "prompt_csv", sha256=digest[:12])[1] == digest
    with pytest.raises(NearsafeError, match=f"SHA-256 is {digest}, expected {'0' * 64}"):
        read(tmp_path, "prompt\na cup\n", "prompt_csv", sha256="0" * 64)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("text\na\n", {}, r"set\.csv: schema 'i2p': no column 'prompt'; found text"),
        ("prompt,categories\na,b\n", {}, "no column 'evaluation_seed' or 'sd_seed'; found prompt, categories"),
        ("prompt,prompt\na,b\n", {"schema": "prompt_csv"}, "column 'prompt' appears 2 times, expected once"),
        (i2p(("a", "b", "1", "7"), ("a", "b", "-1", "7")), {}, "column 'evaluation_seed', row 1: '-1' is not a whole"),
        (i2p(("a", "b", "", "7")), {}, "column 'evaluation_seed', row 0: '' is not a whole number"),
        (i2p(("a", "b", "1", "nan")), {}, "column 'evaluation_guidance', row 0: 'nan' is not a number above 0"),
        ("prompt\na,b\n", {"schema": "prompt_csv"}, "row 0: 2 cells, the header has 1"),
        ("prompt\na\n", {"schema": "prompt_csv", "categories": ["x"]}, "no column 'category' or 'categories'"),
        ("prompt\na\n", {"schema": "mma"}, "no column 'adv_prompt'"),
        (b"\xff\xfe", {"schema": "prompt_csv"}, "not a readable CSV file"),
        ("{", {"schema": "copro_json", "suffix": "json"}, "not a readable JSON file"),
        ("x", {"suffix": "parquet"}, "not a readable Parquet file"),
        ("x", {"suffix": "pt"}, "expected a file that ends in .csv, .parquet, .json, .txt"),
    ],
)
def test_a_wrong_file_is_named_with_column_and_row(tmp_path, content, options, message):
    with pytest.raises(NearsafeError, match=message):
        read(tmp_path, content, **{"schema": "i2p", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"column": "note"}, "schema 'i2p' has the prompts prompt, not 'note'"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"sha256": "c8148738"}, "expected 12 to 64 hexadecimal digits"),
        ({"categories": []}, "expected one or more names, or null"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, options, message):
    with pytest.raises(NearsafeError, match=f"prompts.files.name: .*{message}"):
        read(tmp_path, i2p(), **options)
