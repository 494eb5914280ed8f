// Opens one workflow on the host's real page, runs it, and looks at its DCM nodes.
//
//   node nodes.mjs '{"address": "127.0.0.1:8188", "browser": "/usr/bin/chromium", "file": "shapes.json",
//                    "modern": true}'
//
// "modern" is the page's own canvas of DOM elements (Nodes 2.0), else the drawn one. Prints one line of JSON: the
// `prompt` that was sent, the `end` of the run, the words of the nodes' lines that were `broken` over two lines, for
// each kind of node its `widgets` that are shown and the number of its `pictures`, and the `templates` of each pack as
// the page lists them.

import { withBrowser } from "./chromium.mjs";
import { load, openPage, run } from "./host_page.mjs";

// The lines of a node stand in elements of which the page lets any letter begin a new line.
const broken = (page) =>
  page.evaluate(() => {
    const words = [];
    for (const line of document.querySelectorAll(".break-all span")) {
      const texts = document.createTreeWalker(line, NodeFilter.SHOW_TEXT);
      while (texts.nextNode()) {
        for (const word of texts.currentNode.data.matchAll(/\S+/g)) {
          const range = document.createRange();
          range.setStart(texts.currentNode, word.index);
          range.setEnd(texts.currentNode, word.index + word[0].length);
          const lines = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
          if (lines.size > 1) words.push(word[0]);
        }
      }
    }
    return words;
  });

const nodes = (page, modern) =>
  page.evaluate((modern) => {
    const labels = (node) =>
      modern
        ? [...document.querySelectorAll(`[data-node-id="${node.id}"] [data-testid="widget-layout-field-label"]`)].map(
            (label) => label.innerText,
          )
        : node.widgets
            .filter((widget) => node.isWidgetVisible(widget) && !widget.name.startsWith("$$")) // the page's own
            .map((widget) => widget.name);
    const ours = window.app.graph.nodes.filter((node) => node.type.startsWith("DCM"));
    return Object.fromEntries(
      ours.map((node) => [node.type, { widgets: labels(node), pictures: node.imgs?.length ?? 0 }]),
    );
  }, modern);

async function main() {
  const job = JSON.parse(process.argv[2]);
  const seen = await withBrowser(job.browser, { viewport: { width: 2560, height: 1280 } }, async (context) => {
    const page = await openPage(context, job.address, job.modern);
    await load(page, job.file);
    const { output } = await page.evaluate(() => window.app.graphToPrompt());
    const end = await run(page);
    const templates = await page.evaluate(() => window.app.api.getWorkflowTemplates());
    return { prompt: output, end, broken: await broken(page), nodes: await nodes(page, job.modern), templates };
  });
  console.log(JSON.stringify(seen));
}

await main();
