"""The page of a run in a real browser: nothing is wider than the window, and the script runs."""

import json
import os
import re
import shutil
import subprocess

import pytest
from PIL import Image

from privimage.release.run_page import page_of

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed here")
DARK = "--blink-settings=preferredColorScheme=0"
LIGHT = "--blink-settings=preferredColorScheme=1"
# opens every part, enlarges an image and goes on by one, then tells what it sees
PROBE = """<script>
document.querySelectorAll("details").forEach(part => (part.open = true));
const main = document.querySelector("main"), wide = document.documentElement.scrollWidth;
tiles[3].click();
zoom.querySelector("[data-step='1']").click();
parent.postMessage(JSON.stringify({
  wide, window: innerWidth, outside: main.scrollWidth - main.clientWidth,
  enlarged: zoom.open && large.src === tiles[4].firstElementChild.src && told.textContent,
  dialog: zoom.getBoundingClientRect().right,
  dark: matchMedia("(prefers-color-scheme: dark)").matches,
}), "*");
</script></main>"""
# a window of its own is never narrower than 500 pixels
FRAME = """<script>onmessage = event => (document.title = event.data)</script>
<iframe width={width} height=1000 style="border:0" src="probed.html"></iframe>"""


@pytest.fixture(scope="module")
def page(finished_with_moments):
    return page_of(finished_with_moments, for_owner=True)


def chromium(folder, *options):
    """What the browser says, with settings of its own that are thrown away."""
    fixed = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    fixed += ["--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}"]
    return subprocess.run(
        [str(CHROMIUM), *fixed, *options],
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "HOME": str(folder)},
    )


def seen(tmp_path, page, width, *options):
    """What the probe saw; the page's policy would forbid it, so it is taken out."""
    probed = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    (tmp_path / "probed.html").write_text(probed.replace("</main>", PROBE))
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(width=width))
    wait = ("--window-size=1400,1000", "--virtual-time-budget=5000")
    done = chromium(tmp_path, *options, *wait, "--dump-dom", frame.as_uri())
    (title,) = re.findall(r"<title>(\{.*?\})</title>", done.stdout)
    return json.loads(title)


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window_and_images_can_be_enlarged(tmp_path, page, width, scheme):
    found = seen(tmp_path, page, width, scheme)
    assert found["window"] == width
    assert found["wide"] <= width
    assert found["outside"] == 0
    assert found["dialog"] <= width
    assert found["enlarged"] == "Synthetic image 1 of class 1"
    assert found["dark"] is (scheme == DARK)


def test_an_endless_name_makes_nothing_wider(tmp_path, page):
    endless = page.replace("<h3>4</h3>", f"<h3>{'w' * 300}</h3>")
    assert endless != page
    assert seen(tmp_path, endless, 390)["outside"] == 0
    broken = endless.replace("overflow-wrap: anywhere", "")  # the fault that this is for
    assert seen(tmp_path, broken, 390)["outside"] > 0


def test_the_policy_lets_the_pages_own_script_and_style_run_and_no_other(tmp_path, page):
    def complaints(content):
        path = tmp_path / "page.html"
        path.write_text(content)
        options = ("--enable-logging=stderr", "--dump-dom", path.as_uri())
        return re.findall(r"Content Security Policy", chromium(tmp_path, *options).stderr)

    assert complaints(page) == []
    assert complaints(page.replace("let place = 0", "let place = 1"))


@pytest.mark.parametrize(("scheme", "is_dark"), [(LIGHT, False), (DARK, True)])
def test_the_page_follows_the_wish_for_a_dark_one(tmp_path, page, scheme, is_dark):
    path, picture = tmp_path / "page.html", tmp_path / "page.png"
    path.write_text(page)
    chromium(tmp_path, scheme, "--window-size=390,900", f"--screenshot={picture}", path.as_uri())
    with Image.open(picture) as shown:
        assert shown.size == (390, 900)
        assert (sum(shown.convert("RGB").getpixel((2, 2))) < 200) is is_dark
