"""The shipped workflows in the real page: dropped like a user drops them, and Shapes run with the Run button."""

import pytest
from harness.workflows import NAMES


@pytest.mark.parametrize("name", NAMES)
def test_workflow_opens_without_missing_nodes(dropped, name):
    seen = dropped[name]
    assert not seen["missing"]
    assert any(kind.startswith("DCM") for kind in seen["types"])
    assert not [alert for alert in seen["alerts"] if "Invalid workflow" in alert or "missing node" in alert.lower()]


@pytest.mark.parametrize("name", ["shapes", "motion"])
def test_what_needs_no_download_runs_from_the_page(dropped, name):
    events = dropped[name].get("heard", [])
    assert [kind for kind, _ in events] == ["execution_success"], events


def test_the_page_shows_that_a_video_is_slow(dropped):
    assert "of the reference's motion: slow." in dropped["motion"]["shown"]
