"""The server starts with the pack and shows its nodes."""

NODE_IDS = [
    *("DCMLoadBackbone", "DCMLoadExpert", "DCMApplyExperts", "DCMBake"),
    *("DCMSigmas", "DCMKSampler", "DCMGuider", "DCMShapes"),
]


def test_server_offers_the_nodes(client):
    for node_id in NODE_IDS:
        described = client.get_json(f"/object_info/{node_id}")[node_id]
        assert described["category"] == "DCM"
        assert described["description"]


def test_every_input_and_output_has_a_tooltip(client):
    missing = []
    for node_id in NODE_IDS:
        described = client.get_json(f"/object_info/{node_id}")[node_id]
        inputs = described["input"].get("required", {}) | described["input"].get("optional", {})
        missing += [f"{node_id}.{name}" for name, (_, options) in inputs.items() if not options.get("tooltip")]
        tooltips = described["output_tooltips"]
        missing += [f"{node_id} output {i}" for i, tooltip in enumerate(tooltips) if not tooltip]
    assert not missing


def test_nothing_of_the_pack_failed_while_loading(server):
    log = server.log.read_text(errors="replace")
    assert "IMPORT FAILED" not in log
    assert "Cannot import" not in log


def test_every_node_has_its_help_page(client, server):
    for node_id in NODE_IDS:
        page = client.get(f"/extensions/dcm-video/docs/{node_id}.md").decode()
        assert page.startswith("#")
        assert client.get(f"/extensions/dcm-video/docs/{node_id}.png").startswith(b"\x89PNG")
