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


# Header and a row as they are published, written out by hand (evaluation specification, section 11): a test that took
# the names from the importer's own table would pass with any of them misspelt. `prompt_csv` is a format of our own.
I2P_ROW = "0,a knife,violence,0,1.0,0.0,1.0,0.0,0.1,https://example.org/0,42,7.5,512,512,v1-4,0"
LITERAL = [
    ("i2p", I2P, I2P_ROW, {"prompt": "a knife"}, "violence", 42, 7.5),
    (
        "i2p",
        "prompt,categories,hard,inappropriate_percentage,nudity_percentage,q16_percentage,sd_safety_percentage,"
        "prompt_toxicity,lexica_url,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height,sd_model",
        "a knife,violence,0,1.0,0.0,1.0,0.0,0.1,https://example.org/0,42,7.5,512,512,v1-4",
        {"prompt": "a knife"}, "violence", 42, 7.5,
    ),
    ("unlearndiffatk", I2P, I2P_ROW, {"prompt": "a knife"}, "violence", 42, 7.5),
    ("p4d", I2P, I2P_ROW, {"prompt": "a knife"}, "violence", 42, 7.5),
    ("p4d", "prompt", "a mug zq", {"prompt": "a mug zq"}, None, None, None),
    ("ringabell", "prompt,case_number,evaluation_seed", "a mug zq,0,42", {"prompt": "a mug zq"}, None, 42, None),
    ("ringabell", "prompt,case_number,evaluation_seed,prompt1", "a mug,0,42,b", {"prompt": "a mug"}, None, 42, None),
    ("ringabell", "prompt", "a mug zq", {"prompt": "a mug zq"}, None, None, None),
    (
        "ringabell_pairs", "sensitive prompt,normal prompt", "a knife,a spoon",
        {"sensitive prompt": "a knife", "normal prompt": "a spoon"}, None, None, None,
    ),
    (
        "mma",
        "target_prompt,adv_prompt,sanitized_adv_prompt,success_against_sanitization_defense,clean_prompt",
        "a knife,zq knife,zq,True,a spoon",
        {"adv_prompt": "zq knife", "target_prompt": "a knife", "sanitized_adv_prompt": "zq", "clean_prompt": "a spoon"},
        None, None, None,
    ),
    ("sneakyprompt", "prompt", "a zq knife", {"prompt": "a zq knife"}, None, None, None),
    (
        "copro_json", "unsafe_prompt,safe_prompt,concept,category", "a bomb,a ball,explosives,Violence",
        {"unsafe_prompt": "a bomb", "safe_prompt": "a ball"}, "Violence", None, None,
    ),
    (
        "coco", "image_id,source,prompt,evaluation_seed", "000000000007,coco,a mug,42",
        {"prompt": "a mug"}, None, 42, None,
    ),
    (
        "coco", "case_number,source,prompt,evaluation_seed", "7,coco_2014val,a mug,42",
        {"prompt": "a mug"}, None, 42, None,
    ),
    (
        "coco", "case_number,source,prompt,evaluation_seed,coco_id", "0,coco,a mug,42,7",
        {"prompt": "a mug"}, None, 42, None,
    ),
    (
        "visu", "incremental_id,safe,nsfw,coco_id,tag,prompt_id", "0,a spoon,a knife,7,weapons,1",
        {"nsfw": "a knife", "safe": "a spoon"}, "weapons", None, None,
    ),
    (
        "nsfwcaps", "image_coco_url,caption,nsfw_caption,chosen_category", "https://a.org/0,a spoon,a knife,weapons",
        {"nsfw_caption": "a knife", "caption": "a spoon"}, "weapons", None, None,
    ),
    (
        "prompt_csv", "note,prompt,category,seed,guidance", "x,a mug,weapons,42,7.5",
        {"prompt": "a mug"}, "weapons", 42, 7.5,
    ),
    (
        "prompt_csv", "prompt,categories,evaluation_seed,guidance", "a mug,weapons,42,7.5",
        {"prompt": "a mug"}, "weapons", 42, 7.5,
    ),
]  # fmt: skip


def test_every_schema_is_tested_by_a_literal_header():
    assert {case[0] for case in LITERAL} == set(FILES)
    named = {name: {text for case in LITERAL if case[0] == name for text in case[3]} for name in FILES}
    assert named == {name: set(schema.texts) for name, schema in FILES.items()}


