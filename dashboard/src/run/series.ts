// From what the steps of a run recorded to the lines of its charts. Pure functions.
import type { RunEvent, Step } from "../api/client";

export type Point = [number, number];
export type Line = { name: string; points: Point[]; band?: [number, number, number][]; dashed?: boolean };
export type Mark = { step: number; what: "edit" | "pause" | "failure" | "alarm"; text: string };

/** Exponential moving average without the pull of its start: each value is the weighted mean of those so far. */
export function smoothed(points: Point[], weight: number): Point[] {
  let sum = 0;
  let total = 0;
  return points.map(([step, value]) => {
    sum = weight * sum + value;
    total = weight * total + 1;
    return [step, sum / total];
  });
}

/** Wilson's 95 % interval of a share `p` of `n`. */
export function wilson(p: number, n: number): [number, number] {
  if (n <= 0) return [0, 1];
  const z2 = 1.959964 ** 2;
  const middle = (p + z2 / (2 * n)) / (1 + z2 / n);
  const half = (1.959964 / (1 + z2 / n)) * Math.sqrt((p * (1 - p)) / n + z2 / (4 * n * n));
  return [Math.max(0, middle - half), Math.min(1, middle + half)];
}

export const line = (name: string, steps: Step[], value: (step: Step) => number | null | undefined, rest: Partial<Line> = {}): Line => ({
  name,
  points: steps.flatMap((step): Point[] => {
    const y = value(step);
    return y == null || !Number.isFinite(y) ? [] : [[step.step, y]];
  }),
  ...rest,
});

const total = (step: Step) => Object.values(step.outcomes).reduce((sum, count) => sum + count, 0);
const share = (part: number | null | undefined, whole: number) => (part == null || !whole ? null : part / whole);

/** Accuracy by split, each with the interval that its number of problems allows at most. */
export function accuracy(steps: Step[]): Line[] {
  const splits = [...new Set(steps.flatMap((step) => Object.keys(step.evaluation)))].sort();
  return splits.map((split) => ({
    ...line(split, steps, (step) => step.evaluation[split]?.pass_rate),
    band: steps.flatMap((step): [number, number, number][] => {
      const score = step.evaluation[split];
      return score ? [[step.step, ...wilson(score.pass_rate, score.problems)]] : [];
    }),
  }));
}

export const rollouts = total;
export const truncatedShare = (step: Step) => share(step.truncated, total(step));
export const infraShare = (step: Step) => share(step.outcomes.infra_error ?? 0, total(step));
export const meanTokens = (step: Step) => share(step.tokens, total(step));

/** Where something happened to a run: people's edits, pauses, failures, alarms; each at the step in progress. */
export function marks(events: RunEvent[]): Mark[] {
  const found: Mark[] = [];
  let at = 1;
  for (const event of events) {
    const told = event.payload as Record<string, unknown>;
    const step = typeof told.step === "number" ? told.step : at;
    if (event.type === "step.completed") at = Number(told.step) + 1;
    else if (event.type === "memory.edited") found.push({ step, what: "edit", text: `${String(told.edits)} memory edit${told.edits === 1 ? "" : "s"} by people took effect` });
    else if (event.type === "memory.deleted") found.push({ step: at, what: "edit", text: "the memory was deleted" });
    else if (event.type === "run.status" && (told.status === "paused" || told.status === "failed"))
      found.push({ step: at, what: told.status === "paused" ? "pause" : "failure", text: `${told.status}${told.error ? `: ${String(told.error)}` : ""}` });
    else if (event.type === "phase.failed") found.push({ step, what: "failure", text: `${String(told.name)} failed: ${String(told.error)}` });
    else if (event.type === "run.alarm") found.push({ step, what: "alarm", text: String(told.message) });
  }
  return found;
}

export const SERVICES = ["rollout", "verifier", "memory", "trainer"];

/** The service that works on a phase. */
export function serviceOf(phase: string): string {
  if (phase === "train") return "trainer";
  if (phase.endsWith("verify")) return "verifier";
  return ["rollout", "probe", "evaluate", "publish"].includes(phase) ? "rollout" : "memory";
}

/** Seconds by phase of each step, phases in the order that they first come in. */
export function phaseSeconds(steps: Step[]): { names: string[]; rows: { step: number; seconds: Record<string, number> }[] } {
  const names = [...new Set(steps.flatMap((step) => Object.keys(step.seconds)))];
  return { names, rows: steps.map((step) => ({ step: step.step, seconds: step.seconds })) };
}
