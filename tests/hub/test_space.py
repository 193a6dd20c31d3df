"""The Space as a visitor sees it, in a browser without a window."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from haba_hf import published_artifact
from haba_hf.hub import read_artifact
from haba_hf.hub.summary import headline
from tiny import tiny_data
from tiny_artifact import tiny_artifact

APP = Path(__file__).parents[2] / "hub_cards" / "space" / "app.py"
CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@contextmanager
def space(*arguments):
    """The page's address while it is served; its log goes to this test's stderr."""
    pytest.importorskip("gradio", reason="the Space needs gradio: pip install -e '.[test]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen([sys.executable, str(APP), *map(str, arguments)], env=environment)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            assert server.poll() is None, "the Space did not start"
            with suppress(OSError), urllib.request.urlopen(address, timeout=5):
                break
            time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait(30)


@contextmanager
def browser():
    selenium = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install -e '.[test]'")
    if not (CHROMIUM and CHROMEDRIVER):
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1300,1500"):
        options.add_argument(argument)
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(CHROMEDRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.mark.slow
def test_a_visitor_chooses_and_mixes_hallucinators(tmp_path):
    hallucinated = tiny_artifact(tmp_path / "haba")
    plain = tiny_artifact(tmp_path / "plain", num_hallucinators=0)
    with browser() as driver, space(hallucinated, plain) as address:
        from selenium.webdriver.common.keys import Keys
        from selenium.webdriver.support.ui import WebDriverWait

        def wait_for(what):
            return WebDriverWait(driver, 60, ignored_exceptions=(Exception,)).until(lambda _: what())

        def find(selector):
            return driver.find_elements("css selector", selector)

        def picture():
            return find("#samples img")[0].get_attribute("src")

        def after(act):
            before = picture()
            act()
            wait_for(lambda: picture() != before)
            return picture()

        driver.get(address)
        first = wait_for(picture)
        choices = wait_for(lambda: find("#hallucinator label"))
        assert [choice.text for choice in choices] == ["all", "H1", "H2", "H3", "mixture"]
        assert "81.2 ± 1.2 %" in find("#accuracy h1")[0].text, "accuracy on top"
        wait_for(lambda: "No real images beside them" in driver.page_source)  # their data set is not here
        assert "957 floats, 3,828 bytes" in driver.page_source
        second = after(choices[2].click)
        mixture = after(find("#hallucinator label")[4].click)
        assert len({first, second, mixture}) == 3

        def weigh_nothing(name):
            weight = wait_for(lambda: find(f"#weight-{name} input[type=number]")[0])
            weight.send_keys(Keys.CONTROL, "a")
            weight.send_keys("0", Keys.TAB)

        after(lambda: weigh_nothing("H1"))
        assert urllib.request.urlopen(picture()).read() != urllib.request.urlopen(mixture).read()
        after(lambda: weigh_nothing("H3"))
        pixels = urllib.request.urlopen(picture()).read()
        assert pixels == urllib.request.urlopen(second).read(), "all weight is on H2"

        assert driver.save_screenshot(str(tmp_path / "space.png"))
        with Image.open(tmp_path / "space.png") as screenshot:
            assert len(np.unique(np.asarray(screenshot.convert("L")))) > 20, "there is something to see"

        phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        wait_for(lambda: driver.execute_script("return window.innerWidth") == 390)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 390
        cells = find("#summary th")
        assert cells and max(cell.size["height"] for cell in cells) < 60, "words of a table are broken"
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

        box = find("input[aria-label='Artifact']")[0]
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(str(hallucinated / ".." / "artifact"), Keys.ENTER)  # a path that is there, but none of these
        wait_for(lambda: "is no name on the Hub" in driver.page_source)
        box.send_keys(Keys.CONTROL, "a")
        after(lambda: box.send_keys(str(plain), Keys.ENTER))
        wait_for(lambda: "0 hallucinators" in driver.page_source)
        assert not [label for label in find("#hallucinator label") if label.is_displayed()], "nothing to choose"


@pytest.fixture(scope="module")
def app():
    pytest.importorskip("gradio", reason="the Space needs gradio: pip install -e '.[test]'")
    spec = importlib.util.spec_from_file_location("space_app", APP)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_real_images_are_those_of_the_artifact_s_data_set(app):
    artifact = read_artifact(published_artifact("digits-dm-1pc"))
    images = app.RealImages(None)
    data = images.of(artifact, is_ours=False)
    assert data.name == "digits" and data.image_shape == (1, 8, 8)
    assert images.of(artifact, is_ours=True) is data, "loaded once"


def test_a_stranger_s_recipe_loads_nothing_that_we_do_not_know(app, tmp_path):
    """What a visitor names has a recipe too: a folder of ours, or any repository, must not be read by it."""
    artifact = read_artifact(tiny_artifact(tmp_path))
    loaded = []
    images = app.RealImages(None)
    images.load = lambda settings: loaded.append(json.loads(settings)) or tiny_data()
    for dataset in (str(tmp_path), "someone/large"):
        artifact.recipe["dataset"] = dataset
        with pytest.raises(ValueError, match="no data set that can be loaded here"):
            images.of(artifact, is_ours=False)
    artifact.recipe.update({"dataset": "digits", "data_dir": str(tmp_path)})
    with pytest.raises(ValueError, match="other classes or another size"):
        images.of(artifact, is_ours=False)
    assert [settings.get("data_dir") for settings in loaded] == [None]


def test_a_recipe_may_hold_lists(app, tmp_path):
    artifact = read_artifact(tiny_artifact(tmp_path))
    artifact.recipe.update({"dataset": "digits", "words": ["yes", "no"]})
    with pytest.raises(ValueError, match="digits has no clips"):
        app.RealImages(None).of(artifact, is_ours=False)


def test_it_opens_on_the_best_artifact_with_hallucinators(app, tmp_path):
    folders = {
        "plain": tiny_artifact(tmp_path / "plain", num_hallucinators=0),
        "unmeasured": tiny_artifact(tmp_path / "unmeasured", evaluated=False),
        "haba": tiny_artifact(tmp_path / "haba"),
    }
    assert list(app.best_first(folders)) == ["haba", "unmeasured", "plain"]


def test_the_headline_says_what_was_measured_and_nothing_of_a_record_acts(tmp_path):
    artifact = read_artifact(tiny_artifact(tmp_path))
    text = headline(artifact)
    assert text.startswith("# 81.2 ± 1.2 %\n\nof the test split is classified right")
    assert "these 3,828 bytes; on random real images of as many floats 70.1 ± 4.6 %, on all real images 93.8" in text
    artifact.results["settings"]["evaluation_split"] = "[x](javascript:y) <b>"
    assert "[x](" not in headline(artifact) and "<b>" not in headline(artifact)
    assert headline(read_artifact(tiny_artifact(tmp_path / "other", evaluated=False))) == ""