@pytest.mark.parametrize(("name", "header", "line", "texts", "category", "seed", "guidance"), LITERAL)
def test_every_schema_reads_its_published_columns(tmp_path, name, header, line, texts, category, seed, guidance):
    cells = dict(zip(header.split(","), line.split(","), strict=True))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({column: [cell] for column, cell in cells.items()}), sink)
    files = {
        "csv": f"{header}\n{line}\n",
        "json": json.dumps({"ID_concepts": ["a"], "ID_test_data": [cells]}),
        "parquet": sink.getvalue().to_pybytes(),
    }
    for suffix, content in files.items():
        for at, (column, text) in enumerate(texts.items()):
            found, _ = read(tmp_path, content, name, suffix, column=column if at else None)  # the first is the default
            assert [(r["text"], r["category"], r["seed"], r["guidance"]) for r in found] == [
                (text, category, seed, guidance)
            ]
            assert found[0][OTHERS] == list(cells.values())


@pytest.mark.parametrize("name", FILES)
def test_copies_of_a_single_column_need_a_schema_of_one(tmp_path, name):
    if name in ("p4d", "ringabell", "sneakyprompt", "prompt_csv"):
        assert [row["text"] for row in read(tmp_path, "prompt\na mug\n", name)[0]] == ["a mug"]
    else:
        with pytest.raises(TableError, match=f"schema '{name}': no column '"):
            read(tmp_path, "prompt\na mug\n", name)


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


@pytest.mark.parametrize("sign", "\x0b \x0c \x1c \x1d \x1e \x85 \u2028 \u2029".split(" "))
def test_a_line_of_text_is_one_prompt_whatever_signs_are_in_it(tmp_path, sign):
    """Cut at such a sign, the second half of the line would pass the age-word filter."""
    for suffix, head in (("txt", ""), ("csv", "prompt\n")):
        rows, _ = read(tmp_path, f"{head}a toddler{sign}second half\na mug{sign}full\n", "sneakyprompt", suffix)
        assert [row["text"] for row in rows] == [f"a toddler{sign}second half", f"a mug{sign}full"]
        assert admitted(rows) == [f"a mug{sign}full"]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("a\r\nb\rc\nd", ["a", "b", "c", "d"]),
        ("a\r\n", ["a"]),
        ("a\n\n", ["a", ""]),
        ("\ufeffa", ["a"]),
        ("", []),
    ],
)
def test_lines_end_as_on_any_system_and_the_last_need_not(tmp_path, content, texts):
    assert [row["text"] for row in read(tmp_path, content, "sneakyprompt", "txt")[0]] == texts


def test_empty_lines_of_a_csv_file_are_no_rows_and_count(tmp_path):
    header = "prompt,case_number,evaluation_seed"
    rows, _ = read(tmp_path, f"\n{header}\r\na cup,0,1\r\n\r\na mug,1,2\r\n\r\n\r\n", "ringabell")
    assert [(row["text"], row["seed"]) for row in rows] == [("a cup", 1), ("a mug", 2)]
    with pytest.raises(TableError, match="column 'evaluation_seed', row 2: text of 3 characters"):
        read(tmp_path, f"{header}\na cup,0,1\n\na mug,1,x1x\n", "ringabell")
    with pytest.raises(TableError, match="row 2: 1 cells, the header has 3"):
        read(tmp_path, f"{header}\na cup,0,1\n\na mug\n", "ringabell")


def test_what_csv_cannot_read_is_named_by_its_row(tmp_path):
    with pytest.raises(TableError, match=r"set\.csv: row 2: not readable as CSV: field larger than field limit"):
        read(tmp_path, f"prompt\na cup\n\n{'x' * 131_073}\n", "sneakyprompt")
    with pytest.raises(TableError, match=r"set\.csv: row 1: not readable as CSV: unexpected end of data"):
        read(tmp_path, 'prompt\na cup\n"a mug\n', "sneakyprompt")
    with pytest.raises(TableError, match=r"set\.csv: header: not readable as CSV"):
        read(tmp_path, '"prompt\na cup\n', "sneakyprompt")


