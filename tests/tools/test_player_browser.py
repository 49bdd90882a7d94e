"""The attention player, driven in headless Chromium as a person would drive it.

Skipped where there is no browser: it needs Chromium on the PATH (Debian's package is called chromium) and
pip install playwright.
"""

import shutil

import numpy as np
import pytest
from player_models import of_real_shape, small_t5

from minivl import (
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BridgeTowerForImageAndTextRetrieval,
    BridgeTowerProcessor,
)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright to drive the player")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on the PATH to drive the player in")

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
PICTURE = "tutorials/pictures/red_triangle_above_yellow_star.png"
WIDTHS = (320, 390, 768, 1280)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, "--disable-sync", "--no-first-run"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def asked():
    processor = Blip2Processor.from_pretrained("demo")
    text = "Question: what is above the yellow star? Answer:"
    inputs = processor(images=PICTURE, text=text, return_tensors="np")
    return Blip2ForConditionalGeneration.from_pretrained("demo").trace(**inputs, tokenizer=processor)


@pytest.fixture(scope="module")
def matched():
    processor = BridgeTowerProcessor.from_pretrained("demo-bridgetower")
    inputs = processor(PICTURE, "a red triangle above a yellow star", return_tensors="np")
    return BridgeTowerForImageAndTextRetrieval.from_pretrained("demo-bridgetower").trace(**inputs, tokenizer=processor)


@pytest.fixture(scope="module")
def translated():
    pixels = np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)
    model = Blip2ForConditionalGeneration(small_t5(), seed=3)
    return model.trace(pixels, np.array([[5, 6, 7]]), max_new_tokens=4, min_new_tokens=4)


@pytest.fixture
def opened(browser, tmp_path):
    """opened(record) is its page in the browser; afterwards nothing may have gone wrong, nor been fetched."""
    wrong, fetched, pages = [], [], []

    def open_page(record, **how):
        record.save(tmp_path / "page.html")
        page = browser.new_page(**how)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: fetched.append(request.url[:60]))
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_selector("#step:not(:empty)")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert wrong == []
    assert [url for url in fetched if not url.startswith(("file:", "data:"))] == []


def title(page):
    return page.text_content("#step")


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def picture(page):
    return page.evaluate("document.getElementById('picture').toDataURL()")


def test_keys_buttons_and_slider_step(opened, asked):
    page = opened(asked)
    assert title(page) == "The picture becomes patches" and "8 x 8 patches of 8 x 8" in page.text_content("#caption")
    press(page, "ArrowRight", "ArrowRight")
    assert title(page) == "The queries look at the picture" and page.text_content("#counter") == "3 / 6"
    press(page, "End")
    assert title(page).startswith("Word 3 of 3")
    page.click("#back")
    assert title(page) == "Word 2 of 3: “triangle”" and "red triangle" in page.text_content("#says")
    page.fill("#slider", "1")
    assert title(page) == "The patches look at each other"
    press(page, "Home", "ArrowLeft")
    assert title(page) == "The picture becomes patches"


def test_it_plays_pauses_and_stops_at_the_end(opened, asked):
    page = opened(asked)
    page.clock.install()
    page.locator("body").press(" ")
    page.clock.run_for(3100)
    assert page.text_content("#counter") == "3 / 6" and "Pause" in page.text_content("#play")
    page.click("#play")
    page.clock.run_for(5000)
    assert page.text_content("#counter") == "3 / 6" and "Play" in page.text_content("#play")
    page.click("#play")
    page.clock.run_for(20000)
    assert page.text_content("#counter") == "6 / 6" and "Play" in page.text_content("#play")
    page.click("#play")  # from the beginning again
    assert page.text_content("#counter") == "1 / 6"


def test_the_weights_shown_are_those_of_the_record(opened, asked):
    page = opened(asked)
    press(page, "ArrowRight", "ArrowRight")
    maps = asked["qformer.cross_attention"]
    show = "Array.from(weights(parts.queries, 5))"
    near = dict(rtol=0, atol=maps.max() / 400)
    np.testing.assert_allclose(page.evaluate(show), maps[:, :, 5].mean((0, 1)), **near)
    page.select_option("#layer", label="2")
    page.select_option("#head", label="3")
    np.testing.assert_allclose(page.evaluate(show), maps[1, 2, 5], **near)
    press(page, "r")
    assert page.is_disabled("#head")
    np.testing.assert_allclose(page.evaluate(show), asked["qformer.rollout"][5, 8:], **near)
    press(page, "a", "End")
    row = asked.words[2].row
    want = asked["language.attention"][:, :, row].mean((0, 1))
    np.testing.assert_allclose(page.evaluate("Array.from(weights(parts.words, 2))"), want, atol=0.002)
    mixed = want[:8] @ maps.mean((0, 1))
    np.testing.assert_allclose(
        page.evaluate("Array.from(overPatches(weights(parts.words, 2).subarray(0, 8), -1))"), mixed, atol=2e-3
    )


def test_layers_heads_queries_and_patches_change_the_picture(opened, asked):
    page = opened(asked)
    press(page, "ArrowRight")
    seen = {picture(page)}
    press(page, "l", "l")
    seen.add(picture(page))
    press(page, "h")
    seen.add(picture(page))
    page.click("#picture", position={"x": 5, "y": 5})
    seen.add(picture(page))
    assert page.text_content("#caption").startswith("Row 1, column 1 is looking")
    page.locator("#picture").press("ArrowDown")
    assert page.text_content("#caption").startswith("Row 2, column 1 is looking")
    page.click("text=layer 4")
    assert page.input_value("#layer") == "3"
    press(page, "ArrowRight")
    seen.add(picture(page))
    page.click("text=query 7")
    seen.add(picture(page))
    assert page.text_content("#caption").startswith("Query 7.")
    assert page.evaluate("document.activeElement.textContent") == "query 7"
    assert len(seen) == 6


