"""Every clip once an epoch, a bucket at a time, and the same whoever asks."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from training.data.plan import BatchPlan


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40), st.integers(1, 7), st.integers(0, 3))
def test_every_clip_once_an_epoch_and_one_bucket_a_batch(buckets, size, epoch):
    plan = BatchPlan(buckets, size, seed=3)
    batches = [plan.batch(epoch * plan.epoch + i) for i in range(plan.epoch)]
    assert all(len(batch) == size and len({buckets[clip] for clip in batch}) == 1 for batch in batches)
    for bucket in set(buckets):
        of_bucket = [batch for batch in batches if buckets[batch[0]] == bucket]
        seen = Counter(clip for batch in of_bucket for clip in batch)
        clips = {number for number, each in enumerate(buckets) if each == bucket}
        assert set(seen) == clips and len(of_bucket) == -(-len(clips) // size)
        if len(clips) >= size:
            assert max(seen.values()) <= 2


def test_an_iteration_alone_says_what_it_trains_on():
    buckets = [number % 3 for number in range(50)]
    plan = BatchPlan(buckets, 4, seed=1)
    forward = [plan.batch(i) for i in range(60)]
    assert [BatchPlan(buckets, 4, seed=1).batch(i) for i in reversed(range(60))] == forward[::-1]
    assert forward[: plan.epoch] != forward[plan.epoch : 2 * plan.epoch]
    assert forward != [BatchPlan(buckets, 4, seed=2).batch(i) for i in range(60)]
