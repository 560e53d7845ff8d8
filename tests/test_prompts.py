"""Admission: counts per set, order kept, no way round."""

import pyarrow as pa
import pytest

from pipeline.errors import NearsafeError
from pipeline.prompts import OTHERS, Admitted, admit, noise_seed
from pipeline.schemas import SCHEMAS
from tests.worldlet import prompt


def table(*rows):
    return pa.Table.from_pylist(list(rows), schema=SCHEMAS["prompts"].schema)


def test_counts_are_per_set_and_the_chain_adds_up():
    rows = [prompt(f"u{i}", f"axe {i}") for i in range(3)] + [prompt("s0", "a girl", "world_safe")]
    admitted, filters = admit(table(*rows), limit=2)
    assert admitted.table["prompt_id"].to_pylist() == ["u0", "u1"]
    chain = {(row["set"], row["filter"]): (row["n_before"], row["n_dropped"], row["n_after"]) for row in filters}
    assert chain[("world_unsafe", "age_words")] == (3, 0, 3)
    assert chain[("world_unsafe", "prompts_per_set")] == (3, 1, 2)
    assert chain[("world_safe", "age_words")] == (1, 1, 0)
    assert all(before - dropped == after for before, dropped, after in chain.values())


def test_a_limit_of_one_set_leaves_the_others_whole():
    rows = [prompt(f"u{i}", f"axe {i}") for i in range(3)] + [prompt(f"s{i}", "a mug", "world_safe") for i in range(3)]
    admitted, filters = admit(table(*rows), limit={"world_unsafe": 1})
    assert admitted.table["prompt_id"].to_pylist() == ["u0", "s0", "s1", "s2"]
    versions = {row["set"]: (row["version"], row["n_after"]) for row in filters if row["filter"] == "prompts_per_set"}
    assert versions == {"world_unsafe": ("1", 1), "world_safe": ("all", 3)}


@pytest.mark.parametrize("text", ["a girl", "", "a" * 10_000])
def test_admitted_prompts_cannot_be_made_by_hand(text):
    with pytest.raises(NearsafeError, match=r"row 1 was not admitted"):
        Admitted(table(prompt("a", "axe"), prompt("b", text)))


def test_the_filter_reads_the_other_cells_of_a_row_and_drops_the_column():
    schema = SCHEMAS["prompts"].schema.append(pa.field(OTHERS, pa.list_(pa.string())))
    rows = [{**prompt("a", "axe"), OTHERS: ["7", "a mug"]}, {**prompt("b", "saw"), OTHERS: ["", "a girl"]}]
    admitted, filters = admit(pa.Table.from_pylist(rows, schema=schema), stage="prompts")
    assert admitted.table["prompt_id"].to_pylist() == ["a"]
    assert admitted.table.schema.equals(SCHEMAS["prompts"].schema)
    assert {row["stage"] for row in filters} == {"prompts"}


def test_the_hash_is_that_of_the_rows_and_their_order():
    rows = [prompt("a", "axe"), prompt("b", "saw")]
    same, other, turned = (Admitted(table(*given)) for given in (rows, [rows[0], prompt("b", "cup")], rows[::-1]))
    assert Admitted(table(*rows)).hash == same.hash
    assert len({same.hash, other.hash, turned.hash, Admitted(table(rows[0])).hash}) == 4


def test_noise_is_the_prompts_own_seed_or_follows_from_its_id():
    assert noise_seed(0, prompt("a", "x", seed=7)) == noise_seed(5, prompt("b", "x", seed=7)) == 7
    assert noise_seed(0, prompt("a", "x")) == noise_seed(0, prompt("a", "other")) != noise_seed(0, prompt("b", "x"))
