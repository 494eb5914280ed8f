// Drives the host's real page in a headless Chromium.
//
//   node page.mjs '{"address": "127.0.0.1:8188", "browser": "/usr/bin/chromium",
//                   "files": ["shapes.json"], "run": ["shapes"], "screenshots": "folder",
//                   "sizes": [[1366, 768]], "pictures": false}'
//
// Drops each file on the canvas as a user would and notes the node types the page does not know, what it
// complains about, and the prompt it would send. For those named in "run" it presses the queue button, waits
// for the end, and notes the texts on the nodes and how the nodes lie then. Then measures how each lies on the page
// at the sizes. Leaves one picture per file, or with "pictures" one more of each at each size, and prints one line
// of JSON: name -> what was seen.

import { readFileSync } from "node:fs";
import path from "node:path";
import { withBrowser } from "./chromium.mjs";
import { look, measureLayouts } from "./layout.mjs";

const PAGE_MS = 120_000;
const RUN_MS = 120_000;

async function openPage(context, address) {
  const page = await context.newPage();
  page.setDefaultTimeout(PAGE_MS);
  // No welcome dialog: it opens at a moment of its own, in front of whatever is going on.
  await page.request.post(`http://${address}/settings/Comfy.TutorialCompleted`, { data: "true" });
  await page.goto(`http://${address}/`);
  await page.waitForFunction(() => window.app?.graph && window.app.canvas);
  await page.waitForTimeout(1000);
  await page.evaluate(() => {
    window.heard = [];
    for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
      window.app.api.addEventListener(kind, (event) => window.heard.push([kind, event.detail]));
  });
  return page;
}

// Models to download, error reports: whatever stands in front of the page, in older and newer frontends.
async function closeDialogs(page) {
  const overlay = page.locator('.p-dialog-mask, [data-testid="dialog-overlay"]');
  for (let tries = 0; tries < 20 && (await overlay.count()); tries++) {
    await page.keyboard.press("Escape");
    await page.waitForTimeout(300);
  }
}

async function drop(page, file) {
  const text = readFileSync(file, "utf8");
  await page.evaluate(() => window.app.graph.clear());
  await page.evaluate(
    ([text, name]) => {
      const data = new DataTransfer();
      data.items.add(new File([text], name, { type: "application/json" }));
      const canvas = document.querySelector("#graph-canvas");
      for (const kind of ["dragenter", "dragover", "drop"])
        canvas.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
    },
    [text, path.basename(file)],
  );
  const expected = JSON.parse(text).nodes.length;
  await page.waitForFunction((count) => window.app.graph.nodes.length === count, expected);
  await page.waitForTimeout(500);
}

const inspect = (page) =>
  page.evaluate(async () => {
    const known = window.LiteGraph.registered_node_types;
    const types = window.app.graph.nodes.map((node) => node.type);
    const { output } = await window.app.graphToPrompt();
    return {
      missing: types.filter((type) => !(type in known)),
      types,
      alerts: [...document.querySelectorAll(".p-toast-message, .p-dialog")].map((box) => box.innerText),
      prompt: output,
    };
  });

async function run(page) {
  await page.evaluate(() => (window.heard.length = 0));
  for (let tries = 0; ; tries++) {
    await closeDialogs(page);
    try {
      await page.click('[data-testid="queue-button"]', { timeout: 5000 });
      break;
    } catch (error) {
      if (tries === 5) throw error; // on a busy machine a dialog may open that late
    }
  }
  try {
    await page.waitForFunction(() => window.heard.length > 0, null, { timeout: RUN_MS });
  } catch {
    return [["no end in sight", await page.evaluate(() => window.app.lastNodeErrors)]];
  }
  await page.waitForTimeout(2000); // pictures and the video arrive after the event
  return page.evaluate(() => window.heard);
}

const shown = (page) =>
  page.evaluate(() =>
    window.app.graph.nodes
      .flatMap((node) => (node.widgets ?? []).map((widget) => widget.value))
      .filter((value) => typeof value === "string")
      .join("\n"),
  );

async function main() {
  const job = JSON.parse(process.argv[2]);
  // Zoomed out further, the page leaves the text away.
  const size = { width: 2560, height: 1280 };
  const seen = await withBrowser(job.browser, { viewport: size }, async (context) => {
    const page = await openPage(context, job.address);
    const seen = {};
    for (const file of job.files) {
      const name = path.basename(file, ".json");
      await drop(page, file);
      seen[name] = await inspect(page);
      if (job.run.includes(name) && !seen[name].missing.length)
        Object.assign(seen[name], { heard: await run(page), shown: await shown(page), after: await page.evaluate(look) });
      await closeDialogs(page);
      await page.screenshot({ path: path.join(job.screenshots, `${name}.png`) });
    }
    for (const [name, layouts] of Object.entries(await measureLayouts(page, job))) seen[name].layouts = layouts;
    return seen;
  });
  console.log(JSON.stringify(seen));
}

await main();
