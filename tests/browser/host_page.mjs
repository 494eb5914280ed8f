// ComfyUI's page with a workflow: opened on either of its canvases, and run.

import { readFileSync } from "node:fs";

const PAGE_MS = 120_000;

// "modern" is the canvas of DOM elements (Nodes 2.0), else the drawn one.
export async function openPage(context, address, modern) {
  const page = await context.newPage();
  page.setDefaultTimeout(PAGE_MS);
  const settings = { "Comfy.TutorialCompleted": true, "Comfy.VueNodes.Enabled": modern };
  for (const [name, value] of Object.entries(settings))
    await page.request.post(`http://${address}/settings/${name}`, { data: JSON.stringify(value) });
  await page.goto(`http://${address}/`);
  await page.waitForFunction(() => window.app?.graph && window.app.canvas);
  await page.waitForTimeout(1000);
  return page;
}

export async function load(page, file) {
  await page.evaluate((graph) => window.app.loadGraphData(graph), JSON.parse(readFileSync(file, "utf8")));
  await page.waitForTimeout(1000);
}

// Returns the event that ended the run.
export async function run(page) {
  const ending = page.evaluate(
    () =>
      new Promise((resolve) => {
        for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
          window.app.api.addEventListener(kind, () => resolve(kind));
      }),
  );
  await page.evaluate(() => window.app.queuePrompt(0, 1));
  const end = await ending;
  await page.waitForTimeout(2000); // pictures and texts arrive after the event
  return end;
}
