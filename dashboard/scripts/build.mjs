// Builds the dashboard into the gateway's package: types from the contract, a check of them, the bundle, the licences of
// what is in it, and the hash of the sources by which a test knows that the built files are theirs.
import { createHash } from "node:crypto";
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(dirname(fileURLToPath(import.meta.url)));
const out = join(here, "..", "gateway", "dashboard");
const run = (tool, ...args) => execFileSync(join(here, "node_modules", ".bin", tool), args, { cwd: here, stdio: "inherit" });

/** What the built files depend on; tests/gateway/api/test_dashboard.py has the same list. */
const SOURCES = ["index.html", "openapi.json", "package-lock.json", "package.json", "public", "scripts/build.mjs", "src", "tsconfig.json", "vite.config.ts"];
const GENERATED = new Set(["src/api/schema.d.ts"]);

function* files(path) {
  if (!statSync(path).isDirectory()) yield path;
  else for (const name of readdirSync(path).sort()) yield* files(join(path, name));
}

function sourcesHash() {
  const hash = createHash("sha256");
  const names = SOURCES.flatMap((name) => [...files(join(here, name))]).map((path) => relative(here, path).split(sep).join("/"));
  for (const name of names.filter((each) => !GENERATED.has(each)).sort()) {
    hash.update(`${name}\0`).update(createHash("sha256").update(readFileSync(join(here, name))).digest("hex")).update("\n");
  }
  return hash.digest("hex");
}

function licences() {
  const lock = JSON.parse(readFileSync(join(here, "package-lock.json"), "utf8"));
  const parts = ["Licences of what is bundled in the dashboard. Written by `make dashboard`.\n"];
  for (const [path, about] of Object.entries(lock.packages).sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (!path || about.dev || about.optional) continue;
    const folder = join(here, path);
    if (!existsSync(folder)) continue;
    const file = readdirSync(folder).find((name) => /^licen[cs]e/i.test(name));
    const name = path.replace(/^.*node_modules\//, "");
    if (!about.license && !file) throw new Error(`${name} says no licence; leave it out`);
    parts.push(`${"-".repeat(80)}\n${name} ${about.version}: ${about.license ?? "see below"}\n`);
    if (file) parts.push(readFileSync(join(folder, file), "utf8").trim() + "\n");
  }
  return parts.join("\n");
}

run("openapi-typescript", "openapi.json", "-o", "src/api/schema.d.ts");
run("tsc");
run("vitest", "run");
rmSync(join(out, "assets"), { recursive: true, force: true });
run("vite", "build");
writeFileSync(join(out, "licences.txt"), licences());
writeFileSync(join(out, "sources.sha256"), sourcesHash() + "\n");
