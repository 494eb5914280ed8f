"""What a user types, and what the network is told."""

import pytest
import torch

from dcm_core.shapes.captions import ALL_ATTRIBUTES, TEXT_TOKENS, TEXT_WIDTH, encode_text


def test_every_clip_has_a_caption_of_its_own():
    assert len(ALL_ATTRIBUTES) == len({each.caption() for each in ALL_ATTRIBUTES}) == 288


def test_case_and_punctuation_do_not_matter():
    assert torch.equal(encode_text(["A red, plain Circle."]), encode_text(["a red plain circle"]))


def test_an_unknown_word_is_named_with_the_nearest_known_one():
    with pytest.raises(ValueError, match="'stripey'.*'striped'"):
        encode_text(["a red stripey circle moving left fast"])


def test_too_many_words_are_an_error():
    with pytest.raises(ValueError, match="at most 8"):
        encode_text(["a a a a a a a a a"])


def test_text_states_are_fixed_and_of_constant_length():
    states = encode_text(["a red plain circle moving left fast", ""])
    assert states.shape == (2, TEXT_TOKENS, TEXT_WIDTH)
    assert states[1].eq(0).all(), "the empty prompt is the unconditional one"
    assert states[0, 0, :3].tolist() == pytest.approx(encode_text(["a"])[0, 0, :3].tolist())
    # The words' vectors are part of the trained weights' meaning: they must never change.
    torch.testing.assert_close(states[0, 1, :3], torch.tensor([-0.850483, -1.506948, -1.744494]), atol=1e-6, rtol=0)
