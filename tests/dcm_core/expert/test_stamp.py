"""Which backbone a file's header names, in the words of several trainers."""

import pytest

from dcm_core.expert.stamp import other_backbone

# As trainers write them, in the keys that they have for it.
OF_WAN = [{"modelspec.architecture": "wan2.1/lora"}, {"ss_base_model_version": "wan_2.1"}, {"ss_base_model": "wan"}]
OF_HUNYUAN_VIDEO = [
    {"modelspec.architecture": "hunyuan-video/lora"},
    {"ss_base_model_version": "hunyuan_video"},
    {"ss_base_model_version": "framepack"},
]
OF_FLUX = [{"modelspec.architecture": "Flux.1-dev/lora"}, {"ss_base_model_version": "flux1"}]


@pytest.mark.parametrize("header", [*OF_WAN, *OF_HUNYUAN_VIDEO, *OF_FLUX], ids=str)
def test_another_backbone_is_told_in_the_words_of_the_file(header):
    (said,) = header.values()
    own = "wan" if header in OF_WAN else "hunyuan_video"
    assert other_backbone(header, "cogvideox") == said
    assert other_backbone(header, own) == (said if header in OF_FLUX else "")


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"ss_base_model_version": "sd_1.5"},  # what one trainer wrote into files for everything
        {"ss_base_model_version": "swanky-mix"},
        {"modelspec.architecture": "wan/lora", "ss_base_model_version": "flux1"},  # who contradicts itself
        {"modelspec.title": "flux"},
    ],
    ids=str,
)
def test_what_says_nothing_clear_raises_no_doubt(header):
    assert other_backbone(header, "wan") == ""
