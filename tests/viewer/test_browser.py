"""The page in a real browser: what it draws is compared with pixels and scores, and nothing leaves this machine."""

import numpy as np
import pytest
from chromium import Chromium, found
from viewed import DARK, TOLD, WIDTH, corners, pixels

pytestmark = pytest.mark.skipif(found() is None, reason="no Chromium (chromium, chromium-browser, google-chrome) here")

STATE = "document.querySelector('#slide').dataset"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One browser for all tests; it takes two seconds to start."""
    browser = Chromium(found(), tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def page(server, browser):
    """A page that shows slide s1, the first with a file; in the end nothing went wrong and nobody else was asked."""
    browser.errors.clear()
    browser.requests.clear()
    browser.open(server.access.url)
    browser.wait(lambda: browser.js("document.body.dataset.slide") == "1")
    settled(browser)
    yield browser
    assert browser.errors == []
    loopback = f"http://127.0.0.1:{server.access.port}/"
    assert all(url.startswith(loopback) for url in browser.requests), browser.requests
    assert len(browser.requests) > 10


def settled(page):
    """Wait until all squares are there and drawn."""
    frames = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    page.js(frames)  # a change is drawn, and what it needs asked for, before the next frame
    page.wait(lambda: page.js(f"{STATE}.complete") == "true")
    page.js(frames)


def region(page, canvas, x, y, width, height):
    """Pixels of a canvas, [height, width, 4]."""
    code = (
        f"Array.from(document.querySelector('{canvas}').getContext('2d').getImageData({x},{y},{width},{height}).data)"
    )
    return np.array(page.js(code)).reshape(height, width, 4)


def corner_on_screen(page, x, y):
    """Where a place of the slide is on the canvas, with its scale: worked out from what the page says of its view."""
    said = page.js(
        f"({{...{STATE}, w: document.querySelector('#slide').width, h: document.querySelector('#slide').height}})"
    )
    scale = float(said["scale"])

    def rounded(value):  # as JavaScript rounds
        return int(np.floor(value + 0.5))

    left = rounded(float(said["x"]) * scale - said["w"] / 2)
    top = rounded(float(said["y"]) * scale - said["h"] / 2)
    return rounded(x * scale) - left, rounded(y * scale) - top, scale


def put(page, name, value, event):
    """Give an input a value, as a user would."""
    change = f"one => {{ one.value = '{value}'; one.dispatchEvent(new Event('{event}')); }}"
    page.js(f"({change})(document.querySelector('{name}'))")


def ask_for_scores(page):
    put(page, "#kind", "instance", "change")
    assert page.js("document.body.dataset.map") == ""  # not before a class is chosen
    put(page, "#label", "1", "change")
    page.wait(lambda: page.js("document.body.dataset.map") == "instance", 60)
    settled(page)


def test_a_slide_is_drawn_to_the_pixel(page):
    assert page.js("document.querySelector('#slides [aria-current=true] b').textContent") == "s1"
    page.js("document.querySelector('#one').click()")
    settled(page)
    x, y, scale = corner_on_screen(page, 200, 100)
    assert scale == 1
    np.testing.assert_array_equal(region(page, "#slide", x, y, 120, 150)[..., :3], pixels()[100:250, 200:320])
    x, y = corners()[TOLD]
    left, top, _ = corner_on_screen(page, int(x), int(y))
    assert region(page, "#slide", left, top, WIDTH, WIDTH)[..., :3].reshape(-1, 3).tolist() == [list(DARK)] * WIDTH**2


def test_the_list_tells_and_is_searched(page):
    texts = page.js("[...document.querySelectorAll('#slides li')].map(one => one.textContent)")
    assert len(texts) == 12
    assert "✓ right" in texts[1]
    assert "held out by" in texts[1]
    assert "no slide file" in texts[0]
    assert page.js("document.querySelectorAll('#slides .missing').length") == 10
    put(page, "#search", "S1 right", "input")
    shown = page.js("[...document.querySelectorAll('#slides li:not([hidden]) b')].map(one => one.textContent)")
    assert shown == ["s1", "s10", "s11"]
    assert page.js("document.querySelector('#count').textContent") == "3 of 12 slides, 10 without a file"
    page.js("document.querySelector('#slides li').firstChild.click()")  # s0, which has no file
    page.wait(lambda: "There is no file" in page.js("document.querySelector('#message').textContent"))
    assert page.js("document.querySelector('#said').textContent").startswith("slides0patientp0truthno")


def test_the_heat_map_lies_on_its_tiles_and_toggles(page):
    assert not region(page, "#heat", 0, 0, 400, 300).any()
    ask_for_scores(page)
    x, y = corners()[TOLD]
    left, top, _ = corner_on_screen(page, int(x), int(y))
    right, bottom, _ = corner_on_screen(page, int(x) + WIDTH, int(y) + WIDTH)
    heat = region(page, "#heat", left - 1, top - 1, right - left + 2, bottom - top + 2)
    inside = heat[1:-1, 1:-1].reshape(-1, 4)
    assert np.abs(inside - (0xFD, 0xE7, 0x25, 255)).max() <= 1  # the highest rank, to the last pixel of its square
    assert (np.abs(heat[0] - inside[0]).max(1) > 20).all()  # and not a pixel further
    assert (np.abs(heat[:, -1] - inside[0]).max(1) > 20).all()
    bare, ground, _ = corner_on_screen(page, 5, 5)  # before the grid
    assert not region(page, "#heat", bare, ground, 10, 10).any()
    left_out, row, _ = corner_on_screen(page, 32 + 4 * WIDTH + 5, 32 + 5)  # the tile that is not there
    assert not region(page, "#heat", left_out, row, 10, 10).any()
    assert page.js("document.querySelector('#heat').dataset.tiles") == "19"
    legend = page.js("document.querySelector('#words').innerText")
    assert "rank within the slide" in legend
    assert "1 model that held the slide out" in legend
    assert ", for yes" in legend
    page.js("document.querySelector('#slide').focus()")
    page.key("h", 72, "h")
    settled(page)
    assert page.js("document.querySelector('#show').checked") is False
    assert not region(page, "#heat", left, top, 20, 20).any()
    page.js("document.querySelector('#show').click()")
    settled(page)
    assert region(page, "#heat", left, top, 20, 20).all()
    put(page, "#opacity", "20", "input")
    assert page.js("getComputedStyle(document.querySelector('#heat')).opacity") == "0.2"


def test_a_tile_of_the_list_is_gone_to_and_read_under_the_pointer(page):
    ask_for_scores(page)
    items = page.js("[...document.querySelectorAll('#tiles button')].map(one => one.getAttribute('aria-label'))")
    assert len(items) == 24  # twelve of each end
    assert items[0].startswith("rank 1 of 19, score ")
    assert items[12].startswith("rank 19 of 19, score ")
    page.js("document.querySelector('#top button').click()")
    settled(page)
    x, y = (corners()[TOLD] + WIDTH / 2).tolist()
    assert (float(page.js(f"{STATE}.x")), float(page.js(f"{STATE}.y"))) == (x, y)
    assert page.js("document.querySelector('#top button').ariaPressed") == "true"
    box = page.js("JSON.parse(JSON.stringify(document.querySelector('#slide').getBoundingClientRect()))")
    middle = region(page, "#slide", round(box["width"] / 2) - 5, round(box["height"] / 2) - 5, 10, 10)
    assert (middle[..., :3] == DARK).all()
    page.mouse("mouseMoved", box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    said = page.js("document.querySelector('#hover').textContent")
    assert f"x {x / 2:.0f} µm, y {y / 2:.0f} µm" in said
    assert "rank 1 of 19" in said
    ring = page.js("JSON.parse(JSON.stringify(document.querySelector('#mark').getBoundingClientRect()))")
    assert abs(ring["x"] + ring["width"] / 2 - box["x"] - box["width"] / 2) <= 1


def test_wheel_drag_and_keys(page):
    box = page.js("JSON.parse(JSON.stringify(document.querySelector('#slide').getBoundingClientRect()))")
    x, y, scale = (float(page.js(f"{STATE}.{name}")) for name in ("x", "y", "scale"))
    assert (x, y) == (300, 176)  # all of it is seen
    left, top = box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.4
    page.mouse("mouseWheel", left, top, deltaX=0, deltaY=-300)
    page.wait(lambda: abs(float(page.js(f"{STATE}.scale")) / scale - np.exp(0.4)) < 1e-6)
    under = x + box["width"] * 0.25 / scale
    now = float(page.js(f"{STATE}.x")) + box["width"] * 0.25 / float(page.js(f"{STATE}.scale"))
    assert abs(under - now) < 0.01  # what was under the pointer is there still
    x, scale = (float(page.js(f"{STATE}.{name}")) for name in ("x", "scale"))
    page.mouse("mousePressed", left, top, button="left", clickCount=1)
    page.mouse("mouseMoved", left - 50, top, button="left", buttons=1)
    page.mouse("mouseReleased", left - 50, top, button="left", clickCount=1)
    settled(page)
    assert abs(float(page.js(f"{STATE}.x")) - (x + 50 / scale)) < 0.01
    page.js("document.querySelector('#slide').focus()")
    page.key("ArrowDown", 40)
    page.key("+", 187, "+")
    page.wait(lambda: abs(float(page.js(f"{STATE}.scale")) / scale - 1.5) < 1e-6)
    page.key("0", 48, "0")
    settled(page)
    assert (float(page.js(f"{STATE}.x")), float(page.js(f"{STATE}.y"))) == (300, 176)
    page.key("n", 78, "n")
    page.wait(lambda: page.js("document.querySelector('#slides [aria-current=true] b').textContent") == "s10")


def test_the_scale_bar_is_as_long_as_it_says(page):
    page.js("document.querySelector('#one').click()")
    settled(page)
    assert page.js("document.querySelector('#length').textContent") == "50 µm"
    assert page.js("document.querySelector('#bar').clientWidth + 4") == 100  # 0.5 um a pixel; 2 px of border each side
