"""What a file is: one answer, whichever node it was given to."""

import pytest

from dcm_core.expert.other_files import what_it_is, what_it_looks_like


@pytest.mark.parametrize(
    "name",
    [
        "optimizer.state.0.exp_avg",
        "_fsdp_wrapped_module._flat_param",
        "blocks.0.ffn.0.hada_w1_a",
        "cond_stage_model.logit_scale",
        "vace_blocks.0.after_proj.weight",
        "decoder.up.0.block.0.conv1.weight",
        "blocks.0.ffn.gate.0.weight",
        "visual.blocks.0.attn.qkv.weight",
        "controlnet_blocks.0.weight",
        "joint_blocks.0.x_block.attn.qkv.weight",
    ],
)
def test_both_loaders_say_the_same_of_it(name):
    assert what_it_looks_like([name]) == f"it looks like {what_it_is([name], {})}"


def test_an_ordinary_lora_may_be_an_expert_where_the_header_was_not_asked():
    name = "diffusion_model.blocks.0.self_attn.q.lora_A.weight"
    assert what_it_is([name], {}).startswith("an ordinary LoRA")
    assert what_it_looks_like([name]).startswith("it looks like a LoRA or an expert file")
