import torch

from training.evaluation.clips import high_frequency_ratio


def test_high_frequencies_fall_with_blur_and_do_not_know_brightness():
    clips = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool3d(clips, (1, 3, 3), 1, (0, 1, 1))
    assert high_frequency_ratio(blurred, clips) < 0.2 < 1 < high_frequency_ratio(2 * clips, clips)
    assert abs(high_frequency_ratio(clips + 5, clips) - 1) < 1e-4
