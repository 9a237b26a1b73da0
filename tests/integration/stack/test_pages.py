"""Every link that a finished run leaves opens in a browser, and no page of ours asks elsewhere."""

import re
from urllib.parse import urlsplit

import pytest

from tests.integration.servers import CHROMIUM, QUIET_BROWSER
from tests.integration.stack.conftest import Shop

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

LINK = re.compile(r"\((https?://[^)\s]+|file:[^)\s]+)\)")


def links_of(shop: Shop) -> dict[str, str]:
    """The addresses that Prefect's artifacts and MLflow's tags lead to, by where they stand."""
    found = {
        f"Prefect {key}": link
        for key, data in shop.artifacts().items()
        if isinstance(data, str)
        for link in LINK.findall(data)
    }
    return found | {"MLflow data_page": shop.tags()["data_page"]}


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium")
def test_each_link_of_a_finished_run_opens_in_a_browser(shop: Shop) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    logins = (shop.stack.shell.state / "stack" / "login.txt").read_text().splitlines()
    links = links_of(shop)
    kinds = {"gallery", "report", "data-version", "training-finetune", "mlflow-run"}
    assert {f"Prefect {kind}" for kind in kinds} <= links.keys()

    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(CHROMIUM), args=QUIET_BROWSER)
        page, answered = browser.new_page(), set[str]()
        page.on("response", lambda reply: answered.add(urlsplit(reply.url).hostname or ""))
        for _, address in map(str.split, logins):
            page.goto(address)
            page.wait_for_url(re.compile(r"^[^#]*$|.*/dashboard.*|.*#/.*"))

        # The start page links what the run left, too.
        pages = logins[0].split()[1].partition("/enter")[0]
        page.goto(f"{pages}/")
        for anchor in page.locator("main a").all():
            links[f"start page {anchor.inner_text()}"] = f"{pages}{anchor.get_attribute('href')}"
        titles = {}
        for name, link in links.items():
            reply = page.goto(link)
            assert reply is None or reply.ok, f"{name}: {link}"
            titles[name] = page.title()
        browser.close()

    assert "Gallery" in titles["Prefect gallery"] or "data version" in titles["Prefect gallery"]
    assert "finetune on data version" in titles["Prefect training-finetune"]
    assert "version 1 on data version" in titles["Prefect report"]
    assert answered <= {"127.0.0.1"}
