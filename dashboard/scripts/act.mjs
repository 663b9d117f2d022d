// Does in a browser what people do, where something must not be lost: decisions by key, what was typed, a stream, a refusal.
// The page is that of the gateway at URL; its API is answered here, since no real one conflicts, ends and refuses on demand.
// Usage: node scripts/act.mjs URL; needs a Chromium (CHROMIUM names another).
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const url = process.argv[2];
const executablePath = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find((path) => path && existsSync(path));
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const run = (id, rest = {}) => ({ id, name: id, method: "pmd", status: "running", step: 1, steps: 4, created: 1, phases: [], warnings: [], waiting: null, error: null, latest: null, ...rest });
const item = (version, text) => ({ id: "i", level: "insight", kind: "lesson", status: "active", text, version, step: 1, problem_id: null, topic: "sums", pinned: true, edited: false, note: "" });
const proposal = (id) => ({ id, item_id: "i", item_version: 3, action: "replace", text: `new words of ${id}`, reason: "why", step: 1, actor: "r@1", status: "open", seq: 1, decided_by: null, facts: {} });
const refusal = (status, title) => ({ status, contentType: "application/problem+json", body: JSON.stringify({ title, status }) });
const log = (...types) => types.map((type, n) => `id: ${n + 1}\nevent: ${type}\ndata: ${JSON.stringify({ seq: n + 1, ts: 1, type, payload: { status: "failed" } })}\n\n`).join("");

/** Opens a page whose API gives what `answers` says, by method and path; `sent` is what it was asked. */
async function opened(browser, answers) {
  const page = await (await browser.newContext({ reducedMotion: "reduce" })).newPage();
  page.setDefaultTimeout(15_000);
  const sent = [];
  await page.route("**/v1/**", async (route) => {
    const asked = route.request();
    const { pathname, search } = new URL(asked.url());
    const name = `${asked.method()} ${pathname}`;
    sent.push({ name, search, seen: asked.headers()["if-match"], body: asked.postDataJSON() });
    const known = { "GET /v1/runs": [run("r")], "GET /v1/curves": [], "GET /v1/runs/r": run("r"), "GET /v1/runs/r/memory/i": { item: item(3, "old words"), history: [] }, ...answers };
    const said = typeof known[name] === "function" ? await known[name](asked) : known[name];
    if (name.endsWith("/events") && said === undefined) return; // a stream on which nothing happens
    if (said === undefined) return route.fulfill(refusal(404, `nothing is at ${name}`));
    return route.fulfill(said.status >= 200 && (said.body !== undefined || said.headers) ? said : { json: said });
  });
  return { page, sent, asked: (name) => sent.filter((each) => each.name === name) };
}

const PROPOSALS = "GET /v1/runs/r/bank/proposals";
const ACCEPT = "POST /v1/runs/r/bank/proposals/p1:accept";
const twoProposals = { [PROPOSALS]: { proposals: [proposal("p1"), proposal("p2")], next: null } };

