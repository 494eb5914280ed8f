"""The shipped workflows in the real page: dropped like a user drops them, and Shapes run with the Run button."""

import pytest
from harness.browser import SIZES
from harness.layout import backward, crossings, half_in_groups, overlaps
from harness.workflows import NAMES

# Longer than seven columns, which is what fits: there the video is saved right below where it is made.
TALL = ["baked_experts_guider", "expert_as_ordinary_lora", "motion", "shapes", "wan21_i2v_dual_expert"]
# Two samplers that take the same prompts: their links cannot be drawn without a crossing.
TWO_SAMPLERS = ["expert_as_ordinary_lora", "motion"]


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


@pytest.mark.parametrize("name", ["shapes", "motion"])
def test_what_the_nodes_show_has_room(dropped, name):
    after = dropped[name]["after"]
    assert not overlaps(after) and not half_in_groups(after)


def test_the_page_shows_that_a_video_is_slow(dropped):
    assert "of the reference's motion: slow." in dropped["motion"]["shown"]


@pytest.mark.parametrize("name", NAMES)
def test_workflow_opens_with_text_beside_an_open_panel(dropped, name):
    for canvas, seen in dropped[name]["layouts"].items():
        views = dict(zip(SIZES, seen["views"], strict=True))
        small = {size: view for size, view in views.items() if view["zoom"] < view["readable"]}
        assert not small, f"{canvas}: the page draws no text at this zoom"
        hidden = {size: view for size, view in views.items() if not 0 < view["panel"] < view["note"]}
        assert not hidden, f"{canvas}: the note begins under the panel"


@pytest.mark.parametrize("name", NAMES)
def test_workflow_is_laid_out_from_left_to_right(dropped, name):
    for canvas, seen in dropped[name]["layouts"].items():
        assert len(seen["boxes"]) > 5 and len(seen["links"]) > 5
        assert not overlaps(seen) and not half_in_groups(seen), canvas
        assert backward(seen) == (["Create Video -> Save Video"] if name in TALL else []), canvas
        if name not in TWO_SAMPLERS:
            assert not crossings(seen), canvas
