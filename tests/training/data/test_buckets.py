"""Sizes that a backbone takes, and buckets within a number of tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.buckets import Size, SizeRule, buckets, nearest

WAN = SizeRule(usual=Size(81, 480, 832), fps=16)
WAN_5B = SizeRule(usual=Size(121, 704, 1280), fps=24, channels=48, scale=16)
COGVIDEOX_15 = SizeRule(usual=Size(85, 768, 1360), fps=16, group=2)
FIXED = SizeRule(usual=Size(49, 480, 720), fps=8, only=True)
NO_LEAD = SizeRule(usual=Size(16, 24, 24), fps=8, scale=2, lead=0)
RULES = [WAN, WAN_5B, COGVIDEOX_15, FIXED, NO_LEAD]


def test_frames_that_a_backbone_takes():
    assert [WAN.frames(n) for n in (0, 1, 4, 5, 80, 81, 84)] == [0, 1, 1, 5, 77, 81, 81]
    assert [COGVIDEOX_15.frames(n) for n in (1, 4, 5, 12, 13, 81, 85)] == [0, 0, 5, 5, 13, 77, 85]
    assert [NO_LEAD.frames(n) for n in (1, 3, 4, 17)] == [0, 0, 4, 16]
    assert [FIXED.frames(n) for n in (1, 48, 49, 90)] == [0, 0, 49, 49]


def test_latents_and_tokens():
    assert WAN.latent_shape(Size(81, 480, 832)) == (16, 21, 60, 104)
    assert WAN.tokens(Size(81, 480, 832)) == 32760
    assert WAN_5B.multiple == 32 and WAN_5B.latent_shape(Size(121, 704, 1280)) == (48, 31, 44, 80)
    assert COGVIDEOX_15.tokens(Size(85, 768, 1360)) == 11 * 48 * 85
    assert NO_LEAD.latent_shape(Size(16, 24, 24)) == (16, 4, 12, 12)


def test_one_size_alone():
    assert buckets(FIXED, [81, 1], 999, 999, 10**6) == [Size(49, 480, 720)]
    assert FIXED.allows(Size(49, 480, 720)) and not FIXED.allows(Size(49, 480, 736))


def test_the_given_size_and_its_upright_one_are_buckets():
    found = buckets(WAN, [81, 1], 480, 832, WAN.tokens(Size(81, 480, 832)))
    assert {Size(81, 480, 832), Size(81, 832, 480), Size(1, 480, 832)} <= set(found)
    assert len(found) == 2 * len({(each.height, each.width) for each in found if each.frames == 81})


@given(
    st.sampled_from(RULES),
    st.lists(st.integers(1, 130), min_size=1, max_size=4),
    st.integers(2, 40),
    st.integers(2, 40),
    st.integers(1, 100_000),
)
def test_every_bucket_fits(rule, wanted, height, width, tokens):
    frames = [n for n in map(rule.frames, wanted) if n]
    for size in buckets(rule, frames, height * rule.multiple, width * rule.multiple, tokens):
        assert rule.allows(size)
        assert rule.only or rule.tokens(size) <= tokens
        assert rule.only or size.height * size.width <= height * width * rule.multiple**2


def test_more_frames_than_fit_are_smaller():
    tokens = WAN.tokens(Size(49, 480, 832))
    found = buckets(WAN, [81, 49], 480, 832, tokens)
    long = [size for size in found if size.frames == 81]
    assert long and max(map(WAN.tokens, found)) <= tokens and min(map(WAN.tokens, long)) > 0.8 * tokens


def test_the_nearest_bucket():
    sizes = [Size(81, 480, 832), Size(81, 832, 480), Size(49, 640, 640), Size(1, 480, 832)]
    assert nearest(sizes, 100, 0.5) == Size(81, 832, 480)
    assert nearest(sizes, 80, 2.0) == Size(49, 640, 640)
    assert nearest(sizes, 3, 1.0) == Size(1, 480, 832)
    assert nearest(sizes[:3], 3, 1.0) is None


@pytest.mark.parametrize("rule", RULES)
def test_the_usual_size_is_allowed(rule):
    assert rule.allows(rule.usual)
