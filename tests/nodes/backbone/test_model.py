"""What a MODEL is: families by their records alone."""

import sys
from dataclasses import replace
from importlib import import_module
from types import ModuleType

import pytest
from dcm_pack.dcm_core.families.presets import FAMILIES
from dcm_pack.nodes.backbone import model as model_module
from dcm_pack.nodes.backbone.model import as_released, family_of
from harness import tiny
from harness.worlds import world


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_what_a_record_names_is_there(family):
    if family.host_patch:
        assert import_module(f"dcm_pack.nodes.backbone.{family.host_patch}").run_as_released


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_model_is_patched_where_its_record_says_so(family):
    this = world(family)
    model = this.model()
    assert family_of(model) is FAMILIES[family]
    released = as_released(model, this.schedule.grid)
    assert (released is model) is not bool(FAMILIES[family].host_patch)
    assert bool(released.object_patches) is bool(FAMILIES[family].host_patch)


def test_a_family_with_a_patch_of_its_own_is_a_record_and_a_module(monkeypatch):
    patch = ModuleType("dcm_pack.nodes.backbone.another")
    patch.run_as_released = lambda model, grid: (model, grid)
    monkeypatch.setitem(sys.modules, patch.__name__, patch)
    this = world("wan")
    model, grid = this.model(), this.schedule.grid
    record = replace(FAMILIES["wan"], host_patch="another")
    monkeypatch.setattr(model_module, "FAMILIES", FAMILIES | {"wan": record})
    assert as_released(model, grid) == (model, grid)
