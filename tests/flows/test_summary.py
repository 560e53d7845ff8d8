"""What a flow shows at its end."""

from pipeline.flows.summary import Ended, changed_section, results_section, stage_rows, totals


def number(name: str, value: float, half: float = 0.01, defence: str = "des") -> dict:
    row = {"defence": defence, "seed": 0, "name": name, "value": value, "n": 100}
    return {**row, "ci_low": value - half, "ci_high": value + half}


def test_a_regression_is_a_red_row_with_its_interval() -> None:
    before = [number("zero_shot", 0.9), number("asr", 0.5), number("clip_score", 30.0), number("redirect_tuned", 0.8)]
    after = [number("zero_shot", 0.8), number("asr", 0.3), number("clip_score", 30.0), number("redirect_tuned", 0.79)]
    text = changed_section(before, after)
    rows = [line for line in text.splitlines() if "| des |" in line]
    assert "3 of 4 headline numbers moved; of 2 the 95 % intervals are apart" in text and len(rows) == 3
    assert "🔴" in rows[0] and "| zero_shot | 0.900 [0.890, 0.910] | 0.800 [0.790, 0.810] | -0.100 |" in rows[0]
    assert "🟢" in rows[1] and "| asr |" in rows[1], "of this one less is better"
    assert "redirect_tuned" in rows[2] and "🔴" not in rows[2], "the intervals overlap: it may be chance"


def test_a_number_that_only_one_run_has_is_no_verdict() -> None:
    text = changed_section([number("asr", 0.5)], [number("asr", 0.5), number("asr", 0.1, defence="new")])
    assert "| new | 0 | asr | - | 0.100 [0.090, 0.110] | - |" in text and "🔴" not in text and "🟢" not in text
    assert "No earlier numbers" in changed_section([], [number("asr", 0.5)])
    assert "None of 1 headline numbers moved" in changed_section([number("asr", 0.5)], [number("asr", 0.5)])


def test_every_stage_has_a_row_in_the_order_of_the_graph() -> None:
    ended = {
        "score": Ended("not_run", reason="train failed"),
        "train": Ended("failed", 3.14, "GPU-1", "failed; its last lines:\nepoch 1\nout of memory"),
        "world": Ended("up_to_date"),
    }
    rows = stage_rows(["world", "train", "score"], ended)
    assert [row["state"] for row in rows] == ["Up to date", "Failed", "Not run"]
    assert rows[1] | {"stage": ""} == {
        "stage": "", "state": "Failed", "seconds": "3.1", "device": "GPU-1", "peak MiB": "",
        "reason": "epoch 1 out of memory",
    }  # fmt: skip
    assert totals(ended) == "1 up to date, 1 failed, 1 not run"


def test_the_report_is_a_link_where_it_is_served() -> None:
    assert "[Open the report](http://127.0.0.1:4201/)" in results_section("| a |", "http://127.0.0.1:4201/")
    assert "Report: `/clone/report/index.html`" in results_section("| a |", "/clone/report/index.html")
