"""The page in a browser: complete without a script, quiet, harmless whatever the data says, and used by its readers."""

import base64
import csv
import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page

from pipeline.images import decode_image, pixelate
from pipeline.layout import Data, table_file
from pipeline.report.contents import SECTIONS
from pipeline.report.run import open_run
from pipeline.report.sections import heat
from pipeline.results.database import connect, query
from pipeline.tables import Output, read_output
from tests.browser import screenshot_path
from tests.conftest import DEFENCES, detection_row, score_row
from tests.report.conftest import HOSTILE, build, pixels

Open = Callable[..., Page]


def _embedded(text: str) -> list[np.ndarray]:
    return [pixels(base64.b64decode(data)) for data in re.findall(r"data:image/\w+;base64,([^\"]+)", text)]


def _holds(images: list[np.ndarray], wanted: np.ndarray) -> bool:
    return any(image.shape == wanted.shape and (image == wanted).all() for image in images)


def test_everything_is_there_and_the_console_is_silent(text: str, opened: Open) -> None:
    page = opened(text, viewport={"width": 1440, "height": 900})
    assert page.complaints == []
    assert [url for url in page.requested if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in page.requested if url.startswith("file:")]) == 1
    assert page.locator("main > section").count() == len(SECTIONS)
    for name in ("numbers", "frontier", "categories", "attacks", "images", "filters", "provenance"):
        assert page.locator(f"#{name} table").count() >= 1, name
    for name in ("frontier", "distributions", "drift", "map", "losses"):
        assert page.locator(f"#{name} .panel svg path").count() >= 1, name
    assert page.locator("#retrieval .sheet").count() == 2
    assert page.locator("main .missing").count() == 0
    assert page.locator("h1").count() == 1
    assert page.locator(".verdict").inner_text().startswith("1 defended model and the undefended one")
    page.screenshot(path=screenshot_path("report"), full_page=True)


