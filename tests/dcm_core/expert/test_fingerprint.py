"""Fingerprints tell backbones apart, and copies of one backbone not."""

import torch
from torch import nn

from dcm_core.expert.fingerprint import fingerprint, logical_shapes, norm_tensors


class Net(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 2, width))
        self.lin = nn.Linear(width, 2 * width)
        self.norm_q = nn.LayerNorm(width)
        self.conv = nn.Conv3d(2, width, 1)


def of(net: nn.Module, family: str = "wan") -> str:
    return fingerprint(family, logical_shapes(net), norm_tensors(net.state_dict()))


def test_shapes_are_the_architectures():
    assert logical_shapes(Net()) == {
        "table": (1, 2, 8),
        "lin.weight": (16, 8),
        "lin.bias": (16,),
        "norm_q.weight": (8,),
        "norm_q.bias": (8,),
        "conv.weight": (8, 2, 1, 1, 1),
        "conv.bias": (8,),
    }


def test_a_packed_copy_has_the_same_shapes():
    net = Net()
    plain = of(net)
    shapes = logical_shapes(net)
    net.lin.weight = nn.Parameter(torch.zeros(64, dtype=torch.uint8), requires_grad=False)
    net.lin.weight_scale = nn.Parameter(torch.ones(4, 4))
    assert logical_shapes(net) == shapes
    assert of(net) == plain
    net.table.tensor_shape = torch.Size((1, 2, 8))
    net.table.data = torch.zeros(3)
    assert logical_shapes(net) == shapes


def test_copies_in_another_precision_agree():
    net = Net()
    with torch.no_grad():
        net.norm_q.weight.uniform_(0.5, 1.5)
    plain = of(net)
    assert plain == of(net.to(torch.bfloat16))
    assert plain == of(net.to(torch.float32))


def test_a_float16_copy_is_told_from_no_other():
    """Rounded twice, one number in sixteen ends elsewhere; numbers of bfloat16 pass through float16 as they are."""
    net = Net(512)
    with torch.no_grad():
        net.norm_q.weight.uniform_(0.5, 1.5)
    plain = of(net)
    half = {name: norm.half() for name, norm in norm_tensors(net.state_dict()).items()}
    for copy in (half, {name: norm.float() for name, norm in half.items()}):
        assert fingerprint("wan", logical_shapes(net), copy) == plain.rpartition(":")[0] + ":-"
    net.to(torch.bfloat16)
    assert of(net) == of(net.to(torch.float16)) == plain


def test_marks_that_quantised_files_carry_do_not_count():
    net = Net()
    plain = of(net)
    net.scaled_fp8 = nn.Parameter(torch.zeros(2))
    net.conv.scale_weight = nn.Parameter(torch.ones(()))
    assert of(net) == plain


def test_other_families_shapes_and_norms_differ_in_their_own_part():
    net = Net()
    plain = of(net).split(":")
    assert of(net, "hunyuan_video").split(":")[1:] == plain[1:]
    with torch.no_grad():
        net.lin.weight.add_(1)
    assert of(net).split(":") == plain  # other weights than norms do not count: fp8 and GGUF copies change them
    with torch.no_grad():
        net.norm_q.weight[0] += 1
    other = of(net).split(":")
    assert other[:2] == plain[:2] and other[2] != plain[2]
    wide = of(Net(9)).split(":")
    assert wide[1] != plain[1]
    assert fingerprint("wan", logical_shapes(net)).endswith(":-")


def test_hosts_that_name_a_norm_scale_agree_with_those_that_name_it_weight():
    value = torch.rand(8)
    assert fingerprint("hunyuan_video", {}, {"a.key_norm.scale": value}) == fingerprint(
        "hunyuan_video", {}, {"a.key_norm.weight": value}
    )


def test_scales_of_a_layer_that_is_quantised_by_the_host_are_no_shapes():
    """ComfyUI's own quantised Linear is no ``nn.Linear``, and has the scale of its input as a Parameter."""

    class Quantised(nn.Module):
        def __init__(self):
            super().__init__()
            self.in_features, self.out_features = 6, 4
            self.weight = nn.Parameter(torch.zeros(4, 6, dtype=torch.float8_e4m3fn), requires_grad=False)
            self.bias = nn.Parameter(torch.zeros(4))
            self.input_scale = nn.Parameter(torch.ones(()))

    assert logical_shapes(nn.ModuleDict({"q": Quantised()})) == {"q.weight": (4, 6), "q.bias": (4,)}
