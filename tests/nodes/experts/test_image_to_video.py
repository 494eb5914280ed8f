"""Image to video beside the kinds of test_published.py, where further channels carry the image."""

import torch
from dcm_pack.dcm_core.sampling import euler, with_experts
from harness.worlds import assert_same, dcm_node, empty_latent, world


def test_hunyuan_video_with_the_image_as_first_frame_of_the_latent():
    """As its second image-to-video release has it ("v2 (replace)" of the stock node)."""
    this = world("hunyuan_video")
    first = torch.randn(1, 16, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    (text, options), sigmas = this.text()[0], this.schedule.sigmas(4)

    def sampled(model):
        latent = empty_latent() | {"noise_mask": torch.ones(1, 1, 3, 8, 8)}
        latent["samples"][:, :, :1] = model.model.process_latent_out(first)
        latent["noise_mask"][:, :, :1] = 0
        conditioning = [[text, options | {"guiding_frame_index": 0}]]
        done = dcm_node("DCMKSampler").execute(model, 0, 4, 1.0, conditioning, conditioning, latent)
        return model.model.process_latent_in(done[0]["samples"])

    def velocity(network):
        told = {"y": options["pooled_output"], "guidance": torch.tensor([6.0])}

        def velocity(x, sigma):
            x = torch.cat([first, x[:, :, 1:]], dim=2)
            return network(x, 1000 * sigma, text, guiding_frame_index=torch.tensor([0.0]), **told)

        return velocity

    semantic, detail = this.merged(this.semantic), this.merged(this.semantic, this.detail)
    noise = torch.randn(first.expand(-1, -1, 3, -1, -1).shape, generator=torch.manual_seed(0))
    expected = euler(with_experts(velocity(semantic), velocity(detail), this.schedule), noise, sigmas)
    result, alone = sampled(this.applied()), sampled(this.applied(detail_strength=0.0))
    assert torch.allclose(result[:, :, :1], first, atol=1e-5)
    assert_same(result[:, :, 1:], expected[:, :, 1:], alone[:, :, 1:], 1e-4)
