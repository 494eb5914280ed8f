"""What people type is found by newer pages, which look at these words too."""

import pytest
from harness.worlds import dcm_node

SEARCHES = {
    "wan 2.2 two models": "DCMKSampler",
    "high low noise": "DCMKSampler",
    "lightning": "DCMSigmas",
    "load diffusion model": "DCMLoadBackbone",
    "frozen motion": "DCMMotion",
    "style lora": "DCMLora",
}


@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_finds_its_node(search):
    assert search in dcm_node(SEARCHES[search]).define_schema().search_aliases
