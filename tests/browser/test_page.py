"""The shipped workflows in the real page: dropped like a user drops them, and Shapes run with the Run button."""

import pytest
from harness.workflows import NAMES


@pytest.mark.parametrize("name", NAMES)
def test_workflow_opens_without_missing_nodes(dropped, name):
    seen = dropped[name]
    assert not seen["missing"]
    assert any(kind.startswith("DCM") for kind in seen["types"])
    assert not [alert for alert in seen["alerts"] if "Invalid workflow" in alert or "missing node" in alert.lower()]


def test_shapes_runs_from_the_page(dropped):
    events = dropped["shapes"].get("heard", [])
    assert [kind for kind, _ in events] == ["execution_success"], events
