"""Stand-ins for what a GPU has."""

import pytest
from dcm_pack.nodes.backbone import attention, attention_choice


@pytest.fixture
def ways(monkeypatch, tmp_path):
    """Stand-ins for the ways of a GPU by name, with the seconds that each takes (0.1 the host's own)."""
    taken = {}

    def put(**ways):
        named = {name: function for name, (function, _) in ways.items()}
        taken.update({function: seconds for function, seconds in ways.values()})
        attention.WAYS.clear()
        attention.WAYS.update(named)

    monkeypatch.setattr(attention, "seconds", lambda function, *inputs: taken.get(function, 0.1))
    monkeypatch.setattr(attention_choice, "SMALL", 0)
    monkeypatch.setattr(attention_choice, "choices_file", lambda: tmp_path / "choices.json")
    monkeypatch.setattr(attention_choice, "_chosen", {})
    before = dict(attention.WAYS)
    yield put
    attention.WAYS.clear()
    attention.WAYS.update(before)
