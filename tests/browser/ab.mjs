// Votes on an A/B page in a headless Chromium, as a reader would.
//
//   node ab.mjs '{"browser": "/usr/bin/chromium", "file": "ab.html", "folder": "folder"}'
//
// Leaves the downloaded votes and pictures in the folder and prints one line of JSON: what was seen on the way.

import { readFileSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { withBrowser } from "./chromium.mjs";

const text = (page) => page.innerText("body");
const times = (page) => page.evaluate(() => [...document.querySelectorAll("video")].map((video) => video.currentTime));
const label = (page) => page.innerText("#told");

async function vote(job, context) {
  const page = await context.newPage();
  const seen = { asked: [], errors: [] };
  page.on("pageerror", (error) => seen.errors.push(String(error)));
  page.on("request", (request) => {
    if (!/^(file|data|blob):/.test(request.url())) seen.asked.push(request.url());
  });
  const picture = (name) => page.screenshot({ path: path.join(job.folder, `${name}.png`), fullPage: true });
  await page.goto(pathToFileURL(job.file).href);
  await page.waitForFunction(() => [...document.querySelectorAll("video")].every((video) => video.readyState >= 3));

  await page.waitForTimeout(500);
  await page.evaluate(() => (document.querySelectorAll("video")[1].currentTime = 0)); // they are brought together again
  await page.waitForTimeout(700);
  seen.playing = await times(page);
  await page.click("#play");
  await page.click("#forth");
  await page.waitForTimeout(500);
  seen.stepped = await times(page);
  await page.check("#numbers");
  seen.numbersBefore = await page.isVisible("table");
  seen.below = await page.evaluate(() => document.querySelector(".votes").getBoundingClientRect().bottom - innerHeight);
  await picture("blind");
  seen.blind = (await text(page)) + (await page.content());

  await page.click('[data-vote="left"]');
  await page.keyboard.press("Control+3"); // the browser's
  await page.keyboard.down("2");
  await page.keyboard.down("2"); // held
  seen.held = await label(page);
  await page.click("#progress >> text=1");
  seen.numbers = await page.innerText("table >> nth=0");
  seen.readyEarly = await page.isVisible("#download.ready");
  await page.reload();
  seen.kept = await label(page);
  const other = await context.newPage();
  await other.goto(pathToFileURL(job.file).href);
  await page.bringToFront();
  await page.click('[data-vote="right"]');
  seen.all = await label(page);
  await other.waitForTimeout(300);
  seen.otherTab = await label(other);
  await other.close();
  await page.setViewportSize(PHONE);
  seen.tops = await page.evaluate(() => [...document.querySelectorAll("[data-vote]")].map((button) => button.offsetTop));
  seen.beside = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  await picture("phone");
  const download = page.waitForEvent("download");
  await page.click("#download");
  await (await download).saveAs(path.join(job.folder, "votes.json"));
  await picture("revealed");
  seen.revealed = await text(page);
  seen.final = await page.isDisabled('[data-vote="left"]');
  await page.reload();
  seen.later = await label(page);
  seen.votes = JSON.parse(readFileSync(path.join(job.folder, "votes.json"), "utf8"));
  return seen;
}

const job = JSON.parse(process.argv[2]);
const PHONE = { width: 390, height: 844 };
const options = { viewport: { width: 1366, height: 768 }, acceptDownloads: true };
console.log(JSON.stringify(await withBrowser(job.browser, options, (context) => vote(job, context))));
