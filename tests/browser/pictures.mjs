// Takes pictures of the pack's nodes on the host's real page.
//
//   node pictures.mjs '{"address": "127.0.0.1:8188", "browser": "/usr/bin/chromium",
//                       "files": ["shapes.json"], "folder": "pictures"}'
//
// Of the nodes in "files" after a run, with what they say and show; of all others as they come from the menu. Leaves
// NODE.png in "folder" and prints one line of JSON: the nodes.

import path from "node:path";
import { withBrowser } from "./chromium.mjs";
import { load, openPage, run } from "./host_page.mjs";

const EDGE = 14; // pixels beside a node: its sockets stand out

const ours = (page) =>
  page.evaluate(() => window.app.graph.nodes.filter((node) => node.type.startsWith("DCM")).map(({ type, id }) => [type, id]));

// Alone in the view, without groups and links, and no larger than what is in it.
async function picture(page, id, file) {
  await page.evaluate((id) => {
    const { graph, canvas } = window.app;
    const node = graph.getNodeById(id);
    for (const group of [...graph.groups]) graph.remove(group);
    for (const [place, other] of graph.nodes.entries()) other.pos = [4000 * (place + 1), 4000];
    node.pos = [0, 0];
    node.setSize([300, 40]);
    canvas.links_render_mode = window.LiteGraph.HIDDEN_LINK;
    canvas.ds.scale = 1;
    canvas.ds.offset = [500, 150];
    canvas.setDirty(true, true);
  }, id);
  await page.waitForTimeout(1000);
  const box = await page.locator(`[data-node-id="${id}"]`).boundingBox();
  const clip = { x: box.x - EDGE, y: box.y - EDGE, width: box.width + 2 * EDGE, height: box.height + 2 * EDGE };
  await page.screenshot({ path: file, clip });
}

async function main() {
  const job = JSON.parse(process.argv[2]);
  const options = { viewport: { width: 1400, height: 1100 }, deviceScaleFactor: 1.5 };
  const done = await withBrowser(job.browser, options, async (context) => {
    const page = await openPage(context, job.address, true);
    const done = [];
    const take = async () => {
      for (const [type, id] of await ours(page)) {
        if (done.includes(type)) continue;
        await picture(page, id, path.join(job.folder, `${type}.png`));
        done.push(type);
      }
    };
    for (const file of job.files) {
      await load(page, file);
      await run(page);
      await take();
    }
    await page.evaluate((done) => {
      const { graph } = window.app;
      graph.clear();
      const types = window.LiteGraph.registered_node_types;
      const bare = Object.keys(types).filter((type) => types[type].nodeData?.category === "DCM" && !done.includes(type));
      for (const type of bare) graph.add(window.LiteGraph.createNode(type));
    }, done);
    await take();
    return done;
  });
  console.log(JSON.stringify(done));
}

await main();
