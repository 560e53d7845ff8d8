"""The published columns of NSFWCaps in and out: round trips, the age-word filter, errors that name column and row."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import nsfwcaps_io
from pipeline.errors import NearsafeError, TableError, run
from pipeline.images import image_cell
from pipeline.layout import table_file
from pipeline.nsfwcaps_io import COLUMNS, export_published, import_published, write_published
from pipeline.tables import Output, read_output
from tests.worldlet import picture

ROWS = [
    (
        "https://example.org/1.jpg",
        'a man reads, "quietly", on a bench',
        "a man with a knife reads on a bench",
        "weapons",
    ),
    ("https://example.org/1.jpg", "a man on a bench", "a man with a syringe on a bench", "drugs"),
    (None, "ein Haus, grün | blau", "ein Haus und ein Brecheisen", "theft"),
]


def published(rows=ROWS):
    columns = zip(*rows, strict=True)
    return pa.table({name: pa.array(column, pa.string()) for name, column in zip(COLUMNS, columns, strict=True)})


def written(file, rows=ROWS):
    write_published(published(rows), file)
    return file


def command(monkeypatch, *arguments):
    run(nsfwcaps_io.main, nsfwcaps_io.parser(), [str(argument) for argument in arguments])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_import_and_export_give_the_same_rows(tmp_path, monkeypatch, capsys, kind):
    file, again = written(tmp_path / f"in.{kind}"), tmp_path / f"out.{kind}"
    command(monkeypatch, "import", "--file", file, "--split", "validation", "--out", tmp_path / "out")
    command(monkeypatch, "export", "--nsfwcaps", tmp_path / "out", "--split", "validation", "--file", again)
    assert again.read_bytes() == file.read_bytes()
    assert export_published(tmp_path / "out", "validation").equals(published())
    said = capsys.readouterr().out
    assert "00_age_words: 3 -> 3" in said and "3 rows of split validation" in said
    assert "Not measured." in (tmp_path / "out" / "card.md").read_text()


def test_an_imported_set_keeps_the_contract_of_the_tables(tmp_path):
    tables = import_published(written(tmp_path / "in.csv"))
    output = Output(tmp_path / "out", {})
    for name in ("captions", "images", "pairs", "filters"):
        output.write(table_file(name), name, tables[name])
    output.finish()
    assert [i["image"] for i in read_output(output.path, "images").to_pylist()] == [
        {"bytes": None, "path": "https://example.org/1.jpg"}
    ]
    assert read_output(output.path, "pairs")["unsafe_image_id"].null_count == 3
    assert read_output(output.path, "pairs")["safe_image_id"].null_count == 1


def test_rows_that_mention_young_people_are_dropped_and_counted(tmp_path):
    rows = [
        *ROWS,
        ("https://x/2", "a girl on a bench", "a knife on a bench", "weapons"),
        ("https://x/3", "a bench", "a bench and a t-e-e-n with a knife", "weapons"),
        ("https://x/4", "a bench", "a bench and a knife", "child abuse"),
        ("https://x/a-teenager.jpg", "a bench", "a bench and a knife", "weapons"),
        ROWS[0],
    ]
    tables = import_published(written(tmp_path / "in.parquet", rows))
    assert len(tables["pairs"]) == 3
    counted = {row["filter"]: (row["n_before"], row["n_dropped"], row["n_after"]) for row in tables["filters"]}
    assert counted == {"00_age_words": (8, 4, 4), "01_duplicate": (4, 1, 3)}
    with pytest.raises(NearsafeError, match="no row is left of 1: age words 1 -> 0"):
        import_published(written(tmp_path / "one.csv", rows[3:4]))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("x.jpg", "a", "b", "c"), r"column 'image_coco_url', row 3: 'x.jpg' is no http\(s\) address"),
        (("https://x", "", "b", "c"), "column 'caption', row 3: empty"),
        (("https://x", "a", None, "c"), "column 'nsfw_caption', row 3: empty"),
        (("https://x", "a", "a ", "c"), "column 'nsfw_caption', row 3: the same text"),
        (("https://x", "a", "b", " "), "column 'chosen_category', row 3: empty"),
    ],
)
def test_errors_name_file_column_and_row(tmp_path, kind, row, message):
    with pytest.raises(TableError, match=rf"in\.{kind}: {message}"):
        import_published(written(tmp_path / f"in.{kind}", [*ROWS, row]))


def test_what_is_no_such_table_is_named(tmp_path):
    file = tmp_path / "in.csv"
    file.write_text("image_coco_url,caption,nsfw_caption\nhttps://x,a,b\n")
    with pytest.raises(TableError, match="column 'chosen_category' appears 0 times, expected once; found image_"):
        import_published(file)
    file.write_text(",".join(COLUMNS) + "\nhttps://x,a,b\n")
    with pytest.raises(TableError, match="row 0: 3 cells, the header has 4"):
        import_published(file)
    file.write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(TableError, match="the table is empty"):
        import_published(file)
    for name in ("gone.csv", "gone.parquet"):
        with pytest.raises(TableError, match="not a readable"):
            import_published(tmp_path / name)
    with pytest.raises(NearsafeError, match=r"expected a file that ends in \.csv or \.parquet"):
        import_published(tmp_path / "in.json")
    pq.write_table(published().set_column(1, "caption", pa.array([1, 2, 3])), tmp_path / "n.parquet")
    with pytest.raises(TableError, match="column 'caption' has type int64, expected string"):
        import_published(tmp_path / "n.parquet")


def test_images_that_are_bytes_are_exported_without_url_and_unknown_splits_are_named(tmp_path):
    tables = import_published(written(tmp_path / "in.csv"))
    tables["images"][0]["image"] = image_cell(picture(0))
    output = Output(tmp_path / "out", {})
    for name in ("captions", "images", "pairs"):
        output.write(table_file(name), name, tables[name])
    output.finish()
    assert export_published(output.path)["image_coco_url"].null_count == 3
    with pytest.raises(NearsafeError, match="no row of split 'test'; splits: benchmark"):
        export_published(output.path, "test")