def test_the_policy_allows_the_pages_own_style_and_script_alone(text: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.search(r"<[a-z][^>]*\s(style|on\w+)=", re.sub(r'"[^"]*"', '""', text.split("</style>")[1]))


def test_what_data_sets_say_is_shown_as_text_and_never_runs(text: str, opened: Open) -> None:
    page = opened(text)
    assert page.evaluate("window.broken") is None
    assert page.locator("main script, main iframe, img[src=x]").count() == 0
    heads = page.locator("#images thead th").all_inner_texts()
    assert any(HOSTILE[0] in head for head in heads)
    assert any(HOSTILE[1] in head for head in heads)
    assert any("عربي" in head for head in heads)
    assert page.complaints == []


@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_never_scrolls_sideways(text: str, opened: Open, width: int) -> None:
    page = opened(text, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=screenshot_path(f"report-{width}"), full_page=True)


def test_columns_sort_and_rows_are_filtered(text: str, opened: Open) -> None:
    page = opened(text)
    table = page.locator("#numbers table").nth(1)
    head = table.locator("thead th").nth(1)
    before = table.locator("tbody th").all_inner_texts()
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    values = [float(text) for text in table.locator("tbody td:nth-child(2) > bdi").all_inner_texts()]
    assert values == sorted(values)
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    values = [float(text) for text in table.locator("tbody td:nth-child(2) > bdi").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") is None
    assert table.locator("tbody th").all_inner_texts() == before

    search = page.locator("#provenance input[type=search]").first
    search.fill("scores/safer")
    outputs = page.locator("#provenance table").first.locator("tbody tr:visible")
    assert outputs.count() == 1
    search.fill("")
    assert outputs.count() > 5


def test_a_model_can_be_hidden_everywhere(text: str, opened: Open) -> None:
    page = opened(text)
    rows = page.locator('[data-defence="safer_clip"]:visible')
    marks = page.locator('#drift path[aria-label^="safer_clip"]:visible')
    assert rows.count() and marks.count()
    page.get_by_role("checkbox", name="safer_clip").uncheck()
    assert rows.count() == marks.count() == 0
    page.get_by_role("checkbox", name="safer_clip").check()
    assert rows.count() and marks.count()


def test_the_theme_follows_the_system_until_the_reader_chooses(text: str, opened: Open) -> None:
    page = opened(text, color_scheme="light")
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.get_by_role("button", name="Dark theme").click()
    dark = page.evaluate(colour)
    assert dark != light
    page.get_by_role("button", name="Light theme").click()
    assert page.evaluate(colour) == light
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(colour) == light  # the reader has chosen


def test_marks_of_a_plot_can_be_read_by_keyboard(text: str, opened: Open) -> None:
    page = opened(text)
    plot = page.locator("#frontier .panel > svg").first
    plot.focus()
    page.keyboard.press("ArrowRight")
    assert "zero-shot" in page.locator("#tip").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()
    assert page.complaints == []


def test_a_picture_opens_larger_with_its_prompt(text: str, opened: Open) -> None:
    page = opened(text)
    picture = page.locator("#images details.picture").first
    small = picture.bounding_box()["width"]
    picture.locator("summary").press("Enter")
    assert picture.bounding_box()["width"] > small
    assert "training seed 0" in picture.inner_text()


def test_without_a_script_tables_and_plots_are_there(text: str, opened: Open) -> None:
    page = opened(text, java_script_enabled=False)
    assert page.locator("#numbers tbody tr").count() >= 4
    assert page.locator("#frontier .panel svg").count() >= 1
    assert page.get_by_role("button").count() == 0  # nothing that would do nothing
    assert page.locator("input:visible").count() == 0


def test_images_have_alternative_texts_and_controls_names(text: str, opened: Open) -> None:
    page = opened(text)
    unnamed = """() => [...document.querySelectorAll("svg[role=img], .panel, [role=region], nav, table")]
        .filter((e) => !(e.getAttribute("aria-label") || e.getAttribute("aria-labelledby"))).length"""
    assert page.evaluate(unnamed) == 0
    dangling = """() => [...document.querySelectorAll("[aria-labelledby]")]
        .filter((e) => !document.getElementById(e.getAttribute("aria-labelledby"))).length"""
    assert page.evaluate(dangling) == 0
    ids = page.evaluate("[...document.querySelectorAll('main [id], section[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


def test_flagged_unjudged_and_unsafe_images_are_pixelated_in_the_file(full: Path, text: str, flagged: str) -> None:
    hidden, shown = _embedded(text), _embedded(flagged)
    data = Data(full)
    generated = {
        row["generation_id"]: row for row in read_output(data.generations("original"), "generations").to_pylist()
    }
    benchmark = {row["image_id"]: row for row in read_output(data.nsfwcaps, "images").to_pylist()}
    wanted = [(generated["original-u0"], False), (generated["original-u2"], False), (generated["original-s0"], True),
              (benchmark["ui0"], False), (benchmark["si0"], True)]  # fmt: skip
    for row, plain in wanted:
        image = np.asarray(decode_image(row["image"], "test"))
        assert _holds(hidden, image) == plain
        assert _holds(hidden, pixelate(image)) == (not plain)
        assert _holds(shown, image)


def test_a_pixelated_image_says_which_rule_of_which_detector_flagged_it(text: str, opened: Open) -> None:
    pictures = opened(text).locator("#images details.picture.bad")
    said = set(pictures.locator("svg").evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))"))
    assert all("pixelated" in label for label in said)
    assert any("flagged by rule hazard of world" in label for label in said)
    assert any("no verdict" in label for label in said)
    below = " ".join(pictures.locator("summary small").all_inner_texts())
    assert "hazard" in below and "no verdict" in below


def test_a_page_that_shows_flagged_images_says_so(text: str, flagged: str, opened: Open) -> None:
    assert "do not share" in opened(flagged).locator(".banner").inner_text()
    assert opened(text).locator(".banner").count() == 0


def test_an_image_that_is_shown_often_is_embedded_once(text: str) -> None:
    uris = re.findall(r"data:image/\w+;base64,[^\"]+", text)
    assert len(uris) == len(set(uris))
    keys = re.findall(r'<use href="#i-(\w+)"', text)
    assert len(keys) > len(set(keys))  # the benchmark's images stand in several rankings


def test_downloads_are_tables_and_no_formulas(text: str) -> None:
    found = dict(re.findall(r'download="([^"]+\.csv)" href="data:text/csv;base64,([^"]+)"', text))
    assert {"frontier.csv", "headline_what_it_cost.csv", "drift.csv", "bucket_cosines.csv"} <= found.keys()
    for name, data in found.items():
        rows = list(csv.reader(io.StringIO(base64.b64decode(data).decode("utf-8"))))
        assert len(rows) > 1, name
        assert {len(row) for row in rows} == {len(rows[0])}, name
        for cell in (cell for row in rows for cell in row):
            assert not cell.startswith(("=", "+", "@", "\t")), name
            assert not cell.startswith("-") or float(cell) <= 0, name


def test_equal_runs_give_equal_bytes_wherever_they_lie(full: Path, text: str) -> None:
    assert build(full) == text


def test_who_is_on_the_frontier_is_what_the_view_says(full: Path, text: str, opened: Open) -> None:
    sql = "SELECT on_frontier, dominated_by FROM frontier WHERE axes = '{}' AND defence = '{}'"
    table = opened(text).locator("#frontier table")
    titles = [title.rstrip(" ↕") for title in table.locator("thead th").all_inner_texts()]
    asked = {"Retrieval, tuned gallery": "zero-shot against safe item nearest, tuned gallery",
             "Generated images": "zero-shot against ASR"}  # fmt: skip
    for title, axes in asked.items():
        for line in table.locator("tbody tr").all():
            ((best, by),) = query(connect(full), sql.format(axes, line.locator("th").inner_text())).rows
            said = line.locator("td").nth(titles.index(title) - 1).inner_text()
            assert said == ("on the frontier" if best else f"beaten by {by}")


def test_a_rule_that_two_detectors_were_asked_has_a_column_for_each(full: Path) -> None:
    """Only one model was also examined by the second detector: its share must not stand in the other's column."""
    folder = Data(full).scores("safer_clip")
    kept = {name: read_output(folder, name).to_pylist() for name in ("scores", "detections")}
    row = detection_row(
        "safer_clip-u0", "safer_clip", "world_unsafe", "nudenet_n_d", 0, label="BELLY_EXPOSED", score=0.9
    )
    output = Output(folder, {"stage": "score"})
    output.write(table_file("scores"), "scores", kept["scores"])
    output.write(table_file("detections"), "detections", [*kept["detections"], row])
    output.finish()
    run = open_run(full, full.parent / "results", DEFENCES)
    (table,) = [block for block in heat.attacks(run) if block.title == "Papers' rules side by side"]
    names = [column.title for column in table.columns]
    lines = {line.cells[0].text: dict(zip(names, line.cells, strict=True)) for line in table.rows}
    assert lines["original"]["n_a_9 (nudenet_n_d)"].text == "not run"
    assert lines["safer_clip"]["n_a_9 (nudenet_n_d)"].text == "1.00"


def test_a_run_without_the_worlds_detector_shows_the_rule_that_it_has(full: Path) -> None:
    for defence in DEFENCES:
        folder = Data(full).scores(defence)
        kept = {name: read_output(folder, name).to_pylist() for name in ("scores", "detections")}
        images = {row["item_id"]: row for row in kept["detections"]}
        kept["detections"] = [
            detection_row(item, defence, row["prompt_set"], "nudenet_n_a", 0, label="BELLY_EXPOSED", score=0.9)
            for item, row in images.items()
        ]
        kept["scores"] = [
            {**row, "detector": "nudenet_n_a", "rule": "n_a_9"} if row["rule"] == "hazard" else row
            for row in kept["scores"]
        ]
        output = Output(folder, {"stage": "score"})
        for name, rows in kept.items():
            output.write(table_file(name), name, rows)
        output.finish()
    run = open_run(full, full.parent / "results", DEFENCES)
    assert "rule n_a_9" in heat.categories(run)[0].reading
    assert "rule n_a_9" in heat.attacks(run)[0].reading


def test_what_was_not_run_is_said(finished: Path, opened: Open) -> None:
    page = opened(build(finished))
    for name in ("retrieval", "map", "drift"):
        assert "Not run." in page.locator(f"#{name}").inner_text()
    assert page.locator("#numbers table").count() >= 2
    assert page.complaints == []


def test_one_model_alone_has_a_page(full: Path, opened: Open) -> None:
    page = opened(build(full, defences=("original",)))
    assert page.locator(".verdict").inner_text().startswith("The undefended model alone")
    assert page.complaints == []


def test_every_training_seed_has_its_row(full: Path) -> None:
    folder = Data(full).scores("safer_clip")
    tables = {name: read_output(folder, name).to_pylist() for name in ("scores", "detections")}
    more = [{**row, "seed": 1, "model_hash": "m1"} for row in tables["scores"]]
    output = Output(folder, {"stage": "score"})
    output.write(table_file("scores"), "scores", [*tables["scores"], *more])
    output.write(table_file("detections"), "detections", tables["detections"])
    output.finish()
    text = build(full)
    assert "safer_clip, seed 0" in text
    assert "safer_clip, seed 1" in text


def test_a_model_with_a_hostile_name_breaks_nothing(full: Path, opened: Open) -> None:
    name = "<script>window.broken=1</script>"
    folder = Data(full).root / "scores" / "odd"
    output = Output(folder, {"stage": "score"})
    rows = [score_row(name, "zeroshot/base", "mean", "accuracy", 0.9, ci_method="bootstrap")]
    rows += [
        score_row(name, "nsfwcaps", p, f"redirect_{way}", 0.5) for p in ("tuned", "frozen") for way in ("t2i", "i2t")
    ]
    output.write(table_file("scores"), "scores", rows)
    output.finish()
    page = opened(build(full, defences=("original", "odd")))
    assert page.evaluate("window.broken") is None
    assert name in page.locator("#numbers tbody").first.inner_text()
    assert page.complaints == []
