"""What the page folds away, how a node's line names what was set there all the same, and what a node is found by."""

import pytest
from dcm_pack.nodes import load_backbone as node
from harness.worlds import dcm_node, empty_latent, world
from safetensors.torch import save_file

FIRST_CHOICES = {
    "DCMLoadBackbone": {"backbone_name"},
    "DCMApplyExperts": set(),
    "DCMSigmas": {"steps", "preset"},
    "DCMKSampler": {"seed", "steps"},
    "DCMGuider": {"cfg"},
    "DCMAttention": {"attention"},
}
SOCKETS = {"MODEL", "CONDITIONING", "LATENT", "SIGMAS", "DCM_EXPERT"}
SEARCHES = {
    "wan 2.2 two models": "DCMKSampler",
    "high low noise": "DCMKSampler",
    "lightning": "DCMSigmas",
    "load diffusion model": "DCMLoadBackbone",
    "frozen motion": "DCMMotion",
    "style lora": "DCMLora",
}


@pytest.fixture
def this():
    return world("wan")


@pytest.mark.parametrize("name", FIRST_CHOICES)
def test_all_but_the_first_choices_are_folded(name):
    """In what the host tells the page."""
    told = dcm_node(name).INPUT_TYPES()
    told = told.get("required", {}) | told.get("optional", {})
    widgets = {each: options for each, (kind, options) in told.items() if kind not in SOCKETS}
    assert {each for each, options in widgets.items() if not options.get("advanced")} == FIRST_CHOICES[name]


def test_a_sampler_names_the_folded_settings_of_its_run(this):
    def info(**options):
        texts = this.text(0), this.text(1)
        return dcm_node("DCMKSampler").execute(this.applied(), 0, 4, 1.0, *texts, empty_latent(), **options)[1]

    assert "set:" not in info()
    first = info(sampler_name="lcm", detail_cfg=0.5, add_noise=False).splitlines()[0]
    assert first.endswith("; set: sampler_name lcm, detail_cfg 0.5, add_noise False")


def test_the_other_nodes_name_theirs(this):
    model, texts = this.applied(), (this.text(0), this.text(1))
    done = {
        "kappa 0.95, bf16_timestep True": lambda: dcm_node("DCMApplyExperts").execute(
            this.model(), this.detail, this.semantic, kappa=0.95, bf16_timestep=True
        ),
        "semantic_steps 1": lambda: dcm_node("DCMSigmas").execute(model, 4, semantic_steps=1),
        "detail_cfg 1.5": lambda: dcm_node("DCMGuider").execute(model, *texts, detail_cfg=1.5),
    }
    for settings, run in done.items():
        assert run()[1].splitlines()[0].endswith(f"; set: {settings}")


def test_a_loader_names_its_precision(tmp_path, monkeypatch, caplog, this):
    path = tmp_path / "wan.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in this.network.state_dict().items()}, path)
    monkeypatch.setattr(node, "backbone_path", lambda name: str(path))
    node.DCMLoadBackbone.GET_SCHEMA()  # as the host does before it runs a node
    monkeypatch.setattr(node, "backbone_names", None)  # the folder is not listed again
    caplog.set_level("INFO", logger="DCM")
    node.DCMLoadBackbone.execute("wan.safetensors", "fp8_e4m3fn")
    assert caplog.messages[-1].endswith("; set: weight_dtype fp8_e4m3fn")


@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_finds_its_node(search):
    """In newer pages, which look at these words too."""
    assert search in dcm_node(SEARCHES[search]).define_schema().search_aliases
