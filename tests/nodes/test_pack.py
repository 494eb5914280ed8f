"""The pack as the host imports it."""

import asyncio

import dcm_pack

NODE_IDS = [
    *("DCMLoadBackbone", "DCMLoadExpert", "DCMApplyExperts", "DCMBake"),
    *("DCMSigmas", "DCMKSampler", "DCMGuider", "DCMMotion", "DCMShapes", "DCMAttention", "DCMLora"),
]


def test_entry_point_lists_the_nodes_by_their_final_ids():
    async def nodes():
        extension = dcm_pack.comfy_entrypoint()
        extension = await extension if asyncio.iscoroutine(extension) else extension
        return await extension.get_node_list()

    assert sorted(node.define_schema().node_id for node in asyncio.run(nodes())) == sorted(NODE_IDS)