def test_a_word_shows_what_was_probable_and_where_it_looked(opened, asked):
    page = opened(asked)
    press(page, *["ArrowRight"] * 3)
    first = page.text_content(".likely tr.chosen")
    assert "red" in first and "100 %" in first
    chips = page.locator(".chip").all_text_contents()
    assert len(chips) == 8 + 12 and any("yellow" in chip for chip in chips)  # none of what is said later
    before = picture(page)
    page.click("text=q3")
    assert "by way of query 3" in page.text_content("#caption") and picture(page) != before
    page.click("text=q3")
    assert "by way of all queries" in page.text_content("#caption") and picture(page) == before


def test_the_functions_stand_beside_each_step(opened, asked):
    page = opened(asked)
    page.click("#stages summary")
    assert "blocks.embed_picture" in page.text_content("#stages tbody")
    press(page, "ArrowRight")
    rows = page.locator("#stages tbody tr").all_text_contents()
    assert any("blocks.pre_ln_layer" in row and "(1,\u00a065,\u00a0128)" in row and "4 ×" in row for row in rows)
    assert any("minivl/models/vit.py:" in row for row in rows) and not any("qformer.py" in row for row in rows)


def test_text_and_picture_of_bridgetower(opened, matched):
    page = opened(matched)
    assert "roberta.embed" in page.text_content("#stages tbody")
    press(page, "ArrowRight")
    page.click(".chips >> text=star")
    assert page.text_content("#caption").startswith("“star” is looking") and page.input_value("#layer") == "0"
    maps = matched["text_over_patches"]
    shown = page.evaluate("Array.from(weights(parts.pair, parts.pair.chosen))")
    np.testing.assert_allclose(shown, maps[0, :, 7].mean(0), atol=maps.max() / 400)
    page.select_option("#layer", label="3")
    assert title(page).startswith("Cross-modal layer 3")
    press(page, "r")
    assert title(page) == "All cross-modal layers"
    page.click("#picture", position={"x": 5, "y": 5})
    shown = page.evaluate("Array.from(weights(parts.pair, 1, 'patchesOverWords', 'patchesOverWordsRollout'))")
    np.testing.assert_allclose(shown, matched["patches.rollout"][1, :9], atol=0.002)
    press(page, "End")
    assert "yes, they belong together" in page.text_content(".likely")


def test_t5s_words_have_two_kinds_of_maps(opened, translated):
    page = opened(translated)
    press(page, "End")
    assert "Over the words before, in maps of their own" in page.locator("#panel h3").all_text_contents()
    press(page, "r")
    assert title(page).startswith("Word 4 of 4")


SLOWEST = """Math.max(...steps.map((_, i) => {
  const start = performance.now();
  go(i);
  return performance.now() - start;
}))"""


def test_a_model_of_real_shape_is_quick(opened):
    """A tenth of a second a step where nothing else runs; a busy machine gets ten times that."""
    page = opened(of_real_shape())
    assert page.text_content("#counter") == "1 / 23"
    page.evaluate("parts.vision.chosen = 100")
    assert page.evaluate(SLOWEST) < 1000
    page.evaluate("for (const p of Object.values(parts)) if (p) p.layer = ROLLOUT")
    assert page.evaluate(SLOWEST) < 1000
    press(page, "Home", "ArrowRight")
    assert page.locator(".thumb").count() == 39 and page.is_disabled("#head")


def test_in_a_notebook_the_player_works_in_its_frame(browser, asked):
    page = browser.new_page()
    page.set_content(asked._repr_html_())
    frame = page.frame_locator("iframe")
    frame.locator("#forward").click()
    assert frame.locator("#step").text_content() == "The patches look at each other"
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(opened, asked, matched, scheme):
    for record in (asked, matched):
        page = opened(record, color_scheme=scheme)
        page.click("#stages summary")
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            assert max(page.evaluate(WIDEST)) <= width


CONTRAST = """() => {  // the texts whose colour stands out from its ground by less than 4.5 to 1
  const linear = (x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
  const light = (colour) => {
    const [r, g, b] = colour.match(/[0-9.]+/g).map((x) => linear(x / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)") return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const poor = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.closest(":disabled") || ["SCRIPT", "OPTION"].includes(e.tagName)) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) poor.push(e.tagName + " " + e.textContent.slice(0, 30));
  }
  return poor;
}"""
UNNAMED = """[...document.querySelectorAll("button")]
  .filter((b) => !(b.getAttribute("aria-label") || b.textContent).trim()).length"""
WIDEST = """steps.map((_, i) => { go(i); return document.documentElement.scrollWidth })"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_and_everything_has_a_name(opened, asked, scheme):
    page = opened(asked, color_scheme=scheme)
    page.click("#stages summary")
    for step in range(page.evaluate("steps.length")):
        page.evaluate(f"go({step})")
        assert page.evaluate(CONTRAST) == []
        assert page.evaluate(UNNAMED) == 0
        assert page.get_attribute("#picture", "aria-label") == page.text_content("#caption")
    assert page.get_by_label("Layer", exact=True).count() == page.get_by_label("Head", exact=True).count() == 1