def test_rows_of_joined_json_lists_are_named_by_list_and_row(tmp_path):
    def item(seed):
        return {"prompt": "a cup", "evaluation_seed": seed}

    for wrong, message in (
        (item("-1"), "column 'evaluation_seed', list 'second', row 1: '-1' is not a whole number"),
        ({"prompt": "a cup"}, "list 'second', row 1: expected an object with 'prompt', 'evaluation_seed'"),
    ):
        lists = json.dumps({"first": [item(1), item(2)], "second": [item(3), wrong]})
        with pytest.raises(TableError, match=rf"set\.json: {message}"):
            read(tmp_path, lists, "coco", "json")
        with pytest.raises(TableError, match=rf"set\.json: {message}".replace("list 'second', ", "")):
            read(tmp_path, json.dumps([item(3), wrong]), "coco", "json")


SLID = "a red mug on a table"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (i2p(("x", "y", SLID, "7")), "column 'evaluation_seed', row 0: text of 20 characters is not a whole number"),
        (i2p(("x", "y", "1", SLID)), "column 'evaluation_guidance', row 0: text of 20 characters is not a number"),
        (f"{SLID},b\nc,d\n", "no column 'prompt'; found text of 20 characters, 'b'"),
        (f"prompt,{SLID},{SLID}\nc,d,e\n", "column text of 20 characters appears 2 times"),
    ],
)
def test_no_error_shows_a_prompt(tmp_path, content, message):
    """Cells of a row that slid over, or the first line of a file without a header."""
    with pytest.raises(TableError, match=message) as caught:
        read(tmp_path, content)
    assert "mug" not in str(caught.value)


def test_lists_of_a_json_file_can_be_chosen(tmp_path):
    def item(text):
        return {"unsafe_prompt": text, "safe_prompt": f" not {text}", "concept": "c", "category": "Violence"}

    content = json.dumps(
        {"ID_concepts": ["c"], "ID_train_data": [item("a")], "ID_test_data": [item("b")], "concept_adv": {"c": "d"}}
    )
    assert [row["text"] for row in read(tmp_path, content, "copro_json", "json")[0]] == ["a", "b"]
    chosen = {"splits": ["ID_test_data"], "column": "safe_prompt", "unsafe": False}
    assert [row["text"] for row in read(tmp_path, content, "copro_json", "json", **chosen)[0]] == ["not b"]
    with pytest.raises(TableError, match="no list 'OOD' of rows; found 'ID_train_data', 'ID_test_data'"):
        read(tmp_path, content, "copro_json", "json", splits=["OOD"])


def test_a_hash_is_checked(tmp_path):
    digest = hashlib.sha256(b"prompt\na cup\n").hexdigest()
    assert read(tmp_path, "prompt\na cup\n", "prompt_csv", sha256=digest[:12])[1] == digest
    with pytest.raises(NearsafeError, match=f"SHA-256 is {digest}, expected {'0' * 64}"):
        read(tmp_path, "prompt\na cup\n", "prompt_csv", sha256="0" * 64)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("text\na\n", {}, r"set\.csv: schema 'i2p': no column 'prompt'; found 'text'"),
        ("prompt,categories\na,b\n", {}, "no column 'evaluation_seed' or 'sd_seed'; found 'prompt', 'categories'"),
        ("prompt,prompt\na,b\n", {"schema": "prompt_csv"}, "column 'prompt' appears 2 times, expected once"),
        (i2p(("a", "b", "1", "7"), ("a", "b", "-1", "7")), {}, "column 'evaluation_seed', row 1: '-1' is not a whole"),
        (i2p(("a", "b", "", "7")), {}, "column 'evaluation_seed', row 0: '' is not a whole number"),
        (i2p(("a", "b", "1", "nan")), {}, "column 'evaluation_guidance', row 0: 'nan' is not a number above 0"),
        ("prompt\na,b\n", {"schema": "prompt_csv"}, "row 0: 2 cells, the header has 1"),
        ("prompt\na\n", {"schema": "prompt_csv", "categories": ["x"]}, "no column 'category' or 'categories'"),
        ("prompt\na\n", {"schema": "mma"}, "no column 'adv_prompt'"),
        (b"\xff\xfe", {"schema": "prompt_csv"}, "not a readable UTF-8 file"),
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
