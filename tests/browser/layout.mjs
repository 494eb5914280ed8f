// How a workflow lies on the page: its boxes, its links and the zoom it opens with.

import { readFileSync } from "node:fs";
import path from "node:path";

const SETTLE_MS = 500; // Nodes 2.0 mounts its boxes after the graph is there

// With a side panel open, in every canvas that the page has, at each of `job.sizes`: file stem -> canvas -> what
// `look` says, and `views`, one for each size. A picture of each when `job.pictures`.
export async function measureLayouts(page, job) {
  await set(page, "Comfy.Workflow.ShowMissingModelsWarning", false); // a dialog in front of every picture
  await page.evaluate(() => window.app.extensionManager.command.execute("Workspace.ToggleSidebarTab.workflows"));
  const seen = {};
  for (const canvas of await canvases(page)) {
    await set(page, "Comfy.VueNodes.Enabled", canvas === "nodes2");
    for (const file of job.files) {
      const name = path.basename(file, ".json");
      const workflow = JSON.parse(readFileSync(file, "utf8"));
      const views = [];
      for (const [width, height] of job.sizes) {
        await page.setViewportSize({ width, height });
        views.push(await open(page, workflow));
        if (!job.pictures) continue;
        await page.waitForTimeout(SETTLE_MS);
        await page.screenshot({ path: path.join(job.screenshots, `${name}-${canvas}-${width}x${height}.png`) });
      }
      await page.waitForTimeout(SETTLE_MS);
      seen[name] = { ...seen[name], [canvas]: { ...(await page.evaluate(look)), views } };
    }
  }
  return seen;
}

const set = (page, name, value) =>
  page.evaluate(([name, value]) => window.app.extensionManager.setting.set(name, value), [name, value]);

// Older pages have an unfinished Nodes 2.0 in them, which no setting offers.
const canvases = (page) =>
  page.evaluate(() => {
    const [major, minor] = window.__COMFYUI_FRONTEND_VERSION__.split(".").map(Number);
    return major > 1 || minor >= 40 ? ["classic", "nodes2"] : ["classic"];
  });

// As the list of templates opens it: the zoom and the one from which the page draws text, and in pixels where the side
// panel ends and the note begins.
const open = (page, workflow) =>
  page.evaluate(async (workflow) => {
    await window.app.loadGraphData(workflow, true, true, "measured", { openSource: "template" });
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    const { canvas } = window.app;
    const readable = canvas.min_font_size_for_lod / window.LiteGraph.NODE_TEXT_SIZE;
    const panel = document.querySelector(".side-bar-panel").getBoundingClientRect().right;
    const note = window.app.graph.nodes.find((node) => node.type === "MarkdownNote");
    const [x] = canvas.ds.convertOffsetToCanvas(note.pos);
    return { zoom: canvas.ds.scale, readable, panel, note: canvas.canvas.getBoundingClientRect().left + x };
  }, workflow);

// In the page: boxes, and the groups' by title, as [x, y, width, height] and links as [from, to, start, end], in the
// graph's own units.
export function look() {
  const { graph, canvas } = window.app;
  const { scale, offset } = canvas.ds;
  const box = (node) => {
    const element = window.LiteGraph.vueNodesMode && document.querySelector(`[data-node-id="${node.id}"]`);
    if (!element) return [...node.boundingRect];
    const { x, y, width, height } = element.getBoundingClientRect();
    return [x / scale - offset[0], y / scale - offset[1], width / scale, height / scale];
  };
  const links = [...graph.links.values()].map((link) => {
    const from = graph.getNodeById(link.origin_id);
    const to = graph.getNodeById(link.target_id);
    return [from.id, to.id, [...from.getOutputPos(link.origin_slot)], [...to.getInputPos(link.target_slot)]];
  });
  const titles = graph.nodes.map((node) => [node.id, node.title]);
  const boxes = graph.nodes.map((node) => [node.id, box(node)]);
  const groups = graph.groups.map((group) => [group.title, [...group.boundingRect]]);
  return {
    boxes: Object.fromEntries(boxes),
    groups: Object.fromEntries(groups),
    titles: Object.fromEntries(titles),
    links,
  };
}
