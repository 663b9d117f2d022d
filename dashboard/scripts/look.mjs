// Looks at a running dashboard as people do: every view at two widths, light and dark; and its dialogs; says what the console
// and axe-core complain of. Usage: node scripts/look.mjs URL TOKEN FOLDER [RUN] [VIEW..]; needs a Chromium (CHROMIUM names another).
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const [url, token, folder, wanted, ...only] = process.argv.slice(2);
const executablePath = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find((path) => path && existsSync(path));
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const ask = async (path) => {
  const answer = await fetch(url + path, { headers: { Authorization: `Bearer ${token}` } });
  return answer.ok ? answer.json() : null;
};

const runs = await ask("/v1/runs?limit=100");
const run = wanted || runs?.[0]?.id;
const views = { runs: "/", system: "/system" };
if (run) {
  const at = `/runs/${run}`;
  Object.assign(views, { curves: at, timeline: `${at}/timeline`, recipe: `${at}/recipe`, log: `${at}/log`, rollouts: `${at}/rollouts`, memory: `${at}/memory?level=insight`, inbox: `${at}/inbox` });
  const rollouts = await ask(`/v1/runs/${run}/rollouts?limit=1`);
  const row = rollouts?.rollouts?.[0];
  if (row) Object.assign(views, { rollout: `${at}/rollouts?rollout=${encodeURIComponent(row.id)}`, problem: `${at}/problems/${row.problem_id}` });
  const item = (await ask(`/v1/runs/${run}/memory?level=insight&limit=1`))?.items?.[0];
  if (item) views.item = `${at}/memory/${item.id}`;
  if (runs.length > 1) views.compare = `/compare?run=${runs[0].id}&run=${runs[1].id}`;
}

/** What opens over a view, and by which buttons. */
const press = (page, name) => page.getByRole("button", { name }).first().click();
const dialogs = {
  runs: { keys: (page) => press(page, "Show keys"), request: (page) => press(page, /Copy this view/) },
  curves: { cancel: async (page) => { if (await page.getByRole("button", { name: "Cancel" }).count()) await press(page, "Cancel"); } },
  memory: {
    merge: async (page) => {
      for (const box of (await page.getByLabel(/^Choose /).all()).slice(0, 2)) await box.check();
      await press(page, /^Merge/);
    },
  },
  rollout: { together: (page) => page.getByText("side by side").first().click() },
};

mkdirSync(folder, { recursive: true });
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
let bad = 0;
const complain = (what) => {
  bad += 1;
  console.log(what);
};
try {
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [1440, 390]) {
      const context = await browser.newContext({ viewport: { width, height: width > 500 ? 900 : 844 }, colorScheme, hasTouch: width < 500, reducedMotion: "reduce" });
      const page = await context.newPage();
      page.setDefaultTimeout(60_000);
      let view = "sign-in";
      let entering = true;
      page.on("console", (message) => {
        const of401 = entering && message.text().includes("401"); // how the page learns that nobody is signed in
        if (["error", "warning"].includes(message.type()) && !of401) complain(`${view} ${width} ${colorScheme}: console: ${message.text()}`);
      });
      page.on("pageerror", (error) => complain(`${view} ${width} ${colorScheme}: ${error}`));
      const look = async () => {
        await page.waitForFunction(() => !document.querySelector('[aria-label="Loading"], .mantine-Skeleton-root'), undefined, { timeout: 60_000 }).catch(() => complain(`${view} ${width}: still loading`));
        await page.waitForTimeout(250);
        await page.screenshot({ path: `${folder}/${view}-${width}-${colorScheme}.png`, fullPage: true });
        await page.evaluate(axe);
        const found = await page.evaluate(() => window.axe.run({ resultTypes: ["violations"] }));
        for (const each of found.violations) {
          const text = `${view} ${width} ${colorScheme}: axe ${each.impact}: ${each.id}: ${each.help} (${each.nodes.length}): ${each.nodes[0].html.slice(0, 160)} ${each.nodes[0].any[0]?.message ?? ""}`;
          if (["serious", "critical"].includes(each.impact)) complain(text);
          else console.log(`minor: ${text}`);
        }
        const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        if (over > 1) complain(`${view} ${width} ${colorScheme}: ${over} px wider than the window`);
      };
      await page.goto(url + "/", { waitUntil: "load" });
      await page.locator('input[type="password"]').waitFor();
      if (!only.length) await look();
      await page.locator('input[type="password"]').fill(token);
      await page.getByRole("button", { name: "Sign in" }).click();
      await page.getByRole("heading", { name: "Runs", exact: true }).waitFor();
      entering = false;
      for (const [name, path] of Object.entries(views)) {
        if (only.length && !only.includes(name)) continue;
        view = name;
        await page.goto(url + path, { waitUntil: "load" });
        await page.locator("main h1, main h2").first().waitFor().catch(() => complain(`${view} ${width}: no heading`));
        await look();
        for (const [dialog, open] of Object.entries(only.length ? {} : (dialogs[name] ?? {}))) {
          view = `${name}-${dialog}`;
          await open(page).catch((error) => complain(`${view} ${width}: ${error}`));
          await look();
          await page.keyboard.press("Escape");
          await page.waitForTimeout(250);
        }
      }
      await context.close();
    }
  }
} finally {
  await browser.close();
}
console.log(bad ? `${bad} complaints` : "no complaints");
process.exitCode = bad ? 1 : 0;
