"""The page of all options is made of the models, and up to date."""

from harness.hosts import ROOT, load_script


def test_the_page_of_options_is_as_the_models_say():
    written = (ROOT / "docs" / "training_options.md").read_text("utf-8")
    assert written == load_script("options").page(), "run `python scripts/options.py`"
