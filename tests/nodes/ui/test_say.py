"""Lines for the page: whole words, and nothing in them that a person would see or that leaves the page."""

from types import SimpleNamespace

from dcm_pack.nodes.ui import say as module

JOINER = "\u2060"


def test_words_are_joined_for_the_page_only(monkeypatch):
    sent = []
    server = SimpleNamespace(send_progress_text=lambda text, node_id: sent.append(text))
    monkeypatch.setattr(module, "PromptServer", SimpleNamespace(instance=server), raising=False)
    node = SimpleNamespace(hidden=SimpleNamespace(unique_id="7"))
    file = "wan2.1_t2v_1.3B_dcm_semantic_expert.safetensors"
    said = module.say(node, f"{file}: two  words", ["a third"])
    assert said == f"{file}: two  words\nWarning: a third"
    assert sent[0].replace(JOINER, "") == said
    first, second = sent[0].split("\n")
    assert first.split(" ") == [f"{file}:", JOINER.join("two"), "", JOINER.join("words")]
    assert second.endswith(JOINER.join("third"))