const acts = {
  "g r goes to the runs and declines nothing": async (browser) => {
    const { page, sent } = await opened(browser, twoProposals);
    await page.goto(`${url}/runs/r/inbox`);
    await page.getByText("p1").first().waitFor();
    await page.keyboard.press("g");
    await page.keyboard.press("r");
    await page.getByRole("heading", { name: "Runs", exact: true }).waitFor();
    assert.deepEqual(sent.filter(({ name }) => name.startsWith("POST")), []);
  },
  "a proposal is accepted for the version that was shown, and a change in between is said": async (browser) => {
    let now = item(3, "old words");
    const { page, asked } = await opened(browser, { ...twoProposals, "GET /v1/runs/r/memory/i": () => ({ item: now, history: [] }), [ACCEPT]: refusal(412, "item i is at version 4") });
    await page.goto(`${url}/runs/r/inbox`);
    await page.getByText("old").first().waitFor();
    now = item(4, "words of somebody");
    await page.keyboard.press("a");
    await page.getByText("Somebody was faster").waitFor();
    await page.getByText("the memory is at 4").first().waitFor();
    assert.deepEqual(asked(ACCEPT).map(({ seen }) => seen), ['"3"']);
  },
  "keys decide what is framed, when another proposal comes on top; and a held key decides once": async (browser) => {
    let open = [proposal("p1"), proposal("p2"), proposal("p3")];
    const answers = { [PROPOSALS]: () => ({ proposals: open, next: null }) };
    for (const id of ["p0", "p1", "p2", "p3"]) answers[`POST /v1/runs/r/bank/proposals/${id}:reject`] = () => {
      open = [proposal("p0"), ...open.filter((each) => each.id !== id && each.id !== "p0")];
      return proposal(id);
    };
    const { page, sent } = await opened(browser, answers);
    await page.goto(`${url}/runs/r/inbox`);
    await page.getByText("p1").first().waitFor();
    await page.keyboard.press("j");
    for (const _ of [1, 2, 3]) {
      await page.keyboard.down("r");
      await page.waitForTimeout(400);
    }
    await page.keyboard.up("r");
    await page.getByText("p0").first().waitFor();
    const declined = () => sent.flatMap(({ name }) => /proposals\/(p\d):reject/.exec(name)?.[1] ?? []);
    assert.deepEqual(declined(), ["p2"]);
  },
  "proposals and a conflict are without a serious fault by axe": async (browser) => {
    let version = 3;
    const { page } = await opened(browser, { ...twoProposals, "GET /v1/runs/r/memory/i": () => ({ item: item(version, `words of version ${version}`), history: [] }), "PATCH /v1/runs/r/memory/i": refusal(412, "it has changed") });
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      for (const view of ["inbox", "memory/i"]) {
        await page.goto(`${url}/runs/r/${view}`);
        if (view === "inbox") await page.getByText("why").first().waitFor();
        else {
          await page.getByLabel("What it says").fill(`mine ${colorScheme}`);
          version += 1;
          await page.getByRole("button", { name: "Save" }).click();
          await page.getByText(`It is at version ${version} by now`).waitFor();
        }
        await page.evaluate(axe);
        const { violations } = await page.evaluate(() => window.axe.run({ resultTypes: ["violations"] }));
        assert.deepEqual(violations.filter(({ impact }) => ["serious", "critical"].includes(impact)).map(({ id, nodes }) => `${view} ${colorScheme}: ${id}: ${nodes[0].html.slice(0, 200)}`), []);
        if (view !== "inbox") await page.getByRole("button", { name: "Discard" }).click();
      }
    }
  },
  "what was typed outlives a conflict, a reload and a session that ended": async (browser) => {
    let now = item(3, "old words");
    let answer = refusal(412, "item i is at version 4");
    const { page, asked } = await opened(browser, {
      "GET /v1/runs/r/memory/i": () => ({ item: now, history: [] }), "PATCH /v1/runs/r/memory/i": () => answer, "POST /v1/session": { status: 204, body: "" },
    });
    await page.goto(`${url}/runs/r/memory/i`);
    const box = page.getByLabel("What it says");
    await box.fill("my words");
    now = item(4, "their words");
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByText("It is at version 4 by now; you began with 3").waitFor();
    assert.equal(await box.inputValue(), "my words");
    await page.reload();
    await page.getByText("It is at version 4 by now; you began with 3").waitFor();
    assert.equal(await box.inputValue(), "my words");
    await page.getByRole("button", { name: "Keep my text" }).click();
    answer = refusal(401, "sign in");
    await page.getByRole("button", { name: "Save" }).click();
    await page.locator('input[type="password"]').fill("token");
    await page.getByRole("button", { name: "Sign in" }).click();
    await box.waitFor();
    assert.equal(await box.inputValue(), "my words");
    assert.deepEqual(asked("PATCH /v1/runs/r/memory/i").map(({ seen }) => seen), ['"3"', '"4"']);
  },
  "what is typed while it is saved stays": async (browser) => {
    let save;
    const saving = new Promise((done) => { save = done; });
    let now = item(3, "old words");
    const { page } = await opened(browser, {
      "GET /v1/runs/r/memory/i": () => ({ item: now, history: [] }),
      "PATCH /v1/runs/r/memory/i": async () => { await saving; return (now = item(4, "my words")); },
    });
    await page.goto(`${url}/runs/r/memory/i`);
    const box = page.getByLabel("What it says");
    await box.fill("my words");
    await page.getByRole("button", { name: "Save" }).click();
    await box.press("End");
    await box.pressSequentially(", and more");
    save();
    await page.getByText("Saved.").waitFor();
    assert.equal(await box.inputValue(), "my words, and more");
  },
  "a link that is used up, and a sign-out that failed, are said": async (browser) => {
    const { page } = await opened(browser, { "POST /v1/session": refusal(401, "this code was used"), "DELETE /v1/session": refusal(503, "the gateway stops") });
    await page.goto(`${url}/#code=x`);
    await page.getByText("this code was used").waitFor();
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByText("the gateway stops").waitFor();
  },
  "the stream of a run that was resumed elsewhere is opened again": async (browser) => {
    let now = run("r", { status: "failed", error: "no memory left" });
    const { page } = await opened(browser, {
      "GET /v1/runs/r": () => now,
      "GET /v1/runs/r/events": (request) => (request.url().includes("after=0") ? { status: 200, contentType: "text/event-stream", body: log("run.status", "run.ended") } : undefined),
    });
    await page.goto(`${url}/runs/r/log`);
    await page.getByText("run.ended").waitFor();
    await page.getByText("Failed", { exact: true }).waitFor();
    now = run("r");
    await page.waitForRequest((request) => request.url().endsWith("/events?after=2"));
  },
  "a run that was cancelled has not failed": async (browser) => {
    const { page } = await opened(browser, { "GET /v1/runs/r": run("r", { status: "cancelled", error: "the lead is gone" }) });
    await page.goto(`${url}/runs/r/log`);
    await page.getByText("the lead is gone").waitFor();
    assert.equal(await page.getByText("Failed", { exact: true }).count(), 0);
  },
  "runs of every page are listed": async (browser) => {
    const { page } = await opened(browser, {
      "GET /v1/runs": (request) => request.url().includes("after=first") ? [run("second")] : { status: 200, contentType: "application/json", headers: { Link: '</v1/runs?after=first>; rel="next"' }, body: JSON.stringify([run("first")]) },
    });
    await page.goto(`${url}/`);
    await page.getByRole("link", { name: "second" }).waitFor();
    await page.getByRole("link", { name: "first" }).waitFor();
  },
  "Enter presses the button that has the focus": async (browser) => {
    const { page } = await opened(browser, {
      "GET /v1/runs/r/bank": { behavior: 0, insight: 0, experience: 0 }, "GET /v1/runs/r/memory": { items: [], next: null },
      "POST /v1/runs/r/bank:undo": { seq: 4, action: "edit", items: [] },
    });
    await page.goto(`${url}/runs/r/memory`);
    await page.getByRole("button", { name: "Undo" }).focus();
    await page.keyboard.press("Enter");
    await page.getByText("Undo the last act of a person?").waitFor();
  },
};

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
let failed = 0;
try {
  for (const [claim, act] of Object.entries(acts)) {
    try {
      await act(browser);
      console.log(`holds: ${claim}`);
    } catch (error) {
      failed += 1;
      console.log(`DOES NOT HOLD: ${claim}: ${error}`);
    }
  }
} finally {
  await browser.close();
}
process.exitCode = failed ? 1 : 0;
